"""The local mode: shards in a few threads of this process, each read, aligned, encoded and written on its own.

While one thread reads, another aligns and a third writes: decompression, kernels, encoding and disk all work outside
Python's lock. Nothing but time depends on the number of threads. Which shard is tried again, and which is probed
because an earlier run died at it, is :mod:`robocache.engine.attempts`' to say, as in the ray mode.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace

import torch

from robocache.config.job import Job
from robocache.engine.attempts import Attempts, Task
from robocache.engine.cores import usable_cores
from robocache.engine.journal import Journal
from robocache.engine.probe import deadly_episodes
from robocache.engine.process import Processor, pick_device, run_shard
from robocache.engine.shards import Shard
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store

logger = logging.getLogger("robocache")


@contextmanager
def workers(job: Job) -> Iterator[Callable[..., None]]:
    """Threads. ``ConfigError`` where the device or a required extension is missing."""
    device = pick_device(job)
    yield lambda processor, *rest: execute(replace(processor, device=device), *rest)


def execute(
    processor: Processor, store: Store, todo: deque[Shard], commit: Callable[[Sequence[ShardRecord]], None]
) -> None:
    """See :data:`robocache.engine.run.Execute`."""
    most = processor.job.cluster.max_attempts
    journal = Journal(store, most)
    attempts = Attempts(todo, most, journal.suspects)
    with journal.keeping():
        _Threads(processor, store, attempts, journal, commit).work()


class _Threads:
    def __init__(
        self,
        processor: Processor,
        store: Store,
        attempts: Attempts,
        journal: Journal,
        commit: Callable[[Sequence[ShardRecord]], None],
    ):
        self.processor, self.store, self.commit = processor, store, commit
        self.attempts, self.journal = attempts, journal
        self.running: dict[Future[ShardRecord | dict[int, str]], Task] = {}

    def work(self) -> None:
        """Until every task has ended."""
        threads = self.processor.job.compute.threads or usable_cores()
        # The shards are the parallelism: more threads inside of each would only wait for one another.
        torch_threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, "shard", torch.set_num_threads, (1,)) as pool:
            try:
                while len(self.attempts) or self.running:
                    while len(self.running) <= threads and (task := self.attempts.next()) is not None:
                        self.running[pool.submit(self._do, task)] = task
                    if self.running:
                        self._take(wait(self.running, self.attempts.wait_s(), FIRST_COMPLETED).done)
                    else:
                        time.sleep(self.attempts.wait_s() or 0.0)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)  # what is in flight may still be committed
                late = [f.result() for f in self.running if not f.cancelled() and f.exception() is None]
                if records := [result for result in late if isinstance(result, ShardRecord)]:
                    self.commit(records)
                raise
            finally:
                torch.set_num_threads(torch_threads)

    def _do(self, task: Task) -> ShardRecord | dict[int, str]:
        """In a thread: the shard's record, or of a suspect who is to blame."""
        if task.suspect:
            return deadly_episodes(self.processor, task.shard, task.blamed, self.attempts.max_attempts)
        self.journal.begins(task.shard)
        last = self.attempts.last(task)
        try:
            return run_shard(self.processor, self.store, task.shard, last_attempt=last, blamed=task.blamed)
        finally:
            if not task.blamed:  # else the next run, which tries it again, is to probe it first
                self.journal.ends(task.shard)

    def _take(self, finished: set[Future[ShardRecord | dict[int, str]]]) -> None:
        """What went well is recorded before what went wrong is raised."""
        records: list[ShardRecord] = []
        failure: BaseException | None = None
        for future in finished:
            task, error = self.running.pop(future), future.exception()
            what = str(task)
            if error is not None:
                if self.attempts.failed(task, error):
                    logger.warning("%s of %d: %s; trying again", what, self.attempts.max_attempts, error)
                else:
                    failure = failure or error
                continue
            result = future.result()
            if isinstance(result, ShardRecord):
                records.append(result)
            else:
                self.attempts.probed(task, result)
        if records:
            self.commit(records)
        if failure is not None:
            raise failure
