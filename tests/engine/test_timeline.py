"""Target times: exact rates, which source bounds the range, what was kept of the recording."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from align_kit import FIFTY, MS

from robocache.config.job import TimelineSpec
from robocache.engine.timeline import Clock, make_timeline
from robocache.errors import InputError


def times(spec, clocks, reference=None):
    made = {s: c if isinstance(c, Clock) else Clock(np.asarray(c)) for s, c in clocks.items()}
    return make_timeline(spec, made, reference).times


@pytest.mark.parametrize("rate", [30, 50, 400, Fraction(30000, 1001), 7, Fraction(1, 3), Fraction(333333333, 10000000)])
def test_rates_never_drift(rate):
    """After a million periods the target is still the exact time, rounded to a nanosecond."""
    exact = Fraction(rate)
    start = 1_700_000_000_123_456_789
    stamps = start + np.arange(10_001) * int(100 / exact * 10**9)
    targets = times(TimelineSpec(rate=exact), {"a": stamps})
    assert len(targets) > 999_999
    for k in (1, 2, 3, 999_999, len(targets) - 1):
        assert abs(Fraction(int(targets[k]) - start) - k * 10**9 / exact) <= Fraction(1, 2)


def test_intersection_and_union():
    clocks = {"a": np.array([0, 100]) * MS, "b": np.array([35, 135]) * MS, "none": np.zeros(0, np.int64)}
    assert (times(FIFTY, clocks) / MS).tolist() == [35, 55, 75, 95]
    either = times(TimelineSpec(rate=Fraction(50), range="union"), clocks)
    assert (either / MS).tolist() == [0, 20, 40, 60, 80, 100, 120]


def test_the_last_target_may_be_the_last_stamp():
    assert (times(FIFTY, {"a": np.array([0, 40]) * MS}) / MS).tolist() == [0, 20, 40]
    assert times(FIFTY, {"a": np.array([5]) * MS}).tolist() == [5 * MS]


def test_a_held_source_bounds_the_start_alone():
    """A command sent once at 40 ms is there until the end."""
    arm = Clock(np.array([0, 200]) * MS)
    held = Clock(np.array([40]) * MS, ends=False)
    ahead = Clock(np.array([120]) * MS, starts=False)
    assert (times(FIFTY, {"arm": arm, "held": held}) / MS)[[0, -1]].tolist() == [40, 200]
    assert (times(FIFTY, {"arm": arm, "ahead": ahead}) / MS)[[0, -1]].tolist() == [0, 120]
    assert (times(FIFTY, {"held": Clock(np.array([40, 90]) * MS, ends=False)}) / MS).tolist() == [40, 60, 80]


def test_what_was_kept_and_who_cut_it():
    clocks = {"arm": Clock(np.array([0, 1000]) * MS), "ft": Clock(np.array([100, 900]) * MS)}
    made = make_timeline(FIFTY, clocks)
    assert made.kept == 0.8
    assert made.lost == (100 * MS, 100 * MS)
    assert made.cut_by == ("ft", "ft")
    assert made.period == 20 * MS
    whole = make_timeline(TimelineSpec(rate=Fraction(50), range="union"), clocks)
    assert (whole.kept, whole.cut_by) == (1.0, ("", ""))


def test_reference_stamps_are_the_targets():
    camera, joints = np.array([0, 33, 70, 99, 140]) * MS, np.array([30, 120]) * MS
    spec = TimelineSpec(reference="camera")
    assert (times(spec, {"camera": camera, "joints": joints}, camera) / MS).tolist() == [33, 70, 99]
    union = TimelineSpec(reference="camera", range="union")
    assert times(union, {"camera": camera, "joints": joints}, camera).tolist() == camera.tolist()


def test_timelines_that_cannot_be():
    with pytest.raises(InputError, match=r"b begins 0.100 s after a ends"):
        times(FIFTY, {"a": np.array([0, 100]) * MS, "b": np.array([200, 300]) * MS})
    with pytest.raises(InputError, match="no source has a sample"):
        times(FIFTY, {"a": np.zeros(0, np.int64)})
    with pytest.raises(InputError, match="all are static"):
        times(FIFTY, {})
    a = np.array([0, 100]) * MS
    with pytest.raises(InputError, match="no stamp in the range"):
        times(TimelineSpec(reference="a"), {"a": a, "b": np.array([40, 60]) * MS}, a)


def test_one_damaged_stamp_does_not_make_a_billion_rows():
    stamps = np.append(np.arange(1000) * 10 * MS, 2**61)
    with pytest.raises(InputError, match=r"1001 samples over .* rows at 50 Hz; a stamp is damaged"):
        times(FIFTY, {"a": stamps})
