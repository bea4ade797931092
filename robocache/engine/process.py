"""Process one shard: read, align, encode. The same function runs in-process, in a Ray actor and in a Ray Data batch.

It knows no file format and no kernel by name, and gives the same bytes wherever it runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import pyarrow as pa
import torch

from robocache.config.job import Job
from robocache.engine.align import AlignedEpisode, Aligner
from robocache.engine.reading import Reading
from robocache.engine.retry import transient
from robocache.engine.shards import Shard
from robocache.engine.source_types import SourceTypes
from robocache.errors import ConfigError, DeviceLostError, InputError, OutputError, TooLargeError, UnexpectedError
from robocache.ops import _library
from robocache.output import parts, statistics
from robocache.output.layout import part_name, statistics_name
from robocache.output.manifest import EpisodeRecord, PartRecord, QuarantineRecord, ShardRecord
from robocache.output.statistics import Statistics
from robocache.output.store import Store
from robocache.stages import Stages
from robocache.types import Episode, EpisodeRef, StreamReport, prepare_threads

prepare_threads()  # whoever processes shards does so on several

logger = logging.getLogger("robocache")

_REPORTED = tuple(field.name for field in dataclasses.fields(StreamReport))

#: Episodes that are not to be tried any more: index -> reason.
Blamed = Mapping[int, str]
NOBODY: Blamed = MappingProxyType({})


@dataclass
class ShardResult:
    """A processed shard, not yet written: its record, and of each part of it the bytes and those of its statistics."""

    record: ShardRecord
    parts: tuple[tuple[pa.Buffer, pa.Buffer], ...] = ()


@dataclass(frozen=True)
class Processor:
    """Everything that processing a shard needs, the same for all shards; can be pickled.

    types: from :func:`robocache.engine.source_types.resolve`; device: a torch device
    """

    job: Job
    types: SourceTypes
    device: str = "cpu"

    @cached_property
    def aligner(self) -> Aligner:
        """What brings an episode to its timeline."""
        return Aligner(self.job, self.types, self.device)

    @cached_property
    def reading(self) -> Callable[[EpisodeRef], Episode]:
        """What reads an episode, in this process or another one."""
        return Reading.of(self.job, self.types)

    def process(
        self,
        shard: Shard,
        *,
        last_attempt: bool = True,
        blamed: Blamed = NOBODY,
        lean: bool = False,
        read: Callable[[EpisodeRef], Episode] | None = None,
        stages: Stages | None = None,
    ) -> ShardResult:
        """Read and align the shard's episodes and encode its parts.

        An episode that cannot be used is quarantined with its reason, and so are those ``blamed``, unread. ``OSError``
        and out-of-memory faults may pass: they are raised for another attempt, unless this is the last one, which
        quarantines them too. ``DeviceLostError``: no fault of the episode, and nothing more can be done here.
        lean: hold one episode at a time, which changes no byte; read: instead of :attr:`reading`
        """
        read, stages = read or self.reading, stages or Stages()
        pile = _Pile(self)
        made: list[EpisodeRecord] = []
        quarantined: list[QuarantineRecord] = []
        refs = dict(shard.episodes())
        batch: dict[int, Episode] = {}

        def refuse(index: int, ref: EpisodeRef, error: Exception) -> None:
            reason, retry = self.blame(error, ref.id, last_attempt=last_attempt)
            quarantined.append(QuarantineRecord(index, ref.id, _uris(ref), reason, retry))

        def align() -> None:
            found = self.aligner.align(batch, stages)  # which leaves nothing in the batch
            for index, aligned in found.items():
                ref = refs[index]
                if isinstance(aligned, Exception):
                    refuse(index, ref, named(aligned, _uris(ref), ref.id))
                    continue
                with stages.time("encode"):
                    pile.add(index, aligned)
                made.append(_record(index, ref, aligned))

        size = 0
        for index, ref in refs.items():
            if index in blamed:
                quarantined.append(QuarantineRecord(index, ref.id, _uris(ref), blamed[index], retry=True))
                continue
            try:
                with stages.time("decode"):
                    episode = read(ref)
            except Exception as error:
                refuse(index, ref, error)
                continue
            batch[index] = episode
            size += episode.nbytes
            del episode
            if lean or size >= self.aligner.batch_bytes:
                align()
                size = 0
        align()
        with stages.time("encode"):
            pile.close()
        record = ShardRecord(
            shard.index,
            self.job.identity(),
            shard.fingerprint(),
            tuple(pile.records),
            tuple(made),
            tuple(sorted(quarantined, key=lambda q: q.index)),
        )
        return ShardResult(record, tuple(pile.parts))

    def blame(self, error: Exception, episode_id: str, *, last_attempt: bool) -> tuple[str, bool]:
        """Why the episode that was being read or aligned goes to the quarantine, and whether the fault may pass.

        Raises ``error`` where it is worth another attempt or no fault of the episode, ``DeviceLostError`` where
        nothing more can be done in this process.
        """
        if isinstance(error, OutputError):
            raise error
        if isinstance(error, InputError):
            return str(error), isinstance(error, (UnexpectedError, TooLargeError))
        if transient(error):
            if not last_attempt:
                raise error
            return f"{type(error).__name__} on every attempt: {error}", True
        if not device_usable(self.device):
            raise DeviceLostError(f"{self.device}, at episode {episode_id}: {error}") from error
        # A fault of ours, or of data nobody thought of: the run goes on, the episode does not vanish.
        logger.debug("episode %s", episode_id, exc_info=error)
        return f"unexpected {type(error).__name__}: {error}", True


def run_shard(
    processor: Processor,
    store: Store,
    shard: Shard,
    *,
    last_attempt: bool,
    blamed: Blamed = NOBODY,
    lean: bool = False,
    read: Callable[[EpisodeRef], Episode] | None = None,
    stages: Stages | None = None,
) -> ShardRecord:
    """Process a shard and put its part into the output, where it counts once its record is committed.

    As :meth:`Processor.process`; ``OSError`` where the part cannot be written, on the last attempt too.
    """
    stages = stages or Stages()
    result = processor.process(shard, last_attempt=last_attempt, blamed=blamed, lean=lean, read=read, stages=stages)
    with stages.time("write"):
        for (part, beside), record in zip(result.parts, result.record.parts, strict=True):
            store.write(statistics_name(record.name), beside)
            store.write(record.name, part)
    return result.record


class _Pile:
    """The parts of a shard: a new one once the episodes in the last hold ``output.part_mb`` before they are encoded."""

    def __init__(self, processor: Processor):
        self._output = processor.job.output
        self._tables: list[pa.Table] = []
        self._statistics: dict[int, dict[str, Statistics]] = {}
        self._bytes = 0
        self.parts: list[tuple[pa.Buffer, pa.Buffer]] = []
        self.records: list[PartRecord] = []

    def add(self, index: int, aligned: AlignedEpisode) -> None:
        self._tables.append(aligned.table)
        self._statistics[index] = {
            self._output.column(name): s
            for name, (values, valid) in aligned.columns.items()
            if (s := statistics.of_column(values, valid)) is not None
        }
        self._bytes += aligned.table.nbytes
        if self._bytes >= self._output.part_mb * 1_000_000:
            self.close()

    def close(self) -> None:
        """What is on the pile is a part."""
        if not self._tables:
            return
        out = self._output
        part = parts.encode(
            self._tables,
            out.format,
            out.codec,
            separator=out.name_separator,
            byte_stream_split=out.byte_stream_split,
            group_rows=out.row_group_rows,
        )
        beside, sha256 = statistics.encode(self._statistics), hashlib.sha256(part).hexdigest()
        self.records.append(
            PartRecord(
                part_name(next(iter(self._statistics)), sha256, self._output.format),
                len(self._tables),
                sum(table.num_rows for table in self._tables),
                part.size,
                sha256,
                hashlib.sha256(beside).hexdigest(),
            )
        )
        self.parts.append((part, beside))
        self._tables, self._statistics, self._bytes = [], {}, 0


def named(error: Exception, files: Sequence[str], episode_id: str) -> Exception:
    """An ``InputError`` with the file that the episode is read from before it; any other as it is."""
    if not isinstance(error, InputError):
        return error
    kind = TooLargeError if isinstance(error, TooLargeError) else InputError
    return kind(f"{files[0] if files else episode_id}: {error}")


def _uris(ref: EpisodeRef) -> tuple[str, ...]:
    return tuple(f.uri for f in ref.files)


def _record(index: int, ref: EpisodeRef, aligned: AlignedEpisode) -> EpisodeRecord:
    return EpisodeRecord(
        index,
        ref.id,
        _uris(ref),
        aligned.table.num_rows,
        aligned.start_ns,
        tuple({name: getattr(report, name) for name in _REPORTED} for report in aligned.reports),
        dict(aligned.metadata),
        aligned.quality,
        dict(aligned.videos),
    )


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
