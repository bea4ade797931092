"""Makes kinematics.npz with Pinocchio (``pip install pin``): poses and Jacobians of random configurations.

python tests/ops/golden_data/make_kinematics.py FOLDER_OF_URDFS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
#: file -> a tip
TIPS = {
    "two_arms": ("l_tool", "r_finger_c"),
    "bravo7_gripper": ("bravo_finger1_link",),
    "gen3_2f85": ("gen3_robotiq_85_left_finger_tip_link",),
    "inspire_hand_left": ("L_thumb_distal",),
    "panda": ("panda_hand_tcp", "panda_rightfinger"),
    "so101_new_calib": ("gripper_frame_link",),
    "wx250s": ("ee_gripper_link", "right_finger_link"),
}


def answers(path: str, tip: str, q: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses ``[n, 7]`` in the root's frame and Jacobians ``[n, 6, J]`` (world, body) by the coordinates ``q``, the
    joints that a mimic follows; Pinocchio itself is given every joint as one of its own.
    """
    import pinocchio as pin

    model = pin.buildModelFromUrdf(path)
    data = model.createData()
    frame = model.getFrameId(tip, pin.BODY)
    follows = mimics(path)
    count = len(next(iter(q.values())))
    columns = np.zeros((model.nv, len(q)))
    full = np.tile(pin.neutral(model), (count, 1))
    for j in range(1, model.njoints):
        joint, name, factor, offset = model.joints[j], model.names[j], 1.0, 0.0
        while name in follows:
            name, by, more = follows[name]
            factor, offset = factor * by, factor * more + offset
        if name not in q:  # it moves none of what leads to the tip
            continue
        angle = factor * q[name] + offset
        full[:, joint.idx_q : joint.idx_q + joint.nq] = np.stack(
            [np.cos(angle), np.sin(angle)] if joint.nq == 2 else [angle], axis=1
        )
        columns[joint.idx_v, list(q).index(name)] = factor
    poses, world, body = [], [], []
    for row in full:
        pin.computeJointJacobians(model, data, row)
        pin.updateFramePlacements(model, data)
        poses.append(pin.SE3ToXYZQUAT(data.oMf[frame]))
        for out, kind in ((world, pin.LOCAL_WORLD_ALIGNED), (body, pin.LOCAL)):
            out.append(pin.getFrameJacobian(model, data, frame, kind) @ columns)
    return np.array(poses), np.array(world), np.array(body)


def mimics(path: str) -> dict[str, tuple[str, float, float]]:
    from xml.etree import ElementTree

    found = {}
    for joint in ElementTree.parse(path).getroot().findall("joint"):
        if (mimic := joint.find("mimic")) is not None:
            factor, offset = float(mimic.get("multiplier", 1)), float(mimic.get("offset", 0))
            found[joint.get("name")] = (mimic.get("joint"), factor, offset)
    return found


def configurations(names: tuple[str, ...], limits: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    low, high = np.nan_to_num(limits, posinf=3.2, neginf=-3.2).T
    q = np.random.default_rng(seed).uniform(low, high, (count, len(names)))
    return {name: q[:, i] for i, name in enumerate(names)}


def main(folder: str) -> None:
    from robocache.ops.urdf import parse_urdf, read_urdf

    out = {}
    for file, tips in TIPS.items():
        path = str(HERE / "two_arms.urdf" if file == "two_arms" else Path(folder) / f"{file}.urdf")
        robot = parse_urdf(read_urdf(path), path)
        for tip in tips:
            flat = robot.flat(None, [tip])
            q = configurations(flat.joints, flat.limits, 4, seed=1)
            poses, world, body = answers(path, tip, q)
            out |= {
                f"{file}/{tip}/{key}": value
                for key, value in (
                    ("names", np.array(flat.joints)), ("q", np.stack(list(q.values()), axis=1)),
                    ("pose", poses), ("world", world), ("body", body),
                )
            }  # fmt: skip
    np.savez_compressed(HERE / "kinematics.npz", **out)


if __name__ == "__main__":
    main(sys.argv[1])
