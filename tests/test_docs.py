"""The examples of docs/configuration.md and docs/voxels.md, run as they stand there."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import cloud_kit
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from robocache import cli
from robocache.config.job import ClusterSpec, ComputeSpec, OutputSpec
from robocache.config.load import job_from_mapping
from robocache.config.schema import (
    Column,
    Convert,
    Csv,
    Decode,
    Depth,
    ForwardKinematics,
    Input,
    Quality,
    Segments,
    Source,
    Sources,
    Timeline,
    Times,
    Trim,
    Voxelize,
)
from robocache.engine.quality import CODES
from robocache.sample import write_samples

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/configuration.md").read_text()
CONFIGS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
TABLES = dict(re.findall(r"^`(logs/\S+\.csv)`[^\n]*\n\n```csv\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
RIGHT = "time_ms,q\n0,1\n100,2\n"


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_each_config_has_a_test():
    assert len(CONFIGS) == 4
    assert PAGE.count("```csv") == len(TABLES) == 3


def test_the_first_config_and_the_overrides(work):
    write_samples(work / "logs", episodes=2, seconds=1.0)
    (work / "config.yaml").write_text(CONFIGS[0])
    paragraph = re.search(r"\*\*Overrides\*\* (.*?)\n\n", PAGE, re.DOTALL)[1]
    overrides = [text.strip('"') for text in re.findall(r"`([^`]+=[^`]+)`", paragraph)]
    assert len(overrides) == 3
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    assert cli.main(["run", "config.yaml", *overrides, "output.uri=other"]) == cli.DONE
    table = pq.read_table(work / "other/data")
    assert table["time_ns"][1].as_py() - table["time_ns"][0].as_py() == 10_000_000
    assert "observation.effort" in table.column_names


def test_most_keys_at_work(work):
    write_samples(work / "logs", episodes=2, seconds=2.0)
    (work / "config.yaml").write_text(CONFIGS[1])
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    table = pq.read_table(work / "out/data")
    double, single = pa.list_(pa.float64(), 14), pa.list_(pa.float32(), 7)
    assert (table.schema.field("observation.state").type, table.schema.field("action").type) == (double, single)
    first = table.filter(pc.equal(table["episode_index"], 0))
    assert len(set(map(tuple, first["observation.end"].to_pylist()))) == 1
    stamps = first["observation.elbow.stamps"].to_pylist()
    assert all(a <= t <= b for t, (a, b) in zip(first["time_ns"].to_pylist(), stamps, strict=True))
    # With a causal timeline, all but the actions would have to look back; the refusal names those that do not.
    assert cli.main(["run", "config.yaml", "timeline.causal=true", "output.uri=causal"]) == cli.USAGE


def test_every_key_is_described():
    """Each key of each section stands in a table of the page."""
    sections = (
        Input, Times, Csv, Segments, Trim, Source, Column, Decode, Depth, Voxelize, ForwardKinematics, Convert, Sources,
        Timeline, Quality, OutputSpec, ComputeSpec, ClusterSpec,
    )  # fmt: skip
    rows = re.findall(r"^\| ((?:`[a-z_.]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    described = {key.rpartition(".")[2] for row in rows for key in re.findall(r"`([a-z_.]+)`", row)}
    keys = {field.name for section in sections for field in dataclasses.fields(section)} - {"sources", "times", "csv"}
    assert keys - described == set()


def test_every_finding_is_described():
    page = (ROOT / "docs/quality.md").read_text()
    assert set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)) == set(CODES)
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    thresholds = yaml.safe_load(config)
    made = job_from_mapping(
        {"input": {"uri": "a"}, "features": {"x": "x"}, "timeline": {"rate_hz": 1}, "output": {"uri": "b"}} | thresholds
    )
    assert (made.quality.min_kept, made.quality.max_late) == (0.8, 200_000_000)


def test_a_trajectory_without_a_header(work):
    rows = [f"1403636580.{k}63560123 {k}.0 0.5 0 0 0 0 1" for k in range(5)]
    (work / "logs").mkdir()
    (work / "logs/gt.txt").write_text("\n".join(rows))
    (work / "config.yaml").write_text(CONFIGS[2])
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    table = pq.read_table(work / "out/data")
    assert table["time_ns"].to_pylist() == [1403636580063560123 + 50_000_000 * k for k in range(9)]
    assert [pose[0] for pose in table["observation.pose"].to_pylist()] == [k / 2 for k in range(9)]


def test_segments_of_a_table(work):
    """The config of docs/segments.md: two segments of a log, the arm at rest at the begin of one."""
    page = (ROOT / "docs/segments.md").read_text()
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (ranges,) = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    Path("logs").mkdir()
    Path("ranges.csv").write_text(ranges)
    moves = [(k / 20, max(k / 20 - 1.5, 0.0)) for k in range(80)]
    Path("logs/arm.csv").write_text("\n".join(["t,q1,q2", *(f"{t},{q},0.5" for t, q in moves)]))
    Path("config.yaml").write_text(config)
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    episodes = pq.read_table("out/meta/robocache/_episodes.pq").to_pylist()
    assert [(e["id"], e["rows"]) for e in episodes] == [("arm.csv@pick", 5), ("arm.csv@place", 15)]
    assert "6 at the begin" not in episodes[0]["quality"] and "5 at the begin" in episodes[0]["quality"]
    rows = pq.read_table("out/data").to_pylist()
    assert [r["task"] for r in rows] == ["pick the cube"] * 5 + ["place it"] * 15
    assert [r["success"] for r in rows] == [True] * 5 + [False] * 15
    assert [r["observation.state"][0] for r in rows[:5]] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-6)


def test_csv_from_end_to_end(work, capsys):
    for name, text in TABLES.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    (work / "logs/run_2/ft.csv").write_text(TABLES["logs/run_1/ft.csv"])
    (work / "config.yaml").write_text(CONFIGS[3])
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    capsys.readouterr()

    names = ["timestamp", "observation.state", "observation.state.valid", "observation.force"]
    names += ["observation.force.valid", "observation.mode"]
    shown = re.findall(r"^\| (0\.\d\d) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|", PAGE, re.MULTILINE)
    rows = pq.read_table(work / "out/data", columns=names).to_pylist()
    assert len(rows) == len(shown) == 7
    for row, cells in zip(rows, shown, strict=True):
        t, state, state_valid, force, force_valid, mode = cells
        assert [row["timestamp"], *row["observation.state"], row["observation.force"]] == pytest.approx(
            [float(t), *map(float, state.split(",")), float(force)], abs=1e-6
        )
        assert [row["observation.state.valid"], row["observation.force.valid"]] == [
            yaml.safe_load(state_valid),
            yaml.safe_load(force_valid),
        ]
        assert row["observation.mode"] == mode
    assert all(row["observation.mode.valid"] for row in pq.read_table(work / "out/data").to_pylist())

    said = re.findall(r"`robocache (inspect out --episode \S+)`[^`]*```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(said) == 2
    for command, text in said:
        assert cli.main(command.split()) == cli.DONE
        printed = re.sub("-[0-9a-f]{12}[.]", "-66e03b854ecb.", capsys.readouterr().out.replace(f"{work}/", ""))
        assert [line.rstrip() for line in printed.splitlines()] == text.splitlines()


def test_several_files_of_one_episode_by_a_pattern(work):
    pattern = re.search(r'`("\(\?P<episode>.*?")`', PAGE)[1]
    (work / "logs").mkdir()
    for name in ("a_imu", "a_arm", "b_imu", "b_arm"):
        (work / f"logs/{name}.csv").write_text(RIGHT)
    config = f"input: {{uri: logs, episode: {pattern}}}\nfeatures: {{x: [imu.q, arm.q]}}\ntimeline: {{rate_hz: 50}}\n"
    (work / "config.yaml").write_text(f"{config}output: {{uri: out}}\n")
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    assert pq.read_table("out/meta/robocache/_episodes.pq")["id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty"),
        (b"time_ms,q\n,1\n100,2\n", "row 1 (of 2) has no time"),
        (b"time_ms,q\n0,1\nsoon,2\n", "'soon' is not a number"),
        (b"time_ms,q\n0,1\n100,oops\n", "row 2: 'oops' is not a number"),
        (b"time_ms,q\n0,1,2\n100,2\n", "columns"),
        (b"time_ms,q,q\n0,1,2\n", "two columns have one name"),
        (b"time_ms,p\n0,1\n", "no q in it"),
        (b"time_ms,q\n0,1\n100,2\n9000000000000,3\n", "rows"),
        (b"PAR1", "not csv"),
    ],
)
def test_what_is_quarantined(work, text, reason):
    (work / "logs").mkdir()
    (work / "logs/a.csv").write_text(RIGHT)
    (work / "logs/b.csv").write_bytes(text)
    (work / "logs/c.csv").write_text(RIGHT)
    config = {"input": {"uri": "logs"}, "features": {"q": "q"}, "timeline": {"rate_hz": 50}, "output": {"uri": "out"}}
    (work / "config.yaml").write_text(json.dumps(config))
    assert cli.main(["run", "config.yaml"]) == cli.FAILED
    (found,) = map(json.loads, Path("out/meta/robocache/_quarantine.jsonl").read_text().splitlines())
    assert found["id"] == "b.csv" and not found["retry"]
    assert reason in found["reason"]
    assert set(pq.read_table("out/data")["episode_index"].to_pylist()) == {0, 2}


def test_clouds_to_voxels(work):
    """The config of docs/voxels.md, and what it says of reading its output, against NumPy."""
    page = (ROOT / "docs/voxels.md").read_text()
    clouds = [cloud_kit.points(400, k) for k in range(3)]
    Path("clouds/run_1").mkdir(parents=True)
    for k, cloud in enumerate(clouds):
        Path(f"clouds/run_1/{1_700_000_000 + k / 10:.3f}.pcd").write_bytes(cloud_kit.pcd(cloud))
    (config,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    Path("config.yaml").write_text(config)
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    found: dict[str, Any] = {}
    codes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(codes) == 3
    for code in codes:
        exec(code, found)
    assert (found["occupied"].dtype, found["occupied"].shape) == (torch.bool, (3, 20, 20, 8))
    for k, cloud in enumerate(clouds):
        xyz = np.stack([cloud[a] for a in "xyz"], axis=1).astype(np.float64)
        kept = ((xyz >= [-1, -1, -0.4]) & (xyz < [1, 1, 0.4])).all(axis=1)
        cells = np.floor((xyz[kept] - [-1, -1, -0.4]) / 0.1).astype(int)
        distinct, of = np.unique(cells, axis=0, return_inverse=True)
        np.testing.assert_array_equal(found["occupied"][k].nonzero().numpy(), distinct)
        mine = found["indices"][:, 0] == k
        np.testing.assert_array_equal(found["indices"][mine, 1:].numpy(), distinct)
        count = np.bincount(of.ravel())
        for column, name in enumerate(("z", "intensity")):
            mean = np.bincount(of.ravel(), cloud[name][kept].astype(np.float64)) / count
            np.testing.assert_allclose(found["features"][mine, column].numpy(), mean, rtol=1e-6, atol=1e-7)
        assert found["highest"]["coordinates"][k] == distinct[:, 2].max()


ARM = """<robot name="arm">
<link name="base"/><link name="upper"/><link name="lower"/><link name="hand"/>
<joint name="shoulder" type="continuous"><parent link="base"/><child link="upper"/><axis xyz="0 0 1"/></joint>
<joint name="elbow" type="continuous"><origin xyz="0.5 0 0"/><parent link="upper"/><child link="lower"/>
<axis xyz="0 0 1"/></joint>
<joint name="slide" type="prismatic"><origin xyz="0.25 0 0"/><parent link="lower"/><child link="hand"/>
<axis xyz="1 0 0"/><limit lower="0" upper="1"/></joint>
</robot>"""


def test_joints_to_actions(work):
    """The config of docs/actions.md, and back, against the plane's trigonometry."""
    page = (ROOT / "docs/actions.md").read_text()
    Path("logs").mkdir()
    Path("arm.urdf").write_text(ARM)
    q = np.cumsum(np.random.default_rng(0).uniform(0, 0.05, (60, 4)), axis=0)
    columns = pa.FixedSizeListArray.from_arrays(pa.array(q.reshape(-1)), 4)
    pq.write_table(pa.table({"time": np.arange(60) * 20_000_000, "q": columns}), "logs/a.parquet")
    (config,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    Path("config.yaml").write_text(config)
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    found: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, found)
    turn = q[:, 0] + q[:, 1]
    reach = 0.25 + q[:, 2]
    x, y = 0.5 * np.cos(q[:, 0]) + reach * np.cos(turn), 0.5 * np.sin(q[:, 0]) + reach * np.sin(turn)
    back = np.array(found["commands"]["action"].to_pylist())
    half = [np.sin(turn / 2), np.cos(turn / 2)]
    half = np.where(half[1] < 0, -1, 1) * half
    np.testing.assert_allclose(back, np.stack([x, y, 0 * x, 0 * x, 0 * x, *half, q[:, 3]], axis=1), atol=1e-12)
    table = pq.read_table("out/data")
    action = np.array(table["action"].to_pylist()[10])
    seen = np.array([[np.cos(turn[10]), np.sin(turn[10])], [-np.sin(turn[10]), np.cos(turn[10])]]) @ [
        x[15] - x[10],
        y[15] - y[10],
    ]
    np.testing.assert_allclose(action[5, :2], seen, atol=1e-6)
    assert table["action.valid"].to_pylist() == [True] * 53 + [False] * 7
    assert bool(found["found"].converged.all()) and found["rot6d"].shape == (5, 6)


def test_from_an_output_to_a_training_loop(work):
    page = (ROOT / "docs/deployment/pytorch_pipeline.md").read_text()
    write_samples(work / "logs", episodes=4, seconds=3.0)
    (config,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    Path("config.yaml").write_text(config)
    assert cli.main(["run", "-q", "config.yaml"]) == cli.DONE
    found: dict[str, Any] = {}
    codes = re.findall(r"^```python\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert len(codes) == 3
    for code in codes:
        exec(code, found)
    windows = found["train"].__getitems__(range(len(found["train"]))).tensors
    assert abs(float(windows["observation.state"][:, -1].mean())) < 0.1


def test_words_for_a_number_that_is_not_there(work):
    listed = re.search(r"an empty cell, (.*?) are NaN,", PAGE)[1]
    words = ["", *re.findall(r"`(.*?)`", listed)]
    assert len(words) == 5
    rows = [f"{10 * i},{word}" for i, word in enumerate(["1", *words, "2"])]
    Path("a.csv").write_text("\n".join(["time_ms,q", *rows]))
    config = {"input": {"uri": "a.csv"}, "features": {"q": "q"}, "timeline": {"rate_hz": 50}, "output": {"uri": "out"}}
    Path("config.yaml").write_text(json.dumps(config))
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    (episode,) = pq.read_table("out/meta/robocache/_episodes.pq").to_pylist()
    assert [s["dropped"] for s in episode["streams"]] == [len(words)]
