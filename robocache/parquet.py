"""Parquet and Arrow files of strangers: what reading them takes is known, or grows in small steps, before it is taken.

A few bytes of such a file may stand for any number of values: runs, dictionaries and compression have no end. How many
numbers there are the file's metadata tells; how long texts are tells only reading them, a few rows at a time.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import IO, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = b"PAR1"
ARROW = b"ARROW1"  #: how an Arrow file begins, and ends
_END = 8  # how long the metadata before it is, and the magic
_WIDTHS = {"BOOLEAN": 1 / 8, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
#: Texts that may be so long altogether are read at once, longer ones so many bytes at a time.
_STEP = 16 << 20
_MOST_ROWS = 1 << 16


def read_metadata(file: BinaryIO) -> pq.FileMetaData:
    """What a file says of itself, by its last bytes and no others: pyarrow itself would read 64 KB."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _END, 0))
    end = file.read(_END)
    length = int.from_bytes(end[:4], "little") + _END
    if end[4:] != _MAGIC or not _END < length <= size - len(_MAGIC):
        return pq.read_metadata(file)  # says what is wrong with it
    file.seek(size - length)
    return pq.read_metadata(pa.BufferReader(_MAGIC + file.read(length)))


def read_parquet(
    file: pq.ParquetFile,
    columns: Sequence[str] | None,
    refuse: Callable[[int], None],
    groups: Sequence[int] | None = None,
    *,
    piece: Callable[[int, int], None] = lambda rows, size: None,
) -> pa.Table:
    """Those columns (None: all) of an open file, or of some row groups of it, in the order asked for.

    refuse: raises where so many bytes are too many; it is asked before they are taken
    piece:  likewise, where the rows of one row group are
    """
    names = list(file.schema_arrow.names if columns is None else columns)
    groups = range(file.num_row_groups) if groups is None else groups
    known, longest = 0.0, 0
    for group in groups:
        size, long = _sizes(file, names, [group])
        piece(file.metadata.row_group(group).num_rows, int(size))
        known, longest = known + size, max(longest, long)
    refuse(int(known))
    if not longest:
        if len(groups) == 1:
            return file.read_row_group(groups[0], columns=names).select(names)
        return file.read_row_groups(list(groups), columns=names).select(names)
    step, batches, held = max(1, min(_MOST_ROWS, _STEP // longest)), [], 0
    for batch in file.iter_batches(step, row_groups=list(groups), columns=names):
        held += batch.nbytes
        refuse(held)
        batches.append(batch)
    schema = batches[0].schema if batches else file.schema_arrow
    return pa.Table.from_batches(batches, schema).select(names)


def read_head(file: pq.ParquetFile, columns: Sequence[str], refuse: Callable[[int], None]) -> pa.Table:
    """The first row, or none where there is none."""
    if not file.metadata.num_rows:
        return file.schema_arrow.empty_table().select(list(columns))
    refuse(int(_sizes(file, columns, range(1))[0]))
    first = next(file.iter_batches(batch_size=1, columns=list(columns)), None)
    table = file.schema_arrow.empty_table() if first is None else pa.Table.from_batches([first])
    return table.select(list(columns))


def _sizes(file: pq.ParquetFile, names: Sequence[str], groups: Sequence[int]) -> tuple[float, int]:
    """Bytes of the numbers of these columns; and the most that one text may have, 0 where all of them are few."""
    known, longest = 0.0, 0
    tops = [(name, f"{name}.") for name in names]
    leaves = [
        k
        for k in range(len(file.schema))
        if any((path := file.schema.column(k).path) == name or path.startswith(below) for name, below in tops)
    ]
    for number in groups:
        _validate(file.metadata, names, number)
        group = file.metadata.row_group(number)
        for k in leaves:
            chunk = group.column(k)
            if (kind := chunk.physical_type) in _WIDTHS:
                known += chunk.num_values * _WIDTHS[kind]
            elif kind == "FIXED_LEN_BYTE_ARRAY":
                known += chunk.num_values * max(file.schema.column(k).length, 1)
            else:  # each may be as long as all that is stored, where it stands in a dictionary
                stored = max(chunk.total_uncompressed_size, chunk.total_compressed_size, 1)
                if stored * (chunk.num_values if chunk.has_dictionary_page else 1) > _STEP:
                    longest = max(longest, stored)
                known += stored
    return known, longest


class _UnreadError(Exception):
    """The metadata is sound, so that it is the file's bytes that would be next."""


class _Unread(io.RawIOBase):
    """A file of any length of which nothing is read."""

    def __init__(self) -> None:
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = io.SEEK_SET) -> int:
        self._at = to + (1 << 62 if whence == io.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        raise _UnreadError


def _validate(metadata: pq.FileMetaData, names: Sequence[str], group: int) -> None:
    """``OSError`` where what is told of these columns cannot be. Asked for a damaged column's metadata alone, pyarrow
    ends the process: it lets an exception out where none may be.
    """
    file = pq.ParquetFile(pa.PythonFile(_Unread(), mode="r"), metadata=metadata, buffer_size=1)
    with contextlib.suppress(_UnreadError):
        next(file.iter_batches(1, row_groups=[group], columns=list(names)), None)


def arrow_batches(
    source: pa.Buffer | IO[bytes], refuse: Callable[[int], None], piece: Callable[[int, int], None]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """All rows of an Arrow file: its schema and its record batches, read one by one. ``ValueError``, or an Arrow
    exception, where it is damaged.

    They are read as what they are checked as, one after the other; what the file says at its end of where they are may
    lead elsewhere.
    """
    pa.ipc.open_file(source)
    held = 0
    for rows, size in _record_batches(_behind_the_magic(source)):
        piece(rows, size)
        held += size
        refuse(held)
    stream = pa.ipc.open_stream(_behind_the_magic(source))
    return stream.schema, iter(stream)


def arrow_table(data: pa.Buffer, refuse: Callable[[int], None]) -> pa.Table:
    """All rows of an Arrow file of any writer, or of a stream, checked. Errors as of :func:`arrow_batches`.

    Of a file by what it says at its end: what lies between need be no stream (Polars' is none).
    """
    if data[: len(ARROW)].to_pybytes() == ARROW:
        refuse(sum(size for _, size in _blocks(data)))
        opened = pa.ipc.open_file(data)
        batches = [opened.get_batch(k) for k in range(opened.num_record_batches)]
    else:
        refuse(sum(size for _, size in _record_batches(pa.BufferReader(data))))
        opened = pa.ipc.open_stream(data)
        batches = list(opened)
    table = pa.Table.from_batches(batches, opened.schema)
    table.validate(full=True)
    return table


def _blocks(data: pa.Buffer) -> Iterator[tuple[int, int]]:
    """As :func:`_record_batches`, of those that an Arrow file names at its end."""
    end = data.size - len(ARROW) - 4
    (length,) = struct.unpack_from("<i", data, end)
    if not 4 <= length <= end:
        raise ValueError(f"a footer of {length} bytes in a file of {data.size}")
    footer = data[end - length : end].to_pybytes()
    (root,) = struct.unpack_from("<I", footer)
    for number in (2, 3):  # Footer: version, schema, dictionaries, record batches
        if (place := _field(footer, root, number)) is None:
            continue
        vector = _follow(footer, place)
        (count,) = struct.unpack_from("<I", footer, vector)
        if count > len(footer) // 24:
            raise ValueError(f"{count} batches in a footer of {len(footer)} bytes")
        for k in range(count):
            begin, told, size = struct.unpack_from("<qi4xq", footer, vector + 4 + 24 * k)
            if min(begin, told, size) < 0 or begin + told + size > data.size:
                raise ValueError(f"a batch of {told} and {size} bytes at byte {begin} of {data.size}")
            message = data[begin : begin + told].to_pybytes()
            lead = 8 if message.startswith(b"\xff\xff\xff\xff") else 4  # behind its length; older ones have no mark
            yield _unpacked(message[lead:], data[begin + told : begin + told + size], dictionary=number == 2)


def _behind_the_magic(source: pa.Buffer | IO[bytes]) -> pa.NativeFile:
    """From there a file is a stream."""
    stream = pa.BufferReader(source) if isinstance(source, pa.Buffer) else pa.PythonFile(source, mode="r")
    stream.seek(8)
    return stream


def _record_batches(stream: pa.NativeFile) -> Iterator[tuple[int, int]]:
    """Rows and bytes of each record batch or dictionary once it is unpacked, as its buffers say themselves."""
    for message in pa.ipc.MessageReader.open_stream(stream):
        if message.type not in ("record batch", "dictionary"):
            continue
        yield _unpacked(message.metadata.to_pybytes(), message.body, dictionary=message.type == "dictionary")


def _unpacked(metadata: bytes, body: pa.Buffer, *, dictionary: bool) -> tuple[int, int]:
    rows, packed, buffers = _buffers(metadata, dictionary=dictionary)
    total = 0
    for begin, length in buffers:
        size = -1  # stored as it is
        if packed and begin >= 0 and 8 <= length <= body.size - begin:
            (size,) = struct.unpack_from("<q", body, begin)
        total += max(length, 0) if size < 0 else size
    return rows, total


def _buffers(metadata: bytes, *, dictionary: bool) -> tuple[int, bool, list[tuple[int, int]]]:
    """Of a message's FlatBuffer: its rows, whether its buffers are compressed, and where in the body each lies."""
    table = _field(metadata, struct.unpack_from("<I", metadata)[0], 2)  # Message: version, type of header, header
    if dictionary and table is not None:
        table = _field(metadata, _follow(metadata, table), 1)  # DictionaryBatch: id, data
    if table is None:
        raise ValueError("a message without a header")
    batch = _follow(metadata, table)  # RecordBatch: length, nodes, buffers, compression
    count_at, place = _field(metadata, batch, 0), _field(metadata, batch, 2)
    rows = 0 if count_at is None else struct.unpack_from("<q", metadata, count_at)[0]
    if place is None:
        return rows, False, []
    vector = _follow(metadata, place)
    (count,) = struct.unpack_from("<I", metadata, vector)
    if count > len(metadata) // 16:
        raise ValueError(f"a record batch of {count} buffers in a message of {len(metadata)} bytes")
    found = [struct.unpack_from("<qq", metadata, vector + 4 + 16 * k) for k in range(count)]
    return rows, _field(metadata, batch, 3) is not None, found


def _follow(data: bytes, at: int) -> int:
    """Where the offset that stands there leads."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a FlatBuffer's table is; None where it has the usual value."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, vtable)
    if 4 + 2 * number + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * number)
    return table + offset if offset else None
