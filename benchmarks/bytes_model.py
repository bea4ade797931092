"""What an alignment must move, counted exactly from the rows that its targets use.

``ideal``    each used sample row and its 8-byte stamp once, every target, every output value, every validity flag
``sectors``  the same rows and stamps as the distinct 32-byte sectors that they touch: L2 delivers nothing less.
             Targets and outputs are contiguous and count as they are
``pieces``   the same as the distinct pieces of 64 bytes: what L2 fetches from memory at least, unless it is told
             otherwise (robocache.ops.limit_l2_fetch)

Used rows: the bracket's (cubic: one more on each side), the copied one (nearest, previous, next), all (mean: its bins
cover the recording). Stamps that only the search looks at, and offsets, count in neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cases import Batch
from torch import Tensor

from robocache.ops import StreamSpec, fuse_multimodal

SECTOR, PIECE = 32, 64
COPYING = ("nearest", "previous", "next")


@dataclass(frozen=True)
class Bytes:
    ideal: int
    sectors: int
    pieces: int


def bytes_of(batch: Batch, out: Tensor, valid: Tensor) -> Bytes:
    """``out``, ``valid``: what the call returned, for their sizes."""
    around = batch.targets.nbytes + out.nbytes + valid.nbytes
    ideal = around
    touched = {SECTOR: around, PIECE: around}
    for stream in batch.streams:
        rows = used_rows(batch, stream)
        row_bytes = stream.values.shape[-1] * stream.values.element_size()
        stamp_bytes = stream.times.element_size()
        ideal += len(rows) * (row_bytes + stamp_bytes)
        for size in touched:
            touched[size] += size * blocks_of(rows, row_bytes, stream.values.data_ptr(), size)
            touched[size] += size * blocks_of(rows, stamp_bytes, stream.times.data_ptr(), size)
    return Bytes(ideal, touched[SECTOR], touched[PIECE])


def blocks_of(rows: Tensor, row_bytes: int, address: int, size: int) -> int:
    """Distinct aligned blocks of ``size`` bytes under ``rows`` (rising, distinct) of an array at ``address``."""
    if len(rows) == 0 or row_bytes == 0:
        return 0
    begin = rows * row_bytes + address % size
    first, last = begin // size, (begin + row_bytes - 1) // size
    first[1:] = torch.maximum(first[1:], last[:-1] + 1)  # rows rise, so a block is shared with those just before
    return int((last - first + 1).clamp_(min=0).sum())


def used_rows(batch: Batch, stream: StreamSpec) -> Tensor:
    """Rising numbers of the sample rows (over all episodes) that some target's value depends on."""
    total = stream.times.numel()
    everything = torch.arange(total, device=stream.times.device)
    if stream.mode == "mean":
        return everything
    # Aligning the rows' own numbers tells which rows are picked; float64 holds them exactly.
    columns = [everything]
    if stream.mode == "cubic":
        start = _episode_start(stream)
        columns += [torch.where(everything > start, everything - 1, everything)]
        columns += [torch.where(everything + 1 < _episode_stop(stream), everything + 1, everything)]
    numbers = torch.stack(columns, dim=-1).double().view(*stream.times.shape, len(columns))
    used = torch.zeros(total, dtype=torch.bool, device=everything.device)
    for mode in (stream.mode,) if stream.mode in COPYING else ("previous", "next"):
        probe = StreamSpec(numbers, stream.times, mode, stream.offsets, offset=stream.offset)
        picked, _ = fuse_multimodal([probe], batch.targets, target_offsets=batch.target_offsets, validate=False)
        picked = picked[~picked.isnan()].long()
        used[picked] = True
    return used.nonzero().squeeze(1)


def _episode_start(stream: StreamSpec) -> Tensor:
    if stream.offsets is None:
        return (
            torch.arange(len(stream.times), device=stream.times.device).repeat_interleave(stream.times.shape[1])
            * stream.times.shape[1]
        )
    return stream.offsets[:-1].repeat_interleave(stream.offsets.diff())


def _episode_stop(stream: StreamSpec) -> Tensor:
    if stream.offsets is None:
        return _episode_start(stream) + stream.times.shape[1]
    return stream.offsets[1:].repeat_interleave(stream.offsets.diff())
