"""Voxels as one would write them in PyTorch: linear cell numbers, then scatter (dense), or ``unique`` and
``index_add_`` (sparse sums), or two sorts (the first points of each voxel). CPU and GPU.
Coordinates stay in the points' dtype.

``index_add_`` on a GPU adds in any order: its sums may differ from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from voxel_cases import Clouds


def build(clouds: Clouds, *, compiled: bool) -> Callable[[Clouds], tuple[Tensor, ...]]:
    call = {"occupancy": _occupancy, "mean": _mean_dense if clouds.layout == "dense" else _mean, "points": _first}[
        clouds.reduce
    ]
    if compiled:
        torch._dynamo.reset()
        call = torch.compile(call, mode="max-autotune-no-cudagraphs", dynamic=False)
    lower, size, shape = clouds.grid.lower, clouds.grid.size, clouds.grid.shape
    return lambda c: call(c.points, lower, size, shape, c.max_points)


def _cells(points: Tensor, lower: tuple, size: tuple, shape: tuple) -> tuple[Tensor, Tensor]:
    """Linear numbers over all clouds, and which points are inside."""
    batch = torch.arange(points.shape[0], device=points.device)[:, None]
    inside, cell = torch.ones_like(points[..., 0], dtype=torch.bool), batch
    for axis in range(3):
        index = torch.floor((points[..., axis] - lower[axis]) / size[axis]).long()
        inside = inside & (index >= 0) & (index < shape[axis])
        cell = cell * shape[axis] + index
    return cell.reshape(-1), inside.reshape(-1)


def _occupancy(points: Tensor, lower: tuple, size: tuple, shape: tuple, most: int) -> tuple[Tensor, Tensor]:
    cell, inside = _cells(points, lower, size, shape)
    total = points.shape[0] * math.prod(shape)
    out = torch.zeros(total + 1, dtype=torch.bool, device=points.device)
    out[torch.where(inside, cell, total)] = True
    return out[:total].view(points.shape[0], *shape), (~inside).view(points.shape[:2]).sum(1)


def _mean_dense(points: Tensor, lower: tuple, size: tuple, shape: tuple, most: int) -> tuple[Tensor, Tensor]:
    cell, inside = _cells(points, lower, size, shape)
    total, width = points.shape[0] * math.prod(shape), points.shape[-1]
    cell = torch.where(inside, cell, total)
    sums = points.new_zeros(total + 1, width).index_add_(0, cell, points.reshape(-1, width))
    counts = points.new_zeros(total + 1).index_add_(0, cell, torch.ones_like(points.reshape(-1, width)[:, 0]))
    out = (sums / counts.clamp(min=1)[:, None])[:total]
    return out.view(points.shape[0], *shape, width), (~inside).view(points.shape[:2]).sum(1)


def _unpacked(cell: Tensor, batch: int, shape: tuple) -> tuple[Tensor, Tensor]:
    _, ny, nz = shape
    cells = math.prod(shape)
    within = cell % cells
    coordinates = torch.stack([within // (ny * nz), within // nz % ny, within % nz], dim=1).int()
    rows = torch.bincount(cell // cells, minlength=batch)
    return coordinates, torch.cat([rows.new_zeros(1), rows.cumsum(0)])


def _mean(points: Tensor, lower: tuple, size: tuple, shape: tuple, most: int) -> tuple[Tensor, ...]:
    cell, inside = _cells(points, lower, size, shape)
    flat = points.reshape(-1, points.shape[-1])
    used, row, counts = torch.unique(cell[inside], return_inverse=True, return_counts=True)
    sums = points.new_zeros(len(used), flat.shape[1]).index_add_(0, row, flat[inside])
    coordinates, offsets = _unpacked(used, points.shape[0], shape)
    point_to_voxel = torch.full_like(cell, -1).masked_scatter_(inside, row)
    dropped = (~inside).view(points.shape[:2]).sum(1)
    return coordinates, sums / counts[:, None], counts.int(), offsets, point_to_voxel, dropped


def _first(points: Tensor, lower: tuple, size: tuple, shape: tuple, most: int) -> tuple[Tensor, ...]:
    cell, inside = _cells(points, lower, size, shape)
    kept = inside.nonzero().squeeze(1)
    flat = points.reshape(-1, points.shape[-1])
    keys, order = cell[kept].sort(stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    new[1:] = keys[1:] != keys[:-1]
    by_cell = new.cumsum(0) - 1
    starts = new.nonzero().squeeze(1)
    rank = torch.arange(len(keys), device=keys.device) - starts[by_cell]
    first = kept[order[starts]]
    row_of = torch.empty_like(starts)
    by_first = first.argsort()
    row_of[by_first] = torch.arange(len(first), device=keys.device)
    row = row_of[by_cell]
    values = points.new_zeros(len(starts), most, flat.shape[1])
    keep = rank < most
    values[row[keep], rank[keep]] = flat[kept[order[keep]]]
    counts = torch.bincount(row, minlength=len(starts))
    coordinates, offsets = _unpacked(keys[starts[by_first]], points.shape[0], shape)
    point_to_voxel = torch.full_like(cell, -1)
    point_to_voxel[kept[order]] = row
    return coordinates, values, counts.int(), offsets, point_to_voxel, (~inside).view(points.shape[:2]).sum(1)
