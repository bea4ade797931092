"""Rows of a Parquet file that holds many episodes: by their range, and each row group decoded once.

The episodes of such a file are read one after another, each a few rows of a row group that may hold thousands of them.
So the last row groups are kept, up to a bound, by what tells their file's version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file
from robocache.formats.compression import refuse_bomb
from robocache.formats.kept import Kept
from robocache.parquet import read_head, read_metadata, read_parquet
from robocache.types import FileStamp

#: The column that says which episode a row is of.
EPISODE = "episode_index"
_MOST_RUNS = 16  # an episode in more pieces than this is found by its column
_KEPT = Kept(256 << 20)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one episode: ranges ``[start, stop)`` of its file; none: those that the episode's column names."""

    episode: int
    runs: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        """As :attr:`EpisodeRef.key` keeps it."""
        return ":".join([str(self.episode), *(f"{start}-{stop}" for start, stop in self.runs)])

    @staticmethod
    def parse(key: str) -> Rows:
        episode, *runs = key.split(":")
        return Rows(int(episode), tuple((int(start), int(stop)) for start, _, stop in (r.partition("-") for r in runs)))


def episode_rows(file: FileStamp, spec: InputSpec) -> list[Rows]:
    """The episodes of a file by the integer column ``episode_index``, sorted; none where there is no such column."""
    schema = read_schema(file, spec, anew=True)
    at = schema.get_field_index(EPISODE)
    if at < 0 or not pa.types.is_integer(schema.field(at).type):
        return []
    # Read rather than taken from the statistics: it is as small, and pyarrow aborts the process on damaged statistics.
    return rows_by_episode(read_rows(file, [EPISODE], None, spec).column(EPISODE))


def rows_by_episode(column: pa.ChunkedArray) -> list[Rows]:
    """The episodes that a column of integers names, sorted."""
    if column.null_count:
        return [Rows(i) for i in sorted(column.unique().drop_null().to_pylist())]
    episodes = column.to_numpy()
    starts = [0, *(np.flatnonzero(episodes[1:] != episodes[:-1]) + 1).tolist()] if len(episodes) else []
    runs: dict[int, list[tuple[int, int]]] = {}
    for start, stop in zip(starts, [*starts[1:], len(episodes)], strict=True):
        runs.setdefault(int(episodes[start]), []).append((start, stop))
    return [Rows(i, tuple(runs[i]) if len(runs[i]) <= _MOST_RUNS else ()) for i in sorted(runs)]


def read_schema(file: FileStamp, spec: InputSpec, *, anew: bool = False) -> pa.Schema:
    """The columns of a Parquet file; ``anew``: although they are known."""
    metadata = None if anew else _KEPT.get((file, "metadata"))
    if metadata is None:
        with open_file(file, spec) as stream:
            metadata = _metadata(file, stream)
    return metadata.schema.to_arrow_schema()


def _metadata(file: FileStamp, stream: BinaryIO) -> pq.FileMetaData:
    metadata = read_metadata(stream)
    _KEPT.put((file, "metadata"), metadata, metadata.serialized_size)
    return metadata


def read_rows(
    file: FileStamp, columns: Sequence[str], rows: Rows | None, spec: InputSpec, *, head: bool = False
) -> pa.Table:
    """Those columns of a Parquet file: all its rows, one episode's, or one row of it (``head``)."""
    with (
        open_file(file, spec) as stream,
        pq.ParquetFile(
            stream,
            metadata=_KEPT.get((file, "metadata")) or _metadata(file, stream),
            pre_buffer=True,
            page_checksum_verification=spec.verify_checksums,
        ) as parquet,
    ):
        _check_int96(parquet, stream, columns)
        if head:
            return read_head(parquet, columns, _refusal(file))
        if rows is None:
            return read_columns(parquet, columns, file)
        groups = _Groups(file, parquet, columns, spec)
        return groups.found(rows) if rows.runs else groups.scanned(rows.episode)


def read_columns(parquet: pq.ParquetFile, columns: Sequence[str] | None, file: FileStamp) -> pa.Table:
    """All rows of those columns (None: all). ``TooLargeError`` where they are far more than the file's bytes."""
    return read_parquet(parquet, columns, _refusal(file))


def _refusal(file: FileStamp) -> Callable[[int], None]:
    return lambda size: refuse_bomb(file.uri, size, max(file.size, 0))


def _check_int96(parquet: pq.ParquetFile, stream: BinaryIO, columns: Sequence[str]) -> None:
    """``InputError`` where a stamp of 96 bits is out of the range of nanoseconds, into which they are read: there
    pyarrow wraps around in silence.
    """
    schema = parquet.metadata.schema
    old = {schema.column(i).path for i in range(len(schema)) if schema.column(i).physical_type == "INT96"}
    if not (asked := [name for name in columns if name in old]):
        return
    with pq.ParquetFile(stream, metadata=parquet.metadata, coerce_int96_timestamp_unit="s") as seconds:
        table = seconds.read(columns=asked)
    for name in asked:
        found = pc.cast(table.column(name), pa.int64())
        bad = pc.greater(pc.abs(found), 2**63 // 10**9)
        if pc.any(bad).as_py():
            row = pc.index(bad, True).as_py()
            raise InputError(
                f"column {name!r}: row {row + 1} (of {len(found)}) is {found[row].as_py()} s after 1970, and INT96 "
                "stamps are read as nanoseconds, which reach from 1677 to 2262; write the column as timestamp[us]"
            )


class _Groups:
    """Rows of an open file by their number."""

    def __init__(self, file: FileStamp, parquet: pq.ParquetFile, columns: Sequence[str], spec: InputSpec):
        self._file, self._parquet, self._spec = file, parquet, spec
        self._columns = list(columns)
        lengths = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        self._ends = np.cumsum(np.array(lengths, np.int64))

    def found(self, rows: Rows) -> pa.Table:
        """The rows of known ranges; those of the column, where that says otherwise."""
        checked = EPISODE in self._parquet.schema_arrow.names
        names = list(dict.fromkeys([*self._columns, EPISODE])) if checked else self._columns
        total = int(self._ends[-1]) if len(self._ends) else 0
        if any(not 0 <= start <= stop <= total for start, stop in rows.runs):
            return self.scanned(rows.episode)
        table = self._slices(rows.runs, names)
        if checked and not np.all(table.column(EPISODE).to_numpy() == rows.episode):
            return self.scanned(rows.episode)
        return table.select(self._columns)

    def scanned(self, episode: int) -> pa.Table:
        """The rows that the column ``episode_index`` names."""
        total = int(self._ends[-1]) if len(self._ends) else 0
        column = self._slices(((0, total),), [EPISODE]).column(EPISODE).to_numpy()
        return self._slices(_runs(np.flatnonzero(column == episode)), self._columns)

    def _slices(self, runs: Sequence[tuple[int, int]], columns: Sequence[str]) -> pa.Table:
        pieces = []
        for start, stop in runs:
            group = int(np.searchsorted(self._ends, start, side="right"))
            while start < stop:
                begin = int(self._ends[group - 1]) if group else 0
                length = min(stop, int(self._ends[group])) - start
                pieces.append(self._group(group, columns).slice(start - begin, length))
                start, group = start + length, group + 1
        if not pieces:
            return self._parquet.schema_arrow.empty_table().select(list(columns))
        return pa.concat_tables(pieces)

    def _group(self, group: int, columns: Sequence[str]) -> pa.Table:
        key = (self._file, self._spec.verify_checksums, group, tuple(columns))
        table = _KEPT.get(key)
        if table is None:
            table = read_parquet(self._parquet, columns, _refusal(self._file), [group])
            _KEPT.put(key, table, table.nbytes)
        return table


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Rising row numbers as ranges ``[start, stop)``."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) > 1)
    starts, lasts = rows[np.concatenate([[0], breaks + 1])], rows[np.concatenate([breaks, [len(rows) - 1]])]
    return [(int(start), int(last) + 1) for start, last in zip(starts, lasts, strict=True)]
