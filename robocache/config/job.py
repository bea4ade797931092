"""What a run is to do, as plain values: no YAML, no device, no open file. :mod:`robocache.config.load` makes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from robocache.formats.base import InputSpec

#: Raised whenever the same config and input would give other bytes than the release before.
OUTPUT_VERSION = 1


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """One stream of a feature and how it meets the timeline. Durations are nanoseconds.

    optional:         an episode without this source is kept, its columns NaN and invalid; else it is quarantined
    quaternion_order: what the four numbers are, for who reads the output's config; slerp is the same in any order
    """

    source: str
    align: str = "linear"
    max_gap: int | None = None
    offset: int = 0
    optional: bool = False
    quaternion_order: Literal["xyzw", "wxyz"] = "xyzw"


@dataclass(frozen=True, slots=True)
class Feature:
    """One output column: its sources side by side."""

    name: str
    sources: tuple[FeatureSource, ...]

    def unordered(self) -> Feature:
        """As if no order of quaternions were given, which changes no byte of a part."""
        return replace(self, sources=tuple(replace(s, quaternion_order="xyzw") for s in self.sources))


@dataclass(frozen=True, slots=True)
class TimelineSpec:
    """Target times: a fixed rate in Hz, or the stamps of a reference source; over the range of the streams."""

    rate: Fraction | None = None
    reference: str | None = None
    range: Literal["intersection", "union"] = "intersection"


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """Where and how parts are written. ``shard_mb``: about how many MB of input make one part."""

    uri: str
    format: Literal["parquet", "arrow"] = "parquet"
    compression: Literal["zstd", "none"] = "zstd"
    shard_mb: int = 64
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold credentials


@dataclass(frozen=True, slots=True)
class ComputeSpec:
    """Never changes what is written. ``threads`` 0: all cores; ``max_memory_mb`` bounds the alignment's working set."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_memory_mb: int = 2048
    threads: int = 0
    require_extension: bool = False


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Who runs the shards, and how often a transient fault is tried again. All but the first and last are for ray.

    address:         of a Ray cluster, or auto for this machine's; None: RAY_ADDRESS, else a cluster just for this run
    workers:         0: as many as the cluster's GPUs (or, where workers have none, CPUs and memory) carry, now or later
    gpus_per_worker: fractions share a card; None: 1 where compute.device is not cpu and the cluster has GPUs, else 0
    memory_mb:       what Ray sets aside for each worker; 0: compute.max_memory_mb and eight shards
    """

    mode: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int = 0
    gpus_per_worker: float | None = None
    cpus_per_worker: float = 1.0
    memory_mb: int = 0
    max_attempts: int = 3

    def to_join(self) -> str | None:
        """The address of the cluster that a run joins; None: one on this machine, started for the run."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address == "local" else address


@dataclass(frozen=True)
class Job:
    """One run. ``max_failed_episodes``: how many quarantined episodes still count as success."""

    input: InputSpec
    features: tuple[Feature, ...]
    timeline: TimelineSpec
    output: OutputSpec
    compute: ComputeSpec = ComputeSpec()
    cluster: ClusterSpec = ClusterSpec()
    max_failed_episodes: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source that a reader must deliver, each once, in config order."""
        wanted = [s.source for f in self.features for s in f.sources]
        if self.timeline.reference is not None:
            wanted.append(self.timeline.reference)
        return tuple(dict.fromkeys(wanted))

    def identity(self) -> str:
        """Hash of what decides the output's bytes. Device, threads, memory, workers and retries do not."""
        return self._identity

    @cached_property  # every record of every shard names it
    def _identity(self) -> str:
        decisive = {
            "version": OUTPUT_VERSION,
            "input": dataclasses.asdict(replace(self.input, storage_options={})),
            "features": [dataclasses.asdict(f.unordered()) for f in self.features],
            "timeline": dataclasses.asdict(self.timeline),
            "output": {k: getattr(self.output, k) for k in ("format", "compression", "shard_mb")},
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]
