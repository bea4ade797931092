"""The local mode: shards in a few threads of this process, each read, aligned, encoded and written on its own.

While one thread reads, another aligns and a third writes: decompression, kernels, encoding and disk all work outside
Python's lock. Nothing but time depends on the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from robocache.config.job import Job
from robocache.engine.process import Processor, pick_device, run_shard
from robocache.engine.retry import with_retries
from robocache.engine.shards import Shard
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store


@contextmanager
def workers(job: Job) -> Iterator[Callable[..., None]]:
    """Threads. ``ConfigError`` where the device or a required extension is missing."""
    device = pick_device(job)
    yield lambda processor, *rest: execute(replace(processor, device=device), *rest)


def execute(
    processor: Processor, store: Store, todo: deque[Shard], commit: Callable[[Sequence[ShardRecord]], None]
) -> None:
    """See :data:`robocache.engine.run.Execute`."""
    cluster, threads = processor.job.cluster, processor.job.compute.threads or os.cpu_count() or 1

    def work(shard: Shard) -> ShardRecord:
        # The last attempt quarantines the episodes whose faults did not pass.
        attempt = partial(run_shard, processor, store, shard)
        return with_retries(
            cluster.max_attempts,
            f"shard {shard.index}",
            lambda: attempt(last_attempt=False),
            last=lambda: attempt(last_attempt=True),
        )

    # The shards are the parallelism: more threads inside of each would only wait for one another.
    torch_threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "shard", torch.set_num_threads, (1,)) as pool:
        running: set[Future[ShardRecord]] = set()
        try:
            while todo or running:
                while todo and len(running) <= threads:
                    running.add(pool.submit(work, todo.popleft()))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                _commit(finished, commit)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # what is in flight may still be committed
            if late := [f.result() for f in running if not f.cancelled() and f.exception() is None]:
                commit(late)
            raise
        finally:
            torch.set_num_threads(torch_threads)


def _commit(finished: set[Future[ShardRecord]], commit: Callable[[Sequence[ShardRecord]], None]) -> None:
    """What went well is recorded before what went wrong is raised."""
    failed = next((error for f in finished if (error := f.exception()) is not None), None)
    if records := [f.result() for f in finished if f.exception() is None]:
        commit(records)
    if failed is not None:
        raise failed
