"""Point clouds to voxels in plain torch: the oracle that the kernels are tested against, and the fallback.

Every reduction gives the kernels' bits. Shapes and dtypes are checked as the kernels do.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robocache.ops import _voxel
from robocache.ops._voxel import Arguments, TsdfArguments
from robocache.ops.reference.exact_sum import exact_sums
from robocache.ops.reference.rounding import float32_to_odd


class _Batch(NamedTuple):
    """N points of all clouds: the linear number of each one's voxel in its cloud (-1: dropped), and its cloud."""

    cell: Tensor
    cloud: Tensor
    features: Tensor
    batch: int

    @property
    def dropped(self) -> Tensor:
        return torch.bincount(self.cloud[self.cell < 0], minlength=self.batch)


def voxelize_dense(arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Values ``[B, X, Y, Z, C]`` (occupancy, count: ``[B, X, Y, Z]``) and dropped int64 ``[B]``."""
    a, p = arguments, _batch(arguments)
    shape, dtype = _voxel.dense_shape(a)
    inside = p.cell >= 0
    at = p.cloud[inside] * math.prod(shape[1:4]) + p.cell[inside]
    cells = math.prod(shape[:4])
    if a.reduce in (_voxel.OCCUPANCY, _voxel.COUNT):
        return torch.bincount(at, minlength=cells).to(dtype).view(shape), p.dropped
    used, row = torch.unique(at, return_inverse=True)
    out = torch.zeros((cells, p.features.shape[1]), dtype=dtype, device=at.device)
    out[used] = _reduce(a.reduce, p.features[inside], row, len(used))
    return out.view(shape), p.dropped


def voxelize_sparse(arguments: Arguments) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Coordinates int32 ``[M, 3]``, values ``[M, C]`` (points: ``[M, max_points, F]``), counts int32 ``[M]``, offsets
    int64 ``[B + 1]``, the row of each point int64 ``[N]``, dropped int64 ``[B]``."""
    a, p = arguments, _batch(arguments)
    inside = (p.cell >= 0).nonzero().squeeze(1)
    first_x, (_, ny, nz) = a.slab[0], a.shape
    cells = (a.slab[1] - a.slab[0]) * ny * nz
    used, row = torch.unique(p.cloud[inside] * cells + p.cell[inside], return_inverse=True)
    if a.reduce == _voxel.POINTS:  # rows in the order of their first points
        first = torch.full_like(used, len(p.cell)).scatter_reduce_(0, row, inside, "amin")
        order = first.argsort()
        used, row = (
            used[order],
            torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=row.device))[row],
        )
    counts = torch.bincount(row, minlength=len(used))
    cell = used % max(cells, 1)
    coordinates = torch.stack([cell // (ny * nz) + first_x, cell // nz % ny, cell % nz], dim=1).int()
    per_cloud = torch.bincount(used // max(cells, 1), minlength=p.batch)
    offsets = torch.cat([per_cloud.new_zeros(1), per_cloud.cumsum(0)])
    point_to_voxel = torch.full_like(p.cell, -1)
    point_to_voxel[inside] = row
    features = p.features[inside]
    shape, dtype = _voxel.sparse_shape(a)
    if a.reduce == _voxel.OCCUPANCY:
        values = torch.ones((len(used), 1), dtype=dtype, device=row.device)
    elif a.reduce == _voxel.COUNT:
        values = counts.to(dtype)[:, None]
    elif a.reduce == _voxel.POINTS:
        values = _first_points(features, row, counts, shape[0])
    else:
        values = _reduce(a.reduce, features, row, len(used))
    return coordinates, values, counts.int(), offsets, point_to_voxel, p.dropped


def voxel_cells(arguments: Arguments) -> Tensor:
    """The place of each point's voxel in the flattened dense result ``[B * X * Y * Z]``; -1: dropped."""
    a, p = arguments, _batch(arguments)
    cells = (a.slab[1] - a.slab[0]) * a.shape[1] * a.shape[2]
    return torch.where(p.cell < 0, -1, p.cloud * cells + p.cell)


def _batch(a: Arguments) -> _Batch:
    _voxel.check(a)
    x = a.points if a.features is None else a.features
    points, features = a.points.reshape(-1, a.points.shape[-1]), x.reshape(-1, x.shape[-1])
    batch = _voxel.batch_of(a.points, a.offsets)
    return _Batch(_cells(points[:, :3].double(), a), _clouds(a.points, a.offsets), features, batch)


def _clouds(points: Tensor, offsets: Tensor | None) -> Tensor:
    """The cloud of each point."""
    if offsets is None:
        return torch.arange(points.shape[0], device=points.device).repeat_interleave(points.shape[1])
    total = points.shape[0]
    if offsets[0] != 0 or offsets[-1] != total or bool((offsets.diff() < 0).any()):
        raise ValueError(f"offsets must rise from 0 to {total}, got {offsets}")
    return torch.repeat_interleave(offsets.diff(), output_size=total)


def _cells(xyz: Tensor, a: Arguments) -> Tensor:
    box = torch.tensor(a.box, dtype=torch.float64, device=xyz.device)
    lower, upper, size = box[:3], box[3:6], box[6:]
    inside = ((xyz >= lower) & (xyz < upper)).all(dim=1)  # false for NaN
    last = torch.tensor(a.shape, device=xyz.device) - 1
    index = torch.minimum(torch.where(inside[:, None], (xyz - lower) / size, 0.0).floor().long(), last)
    inside &= (index[:, 0] >= a.slab[0]) & (index[:, 0] < a.slab[1])
    linear = ((index[:, 0] - a.slab[0]) * a.shape[1] + index[:, 1]) * a.shape[2] + index[:, 2]
    return torch.where(inside, linear, -1)


def _reduce(reduce: int, features: Tensor, row: Tensor, rows: int) -> Tensor:
    if reduce in (_voxel.SUM, _voxel.MEAN):
        total = exact_sums(features, row, rows)
        if reduce == _voxel.MEAN:
            total = total / torch.bincount(row, minlength=rows)[:, None]
        return (float32_to_odd(total) if features.dtype.itemsize < 4 else total).to(features.dtype)
    # Integers in the order of the floats, -0 before +0; a NaN is beyond all of them, whichever end is asked for.
    bits = features.double().contiguous().view(torch.int64)
    key = bits ^ ((bits >> 63) & (2**63 - 1))
    least = torch.iinfo(torch.int64)
    key = torch.where(features.isnan(), least.max if reduce == _voxel.MAX else least.min, key)
    start = torch.full((rows, features.shape[1]), least.min if reduce == _voxel.MAX else least.max, device=row.device)
    best = start.scatter_reduce_(
        0, row[:, None].expand_as(key), key, "amax" if reduce == _voxel.MAX else "amin", include_self=True
    )
    value = (best ^ ((best >> 63) & (2**63 - 1))).view(torch.float64)
    return torch.where(value.isnan(), math.nan, value).to(features.dtype)


def _first_points(features: Tensor, row: Tensor, counts: Tensor, most: int) -> Tensor:
    order = row.argsort(stable=True)
    row, start = row[order], counts.cumsum(0) - counts
    rank = torch.arange(len(row), device=row.device) - start[row]
    out = features.new_zeros((len(counts), most, features.shape[1]))
    kept = rank < most
    out[row[kept], rank[kept]] = features[order[kept]]
    return out


# ---- truncated signed distance --------------------------------------------------------------------------------------

#: One truncation in the integers that distances are summed in.
_UNIT = 2**24


def integrate_tsdf(arguments: TsdfArguments) -> tuple[Tensor, Tensor]:
    """Distance and weight, float32 ``[B, X, Y, Z]``: see :func:`robocache.ops.voxelize.integrate_tsdf`."""
    a = arguments
    _voxel.check_tsdf(a)
    cloud = _clouds(a.points, a.offsets)
    points = a.points.reshape(-1, a.points.shape[-1])[:, :3].double()
    box = torch.tensor(a.box, dtype=torch.float64, device=points.device)
    lower, size, shape = box[:3], box[6:], torch.tensor(a.shape, device=points.device)
    batch, cells = _voxel.batch_of(a.points, a.offsets), math.prod(a.shape)
    pose = a.sensor_pose[cloud]
    ray = _rotated(points, pose[:, 3:])
    range_ = _norm(ray)
    origin = pose[:, :3]
    unit = ray / range_[:, None]
    near = (range_ - a.truncation).clamp(min=0.0)
    # Amanatides & Woo 1987, in units of distance along the ray, from the voxel at `near` to the last before `far`.
    start = ((origin + unit * near[:, None] - lower) / size).floor()
    good = (start.abs() < 2**30).all(dim=1) & (range_ > 0)  # false for what is not finite
    cloud, range_, origin, unit, start = (x[good] for x in (cloud, range_, origin, unit, start))
    far = range_ + a.truncation
    index = start.long()
    step = unit.sign().long()
    edge = lower + (index + (step > 0)) * size
    infinity = torch.full_like(unit, math.inf)
    to_edge = torch.where(step != 0, (edge - origin) / unit, infinity)
    width = torch.where(step != 0, size / unit.abs(), infinity)
    total = torch.zeros(batch * cells, dtype=torch.int64, device=points.device)
    count = torch.zeros_like(total)
    axes = torch.arange(3, device=points.device)
    for _ in range(_most_steps(a)):
        if not len(index):
            break
        inside = ((index >= 0) & (index < shape)).all(dim=1)
        centre = lower + (index.double() + 0.5) * size
        along = _dot(centre - origin, unit)
        distance = ((range_ - along) / a.truncation).clamp(-1.0, 1.0)
        linear = (index[:, 0] * a.shape[1] + index[:, 1]) * a.shape[2] + index[:, 2] + cloud * cells
        total.index_add_(0, linear[inside], (distance[inside] * _UNIT).round().long())
        count.index_add_(0, linear[inside], torch.ones_like(linear[inside]))
        nearest = to_edge.argmin(dim=1)  # the first of equal ones
        goes_on = to_edge.gather(1, nearest[:, None]).squeeze(1) < far
        moved = axes == nearest[:, None]
        index = torch.where(moved, index + step, index)[goes_on]
        to_edge = torch.where(moved, to_edge + width, to_edge)[goes_on]
        cloud, range_, far, origin, unit, step, width = (
            x[goes_on] for x in (cloud, range_, far, origin, unit, step, width)
        )
    old = torch.full((batch * cells,), a.truncation, device=points.device) if a.distance is None else a.distance
    old_weight = torch.zeros(batch * cells, device=points.device) if a.weight is None else a.weight
    old, old_weight = old.reshape(-1).double(), old_weight.reshape(-1).double()
    weight = old_weight + count
    mean = (old_weight * old + total.double() * (a.truncation / _UNIT)) / weight
    distance = torch.where(count > 0, mean, old).float()
    return distance.view(batch, *a.shape), weight.float().view(batch, *a.shape)


def _most_steps(a: TsdfArguments) -> int:
    """Voxels that a ray can cross between near and far, rounding included."""
    return sum(int(min(2 * a.truncation / s, 2.0**28)) + 2 for s in a.box[6:])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of rows of three, in one stated order."""
    return (a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1]) + a[:, 2] * b[:, 2]


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _rotated(v: Tensor, q: Tensor) -> Tensor:
    """``v [n, 3]`` turned by ``q [n, 4]`` (x y z w) of any length: v + 2 (w (u x v) + u x (u x v)) / |q|^2."""
    u, w = q[:, :3], q[:, 3:]
    square = _dot(u, u)[:, None] + w * w
    c = _cross(u, v)
    return v + (w * c + _cross(u, c)) * 2.0 / square


def _cross(a: Tensor, b: Tensor) -> Tensor:
    x, y, z = (a[:, i] for i in range(3))
    p, q, r = (b[:, i] for i in range(3))
    return torch.stack([y * r - z * q, z * p - x * r, x * q - y * p], dim=1)
