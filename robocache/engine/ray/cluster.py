"""The ray mode: one actor a GPU (or a CPU share), each with one shard in flight, and a small loop that feeds them.

Ray restarts actors but repeats no call: a shard is sent again by this loop, to whichever worker is free, as
:mod:`robocache.engine.attempts` decides. Workers write parts and return records; only this process commits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from robocache.config.job import Job
from robocache.engine.attempts import Attempts, Task
from robocache.engine.deadline import Deadline
from robocache.engine.process import Processor
from robocache.engine.ray.connection import connected
from robocache.engine.shards import Shard
from robocache.engine.workers import Workers
from robocache.errors import WorkersError
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.stages import Spent

logger = logging.getLogger("robocache")

#: How long the loop waits for a call to end before it looks at everything else.
POLL_S = 0.2
#: A sync costs milliseconds, so shards that end closer to each other than this are committed together.
COMMIT_EVERY_S = 0.05
#: How often the number of workers is compared with what the cluster carries.
SCALE_EVERY_S = 3.0
#: How long a stopped run waits for the shards in flight.
GRACE_S = 5.0
#: How long workers may die as they start, with none that works, before the run gives up.
START_LIMIT_S = 300.0
#: How long no worker may be placed before the log says what they wait for.
NOTICE_S = 30.0


@contextmanager
def workers(job: Job) -> Iterator[Workers]:
    """A connection to the cluster. ``ConfigError`` where there is no Ray or no cluster."""
    with connected(job.cluster):
        yield Workers(execute)


def execute(
    processor: Processor,
    store: Store,
    todo: deque[Shard],
    commit: Callable[[Sequence[ShardRecord]], None],
    spent: Spent | None = None,
) -> None:
    """See :data:`robocache.engine.workers.Execute`. ``WorkersError`` where a shard, or every worker, cannot be run.

    ``KeyboardInterrupt`` and ``SystemExit`` pass once the shards in flight have ended and are committed.
    """
    fleet = _Fleet(processor, store, Attempts(todo, processor.job.cluster.max_attempts), commit, spent or Spent())
    try:
        fleet.work()
    except (KeyboardInterrupt, SystemExit):
        fleet.drain()
        raise
    finally:
        fleet.disband()


@dataclass(eq=False)
class _Member:
    """An actor, the call it is at (``ready`` where ``task`` is None), and the task it reads ahead."""

    actor: Any
    ref: Any = None
    task: Task | None = None
    ahead: Task | None = None
    node: str = ""  # where it is; empty until it has said so
    node_id: str = ""
    greet_at: float = 0.0
    deadline: Deadline | None = None

    @property
    def idle(self) -> bool:
        return bool(self.node) and self.ref is None


class _Fleet:
    def __init__(
        self,
        processor: Processor,
        store: Store,
        attempts: Attempts,
        commit: Callable[[Sequence[ShardRecord]], None],
        spent: Spent,
    ):
        import ray
        from ray.util.metrics import Counter

        from robocache.engine.ray.metrics import counting
        from robocache.engine.ray.worker import Worker

        self.ray, self.spent = ray, spent
        self.attempts, self.commit = attempts, counting(commit)
        self.members: list[_Member] = []
        self.retries = Counter("robocache_retries", "shards sent again")
        self.ended: list[ShardRecord] = []  # yet to commit
        self.scaled = self.committed = 0.0
        self.well = self.noticed = time.monotonic()
        cluster, compute = processor.job.cluster, processor.job.compute
        self.gpus = cluster.gpus_per_worker
        if self.gpus is None:  # settled now: workers of one run are of one kind
            wanted = compute.device == "cuda" or (compute.device == "auto" and ray.cluster_resources().get("GPU", 0))
            self.gpus = 1.0 if wanted else 0.0
        self.deadline = cluster.shard_deadline
        self.cpus, self.workers = cluster.cpus_per_worker, cluster.workers
        self.memory = (cluster.memory_mb or compute.max_memory_mb + 8 * processor.job.output.shard_mb) * 1_000_000
        if not self.gpus:
            processor = replace(processor, job=replace(processor.job, compute=replace(compute, device="cpu")))
        kind = ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            memory=self.memory,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(Worker)
        # By value: an actor whose arguments lie in the object store cannot restart once they are lost.
        level = logger.getEffectiveLevel()  # -v is for the workers too
        self.recruit = lambda: kind.remote(processor, store, max(1, int(self.cpus)), level)

    def work(self) -> None:
        """Until every task has ended."""
        while len(self.attempts) or self.ended or any(m.task or m.ahead for m in self.members):
            self._scale()
            self._assign()
            self._collect()
            self._give_up()
            self._assign()  # the workers go on while the disk syncs
            if time.monotonic() - self.committed >= COMMIT_EVERY_S or not any(m.task for m in self.members):
                self._commit()
        self.attempts.refuse_hopeless()

    def drain(self) -> None:
        """Give out nothing more; wait for what is in flight and commit it as it comes."""
        logger.warning("stopping: waiting up to %.0f s for the shards in flight", GRACE_S)
        end = time.monotonic() + GRACE_S
        self._commit()
        while any(m.task for m in self.members) and time.monotonic() < end:
            self._collect()
            self._commit()

    def disband(self) -> None:
        for m in self.members:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.kill(m.actor)

    def _scale(self) -> None:
        """Recruit for nodes that have joined, and let those go that wait for a place the cluster no longer has."""
        now = time.monotonic()
        if now - self.scaled < SCALE_EVERY_S:
            return
        self.scaled = now
        open_tasks = len(self.attempts) + sum(bool(m.task) + bool(m.ahead) for m in self.members)
        wanted = min(self.workers or self._carried(), open_tasks)
        while len(self.members) < wanted:
            self.members.append(_Member(self.recruit()))
            self.spent.workers = max(self.spent.workers, len(self.members))
        for m in [m for m in self.members if not m.node][: max(0, len(self.members) - wanted)]:
            self._dismiss(m)
        if any(m.node for m in self.members):
            self.noticed = now
        elif now - self.noticed > NOTICE_S:
            self.noticed = now
            asked = f"{self.cpus:g} CPU, {self.gpus:g} GPU, {self.memory / 1e6:.0f} MB"
            logger.warning("no worker has a place yet: each asks for %s of %s", asked, self.ray.cluster_resources())

    def _carried(self) -> int:
        """How many workers the cluster's resources carry; one at least, for what is not there may yet come."""
        have = self.ray.cluster_resources()
        asked = {"GPU": self.gpus, "CPU": self.cpus, "memory": self.memory}
        return max(1, int(min(have.get(name, 0) / need for name, need in asked.items() if need)))

    def _assign(self) -> None:
        now = time.monotonic()
        for m in self.members:
            if not m.node and m.ref is None and now >= m.greet_at:
                m.ref = m.actor.ready.remote()
            elif m.idle and (task := self._next(m)) is not None:
                self._send(m, task)

    def _next(self, m: _Member) -> Task | None:
        """What it has read ahead; else the queue's next; else what a busy worker has read ahead."""
        if m.ahead is None:
            if (task := self.attempts.next()) is not None:
                return task
            m = next((other for other in self.members if other.ahead), m)
        task, m.ahead = m.ahead, None
        return task

    def _send(self, m: _Member, task: Task) -> None:
        m.task, m.deadline = task, self.attempts.deadline(task, self.deadline)
        if task.suspect:
            m.ref = m.actor.probe.remote(task.shard, task.blamed, self.attempts.max_attempts)
            return
        # A shard under suspicion runs alone, so that no other is blamed for it, nor it for another.
        if task.fresh and m.ahead is None:
            m.ahead = self.attempts.fresh()
        following = m.ahead.shard if m.ahead and task.fresh else None
        attempt = task.attempt + task.crashes
        m.ref = m.actor.run.remote(task.shard, attempt, self.attempts.last(task), task.blamed, following, task.lean)

    def _commit(self) -> None:
        if self.ended:
            records, self.ended = self.ended, []
            self.commit(records)
            self.committed = time.monotonic()

    def _collect(self) -> None:
        """Take what has ended, deal with what went wrong; waits a while for the first."""
        timeout_s = COMMIT_EVERY_S if self.ended else POLL_S
        calls = {m.ref: m for m in self.members if m.ref is not None}
        if not calls:
            time.sleep(timeout_s)
            return
        refs = list(calls)
        self.ray.wait(refs, num_returns=1, timeout=timeout_s)
        ready, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0)
        failure: BaseException | None = None
        for ref in ready:
            m = calls[ref]
            task, m.task, m.ref = m.task, None, None
            try:
                value = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                failure = failure or self._failed(m, task, error)
            except self.ray.exceptions.RayError as error:
                self._crashed(m, task, error)
            else:
                self.well = time.monotonic()
                if task is None:
                    m.node, m.node_id = value
                elif task.suspect:
                    self.attempts.probed(task, value)
                else:
                    self.ended.append(value.record)
                    self.spent.add(value.seconds)
                    self.spent.peak = max(self.spent.peak, value.peak)
        if failure is not None:
            self._commit()
            raise failure

    def _failed(self, m: _Member, task: Task | None, error: Any) -> BaseException | None:
        """An exception in the worker, which lives on. What to raise where the run cannot go on."""
        cause = error.cause if isinstance(error.cause, BaseException) else error
        what = str(task)
        if task is None or not self.attempts.failed(task, cause):
            return cause
        logger.warning("%s of %d, node %s: %s; trying again", what, self.attempts.max_attempts, m.node, cause)
        self.retries.inc()
        return None

    def _crashed(self, m: _Member, task: Task | None, error: Exception) -> None:
        """The worker is dead, restarting or out of reach; its tasks go back."""
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        lost = self._lost(m.node_id)
        if task is not None:
            what = "the node is lost" if lost else "its worker died"
            logger.warning("%s, node %s: %s (%s); trying again", task, m.node, what, reason)
            self.retries.inc()
            if lost:
                self.attempts.put_back(task)
            else:
                self.attempts.crashed(task)
        elif getattr(error, "actor_init_failed", False) or (not lost and self._hopeless()):
            raise WorkersError(f"workers die as they start; what was committed is kept: {error}")
        else:
            logger.debug("a worker is not ready: %s", reason)
        if m.ahead is not None:
            self.attempts.put_back(m.ahead)
        m.ahead, m.node, m.greet_at = None, "", time.monotonic() + 0.2
        if lost or isinstance(error, self.ray.exceptions.ActorDiedError):
            self._dismiss(m)
            self.scaled = 0.0  # another one now, which waits for a place if need be

    def _give_up(self) -> None:
        """End workers whose shards take too long; another one is recruited, and does them."""
        for m in list(self.members):
            if m.task is None or m.deadline is None or not m.deadline.passed():
                continue
            self.retries.inc()
            self.attempts.crashed(m.task, late=True)
            if m.ahead is not None:
                self.attempts.put_back(m.ahead)
            self._dismiss(m)
            self.scaled = 0.0

    def _lost(self, node_id: str) -> bool:
        """True where the cluster has given the node up; one that has just died may not be yet."""
        return bool(node_id) and not any(n["Alive"] for n in self.ray.nodes() if n["NodeID"] == node_id)

    def _hopeless(self) -> bool:
        """True where no worker has come up for long."""
        return time.monotonic() - self.well > START_LIMIT_S and not any(m.node for m in self.members)

    def _dismiss(self, m: _Member) -> None:
        self.members.remove(m)
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(m.actor)
