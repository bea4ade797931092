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

import math
from typing import Any

import torch
from torch import Tensor

from robocache.ops._numpy import alike, tensor
from robocache.ops.rotation_names import rotation_shape

#: A matrix M is no rotation where an element of M^T M is further than this from the identity's.
TOLERANCE = 1e-2


def convert_rotation(x: Any, source: str, target: str) -> Any:
    """Rotations ``[..., *shape of source]`` as ``[..., *shape of target]``, of the same dtype (float64 or float32).

    NumPy arrays are taken and given back. ``ValueError``: no such representation, a shape or dtype that does not fit.
    """
    given, shape = x, rotation_shape(source)
    rotation_shape(target)
    x = tensor("convert_rotation", "x", x)
    if x.shape[x.dim() - len(shape) :] != shape or x.dim() < len(shape):
        raise ValueError(f"convert_rotation: {source} must be [..., {', '.join(map(str, shape))}], got {list(x.shape)}")
    if target in ("matrix", "rot6d", "rot6d_rows") and source in ("matrix", "rot6d", "rot6d_rows"):
        return alike(_from_matrix(_to_matrix(x, source), target), given)
    return alike(_from_quaternion(_to_quaternion(x, source), target), given)


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
    inverse = _conjugate(_normal(base[..., 3:]))
    place = _rotate(inverse, pose[..., :3] - base[..., :3])
    turn = _upper(_multiply(inverse, _normal(pose[..., 3:])))
    return alike(_joined(place, turn), given)


def compose_pose(base: Any, relative: Any) -> Any:
    """``base relative``: the inverse of :func:`relative_pose`. Shapes as there."""
    given = base
    base, relative = _poses("compose_pose", base, relative)
    q = _normal(base[..., 3:])
    place = _rotate(q, relative[..., :3]) + base[..., :3]
    return alike(_joined(place, _upper(_multiply(q, _normal(relative[..., 3:])))), given)


def episode_starts(op: str, offsets: Any, count: int, device: torch.device) -> Tensor:
    """The first row of each row's episode: int64 ``[count]``. ``ValueError`` where the offsets do not rise to it."""
    if offsets is None:
        return torch.zeros(count, dtype=torch.int64, device=device)
    offsets = torch.as_tensor(offsets, device=device)
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or not len(offsets):
        raise ValueError(f"{op}: offsets {offsets.dtype} {list(offsets.shape)} must be int64 [B+1]")
    lengths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != count or bool((lengths < 0).any()):
        raise ValueError(f"{op}: offsets must rise from 0 to {count}, got {offsets.tolist()}")
    return offsets[:-1].repeat_interleave(lengths)


def _poses(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    a, b = tensor(op, "the first pose", a), tensor(op, "the second pose", b)
    if a.dim() < 1 or b.dim() < 1 or a.shape[-1] != 7 or b.shape[-1] != 7:
        raise ValueError(f"{op}: poses must be [..., 7], got {list(a.shape)} and {list(b.shape)}")
    return a, b


def _joined(place: Tensor, turn: Tensor) -> Tensor:
    # A pose that is not one has no part that is: NaN everywhere.
    bad = torch.isnan(place).any(-1, keepdim=True) | torch.isnan(turn).any(-1, keepdim=True)
    return torch.where(bad, torch.nan, torch.cat([place, turn], -1))


def _to_quaternion(x: Tensor, source: str) -> Tensor:
    """Unit quaternions x y z w."""
    if source == "quaternion_xyzw":
        return _normal(x)
    if source == "quaternion_wxyz":
        return _normal(x[..., [1, 2, 3, 0]])
    if source == "axis_angle":
        square = (x * x).sum(-1, keepdim=True)
        small = square < 1e-8
        half = torch.where(small, 1.0, square).sqrt() / 2
        scale = torch.where(small, 0.5 - square / 48, torch.sin(half) / (2 * half))
        w = torch.where(small, 1 - square / 8, torch.cos(half))
        return _upper(_normal(torch.cat([x * scale, w], -1)))
    if source.startswith("euler_"):
        return _upper(_from_euler(x, source.removeprefix("euler_")))
    return _matrix_to_quaternion(_to_matrix(x, source))


def _from_quaternion(q: Tensor, target: str) -> Tensor:
    if target == "quaternion_xyzw":
        return q
    if target == "quaternion_wxyz":
        return q[..., [3, 0, 1, 2]]
    if target == "axis_angle":
        q = _upper(q)
        square = (q[..., :3] * q[..., :3]).sum(-1, keepdim=True)
        small = square < 1e-8
        sine = torch.where(small, 1.0, square).sqrt()
        w = q[..., 3:]
        scale = torch.where(small, 2 + square / 3, 2 * torch.atan2(sine, w) / sine)  # w is 1 - square / 2 there
        return q[..., :3] * scale
    if target.startswith("euler_"):
        return _to_euler(q, target.removeprefix("euler_"))
    return _from_matrix(_quaternion_to_matrix(q), target)


def _to_matrix(x: Tensor, source: str) -> Tensor:
    if source == "matrix":
        off = (x.mT @ x - torch.eye(3, dtype=x.dtype, device=x.device)).abs().amax((-2, -1))
        good = (off < TOLERANCE) & (torch.linalg.det(torch.nan_to_num(x)) > 0)
        return torch.where(good[..., None, None], x, torch.nan)
    first, second = _normal(x[..., :3]), x[..., 3:]
    length = torch.linalg.vector_norm(second, dim=-1, keepdim=True)
    rest = second - (first * second).sum(-1, keepdim=True) * first
    rest = rest - (first * rest).sum(-1, keepdim=True) * first  # what the first time left of nearly parallel ones
    size = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
    parallel = size <= 8 * torch.finfo(x.dtype).eps * length
    rest = _normal(torch.where(parallel, torch.nan, rest))
    axes = torch.stack([first, rest, torch.linalg.cross(first, rest)], -1)
    axes = torch.where(torch.isnan(axes).any((-2, -1), keepdim=True), torch.nan, axes)
    return axes if source == "rot6d" else axes.mT


def _from_matrix(m: Tensor, target: str) -> Tensor:
    if target == "matrix":
        return m
    m = m.mT if target == "rot6d" else m
    return m[..., :2, :].flatten(-2)


def _quaternion_to_matrix(q: Tensor) -> Tensor:
    x, y, z, w = q.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _matrix_to_quaternion(m: Tensor) -> Tensor:
    """Shepperd's method (J. Guidance and Control 1978): divided by the largest component, never by a small one."""
    d = m.diagonal(dim1=-2, dim2=-1)
    trace = d.sum(-1, keepdim=True)
    squares = torch.cat([1 + 2 * d - trace, 1 + trace], -1)  # four times those of x, y, z, w
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    sx, sy, sz, sw = squares.unbind(-1)
    rows = [[sx, xy, xz, wx], [xy, sy, yz, wy], [xz, yz, sz, wz], [wx, wy, wz, sw]]
    candidates = torch.stack([torch.stack(row, -1) for row in rows], -2)
    largest = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return _upper(_normal(candidates.gather(-2, largest).squeeze(-2)))


def _from_euler(angles: Tensor, axes: str) -> Tensor:
    half = angles / 2
    sine, cosine = torch.sin(half), torch.cos(half)
    out = None
    for k, axis in enumerate(axes):
        parts = [torch.zeros_like(sine[..., k])] * 3 + [cosine[..., k]]
        parts["xyz".index(axis.lower())] = sine[..., k]
        turn = torch.stack(parts, -1)
        out = turn if out is None else _multiply(out, turn) if axes.isupper() else _multiply(turn, out)
    assert out is not None
    return out


def _to_euler(q: Tensor, axes: str) -> Tensor:
    """Bernardes & Viollet, PLoS ONE 2022: half sums and differences of the outer angles, without a matrix."""
    order = axes if axes.islower() else axes[::-1].lower()
    i, j, k = ("xyz".index(axis) for axis in order)
    proper = i == k
    k = 3 - i - j if proper else k
    sign = (i - j) * (j - k) * (k - i) / 2
    x, w = q[..., :3], q[..., 3]
    if proper:
        a, b, c, d = w, x[..., i], x[..., j], x[..., k] * sign
    else:
        a, b = w - x[..., j], x[..., i] + x[..., k] * sign
        c, d = x[..., j] + w, x[..., k] * sign - x[..., i]
    across, along = torch.hypot(c, d), torch.hypot(a, b)
    middle = 2 * torch.atan2(across, along)
    # Where one of the two is rounding, its angle is noise: only the sum (or the difference) of the outer ones is known.
    least = 4 * torch.finfo(q.dtype).eps
    low, high = across <= least, along <= least
    plus, minus = torch.atan2(b, a), torch.atan2(d, c)
    first = torch.where(low, 2 * plus, torch.where(high, -2 * minus, plus - minus))
    third = torch.where(low | high, 0.0, plus + minus)
    if axes.isupper():  # the extrinsic order is the reverse, and the last angle of the intrinsic one shall be 0
        first, third = (
            torch.where(low | high, 0.0, first),
            torch.where(low, 2 * plus, torch.where(high, 2 * minus, third)),
        )
    if not proper:
        third, middle = third * sign, middle - math.pi / 2
    found = torch.stack([third, middle, first] if axes.isupper() else [first, middle, third], -1)
    bad = torch.isnan(found).any(-1, keepdim=True)
    outer = torch.tensor([True, False, True], device=q.device)
    return torch.where(bad, torch.nan, torch.where(outer, _wrapped(found), found))


def _wrapped(angle: Tensor) -> Tensor:
    """Of at most a turn beyond (-pi, pi]."""
    angle = torch.where(angle > math.pi, angle - 2 * math.pi, angle)
    return torch.where(angle <= -math.pi, angle + 2 * math.pi, angle)


def _normal(v: Tensor) -> Tensor:
    """Unit vectors along the last axis, whatever their size; NaN of zero and of what is not finite."""
    largest = v.abs().amax(-1, keepdim=True)
    good = (largest > 0) & torch.isfinite(v).all(-1, keepdim=True)
    v = torch.where(good, v, torch.nan) / torch.where(good, largest, 1.0).detach()
    return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)


def _upper(q: Tensor) -> Tensor:
    """Of the two quaternions of a rotation the one with w >= 0; of half a turn the one whose first number that is not
    0 is positive.
    """
    x, y, z, w = q.unbind(-1)
    first = torch.where(x != 0, x, torch.where(y != 0, y, z))
    return torch.where(((w < 0) | ((w == 0) & (first < 0)))[..., None], -q, q)


def _conjugate(q: Tensor) -> Tensor:
    return torch.cat([-q[..., :3], q[..., 3:]], -1)


def _multiply(p: Tensor, q: Tensor) -> Tensor:
    a, b, c, d = p.unbind(-1)
    x, y, z, w = q.unbind(-1)
    return torch.stack(
        [
            d * x + a * w + b * z - c * y,
            d * y - a * z + b * w + c * x,
            d * z + a * y - b * x + c * w,
            d * w - a * x - b * y - c * z,
        ],
        -1,
    )


def _rotate(q: Tensor, v: Tensor) -> Tensor:
    axis, v = torch.broadcast_tensors(q[..., :3], v)
    twice = 2 * torch.linalg.cross(axis, v)
    return v + q[..., 3:] * twice + torch.linalg.cross(axis, twice)
