"""Run a job on this machine: shards in a few threads, each read, aligned and committed on its own.

While one thread reads, another aligns and a third writes: decompression, kernels, encoding and disk all work outside
Python's lock. Nothing but time depends on the number of threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import torch

from robocache.engine import summary
from robocache.engine.job import Job
from robocache.engine.output import Output
from robocache.engine.plan import Shard, plan_shards
from robocache.engine.process import Processor
from robocache.engine.records import ShardRecord
from robocache.engine.retry import with_retries
from robocache.engine.types import resolve
from robocache.errors import ConfigError
from robocache.formats import list_episodes
from robocache.ops import _library


@dataclass(frozen=True)
class Progress:
    """What a display may be told; every field is a total of this run, skipped shards included from the start."""

    episodes: int
    rows: int
    bytes_in: int
    quarantined: int
    of_episodes: int
    of_bytes: int


def pick_device(job: Job) -> str:
    """The torch device of ``compute.device``. ``ConfigError`` where it or a required extension is missing."""
    device = job.compute.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and _library.supports(torch.device("cuda")) else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["compute.device: cuda, but torch sees no CUDA device; use auto or cpu"])
    if job.compute.require_extension and not _library.supports(torch.device(device)):
        why = _library.reason() or "it was built without CUDA"
        raise ConfigError([f"compute.require_extension: true, but there are no compiled kernels for {device}: {why}"])
    return device


def run(
    job: Job,
    config_text: str,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> summary.Summary:
    """Do the job; what an earlier run committed and still matches is kept. Returns what a person wants to know.

    config_text: the resolved config, stored in the output
    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OutputError``: nothing is lost, run again.
    """
    began = time.monotonic()
    device = pick_device(job)
    refs = with_retries(job.cluster.max_attempts, "listing", lambda: list_episodes(job.input))
    shards = plan_shards(refs, job.output.shard_mb)
    with Output.begin(job, config_text, overwrite=overwrite) as output:
        types = output.types()
        if types is None:
            types = resolve(job, refs)
            output.set_types(types)
        output.set_plan(shards)
        todo = [shard for shard in shards if not output.done(shard)]
        sizes = {shard.index: sum(ref.nbytes for ref in shard.refs) for shard in shards}
        done = Progress(0, 0, 0, 0, len(refs), sum(sizes.values()))

        def committed(*records: ShardRecord) -> None:
            nonlocal done
            for r in records:
                episodes = done.episodes + len(r.episodes) + len(r.quarantined)
                quarantined = done.quarantined + len(r.quarantined)
                bytes_in = done.bytes_in + sizes[r.shard]
                done = replace(
                    done, episodes=episodes, rows=done.rows + r.rows, bytes_in=bytes_in, quarantined=quarantined
                )
            progress(done)

        open_shards = {shard.index for shard in todo}
        committed(*(r for i, r in output.records.items() if i not in open_shards))
        _run_shards(Processor(job, types, device), todo, output, committed)
        output.compact()
        return summary.finish(job, output, refs, len(shards) - len(todo), time.monotonic() - began)


def _run_shards(
    processor: Processor, todo: list[Shard], output: Output, committed: Callable[[ShardRecord], None]
) -> None:
    threads = processor.job.compute.threads or os.cpu_count() or 1
    writing = threading.Lock()  # commits are one after the other; encoding and alignment are not

    def work(shard: Shard) -> ShardRecord:
        # The last attempt quarantines the episodes whose faults did not pass.
        result = with_retries(
            processor.job.cluster.max_attempts,
            f"shard {shard.index}",
            lambda: processor.process(shard, last_attempt=False),
            last=lambda: processor.process(shard),
        )
        with writing:
            output.commit(result)
        return result.record

    # The shards are the parallelism: more threads inside of each would only wait for one another.
    torch_threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "shard", torch.set_num_threads, (1,)) as pool:
        waiting = iter(todo)
        running: set[Future[ShardRecord]] = set()
        try:
            while True:
                for shard in waiting:
                    running.add(pool.submit(work, shard))
                    if len(running) > threads:
                        break
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    committed(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # what is in flight may still commit
            raise
        finally:
            torch.set_num_threads(torch_threads)
