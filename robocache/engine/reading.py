"""What reading an episode needs of a job. It travels to processes that do nothing else, so it imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from robocache import scratch
from robocache.config.job import Job
from robocache.engine.bounded import Bounded
from robocache.engine.source_types import SourceTypes
from robocache.engine.takes import take
from robocache.errors import InputError, UnexpectedError
from robocache.formats import InputSpec, read_episode
from robocache.types import Episode, EpisodeRef, Source


@dataclass(frozen=True)
class Reading:
    """Reads the episodes of a job.

    sources:  with the names of their columns in the settled order
    max_late: nanoseconds; a clock that goes back by more has restarted
    most:     bytes of a column; a longer one waits on the disk (None: none does)
    """

    sources: tuple[Source, ...]
    input: InputSpec
    max_late: int
    most: int | None = None

    @classmethod
    def of(cls, job: Job, types: SourceTypes) -> Reading:
        """What reads the episodes of a job whose types are settled."""
        return cls(tuple(types.wanted(job.sources)), job.input, job.quality.max_late, job.compute.most_held)

    def __call__(self, ref: EpisodeRef) -> Episode:
        """The episode's streams as recorded. ``InputError`` where it cannot be used, ``OSError`` where it may yet."""
        if ref.failure:
            raise (UnexpectedError if ref.retry else InputError)(ref.failure)
        with scratch.beyond(self.most):
            episode = read_episode(ref, self.sources, self.input)
            return episode if ref.take is None else take(episode, ref.take, self.max_late)


def bounded_reading(reading: Callable[[EpisodeRef], Episode], bounded: Bounded) -> Callable[[EpisodeRef], Episode]:
    """The same, each episode within its time, and in a process of its own where the job asks for that."""
    return lambda ref: bounded(f"reading {ref.id}", partial(reading, ref))
