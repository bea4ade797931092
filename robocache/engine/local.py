"""The local mode: shards in a few threads of this process, each read, aligned, encoded and written on its own.

While one thread reads, another aligns and a third writes: decompression, kernels, encoding and disk all work outside
Python's lock. Nothing but time depends on the number of threads.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias

import torch

from robocache.config.job import Job
from robocache.engine.cores import usable_cores
from robocache.engine.process import Processor, pick_device, run_shard
from robocache.engine.retry import with_retries
from robocache.engine.shards import Shard
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store

#: What the main thread waits for: a shard that has ended, or a signal's handler to call.
Event: TypeAlias = "Future[ShardRecord] | Callable[[], Any]"


@contextmanager
def workers(job: Job) -> Iterator[Callable[..., None]]:
    """Threads. ``ConfigError`` where the device or a required extension is missing."""
    device = pick_device(job)
    yield lambda processor, *rest: execute(replace(processor, device=device), *rest)


def execute(
    processor: Processor, store: Store, todo: deque[Shard], commit: Callable[[Sequence[ShardRecord]], None]
) -> None:
    """See :data:`robocache.engine.run.Execute`."""
    cluster, threads = processor.job.cluster, processor.job.compute.threads or usable_cores()

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
        events: SimpleQueue[Event] = SimpleQueue()
        try:
            with _signals_as(events):
                while todo or running:
                    while todo and len(running) <= threads:
                        running.add(future := pool.submit(work, todo.popleft()))
                        future.add_done_callback(events.put)
                    happened = [events.get()]
                    while not events.empty():
                        happened.append(events.get())
                    finished = running.intersection(happened)
                    running -= finished
                    _commit(finished, commit)
                    for event in happened:
                        if not isinstance(event, Future):
                            event()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # what is in flight may still be committed
            if late := [f.result() for f in running if not f.cancelled() and f.exception() is None]:
                commit(late)
            raise
        finally:
            torch.set_num_threads(torch_threads)


@contextmanager
def _signals_as(events: SimpleQueue[Event]) -> Iterator[None]:
    """Have the handlers of SIGINT and SIGTERM called by who reads ``events``, between two commits. Raised at any place,
    a KeyboardInterrupt may leave a lock held that a worker waits for, for ever. A second signal is not put off.
    """
    before: dict[int, Any] = {}

    def put_off(signum: int, frame: object) -> None:
        restore()
        events.put(partial(before[signum], signum, None))

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for signum in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(signum)):
                before[signum] = handler
                signal.signal(signum, put_off)
    try:
        yield
    finally:
        restore()


def _commit(finished: set[Future[ShardRecord]], commit: Callable[[Sequence[ShardRecord]], None]) -> None:
    """What went well is recorded before what went wrong is raised."""
    failed = next((error for f in finished if (error := f.exception()) is not None), None)
    if records := [f.result() for f in finished if f.exception() is None]:
        commit(records)
    if failed is not None:
        raise failed
