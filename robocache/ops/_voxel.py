"""The voxel operators as Python sees them: their arguments and what these must be, their shapes.

``robocache::voxelize_dense``, ``voxelize_sparse`` and ``voxel_cells`` take :class:`Arguments`, ``integrate_tsdf``
:class:`TsdfArguments`; the plain-torch twins in :mod:`robocache.ops.reference.voxelize` take the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robocache.ops import _library
from robocache.ops.grid import MOST_CELLS
from robocache.ops.modes import REDUCTIONS

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OCCUPANCY, COUNT, SUM, MEAN, MIN, MAX, POINTS = range(len(REDUCTIONS))


class Arguments(NamedTuple):
    """What the voxel operators take.

    points:     ``[B, P, 3+]``, or jagged ``[N, 3+]`` with offsets; x, y, z come first; float64, 32, 16 or bfloat16
    offsets:    int64 ``[B + 1]`` or None
    features:   ``[B, P, C]`` or ``[N, C]``, or None: the points' own columns
    box:        nine numbers, :attr:`Grid.box`
    shape:      three integers, :attr:`Grid.shape`
    slab:       two integers: only voxels with an x index in [first, last) exist for this call
    reduce:     position in :data:`~robocache.ops.modes.REDUCTIONS`
    max_points: of ``points``
    """

    points: Tensor
    offsets: Tensor | None
    features: Tensor | None
    box: Sequence[float]
    shape: Sequence[int]
    slab: Sequence[int]
    reduce: int
    max_points: int


class TsdfArguments(NamedTuple):
    """What ``robocache::integrate_tsdf`` takes.

    points, offsets, box, shape: as in :class:`Arguments`
    sensor_pose:                 float64 ``[B, 7]``, x y z qx qy qz qw
    distance, weight:            float32 ``[B, X, Y, Z]`` to go on with, or None
    truncation:                  above 0
    """

    points: Tensor
    offsets: Tensor | None
    sensor_pose: Tensor
    distance: Tensor | None
    weight: Tensor | None
    box: Sequence[float]
    shape: Sequence[int]
    truncation: float


def batch_of(points: Tensor, offsets: Tensor | None) -> int:
    return points.shape[0] if offsets is None else offsets.shape[0] - 1


def check_points(op: str, points: Tensor, offsets: Tensor | None) -> None:
    """``ValueError`` where shapes, dtypes or devices do not fit; looks at no data."""
    name = f"{op}: points {points.dtype} {list(points.shape)}"
    if points.dtype not in DTYPES:
        raise ValueError(f"{name}: use float64, float32, float16 or bfloat16")
    if points.dim() != (3 if offsets is None else 2) or points.shape[-1] < 3:
        raise ValueError(f"{name}: must be [B, P, 3+], or [N, 3+] with offsets")
    if offsets is not None and (
        offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.shape[0] == 0 or offsets.device != points.device
    ):
        raise ValueError(
            f"{op}: offsets {offsets.dtype} {list(offsets.shape)} on {offsets.device} must be int64 [B+1] "
            f"on {points.device}"
        )


def check(a: Arguments) -> None:
    """``ValueError`` where shapes, dtypes or devices do not fit; looks at no data."""
    check_points("voxelize", a.points, a.offsets)
    if a.features is not None:
        name = f"voxelize: features {a.features.dtype} {list(a.features.shape)} on {a.features.device}"
        if a.features.dtype not in DTYPES:
            raise ValueError(f"{name}: use float64, float32, float16 or bfloat16")
        if a.features.dim() != a.points.dim() or a.features.shape[:-1] != a.points.shape[:-1]:
            raise ValueError(f"{name}: must be a row a point of points {list(a.points.shape)}")
        if a.features.device != a.points.device:
            raise ValueError(f"{name}: the points are on {a.points.device}")
    if a.max_points < 1:
        raise ValueError(f"voxelize: max_points is {a.max_points}; use 1 or more")
    if not 0 <= a.slab[0] <= a.slab[1] <= a.shape[0]:
        raise ValueError(f"voxelize: slab {list(a.slab)} is not within 0 to {a.shape[0]}")
    if batch_of(a.points, a.offsets) * math.prod(a.shape) > MOST_CELLS:
        raise ValueError(f"voxelize: {batch_of(a.points, a.offsets)} clouds of {math.prod(a.shape)} voxels: too many")


def check_tsdf(a: TsdfArguments) -> None:
    """``ValueError`` where shapes, dtypes or devices do not fit; looks at no data."""
    check_points("integrate_tsdf", a.points, a.offsets)
    batch = batch_of(a.points, a.offsets)
    pose = a.sensor_pose
    if pose.shape != (batch, 7) or pose.dtype != torch.float64 or pose.device != a.points.device:
        raise ValueError(
            f"integrate_tsdf: sensor_pose {pose.dtype} {list(pose.shape)} on {pose.device} must be float64 "
            f"[{batch}, 7], x y z qx qy qz qw, on {a.points.device}"
        )
    for name, x in (("distance", a.distance), ("weight", a.weight)):
        if x is not None and (x.shape != (batch, *a.shape) or x.dtype != torch.float32 or x.device != a.points.device):
            raise ValueError(
                f"integrate_tsdf: volume.{name} {x.dtype} {list(x.shape)} on {x.device} must be float32 "
                f"{[batch, *a.shape]} on {a.points.device}"
            )
    if not (a.truncation > 0 and math.isfinite(a.truncation)):
        raise ValueError(f"integrate_tsdf: truncation is {a.truncation}; use a distance above 0")


def dense_shape(a: Arguments) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of a dense result."""
    x = a.points if a.features is None else a.features
    box = (batch_of(a.points, a.offsets), a.slab[1] - a.slab[0], *a.shape[1:])
    if a.reduce == OCCUPANCY:
        return box, torch.bool
    if a.reduce == COUNT:
        return box, torch.int32
    return (*box, x.shape[-1]), x.dtype


def sparse_shape(a: Arguments) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape of one voxel's values, and their dtype."""
    x = a.points if a.features is None else a.features
    if a.reduce == OCCUPANCY:
        return (1,), torch.bool
    if a.reduce == COUNT:
        return (1,), torch.int32
    return ((a.max_points, x.shape[-1]) if a.reduce == POINTS else (x.shape[-1],)), x.dtype


if _library.has_kernel("voxelize_dense", torch.device("cpu")):

    @torch.library.register_fake("robocache::voxelize_dense")
    def _fake_dense(*flat: Any) -> tuple[Tensor, Tensor]:
        a = Arguments(*flat)
        check(a)
        shape, dtype = dense_shape(a)
        return a.points.new_empty(shape, dtype=dtype), a.points.new_empty(shape[0], dtype=torch.int64)

    @torch.library.register_fake("robocache::voxelize_sparse")
    def _fake_sparse(*flat: Any) -> tuple[Tensor, ...]:
        a = Arguments(*flat)
        check(a)
        voxels = torch.library.get_ctx().new_dynamic_size()
        shape, dtype = sparse_shape(a)
        batch = batch_of(a.points, a.offsets)
        new = a.points.new_empty
        return (
            new((voxels, 3), dtype=torch.int32),
            new((voxels, *shape), dtype=dtype),
            new(voxels, dtype=torch.int32),
            new(batch + 1, dtype=torch.int64),
            new(a.points.shape[:-1].numel(), dtype=torch.int64),
            new(batch, dtype=torch.int64),
        )

    @torch.library.register_fake("robocache::voxel_cells")
    def _fake_cells(*flat: Any) -> Tensor:
        a = Arguments(*flat)
        check(a)
        return a.points.new_empty(a.points.shape[:-1].numel(), dtype=torch.int64)

    @torch.library.register_fake("robocache::integrate_tsdf")
    def _fake_tsdf(*flat: Any) -> tuple[Tensor, Tensor]:
        a = TsdfArguments(*flat)
        check_tsdf(a)
        shape = (batch_of(a.points, a.offsets), *a.shape)
        new = a.points.new_empty
        return new(shape, dtype=torch.float32), new(shape, dtype=torch.float32)
