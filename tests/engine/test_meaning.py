"""What is written is what the sensors said: names, holds, angles, types, the future. In memory, no files."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from align_kit import FIFTY, MS, align, aligned, make, settle, stream, texts

from robocache.config.job import Feature, FeatureSource, QualitySpec, TimelineSpec
from robocache.engine.clean import RestartError
from robocache.errors import ConfigError, InputError
from robocache.types import Episode

HUNDRED = TimelineSpec(rate=Fraction(100))


def column(table: pa.Table, name: str = "x") -> np.ndarray:
    return np.array(table[name].to_pylist(), float)


def valid(table: pa.Table, name: str = "x") -> np.ndarray:
    return table[f"{name}.valid"].to_numpy()


# Names


def test_columns_are_brought_to_the_settled_order(monkeypatch):
    """The next recording lists its joints the other way round."""
    first = {"j": stream([0, 40], np.array([[1.0, 2], [1, 2]]), about={"names": ["shoulder", "elbow"]})}
    other = {"j": stream([0, 40], np.array([[2.0, 1], [2, 1]]), about={"names": ["elbow", "shoulder"]})}
    table, _ = align(monkeypatch, {"x": [FeatureSource("j")]}, other, first=first)
    assert column(table).tolist() == [[1, 2]] * 3
    names = aligned(monkeypatch, {"x": [FeatureSource("j")]}, first).table.schema.field("x").metadata[b"names"]
    assert names == b'["shoulder", "elbow"]'


def test_joints_that_the_dataset_does_not_have(monkeypatch):
    first = {"j": stream([0, 40], np.ones((2, 2)), about={"names": ["a", "b"]})}
    other = {"j": stream([0, 40], np.ones((2, 2)), about={"names": ["a", "c"]})}
    with pytest.raises(InputError, match=r"j has the columns a, c here, the dataset's are a, b \(as in e0\)"):
        align(monkeypatch, {"x": [FeatureSource("j")]}, other, first=first)


def test_an_order_is_no_other_kind_of_robot(monkeypatch):
    """Both orders vote for the same type; the first one stands."""
    a, b = (
        Episode("e", {"j": stream([0], np.ones((1, 2)), about={"names": names})}) for names in (["p", "q"], ["q", "p"])
    )
    found = settle(monkeypatch, make({"x": [FeatureSource("j")]}), a, b, b)
    assert found.types["j"].about["names"] == ["p", "q"]
    assert found.notes == ()


def test_two_publishers_do_not_alternate(monkeypatch):
    """Left at even, right at odd samples of one topic: each column is interpolated between its own samples."""
    times = np.arange(0, 200, 10)
    left = (np.arange(20) % 2 == 0)[:, None]
    present = np.hstack([left, ~left])
    values = np.where(present, np.column_stack([times, 1000 - times]).astype(float), np.nan)
    table, reports = align(
        monkeypatch, {"x": [FeatureSource("j")]}, {"j": stream(times, values, present=present)}, HUNDRED
    )
    rows = (table["time_ns"].to_numpy() / MS)[valid(table)]
    np.testing.assert_allclose(column(table)[valid(table)], np.column_stack([rows, 1000 - rows]))
    assert valid(table)[1:-1].all()
    assert reports["j"].dropped == 0


def test_a_joint_that_no_message_carries_makes_the_rows_invalid(monkeypatch):
    present = np.tile([True, True, False], (11, 1))
    values = np.where(present, 1.0, np.nan)
    about = {"names": ["a", "b", "c"]}
    streams = {"j": stream(np.arange(0, 110, 10), values, present=present, about=about)}
    found = aligned(monkeypatch, {"x": [FeatureSource("j")]}, streams)
    assert column(found.table)[:, :2].tolist() == [[1, 1]] * 6
    assert not valid(found.table).any()
    assert texts(found, "missing_names") == ["j: no message carries c; every row of this episode is invalid"]
    assert texts(found, "never_finite") == []


# Holding


def test_a_latched_text_does_not_cut_the_episode(monkeypatch):
    streams = {"arm": stream(np.arange(0, 1000, 10)), "task": stream([20], pa.array(["pick"]))}
    features = {"x": [FeatureSource("arm")], "task": [FeatureSource("task")]}
    found = aligned(monkeypatch, features, streams)
    assert found.table.num_rows == 49  # from 20 to 980 ms; text holds by default
    assert found.table["task"].to_pylist() == ["pick"] * 49
    assert found.quality["cut_by"] == ["task", ""]


def test_a_static_source_bounds_nothing(monkeypatch):
    streams = {"arm": stream(np.arange(0, 1000, 10)), "mass": stream([5000], np.array([2.5]))}
    features = {"x": [FeatureSource("arm")], "m": [FeatureSource("mass", static=True)]}
    table, _ = align(monkeypatch, features, streams)
    assert column(table, "m").tolist() == [2.5] * 50
    assert valid(table, "m").all()


def test_milliseconds_beside_a_grid_of_30_hz(monkeypatch):
    """Frame k is stamped a third of a millisecond late at most; row k holds frame k, not its neighbour."""
    frames = np.arange(90)
    stamps = np.ceil(frames * 1000 / 30)
    thirty = TimelineSpec(rate=Fraction(30))
    for mode in ("previous", "next", "nearest"):
        streams = {
            "f": stream(stamps if mode == "previous" else np.floor(frames * 1000 / 30), frames),
            "g": stream([0, 2960]),
        }
        features = {"x": [FeatureSource("f", mode)], "g": [FeatureSource("g")]}
        table, _ = align(monkeypatch, features, streams, thirty)
        assert table["x"].to_pylist() == frames[: table.num_rows].tolist(), mode
    features["x"] = [FeatureSource("f", "previous", snap=0)]
    streams["f"] = stream(stamps, frames)
    table, _ = align(monkeypatch, features, streams, thirty)
    assert table["x"].to_pylist()[:4] == [0, 0, 1, 3]


def test_the_offset_of_the_reference_corrects_the_rows(monkeypatch):
    """Camera stamps are 30 ms late: a row keeps the frame's stamp and holds the arm as the frame was exposed."""
    exposed = np.arange(0, 3000, 100)
    streams = {"cam": stream(exposed + 30, np.arange(30)), "arm": stream(np.arange(-100, 3100, 5))}
    features = {"f": [FeatureSource("cam", "nearest", offset=-30 * MS)], "q": [FeatureSource("arm")]}
    table, _ = align(monkeypatch, features, streams, TimelineSpec(reference="cam"))
    assert (table["time_ns"].to_numpy() / MS).tolist() == (exposed + 30).tolist()
    assert table["f"].to_pylist() == list(range(30))
    np.testing.assert_allclose(column(table, "q"), exposed, atol=1e-4)
    around = {"f": [FeatureSource("cam", "nearest")], "q": [FeatureSource("arm", offset=30 * MS)]}
    other, _ = align(monkeypatch, around, streams, TimelineSpec(reference="cam"))
    assert other.select(["time_ns", "f", "q"]).equals(table.select(["time_ns", "f", "q"]))


def test_samples_of_one_stamp_count_in_the_mean(monkeypatch):
    rng = np.random.default_rng(0)
    noise, stamps = rng.normal(size=4000), np.repeat(np.arange(500) * 8, 8)
    table, reports = align(monkeypatch, {"x": [FeatureSource("a", "mean")]}, {"a": stream(stamps, noise)})
    rows = (table["time_ns"].to_numpy() // MS)[1:-1]
    expected = [noise[(stamps >= t - 10) & (stamps < t + 10)].mean() for t in rows]
    np.testing.assert_allclose(column(table)[1:-1], expected, atol=1e-6)
    assert (reports["a"].duplicates, reports["a"].dropped) == (3500, 0)


def test_a_dropout_is_not_data(monkeypatch):
    """Ten minutes without a sample: nothing there is valid unless the config says so."""
    times = np.concatenate([np.arange(0, 1000, 10), np.arange(600_000, 601_000, 10)])
    found = aligned(monkeypatch, {"x": [FeatureSource("a")]}, {"a": stream(times)})
    rows = found.table["time_ns"].to_numpy() / MS
    within = (rows > 990) & (rows < 600_000)
    assert not valid(found.table)[within].any() and valid(found.table)[~within].all()
    assert texts(found, "gap") == ["a: has a gap of 599 s; rows in it hold nothing measured"]
    table, _ = align(monkeypatch, {"x": [FeatureSource("a", max_gap=None)]}, {"a": stream(times)})
    assert valid(table).all()


# Angles

TIMES = np.arange(0, 20_000, 10)
TRUE = 3.1 * TIMES / 1000


def wrapped(x, period=2 * np.pi):
    return x - period * np.ceil(x / period - 0.5)


@pytest.mark.parametrize("mode", ["auto", "linear", "mean", "cubic", "angle"])
@pytest.mark.parametrize(("period", "low"), [(2 * np.pi, -1), (2 * np.pi, 0), (360.0, -1), (360.0, 0)])
def test_a_joint_that_wraps(monkeypatch, mode, period, low):
    """It turns at 3.1 rad/s; in no mode may a row lie on the straight line from one end of the turn to the other."""
    turning = TRUE * period / (2 * np.pi)
    recorded = wrapped(turning, period) if low else np.mod(turning, period)
    found = aligned(
        monkeypatch, {"x": [FeatureSource("a", mode)]}, {"a": stream(TIMES, recorded)}, TimelineSpec(rate=Fraction(30))
    )
    truth = 3.1 * found.table["time_ns"].to_numpy() / 1e9 * period / (2 * np.pi)
    off = np.abs(wrapped(column(found.table) - truth, period))[1:-1]  # the outermost bins are one-sided
    assert off.max() < period * (3e-3 if mode == "mean" else 1e-3)  # a bin is not centred on its row to a sample
    reach = column(found.table)
    if mode == "angle" or low:
        assert reach.min() >= -period / 2 and reach.max() <= period / 2 * 1.000001
    else:
        assert reach.min() >= 0 and reach.max() <= period
    said = texts(found, "wraps")
    assert not said if mode == "angle" else "jumps by" in said[0]


def test_degrees_that_never_wrap_are_no_radians(monkeypatch):
    swing = {"a": stream(TIMES, 80 * np.sin(TRUE))}
    with pytest.raises(
        InputError, match=r"a: align angle expects radians within 2 pi, found up to 80; set period to deg"
    ):
        align(monkeypatch, {"x": [FeatureSource("a", "angle")]}, swing)
    table, _ = align(monkeypatch, {"x": [FeatureSource("a", "angle", period=360.0)]}, swing)
    truth = 80 * np.sin(3.1 * table["time_ns"].to_numpy() / 1e9)
    np.testing.assert_allclose(column(table), truth, atol=0.02)


def test_noise_and_sawtooths_are_no_angles(monkeypatch):
    """A saw of another height, and noise over a whole turn, are interpolated as they are."""
    rng = np.random.default_rng(1)
    for values in (np.mod(TIMES / 1000, 5.0), rng.uniform(-np.pi, np.pi, len(TIMES))):
        found = aligned(monkeypatch, {"x": [FeatureSource("a")]}, {"a": stream(TIMES, values)}, HUNDRED)
        assert texts(found, "wraps") == []
        np.testing.assert_allclose(column(found.table), values, rtol=1e-6)


# Not finite


def test_one_joint_without_velocity_does_not_cost_the_others(monkeypatch):
    values = np.column_stack([np.full(101, np.nan), np.ones(101), np.full(101, 2.0)])
    about = {"names": ["wheel", "arm1", "arm2"]}
    found = aligned(
        monkeypatch, {"v": [FeatureSource("j")]}, {"j": stream(np.arange(0, 1010, 10), values, about=about)}
    )
    rows = column(found.table, "v")
    assert np.isnan(rows[:, 0]).all() and (rows[:, 1:] == [1, 2]).all()
    assert valid(found.table, "v").all()
    assert texts(found, "never_finite") == ["j: column wheel never holds a finite number; it is NaN in every row"]


def test_a_source_of_nothing_but_nan(monkeypatch):
    streams = {"a": stream([0, 100]), "b": stream([0, 50, 100], np.full(3, np.nan))}
    features = {"x": [FeatureSource("a")], "y": [FeatureSource("b")]}
    with pytest.raises(InputError, match="b: none of its 3 samples can be used"):
        align(monkeypatch, features, streams)


def test_an_infinite_range_is_a_reading(monkeypatch):
    scans = np.tile([1.0, np.inf, 3.0], (11, 1))
    features = {"x": [FeatureSource("scan", "nearest", nonfinite="keep")]}
    table, reports = align(monkeypatch, features, {"scan": stream(np.arange(0, 110, 10), scans)})
    assert column(table).tolist() == [[1, np.inf, 3]] * 6
    assert valid(table).all() and reports["scan"].non_finite == 0


# Types


def test_what_was_recorded_as_whole_numbers_stays_whole(monkeypatch):
    """A counter near 2^53, a mode, a flag: none is interpolated, none is rounded."""
    n = np.arange(11)
    streams = {
        "count": stream(n * 50, 2**53 + n),
        "mode": stream(n * 50, np.where(n < 5, 1, 5).astype(np.int8)),
        "done": stream(n * 50, n >= 5),
    }
    table, _ = align(monkeypatch, {name: [FeatureSource(name)] for name in streams}, streams)
    assert [table.schema.field(name).type for name in streams] == [pa.int64(), pa.int8(), pa.bool_()]
    at = table["time_ns"].to_numpy() // (50 * MS)
    assert table["count"].to_pylist() == (2**53 + at).tolist()
    assert set(table["mode"].to_pylist()) == {1, 5} and set(table["done"].to_pylist()) == {False, True}


@pytest.mark.parametrize("values", [np.arange(3), np.array([True, False, True])])
def test_whole_numbers_are_not_interpolated_by_mistake(monkeypatch, values):
    job = make({"x": [FeatureSource("n", "linear")]})
    with pytest.raises(ConfigError, match=r"features.x\[0\].align: linear makes numbers that were never recorded"):
        settle(monkeypatch, job, Episode("e", {"n": stream([0, 10, 20], values)}))
    wanted = {"x": Feature("x", (FeatureSource("n", "linear"),), dtype="float64")}
    table, _ = align(monkeypatch, wanted, {"n": stream([0, 40, 80], np.array([0, 4, 8]))})
    assert table["x"].to_pylist() == [0, 2, 4, 6, 8]


def test_gps_needs_float64_and_is_told_so(monkeypatch):
    """A walk of 0.3 m a fix at 49 degrees: float32 resolves 0.4 m there."""
    rng = np.random.default_rng(0)
    latitude = 49.9 + np.cumsum(rng.uniform(0, 5e-6, 500))
    streams = {"fix": stream(np.arange(500) * 400, latitude)}
    found = aligned(monkeypatch, {"gps": [FeatureSource("fix")]}, streams)
    assert "gps: float32 rounds column 0 of fix more coarsely than it was measured; set dtype: float64" in texts(
        found, "rounded"
    )
    wide = {"gps": Feature("gps", (FeatureSource("fix"),), dtype="float64")}
    found = aligned(monkeypatch, wide, streams, TimelineSpec(rate=Fraction(5, 2)))
    assert texts(found, "rounded") == []
    np.testing.assert_array_equal(column(found.table, "gps"), latitude)


def test_an_arm_is_not_told_to_be_rounded(monkeypatch):
    """At rest for most of the time, but for a noise of 1e-9 in the last digits, then it moves: nothing is lost."""
    rng = np.random.default_rng(0)
    q = np.concatenate([np.full(900, 1.25), 1.25 + np.linspace(0, 1, 100)]) + rng.normal(0, 1e-9, 1000)
    found = aligned(monkeypatch, {"q": [FeatureSource("q")]}, {"q": stream(np.arange(1000) * 5, q)})
    assert texts(found, "rounded") == []


def test_what_does_not_fit_is_invalid(monkeypatch):
    big = {"a": stream([0, 20, 40], np.array([1.0, 1e300, 3.0]))}
    found = aligned(monkeypatch, {"x": [FeatureSource("a")]}, big)
    assert valid(found.table).tolist() == [True, False, True]
    assert not np.isinf(column(found.table)).any()
    assert texts(found, "overflow") == ["x: 1 rows hold a number that float cannot and are invalid; set a wider dtype"]
    small = {"x": Feature("x", (FeatureSource("a"),), dtype="int8")}
    found = aligned(monkeypatch, small, {"a": stream([0, 20, 40], np.array([1, 300, -128]))})
    assert found.table["x"].to_pylist() == [1, 0, -128]
    assert valid(found.table).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("kind", "width", "mode"), [("quaternion", 4, "slerp"), ("pose", 7, "pose"), (None, 4, "linear")]
)
def test_poses_are_not_interpolated_as_numbers(monkeypatch, kind, width, mode):
    """A quaternion that flips its sign from sample to sample is the same rotation throughout."""
    values = np.zeros((5, width))
    values[:, -1] = [1, -1, 1, -1, 1]
    about = {"kind": kind} if kind else {}
    table, _ = align(monkeypatch, {"x": [FeatureSource("q")]}, {"q": stream(np.arange(5) * 30, values, about=about)})
    norms = np.linalg.norm(column(table)[:, -4:], axis=1)
    assert (mode == "linear") == (norms.min() < 0.9)


def test_lists_of_varying_length_pass_through(monkeypatch):
    boxes = pa.array([[1.0, 2.0], [], [3.0]], pa.list_(pa.float64()))
    table, _ = align(monkeypatch, {"x": [FeatureSource("b", "nearest")]}, {"b": stream([0, 20, 40], boxes)})
    assert table["x"].to_pylist() == [[1, 2], [], [3]]


def test_pixels_stay_bytes(monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    table, _ = align(monkeypatch, {"x": [FeatureSource("cam")]}, {"cam": stream(np.arange(5) * 20, frames)})
    assert table.schema.field("x").type == pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 6), 4)
    np.testing.assert_array_equal(np.array(table["x"].to_pylist()), frames)


# Restarts


def test_two_takes_are_not_one_trajectory(monkeypatch):
    frames = np.concatenate([np.arange(90), np.arange(60)]) * 1000 / 30
    streams = {"s": stream(frames, np.arange(150.0))}
    with pytest.raises(RestartError, match=r"the clock goes back by 2\.967 s at sample 90 of 150"):
        align(monkeypatch, {"x": [FeatureSource("s")]}, streams)
    sort = QualitySpec(on_restart="sort")
    assert aligned(monkeypatch, {"x": [FeatureSource("s")]}, streams, quality=sort).table.num_rows > 0


# The future


def test_a_policy_knows_only_what_has_been(monkeypatch):
    """What comes after a row changes nothing of its observations; an action may look ahead."""
    causal = replace(FIFTY, causal=True)
    features = {
        "q": [FeatureSource("q")],
        "f": [FeatureSource("f", "mean")],
        "a": Feature("a", (FeatureSource("c", "next"),), role="action"),
    }
    rng = np.random.default_rng(0)
    times = np.arange(0, 500, 3)
    streams = {name: stream(times, rng.normal(size=len(times))) for name in "qfc"}
    table, _ = align(monkeypatch, features, streams, causal)
    at = table["time_ns"].to_numpy()
    for k in (5, 12):
        later = {name: stream(times, np.where(times * MS > at[k], 99.0, s.values)) for name, s in streams.items()}
        other, _ = align(monkeypatch, features, later, causal)
        for name in ("q", "f"):
            assert other[name].to_pylist()[: k + 1] == table[name].to_pylist()[: k + 1]
    held = [streams["q"].values[times * MS <= t][-1] for t in at]
    np.testing.assert_allclose(column(table, "q"), held, rtol=1e-6)
    f = streams["f"].values
    means = [f[(times * MS > t - 20 * MS) & (times * MS <= t)].mean() for t in at]
    np.testing.assert_allclose(column(table, "f"), means, rtol=1e-6)


@pytest.mark.parametrize("mode", ["linear", "nearest", "next", "cubic"])
def test_what_looks_ahead_is_refused_by_name(monkeypatch, mode):
    job = make({"x": [FeatureSource("q", mode)]}, replace(FIFTY, causal=True))
    with pytest.raises(
        ConfigError, match=rf"features.x\[0\].align: {mode} looks ahead; timeline.causal admits previous"
    ):
        settle(monkeypatch, job, Episode("e", {"q": stream([0, 10])}))


def test_every_row_names_the_samples_it_used(monkeypatch):
    spec = replace(FIFTY, provenance=True)
    streams = {"a": stream([0, 15, 30, 45, 60]), "b": stream([5, 25, 41, 60], np.arange(4))}
    features = {"x": [FeatureSource("a"), FeatureSource("b", "previous")], "m": [FeatureSource("a", "mean")]}
    table, _ = align(monkeypatch, features, streams, spec)
    assert (table["time_ns"].to_numpy() / MS).tolist() == [5, 25, 45]
    stamps = np.array(table["x.stamps"].to_pylist()) / MS
    assert stamps.tolist() == [[0, 15, 5, 5], [15, 30, 25, 25], [45, 45, 41, 41]]
    assert (np.array(table["m.stamps"].to_pylist()) / MS).tolist() == [[0, 0], [15, 30], [45, 45]]


# Thresholds


def test_thresholds_warn_or_quarantine(monkeypatch):
    streams = {"a": stream(np.arange(0, 1000, 10)), "b": stream(np.arange(900, 1010, 10))}
    features = {"x": [FeatureSource("a")], "y": [FeatureSource("b")]}
    found = aligned(monkeypatch, features, streams)
    (said,) = texts(found, "kept")
    assert said.startswith("the timeline keeps 9.0% of the recording: b begins 0.9 s late, a ends 0.0 s early")
    strict = QualitySpec(on_fail="quarantine")
    with pytest.raises(InputError, match=r"quality: the timeline keeps 9\.0% of the recording"):
        aligned(monkeypatch, features, streams, quality=strict)
    lenient = replace(strict, min_kept=0.05)
    assert aligned(monkeypatch, features, streams, quality=lenient).table.num_rows == 5


def test_late_samples_are_told_with_their_delay(monkeypatch):
    times = np.arange(0, 1000, 10)
    times[50], times[51] = times[51] + 200, times[50]
    found = aligned(monkeypatch, {"x": [FeatureSource("a")]}, {"a": stream(times)})
    (text,) = texts(found, "late")
    late = int((times < np.maximum.accumulate(times)).sum())
    assert text == f"a: {late} of 100 samples came late, by up to 210 ms"
