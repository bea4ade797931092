"""CSV and Parquet: tables with a time column, one or several of them an episode.

Sources, where an episode is one table: ``column``, ``column[0:3]`` of a list column, ``[a,b,c]``. Where it is
several: ``table.column``, ``table[a,b,c]``, ``table`` (every numeric column but the time), a table's name being its
file's stem or what the group ``table`` of ``input.episode`` matched. Names may themselves hold dots and brackets:
what exists wins, the longest table name first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from robocache.errors import InputError, MissingError
from robocache.formats.base import InputSpec, Selector, open_file, parse_source, read_bytes, select_columns
from robocache.formats.columns import column_values, episode_indices, is_number, read_rows, type_name
from robocache.formats.times import column_times, time_column
from robocache.types import Episode, EpisodeRef, FileStamp, Stream, StreamInfo, Values, rate_times

_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"


@dataclass(frozen=True)
class _Table:
    """One open table: its columns, where its time is, and how to read columns by name.

    time: ``(column, unit)``, or None for a fixed rate
    """

    where: str
    schema: pa.Schema
    load: Callable[[list[str]], pa.Table]
    spec: InputSpec
    time: tuple[str, str] | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", time_column(self.schema, self.spec.times, where=self.where))

    @property
    def columns(self) -> list[str]:
        """Every column but the time."""
        return [name for name in self.schema.names if self.time is None or name != self.time[0]]

    def resolve(self, source: str) -> tuple[tuple[str, ...], Selector | None] | None:
        """The columns that a source (without a table's name) stands for, and the selector within them."""
        names = self.schema.names
        if source in names:
            return (source,), None
        name, selector = parse_source(source)
        if name in names:
            return (name,), selector
        if name:
            return None
        if selector is None:
            return tuple(n for n in self.columns if is_number(self.schema.field(n).type)), None
        # Positions count the columns without the time, so that they do not depend on where the time stands.
        picked: list[str] = []
        for item in selector:
            if isinstance(item, slice):
                picked.extend(self.columns[item])
            elif isinstance(item, int) and -len(self.columns) <= item < len(self.columns):
                picked.append(self.columns[item])
            elif item in names:
                picked.append(str(item))
            else:
                raise MissingError(f"{self.where}: no column {item!r}; its columns are {', '.join(names)}")
        return tuple(picked), ()

    def times(self, data: pa.Table) -> np.ndarray:
        """int64 nanoseconds ``[n]`` of the rows loaded."""
        if self.time is None:
            rate = self.spec.times.rate_hz if self.spec.times else None
            assert rate is not None  # else there would be a column
            return rate_times(data.num_rows, rate)
        name, unit = self.time
        return column_times(data.column(name), unit, where=f"{self.where}: column {name!r}")

    def read(self, sources: dict[str, str]) -> dict[str, Stream]:
        """The streams of those sources that the table has; ``sources`` maps each to its part below the table."""
        found = {s: columns for s, rest in sources.items() if (columns := self.resolve(rest)) is not None}
        if not found:
            return {}
        names = [name for columns, _ in found.values() for name in columns]
        data = self.load(list(dict.fromkeys(names + ([self.time[0]] if self.time else []))))
        times = self.times(data)
        return {s: Stream(times, self._values(data, *columns)) for s, columns in found.items()}

    def _values(self, data: pa.Table, names: tuple[str, ...], selector: Selector | None) -> Values:
        parts: list[Values] = []
        for name in names:
            where = f"{self.where}: column {name!r}"
            values = column_values(data.column(name), where=where)
            if selector is not None or len(names) > 1:
                if not isinstance(values, np.ndarray):
                    raise InputError(f"{where}: holds {data.column(name).type}, numbers are needed to select from it")
                values = select_columns(values, selector or (slice(None),), where=where)
            parts.append(values)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if parts else np.empty((data.num_rows, 0), np.float32)


class _TableReader(ABC):
    """What CSV and Parquet share; a format adds how a file becomes a :class:`_Table`."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _open(self, file: FileStamp, key: str, spec: InputSpec) -> AbstractContextManager[_Table]: ...

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode: the file, or the files that ``input.episode`` puts together."""
        return [EpisodeRef(id, self.name, tuple(files), nbytes=sum(f.size for f in files))]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Each column is a stream where the episode is one table; else each table, its columns as fields."""
        found = []
        for table_name, file in zip(ref.tables or ("",), ref.files, strict=True):
            with self._open(file, ref.key, spec) as table:
                times = table.times(table.load([table.time[0] if table.time else table.schema.names[0]]))
                fields = tuple((name, type_name(table.schema.field(name).type)) for name in table.columns)
            if ref.tables:
                found.append(StreamInfo(table_name, self.name, fields, times))
            else:
                found.extend(StreamInfo(name, kind, (), times) for name, kind in fields)
        return found

    def read(self, ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> Episode:
        """Read the named sources: of each table only the columns asked for, once."""
        streams: dict[str, Stream] = {}
        tables = sorted(zip(ref.tables or ("",), ref.files, strict=True), key=lambda t: len(t[0]), reverse=True)
        for table_name, file in tables:
            mine = {s: rest for s in sources if s not in streams for rest in _below(s, table_name, ref.tables)}
            if mine:
                with self._open(file, ref.key, spec) as table:
                    streams.update(table.read(mine))
        return Episode(ref.id, {s: streams[s] for s in sources if s in streams})


def _below(source: str, table: str, tables: Sequence[str]) -> list[str]:
    """The part of a source below a table's name, if it can name something there: none or one item."""
    if table and source.startswith(table) and source[len(table) : len(table) + 1] in ("", ".", "["):
        return [source[len(table) :].removeprefix(".")]
    return [source] if len(tables) <= 1 else []


class CsvReader(_TableReader):
    """Comma-separated values with a header row, UTF-8. The spellings of a missing number are pyarrow's (``NaN``...)."""

    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)

    @contextmanager
    def _open(self, file: FileStamp, key: str, spec: InputSpec) -> Iterator[_Table]:
        data = pa.py_buffer(read_bytes(file, spec))
        head = pacsv.open_csv(pa.BufferReader(data), read_options=pacsv.ReadOptions(use_threads=False)).schema
        original = {name.strip(): name for name in head.names}
        if len(original) < len(head.names):
            raise InputError(f"{file.uri}: two columns have one name; the header is {', '.join(head.names)}")

        def load(names: list[str]) -> pa.Table:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                read_options=pacsv.ReadOptions(use_threads=False),  # with threads, errors name no row
                convert_options=pacsv.ConvertOptions(
                    include_columns=[original[name] for name in names], strings_can_be_null=True
                ),
            ).rename_columns(names)
            for name in names:
                _reject_bad_numbers(table.column(name), f"{file.uri}: column {name!r}")
            return table

        yield _Table(file.uri, _renamed(head, list(original)), load, spec)


def _renamed(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([column.with_name(name) for column, name in zip(schema, names, strict=True)])


def _reject_bad_numbers(column: pa.ChunkedArray, where: str) -> None:
    """One cell that is not a number turns a CSV column into text: say so, rather than pass text on."""
    if not pa.types.is_string(column.type):
        return
    numeric = pc.match_substring_regex(column, _NUMBER)
    if pc.any(numeric).as_py():
        row = pc.index(numeric, False).as_py()
        raise InputError(f"{where}, row {row + 1}: {column[row].as_py()!r} is not a number")


class ParquetReader(_TableReader):
    """Parquet. Without ``input.episode``, a file with several values of ``episode_index`` is as many episodes."""

    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode, or one for each ``episode_index`` of a file that holds several."""
        whole = super().episodes(id, files, spec)
        if spec.episode != "file":
            return whole
        with open_file(files[0], spec) as stream, pq.ParquetFile(stream) as parquet:
            found = episode_indices(parquet)
        if len(found) < 2:
            return whole
        share = files[0].size // len(found)
        return [EpisodeRef(f"{id}#{i}", self.name, tuple(files), str(i), share) for i in found]

    @contextmanager
    def _open(self, file: FileStamp, key: str, spec: InputSpec) -> Iterator[_Table]:
        with (
            open_file(file, spec) as stream,
            pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=spec.verify_checksums) as parquet,
        ):
            episode = int(key) if key else None
            yield _Table(file.uri, parquet.schema_arrow, lambda names: read_rows(parquet, names, episode), spec)
