"""What a run calls valid, and what it counts: a feature of several sources, where one of them had nothing to say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import robocache
from robocache.output.layout import STATISTICS

MS = 1_000_000
MAX_GAP = 50
#: Milliseconds. ``steady`` has a sample every 10 ms; ``faulty`` lacks the middle, and jumps over it.
STEADY = np.arange(0, 2001, 10)
FAULTY = np.concatenate([np.arange(5, 600, 10), np.arange(1405, 2001, 10)])
JUMP = np.where(FAULTY < 1000, 0.0, 1000.0)


@pytest.fixture
def logs(tmp_path) -> Path:
    (tmp_path / "logs/run").mkdir(parents=True)
    for name, times, values in (("steady", STEADY, np.sin(STEADY / 300)), ("faulty", FAULTY, JUMP + np.cos(FAULTY))):
        pq.write_table(pa.table({"time_ms": times, "q": values}), tmp_path / f"logs/run/{name}.parquet")
    return tmp_path


def run(work: Path, feature: list[str]) -> pa.Table:
    config = {
        "input": {"uri": str(work / "logs"), "episode": "folder"},
        "features": {"x": [{"source": s, "max_gap": f"{MAX_GAP}ms"} for s in feature], "steady": ["steady.q"]},
        "timeline": {"rate_hz": 200, "range": "union"},
        "output": {"uri": str(work / "out")},
        "compute": {"device": "cpu"},
    }
    assert robocache.run(config).episodes == 1
    return pq.read_table(work / "out/data")


def held(stamps: np.ndarray, t: float) -> bool:
    """The rule, for one row: on a sample, or between two that are near enough."""
    before, after = stamps[stamps <= t], stamps[stamps >= t]
    return bool(len(before) and len(after)) and after[0] - before[-1] <= MAX_GAP


@pytest.mark.parametrize("feature", [["steady.q", "faulty.q"], ["faulty.q", "steady.q"]])
def test_a_row_is_valid_where_all_of_its_sources_are(logs, feature):
    table = run(logs, feature)
    times = table["time_ns"].to_numpy() / MS
    expected = [held(STEADY, t) and held(FAULTY, t) for t in times]
    assert table["x.valid"].to_pylist() == expected
    assert 100 < sum(expected) < len(expected) - 100
    assert all(table["steady.valid"].to_pylist())  # so that one of the two was valid in every row


def test_statistics_leave_out_rows_that_are_not_valid(logs):
    table = run(logs, ["faulty.q", "steady.q"])
    values = np.array(table["x"].to_pylist(), np.float64)
    valid = table["x.valid"].to_numpy()
    found = json.loads((logs / "out" / STATISTICS).read_text())["x"]
    assert found["count"] in (valid.sum(), [valid.sum()])
    for name, expected in {
        "min": values[valid].min(axis=0),
        "max": values[valid].max(axis=0),
        "mean": values[valid].mean(axis=0),
        "std": values[valid].std(axis=0),
    }.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)
    assert values[valid].std(axis=0)[0] - values.std(axis=0)[0] > 10  # the others would have shown
