"""Voxels on the CPU by NumPy (linear cell numbers, ``unique``, ``bincount``) and Open3D's VoxelGrid (occupancy)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from voxel_cases import Clouds


def build(clouds: Clouds, *, library: str) -> Callable[[Clouds], tuple[Tensor, ...]]:
    if library == "open3d":
        import open3d as o3d

        if clouds.reduce != "occupancy" or len(set(clouds.grid.size)) > 1:
            raise NotImplementedError("a VoxelGrid is occupancy of cubes")
        return lambda c: _open3d(o3d, c)
    return {("occupancy", "dense"): _occupancy, ("mean", "sparse"): _mean, ("points", "sparse"): _first}[
        clouds.reduce, clouds.layout
    ]


def _cells(c: Clouds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = c.points.numpy().reshape(-1, c.points.shape[-1])
    index = np.floor((points[:, :3] - np.float32(c.grid.lower)) / np.float32(c.grid.size)).astype(np.int64)
    inside = ((index >= 0) & (index < c.grid.shape)).all(axis=1)
    x, y, z = c.grid.shape
    batch = np.arange(len(points)) // c.points.shape[1]
    return points, ((batch * x + index[:, 0]) * y + index[:, 1]) * z + index[:, 2], inside


def _occupancy(c: Clouds) -> tuple[Tensor, ...]:
    _, cell, inside = _cells(c)
    out = np.zeros(len(c.points) * math.prod(c.grid.shape), bool)
    out[cell[inside]] = True
    return torch.from_numpy(out.reshape(len(c.points), *c.grid.shape)), torch.from_numpy(~inside)


def _coordinates(used: np.ndarray, c: Clouds) -> Tensor:
    return torch.from_numpy(np.stack(np.unravel_index(used % c.grid.cells, c.grid.shape), axis=1).astype(np.int32))


def _mean(c: Clouds) -> tuple[Tensor, ...]:
    points, cell, inside = _cells(c)
    used, row, counts = np.unique(cell[inside], return_inverse=True, return_counts=True)
    sums = [np.bincount(row, weights=column, minlength=len(used)) for column in points[inside].T]
    means = (np.stack(sums, axis=1) / counts[:, None]).astype(np.float32)
    where = np.full(len(cell), -1)
    where[inside] = row
    return _coordinates(used, c), torch.from_numpy(means), torch.from_numpy(where)


def _first(c: Clouds) -> tuple[Tensor, ...]:
    points, cell, inside = _cells(c)
    used, first, row, counts = np.unique(cell[inside], return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    row = place[row]
    by_row = np.argsort(row, kind="stable")
    counts = counts[order]
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = rank < c.max_points
    out = np.zeros((len(used), c.max_points, points.shape[1]), np.float32)
    out[row[by_row][keep], rank[keep]] = points[inside][by_row][keep]
    return _coordinates(used[order], c), torch.from_numpy(out), torch.from_numpy(counts)


def _open3d(o3d: object, c: Clouds) -> tuple[Tensor, ...]:
    out = torch.zeros((len(c.points), *c.grid.shape), dtype=torch.bool)
    for b, points in enumerate(c.points.numpy()):
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points[:, :3].astype(np.float64)))
        grid = o3d.geometry.VoxelGrid.create_from_point_cloud_within_bounds(
            cloud, c.grid.size[0], np.array(c.grid.lower), np.array(c.grid.upper)
        )
        index = torch.from_numpy(np.array([v.grid_index for v in grid.get_voxels()])).clamp(min=0)
        index = torch.minimum(index, torch.tensor(c.grid.shape) - 1)
        out[b, index[:, 0], index[:, 1], index[:, 2]] = True
    return out, out
