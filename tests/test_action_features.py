"""Joint logs to actions, whole: run, read back, inverted, compared with what was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from config_kit import only_problem, problems
from omegaconf import OmegaConf
from scipy.spatial.transform import Rotation
from test_kinematics import ARMS, product

from robocache import Output, run, verify
from robocache.actions import invert
from robocache.config.load import job_from_mapping
from robocache.config.resolved import resolved_yaml
from robocache.errors import ConfigError, OutputError

JOINTS = ["lift", "l_yaw", "l_elbow", "l_wrist"]
FK = {
    "urdf": str(ARMS),
    "tip": "l_tool",
    "joints": ["l_wrist", "gripper", "lift", "l_yaw", "l_elbow"],
    "keep": ["gripper"],
}


def write_log(path: Path, seed: int = 0, samples: int = 200) -> None:
    """Joints in another order than the chain's, a gripper among them, a hole in the middle."""
    rng = np.random.default_rng(seed)
    q = np.cumsum(rng.standard_normal((samples, 5)) * 0.03, axis=0)
    q[:, 1] = 0.04 + 0.04 * np.sin(q[:, 1])
    keep = np.ones(samples, bool)
    keep[90:130] = False
    values = pa.FixedSizeListArray.from_arrays(pa.array(q[keep].reshape(-1)), 5)
    pq.write_table(pa.table({"time": np.arange(samples)[keep] * 10_000_000, "q": values}), path)


def made(tmp_path: Path, features: dict, **timeline) -> Output:
    logs = tmp_path / "logs"
    logs.mkdir(exist_ok=True)
    for i in range(2):
        write_log(logs / f"log_{i}.parquet", i)
    config = {
        "input": {"uri": str(logs), "format": "parquet", "times": {"column": "time", "unit": "ns"}},
        "features": features,
        "timeline": {"rate_hz": 50, **timeline},
        "output": {"uri": str(tmp_path / "out")},
    }
    assert not run(config).quarantined
    assert verify(str(tmp_path / "out")).problems == ()
    return Output.open(str(tmp_path / "out"))


def column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), np.float64)


def test_end_effector_chunks_come_back(tmp_path):
    joints = {"source": "q", "max_gap": "30ms"}
    chunks = {"delta": "chunk", "chunk": 4, "state": "observation.ee", "absolute": ["gripper"], "rotation": "rot6d"}
    output = made(
        tmp_path,
        {
            "action": {**joints, "forward_kinematics": FK, "convert": chunks, "dtype": "float64", "role": "action"},
            "observation.ee": {**joints, "forward_kinematics": FK, "convert": {"rotation": "rot6d"}},
            "joints": {**joints, "dtype": "float64"},
        },
    )
    table = output.table(output.parts[0])
    field = table.schema.field("action")
    assert field.type == pa.list_(pa.list_(pa.float64(), 10), 4)
    names = ["x", "y", "z", "r00", "r10", "r20", "r01", "r11", "r21", "gripper"]
    assert json.loads(field.metadata[b"names"]) == names
    assert json.loads(field.metadata[b"units"]) == ["m"] * 3 + [""] * 7
    assert json.loads(field.metadata[b"kinematics"])["joints"] == JOINTS
    # Every pose by a product of matrices written in the tests of the chains.
    q, valid = column(table, "joints"), np.array(table["joints.valid"])
    poses = np.full((len(q), 4, 4), np.nan)
    for t in np.flatnonzero(valid):
        named = dict(zip(FK["joints"], q[t], strict=True))
        poses[t] = product(ARMS, "base", "l_tool", named)
    state = column(table, "observation.ee")
    np.testing.assert_allclose(state[valid][:, :3], poses[valid][:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(state[valid][:, 3:9], poses[valid][:, :3, :2].mT.reshape(-1, 6), atol=1e-6)
    action, whole = column(table, "action"), np.array(table["action.valid"])
    episode = np.array(table["episode_index"])
    for t in range(len(q) - 3):
        inside = valid[t : t + 4].all() and episode[t] == episode[t + 3]
        assert whole[t] == inside
        if inside:
            seen = np.linalg.inv(poses[t]) @ poses[t + 2]
            np.testing.assert_allclose(action[t, 2, :3], seen[:3, 3], atol=1e-5)
            np.testing.assert_allclose(action[t, 2, 3:9], seen[:3, :2].T.reshape(-1), atol=1e-5)
            assert action[t, 2, 9] == q[t + 2, 1]
    assert 0 < whole.sum() < valid.sum() - 4 and not whole[-3:].any()
    # And back, from the folder alone.
    back = invert(str(tmp_path / "out"))
    assert json.loads(back.schema.field("action").metadata[b"names"])[3:] == ["qx", "qy", "qz", "qw", "gripper"]
    for name, near in (("action", 1e-12), ("observation.ee", 1e-6)):
        found = column(back, name)
        assert (np.isfinite(found).all(axis=1) == valid).all()
        np.testing.assert_allclose(found[valid, :3], poses[valid][:, :3, 3], atol=near)
        off = Rotation.from_quat(found[valid, 3:7]) * Rotation.from_matrix(poses[valid][:, :3, :3]).inv()
        assert off.magnitude().max() < 10 * near
    np.testing.assert_array_equal(column(back, "action")[valid, 7], q[valid, 1])
    with pytest.raises(OutputError, match=r"no column is called 'grip'"):
        invert(output, ["grip"])
    with pytest.raises(OutputError, match=r"is seen from observation.ee, which is not among the columns"):
        invert(table.drop_columns(["observation.ee"]), ["action"])


def test_steps_and_grippers_come_back_around_a_hole(tmp_path):
    gripper = {"column": "1", "closed": 0.08, "open": 0.0}
    steps = {"delta": "step", "absolute": [1], "gripper": gripper}
    output = made(
        tmp_path,
        {
            "action": {"source": "q", "max_gap": "30ms", "dtype": "float64", "convert": steps},
            "joints": {"source": "q", "max_gap": "30ms", "dtype": "float64"},
        },
    )
    table = output.table(output.parts[0])
    q, valid = column(table, "joints"), np.array(table["joints.valid"])
    starts = table["action.start"].is_valid().to_numpy()
    assert starts.sum() == 4  # two episodes, each with a hole
    action = column(table, "action")
    np.testing.assert_array_equal(action[0], np.where(np.arange(5) == 1, (q[1] - 0.08) / -0.08, q[1] - q[0]))
    found = column(invert(output), "action")
    assert (np.isfinite(found).all(axis=1) == valid).all()
    np.testing.assert_allclose(found[valid], q[valid], atol=1e-13)
    with pytest.raises(OutputError, match=r"the column action.start is missing"):
        invert(table.drop_columns(["action.start"]))


@pytest.mark.realdata
def test_steps_of_g1_inspire_come_back_to_the_bit(tmp_path, data_dir):
    action = {"source": "action", "align": "previous"}
    config = {
        "input": {"uri": str(data_dir / "lerobot/g1_inspire_v21"), "format": "lerobot", "select": "0:3"},
        "features": {
            "action": {**action, "dtype": "float64", "convert": {"delta": "step"}},
            "plain": action,
        },
        "timeline": {"reference": "action"},
        "output": {"uri": str(tmp_path / "out")},
    }
    assert not run(config).quarantined
    output = Output.open(config["output"]["uri"])
    table = pa.concat_tables([output.table(part) for part in output.parts])
    assert table.schema.field("plain").type == pa.list_(pa.float32(), 26)
    found = column(invert(output), "action").astype(np.float32)
    assert len(found) > 500 and found.tobytes() == column(table, "plain").astype(np.float32).tobytes()


CONFIG = f"""
input: {{uri: logs/*.mcap}}
features:
  observation.ee: {{source: /q, forward_kinematics: {{urdf: {ARMS}, tip: l_tool}}}}
  action:
    {{source: /q, role: action, forward_kinematics: {{urdf: {ARMS}, tip: [l_tool, r2]}}, convert: {{delta: step}}}}
timeline: {{rate_hz: 50}}
output: {{uri: out}}
"""


def test_the_job_is_told_by_what_the_urdf_holds(tmp_path):
    urdf = tmp_path / "robot.urdf"
    urdf.write_text(ARMS.read_text())
    config = OmegaConf.create(CONFIG.replace(str(ARMS), str(urdf)))
    first = job_from_mapping(config)
    assert job_from_mapping(OmegaConf.create(resolved_yaml(first))) == first
    urdf.write_text(ARMS.read_text().replace("0.25", "0.26"))
    assert job_from_mapping(config).identity() != first.identity()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("observation.ee.forward_kinematics.urdf=no.urdf", "no.urdf cannot be read: No such file or directory"),
        ("observation.ee.forward_kinematics.tip=hand", "no link is called 'hand'; it has base, torso"),
        ("observation.ee.forward_kinematics.base=l_tool", "no joint moves between l_tool and l_tool"),
        ("observation.ee.forward_kinematics.form=pose7", "found 'pose7'; "),
        ("observation.ee.dtype=int32", "forward_kinematics gives fractions; write float32 or float64"),
        ("action.convert={}", "converts nothing; write delta, rotation, continuous or gripper"),
        ("action.convert.rotation=rot9d", "no rotation is called 'rot9d'; use quaternion_xyzw"),
        ("action.convert.delta=chunk", "missing; write how many actions a row holds"),
        ("action.convert.chunk=4", "is for delta: chunk; leave it out"),
        ("action.convert.state=observation.ee", "is for delta: chunk and state; leave it out"),
        ("action.convert={delta: state, state: action}", "found 'action'; write another feature: observation.ee"),
        ("action.convert={rotation: rot6d, absolute: [0]}", "is for deltas, and there is none"),
        ("action.convert={gripper: {column: g, closed: 1, open: 1}}", "closed at 1.0 and open at 1.0 is no range"),
        ("action.convert={gripper: {column: g, closed: 1}}", "missing; write the gripper's reading where it is open"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(override, text):
    found = problems(CONFIG, f"features.{override}".replace("features.observation.ee", "features[observation.ee]"))
    assert any(text in line for line in found), found


def test_looking_ahead_takes_an_action():
    text = CONFIG.replace("rate_hz: 50", "rate_hz: 50, causal: true")
    job_from_mapping(OmegaConf.create(text))
    assert "step looks ahead" in only_problem(text.replace("role: action, ", ""))


def test_a_state_of_other_columns_is_found_before_the_first_shard(tmp_path):
    write_log(tmp_path / "a.parquet")
    chunk = {"delta": "chunk", "chunk": 2, "state": "observation.ee"}
    config = {
        "input": {"uri": str(tmp_path / "a.parquet"), "times": {"column": "time", "unit": "ns"}},
        "features": {
            "observation.ee": {"source": "q", "forward_kinematics": FK | {"keep": []}},
            "action": {"source": "q", "forward_kinematics": FK, "convert": chunk},
        },
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(tmp_path / "out")},
    }
    with pytest.raises(ConfigError, match=r"action.convert.state: observation.ee has 7 columns, the action 8: x, y"):
        run(config)
    config["features"]["observation.ee"]["forward_kinematics"]["joints"] = ["a", "b", "c", "d", "e"]
    with pytest.raises(ConfigError, match=r"observation.ee.forward_kinematics.joints: no column is called lift"):
        run(config)
