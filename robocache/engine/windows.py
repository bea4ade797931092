"""``window``: every sample of a source that is faster than the rows, instead of one number a row.

A row holds what lies in its bin, as ``mean`` has it, or what came since the row before where the timeline is causal:
the last ``window`` samples of it, oldest first, the last one repeated behind them, and how many there are.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import pyarrow as pa

from robocache.engine.clean import selectable
from robocache.engine.lookback import bins
from robocache.engine.prepare import Request
from robocache.engine.timeline import Timeline
from robocache.features import Aligned
from robocache.types import Finding, as_rows, numpy_type


def gathered(r: Request, timeline: Timeline, *, past: bool, findings: list[Finding]) -> Aligned:
    """The windows of a source, numbers ``[T, window * width]``, with their counts; a row without a sample is not valid.

    past: a row holds what came since the row before
    """
    count, size, cleaned = len(timeline.times), r.source.window, r.cleaned
    stamps = np.full((count, 2), -1, np.int64)
    if cleaned is None or not cleaned.groups or cleaned.missing.any():
        dtype = numpy_type(r.kind.element)
        values = np.full((count, size * r.kind.width), _nothing(dtype), dtype)
        return Aligned(values, np.zeros(count, bool), stamps=stamps, counts=np.zeros(count, np.int32))
    # A sample counts where all of its columns that ever hold a number hold one.
    rows = reduce(np.intersect1d, (group.recorded(np.arange(len(group.times))) for group in cleaned.groups))
    rows = rows[np.argsort(cleaned.stream.times[rows], kind="stable")]
    times = cleaned.stream.times[rows]
    low, high = bins(times + r.source.offset, timeline.times, past=past, period=timeline.period)
    found, valid = high - low, high > low
    counts = np.minimum(found, size)
    first = high - counts
    recorded = as_rows(_numbers(cleaned.stream.values))
    values = np.full((count, size, recorded.shape[1]), _nothing(recorded.dtype), recorded.dtype)
    places = np.minimum(first[valid, None] + np.arange(size), high[valid, None] - 1)
    values[valid] = recorded[rows[places]]
    stamps[valid] = np.stack([times[first[valid]], times[high[valid] - 1]], axis=1)
    if (over := found > size).any():
        text = (
            f"{r.source.source}: {int(over.sum())} of {count} rows have more than {size} samples in their bin, of "
            f"which the last are kept; window: {int(found.max())} holds them all"
        )
        findings.append(Finding("overflow", r.feature.name, text, float(over.mean())))
    absent = np.tile(cleaned.absent, size) if cleaned.absent.any() else None
    return Aligned(
        values.reshape(count, -1),
        valid,
        absent=absent,
        finite=r.source.nonfinite == "drop",
        stamps=stamps,
        about=cleaned.stream.about,
        counts=counts.astype(np.int32),
    )


def _nothing(dtype: np.dtype) -> float:
    """What a row without a sample holds."""
    return np.nan if dtype.kind == "f" else 0


def _numbers(values: np.ndarray | pa.Array) -> np.ndarray:
    """Truth values are kept as Arrow has them."""
    found = selectable(values)
    return found if isinstance(found, np.ndarray) else found.to_numpy(zero_copy_only=False)
