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
    edges = _past_edges(targets)
    low, high = np.searchsorted(times, edges[:-1], "right"), np.searchsorted(times, edges[1:], "right")
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
        if past:
            edges = _past_edges(at) + 1
        else:  # the bins of the kernels: midway between neighbouring rows, the outer ones mirrored
            middle = at[:-1] + (at[1:] - at[:-1]) // 2
            edges = np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
        low, high = np.searchsorted(times, edges[:-1]), np.searchsorted(times, edges[1:]) - 1
        empty = high < low
        low, high = np.where(empty, low - 1, low), np.where(empty, low - 1 if past else low, high)
    else:
        low = np.searchsorted(times, at, "right") - 1
        exact = (low >= 0) & (times[np.maximum(low, 0)] == at)
        high = np.where(exact, low, low + 1)
    out[:, 0], out[:, 1] = times[np.clip(low, 0, last)], times[np.clip(high, 0, last)]
    return out


def _past_edges(targets: np.ndarray) -> np.ndarray:
    """Where each row's past begins, and where the last one's ends: int64 ``[T + 1]``."""
    step = int(targets[1] - targets[0]) if len(targets) > 1 else 1
    return np.concatenate([[targets[0] - step], targets])
