"""Chunked alignment: the bytes of one call, within a limit, and past a device that runs out of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from marks import needs_cuda
from ops_oracles import MODES, assert_same_bits, dense, ragged

from robocache.ops import StreamSpec, chunked, fuse_multimodal, resample_trajectories
from robocache.ops.align import run
from robocache.ops.chunked import (
    estimate_chunk_size,
    estimate_memory,
    fuse_multimodal_chunked,
    resample_trajectories_chunked,
)

each_mode = pytest.mark.parametrize("mode", MODES)
KIB = 1 / 1024


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the pieces that were computed: ``(source stamps, targets)`` each."""
    shapes = []

    def spy(arguments):
        shapes.append((tuple(arguments.times[0].shape), tuple(arguments.targets.shape)))
        return run(arguments)

    monkeypatch.setattr(chunked, "run", spy)
    return shapes


def cut_as_compiled(monkeypatch):
    """Pieces of the same size with and without the extension."""
    monkeypatch.setattr(chunked, "_REFERENCE_SAMPLE_BYTES", (0, 0))
    monkeypatch.setattr(chunked, "_REFERENCE_TARGET_BYTES", (0, 0))


# ---- the same bytes -------------------------------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize("time_dtype", ["int64", "float64", "float32"])
@pytest.mark.parametrize("limit_kib", [1e-3, 0.7, 2, 9, 1024])
def test_jagged_pieces_are_the_whole(monkeypatch, calls, mode, time_dtype, limit_kib):
    cut_as_compiled(monkeypatch)
    lengths, targets = (120, 0, 1, 2, 333, 7, 7), (90, 5, 4, 6, 200, 0, 5)
    r = ragged(5, mode, lengths=lengths, targets=targets, time_dtype=time_dtype)
    options = {**r.arguments(), "mode": mode, "return_valid": True}
    options["max_gap"] = (r.times[3] - r.times[0]).item()
    whole = resample_trajectories(**options)
    assert_same_bits(resample_trajectories_chunked(**options, max_memory_mb=limit_kib * KIB), whole)
    assert (len(calls) == 1) == (limit_kib == 1024)
    if limit_kib == 1e-3:  # a target at a time, two more for the edges of its bin
        assert max(target[-1] for _, target in calls if len(target) == 2) <= (3 if mode == "mean" else 1)


@each_mode
def test_dense_pieces_are_the_whole(monkeypatch, calls, mode):
    cut_as_compiled(monkeypatch)
    values, times, targets = dense(6, 9, 60, 50, mode)
    whole = resample_trajectories(values, times, targets, mode=mode, return_valid=True)
    for limit_kib in (0.5, 3, 12):
        pieces = resample_trajectories_chunked(
            values, times, targets, mode=mode, return_valid=True, max_memory_mb=limit_kib * KIB
        )
        assert_same_bits(pieces, whole)
    shared = resample_trajectories(values, times[0], targets[0], mode=mode)
    assert_same_bits(
        [resample_trajectories_chunked(values, times[0], targets[0], mode=mode, max_memory_mb=KIB)], [shared]
    )


@each_mode
def test_any_strides_and_repeats(monkeypatch, mode):
    """Runs of equal stamps as long as a piece, targets that repeat, and strided inputs."""
    cut_as_compiled(monkeypatch)
    values, times, targets = dense(8, 2, 200, 80, mode)
    times = (times - times[:, :1]) // 40_000_000
    targets = ((targets - targets[:, :1]) // 20_000_000).t().contiguous().t()
    strided = values.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    whole = resample_trajectories(strided, times, targets, mode=mode, return_valid=True)
    pieces = resample_trajectories_chunked(
        strided, times, targets, mode=mode, return_valid=True, max_memory_mb=0.3 * KIB
    )
    assert_same_bits(pieces, whole)
    row = resample_trajectories(values[:1].expand(5, -1, -1), times[:1].expand(5, -1), targets[:1].expand(5, -1))
    assert_same_bits(
        [
            resample_trajectories_chunked(
                values[:1].expand(5, -1, -1),
                times[:1].expand(5, -1),
                targets[:1].expand(5, -1),
                max_memory_mb=4 * KIB,
            )
        ],
        [row],
    )


def test_stored_types_and_scales(monkeypatch):
    cut_as_compiled(monkeypatch)
    r = ragged(3)
    for scale in (0.02, torch.tensor([0.01, 0.02, 0.03])):
        options = {**r.arguments(), "out_dtype": torch.int8, "out_scale": scale}
        assert_same_bits(
            [resample_trajectories_chunked(**options, max_memory_mb=KIB)], [resample_trajectories(**options)]
        )


@pytest.mark.parametrize("width", [0, 2])
@pytest.mark.parametrize(("batch", "samples", "targets"), [(0, 5, 5), (3, 0, 5), (3, 5, 0), (3, 5, 5)])
def test_nothing_in_nothing_out(batch, samples, targets, width):
    arguments = (
        torch.ones(batch, samples, width),
        torch.arange(samples).expand(batch, -1),
        torch.arange(targets).expand(batch, -1),
    )
    assert_same_bits(
        resample_trajectories_chunked(*arguments, return_valid=True, max_memory_mb=1e-5),
        resample_trajectories(*arguments, return_valid=True),
    )


@pytest.mark.parametrize("mode", ["linear", "cubic", "mean"])
def test_one_long_episode_within_a_small_limit(monkeypatch, calls, mode):
    """120,000 samples of 14 columns (7.7 MB) to 12,000 targets within 1 MB."""
    cut_as_compiled(monkeypatch)
    values, times, targets = dense(1, 1, 120_000, 12_000, mode, width=14)
    whole = resample_trajectories(values, times, targets, mode=mode, return_valid=True)
    pieces = resample_trajectories_chunked(values, times, targets, mode=mode, return_valid=True, max_memory_mb=1)
    assert_same_bits(pieces, whole)
    largest = max(estimate_memory(1, source[-1], target[-1], 14).total for source, target in calls)
    assert largest <= 2**20
    assert len(calls) <= 2 * estimate_memory(1, 120_000, 12_000, 14).total / 2**20 + 1


def test_bins_reach_beyond_the_outer_targets(monkeypatch, calls):
    """Few targets in the middle of a fast recording: each piece needs samples far from its targets."""
    cut_as_compiled(monkeypatch)
    values, times, _ = dense(2, 1, 4000, 1)
    targets = times[:, 1500:2500:100] + 1
    whole = resample_trajectories(values, times, targets, mode="mean", return_valid=True)
    for limit_kib in (0.01, 6, 12):
        pieces = resample_trajectories_chunked(
            values, times, targets, mode="mean", return_valid=True, max_memory_mb=limit_kib * KIB
        )
        assert_same_bits(pieces, whole)
    assert max(source[-1] for source, _ in calls) < 1200


@pytest.mark.parametrize("limit_kib", [1e-3, 2, 30, 1024])
def test_fused_streams_of_every_mode_in_pieces(monkeypatch, limit_kib):
    """Streams of different rates, modes and clock shifts share the pieces of one timeline."""
    cut_as_compiled(monkeypatch)
    streams = []
    for k, mode in enumerate(MODES):
        values, times, targets = dense(k, 3, 40 + 31 * k, 50, mode)
        streams.append(StreamSpec(values, times, mode, max_gap=5_000_000 * k, offset=1_000_003 * (k - 4)))
    whole = fuse_multimodal(streams, targets)
    assert_same_bits(fuse_multimodal_chunked(streams, targets, max_memory_mb=limit_kib * KIB), whole)


# ---- running out of memory ------------------------------------------------------------------------------------------


def exhausted_above(monkeypatch, targets: int):
    """A device that holds pieces of at most so many targets."""
    tried = []

    def allocate(arguments):
        tried.append(arguments.targets.numel())
        if arguments.targets.numel() > targets:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(arguments)

    monkeypatch.setattr(chunked, "run", allocate)
    return tried


@pytest.mark.parametrize("mode", ["linear", "mean"])
@pytest.mark.parametrize("capacity", [1000, 90, 7, 3])
def test_out_of_memory_halves_the_pieces(monkeypatch, caplog, mode, capacity):
    r = ragged(5, mode, lengths=(120, 3, 333), targets=(90, 5, 200))
    options = {**r.arguments(), "mode": mode, "return_valid": True}
    whole = resample_trajectories(**options)
    tried = exhausted_above(monkeypatch, capacity)
    assert_same_bits(resample_trajectories_chunked(**options), whole)
    failed = [n for n in tried if n > capacity]
    assert len(failed) <= 9  # halving, not creeping
    assert len([m for m in caplog.messages if "out of memory" in m]) == len(failed)


def test_out_of_memory_for_a_single_target_is_raised(monkeypatch):
    values, times, targets = dense(1, 2, 50, 40)
    tried = exhausted_above(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        resample_trajectories_chunked(values, times, targets)
    assert tried[-1] == 1


def test_other_errors_are_not_retried(monkeypatch):
    def fail(arguments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(chunked, "run", fail)
    with pytest.raises(RuntimeError, match="illegal"):
        resample_trajectories_chunked(*dense(1, 2, 50, 40))


@pytest.mark.parametrize("offset", [20_000_000, 20e6, -20e6])
def test_an_offset_is_the_same_number_as_a_float(calls, offset):
    """Stamps of today in nanoseconds: beside a float they would be float32, which resolves 137 s there."""
    times = 1_790_000_000_000_000_000 + torch.arange(20_000)[None] * 1_000_000
    targets = times[:, ::7] + 300_000
    values = torch.arange(20_000.0)[None, :, None]
    stream = StreamSpec(values, times, offset=offset, max_gap=1_000_000)
    fused, valid = fuse_multimodal_chunked([stream], targets, max_memory_mb=0.05)
    expected = np.interp(np.arange(0, 20_000, 7) + 0.3 - offset / 1e6, np.arange(20_000), np.arange(20_000))
    assert np.allclose(fused[0, :, 0].numpy(), expected, atol=2e-3)
    inside = (np.arange(0, 20_000, 7) + 0.3 - offset / 1e6 > 0) & (
        np.arange(0, 20_000, 7) + 0.3 - offset / 1e6 < 19_999
    )
    assert np.array_equal(valid[0, :, 0].numpy(), inside)
    assert max(samples[1] for samples, _ in calls) < 6000  # of 20,000: the limit is kept


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan"), torch.tensor([1.0, 0.0, 1.0])])
@pytest.mark.parametrize("call", [resample_trajectories, resample_trajectories_chunked])
def test_a_scale_that_is_none_is_refused(call, scale):
    with pytest.raises(ValueError, match="out_scale must be above 0 and finite"):
        call(*dense(1, 2, 5, 4), out_dtype=torch.int8, out_scale=scale)


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_unsorted_times_are_named_as_in_one_call():
    values, times, targets = dense(1, 5, 30, 20)
    times[3, 7] = 0
    with pytest.raises(ValueError, match="row 3") as whole:
        resample_trajectories(values, times, targets)
    with pytest.raises(ValueError, match="row 3") as pieces:
        resample_trajectories_chunked(values, times, targets, max_memory_mb=KIB)
    assert str(pieces.value) == str(whole.value)
    resample_trajectories_chunked(values, times, targets, max_memory_mb=KIB, validate=False)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="max_memory_mb"):
        resample_trajectories_chunked(*dense(1, 2, 5, 4), max_memory_mb=limit)


def test_shapes_are_checked_before_anything_is_cut():
    values, times, targets = dense(1, 4, 30, 20)
    with pytest.raises((ValueError, RuntimeError), match="3"):
        resample_trajectories_chunked(values, times, targets[:3], max_memory_mb=KIB)
    with pytest.raises((ValueError, RuntimeError), match=r"30.*29"):
        resample_trajectories_chunked(values, times[:, :29], targets, max_memory_mb=KIB)
    with pytest.raises((ValueError, RuntimeError), match="slerp"):
        resample_trajectories_chunked(values, times, targets, mode="slerp", max_memory_mb=KIB)


# ---- estimates ------------------------------------------------------------------------------------------------------


def test_the_estimate_is_the_size_of_the_tensors():
    values, times, targets = dense(1, 4, 30, 20, width=5)
    out, valid = resample_trajectories(values, times, targets, out_dtype=torch.bfloat16, return_valid=True)
    estimate = estimate_memory(4, 30, 20, 5, out_dtype=torch.bfloat16)
    assert estimate.input == sum(x.nbytes for x in (values, times, targets))
    assert estimate.output == sum(x.nbytes for x in (out, valid))
    assert estimate.total == estimate.input + estimate.output
    assert estimate_memory(4, 30, 20, 5, dtype=torch.float64, time_dtype=torch.float32).input == 4 * (30 * 44 + 20 * 4)


@pytest.mark.parametrize("limit_mb", [1e-6, 0.01, 1, 100, 10_000])
@pytest.mark.parametrize(("batch", "samples", "targets"), [(256, 1000, 200), (1, 10**6, 10**5), (3, 0, 10), (2, 7, 0)])
def test_the_chunk_size_fits_and_is_not_wasteful(limit_mb, batch, samples, targets):
    rows, count = estimate_chunk_size(batch, samples, targets, 14, max_memory_mb=limit_mb)
    limit = limit_mb * 2**20
    assert 1 <= rows <= batch
    if (rows, count) != (1, 1):
        share = samples * count // max(1, targets)
        assert estimate_memory(rows, share, count, 14).total <= limit
    if count == targets and rows < batch:
        assert estimate_memory(rows + 1, samples, targets, 14).total > limit
    if 1 < count < targets:
        assert rows == 1
        assert estimate_memory(1, samples * (count + 1) // targets + 1, count + 1, 14).total > limit


# ---- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_pieces_go_to_the_device_and_results_come_back(mode):
    values, times, targets = dense(1, 3, 100_000, 12_000, mode, width=14)
    whole = resample_trajectories(values, times, targets, mode=mode, return_valid=True)
    resample_trajectories(
        values[:1].cuda(), times[:1].cuda(), targets[:1].cuda(), mode=mode
    )  # the context's own memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pieces = resample_trajectories_chunked(
        values, times, targets, mode=mode, return_valid=True, device="cuda", max_memory_mb=4
    )
    assert pieces[0].device.type == "cpu"
    assert_same_bits(pieces, whole)
    assert torch.cuda.max_memory_allocated() - before <= 5 * 2**20  # the allocator rounds each tensor up


@pytest.mark.gpu
@needs_cuda
def test_a_full_device_is_survived():
    values, times, targets = dense(1, 64, 2000, 1000, width=32)
    whole = resample_trajectories(values, times, targets)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 8 * 2**20) / total)
    try:
        assert_same_bits([resample_trajectories_chunked(values, times, targets, device="cuda")], [whole])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
