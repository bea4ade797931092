"""The config of docs/lerobot.md, as it stands there, and its table of keys."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from robocache import cli
from robocache.output.lerobot.options import LeRobotOptions
from robocache.sample import truth, write_samples

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/lerobot.md").read_text()


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


def test_the_logs_of_the_demo(tmp_path, monkeypatch):
    """The commands of the page, on fewer and shorter logs: each value against the signals that these are made of."""
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    commands = next(block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "demo.yaml" in block)
    for line in commands.splitlines():
        _, command, *words = shlex.split(line)
        short = {"sample": ["--episodes", "2", "--seconds", "3"], "run": ["-q"]}.get(command, [])
        assert cli.main([command, *words, *short]) == cli.DONE, line
    rows, episodes = pq.read_table("out/arm/data"), pq.read_table("out/arm/meta/episodes").to_pylist()
    states = np.array(rows["observation.state"].to_pylist())
    stamps = np.array(rows["timestamp"].to_pylist())
    assert rows.num_rows == sum(e["length"] for e in episodes) > 150
    for e in episodes:
        mine = slice(e["dataset_from_index"], e["dataset_to_index"])
        assert stamps[mine].tolist() == [np.float32(k / 50) for k in range(e["length"])]
        times = e["robocache/start_ns"] + np.arange(e["length"]) * 20_000_000
        number = int(re.findall(r"\d+", e["robocache/id"])[0])
        exact = truth("/joint_states.position", times, episode=number, seed=0)
        assert np.abs(states[mine, :7] - exact).max() < 0.01


def test_every_key_is_described():
    described = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE))
    assert {field.name for field in dataclasses.fields(LeRobotOptions)} <= described
