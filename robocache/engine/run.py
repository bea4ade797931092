"""Run a job: list, plan, let the workers of its mode do the shards that are not done, record and sum up.

What is common to all modes is here; a mode is a context manager that yields :class:`Workers`.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from robocache.config.job import Job
from robocache.config.load import to_job
from robocache.config.resolved import resolved_yaml
from robocache.engine import local
from robocache.engine.bounded import Bounded
from robocache.engine.listing import listing
from robocache.engine.process import Processor
from robocache.engine.quality import gather
from robocache.engine.ray import cluster as ray_cluster
from robocache.engine.reading import bounded_reading
from robocache.engine.tree import finalise, refuse_columns
from robocache.engine.work import Work, lay_out_work, refuse_config, refuse_vanished
from robocache.engine.workers import Workers
from robocache.errors import ConfigError, InputError, OutputError
from robocache.output import tables
from robocache.output.commit import OutputWriter
from robocache.output.dataset import Output
from robocache.output.layout import PAGE, REPORT
from robocache.output.manifest import QuarantineRecord, ShardRecord
from robocache.output.store import Store
from robocache.output.tables import Summary
from robocache.output.version import Version
from robocache.stages import STAGES, Spent
from robocache.types import EpisodeRef, PassedOver

logger = logging.getLogger("robocache")


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
    prune: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Make the dataset that a config describes, or go on with it. Returns what a person wants to know.

    config:    path of a YAML file, the same as a mapping, or a :class:`~robocache.config.job.Job`
    overrides: ``key=value`` for a YAML file, e.g. ``timeline.rate_hz=100``
    overwrite: make an output that another config wrote anew; it goes once the new one stands
    prune:     withdraw the episodes whose recordings the input no longer has
    progress:  called after each committed shard

    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OutputError``, ``WorkersError``: nothing is lost,
    run again.
    """
    began = time.monotonic()
    job = to_job(config, overrides)
    yaml = resolved_yaml(job)
    with _workers(job) as workers:  # first: what they lack is said before anything is read
        store = Store(job.output.uri, job.output.storage_options)
        before = OutputWriter(store, anew=overwrite)
        refuse_config(job, yaml, before)  # sooner than a long listing
        listed = listing(job, before, workers.expect)
        refuse_columns(job, listed.types)
        processor = Processor(job, listed.types)
        if overwrite:  # what is there goes only for a config that makes something
            _try(processor, listed.episodes)
        with OutputWriter.begin(store, anew=overwrite) as output:
            if output.number != before.number:
                raise OutputError(f"{store.uri}: another run has changed it while this one listed its input; run again")
            work = lay_out_work(job, listed, output)
            refuse_vanished(job, work.changes, prune=prune)
            output.start(work.plan, yaml, job.output.format, todo=bool(work.todo))
            counting, todo, spent = _Counting(output, work, progress), deque(work.todo), Spent()
            types, root, changes = listed.types.to_json(), listed.root, work.changes.counts()
            notes, passed_over = (*listed.notes, *work.notes), listed.passed_over
            del listed, work  # each shard's references go as it is done
            workers.execute(processor, store, todo, counting.commit, spent)
            _refuse_emptiness(output)
            version = output.stand(yaml, types=types, root=root, changes=changes)
            output.publish(version, job.output.keep_versions)
            notes = (*notes, *finalise(job, output, version))
            summary = _summary(output, version, job, counting, spent, changes, notes, passed_over, began)
            output.write(REPORT, tables.report(summary, job.identity()))
            if job.output.report:
                _write_page(output, version)
    _refuse_one_fault(summary)
    return summary


def _write_page(output: OutputWriter, version: Version) -> None:
    """The dataset is whole without it: whatever it stumbles over is told, and the run has done what it should."""
    from robocache.engine.report import make

    try:
        page = make(Output(output.store, version))
    except Exception as error:
        logger.warning("%s was not made: %s: %s", PAGE, type(error).__name__, error, exc_info=logger.isEnabledFor(10))
    else:
        output.write(PAGE, page.encode())


#: Episodes that are tried before an older output is replaced.
_TRIED = 3


def _try(processor: Processor, refs: Sequence[EpisodeRef]) -> None:
    """``ConfigError`` where the first episodes cannot be used, all of them: the config is more likely at fault."""
    reasons = []
    with Bounded(processor.job) as bounded:
        read = bounded_reading(processor.reading, bounded)
        for ref in [ref for ref in refs if not ref.failure][:_TRIED]:
            try:
                processor.aligner.preparer.prepare(read(ref))
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


def _refuse_emptiness(output: OutputWriter) -> None:
    """``OutputError`` where no episode can be used any more, rather than let that stand for what had rows."""
    standing = output.standing
    if standing is not None and standing.version.rows and not any(c.rows for c in output.committed.values()):
        q = next(q for r in output.records() for q in r.quarantined)
        raise OutputError(
            f"{output.store.uri}: none of the episodes can be used; version {standing.version.number} stays as it is. "
            f"The first, {q.id}: {q.reason}"
        )


def _bare(q: QuarantineRecord) -> str:
    """A reason without what differs from episode to episode: names and numbers."""
    text = q.reason
    for name in sorted({*q.files, q.id, *(f.rpartition("/")[2] for f in q.files)}, key=len, reverse=True):
        text = text.replace(name, "")
    return re.sub(r"[0-9][0-9.,:+-]*", "", text)


def _workers(job: Job) -> AbstractContextManager[Workers]:
    return {"local": local.workers, "ray": ray_cluster.workers}[job.cluster.mode](job)


def _summary(
    output: OutputWriter,
    version: Version,
    job: Job,
    counting: _Counting,
    spent: Spent,
    changes: Mapping[str, int],
    notes: Sequence[str],
    passed_over: Sequence[PassedOver],
    began: float,
) -> Summary:
    made = Output(output.store, version)
    quarantined = tuple(q for r in made.records() for q in r.quarantined)
    found = gather((e.id, e.quality) for r in made.records() for e in r.episodes)
    return Summary(
        uri=output.store.uri,
        episodes=version.episodes,
        rows=version.rows,
        parts=version.parts,
        bytes_in=counting.of_bytes,
        bytes_out=version.size,
        shards=counting.shards,
        skipped_shards=counting.skipped,
        seconds=time.monotonic() - began,
        quarantined=quarantined,
        within_limit=len(quarantined) <= job.max_failed_episodes,
        kept=found.kept,
        findings=tuple(found.lines()),
        notes=tuple(notes),
        passed_over=tuple(passed_over[: tables.PASSED_OVER]),
        version=version.number,
        is_new=version.number == output.number,
        changes=dict(changes),
        workers=spent.workers,
        stages={stage: round(spent.seconds[stage], 3) for stage in STAGES if stage in spent.seconds},
        peak_bytes=spent.peak,
    )


class _Counting:
    """Commits, and tells the display of it."""

    def __init__(self, output: OutputWriter, work: Work, progress: Callable[[Progress], None]):
        self.output, self.progress = output, progress
        self.of_episodes = sum(len(shard.refs) for shard in work.shards)
        self.sizes = {shard.index: sum(ref.nbytes for ref in shard.refs) for shard in work.shards}
        self.of_bytes = sum(self.sizes.values())
        self.shards, self.skipped = len(work.shards), len(work.done)
        kept = [output.committed[i] for i in work.done]
        self.episodes = sum(c.episodes + c.quarantined for c in kept)
        self.rows = sum(c.rows for c in kept)
        self.bytes_in = sum(self.sizes[i] for i in work.done)
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
