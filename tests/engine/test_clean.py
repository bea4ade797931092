"""Repairs of a recorded stream: order, repeats, what is not finite, columns that come in different messages."""

from __future__ import annotations

import pickle
from dataclasses import astuple

import numpy as np
import pyarrow as pa
import pytest
from align_kit import MS, stream

from robocache.engine.clean import RestartError, clean, with_gaps

SECOND = 1000 * MS


def only(cleaned):
    (group,) = cleaned.groups
    return group


def test_counts_of_what_is_repaired():
    values = np.arange(14.0).reshape(7, 2)
    values[4, 1] = np.nan
    found = clean("s", stream([0, 20, 10, 30, 40, 30, 100], values), computed=True)
    group = only(found)
    assert (group.times / MS).tolist() == [0, 10, 20, 30, 100]
    assert group.values[:, 0].tolist() == [0, 4, 2, 10, 12]  # of the two at 30 the later in the recording
    assert group.rows.tolist() == [0, 2, 1, 5, 6]
    r = with_gaps(found, 50 * MS)
    assert astuple(r) == ("s", 7, 2, 10 * MS, 1, 1, 2, 1, 70 * MS, 0.0)


def test_late_is_behind_any_earlier_stamp():
    """Both samples after 40 came late, though the second rises again; inspect and the report count alike."""
    report = clean("s", stream([0, 40, 10, 20, 50]), computed=True).report
    assert (report.late, report.late_by) == (2, 30 * MS)


def test_a_bad_duplicate_does_not_replace_a_good_sample():
    found = clean("s", stream([0, 10, 10], np.array([1.0, 2.0, np.inf])), computed=True)
    assert only(found).values[:, 0].tolist() == [1, 2]
    assert (found.report.duplicates, found.report.non_finite, found.report.dropped) == (1, 1, 1)


def test_good_streams_are_left_alone():
    good = stream([0, 10, 20], np.arange(3, dtype=np.float32))
    found = clean("s", good, computed=True)
    assert np.shares_memory(only(found).values, good.values)
    assert astuple(found.report) == ("s", 3, 0, 0, 0, 0, 0, 0, 0, 0.0)


def test_a_column_that_is_never_finite_costs_no_sample():
    """A wheel without a velocity, ever, beside two joints that have one."""
    values = np.column_stack([np.full(4, np.nan), np.arange(4.0), [0, 1, np.inf, 3]])
    found = clean("s", stream([0, 10, 20, 30], values), computed=True)
    assert found.absent.tolist() == [True, False, False]
    assert only(found).columns.tolist() == [1, 2]
    assert only(found).values.tolist() == [[0, 0], [1, 1], [3, 3]]
    assert found.report.non_finite == 1


def test_nothing_finite_leaves_nothing():
    found = clean("s", stream([0, 10], np.full((2, 2), np.nan)), computed=True)
    assert found.groups == () and found.absent.all()
    assert (found.report.non_finite, found.report.dropped) == (2, 2)


def test_infinities_can_be_readings():
    values = np.array([[1, np.inf], [2, 3.0]])
    found = clean("scan", stream([0, 10], values), computed=False, nonfinite="keep")
    assert only(found).rows is None  # all of them
    assert found.report.non_finite == 0


def test_two_publishers_are_streams_of_their_own():
    """Left and right arm speak in turn; each column has its own samples."""
    times = np.arange(0, 60, 10)
    present = np.tile([[True, False], [False, True]], (3, 1))
    values = np.where(present, np.column_stack([times, -times]).astype(float), np.nan)
    found = clean("s", stream(times, values, present=present), computed=True)
    by_column = {int(g.columns[0]): (g.times / MS).tolist() for g in found.groups}
    assert by_column == {0: [0, 20, 40], 1: [10, 30, 50]}
    assert (found.report.non_finite, found.report.dropped) == (0, 0)


def test_samples_of_one_stamp_all_count_in_a_mean():
    """Eight samples of a USB batch under one stamp: their mean over any bin is that of all of them."""
    times = np.repeat([0, 8, 16], 8)
    values = np.arange(24.0)
    group = only(clean("s", stream(times, values), computed=True, repeats="all"))
    assert len(group.times) == 24 and (np.diff(group.times) > 0).all()
    assert (group.times // MS).tolist() == times.tolist()  # still in the bin that their stamp is in
    spread = only(clean("s", stream(times, values), computed=True, repeats="spread"))
    assert (spread.times / MS).tolist() == np.arange(24.0).tolist()
    mean = only(clean("s", stream(times, values), computed=True, repeats="mean"))
    assert mean.values[:, 0].tolist() == [3.5, 11.5, 19.5]


def test_payloads_that_are_null_are_no_samples():
    found = clean("s", stream([0, 10, 20], pa.array([b"a", None, b"c"])), computed=False)
    assert only(found).rows.tolist() == [0, 2]
    assert found.report.dropped == 1


def test_a_restart_is_not_a_late_sample():
    twice = np.concatenate([np.arange(0, 3000, 10), np.arange(0, 2000, 10)])
    with pytest.raises(RestartError, match=r"s: the clock goes back by 2.990 s at sample 300 of 500") as caught:
        clean("s", stream(twice), computed=True, max_late=SECOND)
    assert pickle.loads(pickle.dumps(caught.value)).row == 300
    assert clean("s", stream(twice), computed=True, max_late=3 * SECOND).report.late == 200


def test_a_counter_of_32_bits_is_continued():
    micros = (np.arange(0, 20_000_000, 100_000) + 2**32 - 10_000_000) % 2**32
    found = clean("s", stream(micros / 1000), computed=True, max_late=SECOND)
    assert np.diff(only(found).times).tolist() == [100 * MS] * 199
    assert "microsecond counter of 32 bits" in found.notes[0]


def test_stamps_that_are_too_far_apart_to_subtract():
    wild = stream([0, 1, 2, 3])
    object.__setattr__(wild, "times", np.array([0, 6 * 10**18, -6 * 10**18, 5]))
    found = clean("s", wild, computed=True)
    assert only(found).times.tolist() == [-6 * 10**18, 0, 5, 6 * 10**18]
    assert (found.report.late, found.report.late_by) == (2, 12 * 10**18)
