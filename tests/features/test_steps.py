"""What a step is asked and told, by one of the tests' own: numbers on the timeline, and samples that rows pick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from align_kit import aligned, make, stream, texts

from robocache.config.job import Feature, FeatureSource
from robocache.errors import ConfigError
from robocache.features import Compute, Samples
from robocache.types import Finding, StreamType, array_type


@dataclass(frozen=True, slots=True)
class Root:
    """Square roots of every number, and how long the sample is; what is below 0 has none."""

    key: ClassVar[str] = "root"
    picks: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    beside: ClassVar[str] = ""

    scale: float = 1.0

    def type(self, given: StreamType) -> StreamType:
        if not given.numeric:
            raise ValueError(f"root: the source holds {given.arrow}, which has no root")
        names = [f"root of {name}" for name in given.about.get("names", [])]
        return StreamType(array_type(np.dtype(np.float64), (given.width,)), {"names": names})

    def apply(self, given: Samples, compute: Compute) -> Samples:
        assert isinstance(given.values, np.ndarray)
        assert given.values.ndim == 2
        with np.errstate(invalid="ignore"):
            values = np.sqrt(given.values) * self.scale
        good = given.valid & (given.values >= 0).all(axis=1)
        lost = int((given.valid & ~good).sum())
        findings = (Finding("overflow", "", f"{lost} rows have no root"),) if lost else ()
        return replace(given, values=values, valid=good, findings=findings)


def test_numbers_on_the_timeline(monkeypatch):
    """Sources side by side, interpolated in float64, then the step; float32 in the end."""
    q = stream([0, 30, 60], np.array([[1.0, 4.0], [4.0, 16.0], [-2.0, 40.0]]), about={"names": ["a", "b"]})
    grip = stream([0, 30, 60], np.array([[9.0], [9.0], [9.0]]), about={"names": ["g"]})
    steps = (Root(), Root(2.0))
    feature = Feature("f", (FeatureSource("q"), FeatureSource("grip", align="previous")), steps=steps)
    found = aligned(monkeypatch, {"f": feature}, {"q": q, "grip": grip})
    assert found.table.schema.field("f").type == pa.list_(pa.float32(), 3)
    assert found.table.schema.field("f").metadata[b"names"].startswith(b'["root of root of a"')
    columns = ([1, 4, -2], [4, 16, 40], [9, 9, 9])
    linear = np.stack([np.interp([0, 20, 40], [0, 30, 60], c) for c in columns], axis=1)
    assert found.table["f.valid"].to_pylist() == [True, True, True, False]
    rows = np.array(found.table["f"].to_pylist(), np.float32)
    wanted = 2 * np.sqrt(np.sqrt(linear))
    np.testing.assert_array_max_ulp(rows[:3], wanted.astype(np.float32), 1)
    assert texts(found, "overflow") == ["f: 1 rows have no root"]


def test_whole_numbers_that_rows_pick(monkeypatch):
    """Each recorded sample once, those of rows without one not at all."""
    seen = []
    apply = Root.apply
    monkeypatch.setattr(Root, "apply", lambda self, given, on: seen.append(given.values) or apply(self, given, on))
    source = stream([0, 5, 35, 100], np.array([[4], [9], [16], [25]]))
    feature = Feature("f", (FeatureSource("n", align="nearest", max_gap=20_000_000),), "float64", steps=(Root(),))
    table = aligned(monkeypatch, {"f": feature}, {"n": source}).table
    np.testing.assert_array_equal(seen[0], [[4], [9], [16], [25]])
    assert table["f"].to_pylist() == pytest.approx([2, 3, 4, np.nan, 5, 5], nan_ok=True)
    assert table["f.valid"].to_pylist() == [True, True, True, False, True, True]


def test_what_a_step_cannot_take(monkeypatch):
    text = stream([0, 20], pa.array(["a", "b"]))
    with pytest.raises(ConfigError, match=r"features\.f\.root: the source holds string, which has no root"):
        aligned(monkeypatch, {"f": Feature("f", (FeatureSource("t"),), steps=(Root(),))}, {"t": text})


def test_a_step_and_its_keys_decide_the_output():
    jobs = [make({"f": Feature("f", (FeatureSource("q"),), steps=steps)}) for steps in ((), (Root(),), (Root(2.0),))]
    assert len({job.identity() for job in jobs}) == 3
