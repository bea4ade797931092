"""What a run has to do: its listing laid out on what the output has, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

from robocache.config.job import Job
from robocache.engine.listing import Listed
from robocache.engine.shards import Shard, lay_out, stamp
from robocache.errors import OutputError
from robocache.formats.base import shown
from robocache.output.commit import OutputWriter
from robocache.output.layout import config_file
from robocache.output.plan import Changes, Plan

_NAMED = 10


@dataclass(frozen=True)
class Work:
    """plan: of the version to come; done: shards of it that are there; changes: of the input since the one before;
    notes: what a person must know of it
    """

    plan: Plan
    shards: list[Shard]
    done: frozenset[int]
    changes: Changes
    notes: tuple[str, ...]

    @property
    def todo(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.index not in self.done]


def lay_out_work(job: Job, listed: Listed, output: OutputWriter) -> Work:
    """See :func:`robocache.engine.shards.lay_out`. ``OutputError`` where what is there cannot be read."""
    # A file that is gone although its name is listed, as a link to a disk that is not mounted, is not there.
    refs = [ref for ref in listed.episodes if not any(f.size < 0 and not f.version for f in ref.files)]
    changes = output.changes([(ref.id, stamp(ref)) for ref in refs])
    identity = job.identity()
    plan, shards = lay_out(
        listed.episodes,
        job.output.shard_mb,
        identity=identity,
        known=output.known(),
        begun=output.begun(identity),
        anew=output.anew,
        splits={ref.id: job.splits.of(ref.id) for ref in listed.episodes},
    )
    done = output.done(identity, {shard.index: shard.fingerprint() for shard in shards})
    return Work(plan, shards, frozenset(done), changes, _split_notes(job, plan))


def _split_notes(job: Job, plan: Plan) -> tuple[str, ...]:
    """Where splits are lists: ids that no episode has or had, and episodes that are in none."""
    wanted = job.splits.ids
    if not wanted:
        return ()
    known = {e.id for e in plan.episodes}
    strangers = [id for id in wanted if id not in known]
    without = [e.id for e in plan.episodes if e.shard is not None and not e.split]
    notes = []
    if strangers:
        notes.append(f"splits: {len(strangers)} of {len(wanted)} ids are no episode's: {shown(strangers, _NAMED)}")
    if without:
        notes.append(f"splits: {len(without)} episodes are in none: {shown(without, _NAMED)}")
    return tuple(notes)


def refuse_config(job: Job, config: str, output: OutputWriter) -> None:
    """``OutputError`` where the output was made with another config; ``config``: this one, resolved."""
    if output.standing is None or output.anew or output.standing.identity == job.identity():
        return
    told = output.settings(config)
    differ = f": {', '.join(told[:5])}{' and more' if len(told) > 5 else ''}" if told else ""
    where = f"{output.store.uri}/{config_file(output.standing.version.number)}"
    raise OutputError(
        f"{output.store.uri} belongs to another config (see {where}){differ}; choose another output.uri, or make it "
        "anew with --overwrite"
    )


def refuse_vanished(job: Job, changes: Changes, *, prune: bool) -> None:
    """``OutputError`` where recordings are gone, and nobody has said that they are meant to be."""
    gone = changes.vanished
    if prune or len(gone) <= job.max_vanished:
        return
    raise OutputError(
        f"{job.output.uri}: {len(gone)} episodes that it holds are gone from the input: {shown(gone, _NAMED)}; "
        "nothing was changed. Is everything mounted? If they are meant to go, say --prune, or "
        f"input.max_vanished: {len(gone)}"
    )
