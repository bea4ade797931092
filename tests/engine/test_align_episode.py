"""One episode on its timeline: target times, repairs, missing sources, payloads, odd shapes. In memory, no files."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from robocache.config.job import Feature, FeatureSource, Job, OutputSpec, TimelineSpec
from robocache.engine import source_types as engine_types
from robocache.engine.clean import clean
from robocache.engine.process import Processor
from robocache.engine.source_types import resolve
from robocache.engine.timeline import target_times
from robocache.errors import ConfigError, InputError
from robocache.formats import InputSpec
from robocache.types import Episode, EpisodeRef, Stream

MS = 1_000_000
FIFTY = TimelineSpec(rate=Fraction(50))


def stream(times_ms, values=None) -> Stream:
    times = (np.asarray(times_ms) * MS).astype(np.int64)
    return Stream(times, np.asarray(times_ms, float) if values is None else values)


def make(features: dict[str, list[FeatureSource]], timeline: TimelineSpec = FIFTY) -> Job:
    made = tuple(Feature(name, tuple(sources)) for name, sources in features.items())
    return Job(InputSpec(("logs",)), made, timeline, OutputSpec("out"))


def settle(monkeypatch, job: Job, *episodes: Episode | Exception):
    """Types as :func:`resolve` settles them from these episodes."""
    listed = {f"e{i}": e for i, e in enumerate(episodes)}

    def read(ref, *_):
        if isinstance(listed[ref.id], Exception):
            raise listed[ref.id]
        return listed[ref.id]

    monkeypatch.setattr(engine_types, "read_episode", read)
    return resolve(job, [EpisodeRef(id, "test", ()) for id in listed])


def align(monkeypatch, features, streams: dict[str, Stream], timeline: TimelineSpec = FIFTY, first=None):
    """The table and the reports of an episode; ``first``: the streams of the episode that settled the types."""
    job = make(features, timeline)
    processor = Processor(job, settle(monkeypatch, job, Episode("first", first or streams)))
    aligned = processor.align(7, Episode("e", streams))
    return aligned.table, {r.source: r for r in aligned.reports}


# Timeline


@pytest.mark.parametrize("rate", [30, 50, 400, Fraction(30000, 1001), 29.97002997, 7, 1 / 3])
def test_rates_never_drift(rate):
    """After a million periods the target is still the exact time, rounded to a nanosecond."""
    exact = Fraction(rate).limit_denominator(1_000_000)
    start = 1_700_000_000_123_456_789
    stamps = start + np.arange(10_001) * int(100 / exact * 10**9)
    targets = target_times(TimelineSpec(rate=exact), {"a": stamps})
    assert len(targets) > 999_999
    for k in (1, 2, 3, 999_999, len(targets) - 1):
        assert abs(Fraction(int(targets[k]) - start) - k * 10**9 / exact) <= Fraction(1, 2)


def test_intersection_and_union():
    stamps = {"a": np.array([0, 100]) * MS, "b": np.array([35, 135]) * MS, "none": np.zeros(0, np.int64)}
    both = target_times(FIFTY, stamps)
    assert (both / MS).tolist() == [35, 55, 75, 95]
    either = target_times(TimelineSpec(rate=Fraction(50), range="union"), stamps)
    assert (either / MS).tolist() == [0, 20, 40, 60, 80, 100, 120]


def test_the_last_target_may_be_the_last_stamp():
    assert (target_times(FIFTY, {"a": np.array([0, 40]) * MS}) / MS).tolist() == [0, 20, 40]
    assert target_times(FIFTY, {"a": np.array([5]) * MS}).tolist() == [5 * MS]


def test_reference_stamps_are_the_targets():
    stamps = {"camera": np.array([0, 33, 70, 99, 140]) * MS, "joints": np.array([30, 120]) * MS}
    spec = TimelineSpec(reference="camera")
    assert (target_times(spec, stamps) / MS).tolist() == [33, 70, 99]
    union = TimelineSpec(reference="camera", range="union")
    assert target_times(union, stamps).tolist() == stamps["camera"].tolist()


def test_timelines_that_cannot_be():
    with pytest.raises(InputError, match=r"b begins 0.100 s after a ends"):
        target_times(FIFTY, {"a": np.array([0, 100]) * MS, "b": np.array([200, 300]) * MS})
    with pytest.raises(InputError, match="no source has a sample"):
        target_times(FIFTY, {"a": np.zeros(0, np.int64)})
    with pytest.raises(InputError, match="no stamp in the range"):
        target_times(TimelineSpec(reference="a"), {"a": np.array([0, 100]) * MS, "b": np.array([40, 60]) * MS})


def test_one_damaged_stamp_does_not_make_a_billion_rows():
    times = np.append(np.arange(1000) * 10 * MS, 2**61)
    with pytest.raises(InputError, match=r"1001 samples over .* rows at 50 Hz; a stamp is damaged"):
        target_times(FIFTY, {"a": times})


# Repairs


def test_clean_counts_what_it_repairs():
    values = np.arange(14.0).reshape(7, 2)
    values[4, 1] = np.nan
    repaired, report = clean("s", stream([0, 20, 10, 30, 40, 30, 100], values), 50 * MS)
    assert (repaired.times / MS).tolist() == [0, 10, 20, 30, 100]
    assert repaired.values[:, 0].tolist() == [0, 4, 2, 10, 12]  # of the two at 30 the later in the recording
    found = (report.samples, report.out_of_order, report.duplicates, report.non_finite, report.gaps, report.longest_gap)
    assert found == (7, 2, 1, 1, 1, 70 * MS)


def test_a_bad_duplicate_does_not_replace_a_good_sample():
    repaired, report = clean("s", stream([0, 10, 10], np.array([1.0, 2.0, np.inf])), None)
    assert repaired.values.tolist() == [1, 2]
    assert (report.duplicates, report.non_finite) == (0, 1)


def test_clean_leaves_good_streams_alone():
    good = stream([0, 10, 20], np.arange(3, dtype=np.float32))
    repaired, report = clean("s", good, None)
    assert np.shares_memory(repaired.values, good.values)
    assert (report.out_of_order, report.duplicates, report.non_finite, report.gaps) == (0, 0, 0, 0)


@pytest.mark.parametrize("dtype", ["i8", "u1", "?", ">f8", ">i2", "f2"])
def test_every_number_type_comes_out_right(monkeypatch, dtype):
    values = np.array([0, 1, 1, 0]).astype(dtype)
    table, _ = align(monkeypatch, {"x": [FeatureSource("x")]}, {"x": stream([0, 20, 40, 60], values)})
    assert table["x"].to_pylist() == [0, 1, 1, 0]


def test_repairs_reach_the_report(monkeypatch):
    values = np.array([0.0, 2, 1, np.nan])
    table, reports = align(monkeypatch, {"x": [FeatureSource("x")]}, {"x": stream([0, 40, 20, 60], values)})
    assert table["x"].to_pylist() == [0, 1, 2]
    assert (reports["x"].out_of_order, reports["x"].non_finite, reports["x"].valid_share) == (1, 1, 1.0)


# Columns


def test_rows_and_index_columns(monkeypatch):
    table, _ = align(monkeypatch, {"x": [FeatureSource("x")]}, {"x": stream([5, 45])})
    assert table["episode_index"].to_pylist() == [7] * 3
    assert table["frame_index"].to_pylist() == [0, 1, 2]
    assert table["time_ns"].to_pylist() == [5 * MS, 25 * MS, 45 * MS]
    np.testing.assert_allclose(table["timestamp"], [0, 0.02, 0.04], rtol=1e-6)
    np.testing.assert_allclose(table["x"], [5, 25, 45])


def test_an_offset_shifts_the_clock(monkeypatch):
    streams = {"a": stream([0, 100]), "b": stream([50, 150])}
    sources = [FeatureSource("a"), FeatureSource("b", offset=-50 * MS)]
    table, _ = align(monkeypatch, {"x": sources}, streams)
    assert table.num_rows == 6
    np.testing.assert_allclose(table["x"].to_pylist()[1], [20, 70])


def test_optional_source_that_is_missing(monkeypatch):
    both = {"a": stream([0, 40]), "b": stream([0, 40])}
    features = {"x": [FeatureSource("a")], "y": [FeatureSource("b", optional=True)]}
    table, reports = align(monkeypatch, features, {"a": both["a"]}, first=both)
    assert table["x.valid"].to_pylist() == [True] * 3
    assert table["y.valid"].to_pylist() == [False] * 3
    assert np.isnan(table["y"].to_numpy()).all()
    assert set(reports) == {"a"}
    with pytest.raises(InputError, match="no a in it; set optional: true"):
        align(monkeypatch, features, {"b": both["b"]}, first=both)


def test_a_stream_without_samples_is_invalid(monkeypatch):
    features = {"x": [FeatureSource("a")], "y": [FeatureSource("b")]}
    full = {"a": stream([0, 40]), "b": stream([0, 40], np.ones((2, 3)))}
    table, reports = align(monkeypatch, features, {"a": full["a"], "b": stream([], np.ones((0, 3)))}, first=full)
    assert table["y.valid"].to_pylist() == [False] * 3
    assert np.isnan(table["y"].to_pylist()).all()
    assert (reports["b"].samples, reports["b"].valid_share) == (0, 0.0)


def test_an_empty_stream_does_not_settle_the_width(monkeypatch):
    """JointState of a recording without messages has no width; the next episode has."""
    job = make({"x": [FeatureSource("a")]})
    empty = Episode("e0", {"a": stream([], np.ones((0, 0)))})
    full = Episode("e1", {"a": stream([0, 10], np.ones((2, 6)))})
    assert settle(monkeypatch, job, empty, full)["a"].shape == (6,)
    with pytest.raises(ConfigError, match=r"features.x: a has no columns"):
        settle(monkeypatch, job, empty)


def test_widths_that_disagree(monkeypatch):
    first = {"a": stream([0, 40], np.ones((2, 6)))}
    with pytest.raises(InputError, match=r"a holds float \[7\] here and float \[6\] in e0"):
        align(monkeypatch, {"x": [FeatureSource("a")]}, {"a": stream([0, 40], np.ones((2, 7)))}, first=first)


def test_nested_shapes_stay_nested(monkeypatch):
    values = np.arange(3 * 16.0).reshape(3, 4, 4)
    table, _ = align(monkeypatch, {"T": [FeatureSource("T")]}, {"T": stream([0, 20, 40], values)})
    assert table["T"].type == pa.list_(pa.list_(pa.float32(), 4), 4)
    np.testing.assert_array_equal(table["T"].to_pylist(), values)


def test_several_sources_lie_side_by_side(monkeypatch):
    streams = {"m": stream([0, 20], np.arange(8.0).reshape(2, 2, 2)), "s": stream([0, 20], np.array([8.0, 9]))}
    table, _ = align(monkeypatch, {"x": [FeatureSource("m"), FeatureSource("s")]}, streams)
    assert table["x"].to_pylist() == [[0, 1, 2, 3, 8], [4, 5, 6, 7, 9]]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_streams_of_no_columns(monkeypatch, shape):
    """Beside others they add nothing; alone they would make a column of nothing, which no Arrow type can hold."""
    streams = {"a": stream([0, 20, 40]), "none": stream([0, 20, 40], np.ones((3, *shape)))}
    table, _ = align(monkeypatch, {"x": [FeatureSource("a"), FeatureSource("none")]}, streams)
    np.testing.assert_allclose(table["x"], [0, 20, 40])
    assert table["x.valid"].to_pylist() == [True] * 3
    with pytest.raises(
        ConfigError, match=r"features.none: none has no columns \(\[.*\] in e0\); leave the feature out"
    ):
        align(monkeypatch, {"x": [FeatureSource("a")], "none": [FeatureSource("none")]}, streams)


def test_images_are_picked_and_wrapped(monkeypatch):
    images = pa.array([b"zero", b"twenty", b"forty"])
    table, _ = align(
        monkeypatch,
        {"x": [FeatureSource("a")], "image": [FeatureSource("camera", "previous", max_gap=15 * MS)]},
        {"a": stream([0, 60]), "camera": stream([0, 21, 40], images)},
        TimelineSpec(rate=Fraction(50), range="union"),
    )
    assert table["image"].type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert [row["bytes"] for row in table["image"].to_pylist()] == [b"zero", b"zero", b"forty", b"forty"]
    assert table["image.valid"].to_pylist() == [True, False, True, False]


def test_text_is_picked(monkeypatch):
    text = pa.array(["grasp", "lift"])
    table, _ = align(
        monkeypatch, {"x": [FeatureSource("a")], "task": [FeatureSource("task", "previous")]},
        {"a": stream([0, 40]), "task": stream([0, 30], text)}, TimelineSpec(rate=Fraction(50), range="union"),
    )  # fmt: skip
    assert table["task"].to_pylist() == ["grasp", "grasp", "lift"]


def test_payloads_that_are_missing_or_empty_are_null(monkeypatch):
    features = {"x": [FeatureSource("a")], "i": [FeatureSource("i", "nearest", optional=True)]}
    first = {"a": stream([0, 40]), "i": stream([0], pa.array([b"?"]))}
    for streams in ({"a": first["a"]}, {"a": first["a"], "i": stream([], pa.array([], pa.binary()))}):
        table, _ = align(monkeypatch, features, streams, first=first)
        assert [row["bytes"] for row in table["i"].to_pylist()] == [None] * 3
        assert table["i.valid"].to_pylist() == [False] * 3


def test_what_cannot_be_configured_is_said_at_once(monkeypatch):
    features = {
        "image": [FeatureSource("camera")],
        "two": [FeatureSource("camera", "next"), FeatureSource("q", "slerp")],
        "gone": [FeatureSource("nowhere")],
    }
    streams = {"camera": stream([0], pa.array([b"?"])), "q": stream([0], np.ones((1, 3)))}
    with pytest.raises(ConfigError) as caught:
        settle(monkeypatch, make(features, TimelineSpec(reference="never")), Episode("e0", streams))
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "features.image[0].align: linear cannot combine the bytes of camera" in text
    assert "features.two[0].source: camera holds bytes; it needs a feature of its own" in text
    assert "features.two[1].align: slerp takes 4 columns, q has 3" in text
    assert "features.gone[0].source: nowhere is in none of 1 episodes" in text
    assert "timeline.reference: never is in none of 1 episodes" in text


def test_types_come_from_the_first_episode_that_can_be_read(monkeypatch):
    job = make({"x": [FeatureSource("a")]})
    good = Episode("e1", {"a": stream([0], np.ones((1, 2)))})
    assert settle(monkeypatch, job, InputError("damaged"), good)["a"].seen_in == "e1"
    assert settle(monkeypatch, job, InputError("damaged")) == {}
