"""Rotations, poses and actions: the kernels against their plain-torch twins, and the GPU's bits against the CPU's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robocache import compose_pose, convert_rotation, from_delta, relative_pose, to_delta
from robocache.ops import _library
from robocache.ops.reference import rotations as reference
from robocache.ops.rotation_names import rotation_shape
from tests.marks import needs_cuda

NAMES = ["quaternion_xyzw", "quaternion_wxyz", "matrix", "axis_angle", "rot6d", "rot6d_rows"]
NAMES += ["euler_xyz", "euler_zyx", "euler_zxz", "euler_XYZ", "euler_YXY"]
kernels = pytest.mark.skipif(
    not _library.has_kernel("convert_rotation", torch.device("cpu")), reason="no compiled extension"
)


def turns(rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Random quaternions, then those that are about nothing, about half a turn, tiny, huge, and none at all."""
    q = torch.randn(rows, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for i, angle in enumerate((0.0, 1e-9, 1e-4, math.pi - 1e-7, math.pi)):
        for j, axis in enumerate(([1, 0, 0], [0, -1, 0], [0.6, 0, -0.8])):
            q[3 * i + j] = torch.tensor([*(math.sin(angle / 2) * a for a in axis), math.cos(angle / 2)])
    q[20] = 0
    q[21, 2] = math.nan
    q[22, 3] = math.inf
    q[23] *= 1e-30
    q[24] *= 1e30
    return q.to(dtype)


def matrix_of(x: torch.Tensor, name: str) -> torch.Tensor:
    return reference.convert(x.double(), name, "matrix")


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("source", NAMES)
def test_each_conversion_is_the_twins(source, dtype):
    q = turns(300, dtype)
    x = reference.convert(q, "quaternion_xyzw", source)
    eps = torch.finfo(dtype).eps
    for target in NAMES:
        ours, twins = convert_rotation(x, source, target), reference.convert(x, source, target)
        assert ours.shape == twins.shape
        assert ours.dtype == dtype
        assert torch.equal(ours.isnan(), twins.isnan()), (source, target)
        good = ~twins.flatten(1).isnan().any(1)
        assert 290 < int(good.sum()) < 300  # three are no rotations
        if target.startswith("euler"):  # near a lock the outer angles are noise, the rotation is not
            torch.testing.assert_close(
                matrix_of(ours[good], target), matrix_of(twins[good], target), atol=40 * eps + 4 * eps**0.5, rtol=0
            )
            good &= (matrix_of(twins, target) - matrix_of(ours, target)).flatten(1).abs().amax(1) < 10 * eps
            assert int(good.sum()) > 250
        else:
            torch.testing.assert_close(ours[good], twins[good], atol=30 * eps, rtol=30 * eps)


@kernels
def test_what_is_no_rotation_is_nan():
    eye = torch.eye(3, dtype=torch.float64)
    skewed, mirror = eye.clone(), eye.clone()
    skewed[0, 1], mirror[2, 2] = 0.02, -1
    assert torch.isfinite(convert_rotation(eye + 1e-3, "matrix", "rot6d")).all()
    for bad in (skewed, mirror, eye * math.nan):
        assert torch.isnan(convert_rotation(bad, "matrix", "quaternion_xyzw")).all()
    parallel = torch.tensor([1.0, 2, 3, 2, 4, 6], dtype=torch.float64)
    nearly = parallel + torch.tensor([0, 0, 0, 0, 0, 1e-8], dtype=torch.float64)
    assert torch.isnan(convert_rotation(parallel, "rot6d", "matrix")).all()
    found = convert_rotation(nearly, "rot6d", "matrix")
    torch.testing.assert_close(found.mT @ found, eye, atol=1e-12, rtol=0)


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poses_are_the_twins(dtype):
    eps = torch.finfo(dtype).eps
    pose = torch.cat([torch.randn(300, 3, dtype=dtype), turns(300, dtype)], 1)
    base = pose.flip(0)
    for ours, twins in (
        (relative_pose(pose, base), reference.relative_pose(pose, base)),
        (compose_pose(base, pose), reference.compose_pose(base, pose)),
        (relative_pose(pose[:, None], base[:2]), reference.relative_pose(pose[:, None], base[:2])),
    ):
        torch.testing.assert_close(ours, twins, atol=40 * eps, rtol=40 * eps, equal_nan=True)
    still = relative_pose(pose, pose)  # a pose seen from itself: exactly no turn
    assert (still[:20, :6] == 0).all()
    assert (still[:20, 6] - 1).abs().max() <= 4 * eps


def rows_of(dtype: torch.dtype, count: int = 97) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(2, count, 12, dtype=dtype, generator=torch.Generator().manual_seed(5))
    x[0, 30, 2] = math.nan
    return x[0], x[1], torch.tensor([0, 0, 40, 41, 41, 90, count, count])


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "chunk"), [("step", None), ("state", None), ("chunk", 1), ("chunk", 7), ("chunk", 99)]
)
@pytest.mark.parametrize("ragged", [True, False])
def test_actions_are_the_twins(kind, chunk, ragged, dtype, monkeypatch):
    actions, state, offsets = rows_of(dtype)
    arguments = {"chunk": chunk, "offsets": offsets if ragged else None, "poses": [4], "mask": [True] * 11 + [False]}
    ours = to_delta(actions, kind, state=None if kind == "step" else state, **arguments)
    back = None if kind == "step" else from_delta(ours, kind, state=state, **arguments)
    monkeypatch.setattr("robocache.ops.actions.compiled", lambda *_: False)
    twins = to_delta(actions, kind, state=None if kind == "step" else state, **arguments)
    torch.testing.assert_close(ours, twins, equal_nan=True)
    single = [0, 1, 2, 3, 11]
    assert torch.equal(ours[..., single].nan_to_num(7), twins[..., single].nan_to_num(7))
    if back is not None:
        again = from_delta(ours, kind, state=state, **arguments)
        torch.testing.assert_close(back, again, equal_nan=True)


@kernels
def test_many_columns_take_the_twin():
    wide = torch.randn(5, 1100, dtype=torch.float64)
    assert torch.equal(to_delta(wide, "step")[:4], wide[1:] - wide[:-1])


@kernels
def test_torch_knows_their_shapes():
    q, pose = turns(30, torch.float32)[:20], torch.randn(30, 7)
    ops = torch.ops.robocache
    torch.library.opcheck(ops.convert_rotation.default, (q, 0, 2))
    torch.library.opcheck(ops.relative_pose.default, (pose, pose.flip(0), False))
    torch.library.opcheck(
        ops.relative_actions.default, (pose, pose.flip(0), torch.tensor([0, 12, 30]), 0, 1, [0] * 7, [0], False)
    )
    given = q.clone().requires_grad_()
    convert_rotation(given, "quaternion_xyzw", "rot6d")[:15].sum().backward()
    assert torch.isfinite(given.grad[:15]).all()


@kernels
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op, x: op.convert_rotation(x, 0, 2), r"x must be \[N, 4\], got \[3, 7\]"),
        (lambda op, x: op.convert_rotation(x.half(), 0, 2), "use float64 or float32"),
        (lambda op, x: op.convert_rotation(x, 0, 999), "target 999"),
        (lambda op, x: op.relative_pose(x, x[:2], False), "must be like the first argument"),
        (lambda op, x: op.relative_actions(x, None, None, 0, 0, [1] * 7, [], False), "count 0"),
        (lambda op, x: op.relative_actions(x, None, None, 0, 1, [1] * 7, [1], False), "a pose at column 1 of 7"),
        (lambda op, x: op.relative_actions(x, None, None, 0, 1, [1] * 6, [], False), "6 values for 7 columns"),
        (lambda op, x: op.relative_actions(x, None, torch.tensor([0, 9]), 0, 1, [1] * 7, [], False), "from 0 to 3"),
    ],
)
def test_refusals(call, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        call(torch.ops.robocache, torch.zeros(3, 7))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gpu_gives_the_cpus_bits(dtype):
    def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        np.testing.assert_array_equal(ours.cpu().numpy(), theirs.numpy())

    q = turns(1000, dtype)
    for source in NAMES:
        x = reference.convert(q, "quaternion_xyzw", source)
        for target in NAMES:
            same(convert_rotation(x.cuda(), source, target), convert_rotation(x, source, target))
            assert convert_rotation(x, source, target).shape[1:] == rotation_shape(target)
    pose = torch.cat([torch.randn(1000, 3, dtype=dtype), q], 1)
    same(relative_pose(pose.cuda(), pose.flip(0).cuda()), relative_pose(pose, pose.flip(0)))
    same(compose_pose(pose.cuda(), pose.flip(0).cuda()), compose_pose(pose, pose.flip(0)))
    actions, state, offsets = rows_of(dtype, 1000)
    for kind, chunk in (("step", None), ("state", None), ("chunk", 5), ("chunk", 64)):
        given = None if kind == "step" else state
        arguments = {"chunk": chunk, "poses": [4], "mask": [True] * 11 + [False]}
        theirs = to_delta(actions, kind, state=given, offsets=offsets, **arguments)
        on_card = None if given is None else given.cuda()
        same(to_delta(actions.cuda(), kind, state=on_card, offsets=offsets.cuda(), **arguments), theirs)
