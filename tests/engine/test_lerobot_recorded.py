"""LeRobot datasets of others through RoboCache and back, and a recording that is long."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import do
from tree_kit import job, loaded, write

from robocache.formats import InputSpec

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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_last_of_a_hundred_thousand_frames(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "logs/0.parquet", 0, {"q": rng.random((100_000, 3)).astype(np.float32)})
    do(job(tmp_path / "logs", tmp_path / "out", features={"observation.state": "q"}))
    stamps = loaded(tmp_path / "out")["timestamp"].to_numpy()
    assert len(stamps) == 100_000 and stamps[-1] == np.float32(99_999 / 20)
