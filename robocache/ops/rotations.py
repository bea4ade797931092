"""Rotations and poses: representations, and the group SE(3).

============================ ====== =====================================================================
representation               shape  what it is
============================ ====== =====================================================================
quaternion_xyzw, _wxyz       4      scalar last, scalar first
matrix                       3, 3   columns are the turned axes
axis_angle                   3      the axis times the angle, radians
rot6d                        6      the first two columns of the matrix, one after the other
                                    (Zhou et al., CVPR 2019)
rot6d_rows                   6      its first two rows, as pytorch3d and the code made from it have them
euler_xyz ... euler_zyz      3      angles about fixed axes, in this order (extrinsic)
euler_XYZ ... euler_ZYZ      3      angles about axes that turn along, in this order (intrinsic)
============================ ====== =====================================================================

Quaternions and rot6d need not be normalised. What is no rotation gives NaN: a zero quaternion, two parallel or zero
columns, a matrix further than 1e-2 from an orthonormal one or that mirrors, anything with a NaN or an infinity. Results
are unit quaternions with w >= 0 (but an order exchanged keeps its sign), axis angles and the outer Euler angles of
(-pi, pi], and of Euler angles that are not unique (gimbal lock) those whose last is 0.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from robocache.ops import _library
from robocache.ops._library import compiled
from robocache.ops._numpy import alike, tensor
from robocache.ops.reference import rotations as reference
from robocache.ops.rotation_names import rotation_code, rotation_shape, rotation_width, width_of_code


def convert_rotation(x: Any, source: str, target: str) -> Any:
    """Rotations ``[..., *shape of source]`` as ``[..., *shape of target]``, of the same dtype (float64 or float32).

    NumPy arrays are taken and given back. ``ValueError``: no such representation, a shape or dtype that does not fit.
    """
    given, shape = x, rotation_shape(source)
    rotation_shape(target)
    x = tensor("convert_rotation", "x", x)
    if x.shape[x.dim() - len(shape) :] != shape or x.dim() < len(shape):
        raise ValueError(f"convert_rotation: {source} must be [..., {', '.join(map(str, shape))}], got {list(x.shape)}")
    if not compiled("convert_rotation", x):
        return alike(reference.convert(x, source, target), given)
    flat = x.reshape(-1, rotation_width(source))
    out = torch.ops.robocache.convert_rotation(flat, rotation_code(source), rotation_code(target))
    return alike(out.reshape(*x.shape[: x.dim() - len(shape)], *rotation_shape(target)), given)


def continuous_quaternions(x: Any, offsets: Any = None) -> Any:
    """Quaternions ``[N, 4]``, any order, each with the sign that is nearer to the one before it: q and -q are one
    rotation, and a learner should see no jump between them.

    offsets: int64 ``[B + 1]``, episodes that each keep the sign they begin with; None: one
    A NaN row stays, and the next is compared with the last that is none.
    """
    given, x = x, tensor("continuous_quaternions", "x", x)
    if x.dim() != 2 or x.shape[1] != 4:
        raise ValueError(f"continuous_quaternions: x must be [N, 4], got {list(x.shape)}")
    start = episode_starts("continuous_quaternions", offsets, len(x), x.device)
    rows = torch.arange(len(x), device=x.device)
    good = torch.isfinite(x).all(-1)
    last = torch.where(good, rows, -1).cummax(0).values if len(x) else rows
    before = torch.cat([last.new_full((1,), -1), last[:-1]])[: len(x)]
    linked = good & (before >= start)
    dot = (x * x[before.clamp(min=0)]).sum(-1)
    flips = (linked & (dot < 0)).cumsum(0)
    # Turns counted since the start of the episode.
    earlier = torch.where(start > 0, flips[(start - 1).clamp(min=0)], 0) if len(x) else flips
    return alike(torch.where(((flips - earlier) % 2 == 1)[:, None], -x, x), given)


def relative_pose(pose: Any, base: Any) -> Any:
    """``inv(base) pose``: the pose as seen from the base. Both ``[..., 7]``, x y z qx qy qz qw, of shapes that
    broadcast; the quaternions need not be normalised, the result's is, with w >= 0.
    """
    given = pose
    pose, base = _poses("relative_pose", pose, base)
    return alike(_relative(pose, base, compose=False), given)


def compose_pose(base: Any, relative: Any) -> Any:
    """``base relative``: the inverse of :func:`relative_pose`. Shapes as there."""
    given = base
    base, relative = _poses("compose_pose", base, relative)
    return alike(_relative(relative, base, compose=True), given)


def checked_offsets(op: str, offsets: Any, count: int, device: torch.device, *, validate: bool = True) -> Tensor | None:
    """Episodes' offsets as int64 ``[B + 1]`` on a device; None stays. ``ValueError`` where they do not rise to it.

    validate: look at their values, for which a device is waited
    """
    if offsets is None:
        return None
    offsets = torch.as_tensor(offsets, device=device)
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or not len(offsets):
        raise ValueError(f"{op}: offsets {offsets.dtype} {list(offsets.shape)} must be int64 [B+1]")
    if validate and bool((offsets[0] != 0) | (offsets[-1] != count) | (offsets.diff() < 0).any()):
        raise ValueError(f"{op}: offsets must rise from 0 to {count}, got {offsets.tolist()}")
    return cast(Tensor, offsets)


def episode_starts(op: str, offsets: Any, count: int, device: torch.device) -> Tensor:
    """The first row of each row's episode: int64 ``[count]``. ``ValueError`` as :func:`checked_offsets`."""
    checked = checked_offsets(op, offsets, count, device)
    if checked is None:
        return torch.zeros(count, dtype=torch.int64, device=device)
    return checked[:-1].repeat_interleave(checked.diff())


def _poses(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    a, b = tensor(op, "the first pose", a), tensor(op, "the second pose", b)
    if a.dim() < 1 or b.dim() < 1 or a.shape[-1] != 7 or b.shape[-1] != 7:
        raise ValueError(f"{op}: poses must be [..., 7], got {list(a.shape)} and {list(b.shape)}")
    return a, b


def _relative(pose: Tensor, base: Tensor, *, compose: bool) -> Tensor:
    if not compiled("relative_pose", pose, base):
        return reference.compose_pose(base, pose) if compose else reference.relative_pose(pose, base)
    pose, base = torch.broadcast_tensors(pose, base)
    out = torch.ops.robocache.relative_pose(pose.reshape(-1, 7), base.reshape(-1, 7), compose)
    return out.reshape(pose.shape)


if _library.has_kernel("convert_rotation", torch.device("cpu")):

    @torch.library.register_fake("robocache::convert_rotation")
    def _fake_convert(x: Tensor, source: int, target: int) -> Tensor:
        return x.new_empty((x.shape[0], width_of_code(target)))

    @torch.library.register_fake("robocache::relative_pose")
    def _fake_relative(pose: Tensor, base: Tensor, compose: bool) -> Tensor:
        if pose.shape != base.shape or pose.dtype != base.dtype:
            raise ValueError(f"relative_pose: base {list(base.shape)} must be like the pose {list(pose.shape)}")
        return torch.empty_like(pose, memory_format=torch.contiguous_format)
