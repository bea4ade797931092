"""Recordings of one arm, each with another fault of the field: a run of all of them names every one."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from robocache import Output, cli
from robocache.sample.mcap_writer import TopicLog, write_mcap
from robocache.sample.messages import MessageLayout, definition

EPOCH = 1_700_000_000_000_000_000
MS = 1_000_000
JOINTS = ["shoulder", "elbow", "wrist"]
#: Where each joint is at 0 s; they all move at 0.1 rad/s.
AT = {"shoulder": 1.0, "elbow": 2.0, "wrist": 3.0}


def joint_states(
    stamps: np.ndarray, names: list[str] = JOINTS, *, log: np.ndarray | None = None, velocity: float = 0.1
) -> TopicLog:
    """``/joint_states`` of these stamps, nanoseconds; positions are those of the time since the epoch of ``log``."""
    log = stamps if log is None else log
    count = len(names)
    layout = MessageLayout(
        {
            "sec": np.int32(0), "nanosec": np.uint32(0), "frame_id": "arm", "name": names,
            "position": [0.0] * count, "velocity": [0.0] * count, "effort": [],
        }
    )  # fmt: skip
    moved = 0.1 * (log - EPOCH)[:, None] / 1e9
    columns = {
        "sec": stamps // 10**9,
        "nanosec": stamps % 10**9,
        "position": moved + [AT[name] for name in names],
        "velocity": np.tile([np.nan if name == "wrist" else velocity for name in names], (len(stamps), 1)),
    }
    schema = "sensor_msgs/msg/JointState"
    return TopicLog("/joint_states", schema, definition(schema), layout.encode(columns), log, log)


def task(text: str, at: int) -> TopicLog:
    payload = MessageLayout({"data": text, "nothing": np.uint8(0)}).encode({"nothing": np.zeros(1, np.uint8)})
    once = np.array([at])
    return TopicLog("/task", "std_msgs/msg/String", "string data\n", payload[:, :-1], once, once)


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    steady = EPOCH + np.arange(0, 2000, 10) * MS
    late = task("pick", EPOCH + 400 * MS)
    write_mcap(folder / "a_good.mcap", [joint_states(steady), late])
    write_mcap(folder / "b_swapped.mcap", [joint_states(steady, JOINTS[::-1]), late])
    zero = steady.copy()
    zero[:5] = 0  # the clock had not been set yet
    write_mcap(folder / "c_zero.mcap", [joint_states(zero, log=steady), late])
    back = steady.copy()
    back[120:] -= 1500 * MS  # and here it was set back
    write_mcap(folder / "d_step.mcap", [joint_states(back, log=steady), late])
    write_mcap(folder / "e_other.mcap", [joint_states(steady, ["shoulder", "elbow"]), late])
    (folder / "f_old.svo").write_bytes(bytes(99))
    return folder


def test_every_fault_is_named(logs, tmp_path, capsys):
    config = {
        "input": {"uri": str(logs), "max_failed_episodes": 1},
        "features": {
            "position": "/joint_states.position",
            "velocity": "/joint_states.velocity",
            "task": "/task.data",
        },
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(tmp_path / "out")},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["run", "-q", str(tmp_path / "c.yaml"), "--json"]) == cli.DONE
    said = json.loads(capsys.readouterr().out)
    findings = [f["text"] for f in said["findings"]]
    everything = "\n".join([*findings, *said["notes"], *(q["reason"] for q in said["quarantined"])])

    assert "the timeline keeps 79.9% of the recording: /task.data begins 0.4 s late" in everything
    assert "column wrist never holds a finite number" in everything
    assert "5 of 200" in everything and "zero" in everything  # header stamps that are none
    assert "the clock goes back by 1.490 s at sample 120 of 200" in everything
    assert {q["id"] for q in said["quarantined"]} == {"d_step.mcap"}
    assert "/joint_states.position: no message carries wrist; every row of this episode is invalid" in everything

    assert "1 file passed over: a ZED recording, as f_old.svo; export its streams" in everything
    (passed,) = said["passed_over"]
    assert passed["uri"] == str(logs / "f_old.svo")

    rows = pq.read_table(tmp_path / "out/data", filters=[("episode_index", "<", 3)])
    since = 0.1 * (rows["time_ns"].to_numpy() - EPOCH)[:, None] / 1e9
    names = json.loads(rows.schema.field("position").metadata[b"names"])
    assert names == JOINTS
    np.testing.assert_allclose(rows["position"].to_pylist(), since + [AT[name] for name in names], atol=1e-5)
    assert all(rows["position.valid"].to_pylist()) and all(rows["velocity.valid"].to_pylist())
    velocity = np.array(rows["velocity"].to_pylist())
    assert (velocity[:, :2] == np.float32(0.1)).all() and np.isnan(velocity[:, 2]).all()
    assert set(rows["task"].to_pylist()) == {"pick"}
    report = Output.open(str(tmp_path / "out")).report
    assert report["findings"] == said["findings"] and report["notes"] == said["notes"]

    assert cli.main(["verify", str(tmp_path / "out")]) == cli.DONE
    assert "whole; 1 files of the input were passed over" in " ".join(capsys.readouterr().out.split())
    for command in (["plan", str(tmp_path / "c.yaml")], ["inspect", str(logs)]):
        cli.main(command)
        assert "a ZED recording, as f_old.svo" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["run", "-q", str(tmp_path / "c.yaml")]) == cli.DONE  # what a person reads
    printed = capsys.readouterr().out
    for text in [*findings, *said["notes"]]:
        assert " ".join(text.split())[:60] in " ".join(printed.split())
