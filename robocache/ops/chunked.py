"""Alignment within a memory limit: the same bytes as in one call, a piece at a time.

What one call holds beside its inputs, per operation:

==========  ===========================================================================================
compiled    output ``K * (D * out + M)`` bytes for K targets, D columns and M streams in all; nothing else.
            Values or stamps whose last dimension is not contiguous are copied once.
reference   the output and, one stream after the other, up to ``K * (220 * D + 200)`` bytes of float64 working
            values (cubic; linear a fifth of it) and ``N * (20 * D + 30)`` for its N samples (mean)
==========  ===========================================================================================

Pieces are whole rows while a row fits, else targets of one row, each with the samples that its values depend on:
the bracket and one sample beyond (``cubic``), or the bins (``mean``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from robocache import scratch
from robocache.ops import _fuse, _library
from robocache.ops.align import Array, StreamSpec, look, run, to_arguments
from robocache.ops.modes import MODES
from robocache.ops.reference.align import unshifted

logger = logging.getLogger("robocache")
T = TypeVar("T", Tensor, "Tensor | None")

_MB = 2**20
#: Working bytes of the plain-torch reference beyond its inputs and results: measured, as (a column, fixed).
_REFERENCE_SAMPLE_BYTES = (20, 30)
_REFERENCE_TARGET_BYTES = (220, 200)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of one alignment. ``input``: values, stamps and targets; ``output``: values and validity."""

    input: int
    output: int

    @property
    def total(self) -> int:
        return self.input + self.output


def estimate_memory(
    batch: int,
    source_len: int,
    target_len: int,
    dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    time_dtype: torch.dtype = torch.int64,
    out_dtype: torch.dtype | None = None,
) -> MemoryEstimate:
    """Bytes that ``resample_trajectories`` of ``[B, S, D]`` to ``[B, T, D]`` holds at once, inputs included.

    Fusing several streams holds the sum over them. Jagged batches: ``batch=1`` and the totals as lengths.
    """
    sample, target, result = _element_bytes(dim, dtype, time_dtype, out_dtype)
    return MemoryEstimate(batch * (source_len * sample + target_len * target), batch * target_len * result)


def estimate_chunk_size(
    batch: int,
    source_len: int,
    target_len: int,
    dim: int,
    *,
    max_memory_mb: float = 1024,
    dtype: torch.dtype = torch.float32,
    time_dtype: torch.dtype = torch.int64,
    out_dtype: torch.dtype | None = None,
) -> tuple[int, int]:
    """How many rows, and how many targets of each, one piece may have: ``(rows, T)``, or ``(1, t)`` with t < T.

    Never less than ``(1, 1)``. Within a row the samples are taken as spread evenly over the targets.
    """
    whole = estimate_memory(
        1, source_len, target_len, dim, dtype=dtype, time_dtype=time_dtype, out_dtype=out_dtype
    ).total
    limit = max_memory_mb * _MB
    if whole <= limit:
        return max(1, min(batch, int(limit // max(1, whole)))), target_len
    return 1, max(1, int(target_len * limit / whole))


def fuse_multimodal_chunked(
    streams: Sequence[StreamSpec],
    target_times: Array,
    *,
    target_offsets: Array | None = None,
    max_memory_mb: float = 1024,
    device: torch.device | str | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: Array | float | None = None,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`~robocache.ops.align.fuse_multimodal`, bit for bit, a piece of the batch at a time.

    max_memory_mb: bytes / 2**20 that one piece may take with its samples, targets and results. A single target is
                   always tried, whatever its samples take.
    device:        where the pieces are computed, for instance ``cuda`` for inputs in host memory; the result is on
                   the inputs' device all the same. None: the inputs' device.

    The other arguments, the result and the errors are those of ``fuse_multimodal``. Where the device runs out of
    memory the pieces are halved, down to a single target, before ``torch.OutOfMemoryError`` is raised.
    """
    if not max_memory_mb > 0:
        raise ValueError(f"max_memory_mb must be above 0, got {max_memory_mb}")
    whole = to_arguments(streams, target_times, target_offsets, out_dtype, out_scale)
    _fuse.check(whole)
    if validate:
        look(whole)
    targets = whole.targets
    device = torch.device(device) if device is not None else targets.device
    width = sum(x.shape[-1] for x in whole.values)
    target_bytes = targets.dtype.itemsize + width * whole.out_dtype.itemsize + len(streams)
    extra_sample = extra_target = (0, 0)
    if not _library.has_kernel("fuse", device):
        extra_sample, extra_target = _REFERENCE_SAMPLE_BYTES, _REFERENCE_TARGET_BYTES
        target_bytes += width * extra_target[0] + extra_target[1]
    sources = []
    for x, times, offsets, mode, shift in zip(
        whole.values, whole.times, whole.offsets, whole.modes, whole.shifts, strict=True
    ):
        nbytes = x.shape[-1] * (x.dtype.itemsize + extra_sample[0]) + times.dtype.itemsize + extra_sample[1]
        sources.append(_Source(_Rows((x, times), offsets), nbytes, MODES[mode] == "mean", shift))
    plan = _Plan(sources, _Rows((targets,), whole.target_offsets), target_bytes)
    shapes = (*targets.shape, width), (*targets.shape, len(streams))
    out_scale = _moved(whole.out_scale, device)

    def compute(piece: _Piece) -> tuple[Tensor, Tensor]:
        return run(
            whole._replace(
                values=[_moved(s.values, device) for s in piece.sources],
                times=[_moved(s.times, device) for s in piece.sources],
                offsets=[_moved(s.offsets, device) for s in piece.sources],
                targets=_moved(piece.targets, device),
                target_offsets=_moved(piece.target_offsets, device),
                out_scale=out_scale,
            )
        )

    limit = int(max_memory_mb * _MB)
    at, out, valid = _Position(0, 0), None, None
    while at.row < plan.batch:
        piece = plan.piece(at, limit)
        try:
            value, ok = compute(piece)
            if piece.targets.numel() == targets.numel():  # all at once: these are the results
                out, valid = value.to(targets.device).view(shapes[0]), ok.to(targets.device).view(shapes[1])
            else:
                if out is None or valid is None:
                    out, valid = _room(targets, shapes[0], whole.out_dtype), _room(targets, shapes[1], torch.bool)
                count, taken = value.shape[:-1].numel(), slice(piece.skip, piece.skip + piece.stop - piece.start)
                for all_of_it, some in ((out, value), (valid, ok)):
                    columns = some.shape[-1]
                    flat = all_of_it.view(targets.numel(), columns)
                    flat[piece.start : piece.stop] = some.reshape(count, columns)[taken]
            del value, ok
        except torch.OutOfMemoryError:
            if piece.stop - piece.start <= 1:
                raise
            limit = min(limit, piece.nbytes) // 2
        else:
            at = piece.next
            scratch.tidy()
            continue
        # The exception is gone here, and with it the failed call's tensors: the allocator can give them back.
        torch.cuda.empty_cache()
        logger.warning("out of memory on %s: going on with pieces of %.3g MB", device, limit / _MB)
    if out is None or valid is None:
        return targets.new_empty(shapes[0], dtype=whole.out_dtype), targets.new_empty(shapes[1], dtype=torch.bool)
    return out, valid


def _room(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor beside ``like`` that has not been filled; one of host memory waits on the disk where it is large."""
    nbytes = math.prod(shape) * dtype.itemsize
    if like.device.type != "cpu" or not nbytes:
        return like.new_empty(shape, dtype=dtype)
    return torch.from_numpy(scratch.room(nbytes, np.uint8)).view(dtype).view(shape)


def resample_trajectories_chunked(
    source_data: Array,
    source_times: Array,
    target_times: Array,
    *,
    max_memory_mb: float = 1024,
    device: torch.device | str | None = None,
    mode: str = "linear",
    source_offsets: Array | None = None,
    source_scale: Array | float | None = None,
    target_offsets: Array | None = None,
    max_gap: float | None = None,
    period: float | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: Array | float | None = None,
    return_valid: bool = False,
    validate: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`~robocache.ops.align.resample_trajectories`, bit for bit, a piece of the batch at a time: see
    :func:`fuse_multimodal_chunked` for ``max_memory_mb`` and ``device``."""
    out, valid = fuse_multimodal_chunked(
        [StreamSpec(source_data, source_times, mode, source_offsets, max_gap, 0, period, source_scale)],
        target_times,
        target_offsets=target_offsets,
        max_memory_mb=max_memory_mb,
        device=device,
        out_dtype=out_dtype,
        out_scale=out_scale,
        validate=validate,
    )
    return (out, valid.squeeze(-1)) if return_valid else out


def _moved(x: T, device: torch.device) -> T:
    return x.to(device) if isinstance(x, Tensor) else x


class _Position(NamedTuple):
    """Where the next piece starts: a row of the batch, and a target of that row."""

    row: int
    target: int


class _Samples(NamedTuple):
    """What a piece has of one stream."""

    values: Tensor
    times: Tensor
    offsets: Tensor | None


class _Piece(NamedTuple):
    """One call. Its results, without the ``skip`` first, are targets ``start`` to ``stop`` of the flattened output."""

    sources: list[_Samples]
    targets: Tensor
    target_offsets: Tensor | None
    skip: int
    start: int
    stop: int
    nbytes: int
    next: _Position


class _Rows:
    """Dense ``[B, n, ...]`` or jagged ``[N, ...]`` tensors, cut by rows without copying."""

    def __init__(self, tensors: tuple[Tensor, ...], offsets: Tensor | None):
        self.tensors, self.offsets = tensors, offsets
        if offsets is None:
            batch, length = tensors[-1].shape
            self.bounds = torch.arange(batch + 1) * length
        else:
            self.bounds = offsets.cpu()

    def range(self, first: int, last: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Rows ``first`` to ``last``, and their offsets where they are jagged."""
        if self.offsets is None:
            return tuple(t[first:last] for t in self.tensors), None
        low, high = int(self.bounds[first]), int(self.bounds[last])
        return tuple(t[low:high] for t in self.tensors), self.offsets[first : last + 1] - low

    def row(self, row: int) -> tuple[Tensor, ...]:
        """One row, ``[n, ...]``."""
        tensors, offsets = self.range(row, row + 1)
        return tensors if offsets is not None else tuple(t[0] for t in tensors)


class _Source(NamedTuple):
    """One stream: its rows, the bytes of a sample, whether its values are of bins, and by what its stamps are late."""

    rows: _Rows
    sample_bytes: int
    bins: bool
    shift: float


class _Plan:
    """Cuts a batch into pieces of about ``limit`` bytes."""

    def __init__(self, sources: Sequence[_Source], target: _Rows, target_bytes: int):
        self.sources, self.target, self.target_bytes = sources, target, target_bytes
        self.bins = any(s.bins for s in sources)
        self.batch = len(target.bounds) - 1
        self.nbytes = target.bounds * target_bytes  # of all rows before, [B + 1]
        for s in sources:
            self.nbytes = self.nbytes + s.rows.bounds * s.sample_bytes

    def piece(self, at: _Position, limit: int) -> _Piece:
        if at.target == 0:
            last = int(torch.searchsorted(self.nbytes, self.nbytes[at.row] + limit, right=True)) - 1
            if last > at.row:
                return self._rows(at.row, last)
        return self._targets(at, limit)

    def _rows(self, first: int, last: int) -> _Piece:
        streams = []
        for s in self.sources:
            (values, times), offsets = s.rows.range(first, last)
            streams.append(_Samples(values, times, offsets))
        (targets,), target_offsets = self.target.range(first, last)
        return _Piece(
            streams,
            targets,
            target_offsets,
            skip=0,
            start=int(self.target.bounds[first]),
            stop=int(self.target.bounds[last]),
            nbytes=int(self.nbytes[last] - self.nbytes[first]),
            next=_Position(last, 0),
        )

    def _targets(self, at: _Position, limit: int) -> _Piece:
        rows = [s.rows.row(at.row) for s in self.sources]
        (targets,) = self.target.row(at.row)
        wanted = len(targets) - at.target
        while True:
            count = min(wanted, max(1, limit // self.target_bytes))
            # A bin's edges lie midway to the neighbouring targets, so a piece of bins sees one more on either side.
            first, last = max(0, at.target - self.bins), min(len(targets), at.target + count + self.bins)
            windows = [
                _window(times, unshifted(targets[first:last], s.shift), bins=s.bins)
                for s, (_, times) in zip(self.sources, rows, strict=True)
            ]
            samples = sum((w.stop - w.start) * s.sample_bytes for s, w in zip(self.sources, windows, strict=True))
            nbytes = (last - first) * self.target_bytes + samples
            if nbytes <= limit or count <= 1:
                break
            wanted = max(1, min(count - 1, count * limit // nbytes))
        output = int(self.target.bounds[at.row]) + at.target
        finished = at.target + count == len(targets)
        return _Piece(
            [_Samples(values[None, w], times[None, w], None) for (values, times), w in zip(rows, windows, strict=True)],
            targets[None, first:last],
            None,
            skip=at.target - first,
            start=output,
            stop=output + count,
            nbytes=nbytes,
            next=_Position(at.row + 1, 0) if finished else _Position(at.row, at.target + count),
        )


def _window(times: Tensor, targets: Tensor, *, bins: bool) -> slice:
    """The samples of one sorted row that values at ``targets`` depend on."""
    if len(targets) == 0:
        return slice(0, 0)
    low, high = targets.min(), targets.max()
    if bins and len(targets) > 1:  # the first and last bins of a row reach half a step beyond their targets
        low = unshifted(low, unshifted(targets[1], targets[0]))
        high = unshifted(high, -unshifted(targets[-1], targets[-2]))
    times = times.contiguous()
    start, stop = int(torch.searchsorted(times, low)), int(torch.searchsorted(times, high, right=True))
    for _ in range(2):  # the bracket's own sample, then cubic's beyond it, each with all its repeats
        if start > 0:
            start = int(torch.searchsorted(times, times[start - 1]))
        if stop < len(times):
            stop = int(torch.searchsorted(times, times[stop], right=True))
    return slice(start, stop)


def _element_bytes(
    dim: int, dtype: torch.dtype, time_dtype: torch.dtype, out_dtype: torch.dtype | None
) -> tuple[int, int, int]:
    """Bytes of one sample, of one target and of one result (its values and its validity)."""
    return (
        dim * dtype.itemsize + time_dtype.itemsize,
        time_dtype.itemsize,
        dim * (out_dtype or dtype).itemsize + 1,
    )
