"""The demo's logs with one of each fault that logs have: a run names every one, and its JSON has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from mcap.reader import make_reader
from message_kit import STORE, make, record

from robocache import cli
from robocache.sample import write_samples

ROOT = Path(__file__).resolve().parents[1]
TEXT = "std_msgs/msg/String"
SECOND = 10**9


class Log:
    """The messages of a sample log by topic, to be changed and written back."""

    def __init__(self, path: Path):
        self.path, self.topics = path, {}
        with path.open("rb") as file:
            for schema, channel, message in make_reader(file).iter_messages():
                kind, messages = self.topics.setdefault(channel.topic, (schema.name, []))
                messages.append((message.log_time, STORE.deserialize_cdr(message.data, kind)))

    def messages(self, topic: str) -> list:
        return [message for _, message in self.topics[topic][1]]

    def say_once(self, text: str, after: float) -> None:
        """A task, latched: one message, ``after`` seconds from the beginning."""
        at = min(messages[0][0] for _, messages in self.topics.values()) + int(after * SECOND)
        self.topics["/task"] = (TEXT, [(at, make(TEXT, text))])

    def shift(self, topic: str, first: int, by: int) -> None:
        """The clock of a topic is set by ``by`` nanoseconds at its message ``first``."""
        for message in self.messages(topic)[first:]:
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = divmod(stamp.sec * SECOND + stamp.nanosec + by, SECOND)

    def write(self) -> None:
        record(self.path, self.topics)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """Seven logs of the demo, of which all but the first have one fault, the last is cut off, and a bag beside them."""
    monkeypatch.chdir(tmp_path)
    paths = write_samples("sample_logs", episodes=6, seconds=2.0)
    logs = [Log(path) for path in paths[:6]]
    for log in logs:
        log.say_once("pick", 0.0)
    names = logs[0].messages("/joint_states")[0].name
    for message in logs[1].messages("/joint_states"):  # another driver, another order
        message.name = names[::-1]
        for values in ("position", "velocity", "effort"):
            setattr(message, values, getattr(message, values)[::-1].copy())
    logs[2].say_once("place", 1.2)
    logs[3].shift("/imu", 400, -2 * SECOND)
    logs[4].messages("/ft_sensor")[7].header.stamp = make("builtin_interfaces/msg/Time", 0, 0)
    for message in logs[5].messages("/joint_states"):
        message.velocity = np.where(np.arange(7) == 2, np.nan, message.velocity)
    for log in logs:
        log.write()
    (tmp_path / "sample_logs/before.svo").write_bytes(bytes(100))
    demo = (ROOT / "configs/demo.yaml").read_text().replace("sample_logs/*.mcap", "sample_logs")
    (tmp_path / "demo.yaml").write_text(demo.replace("features:\n", "features:\n  task: /task.data\n"))
    return tmp_path


def test_every_fault_is_named(work, capsys):
    command = ["-q", "run", "demo.yaml", "input.max_failed_episodes=2", "compute.device=cpu"]
    assert cli.main([*command, "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert cli.main(command) == cli.DONE
    summary = capsys.readouterr().out

    found = {(f["code"], f["subject"]): f for f in told["findings"]}
    swapped = found["clock", "/joint_states.position"]
    stands = "stand in another order than the dataset's; each number is in the column of its name"
    assert stands in swapped["text"] and swapped["worst"] == "episode_001.mcap"
    latched = found["kept", ""]
    assert "/task.data begins 1.2 s late" in latched["text"] and latched["worst"] == "episode_002.mcap"
    zero = found["clock", "/ft_sensor.wrench"]
    assert "1 of 2,000 header stamps are zero: log time there" in zero["text"] and zero["worst"] == "episode_004.mcap"
    never = found["never_finite", "/joint_states.velocity"]
    assert never["text"].startswith("/joint_states.velocity: column joint_3 never holds a finite number")
    assert never["worst"] == "episode_005.mcap" and never["episodes"] == 1
    stepped, cut = told["quarantined"]
    assert stepped["id"] == "episode_003.mcap" and "the clock goes back by 1.99" in stepped["reason"]
    assert "input.on_restart to split" in stepped["reason"] and cut["id"] == "episode_006.mcap"
    (bag,) = told["passed_over"]
    assert bag["uri"].endswith("before.svo")
    assert (bag["what"], bag["remedy"]) == ("a ZED recording", "export its streams")

    for text in (swapped["text"], latched["text"], zero["text"], never["text"], stepped["reason"], cut["reason"]):
        assert text in summary
    assert "1 file passed over: a ZED recording, as before.svo; export its streams" in summary

    # What was repaired is right: the swapped recording is in the order of the others, the NaN is in its own column.
    rows = ds.dataset("out/demo").to_table(columns=["episode_index", "observation.state", "observation.state.valid"])
    assert sorted(set(rows["episode_index"].to_pylist())) == [0, 1, 2, 4, 5]
    states = {i: np.stack(rows.filter(ds.field("episode_index") == i)["observation.state"].to_numpy()) for i in (1, 5)}
    log = Log(work / "sample_logs/episode_001.mcap")
    first = log.messages("/joint_states")[0]
    by_name = dict(zip(first.name, first.position, strict=True))
    settled = [by_name[f"joint_{k}"] for k in range(1, 8)]
    np.testing.assert_allclose(states[1][0, :7], settled, atol=0.05)
    assert np.isnan(states[5][:, 9]).all() and np.isfinite(np.delete(states[5], 9, axis=1)).all()
    five = rows.filter(ds.field("episode_index") == 5)["observation.state.valid"].to_pylist()
    assert np.mean(five) > 0.5  # gaps of the log cost rows, the NaN costs none
