"""The config of docs/lerobot.md, as it stands there, and its table of keys."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from robocache import cli
from robocache.output.lerobot.options import LeRobotOptions
from robocache.sample import write_samples

PAGE = (Path(__file__).resolve().parents[1] / "docs/lerobot.md").read_text()


def test_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_samples(tmp_path / "logs", episodes=2, seconds=2.0)
    (config,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("config.yaml").write_text(config)
    assert cli.main(["run", "config.yaml", "-q"]) == cli.DONE
    info = json.loads(Path("out/meta/info.json").read_text())
    rows = pq.read_table("out/data")
    assert (info["robot_type"], info["fps"], info["total_frames"]) == ("arm", 50, rows.num_rows)
    episodes = pq.read_table("out/meta/episodes")
    assert set(episodes["robocache/id"].to_pylist()) == {"episode_000.mcap", "episode_001.mcap"}
    assert info["total_episodes"] == episodes.num_rows > 2
    assert rows.num_rows == sum(episodes["length"].to_pylist()) > 140
    assert {"observation.state", "observation.wrench", "action"} <= info["features"].keys()
    assert pq.read_table("out/meta/tasks.parquet")["task"].to_pylist() == ["press the button"]


def test_every_key_is_described():
    described = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE))
    assert {field.name for field in dataclasses.fields(LeRobotOptions)} <= described
