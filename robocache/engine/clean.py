"""What a recorded stream must be before the kernels see it: in order, one sample a stamp, finite. Each repair counted.

A clock that goes back a little is late by jitter: its samples are sorted. One that goes back by more than
``quality.max_late`` has started again, and sorting would merge two trajectories into one: that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from robocache import scratch
from robocache.errors import InputError
from robocache.features.cast import extremes
from robocache.formats.messages import native
from robocache.types import Stream, StreamReport

NANOSECONDS = 1_000_000_000
#: A step this many times the median is a gap, where no max_gap says otherwise.
GAP_FACTOR = 3
#: How far a counter of 32 bits goes until it begins again, in nanoseconds, by its unit.
COUNTERS = {"microsecond": 2**32 * 1_000, "millisecond": 2**32 * 1_000_000}


#: What ``repeats`` may be where every sample of a stamp counts; with any other the last one does.
ALL_COUNT = ("all", "mean", "spread", "every")


class RestartError(InputError):
    """A stream's clock goes back by more than ``quality.max_late``. ``row``: the first sample after it did."""

    def __init__(self, message: str, row: int = 0):
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple:
        return (type(self), (str(self), self.row))


@dataclass(frozen=True)
class Columns:
    """Columns of a stream that share their samples, ready for the kernels.

    columns: int64 ``[k]``, which of the stream's columns (of the flattened sample); None: the whole stream, as it is
    times:   int64 ``[n]``, strictly rising
    rows:    int64 ``[n]``, the recorded sample behind each; None: all samples, as they were recorded
    values:  numbers ``[n, k]``, C-contiguous; None where the stream is selected from by row
    """

    columns: np.ndarray | None
    times: np.ndarray
    rows: np.ndarray | None
    values: np.ndarray | None

    def recorded(self, at: Any) -> Any:
        """The recorded samples behind these."""
        return at if self.rows is None else self.rows[at]

    @cached_property
    def steps(self) -> tuple[float, int] | None:
        """The median and the widest of the steps between neighbours, nanoseconds; None where there is none."""
        if len(self.times) < 2:
            return None
        if (found := native.steps(self.times)) is not None:
            scratch.tidy()
            return found
        steps = np.diff(self.times)
        return float(np.median(steps)), int(steps.max())

    @property
    def step(self) -> float | None:
        """Their median."""
        return None if self.steps is None else self.steps[0]

    @cached_property
    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest of ``values`` in each column, n at least 1; NaN where one is NaN."""
        assert self.values is not None
        return bounds(self.values)


def bounds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest of numbers ``[n, k]`` in each column, n at least 1; NaN where one is NaN."""
    found = [native.extremes(values[some]) or extremes(values[some]) for some in scratch.blocks(values)]
    if len(found) == 1:
        return found[0]
    low, high = zip(*found, strict=True)
    return np.minimum.reduce(low), np.maximum.reduce(high)


@dataclass(frozen=True)
class Cleaned:
    """A stream after its repairs.

    groups:  its columns, those that come in the same samples together; none where no sample can be used
    absent:  bool ``[width]``, the columns that never hold a finite number, and are in no group
    missing: bool ``[width]``, those of them that no message carries at all, by its names
    notes:   what a person must know of the repairs, a sentence each
    """

    stream: Stream
    groups: tuple[Columns, ...]
    absent: np.ndarray
    missing: np.ndarray
    report: StreamReport
    notes: tuple[str, ...] = ()

    @cached_property
    def times(self) -> np.ndarray:
        """int64, from the first usable sample to the last of any column."""
        if len(self.groups) == 1:
            return self.groups[0].times
        return np.unique(np.concatenate([g.times for g in self.groups])) if self.groups else np.zeros(0, np.int64)

    @cached_property
    def together(self) -> Columns:
        """The samples of all groups, as if they were of one."""
        return self.groups[0] if len(self.groups) == 1 else Columns(None, self.times, None, None)


def clean(
    source: str,
    stream: Stream,
    *,
    computed: bool,
    nonfinite: str = "drop",
    repeats: str = "last",
    max_late: int | None = None,
) -> Cleaned:
    """Sort by time (stable), leave out what is not finite, and treat samples of one stamp as ``repeats`` says.

    computed: the values are to be interpolated or averaged, so they come back as float arrays; else the stream is
              selected from, and only rows come back
    max_late: see ``quality.max_late``; None: no limit
    ``RestartError`` where the clock goes back further.
    """
    stream, late, late_by, notes = _in_order(source, stream, max_late)
    samples, width = len(stream.times), stream.type.width
    if not samples:
        none = np.zeros(width, bool)
        return Cleaned(stream, (), none, none, StreamReport(source, 0), tuple(notes))
    rows = np.argsort(stream.times, kind="stable") if late else None
    times = stream.times if rows is None else scratch.picked(stream.times, rows)
    values = None
    if computed and isinstance(stream.values, np.ndarray):
        values = _numbers(stream.values, rows).reshape(samples, width)
    whole, repeats_seen = Columns(None, times, rows, values), repeated(times)
    finite = _finite(stream, whole, width) if nonfinite == "drop" else None
    present = None if stream.present is None or stream.present.all() else stream.present
    if present is not None and rows is not None:
        present = present[rows]
    masks = [mask for mask in (finite, present) if mask is not None]
    absent = ~np.logical_and.reduce(masks).any(axis=0) if masks else np.zeros(width, bool)
    non_finite, groups = 0, []
    if not masks:
        groups = [_one_a_stamp(whole, repeats) if repeats_seen else whole]
        unused = 0 if repeats in ALL_COUNT else repeats_seen
    else:
        used = np.zeros(samples, bool)
        if finite is not None:
            bad = ~finite if present is None else ~finite & present
            non_finite = int(bad[:, ~absent].any(axis=1).sum()) if not absent.all() else samples
        for columns, kept in _shared_samples(finite, present, absent):
            chosen = np.flatnonzero(kept)
            part = values if values is None or columns is None else values[:, columns]
            numbers = None if part is None else scratch.picked(part, chosen)
            group = Columns(columns, scratch.picked(times, chosen), whole.recorded(chosen), numbers)
            used[chosen if repeats in ALL_COUNT else chosen[_last_of_stamp(group.times)]] = True
            groups.append(_one_a_stamp(group, repeats))
        unused = samples - int(used.sum())
    report = StreamReport(
        source, samples, late, late_by, duplicates=repeats_seen, non_finite=non_finite, dropped=unused
    )
    missing = np.zeros(width, bool) if present is None else ~np.logical_or.reduce(present, axis=0)
    return Cleaned(stream, tuple(groups), absent, missing, report, tuple(notes))


def with_gaps(cleaned: Cleaned, max_gap: int | None) -> StreamReport:
    """Its report with the gaps of its times: steps above ``max_gap``; without one, above three median steps."""
    if cleaned.together.steps is None:
        return cleaned.report
    times, (step, longest) = cleaned.together.times, cleaned.together.steps
    limit = GAP_FACTOR * step if max_gap is None else max_gap
    if longest <= limit:
        gaps = 0
    elif (found := native.wider(times, limit)) is not None:
        gaps = found
    else:
        gaps = int(np.count_nonzero(np.diff(times) > limit))
    return replace(cleaned.report, gaps=gaps, longest_gap=longest)


class Order(NamedTuple):
    """How stamps follow each other. Whoever tells of a clock, a run or ``inspect``, counts with this.

    times: int64 ``[n]`` in recorded order, a wrapped counter continued; note: that it was, else empty
    late:  bool ``[n]``, recorded after one of a later stamp
    """

    times: np.ndarray
    note: str
    late: np.ndarray

    @property
    def late_by(self) -> np.ndarray:
        """How far each late sample is behind: Python integers, since a difference may be beyond int64."""
        latest = np.maximum.accumulate(self.times)[self.late]
        return latest.astype(object) - self.times[self.late].astype(object)

    @property
    def sorted(self) -> np.ndarray:
        """The stamps in their order."""
        return np.sort(self.times) if self.late.any() else self.times


def order_of(times: np.ndarray) -> Order:
    """The order of int64 stamps ``[n]`` as recorded."""
    if rising(times):
        return Order(times, "", np.zeros(len(times), bool))
    for unit, turn in COUNTERS.items():
        fixed = _unwrapped(times, turn)
        if fixed is not None:
            note = f"the stamps are a {unit} counter of 32 bits that began again; it was continued"
            return Order(fixed, note, np.zeros(len(times), bool))
    return Order(times, "", times < np.maximum.accumulate(times))


def rising(times: np.ndarray) -> bool:
    """Whether none of int64 stamps ``[n]`` is below the one before."""
    if (found := native.order(times)) is not None:
        return found[0]
    return bool((times[1:] >= times[:-1]).all())  # compared, not subtracted: a difference may overflow


def repeated(times: np.ndarray) -> int:
    """How many of sorted stamps are that of the one before."""
    if (found := native.order(times)) is not None:
        return found[1]
    return int(np.count_nonzero(times[1:] == times[:-1]))


def _in_order(source: str, stream: Stream, max_late: int | None) -> tuple[Stream, int, int, list[str]]:
    """The stream with a wrapped counter undone, how many samples are late, by how much at most, and what was done."""
    if rising(stream.times):
        return stream, 0, 0, []
    order = order_of(stream.times)
    if order.note:
        return replace(stream, times=order.times), 0, 0, [order.note]
    if not order.late.any():
        return stream, 0, 0, []
    times, behind = order.times, order.late_by
    by = max(behind)
    if max_late is not None and by > max_late:
        first = int(np.argmax(behind > max_late))
        row = int(np.flatnonzero(order.late)[first])
        since, back = int(times[row]) + behind[first], behind[first] / NANOSECONDS
        raise RestartError(
            f"{source}: the clock goes back by {back:.3f} s at sample {row} of {len(times)} (from {since} to "
            f"{int(times[row])} ns), which is a restart and not a late sample; set input.on_restart to split (takes of "
            "their own) or sort, or raise quality.max_late",
            row,
        )
    return stream, len(behind), by, []


def _unwrapped(times: np.ndarray, turn: int) -> np.ndarray | None:
    """Stamps of a counter that began again, continued; None where they are not such stamps."""
    if int(times.min()) < 0 or int(times.max()) >= turn:
        return None
    steps = np.diff(times)
    back = steps < 0
    forward = steps[~back]
    if not len(forward) or (steps[back] + turn > 10 * max(int(np.median(forward)), 1)).any():
        return None
    return times + turn * np.concatenate([[0], np.cumsum(back)])


def _finite(stream: Stream, whole: Columns, width: int) -> np.ndarray | None:
    """bool ``[n, width]`` of the sorted samples: where a number is finite, or anything else is there; None: all are."""
    if isinstance(stream.values, np.ndarray):
        if stream.values.dtype.kind != "f":
            return None
        recorded = stream.values.reshape(len(whole.times), width)
        limits = bounds(recorded) if whole.values is None else whole.extremes
        if all(np.isfinite(limit).all() for limit in limits):
            return None
        return np.isfinite(recorded[whole.recorded(slice(None))] if whole.values is None else whole.values)
    if not stream.values.null_count:
        return None
    there = np.asarray(stream.values.is_valid())[whole.recorded(slice(None)), None]
    return np.repeat(there, max(width, 1), axis=1)


def _shared_samples(
    finite: np.ndarray | None, present: np.ndarray | None, absent: np.ndarray
) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
    """Columns that come in the same samples (None: all of them), and which samples these are, bool ``[n]``.

    Two publishers of one topic each fill their own columns, so these are streams of their own. A number that is not
    finite costs its whole sample, so that a row never mixes two instants of one message.
    """
    some = np.flatnonzero(~absent)
    if present is None:
        assert finite is not None  # else all samples hold all columns
        if len(some) or not len(absent):
            yield (None if len(some) == len(absent) else some), np.logical_and.reduce(finite[:, some], axis=1)
    else:
        together: dict[bytes, list[int]] = {}
        for column in some:
            together.setdefault(present[:, column].tobytes(), []).append(int(column))
        for columns in together.values():
            kept: np.ndarray = present[:, columns[0]]
            if finite is not None:
                kept = kept & finite[:, columns].all(axis=1)
            yield np.array(columns), kept


def _last_of_stamp(times: np.ndarray) -> np.ndarray:
    """bool ``[n]``: the last sample of each stamp of sorted times."""
    return np.append(times[1:] != times[:-1], True)[: len(times)]


def _one_a_stamp(group: Columns, repeats: str) -> Columns:
    """Strictly rising times. ``all``: samples of one stamp follow each other by a nanosecond, so that every one counts
    in the mean of its bin; where there is no room for that, and with ``mean``, they are averaged. ``every``: they stay
    as they are.
    """
    times, last = group.times, np.flatnonzero(_last_of_stamp(group.times))
    if len(last) == len(times) or repeats == "every":
        return group
    if repeats not in ALL_COUNT or group.values is None:
        values = None if group.values is None else scratch.picked(group.values, last)
        return replace(group, times=scratch.picked(times, last), rows=group.recorded(last), values=values)
    counts = np.diff(last, prepend=-1)
    first = last - counts + 1
    if repeats != "mean":
        spread = _spread(times, first, counts, even=repeats != "all")
        if spread is not None:
            return replace(group, times=spread)
    means = np.add.reduceat(group.values.astype(np.float64), first, axis=0) / counts[:, None]
    values = means.astype(group.values.dtype)
    return replace(group, times=group.times[first], rows=group.recorded(first), values=values)


def _spread(times: np.ndarray, first: np.ndarray, counts: np.ndarray, *, even: bool) -> np.ndarray | None:
    """Sorted times, where samples ``first`` and those behind have one stamp, ``counts`` of them, made strictly rising:
    by a nanosecond each, or (``even``) over the time until the next stamp. None where there is no room for that.
    """
    many = np.flatnonzero(counts > 1)
    begin, count = first[many], counts[many]
    stamps, following = times[begin], times[np.minimum(begin + count, len(times) - 1)]
    if many[-1] == len(counts) - 1:  # as long as others last
        others = times[first]
        following[-1] = stamps[-1] + (int(np.median(np.diff(others))) if len(others) > 1 else count[-1])
    share = (following - stamps) // count
    if not even:
        share = np.minimum(share, 1)
    if not (share > 0).all():
        return None
    nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    spread = times.copy()
    spread[np.repeat(begin, count) + nth] += nth * np.repeat(share, count)
    return spread


def _numbers(values: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Floats in their dtype, in native byte order, everything else as float64; C-contiguous, sorted by ``rows``."""
    native = values.dtype.newbyteorder("=")
    dtype = native if native in (np.float64, np.float32, np.float16) else np.dtype(np.float64)
    return scratch.filled(values if rows is None else scratch.picked(values, rows), dtype)


def selectable(values: np.ndarray | pa.Array) -> np.ndarray | pa.Array:
    """Values that are picked and never computed with, in native byte order."""
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        return values.astype(values.dtype.newbyteorder("="))
    return values
