"""What runs inside a Ray actor: one shard at a time on the device that Ray gave it, while the next is being read."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import NoReturn

import ray
import torch
from ray.util.metrics import Counter

from robocache.engine.probe import deadly_episodes
from robocache.engine.process import Blamed, Processor, pick_device
from robocache.engine.shards import Shard
from robocache.engine.worker import ShardWorker, Worked
from robocache.errors import DeviceLostError
from robocache.output.store import Store

logger = logging.getLogger("robocache")


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
        self.processor = replace(self.processor, device=pick_device(self.processor.job))
        self.worker = ShardWorker(self.processor, self.store, self.threads)
        self.seconds = Counter("robocache_seconds", "time spent", tag_keys=("stage",))
        about = f"{self.node} (process {os.getpid()}, {self.processor.device})"
        return about, ray.get_runtime_context().get_node_id()

    def run(
        self, shard: Shard, attempt: int, last_attempt: bool, blamed: Blamed, following: Shard | None, lean: bool
    ) -> Worked:
        """See :meth:`robocache.engine.worker.ShardWorker.run`."""
        logger.debug("shard %d, attempt %d, node %s", shard.index, attempt, self.node)
        try:
            worked = self.worker.run(shard, last_attempt=last_attempt, blamed=blamed, lean=lean, following=following)
        except DeviceLostError as error:
            self._exit(shard, error)
        for stage, spent in worked.seconds.items():
            self.seconds.inc(spent, {"stage": stage})
        return worked

    def probe(self, shard: Shard, blamed: Blamed, deaths: int) -> dict[int, str]:
        """See :func:`robocache.engine.probe.deadly_episodes`."""
        self.worker.forget()
        if self.processor.device != "cpu":
            torch.cuda.empty_cache()  # the other process needs the memory
        return deadly_episodes(self.processor, shard, blamed, deaths)

    def _exit(self, shard: Shard, error: DeviceLostError) -> NoReturn:
        """Ray would keep the actor alive, and every later call in it would fail."""
        logger.error("shard %d, node %s: %s; ending the process for a clean device", shard.index, self.node, error)
        logging.shutdown()
        os._exit(1)
