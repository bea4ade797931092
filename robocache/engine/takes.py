"""Recordings whose clock starts again in the middle: several takes in one file, each an episode of its own.

With ``input.on_restart: split`` the stamps of every recording are read before the run, to know how many takes it holds;
a take is then a reference of its own, and reading it gives the samples of that take alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from robocache import scratch
from robocache.config.job import Job
from robocache.engine.bounded import Bounded
from robocache.engine.retry import with_retries
from robocache.engine.source_types import SourceTypes
from robocache.errors import InputError
from robocache.formats import read_episode
from robocache.threads import mapped
from robocache.types import Episode, EpisodeRef, Source

_THREADS = 4  # each holds a recording's streams


def split_takes(
    job: Job, types: SourceTypes, refs: Sequence[EpisodeRef], bounded: Bounded | None = None
) -> list[EpisodeRef]:
    """The references with those of several takes replaced by one for each take, in their order."""

    wanted = types.wanted(job.sources)

    def one(ref: EpisodeRef) -> list[EpisodeRef]:
        if ref.failure:
            return [ref]
        try:
            read = partial(_read, ref, wanted, job)
            if bounded is not None:
                read = partial(bounded, f"reading {ref.id}", read)
            episode = with_retries(job.cluster.max_attempts, f"episode {ref.id}", read)
            count = _count(episode, job.quality.max_late)
        except (InputError, OSError):
            return [ref]  # its shard says what is wrong
        if count == 1:
            return [ref]
        return [replace(ref, id=f"{ref.id}@{k}", nbytes=ref.nbytes // count, take=k) for k in range(count)]

    return [ref for found in mapped(one, refs, _THREADS) for ref in found]


def _read(ref: EpisodeRef, wanted: Sequence[Source], job: Job) -> Episode:
    with scratch.beyond(job.compute.most_held):
        return read_episode(ref, wanted, job.input)


def take(episode: Episode, number: int, max_late: int) -> Episode:
    """The samples of one take. A stream whose own clock goes on is cut where the samples of the others arrived.

    ``InputError`` where a stream cannot be cut: it has another number of takes, or does not tell when it arrived.
    """
    cuts = {key: _restarts(s.times, max_late) for key, s in episode.streams.items()}
    most = max(cuts, key=lambda key: len(cuts[key]))
    arrived = episode.streams[most].log_times
    streams = {}
    for key, stream in episode.streams.items():
        rows = cuts[key]
        if len(rows) < len(cuts[most]) and len(stream.times) > 1:
            if arrived is None or stream.log_times is None:
                raise InputError(
                    f"{most} has {len(cuts[most]) + 1} takes and {key} {len(rows) + 1}, and the recording does not "
                    "tell when they arrived; they cannot be split alike"
                )
            rows = np.searchsorted(stream.log_times, arrived[cuts[most]]).tolist()
        bounds = [0, *rows, len(stream.times)]
        alone = len(stream.times) <= 1  # one value holds for every take
        streams[key] = stream if alone else stream.take(np.arange(bounds[number], bounds[number + 1]))
    return Episode(f"{episode.id}@{number}", streams, {**episode.metadata, "take": number}, episode.notes)


def _count(episode: Episode, max_late: int) -> int:
    count = 1 + max((len(_restarts(s.times, max_late)) for s in episode.streams.values()), default=0)
    for number in range(count if count > 1 else 0):
        take(episode, number, max_late)
    return count


def _restarts(times: np.ndarray, max_late: int) -> list[int]:
    """Where the clock goes back by more than ``max_late``: the first sample of each take but the first."""
    out: list[int] = []
    begin = 0
    while True:
        latest = np.maximum.accumulate(times[begin:])
        back = np.flatnonzero(times[begin:] < latest)
        row = next((int(i) for i in back if int(latest[i]) - int(times[begin + i]) > max_late), None)
        if row is None:
            return out
        begin += row
        out.append(begin)
