"""Target times of an episode: integer nanoseconds throughout, so that no rate drifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from robocache.config.job import TimelineSpec
from robocache.errors import InputError
from robocache.types import rate_times

NANOSECONDS = 1_000_000_000
#: A fixed rate may give this many rows, or ROWS_PER_SAMPLE for each sample; beyond that a stamp is damaged.
PLAUSIBLE_ROWS, ROWS_PER_SAMPLE = 1_000_000, 1_000


@dataclass(frozen=True, slots=True)
class Clock:
    """The stamps of one source on the common clock, and whether it bounds the timeline.

    times:        sorted int64 ``[n]``, the source's offset added
    starts, ends: whether an intersection begins with its first stamp, and ends with its last; a held command is
                  there long after its last stamp, so ``previous`` bounds the start alone
    step:         nanoseconds, the median of those between stamps; None: nobody has looked yet
    """

    times: np.ndarray
    starts: bool = True
    ends: bool = True
    step: float | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The targets of one episode, and what of the recording they cover.

    times:   int64 ``[T]``, T >= 1, on the common clock
    stamps:  int64 ``[T]``, what is written of them: the reference's own stamps, without its offset; else ``times``
    period:  nanoseconds between targets: of the rate, or the median step of the reference (0 for a lone target)
    kept:    share 0..1 of the time from the recording's first stamp to its last
    lost:    nanoseconds cut off before the first target's range and behind the last's
    cut_by:  the sources that began last and ended first; empty where nothing was cut there
    """

    times: np.ndarray
    stamps: np.ndarray
    period: int
    kept: float
    lost: tuple[int, int]
    cut_by: tuple[str, str]


def make_timeline(
    spec: TimelineSpec,
    clocks: Mapping[str, Clock],
    reference: np.ndarray | None = None,
    offset: int = 0,
    fits: Callable[[int], None] = lambda rows: None,
    within: tuple[int, int] | None = None,
) -> Timeline:
    """The timeline of an episode.

    clocks:    of each source; those without stamps have no say
    reference: its own stamps, sorted, where ``spec.reference`` is given, and its ``offset``, by how much they are off:
               every source is read at the corrected time, and the row keeps the stamp
    fits:      is told how many rows there will be, before they are made, and may raise
    within:    the episode is no more than this of its recording: the first nanosecond, and the one behind the last
    ``InputError`` where the streams leave no target: none has a sample, or they do not overlap.
    """
    spans = {s: (int(c.times[0]), int(c.times[-1])) for s, c in clocks.items() if len(c.times)}
    if not spans:
        raise InputError(f"no source has a sample that bounds the timeline ({', '.join(clocks) or 'all are static'})")
    if within is not None:  # what the streams have of before and after is there for the rows at the ends
        spans = {s: (max(f, within[0]), min(t, within[1] - 1)) for s, (f, t) in spans.items()}
    first, last = min(f for f, _ in spans.values()), max(t for _, t in spans.values())
    if first > last:
        raise InputError("no source has a sample in this segment of the recording")
    start, stop, cut_by = first, last, ("", "")
    if spec.range == "intersection":
        begins = {s: f for s, (f, _) in spans.items() if clocks[s].starts}
        ends = {s: t for s, (_, t) in spans.items() if clocks[s].ends}
        start = max(begins.values(), default=first)
        stop = min(ends.values(), default=last)
        cut_by = (
            max(begins, key=lambda s: begins[s]) if start > first else "",
            min(ends, key=lambda s: ends[s]) if stop < last else "",
        )
        if start > stop:
            raise InputError(
                f"the streams do not overlap: {cut_by[0]} begins {(start - stop) / NANOSECONDS:.3f} s after "
                f"{cut_by[1]} ends; set an offset or another stamp if their clocks differ, static: true for a value "
                "that holds throughout, or timeline.range: union"
            )
    if reference is not None:
        corrected = reference + offset
        times = corrected[(corrected >= start) & (corrected <= stop)]
        if not len(times):
            raise InputError(f"reference {spec.reference} has no stamp in the range of the other streams")
        fits(len(times))
        period = int(np.median(np.diff(times))) if len(times) > 1 else 0
    else:
        assert spec.rate is not None  # the config has one of the two
        times = _fixed_rate(spec, start, stop, sum(len(c.times) for c in clocks.values()), fits)
        period = int(NANOSECONDS / spec.rate)
    kept = (stop - start) / (last - first) if last > first else 1.0
    stamps = times - offset if reference is not None else times
    return Timeline(times, stamps, period, kept, (start - first, last - stop), cut_by)


def _fixed_rate(spec: TimelineSpec, start: int, stop: int, samples: int, fits: Callable[[int], None]) -> np.ndarray:
    assert spec.rate is not None
    count = int((stop - start) * spec.rate / NANOSECONDS) + 2
    if count > max(PLAUSIBLE_ROWS, ROWS_PER_SAMPLE * samples):
        raise InputError(
            f"{samples} samples over {(stop - start) / NANOSECONDS:,.0f} s would make {count:,} rows at "
            f"{float(spec.rate):g} Hz; a stamp is damaged, or the unit of time is wrong"
        )
    fits(count - 1)
    targets = start + rate_times(count, spec.rate)
    return targets[targets <= stop]
