"""What an MCAP file says about itself: footer, summary, channels, schemas and chunk indexes.

Format: https://mcap.dev/spec. Every length and offset in it is a claim of an untrusted file and is checked here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from robocache.errors import InputError
from robocache.formats.messages.batch import Schema
from robocache.formats.messages.log import Channel

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = 0x03, 0x04, 0x05, 0x06, 0x07, 0x08
ATTACHMENT_INDEX, STATISTICS, METADATA, METADATA_INDEX, DATA_END, FOOTER = 0x0A, 0x0B, 0x0C, 0x0D, 0x0F, 0x02
RECORD = struct.Struct("<BQ")  # opcode, content length: how every record begins
_FOOTER = struct.Struct("<BQQQI")  # record, summary_start, summary_offset_start, summary_crc
_DATA_END = struct.Struct("<BQI")  # record, data_section_crc
_CHUNK_INDEX = struct.Struct("<QQQQI")  # times of first and last message, where the chunk is, bytes of the offsets
_AFTER_OFFSETS = struct.Struct("<QI")  # bytes of the message indexes, of the compression's name
_UNCOMPRESSED = struct.Struct("<8xQ")  # behind the compressed size
_MOST_METADATA = 1 << 24
#: What helps where a file was cut off.
SALVAGE = "re-index it with `mcap recover`, or set input.salvage: true to read what is whole of it"


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """Where a chunk is. ``index_offsets``: channel id -> file offset of its message index; empty if not indexed.
    ``times``: when its first and its last message were logged, by time.
    """

    start: int
    length: int
    index_offsets: dict[int, int]
    index_length: int
    uncompressed_size: int
    times: tuple[int, int] = (0, 0)

    @property
    def end(self) -> int:
        """File offset behind the chunk and its message indexes."""
        return self.start + self.length + self.index_length


@dataclass(frozen=True, slots=True)
class Summary:
    """``data_end`` is the file offset of the DataEnd record, ``data_crc`` covers the bytes before it (0: none).

    message_counts: by channel, as the statistics record has them; None where there is none
    metadata:       where Metadata records are: file offset and length, by the index of them
    attachments:    name, media type and bytes of each attachment, by the index of them
    """

    uri: str
    channels: dict[int, Channel]
    chunks: tuple[ChunkIndex, ...]
    message_counts: dict[int, int] | None
    data_end: int
    data_crc: int
    metadata: tuple[tuple[int, int], ...] = ()
    attachments: tuple[tuple[str, str, int], ...] = ()


class Fields:
    """Reads the fields of one record in order; ``InputError`` where the record ends too early."""

    def __init__(self, data: bytes, where: str):
        self._data, self._at, self._where = data, 0, where

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise InputError(
                f"{self._where}: a field of {size} bytes at byte {self._at} of a record of {len(self._data)} bytes; "
                "the file is damaged, try `mcap recover`"
            )
        self._at += size
        return piece

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        try:
            return self.take(self.integer(4)).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self._where}: text that is not UTF-8 ({error}); the file is damaged") from None

    def texts(self) -> dict[str, str]:
        """A map of text to text."""
        end = self.integer(4) + self._at
        found = {}
        while self._at < end:
            name = self.text()
            found[name] = self.text()
        return found

    def counts(self) -> dict[int, int]:
        """A map of u16 to u64."""
        return _counts(self.take(self.integer(4)), self._where)


def read_exactly(file: BinaryIO, start: int, size: int, uri: str) -> bytes:
    """``size`` bytes from ``start``; ``InputError`` where the file ends before."""
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise InputError(f"{uri}: ends at byte {start + len(data)} in the middle of a read up to {start + size}")
    return data


def read_summary(file: BinaryIO, uri: str, *, verify: bool) -> Summary:
    """Read footer and summary, and nothing of the data section but its first 8 and last 13 bytes.

    ``verify``: check the summary's CRC where the file has one. ``InputError`` for a file that is not MCAP, is cut
    short or has no usable summary.
    """
    size = file.seek(0, 2)
    smallest = 2 * len(MAGIC) + _FOOTER.size
    head = read_exactly(file, 0, min(len(MAGIC), size), uri)
    if head != MAGIC:
        raise InputError(f"{uri}: begins with {head!r}, not with the MCAP magic {MAGIC!r}")
    if size < smallest:
        raise InputError(f"{uri}: is {size} bytes long, cut off before its footer; {SALVAGE}")
    footer_start = size - len(MAGIC) - _FOOTER.size
    footer = read_exactly(file, footer_start, size - footer_start, uri)
    if footer[-len(MAGIC) :] != MAGIC:
        raise InputError(
            f"{uri}: ends in the middle of a record (its last bytes are {footer[-8:]!r}, not the MCAP magic), so the "
            f"recording was cut off or is still being written; {SALVAGE}"
        )
    opcode, length, summary_start, _, crc = _FOOTER.unpack_from(footer)
    if (opcode, length) != (FOOTER, _FOOTER.size - RECORD.size):
        raise InputError(f"{uri}: record {opcode:#04x} of {length} bytes in place of the footer; the file is damaged")
    if summary_start == 0:
        raise InputError(f"{uri}: has no summary section; {SALVAGE}")
    data_end = summary_start - _DATA_END.size
    if not len(MAGIC) <= data_end <= footer_start - _DATA_END.size:
        raise InputError(f"{uri}: footer places the summary at byte {summary_start} of {size}; the file is damaged")
    tail = read_exactly(file, data_end, footer_start - data_end, uri)
    opcode, length, data_crc = _DATA_END.unpack_from(tail)
    if (opcode, length) != (DATA_END, 4):
        raise InputError(f"{uri}: record {opcode:#04x} before the summary, not DataEnd; the file is damaged")
    summary = tail[_DATA_END.size :]
    if verify and crc:
        covered = zlib.crc32(footer[: _FOOTER.size - 4], zlib.crc32(summary))
        if covered != crc:
            raise InputError(f"{uri}: summary has CRC {covered:#010x}, the footer says {crc:#010x}; it is damaged")
    return _parse_summary(summary, uri, data_end, data_crc)


def _records(data: bytes, uri: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if at + RECORD.size > len(data):
            raise InputError(f"{uri}: summary ends in the middle of a record header; the file is damaged")
        opcode, length = RECORD.unpack_from(data, at)
        at += RECORD.size
        if length > len(data) - at:
            raise InputError(f"{uri}: summary record {opcode:#04x} claims {length} bytes, {len(data) - at} are left")
        yield opcode, data[at : at + length]
        at += length


def _parse_summary(data: bytes, uri: str, data_end: int, data_crc: int) -> Summary:
    schemas: dict[int, Schema] = {}
    channels: list[tuple[int, int, str, str]] = []
    chunks: list[ChunkIndex] = []
    metadata: list[tuple[int, int]] = []
    attachments: list[tuple[str, str, int]] = []
    counts: dict[int, int] | None = None
    for opcode, content in _records(data, uri):
        where = f"{uri}: summary record {opcode:#04x}"
        if opcode == CHUNK_INDEX:  # of which there are as many as the file is long
            chunks.append(_chunk_index(content, where, uri, data_end))
            continue
        fields = Fields(content, where)
        if opcode == SCHEMA:
            id = fields.integer(2)
            schemas[id] = Schema(fields.text(), fields.text(), fields.take(fields.integer(4)))
        elif opcode == CHANNEL:
            channels.append((fields.integer(2), fields.integer(2), fields.text(), fields.text()))
        elif opcode == METADATA_INDEX:
            metadata.append((fields.integer(8), fields.integer(8)))
        elif opcode == ATTACHMENT_INDEX:
            fields.take(32)  # where it is, how long its record, when logged and created
            size = fields.integer(8)
            attachments.append((fields.text(), fields.text(), size))
        elif opcode == STATISTICS:
            fields.take(42)  # totals and time range; only the counts by channel serve here
            counts = fields.counts()
    if not channels and (counts is None or any(counts.values()) or chunks):
        raise InputError(f"{uri}: its summary does not repeat the channels; {SALVAGE}")
    found = {}
    for id, schema_id, topic, encoding in channels:
        if schema_id and schema_id not in schemas:
            raise InputError(f"{uri}: channel {topic!r} has schema {schema_id}, the summary holds {sorted(schemas)}")
        found[id] = Channel(id, topic, encoding, schemas.get(schema_id))
    chunks.sort(key=lambda chunk: chunk.start)
    for before, after in pairwise(chunks):
        if after.start < before.end:
            raise InputError(f"{uri}: chunks at bytes {before.start} and {after.start} overlap; the file is damaged")
    return Summary(uri, found, tuple(chunks), counts, data_end, data_crc, tuple(metadata), tuple(attachments))


def read_metadata(file: BinaryIO, summary: Summary) -> dict[str, dict[str, str]]:
    """The file's Metadata records, by name; of records of one name the entries of all."""
    found: dict[str, dict[str, str]] = {}
    for start, length in summary.metadata:
        if not len(MAGIC) <= start <= summary.data_end - length or not RECORD.size <= length <= _MOST_METADATA:
            raise InputError(f"{summary.uri}: its index has metadata of {length} bytes at byte {start}; it is damaged")
        record = read_exactly(file, start, length, summary.uri)
        opcode, size = RECORD.unpack_from(record)
        if opcode != METADATA or size != length - RECORD.size:
            raise InputError(f"{summary.uri}: record {opcode:#04x} at byte {start}, not metadata; its index is damaged")
        fields = Fields(record[RECORD.size :], f"{summary.uri}: metadata at byte {start}")
        name = fields.text()
        found.setdefault(name, {}).update(fields.texts())
    return found


def loose_messages(file: BinaryIO, summary: Summary) -> bool:
    """Whether messages, or chunks, lie where no chunk index points to: by the headers of the records between."""
    at = len(MAGIC)
    for begin, end in [*((chunk.start, chunk.end) for chunk in summary.chunks), (summary.data_end, 0)]:
        while at < begin:
            opcode, length = RECORD.unpack(read_exactly(file, at, RECORD.size, summary.uri))
            if opcode in (MESSAGE, CHUNK):
                return True
            at += RECORD.size + length
        at = max(at, end)
    return False


def _chunk_index(content: bytes, where: str, uri: str, data_end: int) -> ChunkIndex:
    """Behind what is unpacked here are the compression and the compressed size, which the chunk says itself."""
    try:
        first, last, start, length, nbytes = _CHUNK_INDEX.unpack_from(content)
        at = _CHUNK_INDEX.size + nbytes
        index_length, name_length = _AFTER_OFFSETS.unpack_from(content, at)
        (size,) = _UNCOMPRESSED.unpack_from(content, at + _AFTER_OFFSETS.size + name_length)
    except struct.error as error:
        raise InputError(
            f"{where}: a chunk index of {len(content)} bytes ends too early ({error}); the file is damaged, try `mcap "
            "recover`"
        ) from None
    offsets = _counts(content[_CHUNK_INDEX.size : at], where)
    chunk = ChunkIndex(start, length, offsets, index_length, size, (first, last))
    if start < len(MAGIC) or chunk.end > data_end:
        raise InputError(
            f"{uri}: a chunk index claims bytes {start} to {chunk.end}, the data section ends at {data_end}"
        )
    return chunk


def _counts(data: bytes, where: str) -> dict[int, int]:
    """A map of u16 to u64."""
    if len(data) % 10:
        raise InputError(f"{where}: a map of {len(data)} bytes, it must be a multiple of 10")
    return dict(struct.iter_unpack("<HQ", data))
