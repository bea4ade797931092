"""Numbers of one type as numbers of another: what does not fit is marked, what is rounded is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

#: What a feature's ``dtype`` may be, besides ``auto``.
DTYPES = (
    "bool", "float16", "float32", "float64",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
#: A column is said to be rounded where a step of float32 is wider than this share of the column's own mean step.
ROUNDED = 1 / 8


#: Numbers that :func:`extremes` looks at side by side: numpy reduces long rows at the speed of memory, short ones not.
_ABREAST = 512


def extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest number of each column of ``values [n, k]``, n at least 1; NaN where one is NaN."""
    n, k = values.shape
    fold = _ABREAST // max(k, 1)
    even = n // fold * fold if fold else 0
    if not even or not k:
        return values.min(axis=0), values.max(axis=0)
    rows, rest = values[:even].reshape(-1, fold * k), values[even:]
    found = []
    for least in (np.minimum, np.maximum):
        some = least.reduce(rows, axis=0).reshape(fold, k)
        found.append(least.reduce(np.concatenate([some, rest]), axis=0))
    return found[0], found[1]


def cast(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    """``values [n, k]`` in ``dtype``, and bool ``[n, k]``: which of them fit (None: all do).

    What does not fit (a finite number that becomes infinite, a number outside of an integer's range, NaN as an
    integer) comes out as NaN of a float and 0 of an integer. Fractions are rounded to the nearest integer, halves to
    the even one; a number is true unless it is 0.
    """
    if values.dtype == dtype:
        return values, None
    if dtype.kind == "b":
        return values != 0, None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            out = values.astype(dtype)
        fits = np.isfinite(out) | ~np.isfinite(values) if values.dtype.kind == "f" else np.isfinite(out)
        if fits.all():
            return out, None
        out[~fits] = np.nan
        return out, fits
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if values.dtype.kind == "f":
        rounded = np.rint(values.astype(np.float64))
        # 2^63 and 2^64 are floats, the largest int64 and uint64 are not: hence below, not up to.
        fits = (rounded >= float(low)) & (rounded < float(high) + 1 if high > 2**53 else rounded <= high)
        out = np.where(fits, rounded, 0).astype(dtype)
    else:
        fits = (values >= low) & (values <= high)
        out = np.where(fits, values, 0).astype(dtype)
    return out, None if fits.all() else fits


def way_of(values: np.ndarray) -> np.ndarray:
    """float64 ``[k]``: how far each column of ``values [n, k]`` goes, n at least 1: its distances from row to row."""
    return np.abs(np.diff(values.astype(np.float64), axis=0)).sum(axis=0)


def rounded_columns(
    values: np.ndarray,
    dtype: np.dtype,
    bounds: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    ways: Callable[[], np.ndarray] | None = None,
) -> np.ndarray:
    """Columns of recorded ``values [n, k]`` that lose what the sensor measured if written as ``dtype``: int64 ``[m]``.

    Integers lose it beyond what the float holds exactly (2^24 for float32). Of floats, a column is rounded where the
    distance between neighbouring numbers of ``dtype`` at its largest value is wider than an eighth of the column's mean
    step from sample to sample, and the column moves by more than a few such distances (one that stands still but for
    noise has nothing to lose).

    bounds, ways: what to ask for :func:`extremes` and :func:`way_of` of ``values`` instead
    """
    if dtype.kind != "f" or values.dtype.kind not in "iuf" or not len(values):
        return np.zeros(0, np.int64)
    bounds, ways = bounds or partial(extremes, values), ways or partial(way_of, values)
    if values.dtype.kind in "iu":
        exact = 2 ** (np.finfo(dtype).nmant + 1)
        least, most = bounds()
        reach = np.maximum(most, -(least.astype(object)))
        return np.flatnonzero(reach > exact)
    if values.dtype.itemsize <= dtype.itemsize or len(values) < 3:
        return np.zeros(0, np.int64)
    low, high = (bound.astype(np.float64) for bound in bounds())
    with np.errstate(over="ignore", invalid="ignore"):  # of infinities, and of numbers that the type cannot hold
        distance = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(dtype)).astype(np.float64)
        moves = high - low
        # A column's steps add up to no less than the way from its lowest to its highest number.
        doubtful = np.isfinite(distance) & (distance > ROUNDED * moves / (len(values) - 1)) & (moves > 4 * distance)
        columns = np.flatnonzero(doubtful)
        if not len(columns):
            return columns
        mean_step = ways()[columns] / (len(values) - 1)
    return columns[distance[columns] > ROUNDED * mean_step]
