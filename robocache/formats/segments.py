"""A part of a recording: the samples of its time, with what the rows at its ends need of before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robocache.types import Episode, EpisodeRef, Segment, Source, Stream

#: What is kept beyond the ends of a segment: so many samples, and all within so many nanoseconds.
CONTEXT, CONTEXT_NS = 2, 1_000_000_000


def around(segment: Segment) -> tuple[int, int]:
    """First and last nanosecond of the samples that a segment and the rows at its ends need; what is further away is
    needed only where a stream has nothing nearer."""
    return segment.begin - CONTEXT_NS, segment.end - 1 + CONTEXT_NS


def cut(episode: Episode, segment: Segment) -> Episode:
    """A recording as that part of it."""
    streams = {key: _cut(stream, segment) for key, stream in episode.streams.items()}
    return replace(episode, streams=streams, segment=segment)


def _cut(stream: Stream, segment: Segment) -> Stream:
    times = stream.times
    first, last = around(segment)
    keep = (times >= first) & (times <= last)
    before, after = np.flatnonzero(times < segment.begin), np.flatnonzero(times >= segment.end)
    keep[before[np.argsort(times[before], kind="stable")[-CONTEXT:]]] = True
    keep[after[np.argsort(times[after], kind="stable")[:CONTEXT]]] = True
    return stream if keep.all() else stream.take(np.flatnonzero(keep))


def prefixed(ref: EpisodeRef, sources: Sequence[Source]) -> list[Source]:
    """The sources as the topics of the reference's robot have them."""
    return [replace(source, path=f"{ref.prefix}{source.path}") for source in sources]
