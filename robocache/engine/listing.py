"""What a job's input is, before anything of it is processed: its episodes, and the types of its sources."""

from __future__ import annotations

from robocache.config.job import Job
from robocache.engine.retry import with_retries
from robocache.engine.source_types import SourceTypes, resolve
from robocache.engine.takes import split_takes
from robocache.formats import list_episodes
from robocache.types import EpisodeRef


def listing(job: Job) -> tuple[list[EpisodeRef], SourceTypes]:
    """The episodes of a job's input, and what its sources are. Writes nothing.

    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OSError`` where the storage fails.
    """
    refs = with_retries(job.cluster.max_attempts, "listing", lambda: list_episodes(job.input))
    types = resolve(job, refs)
    if job.quality.on_restart == "split" and types.types:
        refs = split_takes(job, types, refs)
    return refs, types
