"""Processors that misbehave inside a worker; they travel to it by pickle, as any other."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from robocache.engine.align import Aligner, Begun
from robocache.engine.process import Processor, ShardResult
from robocache.engine.shards import Shard
from robocache.errors import DeviceLostError
from robocache.output.manifest import EpisodeRecord, ShardRecord
from robocache.types import Episode, EpisodeRef


@dataclass(frozen=True)
class Mortal(Processor):
    """Reading some episodes (id: way) ends the process: by a real segmentation fault, or in another way."""

    ways: Mapping[str, str] = field(default_factory=lambda: {"log_003.parquet": "segfault"})
    read_before: ClassVar[list[str]] = []

    @property
    def reading(self) -> Callable[[EpisodeRef], Episode]:
        return self.read

    def read(self, ref: EpisodeRef) -> Episode:
        way = self.ways.get(ref.id, "")
        if way == "segfault":
            ctypes.string_at(0)
        if way == "exit" or (way == "exit in company" and self.read_before):
            os._exit(3)
        self.read_before.append(ref.id)
        return super().reading(ref)


@dataclass(frozen=True)
class Hiccup(Processor):
    """The first reading of some episodes fails as storage does; ``folder`` remembers across processes."""

    folder: str = ""
    failing: Collection[str] = ("log_003.parquet",)

    @property
    def reading(self) -> Callable[[EpisodeRef], Episode]:
        return self.read

    def read(self, ref: EpisodeRef) -> Episode:
        if ref.id in self.failing and first(self.folder, ref.id):
            raise OSError(5, "the disk hiccups")
        return super().reading(ref)


@dataclass(frozen=True)
class ShortOfMemory(Aligner):
    """Once, at one episode."""

    folder: str = ""

    def begin(self, index: int, episode: Episode) -> Begun:
        if episode.id == "log_020.parquet" and first(self.folder, "memory"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")
        return super().begin(index, episode)


@dataclass(frozen=True)
class Chaos(Mortal):
    """Everything that may go wrong inside a worker, once each but for what ``ways`` says; slow besides."""

    folder: str = ""
    seconds: float = 0.05

    def read(self, ref: EpisodeRef) -> Episode:
        if ref.id == "log_010.parquet" and first(self.folder, "storage"):
            raise OSError(5, "the disk hiccups")
        return super().read(ref)

    @cached_property
    def aligner(self) -> Aligner:
        return ShortOfMemory(self.job, self.types, self.device, self.folder)

    def process(self, shard: Shard, **options: object) -> ShardResult:
        first(self.folder, f"shard by {os.getpid()}")
        time.sleep(self.seconds)
        ids = {ref.id for ref in shard.refs}
        if "log_030.parquet" in ids and first(self.folder, "device"):
            raise DeviceLostError("cuda:0, at episode log_030.parquet: an illegal memory access (injected)")
        if "log_040.parquet" in ids and first(self.folder, "python"):
            raise ZeroDivisionError("division by zero (injected)")
        return super().process(shard, **options)  # type: ignore[arg-type]


def first(folder: str, event: str) -> bool:
    """True once, whoever asks, in whichever process."""
    try:
        (Path(folder) / f"{event}.happened").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class StuckAligner(Aligner):
    """At some episodes a kernel does not return (it waits in the C library, where nothing of Python's can end it), at
    others the process that works on the shard is stopped: not the one that may read for it.
    """

    ways: Mapping[str, str] = {}

    def begin(self, index: int, episode: Episode) -> Begun:
        way = self.ways.get(episode.id, "")
        if way == "kernel":
            ctypes.CDLL(None).pause()
        if way == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().begin(index, episode)


@dataclass(frozen=True)
class Stuck(Processor):
    """Some episodes (id: way) hold up whoever works on them, each time: a ``read`` or a ``kernel`` that does not
    return, or what is like a machine that is suspended, the process is ``stopped``."""

    ways: Mapping[str, str] = field(default_factory=dict)

    @property
    def reading(self) -> Callable[[EpisodeRef], Episode]:
        return StuckReading(super().reading, self.ways)

    @cached_property
    def aligner(self) -> Aligner:
        aligner = StuckAligner(self.job, self.types, self.device)
        object.__setattr__(aligner, "ways", self.ways)
        return aligner


@dataclass(frozen=True)
class StuckReading:
    inner: Callable[[EpisodeRef], Episode]
    ways: Mapping[str, str]

    def __call__(self, ref: EpisodeRef) -> Episode:
        if self.ways.get(ref.id) == "read":
            ctypes.CDLL(None).pause()
        return self.inner(ref)


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
class Dying(Processor):
    """The first process that has a shard ends at the ``at``-th change that it makes on the disk, and says so before."""

    folder: str = ""
    at: int = 1

    def process(self, shard: Shard, **options: object) -> ShardResult:
        if first(self.folder, "armed"):
            from crash_points import Fuse, arm

            arm(Fuse(self.at, lambda: first(self.folder, "died")))
        return super().process(shard, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Idle(Processor):
    """Does nothing but say so."""

    @property
    def reading(self) -> Callable[[EpisodeRef], Episode]:
        return self.read

    def read(self, ref: EpisodeRef) -> Episode:
        return Episode(ref.id, {})

    def process(self, shard: Shard, **_: object) -> ShardResult:
        episodes = tuple(EpisodeRecord(i, ref.id, (), 1, 0, ()) for i, ref in shard.episodes())
        return ShardResult(ShardRecord(shard.index, self.job.identity(), shard.fingerprint(), (), episodes, ()))
