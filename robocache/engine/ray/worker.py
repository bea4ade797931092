"""What runs inside a Ray actor: one shard at a time on the device that Ray gave it, while the next is being read."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import ray
import torch
from ray.util.metrics import Counter

from robocache.engine.probe import deadly_episodes
from robocache.engine.process import Blamed, Processor, pick_device, run_shard
from robocache.engine.shards import Shard
from robocache.errors import DeviceLostError
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.stages import Stages, peak_bytes
from robocache.types import Episode, EpisodeRef

logger = logging.getLogger("robocache")


class Worked(NamedTuple):
    """A shard that a worker has done: its record, and what the worker has spent since the one before.

    seconds: by stage, of all its threads; peak: the most bytes that its process has held
    """

    record: ShardRecord
    seconds: dict[str, float]
    peak: int


class Prefetch:
    """Reads the episodes of a shard, and of the next one, ahead of time and in order, on the worker's cores.

    No more than ``most`` bytes of recordings are being read or wait to be taken, but one episode at least.
    """

    def __init__(self, read: Callable[[EpisodeRef], Episode], threads: int, most: int, stages: Stages):
        self._read, self._stages, self._most = read, stages, most
        self._pool = ThreadPoolExecutor(threads, "prefetch")
        self._ahead: dict[EpisodeRef, Future[Episode]] = {}  # in the order in which they are to be taken
        self._next: deque[EpisodeRef] = deque()
        self._held = 0

    def begin(self, shard: Shard, following: Shard | None) -> Callable[[EpisodeRef], Episode]:
        """A function that hands over the episodes of ``shard``, or raises what reading one did; each is to be asked for
        once, in order. Those of ``following`` are read once these are.
        """
        wanted = [*shard.refs, *(following.refs if following else ())]
        self.forget(but=wanted)
        self._next = deque(ref for ref in wanted if ref not in self._ahead)
        self._fill()

        def take(ref: EpisodeRef) -> Episode:
            future = self._ahead.pop(ref, None)
            if future is None:
                if ref in self._next:
                    self._next.remove(ref)
                return self._read(ref)
            try:
                with self._stages.time("wait"):
                    return future.result()
            finally:
                self._held -= ref.nbytes
                self._fill()

        return take

    def forget(self, but: Sequence[EpisodeRef] = ()) -> None:
        """Give up what was read ahead, or is to be."""
        self._next.clear()
        for ref in [ref for ref in self._ahead if ref not in set(but)]:
            self._ahead.pop(ref).cancel()
            self._held -= ref.nbytes

    def _fill(self) -> None:
        while self._next and (not self._ahead or self._held + self._next[0].nbytes <= self._most):
            ref = self._next.popleft()
            self._ahead[ref] = self._pool.submit(self._timed, ref)
            self._held += ref.nbytes

    def _timed(self, ref: EpisodeRef) -> Episode:
        with self._stages.time("decode"):
            return self._read(ref)


class Worker:
    """The actor. Everything that may fail is in :meth:`ready`, not in the constructor, so that the fault gets out.

    log_level: of RoboCache's own messages
    """

    def __init__(self, processor: Processor, store: Store, threads: int, log_level: int):
        self.processor, self.store, self.threads, self.log_level = processor, store, threads, log_level
        self.node = ray.util.get_node_ip_address()

    def ready(self) -> tuple[str, str]:
        """Settle on the device; says which, and where, and the node's id.

        ``ConfigError`` where this node lacks the device or the extension.
        """
        logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {self.node} %(message)s")
        logger.setLevel(self.log_level)
        torch.set_num_threads(self.threads)
        self.processor = replace(self.processor, device=pick_device(self.processor.job))
        self.stages, self.idle = Stages(), time.perf_counter()
        most = self.processor.job.compute.max_memory_mb * 2**20 // 4
        self.prefetch = Prefetch(self.processor.read, self.threads, most, self.stages)
        self.seconds = Counter("robocache_seconds", "time spent", tag_keys=("stage",))
        about = f"{self.node} (process {os.getpid()}, {self.processor.device})"
        return about, ray.get_runtime_context().get_node_id()

    def run(self, shard: Shard, attempt: int, last_attempt: bool, blamed: Blamed, following: Shard | None) -> Worked:
        """Process and write a shard; ``following`` is most likely the next one."""
        logger.debug("shard %d, attempt %d, node %s", shard.index, attempt, self.node)
        self.stages.add({"wait": time.perf_counter() - self.idle})
        good = [ref for index, ref in shard.episodes() if index not in blamed]
        read = self.prefetch.begin(replace(shard, indexes=(), refs=tuple(good)), following)
        try:
            record = run_shard(
                self.processor,
                self.store,
                shard,
                last_attempt=last_attempt,
                blamed=blamed,
                read=read,
                stages=self.stages,
            )
        except DeviceLostError as error:
            self._exit(shard, error)
        finally:
            self.idle = time.perf_counter()
        seconds = self.stages.taken()
        for stage, spent in seconds.items():
            self.seconds.inc(spent, {"stage": stage})
        return Worked(record, seconds, peak_bytes())

    def probe(self, shard: Shard, blamed: Blamed, deaths: int) -> dict[int, str]:
        """See :func:`robocache.engine.probe.deadly_episodes`."""
        self.prefetch.forget()
        if self.processor.device != "cpu":
            torch.cuda.empty_cache()  # the other process needs the memory
        return deadly_episodes(self.processor, shard, blamed, deaths)

    def _exit(self, shard: Shard, error: DeviceLostError) -> None:
        """Ray would keep the actor alive, and every later call in it would fail."""
        logger.error("shard %d, node %s: %s; ending the process for a clean device", shard.index, self.node, error)
        logging.shutdown()
        os._exit(1)
