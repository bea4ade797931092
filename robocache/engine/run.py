"""Run a job: list, plan, let the workers of its mode do the shards that are not done, record and sum up.

What is common to all modes is here; a mode is a context manager that yields an :data:`Execute`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from robocache.config.job import Job
from robocache.config.load import to_job
from robocache.config.resolved import resolved_yaml
from robocache.engine import local
from robocache.engine.process import Processor
from robocache.engine.ray import cluster as ray_cluster
from robocache.engine.retry import with_retries
from robocache.engine.shards import Shard, plan_shards
from robocache.engine.source_types import SourceTypes, resolve
from robocache.errors import OutputError
from robocache.formats import list_episodes
from robocache.output import tables
from robocache.output.commit import OutputWriter
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.output.tables import Summary

#: Processes every shard of the queue, emptying it, and has their records committed, many at once where many are ready.
Execute: TypeAlias = Callable[[Processor, Store, deque[Shard], Callable[[Sequence[ShardRecord]], None]], None]


@dataclass(frozen=True)
class Progress:
    """What a display may be told; every field is a total of this run, skipped shards included from the start."""

    episodes: int
    rows: int
    bytes_in: int
    quarantined: int
    of_episodes: int
    of_bytes: int


def run(
    config: str | Mapping[str, Any] | Job,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Make the dataset that a config describes, or go on with it. Returns what a person wants to know.

    config:    path of a YAML file, the same as a mapping, or a :class:`~robocache.config.job.Job`
    overrides: ``key=value`` for a YAML file, e.g. ``timeline.rate_hz=100``
    overwrite: replace an output that another config wrote
    progress:  called after each committed shard

    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OutputError``, ``WorkersError``: nothing is lost,
    run again.
    """
    began = time.monotonic()
    job = to_job(config, overrides)
    with _workers(job) as execute:  # first: what they lack is said before anything is read
        refs = with_retries(job.cluster.max_attempts, "listing", lambda: list_episodes(job.input))
        shards = plan_shards(refs, job.output.shard_mb)
        planned = [shard.planned(job.output.format) for shard in shards]
        store = Store(job.output.uri, job.output.storage_options)
        begin = OutputWriter.begin(
            store, job.identity(), resolved_yaml(job), format=job.output.format, overwrite=overwrite
        )
        with begin as output:
            types = resolve(job, refs)
            _settle(output, types)
            output.set_plan(planned)
            done = output.done(planned)
            counting = _Counting(output, shards, done, len(refs), progress)
            todo = deque(shard for shard in shards if shard.index not in done)
            del refs, shards, planned  # each shard's references go as it is done
            execute(Processor(job, types), output.store, todo, counting.commit)
            output.compact()
            return tables.finish(
                output,
                bytes_in=counting.of_bytes,
                skipped=len(done),
                seconds=time.monotonic() - began,
                max_failed=job.max_failed_episodes,
            )


def _workers(job: Job) -> AbstractContextManager[Execute]:
    return {"local": local.workers, "ray": ray_cluster.workers}[job.cluster.mode](job)


def _settle(output: OutputWriter, types: SourceTypes) -> None:
    """Record what the sources are. ``OutputError`` where an earlier run, whose parts are there, found other columns."""
    found, before = types.to_json(), output.settled()
    if before and before != found:
        differ = [key for key in found if before.get(key) != found[key]]
        raise OutputError(
            f"{output.store.uri}: the columns of {', '.join(differ)} are no longer those that its parts have "
            f"({before.get(differ[0])} before, {found[differ[0]]} now), since most recordings say so; make the dataset "
            "anew with --overwrite, or take the new recordings out of the input"
        )
    output.settle(found)


class _Counting:
    """Commits, and tells the display of it."""

    def __init__(
        self,
        output: OutputWriter,
        shards: Sequence[Shard],
        done: set[int],
        of_episodes: int,
        progress: Callable[[Progress], None],
    ):
        self.output, self.progress, self.of_episodes = output, progress, of_episodes
        self.sizes = {shard.index: sum(ref.nbytes for ref in shard.refs) for shard in shards}
        self.of_bytes = sum(self.sizes.values())
        kept = [output.committed[i] for i in done]
        self.episodes = sum(c.episodes + c.quarantined for c in kept)
        self.rows = sum(c.rows for c in kept)
        self.bytes_in = sum(self.sizes[i] for i in done)
        self.quarantined = sum(c.quarantined for c in kept)
        self._show()

    def commit(self, records: Sequence[ShardRecord]) -> None:
        self.output.commit(records)
        for r in records:
            self.episodes += len(r.episodes) + len(r.quarantined)
            self.rows += r.rows
            self.bytes_in += self.sizes[r.shard]
            self.quarantined += len(r.quarantined)
        self._show()

    def _show(self) -> None:
        self.progress(
            Progress(self.episodes, self.rows, self.bytes_in, self.quarantined, self.of_episodes, self.of_bytes)
        )
