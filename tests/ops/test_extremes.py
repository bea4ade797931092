"""Inputs at the ends of their ranges: times 2^63 apart, long runs of one stamp, infinities, tiny and huge numbers."""

from __future__ import annotations

import shlex
import subprocess
import sys
import textwrap
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from marks import needs_cuda, needs_extension
from ops_oracles import IMPLEMENTATIONS, PUBLIC, REFERENCE, assert_same_bits, bits, dense

from robocache.ops import StreamSpec, fuse_multimodal, resample_trajectories

each_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)
FIRST, LAST = -(2**63), 2**63 - 1
NAT = FIRST  # NumPy's and pandas' missing stamp


def one_row(impl, times, values, targets, **options):
    """Column and validity of one row, as Python lists."""
    values = torch.tensor(values, dtype=options.pop("dtype", torch.float64)).reshape(1, len(times), -1)
    out, valid = impl.resample(values, torch.tensor([times]), torch.tensor([targets]), return_valid=True, **options)
    return out[0, :, 0].tolist(), valid[0].tolist()


# ---- spans of 2^63 and more -----------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("max_gap", [None, 1_000_000, LAST])
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest", "previous", "next", "angle"])
def test_a_span_that_does_not_fit_is_too_wide(impl, mode, max_gap):
    """A missing stamp sorts first; today lies 1.79e18 after 0, so more than 2^63 after it."""
    now = 1_790_000_000_000_000_000
    _, valid = one_row(impl, [NAT, now], [777.0, 1.0], [now - 10**17], mode=mode, max_gap=max_gap)
    within = mode in ("nearest", "next") and max_gap != 1_000_000
    assert valid == [within]


@each_implementation
def test_the_nearer_is_the_nearer_over_any_distance(impl):
    times, values = [FIRST, LAST], [1.0, 2.0]
    out, valid = one_row(impl, times, values, [-2, -1, 0, 1], mode="nearest")
    assert out == [1.0, 1.0, 2.0, 2.0]  # -1 is 2^63 - 1 after the first, and 2^63 before the last
    assert valid == [True, True, True, True]


@each_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_between_the_ends_of_time(impl, dtype):
    targets = [FIRST, FIRST + 1, -(2**62), -1, 0, 2**62, LAST - 1, LAST]
    out, valid = one_row(impl, [FIRST, LAST], [0.0, 1.0], targets, dtype=dtype)
    expected = [float(Fraction(t - FIRST, LAST - FIRST)) for t in targets]
    assert np.allclose(out, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)
    assert valid == [True, *[False] * 6, True]


@each_implementation
@pytest.mark.parametrize(("target", "offset"), [(FIRST + 5, 10), (LAST - 5, -10), (0, FIRST), (-1, LAST)])
@pytest.mark.parametrize("mode", ["nearest", "previous", "next"])
def test_an_offset_does_not_carry_a_target_round_the_clock(impl, target, offset, mode):
    times, values = torch.tensor([[-100, 100]]), torch.tensor([[[1.0], [2.0]]])
    out, _ = impl.fuse([StreamSpec(values, times, mode, offset=offset)], torch.tensor([[target]]))
    assert float(out) == (1.0 if target - offset < 0 else 2.0)


@each_implementation
def test_bins_of_targets_at_the_ends(impl):
    times, values = [FIRST, -(2**62), 0, 2**62, LAST - 1], [1.0, 2.0, 4.0, 8.0, 16.0]
    out, valid = one_row(impl, times, values, [-(2**62), 2**62], mode="mean")
    # edges: -2^63 (mirrored), 0, and 2^63 (mirrored, stopping at the last time)
    assert np.allclose(out, [1.5, 28 / 3])
    assert valid == [True, True]
    out, _ = one_row(impl, times, values, [FIRST, LAST], mode="mean")
    assert np.allclose(out, [1.5, 28 / 3])  # the edge between them is -0.5


@each_implementation
@pytest.mark.parametrize("time_dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("mode", ["linear", "cubic", "previous", "nearest", "angle"])
def test_an_infinite_stamp_is_infinitely_far(impl, mode, time_dtype):
    times = torch.tensor([[-np.inf, 0.0, 1.0]], dtype=time_dtype)
    values = torch.tensor([[[5.0], [1.0], [3.0]]])
    targets = torch.tensor([[-1.0, 0.0, 0.5]], dtype=time_dtype)
    _, valid = impl.resample(values, times, targets, mode=mode, return_valid=True)
    assert valid.tolist() == [[mode == "nearest", True, True]]
    (_, valid) = impl.resample(values[:, :1], times[:, :1], targets, mode=mode, return_valid=True)
    assert not valid.any()


# ---- long runs of one stamp -----------------------------------------------------------------------------------------


@needs_extension
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest", "next", "mean"])
@pytest.mark.parametrize("where", ["before", "on", "after"])
def test_a_stuck_clock_costs_no_more_than_one_that_runs(mode, where):
    n = 300_000
    values, targets = torch.ones(1, n, 1), torch.arange(n)[None] + {"before": -2 * n, "on": -n // 2, "after": 1}[where]
    stuck = torch.zeros(1, n, dtype=torch.int64)
    begin = time.process_time()
    out = resample_trajectories(values, stuck, targets, mode=mode)
    assert time.process_time() - begin < 10  # 0.1 s; a step at a time it is an hour
    assert out.eq(1).all()


@each_implementation
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest", "previous", "next", "mean"])
def test_the_last_of_any_run_counts(impl, mode):
    """Runs of 1 to 40 equal stamps, their last sample the only one that is not NaN."""
    lengths = np.arange(1, 41)
    times = np.repeat(np.arange(40) * 10, lengths)
    values = np.full(len(times), np.nan)
    values[np.cumsum(lengths) - 1] = np.arange(40) * 10.0
    targets = np.arange(0, 391)
    out, valid = one_row(impl, times.tolist(), values.tolist(), targets.tolist(), mode=mode)
    short, short_valid = one_row(
        impl, (np.arange(40) * 10).tolist(), (np.arange(40) * 10.0).tolist(), targets.tolist(), mode=mode
    )
    assert out == short
    assert valid == short_valid
    if mode == "linear":
        assert np.allclose(out, targets)


# ---- infinities, NaN ------------------------------------------------------------------------------------------------

INF = float("inf")


@each_implementation
@pytest.mark.parametrize("width", [1, 3, 16, 40])
@pytest.mark.parametrize(
    "samples",
    [[INF, 1.0], [1.0, INF], [-INF, 1.0, 2.0], [1.0, 2.0, INF, 3.0], [INF, INF], [INF, -INF], [1.0, np.nan], [INF] * 9],
    ids=str,
)
def test_a_mean_with_infinities_is_numpys(impl, samples, width):
    times = torch.arange(len(samples))[None]
    values = torch.tensor(samples)[None, :, None].repeat(1, 1, width)
    values[..., width // 2] = 7
    targets = torch.tensor([[len(samples) // 2, len(samples) * 10]])
    out = impl.resample(values, times, targets, mode="mean")
    with np.errstate(invalid="ignore"):
        expected = np.mean(np.array(samples, np.float32))
    row = np.full(width, expected)
    row[width // 2] = 7
    assert np.array_equal(out[0, 0].numpy(), row, equal_nan=True)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "out_dtype", [torch.float64, torch.float32, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_an_angle_that_is_none_has_one_code(dtype, out_dtype):
    """Whatever made it: other instructions, or another sign, gave other bits."""
    values = torch.tensor([np.nan, -np.nan, INF, -INF, np.nan, 1.0], dtype=dtype)[None, :, None]
    values[0, 4] = -values[0, 0]
    times = torch.arange(6)[None] * 2
    codes = bits(resample_trajectories(values, times, torch.arange(10)[None], mode="angle", out_dtype=out_dtype))
    assert len(codes.unique()) == 1


@pytest.mark.parametrize("out_dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_nan_has_one_8_bit_code(out_dtype):
    codes = torch.tensor([0x7FC00000, 0x7F800001, -1, -0x400000], dtype=torch.int32).view(torch.float32)
    times = torch.arange(4)[None]
    out = PUBLIC.resample(codes[None, :, None], times, times, mode="previous", out_dtype=out_dtype)
    assert out.float().isnan().all()
    assert len(bits(out).unique()) == 1


# ---- sums and roundings ---------------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("samples", [255, 256, 257, 512, 1000, 2_000_000])
def test_a_mean_of_many_samples_is_exact_to_rounding(impl, samples, dtype):
    generator = torch.Generator().manual_seed(samples)
    values = (torch.rand(1, samples, 1, generator=generator) + 0.1).to(dtype)
    times = torch.arange(samples)[None]
    targets = torch.tensor([[samples // 2, samples * 3]])
    out = impl.resample(values, times, targets, mode="mean", out_dtype=torch.float32)
    expected = float(values.double().mean())
    assert abs(float(out[0, 0, 0]) - expected) <= 2.5e-7 * expected


@needs_extension
@pytest.mark.parametrize("width", [1, 5, 7, 20, 150])
def test_sums_of_any_length_are_the_references(width):
    generator = torch.Generator().manual_seed(width)
    values = torch.randn(1, 5000, width, generator=generator)
    times = torch.arange(5000)[None] // 2  # each stamp twice
    targets = torch.cumsum(torch.tensor([1, 30, 600, 3, 1100, 520, 2]), 0)[None]
    for t in (times, torch.arange(5000)[None]):
        assert_same_bits(
            PUBLIC.resample(values, t, targets, mode="mean", return_valid=True),
            REFERENCE.resample(values, t, targets, mode="mean", return_valid=True),
        )


@each_implementation
@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (torch.int8, 0.5 + 1e-12, 1.0),
        (torch.int8, 0.5 - 1e-12, 0.0),
        (torch.int8, 2.5 + 1e-12, 3.0),
        (torch.int8, -2.5 - 1e-12, -3.0),
        (torch.float8_e4m3fn, 1.0625 + 1e-12, 1.125),
        (torch.float8_e4m3fn, 1.1875 - 1e-12, 1.125),
        (torch.float8_e5m2, 1.125 + 1e-12, 1.25),
        (torch.float8_e5m2, -1.125 - 1e-12, -1.25),
    ],
    ids=str,
)
def test_float64_to_8_bits_is_rounded_once(impl, dtype, value, expected):
    values, times = torch.full((1, 1, 2), value, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64)
    for scale in (None, 1.0, 2.0):
        scaled = values if scale is None else values * scale
        assert (
            impl.resample(scaled, times, times, out_dtype=dtype, out_scale=scale).float().flatten().tolist()
            == [expected] * 2
        )


@each_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("power", ["least", "tiny", "huge", "most"])
@pytest.mark.parametrize("mode", ["slerp", "pose"])
def test_a_quaternion_of_any_length_has_its_direction(impl, dtype, power, mode):
    info = torch.finfo(dtype)
    length = {"least": info.smallest_normal, "tiny": info.tiny**0.6, "huge": info.max**0.6, "most": info.max / 2}[power]
    quarter = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.5**0.5, 0.5**0.5]], dtype=torch.float64)
    values = (quarter * length).to(dtype)[None]
    if mode == "pose":
        values = torch.cat([torch.ones(1, 2, 3, dtype=dtype), values], dim=-1)
    out, valid = impl.resample(
        values, torch.tensor([[0, 10]]), torch.tensor([[0, 5, 10]]), mode=mode, return_valid=True
    )
    eighth = [0.0, 0.0, np.sin(np.pi / 8), np.cos(np.pi / 8)]
    expected = torch.stack([quarter[0], torch.tensor(eighth, dtype=torch.float64), quarter[1]])
    assert valid.all()
    assert torch.allclose(out[0, :, -4:].double(), expected, atol=4 * info.eps)


@each_implementation
@pytest.mark.parametrize(
    "bad", [[0.0] * 4, [np.nan, 0.0, 0.0, 1.0], [INF, 0.0, 0.0, 1.0], [-INF, INF, 1.0, 0.0]], ids=str
)
def test_a_quaternion_without_direction_is_still_none(impl, bad):
    values = torch.tensor([[bad, [0.0, 0.0, 0.0, 1.0]]])
    out, valid = impl.resample(
        values, torch.tensor([[0, 10]]), torch.tensor([[0, 5, 10]]), mode="slerp", return_valid=True
    )
    assert valid.tolist() == [[False, False, True]]
    assert out[0, 0].eq(0).all()


# ---- threads --------------------------------------------------------------------------------------------------------


@needs_extension
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory the Linux way")
def test_threads_that_cannot_start_are_done_without():
    """As in a container whose limit is reached: no address space is left for another thread's stack."""
    script = textwrap.dedent(
        """
        import resource
        import torch
        from robocache.ops import resample_trajectories
        torch.set_num_threads(8)
        times = torch.arange(200_000)[None]
        values = torch.ones(1, 200_000, 14)
        expected = resample_trajectories(values, times, times)  # everything is loaded and allocated once
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20), resource.RLIM_INFINITY))
        import threading
        try:
            threading.Thread(target=print).start()
        except RuntimeError:
            pass
        else:
            print("a thread could start: the test shows nothing")
        assert torch.equal(resample_trajectories(values, times, times), expected)
        print("done")
        """
    )
    # a thread's stack is what the main one's may be when the process begins: 512 MiB
    command = f"ulimit -s {512 * 1024} && exec {shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest", "previous", "next", "mean", "angle"])
@pytest.mark.parametrize("width", [1, 7, 16, 40])
def test_cuda_is_the_cpu_at_the_extremes(mode, width):
    generator = torch.Generator().manual_seed(width)
    values = torch.randn(3, 4000, width, generator=generator)
    values[0, ::7] = INF
    values[1, ::11] = -np.nan
    times = torch.stack(
        [
            torch.zeros(4000, dtype=torch.int64),
            torch.randint(FIRST, LAST, (4000,), generator=generator).sort().values,
            torch.arange(4000) // 700,
        ]
    )
    targets = torch.stack(
        [
            torch.arange(-50, 50),
            torch.randint(FIRST, LAST, (100,), generator=generator).sort().values,
            torch.arange(100) // 3 - 10,
        ]
    )
    for period in (None, 360.0) if mode in ("angle", "mean") else (None,):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            stream = StreamSpec(values.to(dtype), times, mode, None, 10**18, 5, period)
            moved = stream._replace(values=stream.values.cuda(), times=times.cuda())
            assert_same_bits(fuse_multimodal([moved], targets.cuda()), fuse_multimodal([stream], targets))


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_a_stuck_clock_does_not_hang_a_gpu():
    n = 1_000_000
    values, times = torch.ones(1, n, 1, device="cuda"), torch.zeros(1, n, dtype=torch.int64, device="cuda")
    targets = torch.arange(n, device="cuda")[None] - n // 2
    begin = time.monotonic()
    for mode in ("linear", "cubic", "nearest", "next"):
        assert resample_trajectories(values, times, targets, mode=mode, validate=False).eq(1).all()
    assert time.monotonic() - begin < 20


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_scales_go_into_a_graph():
    values, times, targets = (x.cuda() for x in dense(1, 8, 200, 100))
    options = {"out_dtype": torch.int8, "out_scale": 0.05, "validate": False}
    expected = resample_trajectories(values, times, targets, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = resample_trajectories(values, times, targets, **options)
    graph.replay()
    assert_same_bits([captured], [expected])


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_rows_that_32_bits_cannot_count_are_refused_on_a_gpu():
    times = torch.zeros(1, 1, dtype=torch.int64, device="cuda")
    values = torch.zeros(1, 1, 1, device="cuda").expand(1, 1, 2**26)
    with pytest.raises((ValueError, RuntimeError), match="columns; on a GPU below"):
        resample_trajectories(values, times, times, out_dtype=torch.int8, validate=False)


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_tensors_of_two_devices_are_refused_with_a_name():
    values, times, targets = dense(1, 2, 20, 10)
    for arguments in (
        (values.cuda(), times.cuda(), targets),
        (values, times, targets.cuda()),
        (values.cuda(), times, targets),
    ):
        with pytest.raises(ValueError, match="cuda"):
            resample_trajectories(*arguments)
