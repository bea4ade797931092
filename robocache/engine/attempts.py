"""Which shard is tried next, how often, and what becomes of one that keeps killing its workers. Knows no Ray.

A fault that may pass sends the shard back with a delay, up to ``max_attempts``; its last attempt quarantines what still
fails. A worker's death says nothing of whose fault it was: anyone may kill a process. So the shard goes back, and after
``max_attempts`` deaths its episodes are probed (:mod:`robocache.engine.probe`), which alone may blame them; it then
runs without those. The loss of a node is nobody's fault and counts for nothing.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from robocache.engine import retry
from robocache.engine.deadline import Deadline
from robocache.engine.shards import Shard
from robocache.errors import RoboCacheError, WorkersError

logger = logging.getLogger("robocache")

#: How many workers may die during a shard's probe. None of its work is done in them, so it is hardly to blame for it.
PROBES = 10


@dataclass(eq=False)
class Task:
    """A shard to run or, where ``suspect``, to probe."""

    shard: Shard
    attempt: int = 1
    crashes: int = 0  # workers that died of it, or near it, since the last probe
    blamed: dict[int, str] = field(default_factory=dict)
    suspect: bool = False
    acquitted: bool = False  # its last probe found nobody to blame
    lean: bool = False  # memory has run out at it: one episode at a time
    late: bool = False  # what ended last was not its worker, but its time

    @property
    def fresh(self) -> bool:
        """True where nothing has gone wrong with it yet."""
        return self.attempt == 1 and not (self.crashes or self.blamed or self.suspect or self.acquitted)

    def __str__(self) -> str:
        return f"shard {self.shard.index}, {'probe' if self.suspect else 'attempt'} {self.attempt + self.crashes}"


class Attempts:
    """The queue of a run.

    suspects: fingerprints of shards that are probed before they are tried, because earlier runs died at them
    hopeless: shards that kill their workers though none of their episodes does alone
    """

    def __init__(self, todo: deque[Shard], max_attempts: int, suspects: Collection[str] = ()):
        self.max_attempts = max_attempts
        self.hopeless: list[Task] = []
        self._todo = todo
        self._again: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        for shard in [shard for shard in todo if suspects and shard.fingerprint() in suspects]:
            todo.remove(shard)
            self._put(Task(shard, suspect=True))

    def __len__(self) -> int:
        return len(self._todo) + len(self._again)

    @property
    def nbytes(self) -> int:
        """Of the recordings of what is to be done."""
        return sum(ref.nbytes for shard in (*self._todo, *(t.shard for *_, t in self._again)) for ref in shard.refs)

    def next(self) -> Task | None:
        """The task whose turn it is: those whose delay is over first; None where there is none now."""
        if self._again and self._again[0][0] <= time.monotonic():
            return heapq.heappop(self._again)[2]
        return self.fresh()

    def fresh(self) -> Task | None:
        """A shard that nobody has tried."""
        return Task(self._todo.popleft()) if self._todo else None

    def last(self, task: Task) -> bool:
        return task.attempt >= self.max_attempts

    def put_back(self, task: Task) -> None:
        """It was not begun, or ended by what is not its fault."""
        self._put(task)

    def wait_s(self) -> float | None:
        """How long until a task's delay is over, 0 where one can be begun; None where there is none."""
        if self._todo:
            return 0.0
        return max(0.0, self._again[0][0] - time.monotonic()) if self._again else None

    def failed(self, task: Task, error: BaseException) -> bool:
        """True where the task is tried again after an exception; else that is to be raised.

        What RoboCache raises on purpose does not pass, and neither does what the last attempt raises. Anything else
        may be a worker's or a node's trouble.
        """
        if self.last(task) or isinstance(error, RoboCacheError) or not isinstance(error, Exception):
            return False
        delay = retry.BACKOFF_S * 2 ** (task.attempt - 1)
        task.attempt += 1
        task.lean = task.lean or retry.lacks_memory(error)
        self._put(task, delay)
        return True

    def crashed(self, task: Task, *, late: bool = False) -> None:
        """Its worker died, or, where it is ``late``, has been given up because it took too long."""
        task.crashes, task.late = task.crashes + 1, late
        if task.crashes < (PROBES if task.suspect else self.max_attempts):
            self._put(task)
        elif task.suspect or task.acquitted:
            self.hopeless.append(task)
        else:
            what = "it takes too long" if late else "its workers keep dying"
            logger.warning("shard %d: %s; trying its episodes one by one", task.shard.index, what)
            task.suspect, task.crashes = True, 0
            self._put(task)

    def probed(self, task: Task, blamed: Mapping[int, str]) -> None:
        """Which of its episodes have been shown to kill, and how."""
        task.blamed.update(blamed)
        task.suspect, task.acquitted, task.crashes = False, not blamed, 0
        self._put(task)

    def deadline(self, task: Task, seconds: float) -> Deadline:
        """From now on; a probe has one of its own for each episode."""
        names = task.shard.refs[0].id + (f" and {more} more" if (more := len(task.shard.refs) - 1) else "")
        return Deadline(f"{task} ({names})", 0.0 if task.suspect else seconds, "cluster.shard_deadline")

    def refuse_hopeless(self) -> None:
        """``WorkersError`` where there are such shards."""
        texts = {
            False: "the workers of shards {} keep dying, though each of their episodes alone does no harm: most likely "
            "memory; raise cluster.memory_mb, or lower output.shard_mb",
            True: "shards {} take too long, though none of their episodes alone does; raise cluster.shard_deadline, or "
            "lower output.shard_mb",
        }
        problems = []
        for late, text in texts.items():
            if which := [str(task.shard.index) for task in self.hopeless if task.late is late]:
                problems.append(text.format(", ".join(which)))
        if problems:
            raise WorkersError(f"{'; '.join(problems)}; all other shards are committed")

    def _put(self, task: Task, delay: float = 0.0) -> None:
        heapq.heappush(self._again, (time.monotonic() + delay, next(self._order), task))
