"""LeRobot datasets of others through RoboCache and back, and a recording that is long."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import do
from tree_kit import job, loaded, write

import robocache
from robocache.formats import InputSpec
from robocache.output.verify import Verification, verify

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

COLUMNS = ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index", "task_index")


@pytest.mark.realdata
@pytest.mark.parametrize("version", ["v3.0", pytest.param("v2.1", marks=pytest.mark.slow)])
def test_g1_at_its_own_rate_is_what_it_was(data_dir, tmp_path, version):
    """A v2.1 dataset of others, through RoboCache: its rows, tasks and statistics."""
    source = data_dir / "lerobot/g1_inspire_v21"
    features = {name: {"source": name} for name in ("observation.state", "action")} | {"what": {"source": "task"}}
    the_job = job(source, tmp_path / "out", features=features, version=version, task_feature="what", data_mb=1)
    do(replace(the_job, input=InputSpec((str(source),)), timeline=replace(the_job.timeline, rate=Fraction(30))))
    rows, right = (
        pa.concat_tables(pq.read_table(p, columns=list(COLUMNS)) for p in sorted((root / "data").glob("*/*.parquet")))
        for root in (tmp_path / "out", source)
    )
    assert rows.num_rows == 22_042
    for name in COLUMNS:
        assert rows[name].to_pylist() == right[name].to_pylist(), name
    shipped = [json.loads(line) for line in (source / "meta/episodes_stats.jsonl").read_text().splitlines()]
    if version == "v2.1":
        found = [json.loads(line) for line in (tmp_path / "out/meta/episodes_stats.jsonl").read_text().splitlines()]
        mine = [row["stats"] for row in found]
    else:
        mine = [
            {name: {key: row[f"stats/{name}/{key}"] for key in ("min", "max", "mean", "std")} for name in COLUMNS}
            for row in pq.read_table(tmp_path / "out/meta/episodes").to_pylist()
        ]
    for e, theirs in enumerate(shipped):
        for name in ("observation.state", "action", "timestamp", "index"):
            for key in ("min", "max", "mean", "std"):
                wanted = np.array(theirs["stats"][name][key], np.float64)
                np.testing.assert_allclose(mine[e][name][key], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.realdata
def test_gr1_whose_clock_begins_a_frame_late(data_dir, tmp_path):
    """v2.0, without frame_index, its stamps at 20.000019 Hz from 0.05 s, a folder that its template does not name."""
    source = data_dir / "more/lerobot/gr1_picknplace_v20"
    features = {"observation.state": {"source": "observation.state", "dtype": "float64"}, "what": {"source": "task"}}
    the_job = job(source, tmp_path / "out", features=features, task_feature="what")
    do(replace(the_job, input=InputSpec((str(source),))))
    rows = loaded(tmp_path / "out")
    files = [pq.read_table(path) for path in sorted((source / "data").glob("*/*.parquet"))]
    assert rows["observation.state"].to_pylist() == [row for f in files for row in f["observation.state"].to_pylist()]
    told = {t["task_index"]: t["task"] for t in map(json.loads, (source / "meta/tasks.jsonl").read_text().splitlines())}
    texts = pq.read_table(tmp_path / "out/meta/tasks.parquet")["task"].to_pylist()
    wanted = [told[i] for f in files for i in f["task_index"].to_pylist()]
    assert [texts[i] for i in rows["task_index"].to_pylist()] == wanted
    shipped = json.loads((source / "meta/stats.json").read_text())["observation.state"]
    found = json.loads((tmp_path / "out/meta/stats.json").read_text())["observation.state"]
    for key in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(found[key], shipped[key], atol=1e-5)


def test_the_last_of_a_hundred_thousand_frames(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "logs/0.parquet", 0, {"q": rng.random((100_000, 3)).astype(np.float32)})
    do(job(tmp_path / "logs", tmp_path / "out", features={"observation.state": "q"}))
    stamps = loaded(tmp_path / "out")["timestamp"].to_numpy()
    assert len(stamps) == 100_000 and stamps[-1] == np.float32(99_999 / 20)
    assert examined(tmp_path / "out").problems == ()


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_many_short_episodes(tmp_path, count):
    rng = np.random.default_rng(0)
    states = [rng.random((int(rng.integers(2, 30)), 3)).astype(np.float32) for _ in range(count)]
    for i, state in enumerate(states):
        write(tmp_path / f"logs/{i:04d}.parquet", i, {"q": state})
    do(job(tmp_path / "logs", tmp_path / "out", features={"observation.state": "q"}))
    rows = loaded(tmp_path / "out")
    assert rows["observation.state"].to_pylist() == np.concatenate(states).tolist()
    assert rows["episode_index"].to_pylist() == [i for i, state in enumerate(states) for _ in state]
    found = examined(tmp_path / "out")
    assert (found.problems, found.episodes, found.rows) == ((), count, rows.num_rows)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["husky", "tilt_laser"])
def test_bags_as_lerobot(name, data_dir, tmp_path, monkeypatch):
    """Each valid row of a run of another format is a row of the tree, which the doctor finds nothing wrong with."""
    monkeypatch.setenv("ROBOCACHE_TEST_DATA", str(data_dir))
    config, told = str(CONFIGS / f"{name}.yaml"), {"lerobot": ["output.format=lerobot", "output.lerobot.invalid=drop"]}
    for format in ("parquet", "lerobot"):
        robocache.run(config, [f"output.uri={tmp_path / format}", *told.get(format, [])])
    plain, rows = pq.read_table(tmp_path / "parquet/data"), loaded(tmp_path / "lerobot")
    names = [n for n in rows.column_names if f"{n}.valid" in plain.column_names]
    kept = plain.filter(pa.array(np.logical_and.reduce([plain[f"{n}.valid"].to_numpy() for n in names])))
    assert len(names) >= 5 and rows.num_rows == kept.num_rows > 0.9 * plain.num_rows
    assert all(rows[n].to_pylist() == kept[n].to_pylist() for n in names)
    assert examined(tmp_path / "lerobot").problems == ()


def examined(out: Path) -> Verification:
    """What the doctor says of the tree once nothing tells that it is ours."""
    shutil.rmtree(out / "meta/robocache")
    found = verify(str(out))
    assert found.lerobot == "v3.0"
    return found
