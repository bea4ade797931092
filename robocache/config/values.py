"""Values of a config that are written with a unit or in several ways, exactly: durations, rates, turns."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from robocache.config.reading import Problems
from robocache.config.schema import EXPECTED
from robocache.formats.base import TIME_UNITS


def parse_duration(text: str) -> int:
    """Nanoseconds of ``50ms``, ``1.5s``, ``-3ms``, ``250us``, ``10ns``, exactly. ``ValueError`` says what is wrong."""
    match = re.fullmatch(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*(ns|us|ms|s)", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"write {EXPECTED['max_gap']}")
    nanoseconds = Fraction(match[1]) * TIME_UNITS[match[2]]
    if nanoseconds.denominator != 1:
        raise ValueError("it is finer than a nanosecond; write whole nanoseconds")
    if abs(nanoseconds) >= 2**63:
        raise ValueError("it is longer than the 292 years that int64 nanoseconds hold")
    return int(nanoseconds)


#: One turn, by the unit that it is in.
TURNS = {"rad": 2 * math.pi, "deg": 360.0}


def period_name(period: float) -> str | float:
    """One turn as a config says it; see :func:`parse_period`."""
    return next((unit for unit, turn in TURNS.items() if turn == period), period)


def parse_period(value: int | float | str) -> float:
    """One turn in a column's unit: ``rad``, ``deg``, or a number above 0. ``ValueError`` for anything else."""
    period = TURNS.get(str(value).strip())
    if period is None:
        try:
            period = float(value)
        except ValueError:
            period = 0.0
    if not 0 < period < math.inf:
        raise ValueError(f"write {EXPECTED['period']}")
    return period


def parse_rate(value: int | float | str) -> Fraction:
    """A rate in Hz exactly as written: 50, 29.97 (not its nearest binary float), ``30000/1001``.

    ``ValueError`` for anything that is not a number above 0 and up to 1e9 (a step of one nanosecond).
    """
    try:
        rate = Fraction(repr(value) if isinstance(value, float) else value)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 10**9:
        raise ValueError(f"write {EXPECTED['rate_hz']}")
    return rate


def duration_text(nanoseconds: int) -> str:
    """The reverse of :func:`parse_duration`."""
    unit = next(unit for unit in ("s", "ms", "us", "ns") if nanoseconds % TIME_UNITS[unit] == 0)
    return f"{nanoseconds // TIME_UNITS[unit]}{unit}"


def parsed(parse: Any, value: Any, path: str, problems: Problems) -> Any:
    """``parse(value)``; None where there is no value, or once its ``ValueError`` has been reported."""
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        problems.wrong(path, value, str(error))
        return None


def at_least(problems: Problems, path: str, value: int, least: int) -> None:
    if value < least:
        problems.wrong(path, value, f"write a whole number of {least} or more")


def seconds(problems: Problems, path: str, value: float) -> None:
    """How long something may take."""
    if not problems.under(path) and not 0 <= value < math.inf:
        problems.wrong(path, value, "write seconds, or 0 for no limit")


def limit(text: str | None, path: str, problems: Problems) -> Any:
    """``auto`` as it is, ``none`` (or null) as None, else nanoseconds of 0 or more."""
    if text is None or text == "none":
        return None
    if text == "auto":
        return "auto"
    found = parsed(parse_duration, text, path, problems)
    if found is not None and found < 0:
        problems.wrong(path, text, "write a duration of 0 or more; offset shifts a stream in time")
    return found
