"""Process one shard: read, align, encode. The same function runs in-process, in a Ray actor and in a Ray Data batch.

It knows no file format and no kernel by name, and gives the same bytes wherever it runs.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from robocache.config.job import FeatureSource, Job
from robocache.engine.clean import StreamReport, clean
from robocache.engine.retry import TRANSIENT
from robocache.engine.shards import Shard
from robocache.engine.source_types import SourceType, feature_types, source_type
from robocache.engine.timeline import target_times
from robocache.errors import ConfigError, DeviceLostError, InputError, OutputError
from robocache.formats import read_episode
from robocache.ops import StreamSpec, _library
from robocache.ops.chunked import fuse_multimodal_chunked
from robocache.output import parts, schema
from robocache.output.records import EpisodeRecord, QuarantineRecord, ShardRecord
from robocache.output.schema import FeatureType
from robocache.output.statistics import Statistics
from robocache.output.store import Store
from robocache.types import Episode, EpisodeRef, Stream

logger = logging.getLogger("robocache")

#: Episodes that are not to be tried any more: index -> reason.
Blamed = Mapping[int, str]
NOBODY: Blamed = MappingProxyType({})


@dataclass
class AlignedEpisode:
    """An episode on its timeline: ``table`` as :func:`robocache.output.schema.episode_table`, and what was found."""

    table: pa.Table
    reports: list[StreamReport]
    metadata: Mapping[str, Any]
    start_ns: int


@dataclass
class ShardResult:
    """A processed shard, not yet written. ``part`` is None where no episode of it could be used."""

    part: pa.Buffer | None
    record: ShardRecord


@dataclass
class Stages:
    """Seconds by stage of one shard: read, align, encode, write."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Processor:
    """Everything that processing a shard needs, the same for all shards; can be pickled.

    types: from :func:`robocache.engine.source_types.resolve`; device: a torch device
    """

    job: Job
    types: Mapping[str, SourceType]
    device: str = "cpu"
    features: list[FeatureType] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", feature_types(self.job.features, self.types) if self.types else [])

    def read(self, ref: EpisodeRef) -> Episode:
        """The episode's streams as recorded. ``InputError`` where it cannot be used, ``OSError`` where it may yet."""
        if ref.failure:
            raise InputError(ref.failure)
        return read_episode(ref, self.job.sources, self.job.input)

    def process(
        self,
        shard: Shard,
        *,
        last_attempt: bool = True,
        blamed: Blamed = NOBODY,
        read: Callable[[EpisodeRef], Episode] | None = None,
        stages: Stages | None = None,
    ) -> ShardResult:
        """Read and align the shard's episodes and encode its part.

        An episode that cannot be used is quarantined with its reason, and so are those ``blamed``, unread. ``OSError``
        and out-of-memory faults may pass: they are raised for another attempt, unless this is the last one, which
        quarantines them too. ``DeviceLostError``: no fault of the episode, and nothing more can be done here.
        read: instead of :meth:`read`
        """
        read, stages = read or self.read, stages or Stages()
        tables: list[pa.Table] = []
        episodes: list[EpisodeRecord] = []
        quarantined: list[QuarantineRecord] = []
        for index, ref in enumerate(shard.refs, shard.first_episode):
            files = tuple(f.uri for f in ref.files)
            if index in blamed:
                quarantined.append(QuarantineRecord(index, ref.id, files, blamed[index], retry=True))
                continue
            try:
                with stages.time("read"):
                    episode = read(ref)
                with stages.time("align"), naming(files, ref.id):
                    aligned = self.align(index, episode)
            except Exception as error:
                reason, retry = self.blame(error, ref.id, last_attempt=last_attempt)
            else:
                tables.append(aligned.table)
                episodes.append(
                    EpisodeRecord(
                        index,
                        ref.id,
                        files,
                        aligned.table.num_rows,
                        aligned.start_ns,
                        tuple(aligned.reports),
                        dict(aligned.metadata),
                    )
                )
                continue
            quarantined.append(QuarantineRecord(index, ref.id, files, reason, retry))
        record = ShardRecord(
            shard.index, self.job.identity(), shard.fingerprint(), "", 0, 0, "", tuple(episodes), tuple(quarantined)
        )
        if not tables:
            return ShardResult(None, record)
        output = self.job.output
        arrow = schema.arrow_schema(self.features)
        with stages.time("encode"):
            part = parts.encode(arrow, tables, self._statistics(tables), output.format, output.compression)
        record = replace(
            record,
            part=shard.part(output.format),
            rows=sum(t.num_rows for t in tables),
            bytes=part.size,
            sha256=hashlib.sha256(part).hexdigest(),
        )
        return ShardResult(part, record)

    def blame(self, error: Exception, episode_id: str, *, last_attempt: bool) -> tuple[str, bool]:
        """Why the episode that was being read or aligned goes to the quarantine, and whether the fault may pass.

        Raises ``error`` where it is worth another attempt or no fault of the episode, ``DeviceLostError`` where
        nothing more can be done in this process.
        """
        if isinstance(error, OutputError):
            raise error
        if isinstance(error, InputError):
            return str(error), False
        if isinstance(error, TRANSIENT):
            if not last_attempt:
                raise error
            return f"{type(error).__name__} on every attempt: {error}", True
        if not device_usable(self.device):
            raise DeviceLostError(f"{self.device}, at episode {episode_id}: {error}") from error
        # A fault of ours, or of data nobody thought of: the run goes on, the episode does not vanish.
        logger.debug("episode %s", episode_id, exc_info=error)
        return f"unexpected {type(error).__name__}: {error}", True

    def align(self, index: int, episode: Episode) -> AlignedEpisode:
        """Bring every source of an episode to its timeline and lay the features side by side."""
        streams: dict[str, Stream] = {}
        reports: dict[str, StreamReport] = {}
        stamps: dict[str, np.ndarray] = {}
        wanted = [s for feature in self.job.features for s in feature.sources]
        if self.job.timeline.reference is not None:
            wanted.append(FeatureSource(self.job.timeline.reference))
        for s in wanted:
            stream = episode.streams.get(s.source)
            if stream is None:
                if s.source == self.job.timeline.reference:
                    raise InputError(f"no {s.source} in it, which is timeline.reference")
                if not s.optional:
                    raise InputError(f"no {s.source} in it; set optional: true to keep episodes without it")
                continue
            if s.source not in streams:
                self.check_type(s.source, stream)
                streams[s.source], reports[s.source] = clean(s.source, stream, s.max_gap)
            clock = s.source if s.offset == 0 else f"{s.source} ({s.offset:+d} ns)"
            stamps[clock] = streams[s.source].times + s.offset
        times = target_times(self.job.timeline, stamps)
        columns = self._columns(streams, reports, times)
        table = schema.episode_table(self.features, index, times, columns)
        return AlignedEpisode(table, list(reports.values()), episode.metadata, int(times[0]))

    def check_type(self, source: str, stream: Stream) -> None:
        """``InputError`` where a stream that has samples is not of the kind and shape settled for its source."""
        expected, found = self.types[source], source_type(stream, "")
        if (found.kind, found.shape) != (expected.kind, expected.shape) and len(stream.times):
            raise InputError(
                f"{source} holds {found.kind} {list(found.shape)} here and {expected.kind} {list(expected.shape)} in "
                f"{expected.seen_in}, which fixed the dataset's columns; give this kind of robot a dataset of its own"
            )

    def _columns(
        self, streams: Mapping[str, Stream], reports: dict[str, StreamReport], times: np.ndarray
    ) -> dict[str, tuple[np.ndarray | pa.Array, np.ndarray]]:
        """Every feature's values and validity on the timeline: one fused alignment of all sources."""
        sources = [s for feature in self.job.features for s in feature.sources]
        specs = [self._spec(s, streams.get(s.source)) for s in sources]
        fused, valid = fuse_multimodal_chunked(
            specs,
            torch.from_numpy(times).unsqueeze(0),
            out_dtype=torch.float64 if any(self.types[s.source].kind != "float" for s in sources) else torch.float32,
            max_memory_mb=self.job.compute.max_memory_mb,
            device=self.device,
            validate=False,  # clean() has sorted them
        )
        values, ok = fused[0].numpy(), valid[0].numpy()
        columns: dict[str, tuple[np.ndarray | pa.Array, np.ndarray]] = {}
        column = m = 0
        for feature, kind in zip(self.job.features, self.features, strict=True):
            width = sum(specs[m + k].values.shape[-1] for k in range(len(feature.sources)))
            block = values[:, column : column + width]
            if kind.kind == "float":
                columns[feature.name] = (block.astype(np.float32), np.all(ok[:, m : m + len(feature.sources)], axis=1))
            else:
                payloads = streams.get(feature.sources[0].source)
                columns[feature.name] = (_payloads(payloads, block[:, 0], kind), ok[:, m])
            for k, s in enumerate(feature.sources):
                if s.source in reports:
                    share = float(ok[:, m + k].mean())
                    reports[s.source] = replace(reports[s.source], valid_share=share)
            column += width
            m += len(feature.sources)
        return columns

    def _spec(self, s: FeatureSource, stream: Stream | None) -> StreamSpec:
        """The stream as the kernels take it: payloads are represented by their row numbers."""
        kind = self.types[s.source]
        if stream is None or not len(stream.times):
            width = kind.width if kind.kind == "float" else 1
            values, times = np.zeros((0, width), np.float64), np.zeros(0, np.int64)
        elif not isinstance(stream.values, np.ndarray):
            values, times = np.arange(len(stream.times), dtype=np.float64)[:, None], stream.times
        else:
            values, times = np.asarray(stream.values).reshape(len(stream.times), kind.width), stream.times
        return StreamSpec(
            torch.from_numpy(np.require(values, requirements="W")).unsqueeze(0),  # torch warns of read-only memory
            torch.from_numpy(np.require(times, requirements="W")).unsqueeze(0),
            s.align,
            max_gap=s.max_gap,
            offset=s.offset,
        )

    def _statistics(self, tables: list[pa.Table]) -> dict[str, Statistics]:
        out = {}
        for feature in self.features:
            if feature.kind != "float" or feature.width == 0:
                continue
            per_episode = []
            for table in tables:
                column = table.column(feature.name).combine_chunks()
                while isinstance(column, pa.FixedSizeListArray):
                    column = column.flatten()
                values = column.to_numpy(zero_copy_only=False).reshape(table.num_rows, feature.width)
                usable = table.column(f"{feature.name}.valid").to_numpy()
                if not np.isfinite(values).all():
                    usable = usable & np.isfinite(values).all(axis=1)
                per_episode.append(values if usable.all() else values[usable])
            out[feature.name] = Statistics.of(np.concatenate(per_episode))
        return out


def run_shard(
    processor: Processor,
    store: Store,
    shard: Shard,
    *,
    last_attempt: bool,
    blamed: Blamed = NOBODY,
    read: Callable[[EpisodeRef], Episode] | None = None,
    stages: Stages | None = None,
) -> ShardRecord:
    """Process a shard and put its part into the output, where it counts once its record is committed.

    As :meth:`Processor.process`; ``OSError`` where the part cannot be written, on the last attempt too.
    """
    stages = stages or Stages()
    result = processor.process(shard, last_attempt=last_attempt, blamed=blamed, read=read, stages=stages)
    if result.part is not None:
        with stages.time("write"):
            store.write(result.record.part, result.part)
    return result.record


@contextmanager
def naming(files: Sequence[str], episode_id: str) -> Iterator[None]:
    """Let an ``InputError`` begin with the file that the episode is read from."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{files[0] if files else episode_id}: {error}") from None


def pick_device(job: Job) -> str:
    """The torch device of ``compute.device``. ``ConfigError`` where it or a required extension is missing."""
    device = job.compute.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and _library.has_kernel("fuse", torch.device("cuda")) else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["compute.device: cuda, but torch sees no CUDA device; use auto or cpu"])
    if job.compute.require_extension and not _library.has_kernel("fuse", torch.device(device)):
        why = _library.reason() or "it was built without CUDA"
        raise ConfigError([f"compute.require_extension: true, but there are no compiled kernels for {device}: {why}"])
    return device


def device_usable(device: str) -> bool:
    """False once a fault (a device-side assert, an illegal address) has left the process's CUDA context dead."""
    if torch.device(device).type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def _payloads(stream: Stream | None, rows: np.ndarray, kind: FeatureType) -> pa.Array:
    """The payloads that the alignment picked, null where there was nothing to pick from."""
    if stream is None or not len(stream.times):
        return pa.nulls(len(rows), pa.string() if kind.kind == "text" else pa.binary())
    return stream.values.take(pa.array(rows.astype(np.int64)))
