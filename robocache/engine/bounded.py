"""How readers are called: within ``input.read_timeout`` and, with ``compute.isolate``, in processes of their own.

A process that a reader crashes, or that takes more than it may, costs the call and nothing else. Where the readers work
in this process, one that does not return is left behind; it may hold a lock of its library's, so from then on calls are
made in processes of their own there too, which can be ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock, Semaphore
from typing import Any, TypeVar

from robocache.config.job import Job
from robocache.engine.child import Child, EndedError, Limits
from robocache.engine.cores import FEW, threads_of, usable_cores
from robocache.engine.deadline import DeadlineError, taken, within
from robocache.engine.forkserver import ForkServer
from robocache.errors import UnexpectedError, WorkersError

logger = logging.getLogger("robocache")

_KEY = "input.read_timeout"

#: Calls from which on processes save more than they take to start, half a second of a core.
MANY = 64

T = TypeVar("T")


class Bounded:
    """Makes calls of readers, of any thread; to be closed, with whose processes go (or use ``with``).

    spread: of many calls whose answers are small, as those of who lists, most are made in processes, side by side
    """

    def __init__(self, job: Job, *, spread: bool = False):
        self._seconds, self._attempts = job.read_timeout, job.cluster.max_attempts
        self._isolated = job.compute.isolate
        memory = job.compute.isolate_memory_mb * 2**20 if self._isolated else 0
        self._limits = Limits(memory, self._seconds * usable_cores())
        self._idle: list[Child] = []
        self._all: list[Child] = []
        self._closed = False
        self._lock = Lock()
        threads = threads_of(job.compute.threads)
        self._room = Semaphore(threads)  # who lists asks on more threads than that
        self._spread = spread and threads > FEW
        self._calls = 0
        self._server: ForkServer | None = None
        # A process ends with the thread that has started it, so that thread stays.
        self._starter = ThreadPoolExecutor(1, "starter")

    def __call__(self, what: str, call: Callable[[], T]) -> T:
        """``call()``, which can be pickled; ``what`` names it: ``reading run_7.mcap``.

        ``DeadlineError`` where it takes too long, ``UnexpectedError`` where it ends its process each time that it is
        made.
        """
        if self._isolated or (self._spread and self._many()):
            return self._apart(what, call)
        try:
            return within(call, what, self._seconds, _KEY)
        except DeadlineError:
            logger.warning("%s is given up; from here on this process has others read for it, which it can end", what)
            self._isolated = True
            raise

    def persistent(self, what: str, call: Callable[[], T]) -> T:
        """The same; ``UnexpectedError`` where it takes too long each time."""
        for attempt in range(1, self._attempts + 1):
            try:
                return self(what, call)
            except DeadlineError as error:
                if attempt == self._attempts:
                    raise UnexpectedError(f"{error}, {attempt} times") from None
        raise AssertionError("at least one attempt")

    def close(self) -> None:
        self._closed = True
        for child in list(self._all):
            child.close()
        if self._server is not None:
            self._server.close()
        self._starter.shutdown(wait=False)

    def __enter__(self) -> Bounded:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _many(self) -> bool:
        """Whether processes are there for calls that are so many that they are worth it."""
        with self._lock:
            self._calls += 1
            if self._calls == MANY:
                modules = ["robocache.engine.reading", "robocache.formats"]
                self._server = self._starter.submit(partial(ForkServer, modules)).result()
        try:
            return self._server is not None and self._server.ready()
        except WorkersError:
            self._spread = False
            return False

    def _apart(self, what: str, call: Callable[[], T]) -> T:
        """In a process of its own: one that has made others' calls, and where that ends at it new ones."""
        with self._room:
            return self._in_child(what, call)

    def _in_child(self, what: str, call: Callable[[], T]) -> T:
        ends: list[str] = []
        while len(ends) < self._attempts:
            child = (None if ends else taken(self._idle)) or self._start()
            try:
                found = child.ask(call, what, self._seconds, _KEY)
            except EndedError as end:
                self._all.remove(child)
                if self._closed:
                    break
                ends.append(str(end))
            except DeadlineError:
                self._all.remove(child)
                raise
            except Exception:
                self._idle.append(child)
                raise
            else:
                self._idle.append(child)
                return found
        how = " and ".join(dict.fromkeys(ends))
        raise UnexpectedError(f"{what}: its process ended {len(ends)} times by {how}")

    def _start(self) -> Child:
        fork = None if self._server is None else self._server.fork
        child = self._starter.submit(partial(Child, self._limits, fork)).result()
        self._all.append(child)
        return child
