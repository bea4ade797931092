"""What a recorded stream must be before the kernels see it: sorted, one sample a stamp, finite. Each repair counted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from robocache.types import Stream


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was found in one stream of one episode, and how much of its columns is valid.

    out_of_order: stamps earlier than the one before; duplicates: samples dropped because a later one has their stamp;
    non_finite: samples dropped because they hold NaN or infinity; gaps: steps wider than max_gap (or, without one,
    than three median steps); longest_gap: the widest step, nanoseconds; valid_share: part of the targets, 0..1.
    """

    source: str
    samples: int
    out_of_order: int
    duplicates: int
    non_finite: int
    gaps: int = 0
    longest_gap: int = 0
    valid_share: float = 0.0


def clean(source: str, stream: Stream, max_gap: int | None) -> tuple[Stream, StreamReport]:
    """Sort by time (stable), drop non-finite samples, then keep the last of equal stamps.

    Numeric values come back C-contiguous, floats in their dtype, everything else as float64.
    """
    times, values = stream.times, stream.values
    samples = len(times)
    steps = np.diff(times)
    out_of_order = int((steps < 0).sum())
    if out_of_order:
        order = np.argsort(times, kind="stable")
        times, values = times[order], _rows(values, order)
    non_finite = 0
    if isinstance(values, np.ndarray):
        values = _numbers(values)
        finite = np.isfinite(values)
        if not finite.all():
            kept = finite.reshape(samples, -1).all(axis=1)
            non_finite = samples - int(kept.sum())
            times, values = times[kept], values[kept]
    steps = np.diff(times)
    repeated = steps == 0
    duplicates = int(repeated.sum())
    if duplicates:
        kept = np.append(~repeated, True)
        times, values = times[kept], _rows(values, kept.nonzero()[0])
        steps = np.diff(times)
    report = StreamReport(source, samples, out_of_order, duplicates, non_finite)
    if len(steps):
        limit = 3 * np.median(steps) if max_gap is None else max_gap
        report = replace(report, gaps=int((steps > limit).sum()), longest_gap=int(steps.max()))
    return Stream(times, values), report


def _rows(values: np.ndarray | pa.Array, rows: np.ndarray) -> np.ndarray | pa.Array:
    return values[rows] if isinstance(values, np.ndarray) else values.take(pa.array(rows))


def _numbers(values: np.ndarray) -> np.ndarray:
    dtype = values.dtype if values.dtype in (np.float64, np.float32, np.float16) else np.float64
    # Writable, because torch takes no read-only memory (Arrow's is): those arrays are copied.
    return np.require(values, np.dtype(dtype).newbyteorder("="), ["C", "W"])
