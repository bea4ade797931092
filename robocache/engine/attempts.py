"""Which shard is tried next, how often, and who is to blame when one keeps killing its workers. Knows no Ray.

A fault that may pass sends the shard back with a delay, up to ``max_attempts``; its last attempt quarantines what still
fails. A worker's death says nothing of whose fault it was: the shard goes back, and once it has seen ``max_attempts``
deaths its episodes are probed one by one. An episode during which, alone, as many workers die is blamed; the shard then
runs without it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from robocache.engine import retry
from robocache.engine.plan import Shard

logger = logging.getLogger("robocache")


@dataclass(eq=False)
class Task:
    """A shard to run, or with ``whole`` an episode of that one to probe: a shard of one episode, never written."""

    shard: Shard
    whole: Task | None = None
    attempt: int = 1
    crashes: int = 0
    blamed: dict[int, str] = field(default_factory=dict)
    probes: int = 0  # yet to end
    narrowed: bool = False  # its episodes have been probed since one was blamed last

    @property
    def fresh(self) -> bool:
        """True where nothing has gone wrong with it yet."""
        return self.whole is None and self.attempt == 1 and not self.crashes and not self.blamed and not self.narrowed

    def __str__(self) -> str:
        probe = f", episode {self.shard.refs[0].id} alone" if self.whole else ""
        return f"shard {self.shard.index}{probe}, attempt {self.attempt + self.crashes}"


class Attempts:
    """The queue of a run. ``hopeless``: shards that kill their workers though none of their episodes does alone."""

    def __init__(self, todo: deque[Shard], max_attempts: int):
        self.max_attempts = max_attempts
        self.hopeless: list[Task] = []
        self._todo = todo
        self._again: list[tuple[float, int, Task]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._todo) + len(self._again)

    def next(self) -> Task | None:
        """The task whose turn it is: those whose delay is over first; None where there is none now."""
        if self._again and self._again[0][0] <= time.monotonic():
            return heapq.heappop(self._again)[2]
        return Task(self._todo.popleft()) if self._todo else None

    def fresh(self) -> Task | None:
        """A shard that nobody has tried."""
        return Task(self._todo.popleft()) if self._todo else None

    def put_back(self, task: Task) -> None:
        """It was not begun."""
        self._put(task)

    def last(self, task: Task) -> bool:
        return task.attempt >= self.max_attempts

    def failed(self, task: Task) -> None:
        """A fault that may pass. Not after the last attempt."""
        delay = retry.BACKOFF_S * 2 ** (task.attempt - 1)
        task.attempt += 1
        self._put(task, delay)

    def crashed(self, task: Task) -> None:
        """Its worker died."""
        task.crashes += 1
        if task.crashes < self.max_attempts:
            self._put(task)
        elif task.whole is not None:
            task.whole.blamed[task.shard.first_episode] = (
                f"its worker process died {task.crashes} times while processing it alone"
            )
            task.whole.narrowed = False
            self.probed(task)
        elif task.narrowed:
            self.hopeless.append(task)
        else:
            self._narrow(task)

    def probed(self, task: Task) -> None:
        """A probe has ended; with the last one of a shard, the shard goes back."""
        whole = task.whole
        assert whole is not None
        whole.probes -= 1
        if not whole.probes:
            whole.crashes = 0
            self._put(whole)

    def _narrow(self, task: Task) -> None:
        shard = task.shard
        logger.warning("%s: its workers keep dying; trying its episodes one by one", task)
        task.narrowed = True
        for index, ref in enumerate(shard.refs, shard.first_episode):
            if index not in task.blamed:
                task.probes += 1
                self._put(Task(Shard(shard.index, index, (ref,)), whole=task))
        if not task.probes:  # nothing of it is left to run, and still its workers die
            self.hopeless.append(task)

    def _put(self, task: Task, delay: float = 0.0) -> None:
        heapq.heappush(self._again, (time.monotonic() + delay, next(self._order), task))
