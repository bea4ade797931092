"""The MCAP reader: see :class:`robocache.formats.base.Reader`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file
from robocache.formats.kept import Kept
from robocache.formats.mcap.container import MAGIC, ChunkIndex, Summary, loose_messages, read_metadata, read_summary
from robocache.formats.mcap.salvage import SalvagedPart
from robocache.formats.mcap.windows import read_messages
from robocache.formats.messages.chunks import Chunks
from robocache.formats.messages.log import LogReader, Part, Window, Within, few, needed
from robocache.formats.scattered import ScatteredFile
from robocache.types import FileStamp


class McapReader(LogReader):
    """MCAP files. Only the chunks that hold the topics asked for are read. Metadata: that of the files' Metadata
    records, by their names, and what is attached: ``attachments``, by name media type and bytes. Its data is not read.
    """

    name: ClassVar[str] = "mcap"
    suffixes: ClassVar[tuple[str, ...]] = (".mcap",)
    magic: ClassVar[bytes] = MAGIC
    remedy: ClassVar[str] = "`mcap recover`"

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec) -> Iterator[Part]:
        """After a look at its first bytes, footer and summary; without these, with ``input.salvage``, at all of it."""
        with open_file(file, spec) as opened:
            try:
                summary = _summary(opened, file, spec)
                part: Part = _McapPart(opened, summary, verify=spec.verify_checksums, salvage=spec.salvage)
            except InputError:
                if not spec.salvage:
                    raise
                part = SalvagedPart(opened, file.uri)
            yield part


#: Of files on an object store, where each look at one is a request.
_SUMMARIES = Kept(64 << 20)
_CHUNK_BYTES, _SUMMARY_BYTES = 512, 4096  # about what an entry of the index takes in memory, and the rest


def _summary(opened: BinaryIO, file: FileStamp, spec: InputSpec) -> Summary:
    """What the file says of itself, which is read once where it lies far away and is of the version that was listed."""
    if not (isinstance(opened, ScatteredFile) and opened.listed):
        return read_summary(opened, file.uri, verify=spec.verify_checksums)
    key = (file, spec.verify_checksums)
    if (known := _SUMMARIES.get(key)) is None:
        known = read_summary(opened, file.uri, verify=spec.verify_checksums)
        _SUMMARIES.put(key, known, _SUMMARY_BYTES + _CHUNK_BYTES * len(known.chunks))
    return known


class _McapPart(Part):
    def __init__(self, file: BinaryIO, summary: Summary, *, verify: bool, salvage: bool):
        self.uri, self.channels = summary.uri, summary.channels
        # No more messages can be there than their indexes, or the file, have room for.
        self.room = sum(c.index_length for c in summary.chunks) // 16 if summary.chunks else summary.data_end // 31
        self._file, self._summary, self._verify, self._salvage = file, summary, verify, salvage
        self._lost: dict[int, str] = {}

    def promised(self, channel: int) -> int:
        return 0 if self._salvage else (self._summary.message_counts or {}).get(channel, 0)

    def messages(
        self,
        channels: Collection[int],
        *,
        scan: bool = False,
        within: Within | None = None,
        taker: Chunks | None = None,
    ) -> Iterator[Window]:
        summary = self._summary if within is None else self._within(channels, within)
        scan = scan or bool(summary.chunks and summary.message_counts is None and loose_messages(self._file, summary))
        if self._salvage and summary.chunks and not scan:
            yield from self._chunk_by_chunk(channels, summary.chunks)
        else:
            yield from read_messages(self._file, summary, channels, verify=self._verify, scan=scan, taker=taker)

    def _within(self, channels: Collection[int], within: Within) -> Summary:
        """The summary as of the chunks that may hold messages of that time, and of each channel the nearest."""
        chunks = self._summary.chunks
        holds = {id: [c for c in chunks if not c.index_offsets or id in c.index_offsets] for id in channels}
        kept = {c.start for some in holds.values() for c in needed(some, [c.times for c in some], within)}
        if not kept:
            return self._summary
        return replace(self._summary, chunks=tuple(c for c in chunks if c.start in kept), data_crc=0)

    def _chunk_by_chunk(self, channels: Collection[int], chunks: Sequence[ChunkIndex]) -> Iterator[Window]:
        """Without the chunks that are damaged."""
        for chunk in chunks:
            one = replace(self._summary, chunks=(chunk,), data_crc=0)
            try:
                yield from read_messages(self._file, one, channels, verify=self._verify)  # it is one window
            except InputError as error:
                self._lost[chunk.start] = f"{error}; it is left out"

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(text for _, text in sorted(self._lost.items()))

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        """The first chunk that holds them, one in the middle and the last."""
        summary = self._summary
        chunks = [c for c in summary.chunks if not c.index_offsets or not c.index_offsets.keys().isdisjoint(channels)]
        for i in few(len(chunks)) or [0]:
            one = replace(summary, chunks=tuple(chunks[i : i + 1]))  # without any: whatever lies outside of chunks
            yield _McapPart(self._file, one, verify=self._verify, salvage=self._salvage).messages(channels)

    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = dict(read_metadata(self._file, self._summary))
        if attached := self._summary.attachments:
            found.setdefault("attachments", {name: {"media_type": kind, "bytes": n} for name, kind, n in attached})
        return found
