"""Where the time of a run goes: seconds by stage, told from wherever the work is done, and the memory that it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

#: The stages, in the order in which an episode passes them. ``decode`` holds those before it where a reader's library
#: does all three at once; ``wait``: a worker had nothing to do.
STAGES = ("read", "inflate", "decode", "clean", "align", "encode", "write", "wait")

_here = threading.local()

T = TypeVar("T")


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

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """What this thread does within is of this stage, and of none around it."""
        around: _Watch | None = getattr(_here, "watch", None)
        if around is not None:
            around.stop()
        _here.watch = watch = _Watch(self, stage)
        try:
            yield
        finally:
            watch.stop()
            _here.watch = around
            if around is not None:
                around.since = time.perf_counter()


class Spent(Stages):
    """What the workers of a run have spent. ``workers``: how many there were; ``peak``: the most bytes that a process
    of theirs has held, 0 where that is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.workers = self.peak = 0


class _Watch:
    """A stage that a thread is at."""

    def __init__(self, stages: Stages, stage: str):
        self.stages, self.stage, self.since = stages, stage, time.perf_counter()

    def stop(self) -> None:
        self.stages.add({self.stage: time.perf_counter() - self.since})


@contextmanager
def stage(name: str) -> Iterator[None]:
    """For those who do the work and know nobody who counts: what is done within is of this stage."""
    watch: _Watch | None = getattr(_here, "watch", None)
    if watch is None:
        yield
    else:
        with watch.stages.time(name):
            yield


def handed_on(call: Callable[[], T]) -> Callable[[], T]:
    """``call`` for another thread, where it counts for the stage that this one is at; this one waits meanwhile."""
    watch = getattr(_here, "watch", None)

    def there() -> T:
        _here.watch = watch
        return call()

    return there


def peak_bytes() -> int:
    """The most memory that this process has held at any time; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
