"""``robocache plan``: what a run would do, said before anything is written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.filesize import decimal

from robocache.cli import terminal
from robocache.cli.run import add_config, add_permissions, config_of

if TYPE_CHECKING:
    from robocache.config.job import Job
    from robocache.engine.source_types import SourceTypes
    from robocache.types import EpisodeRef


_DEVICES = {"auto": "cuda where the run finds one, else cpu", "cpu": "cpu", "cuda": "cuda"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One episode that was read, and what it foretells by input bytes.

    episode, rows: its id and how many rows it makes
    all_rows:      of the whole input
    bytes:         of these rows before compression
    memory:        bytes of the shards in flight
    columns:       name and Arrow type of each feature
    """

    episode: str
    rows: int
    all_rows: int
    bytes: int
    memory: int
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do.

    failed:   episodes that cannot even be listed
    device:   compute.device
    version:  the newest that is there; 0: none
    new, changed, withdrawn: ids of episodes, by what has become of them since then; kept: how many are as they were
    vanished: those withdrawn that a run does not let go without --prune
    settings: keys of the config that differ from the version's, a line each
    another:  whether it is another config for its parts, so that a run needs --overwrite
    todo:     shards to be done, and of how many bytes of input
    sample:   None where no episode can be used
    unusable: the first episode that cannot, and why
    notes:    what a person must know of the input: files passed over, recordings unlike most, splits that miss some
    """

    episodes: int
    failed: int
    bytes_in: int
    shards: int
    shard_mb: int
    output: str
    device: str
    threads: int
    max_memory_mb: int
    version: int
    new: tuple[str, ...]
    changed: tuple[str, ...]
    withdrawn: tuple[str, ...]
    vanished: tuple[str, ...]
    kept: int
    settings: tuple[str, ...]
    another: bool
    todo: int
    todo_bytes: int
    sample: Sample | None
    unusable: str
    notes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_permissions(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> bool:
    from robocache.config.load import load_job

    found = preview(load_job(*config_of(args)), overwrite=args.overwrite)
    if args.json:
        terminal.document(found)
    else:
        terminal.say(*render(found, overwrite=args.overwrite, prune=args.prune))
    return True


def preview(job: Job, *, overwrite: bool = False) -> Preview:
    """List the input, compare it with what the output has, read one episode of it and make its timeline, and
    extrapolate by input bytes. Writes nothing, and needs neither torch nor the device.

    overwrite: what is there does not count. ``OutputError`` where it cannot be read.
    """
    from robocache.config.resolved import resolved_yaml
    from robocache.engine.cores import threads_of
    from robocache.engine.listing import listing
    from robocache.engine.work import lay_out_work
    from robocache.output.commit import OutputWriter
    from robocache.output.store import Store

    store = Store(job.output.uri, job.output.storage_options)
    output = OutputWriter(store, anew=overwrite)
    another = output.standing is not None and output.standing.identity != job.identity()
    if another:  # what a run with --overwrite, the only one that is not refused, would do
        output = OutputWriter(store, anew=True)
    threads = threads_of(job.compute.threads)
    listed = listing(job, output)
    refs = listed.episodes
    work = lay_out_work(job, listed, output)
    good = [ref for ref in refs if not ref.failure]
    largest = max(sum(r.nbytes for r in s.refs) for s in work.shards)
    sample, unusable = _sample(job, listed.types, good, largest, min(threads, len(work.shards)))
    changes = work.changes
    return Preview(
        episodes=len(refs),
        failed=len(refs) - len(good),
        bytes_in=sum(ref.nbytes for ref in refs),
        shards=len(work.shards),
        shard_mb=job.output.shard_mb,
        output=job.output.uri,
        device=job.compute.device,
        threads=threads,
        max_memory_mb=job.compute.max_memory_mb,
        version=output.versions.newest,
        new=changes.new,
        changed=changes.changed,
        withdrawn=changes.withdrawn,
        vanished=changes.vanished if len(changes.vanished) > job.max_vanished else (),
        kept=changes.kept,
        settings=output.settings(resolved_yaml(job)),
        another=another,
        todo=len(work.todo),
        todo_bytes=sum(ref.nbytes for shard in work.todo for ref in shard.refs),
        sample=sample,
        unusable=unusable,
        notes=(*listed.notes, *work.notes),
    )


def _sample(
    job: Job, types: SourceTypes, refs: Sequence[EpisodeRef], largest: int, threads: int
) -> tuple[Sample | None, str]:
    """What the first episode that can be used foretells; and the first that cannot, and why. ``largest``: bytes of a
    shard; threads: so many shards are in flight.
    """
    from robocache.engine.prepare import Preparer
    from robocache.engine.reading import Reading
    from robocache.errors import InputError

    preparer, read = Preparer(job, types), Reading.of(job, types)
    unusable = ""
    for ref in refs:
        try:
            prepared = preparer.prepare(read(ref))
        except InputError as error:
            unusable = unusable or f"{ref.id}: {error}"
            continue
        rows = len(prepared.timeline.times)
        size = rows * preparer.row_bytes(prepared.requests)
        scale = sum(r.nbytes for r in refs) / max(ref.nbytes, 1)
        # A shard in flight holds its decoded input (about three times the file; what is beyond the limit waits on the
        # disk) and its table twice (rows, then file).
        decoded, table = min(3 * largest, job.compute.max_memory_mb * 2**20), largest * size / max(ref.nbytes, 1)
        flight = threads * (decoded + 2 * table)
        columns = tuple((feature.name, str(feature.arrow)) for feature in preparer.features)
        return Sample(ref.id, rows, round(rows * scale), int(size * scale), int(flight), columns), unusable
    return None, unusable


_NAMED = 5


def render(p: Preview, *, overwrite: bool = False, prune: bool = False) -> list[str]:
    """The plan as lines for a person."""
    from robocache.formats.base import shown
    from robocache.output.plan import told

    lines = [
        *(f"note     {note}" for note in p.notes),
        f"input    {p.episodes} episodes, {decimal(p.bytes_in)}; {p.failed} cannot be listed",
    ]
    if p.version:
        ids = {"new": p.new, "changed": p.changed, "withdrawn": p.withdrawn}
        counts = {what: len(some) for what, some in ids.items()} | {"kept": p.kept}
        lines.append(f"changes  since version {p.version}: {told(counts)}")
        for what, some in ids.items():
            if some:
                lines.append(f"         {what}: {shown(some, _NAMED)}")
        lines += [f"config   {line}" for line in p.settings]
        if p.another:
            lines.append("config   makes other rows: every part is made anew" + ("" if overwrite else _NEEDS_OVERWRITE))
        if p.vanished and not prune:
            lines.append(
                f"refused  {len(p.vanished)} episodes are gone from the input; a run needs --prune to let them go"
            )
    lines += [
        f"parts    of {p.todo} of {p.shards} shards of about {p.shard_mb} MB to be written, from "
        f"{decimal(p.todo_bytes)} of input, to {p.output}",
        f"device   {_DEVICES[p.device]}",
    ]
    if p.sample is None:
        return [*lines, f"unusable {p.unusable}"] if p.unusable else lines
    s = p.sample
    return [
        *lines,
        f"rows     about {s.all_rows:,} ({s.rows:,} of {s.episode}, scaled by input bytes)",
        f"bytes    about {decimal(s.bytes)} before compression",
        f"memory   about {decimal(s.memory)} with {p.threads} threads, alignment bounded by {p.max_memory_mb} MB each",
        "columns  " + ", ".join(f"{name} {type}" for name, type in s.columns),
    ]


_NEEDS_OVERWRITE = "; a run needs --overwrite for that"
