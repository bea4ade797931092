"""Who does shards, one after another, in a process of its own: a Ray actor, or one of the local mode's processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from robocache.engine import offload
from robocache.engine.ahead import Ahead, most_ahead, readers
from robocache.engine.bounded import Bounded
from robocache.engine.process import Blamed, Processor, run_shard
from robocache.engine.reading import bounded_reading
from robocache.engine.shards import Shard
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.stages import Stages, peak_bytes
from robocache.types import Episode, EpisodeRef


class Worked(NamedTuple):
    """A shard that a worker has done: its record, and what the worker has spent since the one before.

    seconds: by stage, of all its threads; peak: the most bytes that its process has held
    """

    record: ShardRecord
    seconds: dict[str, float]
    peak: int


class ShardWorker:
    """threads: how many read ahead of the one that aligns; the kernels take as many"""

    def __init__(self, processor: Processor, store: Store, threads: int):
        torch.set_num_threads(threads)
        self._processor, self._store = processor, store
        self._stages, self._idle = Stages(), time.perf_counter()
        most = most_ahead(processor.job.compute.max_memory_mb)
        threads = readers(threads, processor.job.input)
        read: Callable[[EpisodeRef], Episode] = processor.reading
        if offload.usable(processor.device):
            threads, read = offload.READERS, offload.Offload(processor.device, most).reading(read)
        self._read = bounded_reading(read, Bounded(processor.job))
        self._ahead = Ahead(self._read, threads, most, self._stages)

    def run(
        self,
        shard: Shard,
        *,
        last_attempt: bool,
        blamed: Blamed,
        lean: bool = False,
        following: Shard | None = None,
    ) -> Worked:
        """Process and write a shard; ``following`` is most likely the next one. ``lean``: one episode at a time, and
        nothing read ahead. Raises as :func:`robocache.engine.process.run_shard`.
        """
        self._stages.add({"wait": time.perf_counter() - self._idle})
        read = self._read
        if lean:
            self._ahead.forget()
        else:
            read = self._ahead.begin(shard.unblamed(blamed), following.refs if following else ())
        try:
            record = run_shard(
                self._processor,
                self._store,
                shard,
                last_attempt=last_attempt,
                blamed=blamed,
                lean=lean,
                read=read,
                stages=self._stages,
            )
        finally:
            self._idle = time.perf_counter()
        return Worked(record, self._stages.taken(), peak_bytes())

    def forget(self) -> None:
        """Give up what has been read ahead."""
        self._ahead.forget()


#: The worker of a process of the local mode.
_worker: ShardWorker | None = None


def begin(processor: Processor, store: Store, threads: int) -> None:
    """In such a process: what :func:`run` works with from here on."""
    global _worker
    _worker = ShardWorker(processor, store, threads)


def run(shard: Shard, last_attempt: bool, blamed: Blamed, lean: bool) -> Worked:
    """In such a process: see :meth:`ShardWorker.run`."""
    assert _worker is not None
    return _worker.run(shard, last_attempt=last_attempt, blamed=dict(blamed), lean=lean)
