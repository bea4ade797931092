"""MCAP files that were cut off, or lack their summary: gone through record by record, as far as they are whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from robocache.errors import InputError
from robocache.formats.mcap.container import (
    CHANNEL,
    CHUNK,
    DATA_END,
    MAGIC,
    MESSAGE,
    RECORD,
    SCHEMA,
    Fields,
    read_exactly,
)
from robocache.formats.mcap.windows import CHUNK_HEAD, WINDOW, locate, parse_chunk, scan
from robocache.formats.messages.batch import Schema
from robocache.formats.messages.chunks import Chunks
from robocache.formats.messages.log import Channel, Part, Window, Within

_MOST_OPCODE = 0x0F
_MOST_RECORD = 1 << 32  # bytes; attachments are the largest


class _Piece(NamedTuple):
    """Bytes of the file that hold whole records, or one chunk."""

    start: int
    end: int
    chunk: bool


class SalvagedPart(Part):
    """Goes through the file once to see what of it is whole. ``InputError``: it does not begin as MCAP does."""

    def __init__(self, file: BinaryIO, uri: str):
        self.uri, self._file = uri, file
        size = file.seek(0, 2)
        if read_exactly(file, 0, min(len(MAGIC), size), uri) != MAGIC:
            raise InputError(f"{uri}: does not begin with the MCAP magic {MAGIC!r}")
        self.room = size // 31
        channels: dict[int, Channel] = {}
        self.channels = self._channels = channels
        self._schemas: dict[int, Schema] = {}
        self._pieces: list[_Piece] = []
        self._lost: dict[int, str] = {}
        self._count = 0
        self._walk(len(MAGIC), size)
        chunks = sum(piece.chunk for piece in self._pieces)
        name = uri.rpartition("/")[2]
        self._said = (
            f"{name}: its summary cannot be used; going through it found {self._count:,} messages, {chunks:,} chunks"
        )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        name = self.uri.rpartition("/")[2]
        return (self._said, *(f"{name}: {text}" for _, text in sorted(self._lost.items())))

    def _walk(self, at: int, size: int) -> None:
        """The records of the data section, up to its end or the first that is not whole."""
        loose = at
        while at + RECORD.size <= size:
            opcode, length = RECORD.unpack(read_exactly(self._file, at, RECORD.size, self.uri))
            after = at + RECORD.size + length
            if opcode == DATA_END:
                self._add_loose(loose, at)
                return
            if not 0 < opcode <= _MOST_OPCODE or length > _MOST_RECORD or after > size:
                break
            if opcode == CHUNK:
                self._add_loose(loose, at)
                self._add_chunk(at, after)
                loose = after
            elif after - loose > WINDOW:
                self._add_loose(loose, after)
                loose = after
            at = after
        self._add_loose(loose, at)
        at = self._add_cut(at, size)
        self._lost[at] = f"cut off or damaged at byte {at}: the last {size - at:,} of its {size:,} bytes are lost"

    def _add_loose(self, start: int, end: int) -> None:
        if start < end <= start + WINDOW + _MOST_RECORD:
            data = read_exactly(self._file, start, end - start, self.uri)
            stop = self._learn(np.frombuffer(data, np.uint8))
            self._pieces.append(_Piece(start, start + stop, False))

    def _add_chunk(self, start: int, end: int) -> None:
        try:
            records = self._unpacked(_Piece(start, end, True))
            before = self._count
            if self._learn(records) != len(records):
                self._count = before
                raise InputError("ends in the middle of a record")
        except InputError as error:
            reason = str(error).removeprefix(f"{self.uri}: ").removeprefix(f"chunk at byte {start}: ")
            self._lost[start] = f"chunk at byte {start}: {reason}; it is left out"
            return
        self._pieces.append(_Piece(start, end, True))

    def _add_cut(self, at: int, size: int) -> int:
        """The whole records of a chunk that ends with the file and is stored as it is; where the last of them ends."""
        head = read_exactly(self._file, at, min(RECORD.size + CHUNK_HEAD.size, size - at), self.uri)
        if len(head) < RECORD.size + CHUNK_HEAD.size or head[0] != CHUNK:
            return at
        *_, name_length = CHUNK_HEAD.unpack_from(head, RECORD.size)
        begin = at + len(head) + 8
        if name_length or begin >= size:
            return at
        before = len(self._pieces)
        self._add_loose(begin, size)
        return self._pieces[-1].end if len(self._pieces) > before else at

    def _unpacked(self, piece: _Piece) -> np.ndarray:
        raw = np.frombuffer(read_exactly(self._file, piece.start, piece.end - piece.start, self.uri), np.uint8)
        if not piece.chunk:
            return raw
        chunk = parse_chunk(raw[RECORD.size :], f"{self.uri}: chunk at byte {piece.start}")
        buffer = np.empty(chunk.size, np.uint8)
        chunk.unpack(buffer, verify=True)
        return buffer

    def _learn(self, records: np.ndarray) -> int:
        """Take note of the channels there and count the messages; where the last whole record ends."""
        data, at = records.data, 0
        while at + RECORD.size <= len(data):
            opcode, length = RECORD.unpack_from(data, at)
            after = at + RECORD.size + length
            if not 0 < opcode <= _MOST_OPCODE or after > len(data):
                break
            if opcode in (SCHEMA, CHANNEL):
                fields = Fields(bytes(data[at + RECORD.size : after]), f"{self.uri}: record {opcode:#04x}")
                id = fields.integer(2)
                if opcode == SCHEMA:
                    self._schemas[id] = Schema(fields.text(), fields.text(), fields.take(fields.integer(4)))
                else:
                    schema = self._schemas.get(fields.integer(2))
                    self._channels.setdefault(id, Channel(id, fields.text(), fields.text(), schema))
            self._count += opcode == MESSAGE
            at = after
        return at

    def messages(
        self,
        channels: Collection[int],
        *,
        scan: bool = False,
        within: Within | None = None,
        taker: Chunks | None = None,
    ) -> Iterator[Window]:
        for piece in self._pieces:
            yield from self._windows(piece, frozenset(channels))

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        """All of the file, as nothing tells where they are."""
        yield self.messages(channels)

    def _windows(self, piece: _Piece, wanted: frozenset[int]) -> Iterator[Window]:
        try:
            records = self._unpacked(piece)
            offsets, _, stop = scan(records.data, 0, len(records), wanted)
            window = {id: locate(records, id, [some], [(len(some), 0, stop)], self.uri) for id, some in offsets.items()}
        except InputError as error:
            self._lost[piece.start] = f"{str(error).removeprefix(f'{self.uri}: ')}; it is left out"
            return
        yield window
