"""A dataset that a run has made, opened to be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import OutputError
from robocache.output import layout
from robocache.output.layout import CONFIG, EPISODES, IDENTITY, META, PLAN, QUARANTINE, REPORT, STATISTICS
from robocache.output.manifest import QuarantineRecord, ShardRecord, open_log, read_manifest
from robocache.output.store import Store

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset


class Output:
    """The output of ``robocache run`` at ``uri``, made by :meth:`open`. A property is read when it is first asked for.

    The rows and what is said of them come from the manifest, which is right during a run too; ``episodes``,
    ``quarantine``, ``statistics`` and ``report`` are written as a run ends. All raise ``OutputError`` where what they
    read is damaged or not there.
    """

    def __init__(self, store: Store):
        self.store, self.uri = store, store.uri

    @classmethod
    def open(cls, uri: str, storage_options: Mapping[str, Any] | None = None) -> Output:
        """``OutputError`` where there is no output of ``robocache run``."""
        output = cls(Store(uri, storage_options))
        if not output.exists():
            raise OutputError(f"{uri} holds no {IDENTITY} and {PLAN}: it is not an output of robocache run")
        return output

    def exists(self) -> bool:
        """Whether a run has written here."""
        return self.store.exists(IDENTITY) and self.store.exists(PLAN)

    @cached_property
    def identity(self) -> str:
        """Hash of what decided the bytes of its parts."""
        try:
            return json.loads(self._read(IDENTITY))["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.uri}/{IDENTITY} cannot be read ({error}); run again with --overwrite") from error

    @cached_property
    def config(self) -> str:
        """The resolved config of its last run, as YAML."""
        return self._read(CONFIG).decode()

    def records(self) -> Iterator[ShardRecord]:
        """What was committed: a record a shard, in order, one at a time from the disk."""
        log, places = self._manifest
        for line in log.read(place for _, place in sorted(places.items())):
            yield ShardRecord.from_json(line.decode())

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Names of its files of rows, below ``uri``."""
        return tuple(record.part for record in self.records() if record.part)

    @cached_property
    def schema(self) -> pa.Schema:
        """Of its rows; without columns where no episode could be used."""
        if not self.parts:
            return pa.schema([])
        with self._part(self.parts[0]) as part:
            return part.schema_arrow if isinstance(part, pq.ParquetFile) else part.schema

    def table(self, part: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one of ``parts``, or some columns of them."""
        with self._part(part) as file:
            if isinstance(file, pq.ParquetFile):
                return file.read(columns=columns)
            table = file.read_all()
            return table if columns is None else table.select(columns)

    def dataset(self) -> Dataset:
        """Its rows, in order of its episodes, to be scanned with :mod:`pyarrow.dataset`."""
        from pyarrow.dataset import dataset  # half a second, because it imports pandas

        if not self.parts:
            return dataset(pa.table({}))
        format = "ipc" if layout.part_format(self.parts[0]) == "arrow" else "parquet"
        return dataset([self.store.path(p) for p in self.parts], format=format, filesystem=self.store.fs)

    @cached_property
    def episodes(self) -> pa.Table:
        """A row for each episode in it, in order: see :data:`robocache.output.tables.EPISODE_SCHEMA`."""
        data = self._read(EPISODES)
        try:
            return pq.ParquetFile(pa.BufferReader(data)).read()
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.uri}/{EPISODES} cannot be read ({error}); run again") from error

    @cached_property
    def quarantine(self) -> tuple[QuarantineRecord, ...]:
        """The episodes that could not be used, and why."""
        try:
            lines = self._read(QUARANTINE).splitlines()
            return tuple(QuarantineRecord.from_json(line.decode()) for line in lines)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.uri}/{QUARANTINE} cannot be read ({error}); run again") from error

    @cached_property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """By column: count, and for each of its numbers min, max, mean, std and quantiles."""
        return self._json(STATISTICS)

    @cached_property
    def report(self) -> dict[str, Any]:
        """How its last run went: totals, seconds, versions."""
        return self._json(REPORT)

    @cached_property
    def _manifest(self) -> Any:
        log = open_log(self.store)
        return log, {record.shard: place for place, record in read_manifest(log)}

    @contextmanager
    def _part(self, name: str) -> Iterator[Any]:
        """The part, opened as a Parquet or as an Arrow file."""
        open_file = pa.ipc.open_file if layout.part_format(name) == "arrow" else pq.ParquetFile
        try:
            with self.store.reading(name) as file:
                yield open_file(file)
        except (FileNotFoundError, ValueError) as error:
            raise OutputError(
                f"{self.uri}/{name} cannot be read ({error}); `robocache verify` says what is damaged"
            ) from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads(self._read(name))
        except ValueError as error:
            raise OutputError(f"{self.uri}/{name} cannot be read ({error}); run again") from error

    def _read(self, name: str) -> bytes:
        try:
            return self.store.read(name)
        except FileNotFoundError:
            raise OutputError(f"{self.uri} has no {name}; a run that ends writes all of {META}, run again") from None
