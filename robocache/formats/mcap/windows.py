"""Where the messages are: the data section read window by window, every message of a window located at once.

A window is one reused buffer holding the decompressed records of a few chunks, with the offset and size of each
wanted payload in it. Nothing in it outlives the window, so a recording of any size needs some 15 MB.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from robocache.errors import InputError
from robocache.formats.compression import MOST_CHUNK, ZSTD_RATIO, inflate, refuse_bomb
from robocache.formats.mcap.container import CHUNK, MAGIC, MESSAGE, MESSAGE_INDEX, RECORD, ChunkIndex, Summary
from robocache.formats.messages import native, offload
from robocache.formats.messages.batch import Messages, Offloaded, gather
from robocache.formats.messages.chunks import Chunks
from robocache.formats.scattered import ScatteredFile
from robocache.stages import stage

WINDOW = 8 << 20  # bytes of records at once: so many that the work is done by numpy, outside of the interpreter lock
FAR = 4 * WINDOW  # bytes of records that are fetched in one request from an object store
_GAP = 1 << 18  # unneeded bytes that are cheaper to read than to seek over
CHUNK_HEAD = struct.Struct("<QQQII")  # start time, end time, uncompressed size, CRC, length of the compression's name
_INDEX = struct.Struct("<BQHI")  # record, channel, bytes of entries
_HEADER = np.dtype(
    [("opcode", "u1"), ("length", "<u8"), ("channel", "<u2"), ("sequence", "<u4"), ("log_time", "<u8"),
     ("publish_time", "<u8")]
)  # fmt: skip
_PAYLOAD = 31  # from a message record's first byte to its payload: record 9, channel 2, sequence 4, two times


def read_messages(
    file: BinaryIO,
    summary: Summary,
    channels: Collection[int],
    *,
    verify: bool,
    scan: bool = False,
    taker: Chunks | None = None,
) -> Iterator[dict[int, Messages]]:
    """Every message of ``channels``, window by window: by channel id, in file order. What ``taker`` takes of an
    indexed chunk is not in them.

    Only chunks that hold these channels are read, unless there is no index of them, or it is not to be trusted
    (``scan``). ``verify``: check the CRC of the data section where the whole of it
    is read, else that of each chunk. ``InputError`` where the file contradicts itself.
    """
    section = _DataSection(file, summary, verify)
    wanted = frozenset(channels)
    if summary.chunks and not scan:
        yield from _indexed(section, summary, wanted, taker)
    else:
        yield from _scanned(section, summary, wanted)
    section.finish()


#: Buffers between readers, of any thread: fresh memory costs a page fault every 4 KiB, which is slower than zstd.
_SPARE: deque[np.ndarray] = deque(maxlen=8)


_NOTHING = np.empty(0, np.uint8)


def _spare() -> np.ndarray:
    try:
        return _SPARE.pop()
    except IndexError:
        return _NOTHING


class _DataSection:
    """Ranged reads of the data section into one reused buffer, with its CRC while they follow each other."""

    def __init__(self, file: BinaryIO, summary: Summary, verify: bool):
        self.uri, self.verify, self._file, self._end = summary.uri, verify, file, summary.data_end
        self._expected_crc = summary.data_crc if verify else 0
        self._crc = self._covered = 0  # CRC of the bytes [0, covered)
        self.far = isinstance(file, ScatteredFile)
        self.device = offload.device()
        self._buffer = _spare() if self.device is None else self.device.buffer(WINDOW)
        self._scratch = _spare()

    def scratch(self, size: int) -> np.ndarray:
        """A reused buffer of at least ``size`` bytes for decompressed records."""
        self._scratch = self._grown(self._scratch, size)
        return self._scratch

    def will_cover(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether reading these ranges checks the whole section's CRC. No chunk's own CRC is needed then."""
        bounds = [0, *(bound for span in ranges for bound in span), self._end]
        gaps = (after - before for before, after in zip(bounds[::2], bounds[1::2], strict=True))
        return bool(self._expected_crc) and max(gaps) <= _GAP

    def read(self, start: int, end: int) -> np.ndarray:
        """Bytes ``[start, end)``, valid until the next call."""
        lead = 0
        if self._expected_crc and 0 < start - self._covered <= _GAP:
            lead = start - self._covered  # so that the CRC goes on over a small gap
        size = end - start + lead
        if self.device is not None and len(self._buffer) < size:
            self.device.release(self._buffer)
            self._buffer = self.device.buffer(size)
        self._buffer = self._grown(self._buffer, size)
        view, got = self._buffer[:size].data, 0
        with stage("read"):
            self._file.seek(start - lead)
            while got < size:
                count = self._file.readinto(view[got:])  # type: ignore[attr-defined]  # every fsspec file has it
                if not count:
                    raise InputError(f"{self.uri}: ends at byte {start - lead + got}, its data section at {self._end}")
                got += count
        if self._expected_crc and start - lead <= self._covered < end:
            self._crc = native.crc32(view[self._covered - (start - lead) :], self._crc)
            self._covered = end
        return self._buffer[lead:size]

    def _grown(self, buffer: np.ndarray, size: int) -> np.ndarray:
        if len(buffer) >= size:
            return buffer
        try:
            return np.empty(max(size, WINDOW), np.uint8)
        except ValueError:  # more than an array can have; what there is room for is the machine's to say
            raise InputError(f"{self.uri}: {size} bytes at once do not fit in memory; is the file damaged?") from None

    def finish(self) -> None:
        """Check the data section's CRC, and leave the buffers to the next reader."""
        if self._expected_crc and 0 <= self._end - self._covered <= _GAP:
            if self._end > self._covered:
                self.read(self._covered, self._end)
            if self._crc != self._expected_crc:
                raise InputError(
                    f"{self.uri}: data section has CRC {self._crc:#010x}, the file says {self._expected_crc:#010x}; "
                    "the file is damaged"
                )
        if self.device is not None:
            self.device.release(self._buffer)
            self._buffer = _NOTHING
        _SPARE.extend(buffer for buffer in (self._buffer, self._scratch) if len(buffer) <= 2 * WINDOW)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk record's content: its compressed records and what they should become."""

    where: str
    compression: str
    data: np.ndarray
    size: int
    crc: int

    def unpack(self, target: np.ndarray, verify: bool) -> None:
        """Decompress into ``target`` (``size`` bytes), straight from the codec; check length and CRC."""
        inflate(self.compression, self.data, target, self.where)
        if verify and self.crc and (crc := native.crc32(target.data)) != self.crc:
            raise InputError(f"{self.where}: has CRC {crc:#010x}, the file says {self.crc:#010x}; the file is damaged")


def parse_chunk(record: np.ndarray, where: str) -> _Chunk:
    """``record``: the content of a chunk record."""
    fixed = CHUNK_HEAD.size
    if len(record) < fixed + 8:
        raise InputError(f"{where}: a chunk record of {len(record)} bytes; the file is damaged")
    _, _, size, crc, name_length = CHUNK_HEAD.unpack_from(record.data)
    name = bytes(record[fixed : fixed + min(name_length, 16)])
    data_start = fixed + name_length + 8
    stored = len(record) - data_start
    if name not in (b"", b"zstd", b"lz4") or len(name) != name_length or stored < 0:
        raise InputError(f"{where}: compression {name!r}; zstd, lz4 and none can be read")
    claimed = int.from_bytes(bytes(record[data_start - 8 : data_start]), "little")
    if claimed != stored or (size != stored if not name else size > stored * ZSTD_RATIO):
        raise InputError(
            f"{where}: claims {size} bytes from {claimed} stored ones, the record holds {stored}; the file is damaged"
        )
    refuse_bomb(where, size, stored, MOST_CHUNK)
    return _Chunk(where, name.decode(), record[data_start:], size, crc)


def _indexed(
    section: _DataSection, summary: Summary, wanted: frozenset[int], taker: Chunks | None
) -> Iterator[dict[int, Messages]]:
    look = taker is not None and taker.waiting
    windows = list(_windows(summary, wanted, look=look))
    verify = section.verify and not section.will_cover([(window[0].start, window[-1].end) for window in windows])
    device = section.device if _takes(summary, wanted) else None
    if device is not None or not look:
        taker = None
    # A device takes many windows at once, a store far away sends them; which fault of several is told does not depend
    # on it.
    most = device.most if device is not None else FAR if section.far else 0
    for group in _groups(windows, most) if most else [[window] for window in windows]:
        base = group[0][0].start
        raw = section.read(base, group[-1][-1].end)
        if device is not None:
            offloaded = _offloaded(device, raw, base, [chunk for window in group for chunk in window], wanted, verify)
            if offloaded is not None:
                yield offloaded
                continue
        for window in group:
            yield _unpacked(section, raw, base, window, wanted, verify, taker)


def _unpacked(
    section: _DataSection,
    raw: np.ndarray,
    base: int,
    window: Sequence[ChunkIndex],
    wanted: frozenset[int],
    verify: bool,
    taker: Chunks | None,
) -> dict[int, Messages]:
    """The messages of a window's chunks that nobody has taken. ``raw``: the file's bytes from ``base`` on."""
    chunks = [_chunk_at(raw, index.start - base, index, section.uri) for index in window]
    buffer = section.scratch(sum(chunk.size for chunk in chunks))
    found: dict[int, list[np.ndarray]] = {}
    limits: dict[int, list[tuple[int, int, int]]] = {}
    at = 0
    for index, chunk in zip(window, chunks, strict=True):
        end = at + chunk.size
        chunk.unpack(buffer[at:end], verify)
        if index.index_offsets:
            offsets = _message_indexes(raw, base, index, wanted, chunk.where)
        else:
            offsets = {id: o - np.uint64(at) for id, o in _scan_chunk(buffer, at, end, wanted, chunk.where).items()}
        left = offsets if taker is None else taker.take(buffer[at:end], offsets)
        if not left and not found:
            continue  # the next one takes its place, which lies in the cache
        for id, some in left.items():
            found.setdefault(id, []).append(some)
            limits.setdefault(id, []).append((len(some), at, end))
        at = end
    return {id: locate(buffer[:at], id, found[id], limits[id], section.uri) for id in sorted(found)}


def _takes(summary: Summary, wanted: frozenset[int]) -> bool:
    """Whether a device is of use: all that is wanted is in chunks of known places, of encodings that it takes apart."""
    return all(summary.channels[id].encoding in offload.ENCODINGS for id in wanted if id in summary.channels) and all(
        chunk.index_offsets for chunk in summary.chunks
    )


def _offloaded(
    device: offload.Device,
    raw: np.ndarray,
    base: int,
    indexes: Sequence[ChunkIndex],
    wanted: frozenset[int],
    verify: bool,
) -> dict[int, Messages] | None:
    """The messages of some chunks, unpacked by a device; None where it does not take them, or finds a fault."""
    try:
        chunks = [_chunk_at(raw, index.start - base, index, "") for index in indexes]
        entries_of = [_message_indexes(raw, base, index, wanted, "") for index in indexes]
    except InputError:
        return None
    if any(chunk.compression != "zstd" for chunk in chunks):
        return None
    found: dict[int, list[tuple[np.ndarray, int, int]]] = {}
    at = 0
    for chunk, of_channels in zip(chunks, entries_of, strict=True):
        for id, entries in of_channels.items():
            found.setdefault(id, []).append((entries, at, at + chunk.size))
        at += chunk.size
    offsets = np.concatenate([some for pieces in found.values() for some, _, _ in pieces] or [np.empty(0, np.uint64)])
    pieces, bounds, count = [], [0], 0
    for id, some in found.items():
        for entries, begin, end in some:
            pieces.append((count, len(entries), begin, end, id))
            count += len(entries)
        bounds.append(count)
    if any(begin == end for begin, end in pairwise(bounds)):
        return None
    unpacked = device.unpack(
        [chunk.data for chunk in chunks],
        [chunk.size for chunk in chunks],
        [chunk.crc if verify else 0 for chunk in chunks],
        offsets,
        np.array(pieces, np.int64).reshape(-1, 5),
        np.array(bounds[:-1], np.int64),
    )
    if unpacked is None:
        return None
    messages = {}
    for id, head, (first, end) in zip(found, unpacked.heads, pairwise(bounds), strict=True):
        _, size, log_times, publish_times = unpacked.places[:, first:end]
        where = Offloaded(unpacked, first, end - first)
        there = Messages(head[: size[0]], np.zeros(end - first, np.int64), size, log_times, publish_times, where)
        messages[id] = there if size[0] <= offload.HEAD else there.on_host()
    return messages


def _windows(summary: Summary, wanted: frozenset[int], *, look: bool) -> Iterator[list[ChunkIndex]]:
    """Chunks that hold wanted channels, in file order, as many at once as unpack to ``WINDOW`` bytes and lie close
    together. ``look``: the first alone."""
    window: list[ChunkIndex] = []
    size = 0
    for chunk in summary.chunks:
        if chunk.index_offsets and wanted.isdisjoint(chunk.index_offsets):
            continue
        if window and (look or size + chunk.uncompressed_size > WINDOW or not _near(window[-1], chunk)):
            yield window
            window, size, look = [], 0, False
        window.append(chunk)
        size += chunk.uncompressed_size
    if window:
        yield window


def _groups(windows: Sequence[list[ChunkIndex]], most: int) -> Iterator[list[list[ChunkIndex]]]:
    """Windows that lie close together, as many at once as unpack to ``most`` bytes."""
    group: list[list[ChunkIndex]] = []
    size = 0
    for window in windows:
        more = sum(chunk.uncompressed_size for chunk in window)
        if group and (size + more > most or not _near(group[-1][-1], window[0])):
            yield group
            group, size = [], 0
        group.append(window)
        size += more
    if group:
        yield group


def _near(one: ChunkIndex, other: ChunkIndex) -> bool:
    """Whether what lies between two chunks is cheaper to read than to seek over."""
    return other.start - one.end <= _GAP


def _chunk_at(raw: np.ndarray, at: int, index: ChunkIndex, uri: str) -> _Chunk:
    where = f"{uri}: chunk at byte {index.start}"
    opcode, length = RECORD.unpack_from(raw.data, at) if index.length >= RECORD.size else (0, 0)
    if opcode != CHUNK or length != index.length - RECORD.size:
        raise InputError(f"{where}: record {opcode:#04x} of {length} bytes there; the file or its index is damaged")
    chunk = parse_chunk(raw[at + RECORD.size : at + index.length], where)
    if chunk.size != index.uncompressed_size:
        raise InputError(f"{where}: {chunk.size} uncompressed bytes, its index says {index.uncompressed_size}")
    return chunk


def _message_indexes(
    raw: np.ndarray, base: int, index: ChunkIndex, wanted: frozenset[int], where: str
) -> dict[int, np.ndarray]:
    """Offsets within the chunk, uint64, of the messages of each wanted channel."""
    found = {}
    for id in wanted & index.index_offsets.keys():
        offset = index.index_offsets[id]
        room = index.end - offset - _INDEX.size
        if offset < index.start + index.length or room < 0:
            raise InputError(f"{where}: places its message index at byte {offset}, outside of its own; damaged index")
        opcode, length, channel, nbytes = _INDEX.unpack_from(raw.data, offset - base)
        if (opcode, channel) != (MESSAGE_INDEX, id) or length != nbytes + 6 or nbytes % 16 or nbytes > room:
            raise InputError(f"{where}: no message index of channel {id} at byte {offset}; the file is damaged")
        found[id] = np.ndarray((nbytes // 16, 2), "<u8", raw, offset - base + _INDEX.size)[:, 1]
    return found


def locate(
    buffer: np.ndarray, channel: int, pieces: list[np.ndarray], limits: list[tuple[int, int, int]], uri: str
) -> Messages:
    """Check the message records that an index or a scan points to, all at once.

    ``pieces``: offsets within each chunk; ``limits``: their count, and where the chunk begins and ends.
    """
    located = native.locate(buffer, channel, pieces, limits)
    if located is not None:
        return Messages(buffer, *located)
    counts, starts, ends = np.array(limits, np.int64).T
    within = np.concatenate(pieces)
    begin, end = np.repeat(starts, counts), np.repeat(ends, counts)
    room = end - begin - _PAYLOAD
    if np.any(room < 0) or np.any(within > room.view(np.uint64)):
        raise InputError(f"{uri}: an index of channel {channel} points outside of its chunk; the file is damaged")
    at = within.astype(np.int64) + begin
    step = np.diff(at)
    if np.any(step <= 0):  # an index may be sorted by time: bring it to file order
        order = np.argsort(at, kind="stable")
        at, begin, end = at[order], begin[order], end[order]
        if not np.all(np.diff(at)):
            raise InputError(f"{uri}: an index of channel {channel} names a message twice; the file is damaged")
    header = gather(buffer, at, _HEADER.itemsize).view(_HEADER)[:, 0]
    room = (end - at - RECORD.size).view(np.uint64)
    length = header["length"]
    good = (header["opcode"] == MESSAGE) & (header["channel"] == channel)
    good &= (length <= room) & (length >= _PAYLOAD - RECORD.size)
    if not good.all():
        raise InputError(f"{uri}: no message of channel {channel} where its index says; the file is damaged")
    times = header["log_time"].astype(np.int64)
    if times.size and times.min() < 0:
        raise InputError(f"{uri}: a message of channel {channel} has a log time beyond 2262; the file is damaged")
    size = length.astype(np.int64) - (_PAYLOAD - RECORD.size)
    return Messages(buffer, at + _PAYLOAD, size, times, header["publish_time"].astype(np.int64))


def _scan_chunk(buffer: np.ndarray, start: int, end: int, wanted: frozenset[int], where: str) -> dict[int, np.ndarray]:
    """Offsets in ``buffer``, uint64, of the message records in ``[start, end)`` by wanted channel."""
    offsets, _, stop = scan(buffer.data, start, end, wanted)
    if stop != end:
        raise InputError(f"{where}: ends in the middle of a record; the file is damaged")
    return offsets


def scan(
    data: memoryview, start: int, end: int, wanted: frozenset[int]
) -> tuple[dict[int, np.ndarray], int | None, int]:
    """Step over whole records up to the first chunk, or the first that does not end before ``end``.

    Returns offsets of messages by wanted channel (uint64), the content's offset of the chunk, and where it stopped.
    """
    if (done := native.scan(data, start, end, wanted)) is not None:
        return done
    found: dict[int, list[int]] = {id: [] for id in wanted}
    unpack = struct.Struct("<BQH").unpack_from  # the channel is the first field of a message
    at, last = start, end - RECORD.size - 2
    chunk = None
    while at <= last:
        opcode, length, channel = unpack(data, at)
        after = at + RECORD.size + length
        if after > end:
            break
        if opcode == MESSAGE and channel in found:
            found[channel].append(at)
        elif opcode == CHUNK:
            chunk = at + RECORD.size
            at = after
            break
        at = after
    else:
        if at + RECORD.size <= end and (after := at + RECORD.size + RECORD.unpack_from(data, at)[1]) <= end:
            at = after  # a last record of at most one byte
    return {id: np.array(some, np.uint64) for id, some in found.items() if some}, chunk, at


def _scanned(section: _DataSection, summary: Summary, wanted: frozenset[int]) -> Iterator[dict[int, Messages]]:
    """The whole data section record by record, for files without chunks or without an index of them."""
    uri, at, size = section.uri, len(MAGIC), WINDOW
    while at < summary.data_end:
        raw = section.read(at, min(at + size, summary.data_end))
        stop, more = 0, True
        while more:
            begin = stop
            offsets, chunk_at, stop = scan(raw.data, begin, len(raw), wanted)
            yield {id: locate(raw, id, [some], [(len(some), 0, stop)], uri) for id, some in offsets.items()}
            more = chunk_at is not None
            if chunk_at is not None:
                where = f"{uri}: chunk at byte {at + chunk_at - RECORD.size}"
                chunk = parse_chunk(raw[chunk_at:stop], where)
                buffer = section.scratch(chunk.size)[: chunk.size]
                chunk.unpack(buffer, section.verify)
                offsets = _scan_chunk(buffer, 0, chunk.size, wanted, where)
                limit = chunk.size
                yield {id: locate(buffer, id, [some], [(len(some), 0, limit)], uri) for id, some in offsets.items()}
        at, size = at + stop, WINDOW
        if not stop:  # one record larger than the window
            opcode, length = RECORD.unpack_from(raw.data) if len(raw) >= RECORD.size else (0, summary.data_end)
            size = RECORD.size + length
            if size > summary.data_end - at:
                raise InputError(
                    f"{uri}: record at byte {at} claims {length} bytes, the data section ends at {summary.data_end}; "
                    "the file is damaged"
                )
            if opcode not in (MESSAGE, CHUNK):  # an attachment, say: step over it unread
                at, size = at + size, WINDOW
