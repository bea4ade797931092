"""Where the time of a run goes: seconds by stage, told from wherever the work is done, and the memory that it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

#: The stages, in the order in which an episode passes them. ``decode`` holds those before it where a reader's library
#: does all three at once; ``wait``: a worker had nothing to do.
STAGES = ("read", "inflate", "decode", "clean", "align", "encode", "write", "wait")

#: That of this thread; who has another thread work for it hands its context on (``copy_context``).
_here: ContextVar[_Watch | None] = ContextVar("stage", default=None)


class Stages:
    """Seconds by stage, of as many threads as count with it at the same time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, seconds: Mapping[str, float]) -> None:
        """What another has counted."""
        with self._lock:
            for stage, more in seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + more

    def taken(self) -> dict[str, float]:
        """What has been counted since this was last asked."""
        with self._lock:
            seconds, self.seconds = self.seconds, {}
        return seconds

    def time(self, stage: str) -> AbstractContextManager[None]:
        """What this thread does within is of this stage, and of none around it."""
        return _Watch(self, stage)


class Spent(Stages):
    """What the workers of a run have spent. ``workers``: how many there were; ``peak``: the most bytes that a process
    of theirs has held, 0 where that is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.workers = self.peak = 0


class _Watch(AbstractContextManager[None]):
    """A stage that a thread is at. ``around``: the one that it was at before, and will be after."""

    __slots__ = ("around", "since", "stage", "stages")

    def __init__(self, stages: Stages, stage: str):
        self.stages, self.stage = stages, stage

    def __enter__(self) -> None:
        self.around: _Watch | None = _here.get()
        self.since = now = time.perf_counter()
        if self.around is not None:
            self.around.stop(now)
        _here.set(self)

    def __exit__(self, *_: object) -> None:
        now = time.perf_counter()
        self.stop(now)
        _here.set(self.around)
        if self.around is not None:
            self.around.since = now

    def stop(self, now: float) -> None:
        self.stages.add({self.stage: now - self.since})


def stage(name: str) -> AbstractContextManager[None]:
    """For those who do the work and know nobody who counts: what is done within is of this stage."""
    watch: _Watch | None = _here.get()
    return nullcontext() if watch is None else watch.stages.time(name)


def peak_bytes() -> int:
    """The most memory that this process has held at any time; 0 where the system does not tell."""
    try:  # what getrusage says begins with the most that whoever started this process had held
        with open("/proc/self/status", "rb") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(b"VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
