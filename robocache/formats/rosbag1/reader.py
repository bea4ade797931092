"""The reader of ROS 1 bags: see :class:`robocache.formats.base.Reader`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO, ClassVar

import numpy as np

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file
from robocache.formats.messages.chunks import Chunks
from robocache.formats.messages.log import Channel, LogReader, Part, Window, Within, few, needed
from robocache.formats.rosbag1.container import (
    CHUNK,
    CONNECTION,
    MAGIC,
    MESSAGE,
    Chunk,
    Index,
    Record,
    read_connection,
    read_data,
    read_header,
    read_index,
    read_record,
)
from robocache.formats.rosbag1.windows import read_batches, read_chunk, scan_records
from robocache.types import FileStamp


class Rosbag1Reader(LogReader):
    """ROS 1 bags. Only the chunks that hold the topics asked for are read. With ``input.salvage`` a bag without an
    index is gone through record by record, and chunks that are damaged are left out.
    """

    name: ClassVar[str] = "rosbag1"
    suffixes: ClassVar[tuple[str, ...]] = (".bag", ".bag.active")
    magic: ClassVar[bytes] = MAGIC
    remedy: ClassVar[str] = "`rosbag reindex`"

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec) -> Iterator[Part]:
        with open_file(file, spec) as opened:
            try:
                part = _BagPart(opened, file, read_index(opened, file.uri), salvage=spec.salvage)
            except InputError:
                if not spec.salvage:
                    raise
                part = _salvaged(opened, file)
            yield part


class _BagPart(Part):
    def __init__(self, file: BinaryIO, stamp: FileStamp, index: Index, *, salvage: bool, scan: bool = False):
        self.uri, self.channels, self.room = stamp.uri, index.channels, max(stamp.size, 0) // 16
        self._file, self._chunks, self._salvage, self._scan = file, index.chunks, salvage, scan
        self.lost: dict[int, str] = {}

    def promised(self, channel: int) -> int:
        return 0 if self._salvage else sum(chunk.counts.get(channel, 0) for chunk in self._chunks)

    def messages(
        self,
        channels: Collection[int],
        *,
        scan: bool = False,
        within: Within | None = None,
        taker: Chunks | None = None,
    ) -> Iterator[Window]:
        scan = scan or self._scan
        wanted = frozenset(channels)
        chunks = [chunk for chunk in self._chunks if scan or not wanted.isdisjoint(chunk.counts)]
        if within is not None and not scan:
            holds = [[chunk for chunk in chunks if id in chunk.counts] for id in wanted]
            kept = {c.start for some in holds for c in needed(some, [c.times for c in some], within)}
            chunks = [chunk for chunk in chunks if chunk.start in kept]
        yield from self._windows(chunks, wanted, scan)

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        """The first chunk that holds them, one in the middle and the last."""
        chunks = [chunk for chunk in self._chunks if not chunk.counts.keys().isdisjoint(channels)]
        for i in few(len(chunks)):
            yield self._windows(chunks[i : i + 1], frozenset(channels), self._scan)

    def _windows(self, chunks: Sequence[Chunk], channels: frozenset[int], scan: bool) -> Iterator[Window]:
        if not self._salvage:
            yield from read_batches(self._file, chunks, channels, self.uri, scan=scan)
            return
        for chunk in chunks:
            try:
                windows = list(read_batches(self._file, (chunk,), channels, self.uri, scan=scan))
            except InputError as error:
                self.lost[chunk.start] = f"{error}; it is left out"
                continue
            yield from windows

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(text for _, text in sorted(self.lost.items()))


def _salvaged(file: BinaryIO, stamp: FileStamp) -> _BagPart:
    """A bag by its records, as far as they are whole."""
    header, size = read_header(file, stamp.uri)
    channels: dict[int, Channel] = {}
    chunks: list[Chunk] = []
    lost: dict[int, str] = {}
    at, loose = header.end, 0
    while at < size:
        record = _whole_record(file, at, size, stamp.uri)
        if record is None:
            begin = read_record(file, at, size, stamp.uri, cut=True) if at + 8 < size else None
            stored = begin is not None and begin.header.get("compression") == b"none"
            last = Chunk(at, size, {}, cut=True)
            if stored and (found := _look_into(file, last, stamp.uri, lost)) is not None:
                counts, there, stop = found
                channels, at = {**there, **channels}, at + stop
                chunks.append(replace(last, counts=counts))
            lost[at] = f"cut off or damaged at byte {at}: the last {size - at:,} of its {size:,} bytes are lost"
            break
        if record.op == CONNECTION:
            channel = read_connection(record, read_data(file, record, stamp.uri), f"{stamp.uri}: record at byte {at}")
            channels.setdefault(channel.id, channel)
        elif record.op == CHUNK:
            chunk = Chunk(at, record.end, {})
            if (found := _look_into(file, chunk, stamp.uri, lost)) is not None:
                counts, there, _ = found
                channels = {**there, **channels}
                chunks.append(replace(chunk, counts=counts))
        loose += record.op == MESSAGE
        at = record.end
    chunks = [replace(c, counts={id: n for id, n in c.counts.items() if id in channels}) for c in chunks]
    if loose:
        lost[size] = f"{loose:,} messages outside of chunks are lost"
    total = sum(sum(chunk.counts.values()) for chunk in chunks)
    lost[-1] = f"its index cannot be used; going through it found {total:,} messages in {len(chunks):,} chunks"
    part = _BagPart(file, stamp, Index(channels, tuple(chunks)), salvage=True, scan=True)
    part.lost = {place: f"{stamp.uri.rpartition('/')[2]}: {text}" for place, text in lost.items()}
    return part


def _whole_record(file: BinaryIO, at: int, size: int, uri: str) -> Record | None:
    """A record of a known kind that ends before the file does."""
    try:
        record = read_record(file, at, size, uri)
    except InputError:
        return None
    return record if record is not None and record.op in range(MESSAGE, CONNECTION + 1) else None


def _look_into(
    file: BinaryIO, chunk: Chunk, uri: str, lost: dict[int, str]
) -> tuple[dict[int, int], dict[int, Channel], int] | None:
    """How many messages of each connection are in a chunk, the connections that it tells of, and of one that is stored
    as it is where its last whole record ends, from the chunk's first byte. None where it is lost."""
    try:
        packed = read_chunk(file, chunk, uri)
        buffer = np.empty(packed.size, np.uint8)
        packed.unpack(buffer)
        offsets, channels, stop = scan_records(buffer.data, 0, packed.where)
        if stop != packed.size and not chunk.cut:
            raise InputError(f"chunk at byte {chunk.start}: ends in the middle of a record")
    except InputError as error:
        lost[chunk.start] = f"{str(error).removeprefix(f'{uri}: ')}; it is left out"
        return None
    return {id: len(some) for id, some in offsets.items()}, channels, chunk.end - chunk.start - packed.size + stop
