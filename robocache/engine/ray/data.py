"""The Ray Data door: recordings as a dataset of one row an episode, and the engine's alignment for ``map_batches``.

    source = EpisodeDatasource("configs/demo.yaml")
    ray.data.read_datasource(source).map_batches(
        AlignEpisodes,
        fn_constructor_args=(source.processor,),
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_format="pyarrow",
        batch_size=1,
    ).write_parquet("out")

writes the rows of ``robocache run``, bit for bit; how they are spread over files, and which were done in an earlier
run, is Ray Data's business. Columns of an episode's row:

    index     int64, its place in the listing: ``episode_index`` of its output rows
    id        string, as in ``robocache plan``
    files     list<string>, URIs, the main one first
    metadata  string, JSON
    failure   string, why the episode cannot be used; null where it can
    streams   struct, a field for each source of the config, its fields null where the recording lacks it or failed:
              times   large_list<int64>, nanoseconds, as recorded: perhaps unsorted, with repeated stamps
              values  large_list, an item a sample: a number, a fixed_size_list of numbers (nested for 2-D and more),
                      large_binary or large_string
              dtype   string, the numbers' dtype as recorded: Ray widens numbers where it joins blocks that differ;
                      null for payloads
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

try:
    import ray
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask
except ImportError as error:
    raise ImportError(
        f"AlignEpisodes and read_episodes need Ray Data ({error}); pip install 'robocache[ray]'"
    ) from error

from robocache.config.job import Job
from robocache.config.load import to_job
from robocache.engine.bounded import Bounded
from robocache.engine.process import Processor, named, pick_device
from robocache.engine.reading import bounded_reading
from robocache.engine.retry import with_retries
from robocache.engine.run import listing
from robocache.engine.shards import Shard, plan_shards
from robocache.errors import ConfigError, DeviceLostError, InputError
from robocache.features.columns import number_array
from robocache.output.store import Store
from robocache.types import Episode, EpisodeRef, Stream, StreamType, Values, numpy_type

logger = logging.getLogger("robocache")

_TIMES = pa.large_list(pa.int64())
_HEAD = ["index", "id", "files", "metadata", "notes", "failure"]


def read_episodes(
    config: str | Mapping[str, Any] | Job, overrides: Sequence[str] = (), **options: Any
) -> ray.data.Dataset:
    """The recordings of a config as a dataset of one row an episode (see the module's text), read as they are needed.

    config, overrides: as :func:`robocache.run`; options: of ``ray.data.read_datasource``, e.g. ``concurrency=8``
    Errors as :class:`EpisodeDatasource`.
    """
    return ray.data.read_datasource(EpisodeDatasource(config, overrides), **options)


class EpisodeDatasource(Datasource):
    """Lists the recordings of a config and settles what each source is, as ``robocache run`` does before it starts.

    processor: what :class:`AlignEpisodes` takes
    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OSError`` where the storage fails.
    """

    def __init__(self, config: str | Mapping[str, Any] | Job, overrides: Sequence[str] = ()):
        super().__init__()
        job = to_job(config, overrides)
        listed = listing(job)
        self._refs = listed.episodes
        self.processor = Processor(job, listed.types)

    def estimate_inmemory_data_size(self) -> int:
        return sum(ref.nbytes for ref in self._refs)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """A task for each ``output.shard_mb`` of input, or smaller ones where that makes fewer than asked for."""
        job = self.processor.job
        size = min(job.output.shard_mb, self.estimate_inmemory_data_size() / max(1, parallelism) / 1e6)
        shards = plan_shards(self._refs, size)
        return [_read_task(self.processor, shard, per_task_row_limit) for shard in shards]


class AlignEpisodes:
    """For ``map_batches``: rows of episodes in, the rows that ``robocache run`` writes out, by the same code.

    processor:  :attr:`EpisodeDatasource.processor`
    quarantine: folder (any fsspec URI; ``output.storage_options`` apply) that gets ``episode-000003.json`` with the
                reason for each episode that cannot be used, which then has no rows; None: the first one ends it all

    Takes ``batch_format="pyarrow"``; with ``num_gpus`` it runs on the GPU that Ray gave the actor. ``InputError``: an
    episode cannot be used and there is no quarantine; ``ConfigError``: no such device, or not a whole path.
    """

    def __init__(self, processor: Processor, quarantine: str | None = None):
        job = processor.job
        if job.compute.device != "cpu" and not ray.get_gpu_ids():
            if job.compute.device == "cuda":
                raise ConfigError(
                    ["compute.device: cuda, but Ray gave this actor no GPU; map_batches(num_gpus=1) does"]
                )
            job = replace(job, compute=replace(job.compute, device="cpu"))
        self.processor = replace(processor, job=job, device=pick_device(job))
        self.quarantine = None
        if quarantine is not None:
            if "://" not in quarantine and not os.path.isabs(quarantine):
                raise ConfigError(
                    [f"quarantine: {quarantine!r} is relative, but actors run elsewhere; write it in full"]
                )
            self.quarantine = Store(quarantine, job.output.storage_options)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        attempts = self.processor.job.cluster.max_attempts
        for row in episode_rows(batch):
            try:
                table = with_retries(attempts, f"episode {row.id}", partial(self._align, row))
            except Exception as error:
                table = self._failed(row, self._reason(row, error))
            yield table

    def _align(self, row: EpisodeRow) -> pa.Table:
        if row.failure:
            raise InputError(row.failure)
        aligned = self.processor.aligner.align({row.index: row.episode})[row.index]
        if isinstance(aligned, Exception):
            raise named(aligned, row.files, row.id)
        return aligned.table

    def _reason(self, row: EpisodeRow, error: Exception) -> str:
        try:
            return self.processor.blame(error, row.id, last_attempt=True)[0]
        except DeviceLostError as lost:  # this actor would fail every batch from here on
            logger.error("%s; ending the process for a clean device", lost)
            logging.shutdown()
            os._exit(1)  # Ray starts another one, and gives it the batch again

    def _failed(self, row: EpisodeRow, reason: str) -> pa.Table:
        if self.quarantine is None:
            raise InputError(f"episode {row.id}: {reason}")
        logger.warning("episode %s: %s", row.id, reason)
        record = {"index": row.index, "id": row.id, "files": row.files, "reason": reason}
        self.quarantine.write(f"episode-{row.index:06d}.json", json.dumps(record).encode())
        return self.processor.aligner.preparer.schema.empty_table()


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """A row of an episodes dataset with its streams as numpy views (payloads as Arrow arrays); none where it failed."""

    index: int
    id: str
    files: tuple[str, ...]
    failure: str
    episode: Episode


def episode_rows(batch: pa.Table) -> Iterator[EpisodeRow]:
    """The rows of a ``batch_format="pyarrow"`` batch, for functions that want arrays. Values are views, read-only."""
    for piece in batch.to_batches():
        streams = piece.column("streams")
        for row, head in enumerate(piece.select(_HEAD).to_pylist()):
            found = {f.name: _stream(streams.field(f.name), row) for f in streams.type}
            told, notes = json.loads(head["metadata"]), tuple(head["notes"])
            episode = Episode(head["id"], {k: s for k, s in found.items() if s}, told, notes)
            yield EpisodeRow(head["index"], head["id"], tuple(head["files"]), head["failure"] or "", episode)


def _read_task(processor: Processor, shard: Shard, row_limit: int | None) -> ReadTask:
    known: dict[str, Any] = {
        "num_rows": len(shard.refs),
        "size_bytes": sum(ref.nbytes for ref in shard.refs),
        "input_files": tuple(f.uri for ref in shard.refs for f in ref.files),
        "exec_stats": None,
        "schema": None,  # gone from newer versions of Ray
    }
    metadata = BlockMetadata(**{f.name: known[f.name] for f in fields(BlockMetadata) if f.name in known})
    limit = {} if row_limit is None else {"per_task_row_limit": row_limit}
    return ReadTask(lambda: _read(processor, shard), metadata, **limit)


def _read(processor: Processor, shard: Shard) -> Iterable[pa.Table]:
    """A block for each episode; Ray joins small ones."""
    with Bounded(processor.job) as bounded:
        yield from _rows(processor, shard, bounded_reading(processor.reading, bounded))


def _rows(processor: Processor, shard: Shard, read: Callable[[EpisodeRef], Episode]) -> Iterator[pa.Table]:
    for index, ref in shard.episodes():
        files, failure = tuple(f.uri for f in ref.files), ""
        try:
            attempts = processor.job.cluster.max_attempts
            episode = with_retries(attempts, f"episode {ref.id}", partial(read, ref))
            try:
                for source, stream in episode.streams.items():
                    processor.aligner.preparer.check_type(source, stream)
            except InputError as error:
                raise named(error, files, ref.id) from None
        except Exception as error:
            failure, _ = processor.blame(error, ref.id, last_attempt=True)
            episode = Episode(ref.id, {})
        yield _block(processor.types.types, EpisodeRow(index, ref.id, files, failure, episode))


def _block(types: Mapping[str, StreamType], row: EpisodeRow) -> pa.Table:
    streams = [_struct(kind, row.episode.streams.get(source)) for source, kind in types.items()]
    columns = {
        "index": pa.array([row.index], pa.int64()),
        "id": pa.array([row.id], pa.string()),
        "files": pa.array([row.files], pa.list_(pa.string())),
        "metadata": pa.array([json.dumps(dict(row.episode.metadata))], pa.string()),
        "notes": pa.array([list(row.episode.notes)], pa.list_(pa.string())),
        "failure": pa.array([row.failure or None], pa.string()),
        "streams": pa.StructArray.from_arrays(streams, list(types)) if types else pa.array([{}], pa.struct([])),
    }
    return pa.table(columns)


def _struct(kind: StreamType, stream: Stream | None) -> pa.Array:
    """One stream as a struct array of length 1, its values of the settled type, so that all blocks have one schema."""
    storage = _storage(kind.arrow)
    types = [_TIMES, pa.large_list(storage), pa.string(), pa.large_list(pa.bool_()), _TIMES, pa.list_(pa.string())]
    if stream is None:
        return pa.nulls(1, pa.struct(zip(_STREAM, types, strict=True)))
    count = len(stream.times)
    values = _samples(stream.values, kind) if count else pa.array([], storage)
    lists: list[pa.Array] = []
    for items in (stream.times, values, stream.present, stream.log_times):
        if items is None:
            lists.append(None)
            continue
        array = pa.array(items.reshape(-1)) if isinstance(items, np.ndarray) else items
        lists.append(pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), array))
    times, values, present, log_times = lists
    arrays = [
        times,
        values,
        pa.array([json.dumps(dict(stream.about))]),
        pa.nulls(1, types[3]) if present is None else present,
        pa.nulls(1, _TIMES) if log_times is None else log_times,
        pa.array([list(stream.notes)], types[5]),
    ]
    return pa.StructArray.from_arrays(arrays, list(_STREAM))


_STREAM = ("times", "values", "about", "present", "log_times", "notes")


def _storage(kind: pa.DataType) -> pa.DataType:
    """Offsets of 64 bits, because Ray joins payloads of many episodes in one array."""
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary(kind) else kind


def _samples(values: Values, kind: StreamType) -> pa.Array:
    """Samples as an Arrow array of the settled type, without a copy where they are of it and contiguous."""
    if not isinstance(values, np.ndarray):
        return values.cast(_storage(kind.arrow))
    return number_array(values.astype(numpy_type(kind.element), copy=False), kind.arrow)


def _stream(structs: pa.StructArray, row: int) -> Stream | None:
    """The inverse of :func:`_struct`."""

    def items(name: str) -> pa.Array | None:
        scalar = structs.field(name)[row]
        return scalar.values if scalar.is_valid else None

    times, array = items("times"), items("values")
    if times is None or array is None:
        return None
    stamps = times.to_numpy().copy()  # torch takes no read-only memory
    kind = StreamType(array.type)
    values: Values = array
    if kind.numeric or pa.types.is_boolean(kind.element):
        while pa.types.is_fixed_size_list(array.type):
            array = array.flatten()
        values = array.to_numpy(zero_copy_only=False).reshape(len(stamps), *kind.shape)
    present, arrived = items("present"), items("log_times")
    return Stream(
        stamps,
        values,
        json.loads(structs.field("about")[row].as_py()),
        None if present is None else present.to_numpy(zero_copy_only=False).reshape(len(stamps), kind.width),
        None if arrived is None else arrived.to_numpy(),
        tuple(structs.field("notes")[row].as_py()),
    )
