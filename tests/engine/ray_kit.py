"""Processors that misbehave inside a worker; they travel to it by pickle, as any other."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

from robocache.data import Episode, EpisodeRef
from robocache.engine.plan import Shard
from robocache.engine.process import Processor, ShardResult
from robocache.engine.records import EpisodeRecord, ShardRecord


@dataclass(frozen=True)
class Deadly(Processor):
    """Reading one of the episodes ends the process by a real segmentation fault."""

    deadly: str = "log_003.parquet"

    def read(self, ref: EpisodeRef) -> Episode:
        if ref.id == self.deadly:
            ctypes.string_at(0)
        return super().read(ref)


@dataclass(frozen=True)
class Hiccup(Processor):
    """The first reading of one episode fails as storage does; ``folder`` remembers across processes."""

    folder: str = ""

    def read(self, ref: EpisodeRef) -> Episode:
        if ref.id == "log_003.parquet" and not (marker := Path(self.folder) / "hiccup").exists():
            marker.touch()
            raise OSError(5, "the disk hiccups")
        return super().read(ref)


@dataclass(frozen=True)
class Slow(Processor):
    """Takes a while, and leaves its process's id in ``folder``, so that a test can kill it at any moment."""

    folder: str = ""
    seconds: float = 0.1

    def process(self, shard: Shard, **options: object) -> ShardResult:
        (Path(self.folder) / str(os.getpid())).touch()
        time.sleep(self.seconds)
        return super().process(shard, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Idle(Processor):
    """Does nothing but say so."""

    def read(self, ref: EpisodeRef) -> Episode:
        return Episode(ref.id, {})

    def process(self, shard: Shard, **_: object) -> ShardResult:
        episodes = tuple(
            EpisodeRecord(i, ref.id, (), 1, 0, ()) for i, ref in enumerate(shard.refs, shard.first_episode)
        )
        return ShardResult(
            None, ShardRecord(shard.index, self.job.identity(), shard.fingerprint(), "", 1, 0, "", episodes, ())
        )
