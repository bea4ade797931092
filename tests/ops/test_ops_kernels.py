"""The compiled operator: against the plain-torch reference, CPU against CUDA, and as torch sees it."""

from __future__ import annotations

import math

import pytest
import torch
from marks import needs_cuda, needs_extension
from ops_oracles import (
    EXACT_MODES,
    FLOAT32_ERROR,
    MODES,
    PUBLIC,
    REFERENCE,
    angle_error,
    assert_close,
    assert_same_bits,
    dense,
    ragged,
)

from robocache.ops import MODES as MODE_NAMES
from robocache.ops import StreamSpec, fuse_multimodal, limit_l2_fetch, resample_trajectories

each_mode = pytest.mark.parametrize("mode", MODES)
LENGTHS, TARGETS = (900, 0, 1, 2, 333, 64), (700, 5, 7, 6, 0, 500)


def operands(*ragged_batches, modes, target, max_gap=-1, out_dtype=torch.float32, out_scale=None):
    """Arguments of ``torch.ops.robocache.fuse`` for jagged batches that share the targets of ``target``."""
    return (
        [r.values for r in ragged_batches],
        [r.times for r in ragged_batches],
        [r.offsets for r in ragged_batches],
        [MODE_NAMES.index(mode) for mode in modes],
        [max_gap] * len(modes),
        [0] * len(modes),
        [2 * math.pi if mode == "angle" else 0 for mode in modes],
        target.targets,
        target.target_offsets,
        out_dtype,
        out_scale,
    )


# ---- kernel against reference ---------------------------------------------------------------------------------------


@needs_extension
@each_mode
@pytest.mark.parametrize("time_dtype", ["int64", "float64", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kernel_is_the_reference(mode, time_dtype, dtype):
    for seed in range(3):
        r = ragged(seed, mode, lengths=LENGTHS, targets=TARGETS, time_dtype=time_dtype, dtype=dtype, width=5)
        max_gap = (r.times[3] - r.times[0]).item()
        out, valid = PUBLIC.resample(**r.arguments(), mode=mode, max_gap=max_gap, return_valid=True)
        expected = REFERENCE.resample(**r.arguments(), mode=mode, max_gap=max_gap, return_valid=True)
        assert_same_bits([valid], [expected[1]])
        if mode in EXACT_MODES and dtype == torch.float32:
            assert_same_bits([out], [expected[0]])
        elif mode in EXACT_MODES:  # the reference's float64 fma may be off in the last bit, about once in 1e9
            assert_close(out, expected[0], mode, 2.3e-16)
            assert float((out != expected[0]).logical_and(~out.isnan()).double().mean()) < 1e-4
        else:
            assert_close(out, expected[0], mode, FLOAT32_ERROR[mode] if dtype == torch.float32 else 1e-14)


@needs_extension
@pytest.mark.parametrize(
    "out_dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_stored_types_are_the_references(dtype, out_dtype):
    r = ragged(21, lengths=LENGTHS, targets=TARGETS, dtype=dtype, width=9)
    narrow = out_dtype.itemsize == 1
    scale = torch.linspace(0.01, 0.1, 9) if narrow else None
    for mode in ("nearest", "linear"):
        options = {"mode": mode, "out_dtype": out_dtype, "out_scale": scale}
        out, expected = PUBLIC.resample(**r.arguments(), **options), REFERENCE.resample(**r.arguments(), **options)
        if dtype == torch.float64 and (narrow or (out_dtype == torch.float64 and mode == "linear")):
            differing = (out.float() != expected.float()) & ~out.float().isnan()
            assert float(differing.double().mean()) < 1e-3  # a tie seen from float64 or from float32
        else:
            assert_same_bits([out], [expected])


@needs_extension
def test_every_16_bit_value_passes_unchanged():
    for dtype in (torch.float16, torch.bfloat16):
        codes = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        stamps = torch.arange(2**16)[None]
        widened = PUBLIC.resample(codes[None, :, None], stamps, stamps, mode="previous", out_dtype=torch.float32)
        assert_same_bits([widened[0, :, 0]], [codes.float()])
        assert_same_bits([PUBLIC.resample(codes[None, :, None], stamps, stamps)[0, :, 0]], [codes])


@needs_extension
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8], ids=str
)
def test_rounding_of_any_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-(2**31), 2**31, (1, 200_000, 1), generator=generator).to(torch.int32)
    codes[:, ::2] &= -(2**19)  # many ties
    values, stamps = codes.view(torch.float32), torch.arange(200_000)[None]
    out = PUBLIC.resample(values, stamps, stamps, mode="nearest", out_dtype=dtype)
    assert_same_bits([out], [REFERENCE.resample(values, stamps, stamps, mode="nearest", out_dtype=dtype)])


@needs_extension
def test_threads_do_not_change_the_result():
    values, times, targets = dense(2, 64, 200, 900, "mean", width=20)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = PUBLIC.resample(values, times, targets, mode="mean", return_valid=True)
        torch.set_num_threads(4)
        assert_same_bits(PUBLIC.resample(values, times, targets, mode="mean", return_valid=True), alone)
    finally:
        torch.set_num_threads(before)


# ---- CUDA against CPU -----------------------------------------------------------------------------------------------


def on(device, *tensors):
    return tuple(x.to(device) for x in tensors)


@pytest.mark.gpu
@needs_cuda
@needs_extension
@each_mode
@pytest.mark.parametrize("time_dtype", ["int64", "float64", "float32"])
def test_cuda_is_the_cpu(mode, time_dtype):
    for seed, width in enumerate((1, 3, 14, 200)):
        r = ragged(seed, mode, lengths=LENGTHS, targets=TARGETS, time_dtype=time_dtype, width=width)
        cpu = PUBLIC.resample(**r.arguments(), mode=mode, return_valid=True)
        arguments = {name: x.cuda() for name, x in r.arguments().items()}
        out, valid = (x.cpu() for x in PUBLIC.resample(**arguments, mode=mode, return_valid=True))
        assert_same_bits([valid], [cpu[1]])
        assert_same_bits([out], [cpu[0]])


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize(
    ("batch", "samples", "targets"), [(1, 5000, 3000), (32, 100, 77), (256, 33, 20), (70000, 3, 2)]
)
def test_cuda_is_the_cpu_on_dense_batches(batch, samples, targets):
    generator = torch.Generator().manual_seed(batch)
    times = torch.randint(0, 10**9, (batch, samples), generator=generator).sort(dim=1).values
    wanted = torch.randint(0, 10**9, (batch, targets), generator=generator).sort(dim=1).values
    values = torch.randn(batch, samples, 4, generator=generator)
    for mode in ("linear", "cubic", "nearest"):
        cpu = PUBLIC.resample(values, times, wanted, mode=mode, return_valid=True)
        assert_same_bits(PUBLIC.resample(*on("cuda", values, times, wanted), mode=mode, return_valid=True), cpu)


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8], ids=str
)
def test_cuda_stores_as_the_cpu(dtype):
    r = ragged(4, lengths=LENGTHS, targets=TARGETS, dtype=torch.bfloat16, width=6)
    cpu = PUBLIC.resample(**r.arguments(), out_dtype=dtype)
    assert_same_bits([PUBLIC.resample(**{k: v.cuda() for k, v in r.arguments().items()}, out_dtype=dtype)], [cpu])


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize(
    "widths",
    [(1,), (7,), (8,), (14,), (26,), (33,), (40,), (128,), (300,), (3, 7), (7, 16, 8), (128, 26), (33, 128, 7)],
    ids=str,
)
def test_cuda_is_the_cpu_whatever_width_and_alignment(dtype, skip, widths):
    def moved(x):  # by `skip` elements against any alignment
        return torch.cat([x.new_zeros(skip), x.flatten()]).cuda()[skip:].view(x.shape)

    batches = [ragged(i, lengths=LENGTHS, targets=TARGETS, dtype=dtype, width=w) for i, w in enumerate(widths)]
    values, *rest = operands(*batches, modes=["linear"] * len(widths), target=batches[0], out_dtype=dtype)
    cuda = [[x.cuda() for x in a] if isinstance(a[0], torch.Tensor) else a for a in rest[:2]]
    cuda += [x.cuda() if isinstance(x, torch.Tensor) else x for x in rest[2:]]
    expected = torch.ops.robocache.fuse(values, *rest)
    assert_same_bits(torch.ops.robocache.fuse([moved(x) for x in values], *cuda), expected)


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "modes", [("linear",) * 4, ("mean", "linear", "cubic", "slerp"), ("nearest", "mean", "angle", "slerp")]
)
@pytest.mark.parametrize("samples", [700, 20_000])
def test_cuda_is_the_cpu_for_streams_denser_than_the_targets(samples, modes, dtype):
    """Rows that are narrow (few samples a target) and that are not (many); widths of any access; bins of 1 to many."""
    streams, batches = [], [dense(i, 3, samples, 300, width=w) for i, w in enumerate((7, 128, 33, 4))]
    for mode, (values, times, _) in zip(modes, batches, strict=True):
        streams.append(StreamSpec(values.to(dtype), times, mode))
    cuda = [StreamSpec(*on("cuda", s.values, s.times), s.mode) for s in streams]
    targets = batches[0][2]
    assert_same_bits(fuse_multimodal(cuda, targets.cuda()), fuse_multimodal(streams, targets))


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize(("width", "dtype"), [(3, torch.bfloat16), (32, torch.float32)], ids=str)
def test_cuda_is_the_cpu_on_millions_of_jagged_rows(width, dtype):
    """So many that a warp takes several tiles."""
    generator = torch.Generator().manual_seed(width)
    counts = torch.randint(0, 3000, (6000,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(counts)
    times = within * 1000 + torch.randint(0, 900, within.shape, generator=generator)
    values = torch.randn(len(times), width, generator=generator).to(dtype)
    arguments = {"source_offsets": offsets, "target_offsets": offsets, "target_times": within * 1000 + 500}
    cpu = PUBLIC.resample(values, times, **arguments, return_valid=True)
    cuda = {name: x.cuda() for name, x in arguments.items()}
    assert_same_bits(PUBLIC.resample(values.cuda(), times.cuda(), **cuda, return_valid=True), cpu)


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize("mode", ["linear", "cubic", "pose"])
def test_cuda_reads_nothing_of_streams_without_samples(mode):
    width = 7 if mode == "pose" else 2
    times = torch.empty(3, 0, dtype=torch.int64, device="cuda")
    targets = torch.arange(5, device="cuda").repeat(3, 1)
    out, valid = PUBLIC.resample(
        torch.empty(3, 0, width, device="cuda"), times, targets, mode=mode, return_valid=True, validate=False
    )
    assert out.isnan().all()
    assert not valid.any()


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.parametrize("wrong", [[5, 0], [0, 0], [-3, 5], [2, 5], [0, 500]])
def test_wrong_target_offsets_on_cuda_are_no_wild_reads(wrong):
    """What comes out is anything; compute-sanitizer sees that nothing outside is read."""
    values, times, targets = on("cuda", *dense(3, 1, 40, 5))
    offsets = torch.tensor(wrong, device="cuda")
    out = PUBLIC.resample(values, times, targets[0], target_offsets=offsets, validate=False)
    assert out.cpu().shape == (5, 3)


@pytest.mark.gpu
@pytest.mark.slow
@needs_cuda
@needs_extension
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_cuda_counts_the_elements_of_a_huge_episode(mode):
    """2^31 of them and more, of which only the last rows are looked at."""
    width, rows = 7, 2**31 // 7 + 5000
    values = torch.zeros(1, rows, width, dtype=torch.bfloat16, device="cuda")
    values[:, -200:] = torch.randn(200, width, generator=torch.Generator().manual_seed(1)).bfloat16().cuda()
    times = torch.arange(rows, device="cuda")[None] * 1000
    targets = times[:, -100:] + 300
    found = PUBLIC.resample(values, times, targets, mode=mode, return_valid=True, validate=False)
    expected = PUBLIC.resample(*on("cpu", values[:, -300:], times[:, -300:], targets), mode=mode, return_valid=True)
    assert_same_bits(found, expected)


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_cuda_runs_on_the_current_stream_and_in_a_graph():
    values, times, targets = on("cuda", *dense(1, 8, 200, 100))
    expected = PUBLIC.resample(values, times, targets)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = PUBLIC.resample(values, times, targets, validate=False)
    torch.cuda.current_stream().wait_stream(stream)
    assert_same_bits([again], [expected])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = PUBLIC.resample(values, times, targets, validate=False)
    values.mul_(2)
    graph.replay()
    assert_same_bits([captured], [PUBLIC.resample(values, times, targets)])


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_two_streams_at_once_and_inputs_freed_meanwhile():
    batches = [dense(seed, 16, 4000, 2000, width=7) for seed in range(2)]
    expected = [PUBLIC.resample(*b, return_valid=True) for b in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    for _ in range(20):
        found = []
        for batch, stream in zip(batches, streams, strict=True):
            values, times, targets = on("cuda", *batch)
            stream.wait_stream(torch.cuda.current_stream())
            found.append(
                resample_trajectories(values, times, targets, return_valid=True, validate=False, stream=stream)
            )
            spec = StreamSpec(values, times)
            found.append(fuse_multimodal([spec], targets, validate=False, stream=stream))
            del values, times, targets, spec
            torch.ones(16, 4000, 7, device="cuda").fill_(torch.nan)  # takes memory that was freed too early
        torch.cuda.synchronize()
        for k, answer in enumerate(expected):
            assert_same_bits([x.cpu() for x in found[2 * k]], answer)
            fused, valid = found[2 * k + 1]
            assert_same_bits([fused.cpu(), valid[..., 0].cpu()], answer)


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_a_kernel_that_begins_early_sees_what_those_before_it_wrote():
    """Overlapping launches: each call reads what the one before it wrote."""
    values, times, targets = on("cuda", *dense(3, 2, 300, 300, width=5))
    alone = chained = values.float()
    for _ in range(50):
        chained = resample_trajectories(chained, times, times, mode="nearest", validate=False) * 1.0
        chained = resample_trajectories(chained, times, targets, validate=False)[:, : times.shape[1]].contiguous()
    for _ in range(50):
        alone = resample_trajectories(alone, times, times, mode="nearest", validate=False) * 1.0
        torch.cuda.synchronize()
        alone = resample_trajectories(alone, times, targets, validate=False)[:, : times.shape[1]].contiguous()
        torch.cuda.synchronize()
    assert_same_bits([chained], [alone])


@pytest.mark.gpu
@needs_cuda
@needs_extension
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_cards_at_once():
    batch = dense(4, 8, 2000, 1000, width=7)
    expected = PUBLIC.resample(*batch, return_valid=True)
    for device in ("cuda:1", "cuda:0"):  # neither needs to be the current one
        assert_same_bits([x.cpu() for x in PUBLIC.resample(*on(device, *batch), return_valid=True)], expected)


@pytest.mark.gpu
@needs_cuda
@needs_extension
def test_the_l2_fetch_limit_is_set_and_told():
    before = limit_l2_fetch(32)
    try:
        assert limit_l2_fetch(128) == 32 and limit_l2_fetch(64) == 128
        with pytest.raises(ValueError, match="use 32, 64 or 128"):
            limit_l2_fetch(48)
    finally:
        limit_l2_fetch(before)


@needs_extension
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_l2_limit_says_so():
    with pytest.raises(RuntimeError, match="built without CUDA"):
        limit_l2_fetch()


@pytest.mark.gpu
@needs_cuda
def test_reference_on_cuda_is_the_reference_on_cpu():
    for mode in MODES:
        r = ragged(6, mode, lengths=LENGTHS, targets=TARGETS)
        out = REFERENCE.resample(**{k: v.cuda() for k, v in r.arguments().items()}, mode=mode)
        expected = REFERENCE.resample(**r.arguments(), mode=mode)
        assert_close(out, expected, mode, 2.4e-7)


# ---- as torch sees it -----------------------------------------------------------------------------------------------


@needs_extension
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def test_opcheck(device):
    a = ragged(1, "linear", lengths=(9, 4), targets=(5, 6))
    b = ragged(2, "pose", lengths=(3, 8), targets=(5, 6))
    moved = [[x.to(device) for x in group] for group in operands(a, b, modes=("linear", "pose"), target=a)[:3]]
    rest = [
        x.to(device) if isinstance(x, torch.Tensor) else x
        for x in operands(a, b, modes=("linear", "pose"), target=a)[3:]
    ]
    torch.library.opcheck(torch.ops.robocache.fuse.default, (*moved, *rest))


@needs_extension
def test_fake_tensors_have_the_right_shape():
    a, b = ragged(1, "linear"), ragged(2, "pose")
    arguments = operands(a, b, modes=("linear", "pose"), target=a, out_dtype=torch.bfloat16)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = [
            [mode.from_tensor(x) for x in group] if isinstance(group, list) and isinstance(group[0], torch.Tensor)
            else mode.from_tensor(group) if isinstance(group, torch.Tensor) else group
            for group in arguments
        ]  # fmt: skip
        out, valid = torch.ops.robocache.fuse(*fake)
    real = torch.ops.robocache.fuse(*arguments)
    assert [(x.shape, x.dtype) for x in (out, valid)] == [(x.shape, x.dtype) for x in real]


@needs_extension
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def test_compiles_into_one_graph(device):
    values, times, targets = on(device, *dense(5, 4, 30, 20))

    def model(values, times, targets):
        streams = [StreamSpec(values, times, "linear"), StreamSpec(values * 2, times, "previous", max_gap=10**7)]
        fused, valid = fuse_multimodal(streams, targets, validate=False)
        return fused.sum(dim=-1) * valid.all(dim=-1)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(values, times, targets), model(values, times, targets))


@needs_extension
def test_exports():
    values, times, targets = dense(5, 4, 30, 20)

    class Align(torch.nn.Module):
        def forward(self, values, times, targets):
            return fuse_multimodal([StreamSpec(values, times)], targets, validate=False)

    program = torch.export.export(Align(), (values, times, targets))
    assert_same_bits(program.module()(values, times, targets), Align()(values, times, targets))


def test_angle_error_knows_the_circle():
    assert float(angle_error(torch.tensor(3.14159), torch.tensor(-3.14159))) < 1e-4
