"""Voxels within a memory limit: the same bits as in one call, a piece at a time.

What one call holds beside its inputs, for N points, M voxels that hold one, and G voxels in all grids:

============================  ====================================================================================
dense occupancy, count        ``G`` and ``4 G`` bytes of result; nothing else on a GPU, 8 N on the CPU
dense sum, mean, min, max     the result, and on a GPU 20 N + 12 min(N, G) + G / 7 of work; on the CPU 16 N + 32 M
sparse                        20 to 28 bytes a voxel and its values; 8 N of ``point_to_voxel``; on a GPU 16 to 20 N
                              + G / 7 of work, or, for ``points`` and grids much larger than their clouds, up to 116 N
reference                     about 200 N
============================  ====================================================================================

Pieces are whole clouds while one fits, else slabs of one cloud's grid along x: each looks at all points of the cloud.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robocache.ops import _voxel
from robocache.ops._voxel import Arguments
from robocache.ops.grid import Grid
from robocache.ops.voxelize import Bounds, DenseVoxels, SparseVoxels, checked_arguments, voxelize_slab

logger = logging.getLogger("robocache")

_MB = 2**20
#: Work of one call beyond points and results, a point: bits and places, or a hash table at its emptiest.
_WORK_BYTES, _HASH_BYTES = 32, 120


@dataclass(frozen=True, slots=True)
class VoxelMemory:
    """Bytes of one call at most. ``input``: points and features; ``output``: results; ``work``: what goes again."""

    input: int
    output: int
    work: int

    @property
    def total(self) -> int:
        return self.input + self.output + self.work


def estimate_voxel_memory(
    clouds: int,
    points: int,
    *,
    voxel_size: float | Sequence[float],
    bounds: Bounds,
    width: int = 3,
    features: int = 0,
    dtype: torch.dtype = torch.float32,
    reduce: str = "occupancy",
    layout: str = "dense",
    max_points: int = 32,
) -> VoxelMemory:
    """Bytes that :func:`~robocache.ops.voxelize.voxelize` of ``clouds`` with ``points`` each holds at once, at most:
    a sparse result is taken to have a voxel a point, or all that there are.

    ``width``: columns of the points; ``features``: columns of separate features of the same dtype, 0 for none.
    """
    grid = Grid.of(voxel_size, bounds)
    columns = features or width
    return _memory(clouds * points, clouds * grid.cells, width + features, columns, dtype, reduce, layout, max_points)


def _memory(
    points: int,
    cells: int,
    width: int,
    columns: int,
    dtype: torch.dtype,
    reduce: str,
    layout: str,
    max_points: int,
) -> VoxelMemory:
    value = {"occupancy": 1, "count": 4}.get(reduce, columns * dtype.itemsize)
    voxels = min(points, cells)
    if layout == "dense":
        work = points * (8 if reduce in ("occupancy", "count") else _WORK_BYTES) + cells // 7
        return VoxelMemory(points * width * dtype.itemsize, cells * value, work)
    hashed = reduce == "points" or cells // 7 > 64 * points
    work = points * _HASH_BYTES if hashed else points * _WORK_BYTES + cells // 7
    row = 16 + value * (max_points if reduce == "points" else 1)
    return VoxelMemory(points * width * dtype.itemsize, voxels * row + points * 8, work)


def voxelize_chunked(
    points: Tensor,
    *,
    voxel_size: float | Sequence[float],
    bounds: Bounds,
    offsets: Tensor | None = None,
    features: Tensor | None = None,
    reduce: str = "occupancy",
    layout: str = "dense",
    max_points: int = 32,
    max_memory_mb: float = 1024,
    device: torch.device | str | None = None,
) -> DenseVoxels | SparseVoxels:
    """:func:`~robocache.ops.voxelize.voxelize`, bit for bit, a piece of the batch at a time.

    max_memory_mb: bytes / 2**20 that one piece may take (:func:`estimate_voxel_memory`); one layer of one cloud's grid
                   is always tried. Slabs need rows that rise along x, so ``points`` is cut by clouds alone.
    device:        where the pieces are computed, for instance ``cuda`` for clouds in host memory; the result is on the
                   points' device all the same. None: the points' device.

    Where the device runs out of memory the pieces are halved before ``torch.OutOfMemoryError`` is raised. No gradients.
    """
    whole = checked_arguments(points, voxel_size, bounds, offsets, features, reduce, layout, max_points)
    points, offsets, features, shape = whole.points, whole.offsets, whole.features, whole.shape
    device = points.device if device is None else torch.device(device)
    batch = _voxel.batch_of(points, offsets)
    starts = torch.arange(batch + 1) * points.shape[1] if offsets is None else offsets.cpu()
    sizes, layers = starts.diff().tolist(), shape[0]
    x = points if features is None else features
    width = points.shape[-1] + (0 if features is None else features.shape[-1])

    def nbytes(first: int, last: int, slab: int) -> int:
        cells = (last - first) * slab * shape[1] * shape[2]
        count = sum(sizes[first:last])
        return _memory(count, cells, width, x.shape[-1], x.dtype, reduce, layout, max_points).total

    limit, first, layer = max_memory_mb * _MB, 0, 0
    pieces: list[tuple[int, int, int, DenseVoxels | SparseVoxels]] = []
    with torch.no_grad():
        while first < batch:
            last, end = first + 1, layers
            while layer == 0 and last < batch and nbytes(first, last + 1, layers) <= limit:
                last += 1
            while reduce != "points" and end - layer > 1 and nbytes(first, last, end - layer) > limit:
                end = layer + max(1, (end - layer) // 2)
            try:
                piece = voxelize_slab(_cut(whole, starts, first, last, device)._replace(slab=(layer, end)), layout)
                moved = type(piece)(*(t.to(points.device) for t in piece))
            except torch.OutOfMemoryError:
                if last - first == 1 and (end - layer == 1 or reduce == "points"):
                    raise
                limit = min(limit, nbytes(first, last, end - layer)) / 2
            else:
                pieces.append((first, last, layer, moved))
                first, layer = (last, 0) if end == layers else (first, end)
                continue
            # The exception is gone here, and with it the failed call's tensors: the allocator can give them back.
            torch.cuda.empty_cache()
            logger.warning("out of memory on %s: going on with pieces of %.3g MB", device, limit / _MB)
    if not pieces:
        return voxelize_slab(whole, layout)
    return _joined_dense(pieces, sizes) if layout == "dense" else _joined_sparse(pieces, starts)


def _cut(a: Arguments, starts: Tensor, first: int, last: int, device: torch.device) -> Arguments:
    """Clouds ``first`` to ``last``."""
    if a.offsets is None:
        rows, offsets = slice(first, last), None
    else:
        rows = slice(int(starts[first]), int(starts[last]))
        offsets = (a.offsets[first : last + 1] - a.offsets[first]).to(device)
    features = None if a.features is None else a.features[rows].to(device)
    return a._replace(points=a.points[rows].to(device), offsets=offsets, features=features)


def _dropped(pieces: list, sizes: list[int]) -> Tensor:
    """A slab drops the points of the others: what no slab of a cloud has kept is dropped."""
    left = torch.tensor(sizes)
    for first, last, _, piece in pieces:
        left[first:last] -= torch.tensor(sizes[first:last]) - piece.dropped.cpu()
    return left.to(pieces[0][3].dropped.device)


def _joined_dense(pieces: list, sizes: list[int]) -> DenseVoxels:
    clouds: dict[tuple[int, int], list[Tensor]] = {}
    for first, last, _, piece in pieces:
        clouds.setdefault((first, last), []).append(piece.values)
    values = torch.cat([torch.cat(slabs, dim=1) for slabs in clouds.values()])
    return DenseVoxels(values, _dropped(pieces, sizes))


def _joined_sparse(pieces: list, starts: Tensor) -> SparseVoxels:
    rows, before = [], 0
    where = torch.full((int(starts[-1]),), -1, dtype=torch.int64)
    for first, last, _, piece in pieces:
        found = piece.point_to_voxel.cpu()
        at = where[int(starts[first]) : int(starts[last])]
        at[found >= 0] = found[found >= 0] + before
        before += len(piece.counts)
        counts = torch.zeros(len(starts) - 1, dtype=torch.int64)
        counts[first:last] = piece.offsets.diff().cpu()
        rows.append(counts)
    device = pieces[0][3].counts.device
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.stack(rows).sum(0).cumsum(0)])
    coordinates, values, counts = (
        torch.cat([getattr(piece, name) for *_, piece in pieces]) for name in ("coordinates", "values", "counts")
    )
    dropped = _dropped(pieces, starts.diff().tolist())
    return SparseVoxels(coordinates, values, counts, offsets.to(device), where.to(device), dropped)
