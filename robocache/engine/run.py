"""Run a job: list, plan, let the workers of its mode do the shards that are not done, record and sum up.

What is common to all modes is here; a mode is a context manager that yields an :data:`Execute`.
"""

from __future__ import annotations

import re
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
from robocache.engine.listing import listing
from robocache.engine.process import Processor
from robocache.engine.quality import gather
from robocache.engine.ray import cluster as ray_cluster
from robocache.engine.shards import Shard, plan_shards
from robocache.engine.source_types import SourceTypes
from robocache.errors import ConfigError, InputError, OutputError
from robocache.output import tables
from robocache.output.commit import OutputWriter
from robocache.output.manifest import QuarantineRecord, ShardRecord
from robocache.output.store import Store
from robocache.output.tables import Summary
from robocache.types import EpisodeRef

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
        listed = listing(job)
        refs, types, notes = listed.episodes, listed.types, listed.notes
        passed_over = listed.passed_over
        shards = plan_shards(refs, job.output.shard_mb)
        planned = [shard.planned(job.output.format) for shard in shards]
        store = Store(job.output.uri, job.output.storage_options)
        processor = Processor(job, types)
        if overwrite:  # what is there goes only for a config that makes something
            _try(processor, refs)
        begin = OutputWriter.begin(
            store, job.identity(), resolved_yaml(job), format=job.output.format, overwrite=overwrite
        )
        with begin as output:
            _settle(output, types)
            output.set_plan(planned)
            done = output.done(planned)
            counting = _Counting(output, shards, done, len(refs), progress)
            todo = deque(shard for shard in shards if shard.index not in done)
            del listed, refs, shards, planned  # each shard's references go as it is done
            execute(processor, output.store, todo, counting.commit)
            output.compact()
            found = gather((e.id, e.quality) for r in output.records() for e in r.episodes)
            summary = tables.finish(
                output,
                bytes_in=counting.of_bytes,
                skipped=len(done),
                seconds=time.monotonic() - began,
                max_failed=job.max_failed_episodes,
                kept=found.kept,
                findings=found.lines(),
                notes=notes,
                passed_over=passed_over,
            )
    _refuse_one_fault(summary)
    return summary


#: Episodes that are tried before an older output is replaced.
_TRIED = 3


def _try(processor: Processor, refs: Sequence[EpisodeRef]) -> None:
    """``ConfigError`` where the first episodes cannot be used, all of them: the config is more likely at fault."""
    reasons = []
    for ref in [ref for ref in refs if not ref.failure][:_TRIED]:
        try:
            processor.aligner.preparer.prepare(processor.read(ref))
        except InputError as error:
            reasons.append(f"{ref.id}: {error}")
        else:
            return
    raise ConfigError([f"nothing was replaced, since the first episodes cannot be used: {'; '.join(reasons)}"])


def _refuse_one_fault(summary: Summary) -> None:
    """``ConfigError`` where every episode is quarantined for one reason: it is the config that is at fault, or that
    does not fit these recordings.
    """
    reasons = summary.quarantined
    if summary.episodes or len(reasons) < 2 or any(q.retry for q in reasons):
        return
    bare = {_bare(q) for q in reasons}
    if len(bare) == 1:
        raise ConfigError(
            [
                f"none of the {len(reasons)} episodes can be used, all for the same reason; the first, "
                f"{reasons[0].id}: {reasons[0].reason}"
            ]
        )


def _bare(q: QuarantineRecord) -> str:
    """A reason without what differs from episode to episode: names and numbers."""
    text = q.reason
    for name in sorted({*q.files, q.id, *(f.rpartition("/")[2] for f in q.files)}, key=len, reverse=True):
        text = text.replace(name, "")
    return re.sub(r"[0-9][0-9.,:+-]*", "", text)


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
