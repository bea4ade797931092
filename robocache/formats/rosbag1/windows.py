"""Where the messages of a bag are: chunks unpacked into a window, the records of a connection located all at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from robocache.errors import InputError
from robocache.formats.compression import MOST_CHUNK, inflate, refuse_bomb
from robocache.formats.messages.batch import Messages, gather
from robocache.formats.messages.log import Channel, Window
from robocache.formats.rosbag1.container import (
    CHUNK,
    CONNECTION,
    INDEX,
    LENGTH,
    MESSAGE,
    Chunk,
    parse_fields,
    parse_record,
    read_connection,
)

WINDOW = 8 << 20  # bytes of records at once
_CODECS = {b"none": "", b"bz2": "bz2", b"lz4": "lz4"}


class Packed(NamedTuple):
    """A chunk as it lies in the file. ``offsets``: of messages within the unpacked chunk, by connection."""

    where: str
    codec: str
    data: np.ndarray
    size: int
    offsets: dict[int, np.ndarray]
    cut: bool

    def unpack(self, target: np.ndarray) -> None:
        inflate(self.codec, self.data, target, self.where)


def read_chunk(file: BinaryIO, chunk: Chunk, uri: str) -> Packed:
    """A chunk and the index records behind it."""
    where = f"{uri}: chunk at byte {chunk.start}"
    if chunk.end - chunk.start > 2 * MOST_CHUNK:
        raise InputError(f"{where}: of {chunk.end - chunk.start} bytes; the file is damaged")
    file.seek(chunk.start)
    raw = file.read(chunk.end - chunk.start)
    data = memoryview(raw)
    record = parse_record(data, 0, where, cut=chunk.cut)
    codec = _CODECS.get(record.header.get("compression", b""))
    if record.op != CHUNK or codec is None:
        raise InputError(
            f"{where}: a record of kind {record.op} and compression {record.header.get('compression')!r}; chunks of "
            f"{', '.join(name.decode() for name in _CODECS)} are right"
        )
    size = len(data) - record.start if chunk.cut else record.number("size", 4, where)
    refuse_bomb(where, size, record.size, MOST_CHUNK)
    index: dict[int, np.ndarray] = {}
    at = record.end
    while at < len(data) and not chunk.cut:
        entry = parse_record(data, at, where)
        if entry.op != INDEX:
            break
        if entry.size % 12:
            raise InputError(f"{where}: an index of {entry.size} bytes, its entries have 12; the file is damaged")
        offsets = np.ndarray((entry.size // 12, 3), "<u4", raw, entry.start)[:, 2].astype(np.int64)
        index[entry.number("conn", 4, where)] = offsets
        at = entry.end
    stored = np.frombuffer(raw, np.uint8)[record.start : record.end]
    return Packed(where, codec, stored, size, index, chunk.cut)


def scan_records(data: memoryview, start: int, where: str) -> tuple[dict[int, list[int]], dict[int, Channel], int]:
    """Every record of an unpacked chunk, or of a piece of the file: offsets of messages by connection, the connections
    there, and where the last whole record ends."""
    found: dict[int, list[int]] = {}
    channels: dict[int, Channel] = {}
    at = start
    while at < len(data):
        try:
            record = parse_record(data, at, f"{where}, record at byte {at}")
        except InputError:
            break
        if record.op == MESSAGE:
            found.setdefault(record.number("conn", 4, where), []).append(at)
        elif record.op == CONNECTION:
            channel = read_connection(record, bytes(data[record.start : record.end]), where)
            channels[channel.id] = channel
        at = record.end
    return found, channels, at


class Batch:
    """Chunks unpacked one behind the other, until they fill a window."""

    def __init__(self, chunks: Sequence[Packed]):
        self.buffer = np.empty(sum(chunk.size for chunk in chunks), np.uint8)
        self._found: dict[int, list[np.ndarray]] = {}
        self._limits: dict[int, list[tuple[int, int, int]]] = {}
        self._at = 0

    def add(self, chunk: Packed, channels: Collection[int], *, scan: bool) -> None:
        """Unpack it behind those before. ``scan``: by its own records, where its index is not to be trusted.

        Nothing is added where it fails."""
        start, end = self._at, self._at + chunk.size
        chunk.unpack(self.buffer[start:end])
        if scan:
            piece = self.buffer[start:end].data
            offsets, _, stop = scan_records(piece, 0, chunk.where)
            if stop != len(piece) and not chunk.cut:
                raise InputError(f"{chunk.where}: ends in the middle of a record; the file is damaged")
            located = {id: np.array(some, np.int64) for id, some in offsets.items()}
        else:
            located = chunk.offsets
        for id, within in located.items():
            if id in channels and len(within):
                self._found.setdefault(id, []).append(within + start)
                self._limits.setdefault(id, []).append((len(within), start, end))
        self._at = end

    def window(self, uri: str) -> Window:
        return {id: locate(self.buffer, id, some, self._limits[id], uri) for id, some in self._found.items()}


def read_batches(
    file: BinaryIO, chunks: Sequence[Chunk], channels: Collection[int], uri: str, *, scan: bool
) -> Iterator[Window]:
    """The messages of ``channels``, as many chunks at once as fill a window."""
    pending: list[Packed] = []
    for chunk in chunks:
        pending.append(read_chunk(file, chunk, uri))
        if sum(packed.size for packed in pending) >= WINDOW:
            yield _unpacked(pending, channels, uri, scan)
            pending = []
    if pending:
        yield _unpacked(pending, channels, uri, scan)


def _unpacked(chunks: Sequence[Packed], channels: Collection[int], uri: str, scan: bool) -> Window:
    batch = Batch(chunks)
    for chunk in chunks:
        batch.add(chunk, channels, scan=scan)
    return batch.window(uri)


def locate(
    buffer: np.ndarray, channel: int, pieces: Sequence[np.ndarray], limits: Sequence[tuple[int, int, int]], uri: str
) -> Messages:
    """Check the message records that an index or a scan points to, all at once.

    pieces: int64 offsets of records in the buffer, chunk by chunk; limits: of each their count, and where it begins
    and ends
    """
    counts, starts, ends = np.array(limits, np.int64).T
    at, begin, end = np.concatenate(pieces), np.repeat(starts, counts), np.repeat(ends, counts)
    bad = f"{uri}: an index of connection {channel} does not point to messages; the file is damaged"
    if np.any(at < begin) or np.any(at + 8 > end):
        raise InputError(bad)
    if np.any(np.diff(at) <= 0):  # an index is sorted by time: bring it to file order
        order = np.argsort(at, kind="stable")
        at, end = at[order], end[order]
        if not np.all(np.diff(at)):
            raise InputError(f"{uri}: an index of connection {channel} names a message twice; the file is damaged")
    header = _words(buffer, at)
    if np.any(header > end - at - 8):
        raise InputError(bad)
    times = np.empty(len(at), np.int64)
    for length in np.unique(header):
        rows = np.flatnonzero(header == length)
        times[rows] = _times(gather(buffer, at[rows] + 4, int(length)), channel, bad)
    start = at + 8 + header
    size = _words(buffer, start - 4)
    if np.any(size > end - start):
        raise InputError(f"{uri}: a message of connection {channel} goes beyond its chunk; the file is damaged")
    return Messages(buffer, start, size, times)


def _words(buffer: np.ndarray, at: np.ndarray) -> np.ndarray:
    return gather(buffer, at, LENGTH.size).view("<u4")[:, 0].astype(np.int64)


def _times(headers: np.ndarray, channel: int, bad: str) -> np.ndarray:
    """Nanoseconds of message headers ``[n, bytes]``. All are alike but for the time, as a rule: one tells its place."""
    times, left = np.empty(len(headers), np.int64), np.arange(len(headers))
    while len(left):
        first = headers[left[0]].tobytes()
        fields = parse_fields(first, bad)
        if fields.get("op") != bytes([MESSAGE]) or fields.get("conn") != LENGTH.pack(channel):
            raise InputError(bad)
        if len(fields.get("time", b"")) != 8:
            raise InputError(bad)
        place = first.index(LENGTH.pack(13) + b"time=") + 9
        like = headers[left].copy()
        like[:, place : place + 8] = headers[left[0], place : place + 8]
        same = (like == headers[left[0]]).all(axis=1)
        clock = np.ascontiguousarray(headers[left[same], place : place + 8]).view("<u4").astype(np.int64)
        times[left[same]] = clock[:, 0] * 1_000_000_000 + clock[:, 1]
        left = left[~same]
    return times
