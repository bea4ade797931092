"""The local mode: shards in a few threads, each read, aligned, encoded and written on its own.

While one thread reads, another aligns and a third writes: decompression, kernels, encoding and disk all work outside
Python's lock. What is left within it, some hundredths of a second an episode, is what many threads wait for. So in a
run that is long enough each thread gets a process of its own, which does the work while the thread waits for it
(:mod:`robocache.engine.crew`). Nothing but time depends on the number of either. Which shard is tried again, and
which is probed because an earlier run died at it, is :mod:`robocache.engine.attempts`' to say, as in the ray mode.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread, current_thread
from typing import Any, NamedTuple

import torch

from robocache.config.job import Job
from robocache.engine.ahead import Ahead, most_ahead, readers
from robocache.engine.attempts import Attempts, Task
from robocache.engine.bounded import Bounded
from robocache.engine.child import Child, EndedError
from robocache.engine.cores import threads_of
from robocache.engine.crew import Crew
from robocache.engine.deadline import Deadline
from robocache.engine.journal import Journal
from robocache.engine.probe import deadly_episodes
from robocache.engine.process import Processor, pick_device, run_shard
from robocache.engine.reading import bounded_reading
from robocache.engine.shards import Shard
from robocache.engine.workers import Workers
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.stages import Spent, peak_bytes

logger = logging.getLogger("robocache")

#: Cores that a card is worth; more do without it what they do with it.
CORES_A_CARD = 4
#: How often shards are looked at that may take too long.
LOOK_S = 1.0
#: How long a run that is stopped waits for what its threads are at. A read may never return.
STOP_S = 8.0


@contextmanager
def workers(job: Job) -> Iterator[Workers]:
    """Threads, or processes. ``ConfigError`` where the device or a required extension is missing."""
    device = pick_device(job)
    if job.compute.device == "auto" and device != "cpu" and not card_pays(job):
        logger.info("compute.device: auto takes the CPU: its cores read and align faster than one card can be fed")
        device = "cpu"
    crew = Crew(job, device)
    try:
        yield Workers(partial(_with, device, crew), crew.expect)
    finally:
        crew.close()


def card_pays(job: Job) -> bool:
    """Whether a card makes a run in this process faster: where a step computes on it, or few cores do the rest.

    On 16 cores beside an H100 the demo's logs (7.9 GB) took 8.8 s with processes on the cores and 13.5 s with the card;
    one worker alone 5.0 s a GB on the CPU and 3.6 s with it (docs/perf/raw/h100_offload.txt).
    """
    cores = threads_of(job.compute.threads)
    return cores <= CORES_A_CARD or any(step.key == "voxelize" for f in job.features for step in f.steps)


def _with(device: str, crew: Crew, processor: Processor, *rest: Any) -> None:
    execute(replace(processor, device=device), *rest, crew=crew)


def execute(
    processor: Processor,
    store: Store,
    todo: deque[Shard],
    commit: Callable[[Sequence[ShardRecord]], None],
    spent: Spent | None = None,
    *,
    crew: Crew | None = None,
) -> None:
    """See :data:`robocache.engine.workers.Execute`."""
    crew = crew or Crew(processor.job, processor.device)
    most = processor.job.cluster.max_attempts
    journal = Journal(store, most)
    attempts = Attempts(todo, most, journal.suspects)
    with journal.keeping():
        _Threads(processor, store, attempts, journal, commit, spent or Spent(), crew).work()


@dataclass(eq=False)
class _Given:
    """A task, and once it has begun the thread that is at it, and until when. ``left``: both are left behind."""

    task: Task
    thread: Thread | None = None
    child: Child | None = None  # that does it for the thread
    deadline: Deadline | None = None
    left: bool = False


class _Ended(NamedTuple):
    """What was given, and what came of it: the shard's record, of a suspect who is to blame, or what was raised."""

    given: _Given
    result: ShardRecord | dict[int, str] | None
    error: BaseException | None


class _Threads:
    """Threads that take tasks from one queue and put what came of them into another.

    Both are a ``SimpleQueue``, whose waiting holds no lock of Python's: Ctrl-C, which is raised in the main thread
    wherever it is, can leave none locked, on which a thread would wait for ever.
    """

    def __init__(
        self,
        processor: Processor,
        store: Store,
        attempts: Attempts,
        journal: Journal,
        commit: Callable[[Sequence[ShardRecord]], None],
        spent: Spent,
        crew: Crew,
    ):
        self.spent, self.helpers = spent, 1
        self.most_ahead = most_ahead(processor.job.compute.max_memory_mb)
        self.processor, self.store, self.commit = processor, store, commit
        self.attempts, self.journal = attempts, journal
        self.deadline = processor.job.cluster.shard_deadline
        self.bounded = Bounded(processor.job)
        self.read = bounded_reading(processor.reading, self.bounded)
        self.given: SimpleQueue[_Given | None] = SimpleQueue()
        self.ended: SimpleQueue[_Ended] = SimpleQueue()
        self.threads: list[Thread] = []
        self.crew = crew

    def work(self) -> None:
        """Until every task has ended. ``WorkersError`` where a shard never does, though each of its episodes does."""
        number = self.spent.workers = threads_of(self.processor.job.compute.threads)
        # Where there are fewer shards than threads, those that are over read for the others.
        self.helpers = number // max(1, len(self.attempts))
        # Else the shards are the parallelism: more threads inside of each would only wait for one another.
        torch_threads = torch.get_num_threads()
        self.crew.begin(self.processor, self.store, self.attempts.nbytes)
        for _ in range(number):
            self._start()
        running: set[_Given] = set()
        try:
            while len(self.attempts) or running:
                # One more than there are threads, so that none waits for this one.
                while len(running) <= number and (task := self.attempts.next()) is not None:
                    running.add(given := _Given(task))
                    self.given.put(given)
                wait_s = None if len(running) > number else self.attempts.wait_s()
                if self.deadline:
                    wait_s = min(LOOK_S, self.deadline / 20, *([] if wait_s is None else [wait_s]))
                finished = [ended for ended in self._finished(wait_s) if not ended.given.left]
                running.difference_update(ended.given for ended in finished)
                self._take(finished)
                for given in [given for given in running if given.deadline is not None and given.deadline.passed()]:
                    running.remove(given)
                    self._leave(given)
            self.attempts.refuse_hopeless()
        except BaseException:
            self._stop()
            self._record([ended for ended in self._finished(0.0) if not ended.given.left])
            raise
        else:
            self._stop()
        finally:
            self.crew.close()
            self.bounded.close()
            torch.set_num_threads(torch_threads)
            self.spent.peak = max(self.spent.peak, peak_bytes())

    def _start(self) -> None:
        self.threads.append(Thread(target=self._serve, name=f"shard_{len(self.threads)}", daemon=True))
        self.threads[-1].start()

    def _serve(self) -> None:
        """A thread: do what is given until there is no more."""
        torch.set_num_threads(1)
        while (given := self._next()) is not None:
            given.thread = current_thread()
            given.deadline = self.attempts.deadline(given.task, self.deadline)
            try:
                self.ended.put(_Ended(given, self._do(given), None))
            except BaseException as error:
                self.ended.put(_Ended(given, None, error))
            if given.left:
                return

    def _leave(self, given: _Given) -> None:
        """Go on without a thread that takes too long; what may yet come of it counts for nothing."""
        given.left = True
        if given.child is not None:
            given.child.close()
        self.threads = [thread for thread in self.threads if thread is not given.thread]
        self._start()
        self.attempts.crashed(given.task, late=True)

    def _next(self) -> _Given | None:
        with self.spent.time("wait"):
            return self.given.get()

    def _stop(self) -> None:
        """Take back what no thread has begun, and wait for what they are at, though not for ever."""
        with suppress(Empty):
            while True:
                self.given.get_nowait()
        for _ in self.threads:
            self.given.put(None)
        end = time.monotonic() + STOP_S
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _finished(self, timeout_s: float | None) -> list[_Ended]:
        """All that has ended, once something has; nothing where nothing does in that time."""
        found: list[_Ended] = []
        with suppress(Empty):
            found.append(self.ended.get(timeout=timeout_s))
            while True:
                found.append(self.ended.get_nowait())
        return found

    def _do(self, given: _Given) -> ShardRecord | dict[int, str]:
        """In a thread: the shard's record, or of a suspect who is to blame."""
        task = given.task
        if task.suspect:
            return deadly_episodes(self.processor, task.shard, task.blamed, self.attempts.max_attempts)
        if (child := self.crew.taken()) is not None:
            given.child = child
            last = self.attempts.last(task)
            worked = self.crew.run(child, task.shard, last_attempt=last, blamed=task.blamed, lean=task.lean)
            self.spent.add(worked.seconds)
            self.spent.peak = max(self.spent.peak, worked.peak)
            return worked.record
        return self._do_here(task)

    def _do_here(self, task: Task) -> ShardRecord:
        self.journal.begins(task.shard)
        helpers = readers(self.helpers, self.processor.job.input)
        helped = helpers > 1 and not task.lean
        ahead = Ahead(self.read, helpers, self.most_ahead, self.spent) if helped else None
        try:
            return run_shard(
                self.processor,
                self.store,
                task.shard,
                last_attempt=self.attempts.last(task),
                blamed=task.blamed,
                lean=task.lean,
                read=self.read if ahead is None else ahead.begin(task.shard.unblamed(task.blamed)),
                stages=self.spent,
            )
        finally:
            if ahead is not None:
                ahead.close()
            if not task.blamed:  # else the next run, which tries it again, is to probe it first
                self.journal.ends(task.shard)

    def _take(self, finished: Sequence[_Ended]) -> None:
        """What went well is recorded before what went wrong is raised."""
        failure: BaseException | None = None
        for given, result, error in finished:
            task = given.task
            what = str(task)
            if isinstance(error, EndedError):
                logger.warning("%s: its process has ended by %s", what, error)
                self.attempts.crashed(task)
            elif error is not None:
                if self.attempts.failed(task, error):
                    logger.warning("%s of %d: %s; trying again", what, self.attempts.max_attempts, error)
                else:
                    failure = failure or error
            elif isinstance(result, dict):
                self.attempts.probed(task, result)
        self._record(finished)
        if failure is not None:
            raise failure

    def _record(self, finished: Sequence[_Ended]) -> None:
        if records := [e.result for e in finished if isinstance(e.result, ShardRecord)]:
            self.commit(records)
