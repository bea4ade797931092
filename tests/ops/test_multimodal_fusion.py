"""Several streams at once: golden data, fusion as resampling side by side, missing streams, offsets, dtypes, errors."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ops_oracles import (
    EPOCH,
    FLOAT32_ERROR,
    IMPLEMENTATIONS,
    MODES,
    PUBLIC,
    align_row,
    assert_close,
    assert_same_bits,
    dense,
    ragged,
)

from robocache.ops import StreamSpec, _library
from robocache.ops import align as align_module

GOLDEN = torch.load(Path(__file__).parent / "golden_data" / "multimodal_fp32.pt", weights_only=True)
each_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)

EPISODES = (50, 33, 1, 0, 2)  # samples of the first stream, episode by episode
WANTED = (40, 20, 6, 5, 4)


def robot(count: int, *, dtype: torch.dtype = torch.float32):
    """``count`` jagged streams with every mode in turn, their own rates and widths, and the targets of the first."""
    batches = [
        ragged(
            seed,
            MODES[seed % len(MODES)],
            lengths=[n * (seed % 3 + 1) for n in EPISODES],
            targets=WANTED,
            dtype=dtype,
            width=seed % 4 + 1,
        )
        for seed in range(count)
    ]
    streams = [
        StreamSpec(
            b.values,
            b.times,
            mode=MODES[seed % len(MODES)],
            offsets=b.offsets,
            max_gap=None if seed % 2 else 6_000_000,
            offset=(seed - 1) * 1_234_567,
        )
        for seed, b in enumerate(batches)
    ]
    return streams, {"target_times": batches[0].targets, "target_offsets": batches[0].target_offsets}


@each_implementation
@pytest.mark.parametrize("name", GOLDEN)
def test_golden(impl, name):
    case = GOLDEN[name]
    fused, valid = impl.fuse([StreamSpec(**stream) for stream in case["streams"]], case["target_times"])
    assert fused.dtype == torch.float32
    assert_close(fused, case["expected"], "fused", max(FLOAT32_ERROR.values()))
    assert torch.equal(valid, case["valid"])


@each_implementation
@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_fusing_is_resampling_side_by_side(impl, count):
    streams, targets = robot(count)
    fused, valid = impl.fuse(streams, **targets)
    assert valid.shape == (sum(WANTED), count)
    columns = []
    for m, s in enumerate(streams):
        out, ok = impl.resample(
            s.values,
            s.times + s.offset,
            mode=s.mode,
            source_offsets=s.offsets,
            max_gap=s.max_gap,
            return_valid=True,
            **targets,
        )
        columns.append(out)
        assert torch.equal(valid[:, m], ok)
    assert_same_bits([fused], [torch.cat(columns, dim=-1)])


@each_implementation
@pytest.mark.parametrize("batch", [1, 32, 256])
def test_dense_and_jagged_streams_mix(impl, batch):
    values, times, targets = dense(batch, batch, 20, 15)
    jagged = ragged(batch + 1, "previous", lengths=[k % 4 for k in range(batch)], targets=[0] * batch, width=1)
    streams = [
        StreamSpec(values, times),
        StreamSpec(jagged.values, jagged.times, "previous", jagged.offsets, max_gap=50_000_000),
    ]
    fused, valid = impl.fuse(streams, targets)
    assert fused.shape == (batch, 15, 4)
    assert valid.shape == (batch, 15, 2)
    for b in {0, batch // 2, batch - 1}:
        low, high = jagged.offsets[b], jagged.offsets[b + 1]
        for columns, m, expected in (
            (slice(0, 3), 0, align_row("linear", times[b].numpy(), values[b].numpy(), targets[b].numpy())),
            (
                slice(3, 4),
                1,
                align_row(
                    "previous",
                    jagged.times[low:high].numpy(),
                    jagged.values[low:high].numpy(),
                    targets[b].numpy(),
                    50_000_000,
                ),
            ),
        ):
            assert_close(fused[b, :, columns], torch.from_numpy(expected[0]), "linear", FLOAT32_ERROR["linear"])
            assert valid[b, :, m].tolist() == expected[1].tolist()


@each_implementation
def test_a_missing_stream_is_nan_and_false_and_leaves_the_others_alone(impl):
    streams, targets = robot(3)
    fused, valid = impl.fuse(streams, **targets)
    nothing = StreamSpec(
        torch.empty(0, 2), torch.empty(0, dtype=torch.int64), offsets=torch.zeros(6, dtype=torch.int64)
    )
    with_it, valid_with_it = impl.fuse([streams[0], nothing, *streams[1:]], **targets)
    width = streams[0].values.shape[1]
    assert with_it[:, width : width + 2].isnan().all()
    assert not valid_with_it[:, 1].any()
    others = [c for c in range(with_it.shape[1]) if c not in (width, width + 1)]
    assert_same_bits([with_it[:, others], valid_with_it[:, [0, 2, 3]]], [fused, valid])
    as_int8, _ = impl.fuse([nothing], **targets, out_dtype=torch.int8)
    assert (as_int8 == 0).all()


@each_implementation
def test_every_stream_missing(impl):
    empty = torch.zeros(3, dtype=torch.int64)
    stream = StreamSpec(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), "slerp", empty)
    fused, valid = impl.fuse([stream, stream], torch.arange(5).repeat(2, 1))
    assert fused.shape == (2, 5, 8)
    assert fused.isnan().all()
    assert not valid.any()


@each_implementation
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("time_dtype", ["int64", "float64", "float32"])
def test_offset_moves_the_stamps(impl, mode, time_dtype):
    r = ragged(3, mode, time_dtype=time_dtype)
    offset = 1_234_567 if time_dtype == "int64" else 2.0**-9  # exact in every dtype
    targets = {"target_times": r.targets, "target_offsets": r.target_offsets}
    spec = {"mode": mode, "offsets": r.offsets, "max_gap": 8_000_000 if time_dtype == "int64" else 2.0**-6}
    moved = impl.fuse([StreamSpec(r.values, r.times, **spec, offset=offset)], **targets)
    assert_same_bits(moved, impl.fuse([StreamSpec(r.values, r.times + offset, **spec)], **targets))


@each_implementation
def test_offset_is_exact_to_the_nanosecond_at_epoch(impl):
    values, times = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[EPOCH, EPOCH + 1000]])
    for offset, valid in ((-1, [False, True]), (0, [True, True]), (1, [True, False])):
        stream = StreamSpec(values, times, "linear", max_gap=0, offset=offset)
        _, ok = impl.fuse([stream], torch.tensor([[EPOCH + offset, EPOCH + 1000]]))
        assert ok[0, :, 0].tolist() == [True, offset == 0], (offset, valid)


@each_implementation
def test_dtypes_mix_and_each_keeps_its_precision(impl):
    r64, r32 = ragged(1, dtype=torch.float64, width=2), ragged(2, dtype=torch.float32, width=3)
    r16, rb16 = ragged(3, dtype=torch.float16, width=1), ragged(4, dtype=torch.bfloat16, width=1)
    batches = (r64, r32, r16, rb16)
    streams = [StreamSpec(r.values, r.times, offsets=r.offsets) for r in batches]
    targets = {"target_times": r64.targets, "target_offsets": r64.target_offsets}
    fused, _ = impl.fuse(streams, **targets)
    assert fused.dtype == torch.float32
    wide, _ = impl.fuse(streams, **targets, out_dtype=torch.float64)
    assert_same_bits([wide.float()], [fused])
    assert_same_bits([wide[:, :2]], [impl.fuse(streams[:1], **targets)[0]])
    assert (wide[:, :2].nan_to_num() != wide[:, :2].float().double().nan_to_num()).any()  # more than float32 holds
    for dtype in (torch.float16, torch.bfloat16):
        same = [StreamSpec(s.values.to(dtype), s.times, offsets=s.offsets) for s in streams]
        assert impl.fuse(same, **targets)[0].dtype == dtype


@each_implementation
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 4e-6), (torch.float16, 2**-9), (torch.bfloat16, 2**-6)],
    ids=["fp32", "fp16", "bf16"],
)
def test_precision_against_float64(impl, dtype, tolerance):
    """Inputs and outputs rounded to ``dtype``: one rounding each way, times the slope of the data."""
    exact, targets = robot(3, dtype=torch.float64)
    rounded = [StreamSpec(s.values.to(dtype), s.times, s.mode, s.offsets, s.max_gap, s.offset) for s in exact]
    expected, valid = impl.fuse(exact, **targets)
    out, out_valid = impl.fuse(rounded, **targets)
    assert out.dtype == dtype
    assert_close(out, expected, "fused", tolerance)
    assert torch.equal(out_valid, valid)


@each_implementation
def test_one_scale_a_column(impl):
    streams, targets = robot(2)
    wide, _ = impl.fuse(streams, **targets)
    scale = wide.nan_to_num().abs().amax(dim=0) / 127
    codes, _ = impl.fuse(streams, **targets, out_dtype=torch.int8, out_scale=scale)
    known = ~wide.isnan()
    assert ((codes.float() * scale - wide).abs() <= 0.501 * scale)[known].all()
    assert int(codes.abs().max()) == 127
    assert (codes[~known] == 0).all()


@each_implementation
def test_wide_and_many(impl):
    """More columns and streams than any fixed buffer would hold."""
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(0, 300, 3).repeat(2, 1)
    targets = torch.arange(0, 300, 10).repeat(2, 1)
    streams = [
        StreamSpec(torch.randn(2, 100, width, generator=generator), times, mode)
        for width, mode in [(1000, "linear"), (513, "cubic"), (257, "mean"), (130, "angle")] + [(1, "nearest")] * 60
    ]
    fused, valid = impl.fuse(streams, targets)
    assert fused.shape == (2, 30, 1960)
    assert valid.all()
    column = 0
    for s in streams[:5]:
        width = s.values.shape[-1]
        alone = impl.resample(s.values[..., -1:], s.times, targets, mode=s.mode)
        assert_same_bits([fused[..., column + width - 1]], [alone[..., 0]])
        column += width


def test_stamps_shared_by_the_batch():
    values, times, targets = dense(8, 1, 40, 30)
    values = torch.cat([values, values + 1, values * 2])
    fused, valid = PUBLIC.fuse([StreamSpec(values, times[0])], targets[0])
    repeated = PUBLIC.fuse([StreamSpec(values, times.repeat(3, 1))], targets.repeat(3, 1))
    assert_same_bits([fused, valid], repeated)


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_the_stream_at_fault_is_named():
    streams, targets = robot(3)
    bad = streams[2].times.clone()
    bad[5], bad[6] = bad[6].item(), bad[5].item() - 1
    streams[2] = StreamSpec(streams[2].values, bad, streams[2].mode, streams[2].offsets)
    with pytest.raises(ValueError, match=r"streams\[2\].*row 0"):
        PUBLIC.fuse(streams, **targets)


@each_implementation
@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"values": torch.zeros(2, 6, 3)}, r"values\[1\].*2, 6, 3"),
        ({"values": torch.zeros(2, 5, 3, dtype=torch.int32)}, r"values\[1\].*[Ii]nt"),
        ({"times": torch.zeros(2, 5)}, r"times\[1\].*[Ff]loat"),
        ({"mode": "slerp"}, "slerp.* 4"),
        ({"values": torch.zeros(4, 5, 3), "times": torch.zeros(4, 5, dtype=torch.int64)}, r"values\[1\].*4"),
    ],
)
def test_what_does_not_fit_is_refused(impl, spec, match):
    times = torch.arange(5).repeat(2, 1)
    good = {"values": torch.zeros(2, 5, 3), "times": times}
    assert impl.fuse([StreamSpec(**good), StreamSpec(**good)], times)[0].shape == (2, 5, 6)
    with pytest.raises((ValueError, RuntimeError), match=match):
        impl.fuse([StreamSpec(**good), StreamSpec(**{**good, **spec})], times)


def test_no_streams_and_unknown_modes_are_refused():
    times = torch.arange(5).repeat(2, 1)
    with pytest.raises(ValueError, match="no streams"):
        PUBLIC.fuse([], times)
    with pytest.raises(ValueError, match=r"streams\[0\].mode.*'bicubic'.*linear"):
        PUBLIC.fuse([StreamSpec(torch.zeros(2, 5, 1), times, "bicubic")], times)


# ---- without the extension ------------------------------------------------------------------------------------------


def test_fallback_gives_the_same_and_says_so_once(monkeypatch, caplog):
    streams, targets = robot(4)
    expected = PUBLIC.fuse(streams, **targets)
    monkeypatch.setattr(align_module._library, "has_kernel", lambda op, device: False)
    _library.warn_fallback.cache_clear()
    with caplog.at_level(logging.WARNING, logger="robocache"):
        for _ in range(3):
            fused, valid = PUBLIC.fuse(streams, **targets)
    assert sum("reference" in record.getMessage() for record in caplog.records) == 1
    assert_close(fused, expected[0], "fused", max(FLOAT32_ERROR.values()))
    assert torch.equal(valid, expected[1])


@pytest.mark.realdata
def test_real_imu_at_50_hz(data_dir):
    """The Husky's IMU (30 Hz, jittery) on a 50 Hz grid, against NumPy, with its true epoch stamps."""
    h = pytest.importorskip("rosbags.highlevel")
    with h.AnyReader([data_dir / "bags" / "husky.bag"]) as reader:
        connections = [c for c in reader.connections if c.topic == "/imu/data"]
        messages = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]
    times = np.array([m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages])
    rates = np.array([[m.angular_velocity.x, m.angular_velocity.y, m.angular_velocity.z] for m in messages])
    order = np.argsort(times, kind="stable")
    times, rates = times[order], rates[order]
    targets = np.arange(times[0], times[-1], 20_000_000)
    fused, valid = PUBLIC.fuse(
        [
            StreamSpec(torch.from_numpy(rates)[None], torch.from_numpy(times)[None], mode, max_gap=50_000_000)
            for mode in ("linear", "cubic")
        ],
        torch.from_numpy(targets)[None],
    )
    for k, mode in enumerate(("linear", "cubic")):
        expected, expected_valid = align_row(mode, times, rates, targets, 50_000_000)
        assert_close(fused[0, :, 3 * k : 3 * k + 3], torch.from_numpy(expected), mode, 1e-12)
        assert valid[0, :, k].tolist() == expected_valid.tolist()
    assert 0.5 < float(valid.double().mean()) <= 1
    assert math.isfinite(float(fused.abs().max()))
