"""Stamps whose unit is not the one that the config says, too small or too large."""

from __future__ import annotations

import numpy as np
import pytest

from robocache.config.job import TimelineSpec
from robocache.engine.timeline import Clock, make_timeline
from robocache.engine.units import check_units
from robocache.errors import InputError
from robocache.types import Finding

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
TODAY = 1_700_000_000 * 10**9


def found(times: np.ndarray) -> list[Finding]:
    clocks = {"q": Clock(np.unique(times.astype(np.int64)))}
    return check_units(clocks, make_timeline(TimelineSpec(rate=50), clocks), rate=True)


@pytest.mark.parametrize(
    ("recorded", "declared"), [("s", "ms"), ("s", "us"), ("s", "ns"), ("ms", "us"), ("ms", "ns"), ("us", "ns")]
)
def test_a_unit_too_small_is_refused(recorded, declared):
    """100 Hz today, read in a smaller unit than it was written in: 1970, and faster than any sensor."""
    times = (TODAY + np.arange(1000) * 10**7) / UNITS[recorded] * UNITS[declared]
    with pytest.raises(InputError, match=r"and in 1970; .* would be of today; is the unit of its time \(input.times"):
        found(times)


def test_time_from_zero_in_a_unit_too_small():
    """Ten seconds become ten milliseconds: one row. Long ones make rows enough, and are told."""
    with pytest.raises(InputError, match=r"1,000 stamps within 0.00999 s, 100,000 a second, make 1 rows; is the unit"):
        found(np.arange(1000) * 10**4)
    (told,) = found(np.arange(100_000) * 10**4)
    assert told.code == "clock" and "100,000 stamps within 1 s, 100,000 a second; is the unit" in told.text


def test_a_unit_too_large_is_told():
    """A second of 100 Hz in milliseconds, read as seconds: 500 rows between two samples."""
    (told,) = found(np.arange(100) * 10 * 10**9)
    assert told.text.startswith("q, the fastest, has a stamp every 10 s, so that 500 rows lie between two; is the unit")


@pytest.mark.parametrize(
    "times",
    [
        TODAY + np.arange(1000) * 10**7,  # an arm
        20 * 86_400 * 10**9 + np.arange(1000) * 10**7,  # one on a computer that is up for twenty days
        np.arange(1000) * 10**6,  # an IMU, from zero
        1_700 * 10**9 + np.arange(3000) * 10**6,  # one on a computer that is up for half an hour
        TODAY + np.arange(20) * 10**9,  # a GPS
        np.arange(5) * 10**7,  # a short one
    ],
)
def test_what_sensors_do_is_not_remarkable(times):
    assert found(times) == []


def test_a_microphone_is_told_and_kept():
    (told,) = found(np.arange(44_100) * 10**9 // 44_100)
    assert "44,100 stamps within 1 s, 44,0" in told.text
