"""Rotations and poses: against SciPy, by the laws of the groups, and where conversions are known to go wrong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from robocache import compose_pose, continuous_quaternions, convert_rotation, relative_pose

ORDERS = ["".join(a) for a in itertools.product("xyz", repeat=3) if a[0] != a[1] != a[2]]
NAMES = ["quaternion_xyzw", "quaternion_wxyz", "matrix", "axis_angle", "rot6d", "rot6d_rows", "euler_xyz", "euler_ZYZ"]
FEW = settings(max_examples=50, deadline=None)
numbers = st.floats(-10, 10, allow_subnormal=False)
quaternions = arrays(np.float64, (4, 4), elements=numbers).filter(lambda q: (np.linalg.norm(q, axis=1) > 1e-3).all())
places = arrays(np.float64, (4, 3), elements=numbers)
poses = st.tuples(places, quaternions).map(lambda parts: np.concatenate(parts, axis=1))


def matrices(pose: np.ndarray) -> np.ndarray:
    out = np.tile(np.eye(4), (*pose.shape[:-1], 1, 1))
    out[..., :3, :3] = Rotation.from_quat(pose[..., 3:]).as_matrix()
    out[..., :3, 3] = pose[..., :3]
    return out


@pytest.mark.parametrize("order", ORDERS)
def test_euler_angles_are_scipys(order):
    rng = np.random.default_rng(0)
    turns = Rotation.random(200, random_state=0)
    for name in (order, order.upper()):
        angles = convert_rotation(turns.as_quat(), "quaternion_xyzw", f"euler_{name}")
        np.testing.assert_allclose(np.exp(1j * angles), np.exp(1j * turns.as_euler(name)), atol=1e-12)
        assert (np.abs(angles[:, [0, 2]]) <= math.pi).all()
        for middle in (0, math.pi / 2, -math.pi / 2, math.pi):
            wanted = rng.uniform(-3, 3, (20, 3))
            wanted[:, 1] = middle
            locked = Rotation.from_euler(name, wanted)
            found = convert_rotation(locked.as_quat(), "quaternion_xyzw", f"euler_{name}")
            np.testing.assert_allclose(Rotation.from_euler(name, found).as_matrix(), locked.as_matrix(), atol=1e-12)
            if (order[0] == order[2]) == (middle in (0, math.pi)):
                assert (found[:, 2] == 0).all()


def test_each_is_scipys():
    turns = Rotation.random(100, random_state=1)
    q, m = turns.as_quat(), turns.as_matrix()
    wanted = {
        "quaternion_wxyz": q[:, [3, 0, 1, 2]],
        "matrix": m,
        "axis_angle": turns.as_rotvec(),
        "rot6d": np.concatenate([m[:, :, 0], m[:, :, 1]], axis=1),
        "rot6d_rows": np.concatenate([m[:, 0], m[:, 1]], axis=1),
    }
    for name, x in wanted.items():
        np.testing.assert_allclose(convert_rotation(q, "quaternion_xyzw", name), x, atol=1e-14)


@FEW
@given(q=quaternions, source=st.sampled_from(NAMES), target=st.sampled_from(NAMES))
def test_there_and_back(q, source, target):
    x = convert_rotation(q, "quaternion_xyzw", source)
    back = convert_rotation(convert_rotation(x, source, target), target, "matrix")
    np.testing.assert_allclose(
        back, Rotation.from_quat(q).as_matrix(), atol=3e-8 if "euler" in source + target else 1e-13
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("turn", [0, 1e-12, 1e-7, 1e-4, 1, math.pi - 1e-4, math.pi - 1e-7, math.pi])
def test_about_nothing_and_about_half_a_turn(name, dtype, turn):
    axes = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1], [0.6, 0, -0.8], [-1, -1, -1]], np.float64)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turns = Rotation.from_rotvec(axes * turn)
    near = 4e-16 if dtype == np.float64 else 2e-7
    x = convert_rotation((axes * turn).astype(dtype), "axis_angle", name)
    assert x.dtype == dtype
    np.testing.assert_allclose(convert_rotation(x, name, "matrix"), turns.as_matrix(), atol=20 * near)
    if not name.startswith("euler") and name not in ("matrix", "rot6d", "rot6d_rows"):
        again = Rotation.from_rotvec(convert_rotation(x, name, "axis_angle").astype(np.float64))
        assert ((again * turns.inv()).magnitude() <= 20 * near).all()


def test_half_a_turn_has_one_quaternion():
    both = np.array([[0, 0.6, -0.8, 0], [0, -0.6, 0.8, 0]])
    found = convert_rotation(both, "quaternion_xyzw", "axis_angle")
    np.testing.assert_allclose(found, [[0, 0.6 * math.pi, -0.8 * math.pi]] * 2)


def test_what_is_no_rotation_is_nan():
    for x in ([0, 0, 0, 0], [0, np.nan, 0, 1], [np.inf, 0, 0, 1]):
        for name in NAMES:
            assert np.isnan(convert_rotation(np.array(x, np.float64), "quaternion_xyzw", name)).all(), (x, name)
    mirror, stretched = np.diag([1.0, 1, -1]), np.diag([1.0, 1.1, 1])
    assert np.isnan(convert_rotation(np.stack([mirror, stretched, np.zeros((3, 3))]), "matrix", "rot6d")).all()
    for x in ([1, 0, 0, 2, 0, 0], [0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0.1, 0.2, 0.3, 0.3, 0.6, 0.9]):
        assert np.isnan(convert_rotation(np.array(x, np.float64), "rot6d", "matrix")).all(), x
    pose = np.array([1.0, 2, 3, 0, 0, 0, 0])
    assert np.isnan(compose_pose(pose, pose)).all() and np.isnan(relative_pose(pose, pose)).all()


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_size_does_not_matter(scale):
    q = np.array([0.1, -0.2, 0.3, 0.4])
    np.testing.assert_allclose(
        convert_rotation(q * scale, "quaternion_xyzw", "matrix"), Rotation.from_quat(q).as_matrix(), atol=1e-15
    )


def test_gradients_at_the_identity_are_numbers():
    for source in ("axis_angle", "quaternion_xyzw", "euler_xyz"):
        x = torch.zeros(1, 4 if "quat" in source else 3, dtype=torch.float64)
        if "quat" in source:
            x[:, 3] = 1
        x.requires_grad_()
        for target in ("matrix", "axis_angle", "rot6d"):
            (g,) = torch.autograd.grad(convert_rotation(x, source, target).sum(), x)
            assert torch.isfinite(g).all(), (source, target)


def test_refusals():
    with pytest.raises(ValueError, match="no rotation is called 'quaternion'"):
        convert_rotation(np.zeros(4), "quaternion", "matrix")
    for name in ("euler_xxy", "euler_xYz", "euler_xy", "euler_xyw"):
        with pytest.raises(ValueError, match=name):
            convert_rotation(np.zeros(3), name, "matrix")
    with pytest.raises(ValueError, match=r"quaternion_xyzw must be \[..., 4\], got \[3\]"):
        convert_rotation(np.zeros(3), "quaternion_xyzw", "matrix")
    with pytest.raises(ValueError, match="int64; use float64 or float32"):
        convert_rotation(torch.zeros(4, dtype=torch.int64), "quaternion_xyzw", "matrix")
    with pytest.raises(TypeError, match="list"):
        convert_rotation([0.0, 0, 0, 1], "quaternion_xyzw", "matrix")


@FEW
@given(a=poses, b=poses, c=poses)
def test_poses_are_a_group(a, b, c):
    product = compose_pose(a, b)
    np.testing.assert_allclose(matrices(product), matrices(a) @ matrices(b), atol=1e-12)
    np.testing.assert_allclose(
        matrices(compose_pose(product, c)), matrices(compose_pose(a, compose_pose(b, c))), atol=1e-11
    )
    np.testing.assert_allclose(matrices(relative_pose(product, a)), matrices(b), atol=1e-12)
    np.testing.assert_allclose(matrices(relative_pose(a, a)), np.tile(np.eye(4), (4, 1, 1)), atol=1e-12)
    # Seen from a pose, another does not depend on the frame that both are given in.
    np.testing.assert_allclose(
        matrices(relative_pose(compose_pose(c, b), compose_pose(c, a))), matrices(relative_pose(b, a)), atol=1e-11
    )


def test_quaternions_do_not_jump():
    angles = np.linspace(0, 30, 400)
    smooth = np.stack([np.sin(angles / 2) * 0.6, np.sin(angles / 2) * 0.8, 0 * angles, np.cos(angles / 2)], axis=1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], 400)
    signs[[0, 150]] = 1, -1
    flipped = smooth * signs[:, None]
    flipped[[7, 8, 9]] = np.nan
    found = continuous_quaternions(flipped, np.array([0, 150, 150, 400]))
    smooth[150:] *= -1  # the second episode keeps the sign that it begins with
    smooth[[7, 8, 9]] = np.nan
    np.testing.assert_array_equal(found, smooth)
    assert continuous_quaternions(np.zeros((0, 4))).shape == (0, 4)
