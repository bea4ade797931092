"""``robocache plan``: what a run would do, said before anything is written."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.filesize import decimal

from robocache.cli import terminal
from robocache.cli.run import add_config, config_of

if TYPE_CHECKING:
    from robocache.config.job import Job
    from robocache.engine.prepare import Prepared, Preparer


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
    done:     shards that an earlier run has committed and that match; None where there is no output yet
    sample:   None where no episode can be used
    unusable: the first episode that cannot, and why
    notes:    what a person must know of the input: files passed over, recordings unlike most
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
    done: int | None
    sample: Sample | None
    unusable: str
    notes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> bool:
    from robocache.config.load import load_job

    found = preview(load_job(*config_of(args)))
    if args.json:
        terminal.document(found)
    else:
        terminal.say(*render(found))
    return True


def preview(job: Job) -> Preview:
    """List the input, read one episode of it and make its timeline, and extrapolate by input bytes. Writes nothing,
    and needs neither torch nor the device.
    """
    from robocache.engine.cores import usable_cores
    from robocache.engine.listing import listing
    from robocache.engine.prepare import Preparer
    from robocache.engine.shards import plan_shards
    from robocache.errors import InputError
    from robocache.formats import read_episode
    from robocache.output.commit import OutputWriter
    from robocache.output.layout import IDENTITY
    from robocache.output.store import Store

    threads = job.compute.threads or usable_cores()
    listed = listing(job)
    refs, types = listed.episodes, listed.types
    shards = plan_shards(refs, job.output.shard_mb)
    good = [ref for ref in refs if not ref.failure]
    store = Store(job.output.uri, job.output.storage_options)
    done = None
    if store.exists(IDENTITY):
        done = len(OutputWriter(store, job.identity()).done(shard.planned(job.output.format) for shard in shards))
    preparer = Preparer(job, types)
    sample, unusable = None, ""
    for ref in good:
        try:
            prepared = preparer.prepare(read_episode(ref, types.wanted(job.sources), job.input))
        except InputError as error:
            unusable = unusable or f"{ref.id}: {error}"
            continue
        rows = len(prepared.timeline.times)
        size = rows * _row_bytes(preparer, prepared)
        scale = sum(r.nbytes for r in good) / max(ref.nbytes, 1)
        largest = max(sum(r.nbytes for r in shard.refs) for shard in shards)
        # A shard in flight holds its decoded input (about three times the file) and its table twice (rows, then file).
        flight = threads * largest * (3 + 2 * size / max(ref.nbytes, 1))
        columns = tuple((feature.name, str(feature.arrow)) for feature in preparer.features)
        sample = Sample(ref.id, rows, round(rows * scale), int(size * scale), int(flight), columns)
        break
    return Preview(
        episodes=len(refs),
        failed=len(refs) - len(good),
        bytes_in=sum(ref.nbytes for ref in refs),
        shards=len(shards),
        shard_mb=job.output.shard_mb,
        output=job.output.uri,
        device=job.compute.device,
        threads=threads,
        max_memory_mb=job.compute.max_memory_mb,
        done=done,
        sample=sample,
        unusable=unusable,
        notes=listed.notes,
    )


def _row_bytes(preparer: Preparer, prepared: Prepared) -> float:
    """Of a row of the output: the width of its numbers, and of the rest what a sample of it takes."""
    total = 0.0
    samples = {r.feature.name: r.cleaned.stream.values for r in prepared.requests if r.cleaned}
    for field in preparer.schema:
        kind, count = field.type, 1
        while pa.types.is_fixed_size_list(kind):
            kind, count = kind.value_type, count * kind.list_size
        try:
            total += count * kind.bit_width / 8
        except ValueError:  # text, payloads
            values = samples.get(field.name, ())
            total += values.nbytes / len(values) if len(values) else 0
    return total


def render(p: Preview) -> list[str]:
    """The plan as lines for a person."""
    lines = [
        *(f"note     {note}" for note in p.notes),
        f"input    {p.episodes} episodes, {decimal(p.bytes_in)}; {p.failed} cannot be listed",
        f"shards   {p.shards} of about {p.shard_mb} MB, one part each, to {p.output}",
        f"device   {_DEVICES[p.device]}",
    ]
    if p.done is not None:
        lines.append(f"resume   {p.done} of {p.shards} shards are there and match")
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
