"""Columns that are angles: their turns are undone before they are interpolated or averaged, and done again after.

Between 3.1 and -3.1 rad lie 0.08 rad and not 6.2: a straight line from one to the other passes every angle there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robocache.errors import InputError

#: The turns that are looked for, and how they are called.
TURNS = {2 * math.pi: "2 pi", 360.0: "360 degrees"}
#: Steps beyond this share of a turn are wraps, steps below that share are motion; a column with more than a few in
#: between is no angle.
_WRAP, _MOTION = 0.75, 0.25


@dataclass(frozen=True, slots=True)
class Turn:
    """How a column goes round: by ``period``, from ``low`` up to ``low + period``; ``wraps``: how often it did."""

    period: float
    low: float
    wraps: int = 0

    @property
    def plain(self) -> bool:
        """Whether it is radians from -pi to pi."""
        return self.period == 2 * math.pi and self.low == -math.pi

    def wrap(self, values: np.ndarray) -> np.ndarray:
        """Any angles as the column had them: in (low, low + period] where low is negative, else [low, low + period)."""
        if self.low < 0:
            return values - self.period * np.ceil((values - (self.low + self.period)) / self.period)
        return values - self.period * np.floor((values - self.low) / self.period)


def find_turns(values: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> dict[int, Turn]:
    """The turns of those columns of ``values [n, k]``, finite numbers with these extremes, that are angles which wrap.

    One wraps where it stays within one turn (from 0, or about 0) and jumps by about the whole of it while all its
    other steps are small.
    """
    low, high = (bound.astype(np.float64) for bound in bounds)
    found = {}
    for column in np.flatnonzero(high - low >= _WRAP * min(TURNS)) if len(values) >= 3 else ():
        turn = _turn(values[:, column], float(low[column]), float(high[column]))
        if turn is not None:
            found[int(column)] = turn
    return found


def _turn(values: np.ndarray, low: float, high: float) -> Turn | None:
    for period in TURNS:
        if high - low < _WRAP * period or high - low > period * (1 + 1e-6):
            continue
        slack = period * 1e-6
        begin = -period / 2 if low >= -period / 2 - slack and high <= period / 2 + slack else 0.0
        if begin == 0.0 and not (low >= -slack and high <= period + slack):
            continue
        steps = np.abs(np.diff(values.astype(np.float64)))
        wrap = steps > _WRAP * period
        between = int(((steps > _MOTION * period) & ~wrap).sum())
        motion = float(steps[~wrap].max(initial=0.0))
        whole = (period - steps[wrap] <= 2 * motion + 1e-3 * period).all()  # a saw of another height falls short of it
        if wrap.any() and whole and between <= min(int(wrap.sum()), 0.01 * len(steps)):
            return Turn(period, begin, int(wrap.sum()))
    return None


def turn_of_angle(values: np.ndarray, period: float | None, where: str) -> Turn:
    """The turn of a column that the config calls an angle; without a ``period`` it is found by looking.

    ``InputError`` where the numbers can be neither radians of one turn nor degrees that wrap.
    """
    if period is not None:
        return Turn(period, -period / 2)
    reach = float(np.abs(values).max()) if len(values) else 0.0
    if reach <= 2 * math.pi * (1 + 1e-6):
        return Turn(2 * math.pi, -math.pi)
    found = find_turns(values[:, None], (values.min(keepdims=True), values.max(keepdims=True))).get(0)
    if found is not None:
        return Turn(found.period, -found.period / 2, found.wraps)
    raise InputError(
        f"{where}: align angle expects radians within 2 pi, found up to {reach:.6g}; set period to deg, or rad for "
        "radians of several turns, or to the number that one turn is"
    )


def unwrap(values: np.ndarray, period: float) -> np.ndarray:
    """Angles ``[n]`` without their jumps, float64: each step is the shortest way round."""
    return np.unwrap(values.astype(np.float64), period=period)
