"""What a job's input is, before anything of it is processed: its episodes, and the types of its sources."""

from __future__ import annotations

from dataclasses import dataclass

from robocache.config.job import Job
from robocache.engine.retry import with_retries
from robocache.engine.source_types import SourceTypes, resolve
from robocache.engine.takes import split_takes
from robocache.formats import describe_passed, list_input
from robocache.types import EpisodeRef, PassedOver


@dataclass(frozen=True)
class Listed:
    """The episodes of an input, what their sources are, and the files that no reader takes."""

    episodes: list[EpisodeRef]
    types: SourceTypes
    passed_over: tuple[PassedOver, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know of the input, a line each."""
        return (*self.types.notes, *([describe_passed(self.passed_over)] if self.passed_over else ()))


def listing(job: Job) -> Listed:
    """Lists the input and settles its types. Writes nothing.

    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OSError`` where the storage fails.
    """
    found = with_retries(job.cluster.max_attempts, "listing", lambda: list_input(job.input))
    refs, types = found.episodes, resolve(job, found.episodes)
    if job.quality.on_restart == "split" and types.types:
        refs = split_takes(job, types, refs)
    return Listed(refs, types, tuple(found.passed_over))
