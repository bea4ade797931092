"""One stream: golden data, NumPy and SciPy as oracles, edge cases, dtypes, errors."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from ops_oracles import (
    EPOCH,
    FLOAT32_ERROR,
    IMPLEMENTATIONS,
    MODES,
    PUBLIC,
    WIDTH,
    assert_close,
    assert_same_bits,
    dense,
    ragged,
)

GOLDEN = torch.load(Path(__file__).parent / "golden_data" / "trajectory_fp32.pt", weights_only=True)
INTERPOLATING = [mode for mode in MODES if mode not in ("nearest", "previous", "next")]
NAN = math.nan
REFUSED = (ValueError, RuntimeError, TypeError)

each_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)
each_mode = pytest.mark.parametrize("mode", MODES)


def one_row(impl, times, values, targets, **options):
    """Lists in, lists out: a row of one column."""
    dtype = options.pop("time_dtype", torch.int64)
    out, valid = impl.resample(
        torch.as_tensor(values, dtype=options.pop("dtype", torch.float32)).reshape(1, len(times), -1),
        torch.tensor([times], dtype=dtype),
        torch.tensor([targets], dtype=dtype),
        return_valid=True,
        **options,
    )
    return out[0].squeeze(-1).tolist(), valid[0].tolist()


# ---- against independent answers ------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("name", GOLDEN)
def test_golden(impl, name):
    case = GOLDEN[name]
    mode = case["inputs"]["mode"]
    out, valid = impl.resample(**case["inputs"], return_valid=True)
    assert_close(out, case["expected"], mode, FLOAT32_ERROR[mode])
    assert torch.equal(valid, case["valid"])
    limited, valid = impl.resample(**case["inputs"], max_gap=case["max_gap"], return_valid=True)
    assert torch.equal(valid, case["valid_within_max_gap"])
    assert_same_bits([limited], [out])  # a gap too wide marks the row, it does not change it


@each_implementation
@each_mode
@pytest.mark.parametrize("time_dtype", ["int64", "float64", "float32"])
def test_float64_values_match_the_oracle(impl, mode, time_dtype):
    r = ragged(7, mode, time_dtype=time_dtype, dtype=torch.float64, lengths=(90, 3, 2, 45), targets=(120, 20, 9, 60))
    out, valid = impl.resample(**r.arguments(), mode=mode, return_valid=True)
    expected, expected_valid = r.expected(mode)
    assert_close(out, expected, mode, 2e-13 if time_dtype != "float32" else 1e-12)
    assert torch.equal(valid, expected_valid)


@each_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_linear_rounds_a_single_fused_multiply_add(impl, dtype):
    generator = torch.Generator().manual_seed(1)
    x0, x1 = torch.randn(2, 2000, 1, 1, generator=generator, dtype=dtype)
    gap = torch.randint(2, 10**9, (2000, 1), generator=generator)
    at = (gap * torch.rand(2000, 1, generator=generator)).long().clamp(min=1)
    out = impl.resample(torch.cat([x0, x1], dim=1), torch.cat([gap * 0, gap], dim=1), at)
    w, step = at.to(dtype) / gap.to(dtype), (x1 - x0).flatten()
    operands = zip(w.flatten().tolist(), step.tolist(), x0.flatten().tolist(), strict=True)
    exact = [Fraction(w) * Fraction(step) + Fraction(start) for w, step, start in operands]
    assert_same_bits([out.flatten()], [torch.tensor([float(x) for x in exact], dtype=torch.float64).to(dtype)])


@each_implementation
@pytest.mark.parametrize("batch", [1, 32, 256])
def test_batch_sizes(impl, batch):
    values, times, targets = dense(batch, batch, 30, 25)
    out = impl.resample(values, times, targets)
    row = batch // 2
    r = ragged(batch, lengths=[30] * batch, targets=[25] * batch)
    expected = r.expected("linear")[0].reshape(batch, 25, 3)
    assert_close(out, expected, "linear", FLOAT32_ERROR["linear"])
    alone = impl.resample(values[row : row + 1], times[row : row + 1], targets[row : row + 1])
    assert_same_bits([out[row : row + 1]], [alone])


@each_implementation
@pytest.mark.parametrize("mode", ["linear", "mean", "cubic", "nearest"])
@pytest.mark.parametrize("width", [1, 2, 5, 14, 64, 129, 300])
def test_widths(impl, mode, width):
    r = ragged(width, mode, lengths=(400, 5), targets=(70, 9), width=width)
    out = impl.resample(**r.arguments(), mode=mode)
    assert_close(out, r.expected(mode)[0], mode, FLOAT32_ERROR[mode])
    narrow = impl.resample(**r.arguments(), mode=mode, out_dtype=torch.bfloat16)
    assert_same_bits([narrow], [out.to(torch.bfloat16)])


# ---- edge cases -----------------------------------------------------------------------------------------------------


@each_implementation
@each_mode
@pytest.mark.parametrize(("batch", "samples", "targets"), [(0, 5, 5), (3, 0, 5), (3, 5, 0), (0, 0, 0)])
def test_nothing_in_nothing_out(impl, mode, batch, samples, targets):
    width = WIDTH.get(mode, 2)
    out, valid = impl.resample(
        torch.ones(batch, samples, width),
        torch.arange(samples).expand(batch, samples),
        torch.arange(targets).expand(batch, targets),
        mode=mode,
        return_valid=True,
    )
    assert out.shape == (batch, targets, width)
    assert valid.shape == (batch, targets)
    if not samples:
        assert out.isnan().all()
        assert not valid.any()


@each_implementation
def test_no_columns(impl):
    out, valid = impl.resample(
        torch.empty(2, 3, 0), torch.arange(3).expand(2, 3), torch.tensor([[1, 9]] * 2), return_valid=True
    )
    assert out.shape == (2, 2, 0)
    assert valid.tolist() == [[True, False]] * 2


@each_implementation
@each_mode
def test_one_sample(impl, mode):
    width = WIDTH.get(mode, 1)
    values = torch.full((1, 1, width), 0.5)
    out, valid = impl.resample(values, torch.tensor([[10]]), torch.tensor([[9, 10, 11]]), mode=mode, return_valid=True)
    assert_close(out, values.expand(1, 3, width) if mode != "pose" else out[:, :1].expand(1, 3, width), mode, 1e-6)
    # the one bin of mean that holds the sample is a hit; nearest, previous and next have no limit of age
    always = {"nearest": [True] * 3, "previous": [False, True, True], "next": [True, True, False]}
    assert valid[0].tolist() == always.get(mode, [False, True, False])


@each_implementation
@each_mode
def test_outside_the_recording_the_edge_stays(impl, mode):
    values, times, _ = dense(3, 1, 20, 1, mode)
    targets = torch.stack([times[0, 0] - 1, times[0, 0], times[0, -1], times[0, -1] + 1])[None]
    if mode == "mean":
        targets = targets[:, [0, 3]] + torch.tensor([[-(10**12), 10**12]])
        out, valid = impl.resample(values, times, targets, mode=mode, return_valid=True)
        assert valid.all()  # both bins are wide enough to meet in the middle
        return
    out, valid = impl.resample(values, times, targets, mode=mode, return_valid=True)
    assert_same_bits([out[:, 0], out[:, 3]], [out[:, 1], out[:, 2]])
    interpolating = [False, True, True, False]
    assert valid[0].tolist() == {
        "nearest": [True] * 4,
        "previous": [False, True, True, True],
        "next": [True, True, True, False],
    }.get(mode, interpolating)


@each_implementation
@each_mode
def test_rows_that_touch_do_not_mix(impl, mode):
    """The first row ends at the stamp at which the second begins, and both repeat it."""
    times = torch.tensor([0, 5, 8, 8, 8, 8, 9, 12])
    values = torch.arange(1.0, 9)[:, None].expand(-1, WIDTH.get(mode, 2))
    targets = torch.tensor([[-1, 4, 8, 9]])
    both, valid = impl.resample(
        values, times, targets.expand(2, -1), mode=mode, source_offsets=torch.tensor([0, 4, 8]), return_valid=True
    )
    for b, rows in enumerate((slice(0, 4), slice(4, 8))):
        alone = impl.resample(values[None, rows], times[None, rows], targets, mode=mode, return_valid=True)
        assert_same_bits([both[b : b + 1], valid[b : b + 1]], alone)


@each_implementation
def test_max_gap_is_inclusive_and_a_hit_needs_none(impl):
    times, values, targets = [0, 10, 21], [0.0, 1.0, 2.0], [0, 5, 10, 15, 21]
    assert one_row(impl, times, values, targets, max_gap=10)[1] == [True, True, True, False, True]
    assert one_row(impl, times, values, targets, max_gap=11)[1] == [True] * 5
    assert one_row(impl, times, values, targets, max_gap=0)[1] == [True, False, True, False, True]
    targets = [-3, -2, 2, 4, 6, 24, 25]
    assert one_row(impl, times, values, targets, max_gap=3, mode="nearest")[1] == [
        True, True, True, False, False, True, False,
    ]  # fmt: skip
    assert one_row(impl, times, values, targets, max_gap=4, mode="previous")[1] == [
        False, False, True, True, False, True, True,
    ]  # fmt: skip
    assert one_row(impl, times, values, targets, max_gap=2, mode="next")[1] == [
        False, True, False, False, False, False, False,
    ]  # fmt: skip


@each_implementation
def test_nearest_prefers_the_earlier_on_a_tie(impl):
    assert one_row(impl, [0, 10], [1.0, 2.0], [4, 5, 6], mode="nearest")[0] == [1, 1, 2]


@each_implementation
def test_epoch_nanoseconds_keep_every_nanosecond(impl):
    times, targets = [EPOCH, EPOCH + 4], [EPOCH + k for k in range(5)]
    assert one_row(impl, times, [0.0, 4.0], targets)[0] == [0, 1, 2, 3, 4]
    assert one_row(impl, times, [0.0, 4.0], targets, mode="nearest")[0] == [0, 0, 0, 4, 4]


@each_implementation
def test_mean_takes_the_half_open_bin_between_midpoints(impl):
    times, values = list(range(0, 60, 5)), [float(k) for k in range(12)]
    # bins [5, 15), [15, 30), [30, 50): 5 and 10; 15, 20 and 25; 30 to 45
    out, valid = one_row(impl, times, values, [10, 20, 40], mode="mean")
    assert out == [1.5, 4.0, 7.5]
    assert valid == [True] * 3
    # bins of an odd spacing end between two integers: [-1.5, 1.5) and [1.5, 4.5)
    assert one_row(impl, [1, 2], [1.0, 2.0], [0, 3], mode="mean")[0] == [1, 2]
    # an empty bin and a lone target are linear
    assert one_row(impl, [0, 100], [0.0, 1.0], [40, 50, 60], mode="mean") == one_row(
        impl, [0, 100], [0.0, 1.0], [40, 50, 60]
    )
    assert one_row(impl, times, values, [12], mode="mean") == one_row(impl, times, values, [12])
    # a bin of one sample is a copy, whatever that is
    assert str(one_row(impl, [0, 10], [-0.0, math.inf], [0, 10], mode="mean")[0]) == "[-0.0, inf]"


@each_implementation
def test_nan_goes_where_arithmetic_takes_it_and_no_further(impl):
    times, values, targets = [0, 10, 20, 30], [0.0, NAN, 2.0, 3.0], [0, 5, 10, 15, 20, 25]
    out, valid = one_row(impl, times, values, targets)
    assert [math.isnan(x) for x in out] == [False, True, True, True, False, False]
    assert valid == [True] * 6
    out, valid = one_row(impl, times, values, targets, mode="cubic")
    assert [math.isnan(x) for x in out] == [False, True, True, True, False, True]  # 25 sees the slope from 10 to 20
    assert valid == [True] * 6
    out, _ = one_row(impl, [0, 10], [1.0, math.inf], [0, 5, 10])
    assert out == [1, math.inf, math.inf]


@each_implementation
def test_angles_take_the_short_way_and_pi_is_pi(impl):
    pi32 = torch.tensor(math.pi).item()
    out, _ = one_row(impl, [0, 10], [3.0, -3.0], [0, 5, 10], mode="angle")
    assert out[0] == 3.0
    assert abs(out[1]) == pytest.approx(math.pi, abs=1e-6)
    assert out[2] == -3.0
    assert one_row(impl, [0, 1], [pi32, -pi32], [0, 1], mode="angle")[0] == [pi32, pi32]
    out, _ = one_row(impl, [0, 1], [7.0, -20.0], [0, 1, 2], mode="angle")
    assert out == pytest.approx([7 - 2 * math.pi, 6 * math.pi - 20, 6 * math.pi - 20], abs=2e-6)
    assert all(-math.pi < x <= pi32 for x in out)


@each_implementation
@pytest.mark.parametrize("mode", ["slerp", "pose"])
def test_rotations_without_direction_are_marked(impl, mode):
    q = torch.tensor([[0.0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 3, 3], [0, 0, 0, -1], [NAN, 0, 0, 1]])
    values = torch.cat([torch.ones(5, WIDTH[mode] - 4), q], dim=1)
    out, valid = impl.resample(
        values[None],
        torch.arange(0, 50, 10)[None],
        torch.tensor([[0, 5, 10, 15, 20, 25, 30, 35]]),
        mode=mode,
        return_valid=True,
    )
    rotation = out[0, :, -4:]
    assert valid[0].tolist() == [True, False, False, False, True, True, True, False]
    assert (rotation[~valid[0]] == 0).all()
    half, eighth = math.sqrt(0.5), math.pi / 8
    expected = [[0, 0, 0, 1], [0, 0, half, half], [0, 0, math.sin(eighth), math.cos(eighth)], [0, 0, 0, -1]]
    assert rotation[valid[0]].flatten().tolist() == pytest.approx(torch.tensor(expected).flatten().tolist(), abs=1e-6)
    assert (out[0, :, :-4] == 1).all()


@each_implementation
@each_mode
def test_any_strides(impl, mode):
    values, times, targets = dense(5, 4, 30, 20, mode)
    plain = impl.resample(values, times, targets, mode=mode)
    turned = values.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    padded = torch.full((4, 60, values.shape[-1] + 3), NAN)
    padded[:, ::2, 1:-2] = values
    spread = torch.zeros(4, 60, dtype=times.dtype)
    spread[:, 1::2] = times
    for x, t, q in [
        (turned, times.t().contiguous().t(), targets.t().contiguous().t()),
        (padded[:, ::2, 1:-2], spread[:, 1::2], targets.repeat_interleave(2, dim=1)[:, ::2]),
    ]:
        assert not x.is_contiguous()
        assert_same_bits([impl.resample(x, t, q, mode=mode)], [plain])
    one = impl.resample(values[:1].expand(3, -1, -1), times[:1].expand(3, -1), targets[:1].expand(3, -1), mode=mode)
    assert_same_bits([one], [plain[:1].expand(3, -1, -1)])
    column = values[..., -1:].expand(-1, -1, WIDTH.get(mode, 3))
    assert_same_bits(
        [impl.resample(column, times, targets, mode=mode)], [impl.resample(column.clone(), times, targets, mode=mode)]
    )


# ---- dtypes ---------------------------------------------------------------------------------------------------------


@each_implementation
@each_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_and_out(impl, mode, dtype):
    """Inputs widen exactly, arithmetic is float32, and its results are rounded once."""
    r = ragged(9, mode, dtype=dtype)
    arguments = r.arguments()
    wide = impl.resample(**{**arguments, "source_data": r.values.float()}, mode=mode)
    narrow = impl.resample(**arguments, mode=mode)
    assert narrow.dtype == dtype
    assert_same_bits([narrow], [wide.to(dtype)])
    full = impl.resample(**ragged(9, mode).arguments(), mode=mode)
    assert_close(narrow, full, mode, 2 ** (-10 if dtype == torch.float16 else -7))


@each_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_float64_is_rounded_once(impl, dtype):
    r = ragged(13, dtype=torch.float64)
    exact = impl.resample(**r.arguments())
    out = impl.resample(**r.arguments(), out_dtype=dtype)
    assert_close(out, exact, "linear", torch.finfo(dtype).eps / 2)
    # halfway between two values of the narrow type, and a little more than float32 can see
    step = torch.finfo(dtype).eps
    above, below = [[1 + step / 2 + sign * 2**-40] for sign in (1, -1)]
    assert one_row(impl, [0], above, [0], dtype=torch.float64, out_dtype=dtype)[0] == [1 + step]
    assert one_row(impl, [0], below, [0], dtype=torch.float64, out_dtype=dtype)[0] == [1]


@each_implementation
@pytest.mark.parametrize(
    ("dtype", "scale", "values", "expected"),
    [
        (torch.int8, 0.5, [0.25, 0.75, -0.75, 1.2, 63.6, 1e9, -1e9, NAN], [0, 2, -2, 2, 127, 127, -128, 0]),
        (torch.int8, None, [0.5, 1.5, 2.5, -128.4, math.inf, -math.inf], [0, 2, 2, -128, 127, -128]),
        (torch.float8_e4m3fn, 2.0, [0.3, 896.0, 1e9, -1e9, math.inf, NAN], [0.15625, 448, 448, -448, 448, NAN]),
        (torch.float8_e5m2, None, [0.3, 57e3, 6e4, -1e9, -math.inf, NAN], [0.3125, 57344, 57344, -57344, -57344, NAN]),
        (torch.float8_e4m3fn, None, [2.0**-9, 2.0**-10, 1.5 * 2.0**-9, -0.0], [2.0**-9, 0, 2.0**-8, 0]),
    ],
)  # fmt: skip
def test_8_bit_types_scale_round_and_saturate(impl, dtype, scale, values, expected):
    times = list(range(len(values)))
    out = impl.resample(
        torch.tensor(values).reshape(1, -1, 1),
        torch.tensor([times]),
        torch.tensor([times]),
        out_dtype=dtype,
        out_scale=None if scale is None else torch.tensor([scale]),
    )
    assert out.dtype == dtype
    assert out.float().flatten().tolist() == pytest.approx(expected, abs=0, nan_ok=True)


@each_implementation
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_types_scale_each_column(impl, dtype):
    r = ragged(17, lengths=(200,), targets=(150,), width=5)
    wide = impl.resample(**r.arguments())
    scale = wide.abs().amax(dim=0) / 100
    narrow = impl.resample(**r.arguments(), out_dtype=dtype, out_scale=scale)
    relative = {torch.int8: 0, torch.float8_e4m3fn: 2**-4, torch.float8_e5m2: 2**-3}[dtype]
    error = (narrow.float() * scale - wide).abs()
    assert (error <= scale * 0.501 + relative * wide.abs()).all()
    empty = impl.resample(
        torch.empty(1, 0, 2), torch.empty(1, 0, dtype=torch.int64), torch.tensor([[1]]), out_dtype=dtype
    ).float()
    assert (empty == 0).all() if dtype == torch.int8 else empty.isnan().all()


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_unsorted_times_name_the_row():
    times = torch.arange(10).repeat(4, 1)
    values, good = torch.zeros(4, 10, 2), times.clone()
    times[2, 6] = 3
    with pytest.raises(ValueError, match=r"times.*row 2.*6.* 3.* 5"):
        PUBLIC.resample(values, times, good)
    with pytest.raises(ValueError, match=r"target.*row 2.*6.* 3.* 5"):
        PUBLIC.resample(values, good, times)
    offsets = torch.arange(5) * 10
    with pytest.raises(ValueError, match=r"row 2.*6.* 3.* 5"):
        PUBLIC.resample(values.reshape(40, 2), times.reshape(-1), good, source_offsets=offsets)
    with pytest.raises(ValueError, match=r"target.*row 2.*6.* 3.* 5"):
        PUBLIC.resample(values, good, times.reshape(-1), target_offsets=offsets)
    assert PUBLIC.resample(values, times, good, validate=False).shape == (4, 10, 2)


def test_a_step_back_between_jagged_rows_is_no_error():
    r = ragged(1, lengths=(5, 0, 5), targets=(4, 3, 2))
    times = r.times.clone()
    times[5:] -= 10**15
    assert PUBLIC.resample(**{**r.arguments(), "source_times": times}).shape == (9, 3)


@pytest.mark.parametrize("position", [0, 2, 4])
@pytest.mark.parametrize("jagged", [False, True])
def test_nan_times_name_the_row(position, jagged):
    times = torch.arange(5.0).repeat(3, 1)
    bad = times.clone()
    bad[1, position] = NAN
    values = torch.zeros(3, 5, 1)
    source = {"source_data": values, "source_times": bad}
    if jagged:
        source = {name: x.flatten(0, 1) for name, x in source.items()} | {"source_offsets": torch.arange(4) * 5}
    with pytest.raises(ValueError, match=r"row 1.*nan"):
        PUBLIC.resample(**source, target_times=times)
    with pytest.raises(ValueError, match=r"target.*row 1.*nan"):
        PUBLIC.resample(values, times, bad)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (2, 1, 2)])
def test_a_nan_alone_in_its_row_is_found(lengths):
    times = torch.zeros(sum(lengths))
    times[lengths[0]] = NAN
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0)])
    with pytest.raises(ValueError, match=r"row 1.*nan"):
        PUBLIC.resample(torch.zeros(len(times), 1), times, torch.zeros(3, 2), source_offsets=offsets)


def good_call() -> dict:
    times = torch.arange(5).repeat(2, 1)
    return {"source_data": torch.zeros(2, 5, 3), "source_times": times, "target_times": times}


@each_implementation
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"source_times": torch.zeros(2, 4, dtype=torch.int64)}, r"2, 5.*2, 4"),
        ({"source_data": torch.zeros(3, 5, 3)}, r"3, 5"),
        ({"target_times": torch.arange(5).repeat(3, 1)}, "2.*3|3.*2"),
        ({"target_times": torch.arange(5.0).repeat(2, 1)}, r"[Ll]ong|int64"),
        ({"source_data": torch.zeros(2, 5, 3, dtype=torch.int64)}, "float64, float32"),
        ({"source_times": torch.arange(5).int().repeat(2, 1)}, "[Ii]nt"),
        ({"target_times": torch.arange(5).int().repeat(2, 1)}, "[Ii]nt.*int64"),
        ({"source_data": torch.zeros(5, 3)}, "5, 3"),
        ({"mode": "slerp"}, "slerp.* 4"),
        ({"mode": "pose"}, "pose.* 7"),
        ({"out_dtype": torch.int32}, "int8"),
        ({"out_scale": torch.ones(3)}, "8-bit"),
        ({"source_offsets": torch.tensor([0, 5, 10])}, "offsets"),
        ({"target_offsets": torch.tensor([0, 5, 10])}, "offsets"),
    ],
)
def test_what_does_not_fit_is_refused(impl, change, match):
    assert impl.resample(**good_call()).shape == (2, 5, 3)
    with pytest.raises(REFUSED, match=match):
        impl.resample(**{**good_call(), **change})


@pytest.mark.parametrize(
    ("change", "match"),
    [({"mode": "quadratic"}, "quadratic.*linear"), ({"max_gap": -1}, "max_gap.*-1"), ({"out_scale": 0.0}, "out_scale")],
)
def test_settings_that_make_no_sense_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        PUBLIC.resample(**{**good_call(), "out_dtype": torch.int8, **change})


@each_implementation
@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("offsets", [[0, 3, 11], [1, 3, 10], [0, 7, 5], [0, 5, 10, 10], [], [[0, 5, 10]]])
def test_offsets_that_do_not_fit_are_refused(impl, offsets, validate):
    flat = {name: x.flatten(0, 1) for name, x in good_call().items() if name != "target_times"}
    targets, offsets = good_call()["target_times"], torch.tensor(offsets, dtype=torch.int64)
    with pytest.raises(REFUSED, match=r"offsets|episodes"):
        impl.resample(**flat, target_times=targets, source_offsets=offsets, validate=validate)
    with pytest.raises(REFUSED, match=r"offsets|episodes"):
        impl.resample(**good_call() | {"target_times": targets.flatten()}, target_offsets=offsets, validate=validate)
    narrow = torch.tensor([0, 5, 10], dtype=torch.int32)
    with pytest.raises(REFUSED, match=r"[Ii]nt"):
        impl.resample(**flat, target_times=targets, source_offsets=narrow, validate=validate)
