"""One episode on its timeline: target times, repairs, missing sources, payloads, odd shapes. In memory, no files."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from align_kit import MS, align, make, settle, stream

from robocache.config.job import FeatureSource, TimelineSpec
from robocache.engine import align as align_module
from robocache.engine.align import Aligner
from robocache.engine.prepare import Preparer
from robocache.errors import ConfigError, InputError, TooLargeError
from robocache.types import Episode


@pytest.mark.parametrize("dtype", ["i8", "u1", "?", ">f8", ">i2", "f2", "u8", "i4"])
def test_every_number_type_comes_out_right(monkeypatch, dtype):
    values = np.array([0, 1, 1, 0]).astype(dtype)
    table, _ = align(monkeypatch, {"x": [FeatureSource("x")]}, {"x": stream([0, 20, 40, 60], values)})
    assert table["x"].to_pylist() == [0, 1, 1, 0]


def test_repairs_reach_the_report(monkeypatch):
    values = np.array([0.0, 2, 1, np.nan])
    table, reports = align(monkeypatch, {"x": [FeatureSource("x")]}, {"x": stream([0, 40, 20, 60], values)})
    assert table["x"].to_pylist() == [0, 1, 2]
    assert (reports["x"].late, reports["x"].non_finite, reports["x"].valid_share) == (1, 1, 1.0)


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


def test_a_source_without_samples(monkeypatch):
    """Required, it costs the episode; optional, its columns are invalid."""
    full = {"a": stream([0, 40]), "b": stream([0, 40], np.ones((2, 3)))}
    empty = {"a": full["a"], "b": stream([], np.ones((0, 3)))}
    with pytest.raises(InputError, match="b has no sample; set optional: true"):
        align(monkeypatch, {"x": [FeatureSource("a")], "y": [FeatureSource("b")]}, empty, first=full)
    features = {"x": [FeatureSource("a")], "y": [FeatureSource("b", optional=True)]}
    table, reports = align(monkeypatch, features, empty, first=full)
    assert table["y.valid"].to_pylist() == [False] * 3
    assert np.isnan(table["y"].to_pylist()).all()
    assert (reports["b"].samples, reports["b"].valid_share) == (0, 0.0)


def test_an_empty_stream_does_not_settle_the_width(monkeypatch):
    """JointState of a recording without messages has no width; the next episode has."""
    job = make({"x": [FeatureSource("a")]})
    empty = Episode("e0", {"a": stream([], np.ones((0, 0)))})
    full = Episode("e1", {"a": stream([0, 10], np.ones((2, 6)))})
    assert settle(monkeypatch, job, empty, full).types["a"].shape == (6,)
    with pytest.raises(ConfigError, match=r"features.x: a has no columns"):
        settle(monkeypatch, job, empty)


def test_widths_that_disagree(monkeypatch):
    first = {"a": stream([0, 40], np.ones((2, 6)))}
    with pytest.raises(InputError, match=r"a holds fixed_size_list<.*>\[7\] here and fixed_size_list<.*>\[6\] in e0"):
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
        {"x": [FeatureSource("a")], "image": [FeatureSource("camera", "previous", max_gap=15 * MS, snap=0)]},
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
        "image": [FeatureSource("camera", "linear")],
        "two": [FeatureSource("camera", "next"), FeatureSource("q", "slerp")],
        "gone": [FeatureSource("nowhere")],
    }
    streams = {"camera": stream([0], pa.array([b"?"])), "q": stream([0], np.ones((1, 3)))}
    with pytest.raises(ConfigError) as caught:
        settle(monkeypatch, make(features, TimelineSpec(reference="never")), Episode("e0", streams))
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "features.image[0].align: linear cannot combine the binary of camera" in text
    assert "features.two[0].source: camera holds binary; it needs a feature of its own" in text
    assert "features.two[1].align: slerp takes 4 columns, q has 3" in text
    assert "features.gone[0].source: nowhere is in none of 1 episodes" in text
    assert "timeline.reference: never is in none of 1 episodes" in text


def test_types_come_from_what_can_be_read(monkeypatch):
    job = make({"x": [FeatureSource("a")]})
    good = Episode("e1", {"a": stream([0], np.ones((1, 2)))})
    assert settle(monkeypatch, job, InputError("damaged"), good).seen_in["a"] == "e1"
    assert settle(monkeypatch, job, InputError("damaged")).types == {}


def test_most_recordings_settle_the_type(monkeypatch):
    """One odd recording at the front quarantines itself, not the others; of two kinds the first wins."""
    job = make({"x": [FeatureSource("a")]})
    odd, usual = (Episode("e", {"a": stream([0], np.ones((1, width)))}) for width in (7, 6))
    found = settle(monkeypatch, job, odd, usual, usual)
    assert (found.types["a"].shape, found.seen_in["a"]) == ((6,), "e1")
    assert "something else in others (the first: e0)" in found.notes[0]
    assert settle(monkeypatch, job, odd, usual).types["a"].shape == (7,)


def test_whole_numbers_in_one_file_and_fractions_in_the_next(monkeypatch):
    """A column of a text file has the type that its cells look like; neither file is the odd one."""
    job = make({"x": [FeatureSource("a")]})
    whole, parts = (Episode("e", {"a": stream([0, 40], np.array(v))}) for v in ([1, 2], [0.5, 1.5]))
    for first, second in ((whole, parts), (parts, whole)):
        found = settle(monkeypatch, job, first, second, whole)
        assert (found.types["a"].arrow, found.notes) == (pa.float64(), ())
    table, _ = align(monkeypatch, {"x": [FeatureSource("a")]}, whole.streams, first=parts.streams)
    assert table["x"].to_pylist() == [1, 1.5, 2]


def test_another_element_behind_the_same_place(monkeypatch):
    first = {"t": stream([0, 40], np.ones((2, 7)), about={"element": "base"})}
    other = {"t": stream([0, 40], np.ones((2, 7)), about={"element": "tool"})}
    with pytest.raises(InputError, match="t is that of tool here and that of base in e0; choose the element"):
        align(monkeypatch, {"x": [FeatureSource("t")]}, other, first=first)


def test_an_optional_source_that_is_nowhere_is_left_empty(monkeypatch):
    features = {"x": [FeatureSource("a")], "y": [FeatureSource("a"), FeatureSource("b", optional=True)]}
    job = make(features)
    found = settle(monkeypatch, job, Episode("e", {"a": stream([0, 40])}))
    assert found.notes == ("b is in no recording; its columns are left empty",)


# A batch


def test_episodes_of_a_batch_are_what_each_is_alone(monkeypatch):
    """Of several lengths, one of which has a gap of its own and one no sample of a source that it may lack."""
    rng = np.random.default_rng(5)
    features = {
        "q": [FeatureSource("q", max_gap=60 * MS)],
        "auto": [FeatureSource("q", align="cubic")],
        "bins": [FeatureSource("w", align="mean", max_gap=60 * MS)],
        "picked": [FeatureSource("n", align="previous", optional=True)],
    }
    episodes = {}
    for index, length in ((3, 400), (4, 90), (8, 1000)):
        steps = rng.integers(1, 9, length)
        streams = {
            "q": stream(np.cumsum(steps), rng.normal(size=(length, 3))),
            "w": stream(np.arange(0, steps.sum(), 2), rng.normal(size=(len(np.arange(0, steps.sum(), 2)), 2))),
            "n": stream(np.cumsum(steps), rng.integers(0, 2**60, length)),
        }
        episodes[index] = Episode(
            f"e{index}", streams if index != 4 else {k: v for k, v in streams.items() if k != "n"}
        )
    aligner = Aligner(make(features), settle(monkeypatch, make(features), episodes[3]))
    assert_same(aligner, episodes)


def test_a_batch_that_the_kernels_cannot_take_costs_the_one_that_fails(monkeypatch):
    features = {"x": [FeatureSource("x", max_gap=60 * MS)]}
    episodes = {i: Episode(f"e{i}", {"x": stream(np.arange(0, 100 * i, 10))}) for i in (1, 2, 3)}
    aligner = Aligner(make(features), settle(monkeypatch, make(features), episodes[1]))
    whole, called = align_module.fuse_multimodal_chunked, []

    def fuse(streams, targets, **options):
        called.append(len(options["target_offsets"]) - 1)
        if len(targets) > 9 and len(streams[0].times) in (20, 60):  # the second, and all of them
            raise MemoryError("9 GB")
        return whole(streams, targets, **options)

    monkeypatch.setattr(align_module, "fuse_multimodal_chunked", fuse)
    found = aligner.align(dict(episodes))
    assert called == [3, 1, 1, 1]
    assert isinstance(found[2], MemoryError)
    assert [found[i].table.num_rows for i in (1, 3)] == [5, 15]


def assert_same(aligner: Aligner, episodes: dict[int, Episode]) -> None:
    together = aligner.align(dict(episodes))
    assert list(together) == list(episodes)
    for index, episode in episodes.items():
        alone = aligner.align({index: episode})[index]
        assert together[index].table.equals(alone.table)
        assert (together[index].quality, together[index].reports) == (alone.quality, alone.reports)


# Memory


def test_rows_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    """A million rows of 64 bytes, as a table and as a part; the message has the number that would do."""
    features = {"x": [FeatureSource("x")]}
    times = np.arange(0, 1_000_001, 1000)
    episode = Episode("e", {"x": stream(times, np.zeros((len(times), 8)))})
    job = make(features, TimelineSpec(rate=Fraction(1000)))
    aligner = Aligner(replace(job, compute=replace(job.compute, max_memory_mb=100)), settle(monkeypatch, job, episode))
    monkeypatch.setattr(align_module, "fuse_multimodal_chunked", None)
    refused = aligner.align({0: episode})[0]
    assert isinstance(refused, TooLargeError)
    rows, each = 1_000_001, 8 * 4 + 4 * 8 + 1 / 8  # the feature, the index columns, whether it is valid
    needed = math.ceil(2 * rows * each / 2**20)
    assert f"1,000,001 rows of {each:,.0f} bytes" in str(refused)
    assert f"compute.max_memory_mb is 100; raise it to {needed:,}, or" in str(refused)
    monkeypatch.undo()
    roomy = replace(job, compute=replace(job.compute, max_memory_mb=needed))
    assert len(Preparer(roomy, aligner.types).prepare(episode).timeline.times) == rows
