"""What a row used of the past: means over the time since the row before, and the stamps of the samples behind a row."""

from __future__ import annotations

import numpy as np

from robocache.engine.prepare import Request


def past_mean(times: np.ndarray, values: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the samples in (row before, row], float64 ``[T, k]``, and bool ``[T]``: where there is one.

    A row without a sample since the row before is invalid and holds the last one before it. The first row looks back as
    far as the second does; a lone row takes a sample at its own time alone.
    times: int64 ``[n]``, rising; values ``[n, k]``; targets: int64 ``[T]``
    """
    wide = values.astype(np.float64)
    low, high = bins(times, targets, past=True)
    out = np.full((len(targets), values.shape[1]), np.nan)
    held = high > 0
    out[held] = wide[high[held] - 1]
    valid = high > low
    for k in np.flatnonzero(high - low > 1):  # each bin's own sum: a running total would lose digits
        out[k] = wide[low[k] : high[k]].mean(axis=0)
    return out, valid


def used_stamps(r: Request, targets: np.ndarray, *, past: bool, rows: np.ndarray | None) -> np.ndarray:
    """The first and the last stamp that each row used of a source, on the recording's clock: int64 ``[T, 2]``, -1 where
    it used none.

    rows: the sample picked for each row, where samples are picked; past: see :func:`past_mean`
    """
    out = np.full((len(targets), 2), -1, np.int64)
    if r.cleaned is None or not r.cleaned.groups:
        return out
    times = r.cleaned.times
    last = len(times) - 1
    if r.source.static:
        out[:] = times[-1]
        return out
    if rows is not None:
        out[:] = times[np.clip(rows, 0, last)][:, None]
        return out
    at = targets - r.source.offset
    if r.mode == "mean" and (past or len(at) > 1):
        low, behind = bins(times, at, past=past)
        high = behind - 1
        empty = high < low
        low, high = np.where(empty, low - 1, low), np.where(empty, low - 1 if past else low, high)
    else:
        low = np.searchsorted(times, at, "right") - 1
        exact = (low >= 0) & (times[np.maximum(low, 0)] == at)
        high = np.where(exact, low, low + 1)
    out[:, 0], out[:, 1] = times[np.clip(low, 0, last)], times[np.clip(high, 0, last)]
    return out


def bins(times: np.ndarray, targets: np.ndarray, *, past: bool, period: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first sample in the bin of each row, and the one behind its last: int64 ``[T]`` each.

    A bin goes from midway to the row before to midway to the next, the outer ones as far on either side, as the kernels
    have it; with past it is (row before, row], the first row's as long as the second's.
    times: int64 ``[n]``, rising; period: nanoseconds, of a lone row's bin
    """
    lone = len(targets) == 1
    if past:
        edges = np.concatenate([[targets[0] - (max(1, period) if lone else targets[1] - targets[0])], targets])
        return np.searchsorted(times, edges[:-1], "right"), np.searchsorted(times, edges[1:], "right")
    if lone:
        edges = np.array([targets[0] - period // 2, targets[0] + max(1, period - period // 2)])
    else:
        middle = targets[:-1] + (targets[1:] - targets[:-1]) // 2
        edges = np.concatenate([[2 * targets[0] - middle[0]], middle, [2 * targets[-1] - middle[-1]]])
    return np.searchsorted(times, edges[:-1]), np.searchsorted(times, edges[1:])
