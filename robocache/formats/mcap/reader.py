"""The MCAP reader: see :class:`robocache.formats.base.Reader`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar

from robocache.formats.base import InputSpec, open_file
from robocache.formats.mcap.container import MAGIC, Summary, loose_messages, read_metadata, read_summary
from robocache.formats.mcap.windows import read_messages
from robocache.formats.messages.log import LogReader, Part, Window
from robocache.types import FileStamp


class McapReader(LogReader):
    """MCAP files. Only the chunks that hold the topics asked for are read. Metadata: that of the files' Metadata
    records, by their names.
    """

    name: ClassVar[str] = "mcap"
    suffixes: ClassVar[tuple[str, ...]] = (".mcap",)
    magic: ClassVar[bytes] = MAGIC
    remedy: ClassVar[str] = "`mcap recover`"

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec) -> Iterator[Part]:
        """After a look at its first bytes, footer and summary."""
        with open_file(file, spec) as opened:
            summary = read_summary(opened, file.uri, verify=spec.verify_checksums)
            yield _McapPart(opened, summary, verify=spec.verify_checksums)


class _McapPart(Part):
    def __init__(self, file: BinaryIO, summary: Summary, *, verify: bool):
        self.uri, self.channels = summary.uri, summary.channels
        # No more messages can be there than their indexes, or the file, have room for.
        self.room = sum(c.index_length for c in summary.chunks) // 16 if summary.chunks else summary.data_end // 31
        self._file, self._summary, self._verify = file, summary, verify

    def promised(self, channel: int) -> int:
        return (self._summary.message_counts or {}).get(channel, 0)

    def messages(self, channels: Collection[int], *, scan: bool = False) -> Iterator[Window]:
        summary = self._summary
        scan = scan or bool(summary.chunks and summary.message_counts is None and loose_messages(self._file, summary))
        return read_messages(self._file, summary, channels, verify=self._verify, scan=scan)

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        """The first chunk that holds them, one in the middle and the last."""
        summary = self._summary
        chunks = [c for c in summary.chunks if not c.index_offsets or not c.index_offsets.keys().isdisjoint(channels)]
        for i in sorted({0, len(chunks) // 2, max(len(chunks) - 1, 0)}):
            one = replace(summary, chunks=tuple(chunks[i : i + 1]))  # without any: whatever lies outside of chunks
            yield read_messages(self._file, one, channels, verify=self._verify)

    def metadata(self) -> dict[str, Any]:
        return read_metadata(self._file, self._summary)
