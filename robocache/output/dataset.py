"""A dataset that a run has made, opened to be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from robocache.errors import OutputError
from robocache.output import layout, tables
from robocache.output.documents import mapping, parsed, unpacked, unpacked_arrow
from robocache.output.layout import EPISODES, META, QUARANTINE, REPORT, STATISTICS
from robocache.output.manifest import PartRecord, QuarantineRecord, ShardRecord, open_log, read_manifest
from robocache.output.plan import Plan
from robocache.output.store import Store
from robocache.output.version import LARGEST, Version, list_versions, refuse_former

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset


#: Files of statistics that are read at the same time.
_PARTS = 64


class Output:
    """One version of the output of ``robocache run`` at ``uri``, made by :meth:`open`. It stays what it is while runs
    add to the output, for as long as ``output.keep_versions`` has it kept. A property is read when it is first asked
    for. All raise ``OutputError`` where what they read is damaged or not there.

    version: what it is, see :class:`robocache.output.version.Version`
    """

    def __init__(self, store: Store, version: Version):
        self.store, self.uri, self.version = store, store.uri, version
        self.log = open_log(store, layout.manifest_file(version.number))

    @classmethod
    def open(cls, uri: str, storage_options: Mapping[str, Any] | None = None, *, version: int | None = None) -> Output:
        """version: its number, as ``robocache log`` lists it; None: the newest. ``OutputError`` where there is none."""
        store = Store(uri, storage_options)
        there = list_versions(store)
        if not there.newest:
            refuse_former(store)
            begun = "; a run has begun it and none has ended yet, run again" if there.unfinished else ""
            raise OutputError(f"{uri} holds no {layout.VERSIONS}: it is not an output of robocache run{begun}")
        number = there.newest if version is None else version
        if number not in there.kept:
            what = "is no longer kept (output.keep_versions)" if number in there.standing else "is not there"
            raise OutputError(f"{uri}: version {number} {what}; there are {', '.join(map(str, there.kept))}")
        return cls(store, Version.read(store, number))

    @property
    def identity(self) -> str:
        """Hash of what decided the bytes of its parts."""
        return self.version.identity

    @cached_property
    def config(self) -> str:
        """The resolved config that made it, as YAML."""
        name = layout.config_file(self.version.number)
        data = self._read(name)
        with self._readable(name):
            return data.decode()

    @cached_property
    def rate(self) -> Fraction | None:
        """Of its timeline, in Hz; None: it has the stamps of a source."""
        rate = yaml.safe_load(self.config)["timeline"]["rate_hz"]
        return None if rate is None else Fraction(rate)

    @cached_property
    def videos(self) -> dict[str, str]:
        """The files that its rows refer to: URIs by the paths that stand in the rows."""
        return {path: uri for record in self.records() for e in record.episodes for path, uri in e.videos.items()}

    @cached_property
    def plan(self) -> Plan:
        """Every episode that it knows of, its number and its shard."""
        name = layout.plan_file(self.version.number)
        try:
            return Plan.read(self.store, name)
        except FileNotFoundError:
            raise self._gone(name) from None

    def records(self) -> Iterator[ShardRecord]:
        """What was committed: a record a shard, in order, one at a time from the disk."""
        places = (place for _, place in sorted(self._places.items()))
        with self._manifest():
            for line in self.log.read(places):
                yield ShardRecord.from_json(line.decode())

    def manifest_sha256(self) -> str:
        """Of the file, as it is now."""
        digest = hashlib.sha256()
        with self._manifest(), self.store.reading(self.log.name) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Names of its files of rows, below ``uri``, in order of their episodes. Once a newer version does without one
        it lies elsewhere: :meth:`table` and :meth:`dataset` find it.
        """
        return tuple(sorted(self._records, key=layout.first_episode))

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each of ``parts``."""
        return {name: part.bytes for name, part in self._records.items()}

    @cached_property
    def _records(self) -> dict[str, PartRecord]:
        """By the names of ``parts``."""
        return {part.name: part for record in self.records() for part in record.parts}

    @cached_property
    def schema(self) -> pa.Schema:
        """Of its rows; without columns where no episode could be used."""
        if not self.parts:
            return pa.schema([])
        with self._part(self.parts[0]) as part:
            return part.schema_arrow if isinstance(part, pq.ParquetFile) else part.schema

    def table(self, part: str, columns: Sequence[str] | None = None, *, max_unpacked_mb: int | None = None) -> pa.Table:
        """The rows of one of ``parts``, or some columns of them.

        max_unpacked_mb: ``OutputError`` where they take more MiB (None: 128), and more than 64 times the part's bytes
        """
        record, most = self._records[part], None if max_unpacked_mb is None else max_unpacked_mb << 20
        with self._part(part) as file:
            if isinstance(file, pq.ParquetFile):
                if file.metadata.num_rows != record.rows:
                    raise ValueError(f"it has {file.metadata.num_rows} rows, the manifest says {record.rows}")
                return unpacked(file, record.bytes, columns, most=most)
        with self._readable(part), self.opened(part) as opened:
            table = unpacked_arrow(pa.py_buffer(opened.read()), most=most)
            return table if columns is None else table.select(columns)

    def rows(self, part: str, begin: int, end: int, names: Sequence[str]) -> tuple[pa.Table, int]:
        """Columns of the row groups, or record batches, of one of ``parts`` that hold its rows ``begin`` to ``end``,
        and the number of their first.
        """
        from robocache.output.following import following

        with self._readable(part), following(self.store).open_input_file(self.store.path(part)) as file:
            if layout.part_format(part) == "parquet":
                return row_groups(pq.ParquetFile(file), begin, end, names)
            fields = [k for k, name in enumerate(pa.ipc.open_file(file).schema.names) if name in names]
            arrow = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
            batches, at, first = [], 0, -1
            for k in range(arrow.num_record_batches):
                batch = arrow.get_batch(k)
                if at < end and at + batch.num_rows > begin:
                    first = at if first < 0 else first
                    batches.append(batch)
                at += batch.num_rows
            return pa.Table.from_batches(batches).select(names), first

    def part_statistics(self) -> Iterator[bytes]:
        """The statistics of each of ``parts``, as :func:`robocache.output.statistics.decode` takes them."""
        names = [layout.statistics_name(part) for part in self.parts]
        for at in range(0, len(names), _PARTS):
            yield from self.store.read_many(names[at : at + _PARTS])

    def dataset(self, split: str | None = None) -> Dataset:
        """Its rows, in order of its episodes, to be scanned with :mod:`pyarrow.dataset`; or those of one split."""
        from pyarrow.dataset import dataset  # half a second, because it imports pandas

        from robocache.output.following import following

        if not self.parts:
            return dataset(pa.table({}))
        format = "ipc" if layout.part_format(self.parts[0]) == "arrow" else "parquet"
        whole = dataset([self.store.path(p) for p in self.parts], format=format, filesystem=following(self.store))
        if split is None:
            return whole
        import pyarrow.compute as pc

        mine = self.episodes.filter(pc.equal(self.episodes["split"], split))["episode_index"]
        if not len(mine):
            raise OutputError(f"{self.uri}: no episode is in a split {split!r}")
        return whole.filter(pc.field("episode_index").isin(mine.combine_chunks()))

    @cached_property
    def episodes(self) -> pa.Table:
        """A row for each episode in it, in order: see :data:`robocache.output.tables.EPISODE_SCHEMA`."""
        data = self._table(EPISODES)
        with self._readable(EPISODES):
            table = unpacked(pq.ParquetFile(pa.BufferReader(data)), len(data))
            if not table.schema.equals(tables.EPISODE_SCHEMA):
                raise ValueError(f"its columns are not {', '.join(tables.EPISODE_SCHEMA.names)}")
            return table

    @cached_property
    def quarantine(self) -> tuple[QuarantineRecord, ...]:
        """The episodes that could not be used, and why."""
        data = self._table(QUARANTINE)
        with self._readable(QUARANTINE):
            return tuple(QuarantineRecord.from_json(line.decode()) for line in data.splitlines())

    @cached_property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """By column: count, and for each of its numbers min, max, mean, std and quantiles."""
        data = self._table(STATISTICS)
        with self._readable(STATISTICS):
            return mapping(parsed(data))

    @cached_property
    def report(self) -> dict[str, Any]:
        """How the last run went, of whichever version: totals, seconds, versions."""
        data = self._read(REPORT)
        with self._readable(REPORT):
            return mapping(parsed(data))

    def made(self, name: str) -> bytes | None:
        """The table of that name, where it is there and of this version."""
        try:
            data = self.store.read(name, self.largest)
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == self.version.tables.get(name) else None

    def opened(self, part: str) -> AbstractContextManager[IO[bytes]]:
        """One of ``parts``, wherever it lies now, also where it moves meanwhile. ``FileNotFoundError`` where it is
        gone.
        """
        return self.store.reading(*layout.ways(part))

    def unreadable(self, part: str, error: Exception) -> OutputError:
        """What to say where one of ``parts`` cannot be read because of ``error``."""
        if isinstance(error, FileNotFoundError) and self.version.number not in list_versions(self.store).kept:
            return self._gone(part)
        return OutputError(f"{self.uri}/{part} cannot be read ({error}); `robocache verify` says what is damaged")

    @cached_property
    def largest(self) -> int:
        """Bytes of a table, which is made of the records."""
        return LARGEST + 8 * self.store.size(self.log.name)

    def _table(self, name: str) -> bytes:
        """As it lies there, or made of the records anew."""
        found = self.made(name)
        return tables.make(self.store, self.records, self.plan, (name,))[name] if found is None else found

    @cached_property
    def _places(self) -> dict[int, int]:
        with self._manifest():
            places = {record.shard: place for place, record in read_manifest(self.log)}
        if not places and not self.store.exists(self.log.name):
            raise self._gone(self.log.name)
        return places

    @contextmanager
    def _manifest(self) -> Iterator[None]:
        """A run that sweeps may take the manifest away between two looks at it."""
        try:
            yield
        except FileNotFoundError:
            raise self._gone(self.log.name) from None

    @contextmanager
    def _part(self, name: str) -> Iterator[Any]:
        """The part, opened as a Parquet or as an Arrow file."""
        open_file = pa.ipc.open_file if layout.part_format(name) == "arrow" else pq.ParquetFile
        with self._readable(name), self.opened(name) as file:
            yield open_file(file)

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """``OutputError`` where what lies there is damaged; storage that fails raises an ``OSError`` with a number."""
        try:
            yield
        except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError, pa.ArrowException) as error:
            raise self.unreadable(name, error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise self.unreadable(name, error) from error

    def _read(self, name: str) -> bytes:
        try:
            return self.store.read(name, LARGEST)
        except FileNotFoundError:
            raise self._gone(name) from None

    def _gone(self, name: str) -> OutputError:
        """Why there is no such file."""
        if self.version.number not in list_versions(self.store).kept:
            return OutputError(f"{self.uri}: version {self.version.number} is no longer kept (output.keep_versions)")
        return OutputError(f"{self.uri} has no {name}; a run that ends writes all of {META}, run again")


def row_groups(parquet: pq.ParquetFile, begin: int, end: int, names: Sequence[str]) -> tuple[pa.Table, int]:
    """Columns of the row groups that hold the rows ``begin`` to ``end``, and the number of their first row."""
    told = parquet.metadata
    ends = np.cumsum([0, *(told.row_group(k).num_rows for k in range(told.num_row_groups))])
    first, last = int(np.searchsorted(ends, begin, "right")) - 1, int(np.searchsorted(ends, end, "left"))
    return parquet.read_row_groups(list(range(first, last)), columns=list(names)).select(list(names)), int(ends[first])
