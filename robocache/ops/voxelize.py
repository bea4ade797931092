"""Point clouds to voxels: the public face of the voxel kernels.

A point (x, y, z) of a cloud lies in voxel ``floor((p - lower) / voxel_size)``, computed in float64 whatever the
points' dtype, so that coordinates of a map at 1e6 m lose nothing. Bounds are half-open: ``lower <= p < upper``. Points
outside of them, and points of which a coordinate is NaN or infinite, are dropped and counted.

========== =================================================== ======================================
reduction  value of a voxel                                    dtype
========== =================================================== ======================================
occupancy  whether it holds a point                            bool
count      how many                                            int32
sum        the exact sum of their features, rounded to         the features'
           float64 once (``math.fsum``), then to the dtype
mean       that float64 sum divided by the count, then         the features'
           rounded to the dtype
min, max   least and largest; NaN where one is NaN; -0 < +0    the features'
points     the first ``max_points`` points in input order,     the features'
           zeros behind
========== =================================================== ======================================

All but ``points`` do not depend on the order of the points, to the bit; nor does anything on the device, on how
often it is run, or on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from robocache.ops import _library, _voxel
from robocache.ops._voxel import Arguments, TsdfArguments
from robocache.ops.grid import Grid
from robocache.ops.modes import REDUCTIONS
from robocache.ops.reference import voxelize as reference

Bounds = Sequence[Sequence[float]]


class DenseVoxels(NamedTuple):
    """values:  ``[B, X, Y, Z, C]``, occupancy and count ``[B, X, Y, Z]``; 0 where a voxel has no point
    dropped: int64 ``[B]``, points of each cloud outside the bounds or not finite"""

    values: Tensor
    dropped: Tensor


class SparseVoxels(NamedTuple):
    """coordinates:    int32 ``[M, 3]``, indices along x, y, z of the voxels that hold a point; the rows of a cloud rise
                    by (x, y, z), with ``points`` they stand in the order of their first point
    values:         ``[M, C]`` (occupancy and count: C = 1), with ``points`` ``[M, max_points, C]``
    counts:         int32 ``[M]``, points of each voxel
    offsets:        int64 ``[B + 1]``, the rows of each cloud
    point_to_voxel: int64 ``[N]``, the row of each point; -1: dropped
    dropped:        int64 ``[B]``, points of each cloud outside the bounds or not finite"""

    coordinates: Tensor
    values: Tensor
    counts: Tensor
    offsets: Tensor
    point_to_voxel: Tensor
    dropped: Tensor


class TsdfVolume(NamedTuple):
    """distance: float32 ``[B, X, Y, Z]``, metres from the surface, positive on the sensor's side, at most the
              truncation; the truncation itself where nothing was seen
    weight:   float32 ``[B, X, Y, Z]``, observations that the distance is the mean of"""

    distance: Tensor
    weight: Tensor


@overload
def voxelize(
    points: Tensor,
    *,
    voxel_size: float | Sequence[float],
    bounds: Bounds,
    offsets: Tensor | None = None,
    features: Tensor | None = None,
    reduce: str = "occupancy",
    layout: Literal["dense"] = "dense",
    max_points: int = 32,
) -> DenseVoxels: ...
@overload
def voxelize(
    points: Tensor,
    *,
    voxel_size: float | Sequence[float],
    bounds: Bounds,
    offsets: Tensor | None = None,
    features: Tensor | None = None,
    reduce: str = "occupancy",
    layout: Literal["sparse"],
    max_points: int = 32,
) -> SparseVoxels: ...
def voxelize(
    points: Tensor,
    *,
    voxel_size: float | Sequence[float],
    bounds: Bounds,
    offsets: Tensor | None = None,
    features: Tensor | None = None,
    reduce: str = "occupancy",
    layout: str = "dense",
    max_points: int = 32,
) -> DenseVoxels | SparseVoxels:
    """Bring the points of each cloud of a batch into a grid.

    points:     ``[N, 3+]`` with ``offsets`` int64 ``[B+1]``, ``[B, P, 3+]``, or ``[N, 3+]`` alone, a batch of one;
                float64, float32, float16 or bfloat16, metres; columns beyond x, y, z are features; rows may be strided
    voxel_size: edge length, one or three (x, y, z)
    bounds:     ``((x0, y0, z0), (x1, y1, z1))``; the grid has as many voxels as cover them
    features:   a row a point, of any width and float dtype; None: the point's own columns
    reduce:     one of :data:`REDUCTIONS`
    layout:     ``dense`` (all voxels) or ``sparse`` (those that hold a point; on a GPU the host waits for their number)
    max_points: of ``points``, which is sparse only

    NumPy arrays are taken as they are. Gradients flow to the features (or the points' own columns) from ``sum`` and
    ``mean``; the others refuse features that require one, and no gradient flows to where a point lies.

    ``ValueError``: shapes, dtypes or devices that do not fit, no such reduction or layout, numbers that make no grid.
    ``TypeError``: neither tensors nor arrays.
    """
    arguments = checked_arguments(points, voxel_size, bounds, offsets, features, reduce, layout, max_points)
    return voxelize_slab(arguments, layout)


def checked_arguments(
    points: Tensor,
    voxel_size: float | Sequence[float],
    bounds: Bounds,
    offsets: Tensor | None,
    features: Tensor | None,
    reduce: str,
    layout: str,
    max_points: int,
) -> Arguments:
    """What the operators take, of what :func:`voxelize` takes; its errors."""
    if reduce not in REDUCTIONS:
        raise ValueError(f"voxelize: reduce is {reduce!r}; use one of {', '.join(REDUCTIONS)}")
    if layout not in ("dense", "sparse"):
        raise ValueError(f"voxelize: layout is {layout!r}; use dense or sparse")
    if reduce == "points" and layout == "dense":
        raise ValueError("voxelize: reduce='points' has a row a voxel that holds a point: use layout='sparse'")
    points, offsets, features = _tensor("points", points), _tensor("offsets", offsets), _tensor("features", features)
    if offsets is None and points.dim() == 2:
        points, features = points[None], None if features is None else features[None]
    grid = Grid.of(voxel_size, bounds)
    slab, position = (0, grid.shape[0]), REDUCTIONS.index(reduce)
    arguments = Arguments(points, offsets, features, grid.box, grid.shape, slab, position, max_points)
    _voxel.check(arguments)
    return arguments


def voxelize_slab(arguments: Arguments, layout: str) -> DenseVoxels | SparseVoxels:
    """:func:`voxelize` of arguments made up before, of a part of the grid perhaps."""
    a = arguments
    features = a.points if a.features is None else a.features
    if torch.is_grad_enabled():
        if a.features is not None and a.points.requires_grad:
            raise ValueError("voxelize has no gradient by where points lie: use points.detach(); features have one")
        if features.requires_grad and a.reduce not in (_voxel.SUM, _voxel.MEAN):
            name = REDUCTIONS[a.reduce]
            raise ValueError(f"voxelize: reduce={name!r} has no gradient; use sum or mean, or detached features")
        if features.requires_grad:
            found = _Differentiable.apply(features, a, layout)
            return DenseVoxels(*found) if layout == "dense" else SparseVoxels(*found)
    if layout == "dense":
        return DenseVoxels(*_call("voxelize_dense", a))
    return SparseVoxels(*_call("voxelize_sparse", a))


class _Differentiable(torch.autograd.Function):
    """Sum and mean, with the gradient that a voxel hands back to the features of its points."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, a: Arguments, layout: str) -> tuple[Tensor, ...]:
        found = _call(f"voxelize_{layout}", a)
        ctx.arguments = a._replace(points=a.points.detach(), features=None)
        ctx.shape, ctx.layout = features.shape, layout
        if layout == "sparse":
            coordinates, _, counts, offsets, point_to_voxel, dropped = found
            ctx.save_for_backward(point_to_voxel, counts)
            ctx.mark_non_differentiable(coordinates, counts, offsets, point_to_voxel, dropped)
        else:
            ctx.mark_non_differentiable(found[1])
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        a = ctx.arguments
        if ctx.layout == "sparse":
            gradient, (at, counts) = gradients[1], ctx.saved_tensors
        else:
            gradient, at = gradients[0], _call("voxel_cells", a)
            counts = _call("voxelize_dense", a._replace(reduce=_voxel.COUNT))[0] if a.reduce == _voxel.MEAN else at
        gradient = gradient.reshape(-1, gradient.shape[-1])
        if a.reduce == _voxel.MEAN:
            gradient = gradient / counts.reshape(-1, 1).clamp(min=1).to(
                torch.promote_types(gradient.dtype, torch.float32)
            )
        kept = (at >= 0).nonzero().squeeze(1)
        out = gradients[0].new_zeros((len(at), gradient.shape[1]), dtype=gradients[ctx.layout == "sparse"].dtype)
        out = out.index_copy(0, kept, gradient[at[kept]].to(out.dtype))
        return out.view(ctx.shape), None, None


def integrate_tsdf(
    points: Tensor,
    sensor_pose: Tensor,
    volume: TsdfVolume | None = None,
    *,
    voxel_size: float | Sequence[float],
    bounds: Bounds,
    truncation: float,
    offsets: Tensor | None = None,
) -> TsdfVolume:
    """Fuse clouds, each seen from one place, into truncated signed distances (Curless & Levoy 1996).

    points:      as for :func:`voxelize`, in the sensor's own frame, where the sensor is at the origin
    sensor_pose: ``[B, 7]`` or ``[7]`` for all, x y z qx qy qz qw: the sensor in the frame of the grid
    volume:      what earlier calls made of this grid; None: nothing seen yet
    truncation:  metres in front of and behind a point within which its ray has a say

    A ray says of every voxel it crosses in that band: the range of its point less the voxel's centre projected on
    the ray. A voxel's distance is the mean over all rays of all calls. Within a call distances are summed as integers,
    2^-24 of the truncation each, so the order of points does not matter. Points that are not finite, or at the sensor,
    say nothing. Returns a new volume. No gradients: points or a volume that require one are refused.

    ``ValueError``: as :func:`voxelize`, a truncation of 0 or less, a volume of another grid.
    """
    points, offsets = _tensor("points", points), _tensor("offsets", offsets)
    sensor_pose = _tensor("sensor_pose", sensor_pose)
    if offsets is None and points.dim() == 2:
        points = points[None]
    grid = Grid.of(voxel_size, bounds)
    if sensor_pose.dim() == 1:
        sensor_pose = sensor_pose.expand(_voxel.batch_of(points, offsets), -1)
    distance, weight = (None, None) if volume is None else volume
    arguments = TsdfArguments(
        points, offsets, sensor_pose.double(), distance, weight, grid.box, grid.shape, float(truncation)
    )
    _voxel.check_tsdf(arguments)
    if torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (points, sensor_pose, distance, weight)
    ):
        raise ValueError("integrate_tsdf has no gradient: call it on detached tensors")
    return TsdfVolume(*_call("integrate_tsdf", arguments))


def _tensor(name: str, x: Any) -> Any:
    if x is None or isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x)
    raise TypeError(f"{name} is {type(x).__name__}; use a torch tensor or a NumPy array")


def _call(op: str, arguments: Arguments | TsdfArguments) -> Any:
    device = arguments.points.device
    if _library.has_kernel(op, device) or (_library.available() and device.type == "meta"):
        return getattr(torch.ops.robocache, op)(*arguments)
    _library.warn_fallback(op)
    return getattr(reference, op)(arguments)
