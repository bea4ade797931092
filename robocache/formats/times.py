"""Recorded time columns to int64 nanoseconds, exactly: for formats that keep time as a plain column."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robocache.errors import InputError, MissingError
from robocache.formats.base import TIME_UNITS, TableTimes, shown

#: Names under which a time column is found when the config does not name one (case does not matter).
TIME_NAMES = ("time", "timestamp", "stamp", "t")
HOW_TO_SET = "set input.times, e.g. {column: timestamp, unit: ms} or {rate_hz: 30}"
#: Digits behind the point down to a nanosecond.
_DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
_PLAIN = r"^[ \t]*(?P<sign>[+-]?)(?P<whole>[0-9]*)\.?(?P<fraction>[0-9]*)[ \t]*$"
_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"


def to_ns(values: np.ndarray, unit: str, *, where: str) -> np.ndarray:
    """Numbers ``[n]`` in ``unit`` (``ns``, ``us``, ``ms``, ``s``) as int64 nanoseconds ``[n]``.

    Integers, and floats that hold integral values, are exact. Of other floats the integral part is exact and the
    fraction is rounded to the nearest nanosecond: what error remains is the float's own resolution (float64 epoch
    seconds: 119 ns). ``InputError``, beginning with ``where``, for a missing or non-finite time, naming its row, and
    for one outside int64 nanoseconds (years 1677 to 2262).
    """
    scale = TIME_UNITS[unit]
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise InputError(f"{where}: times must be one column of numbers, found {values.dtype} {list(values.shape)}")
    if values.dtype.kind != "f":
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        _check_range(low * scale, high * scale, unit, where)
        return values.astype(np.int64) * scale
    exact = values.astype(np.float64)
    missing = ~np.isfinite(exact)
    if missing.any():
        row = int(missing.argmax())
        raise InputError(f"{where}: row {row + 1} (of {len(exact)}) has no time: {exact[row]}")
    whole = np.floor(exact)
    if len(whole):
        _check_range(int(whole.min()) * scale, (int(whole.max()) + 1) * scale, unit, where)
    return whole.astype(np.int64) * scale + np.rint((exact - whole) * scale).astype(np.int64)


def _check_range(low: int, high: int, unit: str, where: str) -> None:
    if low < -(2**63) or high >= 2**63:
        worst = low if low < -(2**63) else high
        raise InputError(
            f"{where}: {worst // TIME_UNITS[unit]} {unit} is outside the years 1677 to 2262; is input.times.unit right?"
        )


def text_to_ns(text: str, unit: str) -> int:
    """A decimal number in ``unit`` as nanoseconds by its digits, halves away from zero. ``ValueError``: no number."""
    exact = Fraction(text.strip()) * TIME_UNITS[unit]
    return int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)


def _decimals_to_ns(column: pa.ChunkedArray, unit: str, where: str) -> np.ndarray:
    """As :func:`text_to_ns`, a column of decimal numbers at once."""
    digits = _DIGITS[unit]
    parts = pc.extract_regex(column, _PLAIN)
    if parts.null_count:  # exponents: rare
        found = [text_to_ns(text, unit) for text in column.to_pylist()]
        _check_range(min(found), max(found), "ns", where)
        return np.array(found, np.int64)
    parts = parts.combine_chunks()
    sign, whole, fraction = (pc.struct_field(parts, name) for name in ("sign", "whole", "fraction"))
    padded = pc.utf8_rpad(fraction, digits + 1, "0")
    small = pc.cast(pc.utf8_slice_codeunits(pc.utf8_lpad(padded, 1, "0"), 0, digits + 1), pa.int64()).to_numpy()
    large = pc.cast(pc.if_else(pc.equal(whole, ""), "0", whole), pa.uint64())  # ArrowInvalid: more than 20 digits
    large = large.to_numpy()
    if len(large):
        _check_range(0, (int(large.max()) + 1) * TIME_UNITS[unit], unit, where)
    found = large.astype(np.int64) * TIME_UNITS[unit] + (small + 5) // 10
    return np.where(pc.equal(sign, "-").to_numpy(zero_copy_only=False), -found, found)


def is_temporal(type: pa.DataType) -> bool:
    """True for Arrow types that know their own unit."""
    return pa.types.is_temporal(type) and not pa.types.is_interval(type)


def column_times(column: pa.ChunkedArray, unit: str, *, where: str) -> np.ndarray:
    """A table's time column as int64 nanoseconds ``[n]``: numbers in ``unit`` (as text to every digit), Arrow times, or
    ISO 8601 text."""
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise InputError(f"{where}: row {row + 1} (of {len(column)}) has no time")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if not len(column):
            return np.empty(0, np.int64)
        if pc.match_substring_regex(column.slice(0, 1), _NUMBER)[0].as_py():
            return _text_times(column, unit, where)
        column = _parse_iso(column, where)
    kind = column.type
    if not len(column):
        return np.empty(0, np.int64)  # without rows a CSV column has no type either
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64())  # raises rather than wraps
    elif pa.types.is_duration(kind):
        column = column.cast(pa.duration("ns")).cast(pa.int64())
    elif pa.types.is_time(kind):
        column = column.cast(pa.time64("ns")).cast(pa.int64())
    elif pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return to_ns(column.to_numpy(), unit, where=where)
    else:
        raise InputError(f"{where}: times must be numbers, timestamps or ISO 8601 text, found {kind}")
    return column.to_numpy()


def _text_times(column: pa.ChunkedArray, unit: str, where: str) -> np.ndarray:
    numeric = pc.match_substring_regex(column, _NUMBER)
    if not pc.all(numeric).as_py():
        row = pc.index(numeric, False).as_py()
        text = column[row].as_py()
        if text.strip().lower() in ("nan", "+nan", "-nan", "inf", "+inf", "-inf"):
            raise InputError(f"{where}: row {row + 1} (of {len(column)}) has no time: {text.strip()}")
        raise InputError(f"{where}, row {row + 1}: {text!r} is not a number")
    return _decimals_to_ns(column, unit, where)


def _parse_iso(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Text to timestamps. A zone suffix is honoured; without one the time counts as UTC."""
    zoned = pc.any(pc.match_substring_regex(column, r":[0-9.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$")).as_py()
    kind = pa.timestamp("ns", "UTC" if zoned else None)
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        for row, text in enumerate(column, start=1):
            try:
                text.cast(kind)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"{where}, row {row}: {text.as_py()!r} is no time; numbers or ISO 8601"
                    f"{' with a zone, as other rows have it,' if zoned else ''} would be right"
                ) from error
        raise


def iso_to_ns(text: str) -> int:
    """One ISO 8601 time as nanoseconds. ``ValueError``: it is none."""
    try:
        return int(_parse_iso(pa.chunked_array([[text]], pa.string()), "")[0].value)
    except InputError as error:
        raise ValueError(str(error)) from None


def time_columns(schema: pa.Schema, times: TableTimes | None, *, where: str) -> tuple[tuple[str, str], ...]:
    """Which columns of a table make its time: each with its unit, to be added up; none where the config gives a rate.

    Without ``input.times`` a column is taken only if it states its unit: one named ``time``, ``timestamp``,
    ``stamp`` or ``t`` of an Arrow time type, or one of these with ``_ns``, ``_us``, ``_ms`` or ``_s`` behind it.
    """
    if times is not None and times.named:
        for column, _ in times.named:
            if schema.names.count(column) != 1:
                count = "twice" if column in schema.names else "not"
                raise MissingError(f"{where}: time column {column!r} is {count} there; {_columns(schema.names)}")
        return times.named
    if times is not None and times.rate_hz is not None:
        return ()
    found = []
    for column in schema:
        base, _, suffix = column.name.lower().rpartition("_")
        if column.name.lower() in TIME_NAMES and is_temporal(column.type):
            found.append((column.name, "ns"))
        elif base in TIME_NAMES and suffix in TIME_UNITS:
            found.append((column.name, suffix))
    if len(found) == 1:
        return (found[0],)
    problem = f"several columns may be the time ({', '.join(n for n, _ in found)})" if found else "no time is known"
    raise MissingError(f"{where}: {problem}; {HOW_TO_SET}; {_columns(schema.names)}")


def _columns(names: Sequence[str]) -> str:
    return f"its columns are {shown(names)}" if names else "it has no columns"


def seconds_of(stamp: object) -> int | None:
    """Nanoseconds of ``{sec, nanosec}``, ``{sec, nsec}`` or ``{secs, nsecs}``; None for anything else."""
    if not isinstance(stamp, dict) or len(stamp) != 2:
        return None
    for seconds, nanoseconds in STAMP_FIELDS:
        if seconds in stamp and nanoseconds in stamp:
            parts = stamp[seconds], stamp[nanoseconds]
            if all(type(part) is int for part in parts):
                found = parts[0] * 1_000_000_000 + parts[1]
                return found if abs(found) < 1 << 63 else None
    return None


#: How messages spell a stamp: ROS 2, Foxglove, rosbridge and ROS 1, protobuf.
STAMP_FIELDS = (("sec", "nanosec"), ("sec", "nsec"), ("secs", "nsecs"), ("seconds", "nanos"))
