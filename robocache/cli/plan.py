"""What a run would do, said before anything is written: shards, rows, bytes, memory."""

from __future__ import annotations

import os

from rich.filesize import decimal

from robocache.config.job import Job
from robocache.engine.process import Processor, pick_device
from robocache.engine.shards import plan_shards
from robocache.engine.source_types import resolve
from robocache.errors import InputError
from robocache.formats import list_episodes, read_episode
from robocache.output.commit import IDENTITY, Output
from robocache.output.store import Store


def preview(job: Job) -> str:
    """List the input, read and align one episode of it, and extrapolate by input bytes. Writes nothing."""
    device = pick_device(job)
    refs = list_episodes(job.input)
    shards = plan_shards(refs, job.output.shard_mb)
    good = [ref for ref in refs if not ref.failure]
    bytes_in = sum(ref.nbytes for ref in refs)
    lines = [
        f"input    {len(refs)} episodes, {decimal(bytes_in)}; {len(refs) - len(good)} cannot be listed",
        f"shards   {len(shards)} of about {job.output.shard_mb} MB, one part each, to {job.output.uri}",
        f"device   {device}",
    ]
    store = Store(job.output.uri, job.output.storage_options)
    if store.exists(IDENTITY):
        output = Output(job, store)
        done = len(output.done(shards))
        lines.append(f"resume   {done} of {len(shards)} shards are there and match")
    processor = Processor(job, resolve(job, refs), device)
    unusable = ""
    for ref in good:
        try:
            aligned = processor.align(0, read_episode(ref, job.sources, job.input))
        except InputError as error:
            unusable = unusable or f"unusable {ref.id}: {error}"
            continue
        scale = sum(r.nbytes for r in good) / max(ref.nbytes, 1)
        rows, size = aligned.table.num_rows, aligned.table.nbytes
        largest = max(sum(r.nbytes for r in shard.refs) for shard in shards)
        threads = job.compute.threads or os.cpu_count() or 1
        # A shard in flight holds its decoded input (about three times the file) and its table twice (rows, then file).
        flight = threads * largest * (3 + 2 * size / max(ref.nbytes, 1))
        lines += [
            f"rows     about {rows * scale:,.0f} ({rows:,} of {ref.id}, scaled by input bytes)",
            f"bytes    about {decimal(int(size * scale))} before compression",
            f"memory   about {decimal(int(flight))} with {threads} threads, "
            f"alignment bounded by {job.compute.max_memory_mb} MB each",
            "columns  " + ", ".join(f"{f.name} {f.arrow}" for f in processor.features),
        ]
        break
    else:
        lines += [unusable] if unusable else []
    return "\n".join(lines)
