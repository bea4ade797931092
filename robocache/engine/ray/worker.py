"""What runs inside a Ray actor: one shard at a time on the device that Ray gave it, while the next is being read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import ray
import torch
from ray.util.metrics import Counter

from robocache.engine.probe import deadly_episodes
from robocache.engine.process import Blamed, Processor, Stages, pick_device, run_shard
from robocache.engine.shards import Shard
from robocache.errors import DeviceLostError
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.types import Episode, EpisodeRef

logger = logging.getLogger("robocache")


class Prefetch:
    """Reads the episodes of one shard ahead of time, in order, in one thread."""

    def __init__(self, read: Callable[[EpisodeRef], Episode]):
        self._read = read
        self._pool = ThreadPoolExecutor(1, "prefetch")
        self._ahead: dict[EpisodeRef, Future[Episode]] = {}

    def begin(self, shard: Shard | None) -> None:
        """Read this one, once what is being read is done; give up the rest of the one before."""
        for future in self._ahead.values():
            future.cancel()
        refs = shard.refs if shard else ()
        self._ahead = {ref: self._pool.submit(self._read, ref) for ref in refs}

    def take(self, shard: Shard) -> Callable[[EpisodeRef], Episode]:
        """A function that reads an episode of ``shard``, or hands over what was read, or raised, ahead of time."""
        ahead = {ref: self._ahead.pop(ref) for ref in shard.refs if ref in self._ahead}

        def read(ref: EpisodeRef) -> Episode:
            future = ahead.pop(ref, None)
            return self._read(ref) if future is None else future.result()

        return read


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
        self.prefetch = Prefetch(self.processor.read)
        self.seconds = Counter("robocache_seconds", "time spent", tag_keys=("stage",))
        about = f"{self.node} (process {os.getpid()}, {self.processor.device})"
        return about, ray.get_runtime_context().get_node_id()

    def run(
        self, shard: Shard, attempt: int, last_attempt: bool, blamed: Blamed, following: Shard | None
    ) -> ShardRecord:
        """Process and write a shard; ``following`` is most likely the next one."""
        logger.debug("shard %d, attempt %d, node %s", shard.index, attempt, self.node)
        read, stages = self.prefetch.take(shard), Stages()
        self.prefetch.begin(following)
        try:
            record = run_shard(
                self.processor, self.store, shard, last_attempt=last_attempt, blamed=blamed, read=read, stages=stages
            )
        except DeviceLostError as error:
            self._exit(shard, error)
        for stage, seconds in stages.seconds.items():
            self.seconds.inc(seconds, {"stage": stage})
        return record

    def probe(self, shard: Shard, blamed: Blamed, deaths: int) -> dict[int, str]:
        """See :func:`robocache.engine.probe.deadly_episodes`."""
        self.prefetch.begin(None)
        if self.processor.device != "cpu":
            torch.cuda.empty_cache()  # the other process needs the memory
        return deadly_episodes(self.processor, shard, blamed, deaths)

    def _exit(self, shard: Shard, error: DeviceLostError) -> None:
        """Ray would keep the actor alive, and every later call in it would fail."""
        logger.error("shard %d, node %s: %s; ending the process for a clean device", shard.index, self.node, error)
        logging.shutdown()
        os._exit(1)
