"""One stream: what holds for any input (Hypothesis), and for any layout of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_oracles import (
    EPOCH,
    FLOAT32_ERROR,
    IMPLEMENTATIONS,
    MODES,
    WIDTH,
    align_row,
    assert_close,
    assert_same_bits,
    dense,
)

each_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)
each_mode = pytest.mark.parametrize("mode", MODES)
fuzzed = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def rows(draw, min_size=1, unique=False):
    """Stamps (close together, so that repeats and hits are common), values in float32, and targets."""
    ticks = st.integers(0, 40)
    times = sorted(draw(st.lists(ticks, min_size=min_size, max_size=24, unique=unique)))
    number = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
    values = draw(st.lists(number, min_size=len(times), max_size=len(times)))
    targets = sorted(draw(st.lists(st.integers(-5, 45), max_size=16)))
    return torch.tensor(times).long(), torch.tensor(values, dtype=torch.float32)[:, None], torch.tensor(targets).long()


def call(impl, mode, times, values, targets, **options):
    width = WIDTH.get(mode, 1)
    values = values.expand(-1, width) if values.shape[1] == 1 else values
    return impl.resample(values[None], times[None], targets[None], mode=mode, return_valid=True, **options)


@each_implementation
@pytest.mark.parametrize("mode", [m for m in MODES if m not in WIDTH])
@given(row=rows(min_size=0), max_gap=st.one_of(st.none(), st.integers(0, 12)))
@fuzzed
def test_any_row_has_the_oracles_answer(impl, mode, row, max_gap):
    times, values, targets = row
    if mode == "angle":
        values = values / 1000  # a few turns: beyond, float32 cannot tell which way round is shorter
    scale = float(values.abs().max()) if len(values) else 0.0
    expected, expected_valid = align_row(mode, times.numpy(), values.double().numpy(), targets.numpy(), max_gap)
    out, valid = call(impl, mode, times, values, targets, max_gap=max_gap)
    assert_close(out[0], torch.from_numpy(expected), mode, FLOAT32_ERROR[mode], scale)
    assert valid[0].tolist() == expected_valid.tolist()


@each_implementation
@given(rows())
@fuzzed
def test_linear_stays_between_its_neighbours(impl, row):
    out = call(impl, "linear", *row)[0][0, :, 0]
    low = call(impl, "previous", *row)[0][0, :, 0]
    high = call(impl, "next", *row)[0][0, :, 0]
    slack = 1e-6 * (low.abs() + high.abs())
    assert (out >= torch.minimum(low, high) - slack).all()
    assert (out <= torch.maximum(low, high) + slack).all()


@each_implementation
@given(rows(), st.sampled_from([m for m in MODES if m not in ("angle", "slerp", "pose")]))
@fuzzed
def test_own_stamps_give_own_values(impl, row, mode):
    times, values, _ = row
    last = torch.cat([times[1:] != times[:-1], torch.tensor([True])])
    out, valid = call(impl, mode, times, values, times[last])
    assert torch.equal(out[0], values[last])
    assert valid.all()


@each_implementation
@given(rows(), st.sampled_from(MODES), st.integers(-EPOCH, EPOCH))
@fuzzed
def test_a_common_clock_shift_changes_nothing(impl, row, mode, shift):
    times, values, targets = row
    assert_same_bits(call(impl, mode, times + shift, values, targets + shift), call(impl, mode, times, values, targets))


@each_implementation
@given(rows(), st.sampled_from(MODES), st.one_of(st.none(), st.integers(0, 12)))
@fuzzed
def test_only_the_last_of_equal_stamps_exists(impl, row, mode, max_gap):
    times, values, targets = row
    last = torch.cat([times[1:] != times[:-1], torch.tensor([True])])
    assert_same_bits(
        call(impl, mode, *row, max_gap=max_gap), call(impl, mode, times[last], values[last], targets, max_gap=max_gap)
    )


@each_implementation
@given(rows(unique=True), st.one_of(st.none(), st.integers(0, 12)))
@fuzzed
def test_next_is_previous_in_a_mirror(impl, row, max_gap):
    times, values, targets = row
    mirrored = call(impl, "previous", -times.flip(0), values.flip(0), -targets.flip(0), max_gap=max_gap)
    assert_same_bits(call(impl, "next", *row, max_gap=max_gap), [x.flip(1) for x in mirrored])


@each_implementation
@given(rows(min_size=2), st.floats(-8, 8, width=32), st.sampled_from(["linear", "cubic", "mean"]))
@fuzzed
def test_a_constant_stays_constant(impl, row, constant, mode):
    times, values, targets = row
    out, _ = call(impl, mode, times, torch.full_like(values, constant), targets)
    assert torch.equal(out, torch.full_like(out, constant))


@each_implementation
@given(rows(min_size=3, unique=True))
@fuzzed
def test_cubic_does_not_overshoot(impl, row):
    values = row[1]
    out = call(impl, "cubic", *row)[0]
    slack = 4e-6 * values.abs().max()
    assert ((out >= values.min() - slack) & (out <= values.max() + slack)).all()


@each_implementation
@each_mode
def test_dense_is_jagged_and_order_does_not_matter(impl, mode):
    values, times, targets = dense(11, 6, 40, 30, mode)
    out, valid = impl.resample(values, times, targets, mode=mode, return_valid=True)
    jagged = {
        "source_data": values.reshape(-1, values.shape[-1]),
        "source_times": times.reshape(-1),
        "target_times": targets.reshape(-1),
        "source_offsets": torch.arange(7) * 40,
        "target_offsets": torch.arange(7) * 30,
    }
    flat, flat_valid = impl.resample(**jagged, mode=mode, return_valid=True)
    assert_same_bits([flat, flat_valid], [out.reshape(flat.shape), valid.reshape(-1)])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = impl.resample(values[order], times[order], targets[order], mode=mode, return_valid=True)
    assert_same_bits(permuted, [out[order], valid[order]])
    # half dense, half jagged
    mixed = impl.resample(values, times, jagged["target_times"], target_offsets=jagged["target_offsets"], mode=mode)
    assert_same_bits([mixed], [flat])
