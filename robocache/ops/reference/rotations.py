"""Rotations and poses in plain torch: what the kernels of kernels/include/robocache/geometry/rotation.h do, with
gradients. :mod:`robocache.ops.rotations` says what they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: A matrix M is no rotation where an element of M^T M is further than this from the identity's.
TOLERANCE = 1e-2

_OF_MATRIX = ("matrix", "rot6d", "rot6d_rows")


def convert(x: Tensor, source: str, target: str) -> Tensor:
    """``[..., *shape of source]`` as ``[..., *shape of target]``."""
    if target in _OF_MATRIX and source in _OF_MATRIX:
        return _from_matrix(_to_matrix(x, source), target)
    return _from_quaternion(_to_quaternion(x, source), target)


def relative_pose(pose: Tensor, base: Tensor) -> Tensor:
    """``inv(base) pose`` of ``[..., 7]``."""
    inverse = _conjugate(_normal(base[..., 3:]))
    place = _rotate(inverse, pose[..., :3] - base[..., :3])
    return _joined(place, _upper(_multiply(inverse, _normal(pose[..., 3:]))))


def compose_pose(base: Tensor, relative: Tensor) -> Tensor:
    """``base relative`` of ``[..., 7]``."""
    q = _normal(base[..., 3:])
    place = _rotate(q, relative[..., :3]) + base[..., :3]
    return _joined(place, _upper(_multiply(q, _normal(relative[..., 3:]))))


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
