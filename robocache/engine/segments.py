"""Episodes out of long logs: recordings cut by the ranges of a table, the values of a topic, or where one is silent;
and the robots of one log, each an episode.

A segment is a reference of its own, and reading it reads no more of the file than its part, where the format has an
index. What a topic tells is read before the run, that topic alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from robocache.config.job import Job, Range, SegmentSpec
from robocache.engine.bounded import Bounded
from robocache.engine.retry import with_retries
from robocache.errors import ConfigError, InputError
from robocache.formats import read_episode
from robocache.threads import mapped
from robocache.types import NEVER, EpisodeRef, Segment, Stream, as_rows

_THREADS = 4  # each holds a topic of a recording


def split_robots(job: Job, refs: Sequence[EpisodeRef]) -> list[EpisodeRef]:
    """A reference for each robot of a recording, in the order of ``input.segments.robots``."""
    names = job.segments.robots
    if not names:
        return list(refs)
    share = len(names)
    return [
        replace(ref, id=f"{ref.id}@{name.strip('/').replace('/', '.')}", nbytes=ref.nbytes // share, prefix=name)
        for ref in refs
        for name in names
    ]


def split_segments(job: Job, refs: Sequence[EpisodeRef], bounded: Bounded | None = None) -> list[EpisodeRef]:
    """The references with each replaced by one for each of its segments, in order of their begin.

    A recording without a segment has none; one that cannot be read stays, and its shard says why. ``ConfigError`` where
    no recording has any.
    """
    spec = job.segments
    if not spec.cuts:
        return list(refs)

    def one(ref: EpisodeRef) -> list[EpisodeRef]:
        if ref.failure:
            return [ref]
        try:
            found = _of_table(spec, ref) if spec.ranges is not None else _of_topic(job, ref, bounded)
        except (InputError, OSError) as error:
            return [replace(ref, failure=str(error), retry=isinstance(error, OSError))]
        return _references(ref, [(id, segment) for id, segment in found if segment.end - segment.begin >= spec.min])

    if spec.ranges is not None:
        _check_names(spec, refs)
    out = [segment for found in mapped(one, refs, _THREADS) for segment in found]
    if not out:
        raise ConfigError([f"input.segments: none of {len(refs)} recordings has a segment; {_nothing(spec)}"])
    return out


def examples(refs: Sequence[EpisodeRef]) -> list[EpisodeRef]:
    """Of the segments of each recording one, that of which most is known: what its sources are is asked once."""
    best: dict[object, EpisodeRef] = {}
    for ref in refs:
        whole = (ref.files, ref.key, ref.prefix) if ref.segment is not None else ref
        other = best.setdefault(whole, ref)
        if ref.segment is not None and other.segment is not None:
            best[whole] = max(other, ref, key=lambda r: len(r.segment.metadata) if r.segment else 0)
    return list(best.values())


def _references(ref: EpisodeRef, found: Sequence[tuple[str, Segment]]) -> list[EpisodeRef]:
    share = ref.nbytes // max(len(found), 1)
    ordered = sorted(found, key=lambda item: (item[1].begin, item[1].end))
    taken: set[str] = set()
    out = []
    for number, (name, segment) in enumerate(ordered):
        id = f"{ref.id}@{name or number}"
        if id in taken:
            raise ConfigError([f"input.segments: two segments of {ref.id} are called {name!r}; give each its own id"])
        taken.add(id)
        out.append(replace(ref, id=id, nbytes=share, segment=segment))
    return out


def _nothing(spec: SegmentSpec) -> str:
    if spec.topic:
        told = "" if spec.value is None else f" {spec.value!r}"
        return f"{spec.topic} never has a value{told} for {spec.min / 1e9:g} s or more"
    return "ranges are there for recordings that the input lacks" if spec.ranges is not None else "all are too short"


def _check_names(spec: SegmentSpec, refs: Sequence[EpisodeRef]) -> None:
    """``ConfigError`` where a range is of a recording that is not there, or does not say of which it is."""
    assert spec.ranges is not None
    problems = []
    for line, one in enumerate(spec.ranges, start=1):
        hits = [ref for ref in refs if _is(one, ref)]
        if not one.recording and len({ref.files for ref in refs}) > 1:
            problems.append(f"range {line}: of which of {len(refs)} recordings? add a column recording")
        elif not hits:
            known = ", ".join(ref.id for ref in refs[:5])
            problems.append(f"range {line} is of {one.recording!r}, which is no recording of the input (as {known})")
    if problems:
        raise ConfigError([f"input.segments: {problem}" for problem in problems[:10]])


def _is(one: Range, ref: EpisodeRef) -> bool:
    """Whether a range is of a recording: by its id, or the name of its file with or without its suffix."""
    file = ref.files[0].uri.rpartition("/")[2]
    whole = ref.id.partition("@")[0]
    return one.recording in ("", ref.id, whole, file, file.partition(".")[0], whole.rpartition(".")[0])


def _of_table(spec: SegmentSpec, ref: EpisodeRef) -> list[tuple[str, Segment]]:
    assert spec.ranges is not None
    return [(one.id, Segment(one.begin, one.end, one.metadata)) for one in spec.ranges if _is(one, ref)]


def _of_topic(job: Job, ref: EpisodeRef, bounded: Bounded | None) -> list[tuple[str, Segment]]:
    spec = job.segments
    path = spec.topic or spec.gaps
    read = partial(read_episode, ref, [path], job.input)
    if bounded is not None:
        read = partial(bounded, f"reading {ref.id}", read)
    streams = with_retries(job.cluster.max_attempts, f"episode {ref.id}", read).streams
    if path not in streams:
        raise InputError(f"no {path} in it, which input.segments goes by")
    stream = streams[path]
    order = np.argsort(stream.times, kind="stable")
    times = stream.times[order]
    if not len(times):
        return []
    if spec.gaps:
        return [("", Segment(begin, end)) for begin, end in _without_gaps(times, spec.longer)]
    values = _values(stream, order, path)
    return [("", segment) for segment in _runs(times, values, spec)]


def _without_gaps(times: np.ndarray, longer: int) -> Iterator[tuple[int, int]]:
    """From the first sample to the last of each stretch without a step of more than ``longer``."""
    breaks = np.flatnonzero(np.diff(times) > longer) + 1
    for stretch in np.split(times, breaks):
        yield int(stretch[0]), int(stretch[-1]) + 1


def _values(stream: Stream, order: np.ndarray, path: str) -> list[bool | int | float | str]:
    if isinstance(stream.values, np.ndarray):
        flat = as_rows(stream.values)
        if flat.shape[1] == 1:
            return [value for (value,) in flat[order].tolist()]
    elif pa.types.is_string(stream.values.type) or pa.types.is_large_string(stream.values.type):
        return stream.values.take(pa.array(order)).to_pylist()
    raise InputError(
        f"input.segments.topic: {path} holds {stream.type.arrow}; a number, a truth value or a text is right"
    )


def _runs(times: np.ndarray, values: Sequence[bool | int | float | str], spec: SegmentSpec) -> Iterator[Segment]:
    """From a value to the next other one; with ``each`` to the next sample."""
    begins = [k for k in range(len(values)) if spec.each or not k or values[k] != values[k - 1]]
    for begin, after in zip(begins, [*begins[1:], None], strict=True):
        value = values[begin]
        if spec.value is None or value == spec.value:
            end = NEVER if after is None else int(times[after])
            yield Segment(int(times[begin]), end, (("value", value),))
