"""Arrow IPC as tables: files, which Feather's of version 2 are, and streams, as Hugging Face datasets keeps them.

A batch is taken as it lies in memory, so a file is held whole, checked once, and kept for the episodes of it that
follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file, read_bytes
from robocache.formats.columns import is_list
from robocache.formats.compression import MOST_CHUNK, most_unpacked, refuse_bomb
from robocache.formats.kept import Kept
from robocache.formats.parquet_rows import EPISODE, Rows, rows_by_episode
from robocache.formats.tables import Table, TableReader
from robocache.parquet import ARROW, arrow_table
from robocache.types import FileStamp

_STREAM, _FEATHER_1 = b"\xff\xff\xff\xff", b"FEA1"
_KEPT = Kept(256 << 20)
#: Texts and bytes as some writers (Polars) lay them out, and as they are read.
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


class ArrowReader(TableReader):
    """Arrow IPC. Without ``input.episode``, a file with several values of ``episode_index`` is as many episodes."""

    name: ClassVar[str] = "arrow"
    suffixes: ClassVar[tuple[str, ...]] = (".arrow", ".feather", ".ipc")
    magic: ClassVar[bytes] = ARROW

    def begins(self, head: bytes, spec: InputSpec) -> bool:
        return head.startswith((ARROW, _STREAM, _FEATHER_1))

    def within(self, file: FileStamp, spec: InputSpec) -> list[Rows]:
        schema = _schema(file, spec)
        at = schema.get_field_index(EPISODE)
        if at < 0 or not pa.types.is_integer(schema.field(at).type):
            return []
        return rows_by_episode(_whole(file, spec).column(EPISODE))

    @contextmanager
    def _open(self, file: FileStamp, table: str, key: str, spec: InputSpec) -> Iterator[Table]:
        rows, schema = Rows.parse(key) if key else None, _schema(file, spec)

        def load(names: Sequence[str], head: bool = False) -> pa.Table:
            for name in names:
                if is_list(kind := schema.field(name).type) and "null" in str(kind):
                    raise InputError(f"{file.uri}: column {name!r}: {kind} holds lists of nothing")
            whole = _whole(file, spec)
            found = (whole if rows is None else _of(whole, rows)).select(list(names))
            return found.slice(0, 1) if head else found

        yield Table(file.uri, table, schema, load, spec)


def _schema(file: FileStamp, spec: InputSpec) -> pa.Schema:
    with open_file(file, spec) as stream:
        head = stream.read(len(ARROW))
        if head.startswith(_FEATHER_1):
            raise InputError("is Feather of version 1; write it again, as with pyarrow.feather.write_feather")
        stream.seek(0)
        source = pa.PythonFile(stream, mode="r")
        schema = pa.ipc.open_file(source).schema if head == ARROW else pa.ipc.read_schema(source)
    if len(set(schema.names)) < len(schema.names):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise InputError(f"{file.uri}: two columns are called {twice!r}")
    return _plain(schema)


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_VIEWS.get(field.type, field.type)) for field in schema])


def _whole(file: FileStamp, spec: InputSpec) -> pa.Table:
    """All rows of a file. ``TooLargeError`` where they are far more than its bytes."""
    table = _KEPT.get((file, most_unpacked(0)))
    if table is None:
        size = max(file.size, 0)
        data = pa.py_buffer(read_bytes(file, spec, most_unpacked(size, MOST_CHUNK)))
        refuse = partial(refuse_bomb, file.uri, packed=size)
        table = arrow_table(data, refuse)
        refuse(max((_held(field.type, table.num_rows) for field in table.schema), default=0))
        table = table.cast(_plain(table.schema))
        _KEPT.put((file, most_unpacked(0)), table, table.nbytes)
    return table


def _held(kind: pa.DataType, rows: int) -> int:
    """Bytes that a column takes as numbers: what is null throughout takes none in a file."""
    while pa.types.is_fixed_size_list(kind):
        rows, kind = rows * kind.list_size, kind.value_type
    return 8 * rows


def _of(table: pa.Table, rows: Rows) -> pa.Table:
    """The rows of an episode; those of the column, where that says otherwise."""
    if rows.runs and all(0 <= start <= stop <= table.num_rows for start, stop in rows.runs):
        found = pa.concat_tables([table.slice(start, stop - start) for start, stop in rows.runs])
        if np.all(found.column(EPISODE).to_numpy() == rows.episode):
            return found
    return table.filter(pc.equal(table.column(EPISODE), rows.episode))
