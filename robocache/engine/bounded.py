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
from threading import Semaphore
from typing import Any, TypeVar

from robocache.config.job import Job
from robocache.engine.child import Child, EndedError, Limits
from robocache.engine.cores import usable_cores
from robocache.engine.deadline import DeadlineError, taken, within
from robocache.errors import UnexpectedError

logger = logging.getLogger("robocache")

_KEY = "input.read_timeout"

T = TypeVar("T")


class Bounded:
    """Makes calls of readers, of any thread; to be closed, with whose processes go (or use ``with``)."""

    def __init__(self, job: Job):
        self._seconds, self._attempts = job.read_timeout, job.cluster.max_attempts
        self._isolated = job.compute.isolate
        memory = job.compute.isolate_memory_mb * 2**20 if self._isolated else 0
        self._limits = Limits(memory, self._seconds * usable_cores())
        self._idle: list[Child] = []
        self._all: list[Child] = []
        self._closed = False
        self._room = Semaphore(job.compute.threads or usable_cores())  # who lists asks on more threads than that
        # A process ends with the thread that has started it, so that thread stays.
        self._starter = ThreadPoolExecutor(1, "starter")

    def __call__(self, what: str, call: Callable[[], T]) -> T:
        """``call()``, which can be pickled; ``what`` names it: ``reading run_7.mcap``.

        ``DeadlineError`` where it takes too long, ``UnexpectedError`` where it ends its process each time that it is
        made.
        """
        if self._isolated:
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
        self._starter.shutdown(wait=False)

    def __enter__(self) -> Bounded:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

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
        child = self._starter.submit(partial(Child, self._limits)).result()
        self._all.append(child)
        return child
