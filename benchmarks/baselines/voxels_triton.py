# ruff: noqa: N803  (Triton names compile-time constants in capitals)
"""Voxels in Triton, tuned: a one stored a point for occupancy; for sparse means float additions into a dense table of
sums and counts, then ``nonzero`` for the voxels in use. These additions have no order: sums differ from run to run.
Written for float32 points of packed rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from voxel_cases import Clouds

CONFIGS = [triton.Config({"BLOCK": b}, num_warps=w) for b, w in ((128, 4), (256, 4), (512, 4), (512, 8), (1024, 8))]


@triton.jit
def _cell(points, i, keep, P, lx, ly, lz, sx, sy, sz, X, Y, Z, F: tl.constexpr):
    at = points + i * F
    x = tl.floor((tl.load(at, mask=keep) - lx) / sx).to(tl.int64)
    y = tl.floor((tl.load(at + 1, mask=keep) - ly) / sy).to(tl.int64)
    z = tl.floor((tl.load(at + 2, mask=keep) - lz) / sz).to(tl.int64)
    inside = keep & (x >= 0) & (x < X) & (y >= 0) & (y < Y) & (z >= 0) & (z < Z)
    return ((i // P * X + x) * Y + y) * Z + z, inside


@triton.autotune(CONFIGS, key=["N"], reset_to_zero=["dropped"])
@triton.jit
def _mark(points, out, dropped, N, P, lx, ly, lz, sx, sy, sz, X, Y, Z, F: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cell, inside = _cell(points, i, i < N, P, lx, ly, lz, sx, sy, sz, X, Y, Z, F)
    tl.store(out + cell, 1, mask=inside)
    tl.atomic_add(dropped + i // P, 1, mask=(i < N) & (inside == 0))


@triton.autotune(CONFIGS, key=["N"], reset_to_zero=["table", "dropped"])
@triton.jit
def _add(points, table, cells, dropped, N, P, lx, ly, lz, sx, sy, sz, X, Y, Z, F: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cell, inside = _cell(points, i, i < N, P, lx, ly, lz, sx, sy, sz, X, Y, Z, F)
    at = table + cell * (F + 1)
    for c in tl.static_range(F):
        tl.atomic_add(at + c, tl.load(points + i * F + c, mask=inside), mask=inside, sem="relaxed")
    tl.atomic_add(at + F, 1.0, mask=inside, sem="relaxed")
    tl.store(cells + i, tl.where(inside, cell, -1), mask=i < N)
    tl.atomic_add(dropped + i // P, 1, mask=(i < N) & (inside == 0))


def build(clouds: Clouds) -> Callable[[Clouds], tuple[Tensor, ...]]:
    batch, count, width = clouds.points.shape
    if clouds.reduce == "points" or clouds.points.dtype != torch.float32:
        raise NotImplementedError("written for float32 occupancy and mean")
    if clouds.reduce == "mean" and batch * clouds.grid.cells * (width + 1) * 4 > 20e9:
        raise NotImplementedError("its dense table would take more than 20 GB")
    grid = clouds.grid
    numbers = (batch * count, count, *grid.lower, *grid.size, *grid.shape)
    cells = math.prod(grid.shape)

    def launches(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(batch * count, meta["BLOCK"]),)

    def occupancy(c: Clouds) -> tuple[Tensor, ...]:
        out = torch.zeros((batch, *grid.shape), dtype=torch.int8, device="cuda")
        dropped = torch.zeros(batch, dtype=torch.int64, device="cuda")
        _mark[launches](c.points, out, dropped, *numbers, F=width)
        return out.view(torch.bool), dropped

    def mean(c: Clouds) -> tuple[Tensor, ...]:
        table = torch.zeros((batch * cells, width + 1), device="cuda")
        cell = torch.empty(batch * count, dtype=torch.int64, device="cuda")
        dropped = torch.zeros(batch, dtype=torch.int64, device="cuda")
        _add[launches](c.points, table, cell, dropped, *numbers, F=width)
        if clouds.layout == "dense":
            out = table[:, :width] / table[:, width:].clamp(min=1)
            return out.view(batch, *grid.shape, width), dropped
        used = table[:, width].nonzero().squeeze(1)
        row = torch.empty(batch * cells, dtype=torch.int32, device="cuda")
        row[used] = torch.arange(len(used), dtype=torch.int32, device="cuda")
        found = table[used]
        _, ny, nz = grid.shape
        within = used % cells
        coordinates = torch.stack([within // (ny * nz), within // nz % ny, within % nz], dim=1).int()
        rows = torch.bincount(used // cells, minlength=batch)
        offsets = torch.cat([rows.new_zeros(1), rows.cumsum(0)])
        point_to_voxel = torch.where(cell < 0, -1, row[cell.clamp(min=0)].long())
        return coordinates, found[:, :width] / found[:, width:], found[:, width].int(), offsets, point_to_voxel, dropped

    return occupancy if clouds.reduce == "occupancy" else mean
