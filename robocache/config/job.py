"""What a run is to do, as plain values: no YAML, no device, no open file. :mod:`robocache.config.load` makes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, cast

from robocache.features.steps import Step
from robocache.formats.base import InputSpec
from robocache.output.lerobot.options import LeRobotOptions
from robocache.types import Source

#: Raised whenever the same config and input would give other bytes than the release before.
OUTPUT_VERSION = 3


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """One stream of a feature and how it meets the timeline. Durations are nanoseconds.

    source:     where it is in a recording
    align:      a mode; auto: by what the stream holds (see :func:`robocache.engine.source_types.mode_of`)
    max_gap:    None: no limit; auto: ten median steps where the mode interpolates, else no limit
    offset:     added to the stream's stamps
    optional:   an episode without this source is kept, its columns empty and invalid; else it is quarantined
    static:     its one value holds for the whole episode and bounds no timeline
    stamp:      its own clock (see :class:`robocache.types.Source`); empty: that of the input
    snap:       previous and next: a sample this much on the wrong side of a target counts as being at it; auto: a
                tenth of the timeline's period
    period:     angle: of one turn, in the column's unit; None: found by looking
    nonfinite:  drop leaves out a sample that holds a NaN or an infinity; keep takes them as readings
    repeats:    samples of one stamp: last keeps the last, mean averages them, spread lays them out up to the next
                stamp; auto: all of them count for mean, the last for every other mode
    window:     every sample of a row's bin instead of one number, so many at most; 0: no
    quaternion_order: what the four numbers are, for who reads the output's config; slerp is the same in any order
    """

    source: str
    align: str = "auto"
    max_gap: int | Literal["auto"] | None = "auto"
    offset: int = 0
    optional: bool = False
    static: bool = False
    stamp: str = ""
    snap: int | Literal["auto"] = "auto"
    period: float | None = None
    nonfinite: Literal["drop", "keep"] = "drop"
    repeats: Literal["auto", "last", "mean", "spread"] = "auto"
    window: int = 0
    quaternion_order: Literal["xyzw", "wxyz"] = "xyzw"

    @property
    def key(self) -> str:
        """The stream's key in an episode, as :attr:`robocache.types.Source.key`."""
        return Source(self.source, self.stamp).key


@dataclass(frozen=True, slots=True)
class Feature:
    """One output column: its sources side by side.

    dtype: of the column; auto: float32 for floats, everything else as recorded
    steps: what is made of the sources, in this order
    pose:  moves clouds from their own frame into its own, at their own stamps; None: they stay where they are
    role:  an action may look ahead where the timeline is causal
    """

    name: str
    sources: tuple[FeatureSource, ...]
    dtype: str = "auto"
    role: Literal["observation", "action"] = "observation"
    steps: tuple[Step, ...] = ()
    pose: FeatureSource | None = None

    @property
    def streams(self) -> tuple[FeatureSource, ...]:
        """All that it needs of a recording: its sources, then the pose."""
        return self.sources if self.pose is None else (*self.sources, self.pose)

    @property
    def window(self) -> int:
        """How many samples of its source a row holds; 0: it is no window."""
        return self.sources[0].window if self.sources else 0

    @property
    def picks(self) -> bool:
        """Whether its steps take samples as they were recorded."""
        return bool(self.steps) and self.steps[0].picks

    @property
    def beside(self) -> str:
        """Another feature that its steps need; empty: none."""
        return next((step.beside for step in self.steps if step.beside), "")

    def decisive(self) -> dict[str, Any]:
        """What of it decides the output's bytes; the order of quaternions does not."""
        plain = replace(self, steps=(), sources=tuple(replace(s, quaternion_order="xyzw") for s in self.sources))
        found = dataclasses.asdict(plain)
        del found["steps"]
        for source in found["sources"]:
            if not source["window"]:
                del source["window"]
        if self.pose is None:
            del found["pose"]
        else:
            del found["pose"]["window"]
        steps = [[step.key, dataclasses.asdict(cast(Any, step))] for step in self.steps]
        return found | ({"steps": steps} if steps else {})


@dataclass(frozen=True, slots=True)
class TrimSpec:
    """Which rows are idle: those in which no feature moves by more than its threshold.

    features: names and thresholds
    rows:     whether they are left out at the ends of an episode, or all of them
    """

    features: tuple[tuple[str, float], ...]
    rows: Literal["ends", "all"] = "ends"


@dataclass(frozen=True, slots=True)
class TimelineSpec:
    """Target times: a fixed rate in Hz, or the stamps of a reference source; over the range of the streams.

    causal:     no observation uses a sample from after its row
    provenance: the stamps of the samples that each row used are written beside it
    trim:       which rows are left out once they are made
    """

    rate: Fraction | None = None
    reference: str | None = None
    range: Literal["intersection", "union"] = "intersection"
    causal: bool = False
    provenance: bool = False
    trim: TrimSpec | None = None

    def decisive(self) -> dict[str, Any]:
        """As it is; without trimming as it was before there was such a key."""
        found = dataclasses.asdict(self)
        if self.trim is None:
            del found["trim"]
        return found


@dataclass(frozen=True, slots=True)
class Range:
    """A segment of a recording as a table tells it.

    recording: its id, or its file's name with or without suffix; empty: the only one
    id:        what the segment is called; empty: its number
    begin, end: int64 nanoseconds, the end not in it
    metadata:  whatever else the table says of it
    """

    recording: str
    id: str
    begin: int
    end: int
    metadata: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """How recordings are cut into episodes; as it is, they are not.

    topic:  a source; from each of its values to the next other one. value: from this one alone; each: every sample is a
            begin
    gaps:   a source; cut where it has a step of more than ``longer`` nanoseconds
    ranges: of a table
    robots: what the topics of each robot of a log begin with
    min:    shorter segments, nanoseconds, are left out
    """

    topic: str = ""
    value: bool | int | float | str | None = None
    each: bool = False
    gaps: str = ""
    longer: int = 0
    ranges: tuple[Range, ...] | None = None
    robots: tuple[str, ...] = ()
    min: int = 0

    @property
    def cuts(self) -> bool:
        """Whether recordings are cut by time."""
        return bool(self.topic or self.gaps) or self.ranges is not None

    def decisive(self) -> dict[str, Any]:
        """What of it decides the output's rows; which ranges there are is the input's, as its recordings are."""
        return {**dataclasses.asdict(self), "ranges": self.ranges is not None}


@dataclass(frozen=True, slots=True)
class QualitySpec:
    """What an episode must hold, and what happens where it does not.

    on_fail:     warn says so in the summary; quarantine keeps the episode out of the output
    min_kept:    share of the recording that the timeline keeps
    min_valid:   share of the rows in which a feature is valid
    max_dropped: share of a source's samples that cannot be used
    max_late:    nanoseconds; a clock that goes back by more has restarted
    on_restart:  quarantine the episode; sort its samples all the same; split it into takes
    """

    on_fail: Literal["warn", "quarantine"] = "warn"
    min_kept: float = 0.5
    min_valid: float = 0.5
    max_dropped: float = 0.1
    max_late: int = 1_000_000_000
    on_restart: Literal["quarantine", "sort", "split"] = "quarantine"

    def decisive(self) -> dict[str, Any]:
        """What of it decides the output's rows; thresholds that only warn do not."""
        everything = dataclasses.asdict(self)
        rows = ("max_late", "on_restart")
        return everything if self.on_fail == "quarantine" else {key: everything[key] for key in rows}


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """Where and how parts are written.

    compression:   auto: zstd for Parquet, none for Arrow, which can then be mapped into memory
    shard_mb:      about how many MB of input make one shard; part_mb: about how many MB of rows, before they are
                   encoded, make one part of it; of parts that are there neither changes anything
    row_group_rows: at most so many rows of an episode are a row group (Arrow: a record batch); 0: what 64 MB hold
    keep_versions: how many versions can be opened; the parts that only older ones have go
    episode_id:    a column of that name beside episode_index
    name_separator: what stands in the names of columns for the dots of a feature's, and before ``valid``
    byte_stream_split: floats of a compressed Parquet file with the bytes of one significance side by side, which is
                   smaller; not every reader knows it
    report:        the page of ``robocache report`` is made as a run ends
    lerobot:       of format lerobot, what its tree is made of
    """

    uri: str
    format: Literal["parquet", "arrow", "lerobot"] = "parquet"
    compression: Literal["auto", "zstd", "none"] = "auto"
    shard_mb: int = 64
    part_mb: int = 512
    row_group_rows: int = 0
    keep_versions: int = 2
    episode_id: bool = False
    name_separator: str = "."
    byte_stream_split: bool = False
    lerobot: LeRobotOptions = field(default_factory=LeRobotOptions)
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold credentials
    report: bool = False

    @property
    def codec(self) -> str:
        """What parts are compressed with: zstd or none."""
        automatic = "none" if self.format == "arrow" else "zstd"
        return automatic if self.compression == "auto" else self.compression

    def decisive(self) -> dict[str, Any]:
        """What of it decides a part's bytes, other than which episodes it holds."""
        keys = ["format", "episode_id", "name_separator", "byte_stream_split"]
        if self.row_group_rows:  # outputs from before there was such a key have the identity that they had
            keys.append("row_group_rows")
        return {"compression": self.codec, **{key: getattr(self, key) for key in keys}}

    def column(self, name: str) -> str:
        """What a column is called in the files."""
        return name.replace(".", self.name_separator)


#: About so many columns that are held at the same time fill what memory is allowed for.
COLUMNS = 64


@dataclass(frozen=True, slots=True)
class ComputeSpec:
    """Never changes what is written. ``threads`` 0: all cores; ``max_memory_mb`` bounds the alignment's working set.

    processes: of the local mode; 0: one a thread where there is enough to do, else none; 1: none
    isolate: recordings are read in processes of their own, which may crash; isolate_memory_mb: of address space for
             each of them, in 2^20 bytes; 0: no limit
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_memory_mb: int = 2048
    threads: int = 0
    require_extension: bool = False
    processes: int = 0
    isolate: bool = False
    isolate_memory_mb: int = 8192

    @property
    def most_held(self) -> int:
        """Bytes of a recording's column that are held in memory; a longer one waits on the disk."""
        return self.max_memory_mb * 2**20 // COLUMNS


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Who runs the shards, how often a transient fault is tried again, how long a shard may take. The rest is for ray.

    address:         of a Ray cluster, or auto for this machine's; None: RAY_ADDRESS, else a cluster just for this run
    workers:         0: as many as the cluster's GPUs (or, where workers have none, CPUs and memory) carry, now or later
    gpus_per_worker: fractions share a card; None: 1 where compute.device is not cpu and the cluster has GPUs, else 0
    memory_mb:       what Ray sets aside for each worker; 0: compute.max_memory_mb and eight shards
    shard_deadline:  seconds; a shard that takes longer is given up and tried elsewhere; 0: it may take for ever
    """

    mode: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int = 0
    gpus_per_worker: float | None = None
    cpus_per_worker: float = 1.0
    memory_mb: int = 0
    max_attempts: int = 3
    shard_deadline: float = 4 * 3600.0

    def to_join(self) -> str | None:
        """The address of the cluster that a run joins; None: one on this machine, started for the run."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address == "local" else address


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """Which split an episode belongs to, by its id alone.

    shares: of each split, which add up to 1; an episode's place among them is a hash of its id
    ids:    the split of each id, instead of that
    """

    shares: tuple[tuple[str, float], ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)

    def of(self, id: str) -> str:
        """The split's name; empty where it belongs to none."""
        if not self.shares:
            return self.ids.get(id, "")
        digest = hashlib.sha256(id.encode("utf-8", "backslashreplace")).digest()
        place, below = int.from_bytes(digest[:8], "big") / 2**64, 0.0
        for name, share in self.shares:
            below += share
            if place < below:
                return name
        return self.shares[-1][0]


@dataclass(frozen=True)
class Job:
    """One run.

    max_failed_episodes: how many quarantined episodes still count as success
    max_vanished:        how many committed episodes that the input no longer has are withdrawn without a word
    read_timeout:        seconds that reading one episode may take; 0: for ever
    """

    input: InputSpec
    features: tuple[Feature, ...]
    timeline: TimelineSpec
    output: OutputSpec
    compute: ComputeSpec = ComputeSpec()
    cluster: ClusterSpec = ClusterSpec()
    quality: QualitySpec = QualitySpec()
    max_failed_episodes: int = 0
    max_vanished: int = 0
    read_timeout: float = 3600.0
    splits: SplitSpec = SplitSpec()
    segments: SegmentSpec = SegmentSpec()

    @property
    def feature_sources(self) -> tuple[FeatureSource, ...]:
        """Every source of every feature, in config order."""
        return tuple(s for f in self.features for s in f.streams)

    @property
    def reference(self) -> FeatureSource | None:
        """The source whose stamps are the timeline, with the clock and offset that a feature gives it."""
        path = self.timeline.reference
        if path is None:
            return None
        return next((s for s in self.feature_sources if s.source == path), FeatureSource(path))

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every signal that a reader must deliver, each once, in config order."""
        wanted = [Source(s.source, s.stamp) for s in self.feature_sources]
        if self.reference is not None:
            wanted.append(Source(self.reference.source, self.reference.stamp))
        return tuple(dict.fromkeys(wanted))

    def identity(self) -> str:
        """Hash of what decides the bytes of a part. Device, threads, memory, workers and retries do not, nor where the
        input lies and which of it shares a part.
        """
        return self._identity

    @cached_property  # every record of every shard names it
    def _identity(self) -> str:
        input = dataclasses.asdict(replace(self.input, uri=(), storage_options={}, fingerprint="version"))
        del input["max_unpacked"]
        decisive = {
            "version": OUTPUT_VERSION,
            "input": input,
            "features": [f.decisive() for f in self.features],
            "timeline": self.timeline.decisive(),
            "quality": self.quality.decisive(),
            "output": self.output.decisive(),
        }
        if self.segments != SegmentSpec():  # outputs from before there were segments have the identity that they had
            decisive["segments"] = self.segments.decisive()
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]
