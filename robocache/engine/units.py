"""Stamps in another unit than their own: what a recording then looks like, and whether it can be anything else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robocache.engine.timeline import NANOSECONDS, Clock, Timeline
from robocache.errors import InputError
from robocache.types import Finding

#: Steps below this (20 kHz) are hardly those of a robot's sensor, though they may be a microphone's.
_FAST = 50_000
#: Steps that sensors have, in nanoseconds.
_USUAL = (100_000, 2 * NANOSECONDS)
_FEW = 10
_YEAR = 366 * 86_400 * NANOSECONDS
#: The years 2000 to 2100.
_NOW = (946_684_800 * NANOSECONDS, 4_102_444_800 * NANOSECONDS)
_ASK = "is the unit of its time (input.times.unit, or that of the source's stamp) right?"


def check_units(clocks: Mapping[str, Clock], timeline: Timeline, rate: bool) -> list[Finding]:
    """What stamps say that may be of another unit, of each source.

    rate: the timeline has a rate of its own
    ``InputError`` where they can hardly be anything else: stamps in January 1970 that in a larger unit are of today, or
    an episode of many samples that is over before its second row.
    """
    findings = []
    steps = {}
    for source, clock in clocks.items():
        times = clock.times
        if len(times) < 2:
            continue
        step = steps[source] = float(np.median(np.diff(times))) if clock.step is None else clock.step
        span = (int(times[-1]) - int(times[0])) / NANOSECONDS
        seen = f"{source}: {len(times):,} stamps within {span:.3g} s, {NANOSECONDS / step:,.0f} a second"
        if factor := _of_today(int(times[0]), step):
            seen += f", and in 1970; in a unit {factor:,} times as large they would be of today; {_ASK}"
            if step < _FAST:
                raise InputError(seen)
            findings.append(Finding("clock", source, seen))
        elif step < _FAST and len(times) >= _FEW:
            if len(timeline.times) <= 2 and rate:
                raise InputError(f"{seen}, make {len(timeline.times)} rows; {_ASK}")
            findings.append(Finding("clock", source, f"{seen}; {_ASK}"))
    slowest = 100 * timeline.period
    if rate and steps and min(steps.values()) > slowest:
        source = min(steps, key=lambda s: steps[s])
        text = (
            f"{source}, the fastest, has a stamp every {steps[source] / NANOSECONDS:,.3g} s, so that "
            f"{steps[source] / timeline.period:,.0f} rows lie between two; {_ASK}"
        )
        findings.append(Finding("clock", source, text))
    return findings


def _of_today(first: int, step: float) -> int:
    """By how much larger a unit would make stamps of 1970 ones of today, with the steps of a sensor; 0: none would."""
    if not 0 < first < _YEAR:
        return 0
    for factor in (1_000, 1_000_000, 1_000_000_000):
        if _NOW[0] <= first * factor <= _NOW[1] and _USUAL[0] <= step * factor <= _USUAL[1]:
            return factor if step < 2_000_000 else 0
    return 0
