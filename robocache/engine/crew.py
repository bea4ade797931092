"""Processes of the local mode, each doing one shard at a time for a thread that waits for it.

Python's lock is one process's. But a process must first import torch, which takes seconds and memory. So they are
forked from one that has done so while the run is already under way in threads, and only where there is enough to do.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any

from robocache.config.job import Job
from robocache.engine import early, worker
from robocache.engine.child import Child, EndedError
from robocache.engine.deadline import taken
from robocache.engine.forkserver import ForkServer
from robocache.engine.process import Blamed, Processor
from robocache.engine.shards import Shard
from robocache.engine.worker import Worked
from robocache.errors import DeviceLostError, WorkersError
from robocache.output.store import Store

logger = logging.getLogger("robocache")

#: Processes that share a GPU; each holds some 500 MB of its memory for itself.
MOST_ON_A_GPU = 4


class Crew:
    """``compute.processes``: 0, as many as there are cores where there is enough to do, else none; or a number."""

    def __init__(self, job: Job, device: str):
        self._job, self._most_on_device = job, MOST_ON_A_GPU if device != "cpu" else sys.maxsize
        self._work: tuple[Processor, Store] | None = None
        self._room = 0
        self._lock = Lock()
        self._server: ForkServer | None = None
        self._idle: list[Child] = []
        self._all: list[Child] = []

    def expect(self, nbytes: int) -> None:
        """There will be so many bytes to read, or less: what takes long may begin. To be called in a thread that lives
        as long as this does.
        """
        if self._most(nbytes) > 1 and self._server is None:
            self._server = early.server()

    def _most(self, nbytes: int) -> int:
        return min(early.processes_of(self._job, nbytes), self._most_on_device)

    def begin(self, processor: Processor, store: Store, nbytes: int) -> None:
        """This is to be done, and so many bytes are to be read for it; waits for none of them."""
        self.expect(nbytes)
        self._work, self._room = (processor, store), self._most(nbytes)

    def taken(self) -> Child | None:
        """A process, for whoever asks alone; None where there is none, or none yet."""
        if self._server is None or self._work is None:
            return None
        if (child := taken(self._idle)) is not None:
            return child
        with self._lock:
            try:
                if self._room < 1 or not self._server.ready():
                    return None
                child = Child(start=self._server.fork)
            except WorkersError as error:
                logger.warning("%s; going on in threads", error)
                self._room = 0
                return None
            self._room -= 1
            self._all.append(child)
        self._ask(child, partial(worker.begin, *self._work, 1))
        return child

    def run(self, child: Child, shard: Shard, *, last_attempt: bool, blamed: Blamed, lean: bool) -> Worked:
        """What :meth:`ShardWorker.run` of the process returns, or raises. ``EndedError`` where it ends at it."""
        try:
            worked: Worked = self._ask(child, partial(worker.run, shard, last_attempt, dict(blamed), lean))
        except EndedError:
            raise
        except DeviceLostError as error:  # a new one has a device that works
            child.close()
            self._gone(child)
            raise EndedError(str(error)) from error
        except BaseException:
            self._idle.append(child)
            raise
        self._idle.append(child)
        return worked

    def close(self) -> None:
        """End them, whatever they are at."""
        with self._lock:
            self._room = 0
            children, self._all = self._all, []
        for child in children:
            child.close()
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _ask(self, child: Child, call: Callable[[], Any]) -> Any:
        try:
            return child.ask(call)
        except EndedError:
            self._gone(child)
            raise

    def _gone(self, child: Child) -> None:
        with self._lock:
            if child in self._all:
                self._all.remove(child)
                self._room += 1
