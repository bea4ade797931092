"""What a ROS 1 bag says about itself: records, connections, chunks.

Format: http://wiki.ros.org/Bags/Format/2.0. A record is a header of named fields and data, each with a length before
it; all is little endian. Every length and offset is a claim of an untrusted file and is checked here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from robocache.errors import InputError
from robocache.formats.messages.batch import Schema
from robocache.formats.messages.log import Channel
from robocache.types import NEVER

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7
LENGTH = struct.Struct("<I")
#: Fields of a record's header; the longest hold a topic's name.
_MOST_HEADER = 1 << 16
_MOST_INDEX = 1 << 28
SALVAGE = "set input.salvage: true to read what is whole of it, or re-index it with `rosbag reindex`"


class Record(NamedTuple):
    """header: its fields; start, size: where its data is; end: where the next record begins"""

    header: Mapping[str, bytes]
    start: int
    size: int

    @property
    def op(self) -> int:
        found = self.header.get("op", b"")
        return found[0] if len(found) == 1 else 0

    @property
    def end(self) -> int:
        return self.start + self.size

    def number(self, name: str, size: int, where: str) -> int:
        """A field that holds an integer of ``size`` bytes."""
        found = self.header.get(name)
        if found is None or len(found) != size:
            raise InputError(f"{where}: its field {name!r} is {found!r}, not {size} bytes; the file is damaged")
        return int.from_bytes(found, "little")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk is, up to the records behind those of its index.

    counts: messages by connection
    times:  nanoseconds, when its first and its last message were logged, by time
    cut:    it ends with the file, in the middle; its data is stored as it is
    """

    start: int
    end: int
    counts: Mapping[int, int]
    cut: bool = False
    times: tuple[int, int] = (0, NEVER)


@dataclass(frozen=True, slots=True)
class Index:
    """What the end of a bag says of it."""

    channels: dict[int, Channel]
    chunks: tuple[Chunk, ...]


def parse_fields(header: bytes, where: str) -> dict[str, bytes]:
    """``name=value`` of a record's header. ``InputError`` where a field's length is wrong."""
    fields, at = {}, 0
    while at < len(header):
        (size,) = LENGTH.unpack_from(header, at) if at + 4 <= len(header) else (0,)
        field = header[at + 4 : at + 4 + size]
        name, equals, value = field.partition(b"=")
        if not size or len(field) != size or not equals:
            raise InputError(f"{where}: a header field of {size} bytes at {at} of {len(header)}; the file is damaged")
        fields[name.decode("latin-1")] = value
        at += 4 + size
    return fields


def read_record(file: BinaryIO, at: int, end: int, uri: str, *, cut: bool = False) -> Record | None:
    """The record at ``at``, its header alone read; None where it does not end before ``end`` (``cut``: its header)."""
    file.seek(at)
    (size,) = LENGTH.unpack(head) if len(head := file.read(4)) == 4 else (0,)
    if size > _MOST_HEADER or at + 8 + size > end:
        return None
    header, length = file.read(size), file.read(4)
    if len(header) != size or len(length) != 4:
        return None
    start = at + 8 + size
    (data,) = LENGTH.unpack(length)
    if not cut and start + data > end:
        return None
    return Record(parse_fields(header, f"{uri}: record at byte {at}"), start, data)


def parse_record(data: memoryview, at: int, where: str, *, cut: bool = False) -> Record:
    """The record at ``at`` of data in memory. ``InputError`` where it, or (``cut``) its header, does not end there."""
    if at + 4 <= len(data):
        (size,) = LENGTH.unpack_from(data, at)
        start = at + 8 + size
        if start <= len(data):
            (length,) = LENGTH.unpack_from(data, start - 4)
            if cut or start + length <= len(data):
                fields = parse_fields(bytes(data[at + 4 : at + 4 + size]), where)
                return Record(fields, start, min(length, len(data) - start))
    raise InputError(f"{where}: ends in the middle of a record; the file is damaged")


def read_data(file: BinaryIO, record: Record, uri: str) -> bytes:
    if record.size > _MOST_INDEX:
        raise InputError(f"{uri}: a record of {record.size} bytes at byte {record.start}; the file is damaged")
    file.seek(record.start)
    data = file.read(record.size)
    if len(data) != record.size:
        raise InputError(f"{uri}: ends at byte {record.start + len(data)}, in the middle of a record")
    return data


def read_connection(record: Record, data: bytes, where: str) -> Channel:
    """A connection record: its topic and the type of its messages."""
    told = parse_fields(data, where)
    topic = record.header.get("topic", told.get("topic", b"")).decode("utf-8", "replace")
    kind = told.get("type", b"").decode("utf-8", "replace")
    schema = Schema(kind, "ros1msg", told.get("message_definition", b""))
    return Channel(record.number("conn", 4, where), topic, "ros1", schema)


def read_header(file: BinaryIO, uri: str) -> tuple[Record, int]:
    """The bag header, and how long the file is. ``InputError`` for a file that is no bag of this version."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(len(MAGIC))
    if head != MAGIC:
        version = f"begins with {head!r}"
        raise InputError(f"{uri}: {version}; bags of version 2.0 are read, `rosbag fix` brings older ones to it")
    record = read_record(file, len(MAGIC), size, uri)
    if record is None or record.op != BAG:
        raise InputError(f"{uri}: has no bag header; it was cut off before anything was recorded, or is damaged")
    if record.header.get("encryptor"):
        raise InputError(f"{uri}: is encrypted ({record.header['encryptor']!r}); decrypt it with `rosbag decrypt`")
    return record, size


def read_index(file: BinaryIO, uri: str) -> Index:
    """Connections and chunks from the end of the file. ``InputError`` where there is none, with the remedy."""
    header, size = read_header(file, uri)
    begin = header.number("index_pos", 8, f"{uri}: bag header")
    if begin == 0:
        raise InputError(f"{uri}: has no index, as a recording that was cut off or is still being written; {SALVAGE}")
    if not header.end <= begin <= size:
        raise InputError(f"{uri}: is {size} bytes long, its index begins at byte {begin}: it was cut off; {SALVAGE}")
    channels: dict[int, Channel] = {}
    chunks: list[tuple[int, dict[int, int], tuple[int, int]]] = []
    at = begin
    while at < size:
        record = read_record(file, at, size, uri)
        where = f"{uri}: record at byte {at}"
        if record is None:
            raise InputError(f"{where}: goes beyond the end of the file, at byte {size}: it was cut off; {SALVAGE}")
        if record.op == CONNECTION:
            channel = read_connection(record, read_data(file, record, uri), where)
            channels[channel.id] = channel
        elif record.op == CHUNK_INFO:
            counts = dict(_pairs(read_data(file, record, uri), where))
            chunks.append((record.number("chunk_pos", 8, where), counts, _times(record, where)))
        at = record.end
    want = header.number("conn_count", 4, f"{uri}: bag header"), header.number("chunk_count", 4, f"{uri}: bag header")
    if (len(channels), len(chunks)) != want:
        found = f"{len(channels)} connections and {len(chunks)} chunks"
        raise InputError(f"{uri}: its index has {found}, its header says {want[0]} and {want[1]}; {SALVAGE}")
    chunks.sort(key=lambda chunk: chunk[0])
    ends = [*(chunk[0] for chunk in chunks[1:]), begin]
    spans = [Chunk(start, end, counts, times=times) for (start, counts, times), end in zip(chunks, ends, strict=True)]
    for chunk in spans:
        if not header.end <= chunk.start < chunk.end:
            raise InputError(f"{uri}: its index places a chunk at bytes {chunk.start} to {chunk.end}; {SALVAGE}")
        for id in chunk.counts:
            if id not in channels:
                raise InputError(f"{uri}: its chunks hold connection {id}, of which its index has no record; {SALVAGE}")
    return Index(channels, tuple(spans))


def _times(record: Record, where: str) -> tuple[int, int]:
    """When the messages of a chunk were logged; any time where its record does not say so."""
    if not {"start_time", "end_time"} <= record.header.keys():
        return 0, NEVER
    first, last = (record.number(name, 8, where) for name in ("start_time", "end_time"))  # seconds, then nanoseconds
    return tuple((t & 0xFFFFFFFF) * 1_000_000_000 + (t >> 32) for t in (first, last))  # type: ignore[return-value]


def _pairs(data: bytes, where: str) -> Iterator[tuple[int, int]]:
    if len(data) % 8:
        raise InputError(f"{where}: counts of {len(data)} bytes, they are pairs of 4; the file is damaged")
    return struct.iter_unpack("<II", data)
