"""The configs of docs/recipes.md, each on a small file of its format that another library, or a test's own hand, wrote;
and docs/keys.md, which is made of the schema.
"""

from __future__ import annotations

import json
import math
import re
import runpy
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cloud_kit
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import robocache
from robocache import cli
from robocache.sample import write_samples

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/recipes.md").read_text()
RECIPES = dict(re.findall(r"^## (.+?)\n\n```yaml\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
TIMES = np.arange(40) * 25_000_000
RAMP = np.arange(40) / 40


def mcap(logs: Path) -> None:
    write_samples(logs, episodes=2, seconds=1.0)


def _messages(writer: Any, store: Any, topics: dict[str, tuple[str, Callable[[int], Any]]], encode: str) -> None:
    for topic, (kind, make) in topics.items():
        connection = writer.add_connection(topic, kind, typestore=store)
        for k, ns in enumerate(TIMES.tolist()):
            writer.write(connection, 10**18 + ns, bytes(getattr(store, encode)(make(k), kind)))


def rosbag1(logs: Path) -> None:
    rosbag1 = pytest.importorskip("rosbags.rosbag1", reason="rosbags writes the bag")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    t = store.types

    def header(k: int) -> Any:
        stamp = t["builtin_interfaces/msg/Time"](10**9, int(TIMES[k]))
        return t["std_msgs/msg/Header"](k, stamp, "odom")

    def odom(k: int) -> Any:
        place = t["geometry_msgs/msg/Point"](RAMP[k], 0.0, 0.0)
        pose = t["geometry_msgs/msg/Pose"](place, t["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0))
        speed = [t["geometry_msgs/msg/Vector3"](1.0, 0.0, float(k)) for _ in range(2)]
        with_pose = t["geometry_msgs/msg/PoseWithCovariance"](pose, np.zeros(36))
        twist = t["geometry_msgs/msg/TwistWithCovariance"](t["geometry_msgs/msg/Twist"](*speed), np.zeros(36))
        return t["nav_msgs/msg/Odometry"](header(k), "base", with_pose, twist)

    topics = {
        "/odom": ("nav_msgs/msg/Odometry", odom),
        "/status": ("std_msgs/msg/String", lambda k: t["std_msgs/msg/String"](f"phase {k // 20}")),
    }
    with rosbag1.Writer(logs / "run.bag") as writer:
        _messages(writer, store, topics, "serialize_ros1")


def rosbag2(logs: Path) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags writes the bag")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    t = store.types

    def joints(k: int) -> Any:
        header = t["std_msgs/msg/Header"](t["builtin_interfaces/msg/Time"](10**9, int(TIMES[k])), "")
        names = ["elbow", "shoulder"] if k % 2 else ["shoulder", "elbow"]
        place = np.array([-RAMP[k], RAMP[k]] if k % 2 else [RAMP[k], -RAMP[k]])
        return t["sensor_msgs/msg/JointState"](header, names, place, np.zeros(0), np.zeros(0))

    with rosbag2.Writer(logs / "run_1", version=9) as writer:
        _messages(writer, store, {"/joint_states": ("sensor_msgs/msg/JointState", joints)}, "serialize_cdr")


def ulog(logs: Path) -> None:
    from test_ulog import log

    (logs / "a.ulg").write_bytes(log())


def hdf5(logs: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(logs / "demos.hdf5", "w") as file:
        for k in range(2):
            demo = file.create_group(f"data/demo_{k}")
            demo["obs/eef_pos"] = np.stack([RAMP, RAMP, RAMP], axis=1) + k
            demo["actions"] = np.stack([RAMP, -RAMP], axis=1)
            demo.attrs["success"] = bool(k)


def zarr(logs: Path) -> None:
    package = pytest.importorskip("zarr", reason="zarr is not installed")
    group = package.open_group(str(logs / "replay.zarr"), mode="w", zarr_format=2)
    arrays = {"data/state": np.stack([RAMP, RAMP], 1), "data/action": np.stack([RAMP, -RAMP, RAMP], 1)}
    for name, values in (arrays | {"meta/episode_ends": np.array([15, 40])}).items():
        group.create_array(name, data=values)


def numpy(logs: Path) -> None:
    np.savez(logs / "a.npz", t=TIMES / 1e9, q=np.stack([RAMP, RAMP], axis=1))


def rlds(logs: Path) -> None:
    pytest.importorskip("google_crc32c", reason="google-crc32c is not installed")
    from test_rlds import write

    (logs / "rlds").mkdir()
    write(logs / "rlds")


def csv(logs: Path) -> None:
    (logs / "run_1").mkdir()
    rows = [(k * 20, RAMP[k], -RAMP[k]) for k in range(40)]
    (logs / "run_1/arm.csv").write_text("time_ms,q1,q2\n" + "".join(f"{t},{a},{b}\n" for t, a, b in rows))
    (logs / "run_1/ft.csv").write_text("time_ms,fz\n" + "".join(f"{t},{t / 10}\n" for t in range(800)))


def parquet(logs: Path) -> None:
    q = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(RAMP, 3)), 3)
    pq.write_table(pa.table({"time": TIMES, "q": q, "grip": RAMP}), logs / "a.parquet")


def lerobot(logs: Path) -> None:
    from test_lerobot import write_v3

    write_v3(logs / "dataset")


def clouds(logs: Path) -> None:
    (logs / "clouds").mkdir()
    for k in range(4):
        (logs / f"clouds/{1_700_000_000 + k / 10:.3f}.pcd").write_bytes(cloud_kit.pcd(cloud_kit.points(50, k)))


def video(logs: Path) -> None:
    av = pytest.importorskip("av", reason="the extra video is not installed")
    from robocache.video import Encoding, encode

    frames = (av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * k, np.uint8)) for k in range(12))
    (logs / "a.mp4").write_bytes(encode(frames, (48, 64), Fraction(10), Encoding("h264")))


#: Who writes the recordings, and how many episodes and rows they are to become.
WRITERS: dict[str, tuple[Callable[[Path], None], int, int]] = {
    "MCAP": (mcap, 2, 0),
    "ROS 1 bags": (rosbag1, 1, 10),
    "ROS 2 bags in SQLite": (rosbag2, 1, 20),
    "ULog (PX4)": (ulog, 1, 10),
    "HDF5 (robomimic, ALOHA and others)": (hdf5, 2, 80),
    "Zarr (UMI, diffusion policy)": (zarr, 2, 40),
    "NumPy": (numpy, 1, 49),
    "RLDS (TensorFlow Datasets)": (rlds, 0, 0),
    "CSV": (csv, 1, 40),
    "Parquet": (parquet, 1, 49),
    "LeRobot datasets": (lerobot, 3, 0),
    "Clouds (PCD, LAS)": (clouds, 1, 4),
    "Videos": (video, 1, 12),
}


def test_each_recipe_has_a_recording():
    assert list(RECIPES) == list(WRITERS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer, episodes, rows = WRITERS[name]
    Path("logs").mkdir()
    writer(Path("logs"))
    config = yaml.safe_load(RECIPES[name])
    summary = robocache.run(config | {"compute": {"device": "cpu", "threads": 1}})
    found = robocache.verify(config["output"]["uri"])
    assert found.problems == () and (summary.within_limit, found.rows) == (True, summary.rows)
    assert found.episodes == (episodes or found.episodes) > 0
    assert found.rows == pytest.approx(rows, abs=2) if rows else found.rows > 0
    output = robocache.Output.open(config["output"]["uri"])
    assert all(sum(e["valid"].values()) > 0 for e in map(yaml.safe_load, output.episodes["quality"].to_pylist()))


def own_log(path: Path, start: int) -> None:
    """A layout that no page of the documents has: JSON, numbers within objects, seconds in a field of its own."""
    writers = pytest.importorskip("mcap.writer", reason="the mcap package writes the log")
    number, numbers = {"type": "number"}, {"type": "array", "items": {"type": "number"}}
    arm = {"type": "object", "properties": {"q": numbers, "gripper_mm": number}}
    kinds = {
        "lab/arm": {"type": "object", "properties": {"t": number, "arm": arm, "mode": {"type": "string"}}},
        "lab/cmd": {"type": "object", "properties": {"target": numbers}},
    }
    with open(path, "wb") as file:
        writer = writers.Writer(file)
        writer.start()
        channels = {}
        for topic, kind in kinds.items():
            schema = writer.register_schema(topic, "jsonschema", json.dumps(kind).encode())
            channels[topic] = writer.register_channel(topic, "json", schema)
        for k in range(300):
            ns = 10**18 + start * 10**11 + k * 8_000_000
            q = [math.sin(k / 50 * j) for j in (1, 2, 3)]
            said: dict[str, Any] = {"t": ns / 1e9, "arm": {"q": q, "gripper_mm": 20.0 + k % 7}, "mode": "teleop"}
            writer.add_message(channels["lab/arm"], ns, json.dumps(said).encode(), ns)
            if k % 4 == 0:
                target = {"target": [math.sin((k + 5) / 50 * j) for j in (1, 2, 3)]}
                writer.add_message(channels["lab/cmd"], ns, json.dumps(target).encode(), ns)
        writer.finish()


def test_the_readme_from_a_log_to_a_training_loop(tmp_path, monkeypatch, capsys):
    """As who has read it alone goes: their own log by `init` and the example, the demo's by the code as it stands."""
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    Path("mylogs").mkdir()
    for k in range(3):
        own_log(Path(f"mylogs/take_{k}.mcap"), k)
    assert cli.main(["init", "mylogs/", "-o", "robocache.yaml"]) == cli.DONE
    assert cli.main(["run", "robocache.yaml"]) == cli.DONE
    assert "input.stamp can name a field" in capsys.readouterr().out
    example = runpy.run_path(str(ROOT / "examples/pytorch_dataloader.py"))["main"]
    assert example(["dataset"]) == 1
    assert "there are observation.lab.arm.q" in (told := capsys.readouterr().err) and "--state and --action" in told
    named = ["--state", "observation.lab.arm.q", "--action", "action.lab.cmd.target"]
    assert example(["dataset", "--steps", "40", "--batch-size", "64", *named]) == 0
    losses = [float(x) for x in re.findall(r"^step .* loss (\S+) ", capsys.readouterr().out, re.MULTILINE)]
    assert losses[-1] < losses[0]

    write_samples("sample_logs", episodes=2, seconds=2.0)
    config, *_ = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    Path("config.yaml").write_text(config)
    assert cli.main(["run", "config.yaml", "-q"]) == cli.DONE
    (code,) = re.findall(r"### Train on it\n.*?```python\n(.*?)```", readme, re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert 0 < found["loss"].item() < 2


def test_every_key(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import config_keys

    assert (ROOT / "docs/keys.md").read_text() == config_keys.page(), "python scripts/config_keys.py writes it anew"
