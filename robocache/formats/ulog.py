"""PX4's ULog: each subscription a topic, its fields by the formats that the file defines, decoded as columns.

Format: https://docs.px4.io/main/en/dev_log/ulog_file_format.html. Times are those of the field ``timestamp``,
microseconds since the autopilot started. The first instance of a message is called by its name, ``sensor_accel``, the
next ``sensor_accel_1``. A log ends where the power was cut: its last message need not be whole.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from math import isfinite
from typing import Any, ClassVar

import numpy as np

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file
from robocache.formats.messages.batch import Messages, Schema, gather
from robocache.formats.messages.chunks import Chunks
from robocache.formats.messages.log import Channel, LogReader, Part, Window, Within, few
from robocache.formats.messages.ulog_types import Layout, parse_formats
from robocache.formats.scattered import ScatteredFile
from robocache.formats.ulog_walk import ADD, DROPOUT, FORMAT, INFO, LEAST, MAGIC, PARAMETER, UlogFile, ends_of
from robocache.types import FileStamp

_KEY = re.compile(rb"(?P<type>char|u?int(?:8|16|32|64)_t|float|double|bool)(?:\[\d+\])? (?P<name>.+)", re.DOTALL)
_VALUES = {b"float": "f", b"double": "d", b"bool": "?", b"int8_t": "b", b"uint8_t": "B", b"int16_t": "h",
           b"uint16_t": "H", b"int32_t": "i", b"uint32_t": "I", b"int64_t": "q", b"uint64_t": "Q"}  # fmt: skip


class UlogReader(LogReader):
    """Metadata: the file's infos by their keys, and ``parameters``."""

    name: ClassVar[str] = "ulog"
    suffixes: ClassVar[tuple[str, ...]] = (".ulg", ".ulog")
    magic: ClassVar[bytes] = MAGIC
    splits: ClassVar[bool] = False
    remedy: ClassVar[str] = "`input.salvage: true`"

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec) -> Iterator[Part]:
        with open_file(file, spec) as opened:
            # It is gone through twice: what is not on this machine is fetched once.
            stream = BytesIO(opened.read()) if isinstance(opened, ScatteredFile) else opened
            yield _Log(UlogFile(stream, file.uri), file.uri, salvage=spec.salvage)

    def look(self, file: FileStamp, spec: InputSpec) -> None:
        """At its beginning: what else a log says of itself lies between its data."""
        with open_file(file, spec) as opened:
            ends_of(opened.read(LEAST), 0, file.uri)


class _Log(Part):
    def __init__(self, file: UlogFile, uri: str, *, salvage: bool):
        self.uri, self._file = uri, file
        self.room = file.size // 3
        self._layouts: dict[int, Layout] = {}
        self.channels = {channel.id: channel for channel in self._channels()}
        name = uri.rpartition("/")[2]
        self.notes = tuple(f"{name}: {text}" for text in self._lost(salvage))

    def _lost(self, salvage: bool) -> Iterator[str]:
        """What is not there of the flight, a sentence each. ``InputError``: the file is damaged, and no salvage."""
        at, size = self._file.stop, self._file.size
        if self._file.strange is not None:
            what = f"a message of unknown type {self._file.strange:#04x} at byte {at}"
            if not salvage:
                why = "the file is damaged: set input.salvage: true to read what is before"
                raise InputError(f"{self.uri}: {what}; {why}")
            yield f"{what}: the last {size - at:,} bytes are lost"
        elif at < size:
            yield f"its last {size - at} bytes are no whole message, as of a log that was cut off"
        dropouts = [int.from_bytes(text, "little") for text in self._file.told[DROPOUT] if len(text) == 2]
        if dropouts:
            yield f"the logger lost messages {len(dropouts)} times, for {sum(dropouts)} ms in all"

    def _channels(self) -> Iterator[Channel]:
        """Of subscriptions that have data."""
        formats = (content.decode("utf-8", "replace").partition(":") for content in self._file.told[FORMAT])
        latest = {name: fields for name, _, fields in formats}
        text = "\n".join(f"{name}:{fields}" for name, fields in latest.items()).encode()
        for id, content in enumerate(content for content in self._file.told[ADD] if len(content) > 3):
            if self._file.counts[id]:
                name, instance = content[3:].decode("utf-8", "replace"), content[0]
                topic = f"{name}_{instance}" if instance else name
                yield Channel(id, topic, "ulog", Schema(name, "ulog", text))

    def promised(self, channel: int) -> int:
        return self._file.counts[channel]

    def metadata(self) -> dict[str, Any]:
        parameters = _values(self._file.told[PARAMETER])
        return {**_values(self._file.told[INFO]), **({"parameters": parameters} if parameters else {})}

    def messages(
        self,
        channels: Collection[int],
        *,
        scan: bool = False,
        within: Within | None = None,
        taker: Chunks | None = None,
    ) -> Iterator[Window]:
        for begin, end, holds in self._file.windows:
            if not holds.isdisjoint(channels):
                yield self._window(begin, end, channels)

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        windows = [(begin, end) for begin, end, holds in self._file.windows if not holds.isdisjoint(channels)]
        for k in few(len(windows)):
            yield iter([self._window(*windows[k], channels)])

    def _window(self, begin: int, end: int, channels: Collection[int]) -> Window:
        buffer, found = self._file.read(begin, end, channels)
        pairs = zip(channels, found, strict=True)
        return {id: self._stamped(buffer, id, *places) for id, places in pairs if len(places[0])}

    def _stamped(self, buffer: np.ndarray, id: int, start: np.ndarray, size: np.ndarray) -> Messages:
        channel = self.channels[id]
        assert channel.schema is not None
        if id not in self._layouts:
            self._layouts[id] = parse_formats(channel.schema, f"{self.uri}: {channel.topic}")
        place = self._layouts[id].stamp
        if place is None:
            return Messages(buffer, start, size, np.zeros(len(start), np.int64))
        if (size < place + 8).any():
            raise InputError(f"{self.uri}: {channel.topic}: a message ends before its timestamp; the file is damaged")
        stamps = gather(buffer, start + place, 8).view("<u8")[:, 0]
        if stamps.max(initial=0) > 2**63 // 1000:
            raise InputError(f"{self.uri}: {channel.topic}: a timestamp beyond 2262; the file is damaged")
        return Messages(buffer, start, size, stamps.astype(np.int64) * 1000)


def _values(contents: Iterable[bytes]) -> dict[str, Any]:
    """What infos and parameters say: length, key and value each. A later one counts."""
    found: dict[str, Any] = {}
    for content in contents:
        begin = 1 + content[0] if content else 0
        if (key := _key(content[1:begin])) is None:
            continue
        name, number = key
        value = content[begin:]
        if number is None:
            found[name] = value.decode("utf-8", "replace")
        elif len(value) == number.size:
            (read,) = number.unpack(value)
            found[name] = read if isfinite(read) else str(read)  # JSON has no others
    return found


@lru_cache(maxsize=1 << 14)  # the logs of a dataset have the same parameters
def _key(key: bytes) -> tuple[str, struct.Struct | None] | None:
    """The name of a value and what its bytes are, None for text; None where the key cannot be read."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    number = None if match["type"] == b"char" else struct.Struct("<" + _VALUES[match["type"]])
    return match["name"].decode("utf-8", "replace"), number
