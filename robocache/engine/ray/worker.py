"""What runs inside a Ray actor: one shard at a time on the device that Ray gave it, while the next is being read."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import NamedTuple

import ray
import torch
from ray.util.metrics import Counter

from robocache.engine.ahead import Ahead, most_ahead
from robocache.engine.bounded import Bounded
from robocache.engine.probe import deadly_episodes
from robocache.engine.process import Blamed, Processor, pick_device, run_shard
from robocache.engine.reading import bounded_reading
from robocache.engine.shards import Shard
from robocache.errors import DeviceLostError
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.stages import Stages, peak_bytes

logger = logging.getLogger("robocache")


class Worked(NamedTuple):
    """A shard that a worker has done: its record, and what the worker has spent since the one before.

    seconds: by stage, of all its threads; peak: the most bytes that its process has held
    """

    record: ShardRecord
    seconds: dict[str, float]
    peak: int


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
        most = most_ahead(self.processor.job.compute.max_memory_mb)
        read = bounded_reading(self.processor.reading, Bounded(self.processor.job))
        self.ahead = Ahead(read, self.threads, most, self.stages)
        self.seconds = Counter("robocache_seconds", "time spent", tag_keys=("stage",))
        about = f"{self.node} (process {os.getpid()}, {self.processor.device})"
        return about, ray.get_runtime_context().get_node_id()

    def run(self, shard: Shard, attempt: int, last_attempt: bool, blamed: Blamed, following: Shard | None) -> Worked:
        """Process and write a shard; ``following`` is most likely the next one."""
        logger.debug("shard %d, attempt %d, node %s", shard.index, attempt, self.node)
        self.stages.add({"wait": time.perf_counter() - self.idle})
        read = self.ahead.begin(shard.unblamed(blamed), following.refs if following else ())
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
        self.ahead.forget()
        if self.processor.device != "cpu":
            torch.cuda.empty_cache()  # the other process needs the memory
        return deadly_episodes(self.processor, shard, blamed, deaths)

    def _exit(self, shard: Shard, error: DeviceLostError) -> None:
        """Ray would keep the actor alive, and every later call in it would fail."""
        logger.error("shard %d, node %s: %s; ending the process for a clean device", shard.index, self.node, error)
        logging.shutdown()
        os._exit(1)
