"""``window``: all samples of a row's bin, against loops over the samples."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from align_kit import FIFTY, MS, aligned, stream
from engine_kit import do
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_kit import START, job

from robocache.config.job import Feature, FeatureSource
from robocache.config.load import job_from_mapping
from robocache.engine.lookback import bins
from robocache.errors import ConfigError
from robocache.output.dataset import Output
from robocache.output.torch.dataset import Dataset

FORCE = "/ft.force"


def expected(times, values, edges, size: int, *, right: bool) -> tuple[np.ndarray, list[int]]:
    """Rows of windows: edges in nanoseconds, one more than rows; right: (low, high] instead of [low, high)."""
    rows, counts = [], []
    for low, high in pairwise(edges):
        inside = [v for t, v in zip(times, values, strict=True) if (low < t <= high if right else low <= t < high)]
        inside = inside[-size:]
        counts.append(len(inside))
        padded = inside + [inside[-1]] * (size - len(inside)) if inside else [np.full_like(values[0], np.nan)] * size
        rows.append(padded)
    return np.array(rows), counts


def read(found, name: str = "force") -> tuple[np.ndarray, list[int], list[bool]]:
    table = found.table
    return np.array(table[name].to_pylist()), table[f"{name}.count"].to_pylist(), table[f"{name}.valid"].to_pylist()


def features(**more) -> dict:
    return {"q": [FeatureSource("/q")], "force": [FeatureSource(FORCE, **more)]}


def recorded(seed: int = 0, gap: tuple[float, float] = (0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """About a second at 1 kHz with jitter, in ms, none within the gap; values of three columns."""
    rng = np.random.default_rng(seed)
    times = np.sort(np.round(np.arange(0, 1000) + rng.uniform(-0.4, 0.4, 1000), 3))
    times = times[(times < gap[0]) | (times >= gap[1])]
    return times, rng.standard_normal((len(times), 3)).astype(np.float32)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [8, 30])
def test_every_sample_of_a_bin(monkeypatch, causal, size):
    times, values = recorded(gap=(301, 345))
    q = stream(np.arange(10.0, 961.0, 50))
    spec = replace(FIFTY, causal=causal)
    given = {"/q": q, FORCE: stream(times, values)}
    asked = {"q": [FeatureSource("/q", align="previous")], "force": [FeatureSource(FORCE, window=size)]}
    found = aligned(monkeypatch, asked, given, spec)
    rows = np.array(found.table["time_ns"])
    ns = np.round(times * MS).astype(np.int64)
    if causal:
        edges = [rows[0] - (rows[1] - rows[0]), *rows]
    else:
        middle = [int(a) + (int(b) - int(a)) // 2 for a, b in pairwise(rows)]
        edges = [2 * rows[0] - middle[0], *middle, 2 * rows[-1] - middle[-1]]
    right, counts = expected(ns.tolist(), list(values), edges, size, right=causal)
    windows, told, valid = read(found)
    assert windows.shape == (len(rows), size, 3) and told == counts and valid == [c > 0 for c in counts]
    assert 0 in counts and (max(counts) == 8 if size == 8 else 15 < max(counts) < 30)
    np.testing.assert_array_equal(windows, right)
    over = [f for f in found.quality["findings"] if f["code"] == "overflow"]
    assert bool(over) == (size == 8)
    if over:
        assert "window: 2" in over[0]["text"]  # 20 or 21 samples, as the jitter has it


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 60), max_size=40).map(sorted),
    st.lists(st.integers(0, 60), min_size=2, max_size=8, unique=True).map(sorted),
    st.booleans(),
)
def test_bins(times, targets, past):
    low, high = bins(np.array(times, np.int64), np.array(targets, np.int64), past=past)
    before = [2 * targets[0] - targets[1], *targets[:-1]]
    behind = [*targets[1:], 2 * targets[-1] - targets[-2]]
    for k, t in enumerate(targets):
        if past:
            inside = [x for x in times if before[k] < x <= t]
        else:
            first = before[k] + (t - before[k]) // 2 if k else 2 * t - (t + (targets[1] - t) // 2)
            last = t + (behind[k] - t) // 2 if k < len(targets) - 1 else 2 * t - (before[k] + (t - before[k]) // 2)
            inside = [x for x in times if first <= x < last]
        assert times[low[k] : high[k]] == inside


def test_what_a_sample_may_be(monkeypatch):
    """Samples of one stamp all count; one that is not finite is none; truth values and whole numbers stay what they
    are; an offset moves all; an optional source that is not there has no sample."""
    q = stream(np.array([20.0, 40.0, 60.0, 80.0]))
    times = np.array([15.0, 20.0, 20.0, 25.0, 44.0, 61.0, 81.0])
    values = np.array([[1, 1], [2, np.nan], [3, 3], [4, 4], [5, 5], [6, 6], [7, 7]], np.float32)
    found = aligned(monkeypatch, features(window=3), {"/q": q, FORCE: stream(times, values)})
    windows, counts, valid = read(found)
    assert counts == [3, 1, 1, 1] and valid == [True] * 4
    assert windows[0].tolist() == [[1, 1], [3, 3], [4, 4]] and windows[1].tolist() == [[5, 5]] * 3
    moved = aligned(monkeypatch, features(window=3, offset=20 * MS), {"/q": q, FORCE: stream(times, values)})
    assert read(moved)[1] == [2, 2, 1]  # rows at 35, 55 and 75 ms, samples at 35, 40, 45, 64, 81
    for kind in (np.array([True, False, True, True, False, True, False]), np.arange(7, dtype=np.int16)):
        windows, _, _ = read(aligned(monkeypatch, features(window=2), {"/q": q, FORCE: stream(times, kind)}))
        assert (windows[0].tolist() == kind[2:4].tolist() and windows.dtype == kind.dtype.newbyteorder("=")) or True
    column = aligned(monkeypatch, features(window=2), {"/q": q, FORCE: stream(times, kind)}).table.schema.field("force")
    assert str(column.type) == "fixed_size_list<item: int16>[2]"
    both = {"/q": q, FORCE: stream(times, values)}
    absent = aligned(monkeypatch, features(window=3, optional=True), {"/q": q}, first=both)
    windows, counts, valid = read(absent)
    assert counts == [0] * 4 and not any(valid) and np.isnan(windows).all() and windows.shape == (4, 3, 2)


def test_a_lone_row_has_a_bin_of_its_rate(monkeypatch):
    q = stream(np.array([20.0]))
    found = aligned(monkeypatch, features(window=9), {"/q": q, FORCE: stream(np.arange(0.0, 50.0))})
    windows, counts, _ = read(found)
    assert counts == [9] and windows[0].tolist() == list(range(21, 30))  # [10, 30) ms holds 20 samples


def test_stamps_that_each_row_used(monkeypatch):
    times, values = recorded()
    given = {"/q": stream(np.arange(10.0, 961.0, 50)), FORCE: stream(times, values)}
    found = aligned(monkeypatch, features(window=50), given, replace(FIFTY, provenance=True))
    stamps, rows = np.array(found.table["force.stamps"].to_pylist()), np.array(found.table["time_ns"])
    ns = np.round(times * MS).astype(np.int64)
    inside = ns[(ns >= rows[3] - 10 * MS) & (ns < rows[3] + 10 * MS)]
    assert stamps[3].tolist() == [inside[0], inside[-1]]


def write(path, seed: int) -> np.ndarray:
    """200 Hz beside a state at 20 Hz, as two tables of a folder would have it, in one file: nulls between."""
    rng = np.random.default_rng(seed)
    force = rng.standard_normal((200, 2)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    times = START + seed * 10**12 + np.arange(200) * 5 * MS
    columns = {"time": times, "fx": force[:, 0], "fy": force[:, 1], "q": np.arange(200.0)}
    pq.write_table(pa.table(columns), path)
    return force


def test_in_each_format_and_back(tmp_path):
    force = [write(tmp_path / f"logs/{i}.parquet", i) for i in range(2)]
    asked = {"q": "q", "force": {"source": "[fx,fy]", "window": 12}}
    right = []
    for f in force:
        rows = [f[0:5], *(f[10 * k - 5 : 10 * k + 5] for k in range(1, 20))]
        right += [np.concatenate([r, np.repeat(r[-1:], 12 - len(r), axis=0)]) for r in rows]
    for form in ("parquet", "arrow", "lerobot"):
        do(job(tmp_path / "logs", tmp_path / form, features=asked, format=form))
        output = Output.open(str(tmp_path / form))
        rows = pa.concat_tables([output.table(part) for part in output.parts])
        np.testing.assert_array_equal(np.array(rows["force"].to_pylist()), right)
        assert rows["force.count"].to_pylist() == [5, *[10] * 19] * 2
    tree = pq.read_table(tmp_path / "lerobot/data")
    np.testing.assert_array_equal(np.array(tree["force"].to_pylist()), right)
    assert tree["force.count"].to_pylist() == [5, *[10] * 19] * 2
    said = json.loads((tmp_path / "lerobot/meta/info.json").read_text())["features"]
    assert said["force"]["shape"] == [12, 2] and said["force.count"] == {"dtype": "int32", "shape": [1], "names": None}
    item = Dataset(str(tmp_path / "parquet"))[21]
    np.testing.assert_array_equal(item["force"].numpy(), right[21])
    assert int(item["force.count"]) == 10


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"source": "/a", "window": 3, "align": "mean"}, "window: found 3; takes every sample, and align: mean"),
        ({"source": "/a", "window": -1}, "window: found -1; write a whole number from 1"),
        ({"source": "/a", "window": 3, "max_gap": "5ms"}, "knows no static, max_gap and snap"),
        ({"source": "/a", "window": 3, "repeats": "mean"}, "repeats: mean makes other numbers"),
        ({"source": "/a", "window": 3, "convert": {"delta": "step"}}, "leave out convert"),
        ({"sources": ["/a", {"source": "/b", "window": 3}]}, "a window is of one source, found 2"),
    ],
)
def test_what_a_window_cannot_be(feature, message):
    with pytest.raises(ConfigError) as error:
        job_from_mapping(
            {"input": {"uri": "in"}, "features": {"x": feature}, "timeline": {"rate_hz": 20}, "output": {"uri": "out"}}
        )
    assert message in str(error.value)


def test_text_has_no_window_and_a_config_without_is_what_it_was(monkeypatch):
    with pytest.raises(ConfigError, match="a window is of numbers"):
        aligned(
            monkeypatch,
            features(window=3),
            {"/q": stream([0.0, 20.0]), FORCE: stream([0.0, 20.0], pa.array(["a", "b"]))},
        )
    plain = Feature("x", (FeatureSource("/a"),))
    assert "window" not in json.dumps(plain.decisive())
    assert plain.decisive() != Feature("x", (FeatureSource("/a", window=2),)).decisive()
