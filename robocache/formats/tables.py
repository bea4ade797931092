"""Tables with a time column, as CSV and Parquet files are, one or several of them an episode; and Parquet.

Sources, where an episode is one table: ``column``, ``column[0:3]`` of a list column, ``[a,b,c]``. Where it is
several: ``table.column``, ``table[a,b,c]``, ``table`` (every numeric column but the time), a table's name being its
file's stem or what the group ``table`` of ``input.episode`` matched. Names may themselves hold dots and brackets:
what exists wins, the longest table name first.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, MissingError
from robocache.formats.base import (
    InputSpec,
    Reader,
    Selector,
    parse_source,
    positions,
    quoted,
    shown,
)
from robocache.formats.columns import Column, is_list, is_number, read_column, stream_type, type_name
from robocache.formats.parquet_rows import Rows, episode_rows, read_rows, read_schema
from robocache.formats.times import column_times, time_columns
from robocache.types import Episode, EpisodeRef, FileStamp, Source, Stream, StreamInfo, StreamType, as_rows, rate_times

#: A unit behind a column's name: ``p [m]``, ``w_x [rad s^-1]``.
_UNIT = re.compile(r".*\S\s*\[(?P<unit>[^\[\]]*)\]", re.DOTALL)


@dataclass(frozen=True)
class _Columns:
    """What a source stands for: columns side by side, and a selector within a single one."""

    names: tuple[str, ...]
    selector: Selector | None = None
    grouped: bool = False

    @property
    def single(self) -> bool:
        return len(self.names) == 1 and not self.grouped


@dataclass(frozen=True)
class Table:
    """One open table: its columns, where its time is, and how to read columns by name.

    load: columns by name, of all rows or (``head``) of a few at the beginning
    units: of columns whose names do not state them
    damaged: what is wrong with columns that cannot be read; it tells nothing of the type that they ought to have
    texts: of columns of numbers, those that stand as text in the file, as that: all digits of a time
    time: the columns that make it, each with its unit; none for a fixed rate
    """

    where: str
    name: str
    schema: pa.Schema
    load: Callable[..., pa.Table]
    spec: InputSpec
    units: Mapping[str, str] = field(default_factory=dict)
    damaged: Mapping[str, InputError] = field(default_factory=dict)
    texts: Callable[[Sequence[str]], Mapping[str, pa.ChunkedArray]] = lambda names: {}
    time: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        times = self.spec.times.of(self.name) if self.spec.times else None
        object.__setattr__(self, "time", time_columns(self.schema, times, where=self.where))

    @property
    def columns(self) -> list[str]:
        """Every column but the time."""
        clock = [name for name, _ in self.time]
        return [name for name in self.schema.names if name not in clock]

    def resolve(self, rest: str, source: Source) -> _Columns | None:
        """What a source (``rest`` of it behind the table's name) stands for; None where the table has no such column.

        A source of several columns whose names are settled is these, wherever they stand.
        """
        found = self._resolve(rest)
        if found is None or found.single or not source.names:
            return found
        missing = [name for name in source.names if name not in self.schema.names]
        if missing:
            raise MissingError(f"{self.where}: no column {missing[0]!r}; its columns are {shown(self.schema.names)}")
        return _Columns(source.names, None, True)

    def _resolve(self, rest: str) -> _Columns | None:
        names = self.schema.names
        if rest in names:
            return _Columns((rest,))
        name, selector = parse_source(rest)
        if name in names:
            return _Columns((name,), selector)
        if name:
            return None
        if selector is None:
            numbers = tuple(name for name in self.columns if is_number(self.schema.field(name).type))
            return _Columns(numbers, grouped=len(numbers) != 1)
        # Positions count the columns without the time, so that they do not depend on where the time stands.
        picked: list[str] = []
        for item in selector:
            if isinstance(item, slice):
                picked.extend(self.columns[item])
            elif isinstance(item, int) and -len(self.columns) <= item < len(self.columns):
                picked.append(self.columns[item])
            elif str(item) in names:
                picked.append(str(item))
            else:
                raise MissingError(f"{self.where}: no column {quoted(item)}; its columns are {shown(names)}")
        return _Columns(tuple(picked), None, True)

    def times(self, data: pa.Table) -> np.ndarray:
        """int64 nanoseconds ``[n]`` of the rows loaded."""
        if not self.time:
            times = self.spec.times.of(self.name) if self.spec.times else None
            assert times is not None and times.rate_hz is not None  # else there would be a column
            return rate_times(data.num_rows, times.rate_hz)
        texts = self.texts([name for name, _ in self.time])
        parts = [
            column_times(texts[name] if name in texts else data.column(name), unit, where=self._where(name))
            for name, unit in self.time
        ]
        return parts[0] if len(parts) == 1 else np.stack(parts).sum(axis=0)

    def read(self, sources: dict[Source, str]) -> dict[str, Stream]:
        """The streams of those sources that the table has; ``sources`` maps each to its part below the table."""
        found = {s: columns for s, rest in sources.items() if (columns := self.resolve(rest, s)) is not None}
        if not found:
            return {}
        names = [name for columns in found.values() for name in columns.names]
        data = self.load(list(dict.fromkeys([*names, *(name for name, _ in self.time)])))
        times = self.times(data)
        streams = {}
        for source, columns in found.items():
            values, present = self._values(data, columns)
            streams[source.key] = Stream(times, values, self._about(columns), present)
        return streams

    def describe(self, sources: dict[Source, str], *, look: bool) -> dict[str, StreamType]:
        """The types of those sources that the table has."""
        types = {}
        for source, rest in sources.items():
            columns = self.resolve(rest, source)
            if columns is None:
                continue
            if damage := [self.damaged[name] for name in columns.names if name in self.damaged]:
                raise damage[0]
            found = StreamType(self._type(columns), self._about(columns))
            if look and found.open:
                head = self.load(list(columns.names), head=True)
                sample, _ = self._values(head, columns)
                if len(sample):
                    found = Stream(np.zeros(len(sample), np.int64), sample, self._about(columns)).type
            types[source.key] = found
        return types

    def _type(self, columns: _Columns) -> pa.DataType:
        """As far as the schema tells."""
        kinds = {name: stream_type(self.schema.field(name).type, where=self._where(name)) for name in columns.names}
        if columns.single and columns.selector is None:
            return kinds[columns.names[0]]
        open_kinds = [kind for kind in kinds.values() if StreamType(kind).open]
        if open_kinds:  # whether a selector can be had, only the data tells
            return pa.list_(_element(open_kinds[0]))
        empty = pa.schema(list(kinds.items())).empty_table()
        values, _ = self._values(empty, columns)
        return Stream(np.empty(0, np.int64), values).type.arrow

    def _values(self, data: pa.Table, columns: _Columns) -> Column:
        whole = [(name, read_column(data.column(name), where=self._where(name))) for name in columns.names]
        if columns.single and columns.selector is None:
            return whole[0][1]
        parts = []
        for name, (values, present) in whole:
            if not isinstance(values, np.ndarray):
                kind = data.column(name).type
                what = "lists of differing length" if is_list(kind) else str(kind)
                raise InputError(f"{self._where(name)}: holds {what}, numbers of one size are needed to select from it")
            flat = as_rows(values)
            if columns.selector is not None:
                picked = positions(columns.selector, flat.shape[1], where=self._where(name))
                flat, present = flat[:, picked], None if present is None else present[:, picked]
            parts.append((flat, present))
        if not parts:
            return Column(np.empty((data.num_rows, 0), np.float32))
        if all(present is None for _, present in parts):
            return Column(np.concatenate([flat for flat, _ in parts], axis=1))
        masks = [np.ones(flat.shape, bool) if present is None else present for flat, present in parts]
        return Column(np.concatenate([flat for flat, _ in parts], axis=1), np.concatenate(masks, axis=1))

    def _about(self, columns: _Columns) -> dict[str, Any]:
        """Names of columns side by side, and the unit that is stated of them all."""
        about: dict[str, Any] = {} if columns.single else {"names": list(columns.names)}
        stated = {name: match["unit"] for name in columns.names if (match := _UNIT.fullmatch(name))}
        units = {stated.get(name) or self.units.get(name, "") for name in columns.names}
        if len(units) == 1 and (unit := units.pop()):
            about["unit"] = unit
        return about

    def _where(self, column: str) -> str:
        return f"{self.where}: column {column!r}"


def _element(kind: pa.DataType) -> pa.DataType:
    while is_list(kind):
        kind = kind.value_type
    return kind


class TableReader(Reader):
    """What CSV and Parquet share; a format adds how a file becomes a :class:`Table`."""

    members: ClassVar[bool] = True

    @abstractmethod
    def _open(self, file: FileStamp, table: str, key: str, spec: InputSpec) -> AbstractContextManager[Table]: ...

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode: the file, or the files that ``input.episode`` puts together; or those within the file."""
        found = self.within(files[0], spec) if spec.episode == "file" else []
        if len(found) < 2:
            return [EpisodeRef(id, self.name, tuple(files), nbytes=sum(f.size for f in files))]
        share = files[0].size // len(found)
        return [EpisodeRef(f"{id}#{rows.episode}", self.name, tuple(files), str(rows), share) for rows in found]

    def within(self, file: FileStamp, spec: InputSpec) -> list[Rows]:
        """The episodes that a file holds by its column ``episode_index``; fewer than two: it is one."""
        return []

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Each column is a stream where the episode is one table; else each table, its columns as fields."""
        found = []
        for table_name, file in zip(ref.tables or ("",), ref.files, strict=True):
            with self._open(file, table_name, ref.key, spec) as table:
                clock = [name for name, _ in table.time]
                times = table.times(table.load(clock or table.schema.names[:1]))
                fields = tuple((name, type_name(table.schema.field(name).type)) for name in table.columns)
            if ref.tables:
                found.append(StreamInfo(table_name, self.name, fields, times))
            else:
                found.extend(StreamInfo(name, kind, (), times) for name, kind in fields)
        return found

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From each table's schema, and its first rows where lists leave a width open."""
        return self._each(ref, sources, spec, lambda table, mine: table.describe(mine, look=look))

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """Read the named sources: of each table only the columns asked for, once."""
        return Episode(ref.id, self._each(ref, sources, spec, lambda table, mine: table.read(mine)))

    def _each(
        self,
        ref: EpisodeRef,
        sources: Sequence[Source],
        spec: InputSpec,
        ask: Callable[[Table, dict[Source, str]], dict[str, Any]],
    ) -> dict[str, Any]:
        """What each table answers for the sources that it may hold, the longest table name first."""
        answers: dict[str, Any] = {}
        tables = sorted(zip(ref.tables or ("",), ref.files, strict=True), key=lambda t: len(t[0]), reverse=True)
        for table_name, file in tables:
            rests = {
                s: rest for s in sources if s.key not in answers for rest in _below(s.path, table_name, ref.tables)
            }
            if rests:
                with self._open(file, table_name, ref.key, spec) as table:
                    answers |= ask(table, rests)
        return {s.key: answers[s.key] for s in sources if s.key in answers}


def _below(source: str, table: str, tables: Sequence[str]) -> list[str]:
    """The part of a source below a table's name, if it can name something there: none or one item."""
    if table and source.startswith(table) and source[len(table) : len(table) + 1] in ("", ".", "["):
        return [source[len(table) :].removeprefix(".")]
    return [source] if len(tables) <= 1 else []


class ParquetReader(TableReader):
    """Parquet. Without ``input.episode``, a file with several values of ``episode_index`` is as many episodes."""

    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    magic: ClassVar[bytes] = b"PAR1"

    def within(self, file: FileStamp, spec: InputSpec) -> list[Rows]:
        return episode_rows(file, spec)

    @contextmanager
    def _open(self, file: FileStamp, table: str, key: str, spec: InputSpec) -> Iterator[Table]:
        rows = Rows.parse(key) if key else None

        def load(names: list[str], head: bool = False) -> pa.Table:
            return read_rows(file, names, rows, spec, head=head)

        yield Table(file.uri, table, read_schema(file, spec), load, spec)
