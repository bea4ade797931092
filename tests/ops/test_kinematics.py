"""Chains: against Pinocchio's answers, a product of matrices written here, and finite differences."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from golden_data import make_kinematics as golden
from scipy.spatial.transform import Rotation

from robocache import KinematicChain
from robocache.ops.urdf import parse_urdf, read_urdf

FOLDER = Path(__file__).parent / "golden_data"
ARMS = FOLDER / "two_arms.urdf"
GOLDEN = np.load(FOLDER / "kinematics.npz")
CASES = sorted({key.rsplit("/", 1)[0] for key in GOLDEN.files})


def product(path: Path, base: str, tip: str, q: dict[str, float]) -> np.ndarray:
    """The tip in the base's frame, one joint after the other from each of them up to the root."""
    joints = {j.find("child").get("link"): j for j in ElementTree.parse(path).getroot().findall("joint")}
    follows = golden.mimics(str(path))

    def value(name: str) -> float:
        if name in follows:
            source, factor, offset = follows[name]
            return factor * value(source) + offset
        return q[name]

    def numbers(joint, tag: str, key: str, usual: str) -> list[float]:
        found = joint.find(tag)
        return [float(x) for x in (usual if found is None else found.get(key, usual)).split()]

    def from_root(link: str) -> np.ndarray:
        if link not in joints:
            return np.eye(4)
        joint, step, motion = joints[link], np.eye(4), np.eye(4)
        step[:3, :3] = Rotation.from_euler("xyz", numbers(joint, "origin", "rpy", "0 0 0")).as_matrix()
        step[:3, 3] = numbers(joint, "origin", "xyz", "0 0 0")
        axis = np.array(numbers(joint, "axis", "xyz", "1 0 0"))
        axis /= np.linalg.norm(axis)
        if joint.get("type") == "prismatic":
            motion[:3, 3] = axis * value(joint.get("name"))
        elif joint.get("type") != "fixed":
            motion[:3, :3] = Rotation.from_rotvec(axis * value(joint.get("name"))).as_matrix()
        return from_root(joint.find("parent").get("link")) @ step @ motion

    return np.linalg.inv(from_root(base)) @ from_root(tip)


def within(chain: KinematicChain, count: int, seed: int = 0) -> np.ndarray:
    q = golden.configurations(chain.joint_names, chain.limits.numpy(), count, seed)
    return np.stack(list(q.values()), axis=1)


def same_pose(found: np.ndarray, wanted: np.ndarray, near: float) -> None:
    np.testing.assert_allclose(found[..., :3], wanted[..., :3], atol=near)
    off = Rotation.from_quat(found[..., 3:].reshape(-1, 4)) * Rotation.from_quat(wanted[..., 3:].reshape(-1, 4)).inv()
    assert off.magnitude().max() < near


@pytest.mark.parametrize("case", CASES)
def test_pinocchios_answers(case, request):
    file, tip = case.split("/", 1)
    path = ARMS if file == "two_arms" else request.getfixturevalue("data_dir") / f"more/urdf/{file}.urdf"
    chain = KinematicChain.from_urdf(path, None, tip)
    answer = {key: GOLDEN[f"{case}/{key}"] for key in ("names", "q", "pose", "world", "body")}
    assert chain.joint_names == tuple(answer["names"])
    for dtype, near in ((np.float64, 1e-9), (np.float32, 1e-5)):
        q = answer["q"].astype(dtype)
        assert chain.forward(q).dtype == dtype
        same_pose(chain.forward(q).astype(np.float64), answer["pose"], near)
        np.testing.assert_allclose(chain.jacobian(q), answer["world"], atol=near)
        np.testing.assert_allclose(chain.jacobian(q, "body"), answer["body"], atol=near)


@pytest.mark.parametrize("name", ["panda", "ur5_robot", "so101", "g1_29dof_with_hand_rev_1_0"])
def test_pinocchio_itself(name):
    pytest.importorskip("pinocchio", reason="Pinocchio is not installed")
    # The package installs no Python module, but a folder beside those of Pinocchio.
    prefixes = [p for entry in sys.path for p in (Path(entry) / "cmeel.prefix", *Path(entry).parents)]
    folder = next((p for p in prefixes if (p / "share/example-robot-data/robots").is_dir()), None)
    if folder is None:
        pytest.skip("example-robot-data is not installed")
    path = next((folder / "share/example-robot-data/robots").rglob(f"{name}.urdf"))
    robot = parse_urdf(read_urdf(path))
    tips = [link for link in robot.links if link not in {j.parent for j in robot.joints.values()}]
    for tip in tips[:8]:
        chain = KinematicChain.from_urdf(path, None, tip)
        if not chain.joint_names:
            continue
        q = within(chain, 1000)
        poses, world, body = golden.answers(str(path), tip, dict(zip(chain.joint_names, q.T, strict=True)))
        same_pose(chain.forward(q), poses, 1e-9)
        np.testing.assert_allclose(chain.jacobian(q), world, atol=1e-9)
        np.testing.assert_allclose(chain.jacobian(q, "body"), body, atol=1e-9)


@pytest.mark.parametrize("base", ["base", "l_tool", "r_finger_c", "plate"])
def test_any_base_and_tips_by_the_product(base):
    tips = ["l_tool", "base", "r_finger_c", "l2"]
    chain = KinematicChain.from_urdf(ARMS.read_text(), base, tips)
    q = within(chain, 3)
    names = dict.fromkeys(("lift", "l_yaw", "l_elbow", "l_wrist", "r_yaw", "r_reach", "r_grip"), 0.0)
    for as_, shape in (("matrix", (4, 4)), ("pose", (7,)), ("rot6d", (9,))):
        assert chain.forward(q, as_).shape == (3, 4, *shape)
    found, everything = chain.forward(q, "matrix"), chain.forward(q, "matrix", links="all")
    assert chain.links[0] == base
    for row in range(3):
        named = names | dict(zip(chain.joint_names, q[row], strict=True))
        for k, tip in enumerate(tips):
            np.testing.assert_allclose(found[row, k], product(ARMS, base, tip, named), atol=1e-13)
        for k, link in enumerate(chain.links):
            np.testing.assert_allclose(everything[row, k], product(ARMS, base, link, named), atol=1e-13)
    np.testing.assert_array_equal(chain.forward(q, "rot6d")[..., 3:6], found[..., :3, 0])
    np.testing.assert_array_equal(chain.forward(q, "matrix", links="l2"), found[:, 3])


@pytest.mark.parametrize(
    ("base", "tip"), [("base", "r_finger_c"), ("base", "l_tool"), ("l_tool", "r_finger_c"), ("l_tool", "l2")]
)
def test_jacobian_by_differences(base, tip):
    chain = KinematicChain.from_urdf(ARMS, base, tip)
    q, h = within(chain, 4), 1e-6
    world, body = chain.jacobian(q), chain.jacobian(q, "body")
    turn = chain.forward(q, "matrix")[:, :3, :3]
    for j in range(q.shape[1]):
        step = np.zeros(q.shape[1])
        step[j] = h
        after, before = chain.forward(q + step, "matrix"), chain.forward(q - step, "matrix")
        linear = (after[:, :3, 3] - before[:, :3, 3]) / (2 * h)
        angular = Rotation.from_matrix(after[:, :3, :3] @ before[:, :3, :3].mT).as_rotvec() / (2 * h)
        np.testing.assert_allclose(world[:, :, j], np.concatenate([linear, angular], axis=1), atol=1e-8)
        in_body = np.concatenate([(turn.mT @ v[..., None])[..., 0] for v in (linear, angular)], axis=1)
        np.testing.assert_allclose(body[:, :, j], in_body, atol=1e-8)


def test_gradients_and_shapes():
    chain = KinematicChain.from_urdf(ARMS, None, "l_tool")
    q = torch.from_numpy(within(chain, 2)).requires_grad_()
    assert torch.autograd.gradcheck(chain.forward, (q,))
    one = chain.forward(q[0].detach())
    assert one.shape == (7,) and torch.equal(one, chain.forward(q.detach())[0])
    assert chain.forward(q.detach().reshape(2, 1, 4)).shape == (2, 1, 7)
    assert chain.forward(torch.zeros(0, 4)).shape == (0, 7)
    assert chain.jacobian(torch.zeros(5, 4)).shape == (5, 6, 4)


def test_rows_that_are_not_finite():
    chain = KinematicChain.from_urdf(ARMS, None, ["base", "l_tool"])
    q = within(chain, 3)
    q[1, 3], q[2, 0] = np.nan, np.inf
    for found in (chain.forward(q), chain.forward(q, "matrix"), chain.forward(q, "rot6d"), chain.jacobian(q)):
        assert np.isfinite(found[0]).all() and np.isnan(found[1:]).all()


def test_velocities():
    chain = KinematicChain.from_urdf(ARMS, "r_finger_a", "l_tool")
    q = within(chain, 5)
    for frame in ("world", "body"):
        velocity = chain.velocity(q, np.random.default_rng(0).standard_normal(q.shape), frame)
        moved = chain.joint_velocity(q, velocity, frame)
        np.testing.assert_allclose(chain.velocity(q, moved, frame), velocity, atol=1e-9)
        damped = chain.joint_velocity(q, velocity, frame, damping=0.1)
        assert (np.linalg.norm(damped, axis=1) <= np.linalg.norm(moved, axis=1)).all()
    velocity[2, 0] = np.nan
    assert np.isnan(chain.joint_velocity(q, velocity)).all(axis=1).tolist() == [False, False, True, False, False]


def test_inverse_reaches_what_can_be_reached(data_dir):
    chain = KinematicChain.from_urdf(data_dir / "more/urdf/panda.urdf", "panda_link0", "panda_hand_tcp")
    poses = chain.forward(within(chain, 300))
    found = chain.inverse(poses)
    back = chain.forward(found.q)
    off = Rotation.from_quat(back[:, 3:]) * Rotation.from_quat(poses[:, 3:]).inv()
    right = (np.linalg.norm(back[:, :3] - poses[:, :3], axis=1) <= 1e-4) & (off.magnitude() <= 1e-3)
    np.testing.assert_array_equal(found.converged, right)
    assert right.mean() >= 0.99
    np.testing.assert_allclose(found.residual[:, 0], np.linalg.norm(back[:, :3] - poses[:, :3], axis=1), atol=1e-9)
    low, high = chain.limits.numpy().T
    assert ((found.q >= low) & (found.q <= high)).all() and (found.iterations >= 0).all()
    # An answer does not depend on what else is asked.
    again = chain.inverse(poses[7:9])
    np.testing.assert_allclose(again.q, found.q[7:9], atol=1e-6)


def test_inverse_flags_the_rest():
    chain = KinematicChain.from_urdf(ARMS, "base", "l_tool")
    poses = chain.forward(within(chain, 6))
    poses[0, :3] += 5  # beyond its reach
    poses[1, 3:] = 0
    poses[2, 0] = np.nan
    found = chain.inverse(poses, restarts=3)
    assert found.converged.tolist() == [False, False, False, True, True, True]
    assert np.isnan(found.q[1:3]).all() and np.isnan(found.residual[1:3]).all()
    assert np.isfinite(found.q[0]).all() and found.residual[0, 0] > 1


def test_inverse_begins_where_told_and_leans(data_dir):
    chain = KinematicChain.from_urdf(data_dir / "more/urdf/panda.urdf", "panda_link0", "panda_hand_tcp")
    q = within(chain, 8)
    poses = chain.forward(q)
    begun = chain.inverse(poses, q)
    assert begun.converged.all() and (begun.iterations == 0).all()
    np.testing.assert_array_equal(begun.q, q)
    rest = chain.limits.mean(1).numpy()
    leaning = chain.inverse(poses, q, reference=rest)
    assert leaning.converged.all()
    nearer, before = (np.linalg.norm(x - rest, axis=1) for x in (leaning.q, q))
    assert (nearer <= before + 1e-3).all() and nearer.sum() < 0.95 * before.sum()


def changed(old: str, new: str) -> str:
    text = ARMS.read_text()
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<robot", "URDF: "),
        ("<sdf/>", "its root is <sdf>, that of a URDF is <robot>"),
        ('<!DOCTYPE r [<!ENTITY a "aaaa">]><robot name="r"><link name="&a;"/></robot>', "declares a DOCTYPE"),
        ("<robot name='r'/>", "it has no links"),
        (changed('<link name="l1"/>', '<link name="l2"/>'), "two links are called 'l2'"),
        (changed('<child link="l1"/>', '<child link="l9"/>'), "joint l_yaw names the link 'l9', which is not there"),
        (changed('<child link="l1"/>', '<child link="r1"/>'), "link r1 hangs on two joints, l_yaw and r_yaw"),
        (changed('<parent link="base"/>', '<parent link="l_tool"/>'), "lead back to it"),
        (changed('xyz="1 2 -2"', 'xyz="0 0 0"'), "joint l_elbow: its axis is 0 0 0"),
        (changed('xyz="1 2 -2"', 'xyz="1 2"'), "joint l_elbow: axis is '1 2'; it must be 3 finite numbers"),
        (changed('lower="-2"', 'lower="nan"'), "joint l_elbow: limit lower is 'nan'"),
        (changed('lower="-2"', 'lower="2"'), "its limits are 2.0 and 1.5"),
        (changed('<limit lower="-2" upper="1.5" effort="1" velocity="1"/>', ""), "joint l_elbow has no <limit>"),
        (changed('name="l_yaw" type="continuous"', 'name="l_yaw"'), "joint l_yaw has no type"),
        (changed('joint="r_grip_b"', 'joint="nobody"'), "joint r_grip_c mimics 'nobody'"),
        (changed('<mimic joint="r_grip"', '<mimic joint="r_grip_c"'), "which is no joint that can lead"),
        (changed('name="l_yaw" type="continuous"', 'name="l_yaw" type="floating"'), "joint l_yaw is floating"),
    ],
)  # fmt: skip
def test_urdfs_that_are_none(text, message):
    with pytest.raises(ValueError, match=r"^(URDF|two_arms): ") as caught:
        KinematicChain.from_urdf(text, "base", ["l_tool", "r_finger_c"])
    assert message in str(caught.value)


def test_refusals():
    with pytest.raises(ValueError, match="no link is called 'hand'; it has base, torso"):
        KinematicChain.from_urdf(ARMS, "base", "hand")
    with pytest.raises(OSError):
        KinematicChain.from_urdf("nowhere.urdf", "base", "l_tool")
    chain = KinematicChain.from_urdf(ARMS, "base", "l_tool")
    with pytest.raises(ValueError, match=r"q \[3\] must be \[..., 4\]: lift, l_yaw, l_elbow, l_wrist"):
        chain.forward(np.zeros(3))
    with pytest.raises(ValueError, match="'r1' is not on the chains"):
        chain.forward(np.zeros(4), links=["r1"])
    several = KinematicChain.from_urdf(ARMS, "base", ["l_tool", "r2"])
    with pytest.raises(ValueError, match="the chain has 2 tips"):
        several.inverse(np.zeros(7))
    links = "".join(f'<link name="k{i}"/>' for i in range(66))
    joints = "".join(
        f'<joint name="j{i}" type="continuous"><parent link="k{i}"/><child link="k{i + 1}"/></joint>' for i in range(65)
    )
    with pytest.raises(ValueError, match="65 moving joints from k0 to k65; at most 64"):
        KinematicChain.from_urdf(f"<robot name='r'>{links}{joints}</robot>", "k0", "k65")
    most = KinematicChain.from_urdf(f"<robot name='r'>{links}{joints}</robot>", "k0", "k64")
    angle = Rotation.from_quat(most.forward(np.full(64, 0.01))[3:]).as_rotvec()
    np.testing.assert_allclose(angle, [0.64, 0, 0], atol=1e-14)
    assert math.isinf(most.limits[0, 1])
