"""PX4's ULog: each subscription a topic, its fields by the formats that the file defines, decoded as columns.

Format: https://docs.px4.io/main/en/dev_log/ulog_file_format.html. Times are those of the field ``timestamp``,
microseconds since the autopilot started. The first instance of a message is called by its name, ``sensor_accel``, the
next ``sensor_accel_1``. A log ends where the power was cut: its last message need not be whole.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file
from robocache.formats.messages.batch import Messages, Schema, gather
from robocache.formats.messages.chunks import Chunks
from robocache.formats.messages.log import Channel, LogReader, Part, Window, Within
from robocache.formats.messages.ulog_types import Layout, parse_formats
from robocache.types import FileStamp

MAGIC = b"ULog\x01\x12\x35"
_HEADER = 16  # magic, version, timestamp
_HEAD = struct.Struct("<HB")
_FLAGS, _FORMAT, _INFO, _MULTI, _PARAMETER, _DEFAULT = b"BFIMPQ"
_ADD, _REMOVE, _DATA, _TEXT, _TAGGED, _SYNC, _DROPOUT = b"ARDLCSO"
_KNOWN = frozenset(b"BFIMPQARDLCSO")
_KEY = re.compile(rb"(?P<type>char|u?int(?:8|16|32|64)_t|float|double|bool)(?:\[\d+\])? (?P<name>.+)", re.DOTALL)
_VALUES = {b"float": "<f4", b"double": "<f8", b"bool": "?", **{f"{s}int{n}_t".encode(): f"<{k}{n // 8}"
           for s, k in (("", "i"), ("u", "u")) for n in (8, 16, 32, 64)}}  # fmt: skip
_MOST_INFO = 1 << 16


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
            yield _Log(opened.read(), file.uri, salvage=spec.salvage)


class _Log(Part):
    """A log is held in memory; logs of long flights have some hundred megabytes."""

    def __init__(self, data: bytes, uri: str, *, salvage: bool):
        self.uri, self._data, self._salvage = uri, data, salvage
        if data[: len(MAGIC)] != MAGIC or len(data) < _HEADER:
            raise InputError(f"{uri}: begins with {data[:8]!r}; {MAGIC!r} is right")
        self.room = len(data) // _HEAD.size
        self._told: dict[str, Any] = {}
        self._parameters: dict[str, Any] = {}
        self._formats: dict[str, str] = {}
        self._added: dict[int, tuple[str, int]] = {}  # by channel: the message's name and instance
        self._offsets: dict[int, list[int]] = {}
        self._sizes: dict[int, list[int]] = {}
        self._lost: list[str] = []
        self._dropouts: list[int] = []
        self._walk()
        if self._dropouts:
            total = sum(self._dropouts)
            self._lost.append(f"the logger lost messages {len(self._dropouts)} times, for {total} ms in all")
        name = uri.rpartition("/")[2]
        self.notes = tuple(f"{name}: {text}" for text in self._lost)
        self._layouts: dict[int, Layout] = {}
        self.channels = {channel.id: channel for channel in self._channels()}

    def _channels(self) -> Iterator[Channel]:
        text = "\n".join(f"{name}:{fields}" for name, fields in self._formats.items()).encode()
        for id, (name, instance) in self._added.items():
            if self._offsets[id]:
                topic = f"{name}_{instance}" if instance else name
                yield Channel(id, topic, "ulog", Schema(name, "ulog", text))

    def _walk(self) -> None:
        data, at, size = self._data, _HEADER, len(self._data)
        # What takes the offset and the size of a message, by the number that stands in front of it.
        current: dict[int, tuple[Callable[[int], None], Callable[[int], None]]] = {}
        unpack, header = _HEAD.unpack_from, _HEAD.size
        bounds: list[int] = [size]
        while at + header <= size:
            length, kind = unpack(data, at)
            start = at + header
            end = start + length
            if end > bounds[0]:
                if len(bounds) > 1:  # what was appended after a crash begins here
                    at = bounds.pop(0)
                    continue
                if kind in _KNOWN:
                    break
            if kind == _DATA:  # nearly all are
                if length > 2 and (keep := current.get(data[start] | data[start + 1] << 8)) is not None:
                    keep[0](start + 2)
                    keep[1](length - 2)
            elif kind not in _KNOWN:
                self._damaged(at, f"a message of unknown type {kind:#04x}")
                return
            elif kind == _ADD and length > 3:
                id = len(self._added)
                self._added[id] = (data[start + 3 : end].decode("utf-8", "replace"), data[start])
                self._offsets[id], self._sizes[id] = [], []
                current[data[start + 1] | data[start + 2] << 8] = self._offsets[id].append, self._sizes[id].append
            elif kind == _FLAGS and at == _HEADER and length >= 40:
                bounds = self._appended(data[start:end], size)
            else:
                self._definition(kind, data[start:end])
            at = end
        if at < size:
            self._lost.append(f"its last {size - at} bytes are no whole message, as of a log that was cut off")

    def _appended(self, flags: bytes, size: int) -> list[int]:
        """Where data begins that was appended, in order, and the end."""
        unknown = [bit for bit in range(64) if flags[8 + bit // 8] >> bit % 8 & 1 and bit != 0]
        if unknown:
            raise InputError(f"{self.uri}: has incompatible flags {unknown}, which only newer software understands")
        found = [place for place in struct.unpack_from("<3Q", flags, 16) if _HEADER < place < size]
        return [*sorted(found), size] if flags[8] & 1 else [size]

    def _damaged(self, at: int, what: str) -> None:
        if not self._salvage:
            raise InputError(
                f"{self.uri}: {what} at byte {at}; the file is damaged: set input.salvage: true to read what is before"
            )
        self._lost.append(f"{what} at byte {at}: the last {len(self._data) - at:,} bytes are lost")

    def _definition(self, kind: int, content: bytes) -> None:
        if kind == _FORMAT:
            name, _, fields = content.decode("utf-8", "replace").partition(":")
            self._formats[name] = fields
        elif kind in (_INFO, _PARAMETER) and content and len(content) <= _MOST_INFO:
            self._keep(self._told if kind == _INFO else self._parameters, content)
        elif kind == _DROPOUT and len(content) == 2:
            self._dropouts.append(int.from_bytes(content, "little"))

    def _keep(self, kept: dict[str, Any], content: bytes) -> None:
        key = _KEY.fullmatch(content[1 : 1 + content[0]])
        value = content[1 + content[0] :]
        if key is None:
            return
        name = key["name"].decode("utf-8", "replace")
        if key["type"] == b"char":
            kept[name] = value.decode("utf-8", "replace")
        elif len(value) == (dtype := np.dtype(_VALUES[key["type"]])).itemsize:
            number = np.frombuffer(value, dtype)[0].item()
            kept[name] = number if number == number and abs(number) != float("inf") else str(number)

    def metadata(self) -> dict[str, Any]:
        return {**self._told, **({"parameters": self._parameters} if self._parameters else {})}

    def messages(
        self,
        channels: Collection[int],
        *,
        scan: bool = False,
        within: Within | None = None,
        taker: Chunks | None = None,
    ) -> Iterator[Window]:
        buffer = np.frombuffer(self._data, np.uint8)
        yield {id: self._located(buffer, id) for id in channels}

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        yield self.messages(channels)

    def _located(self, buffer: np.ndarray, id: int) -> Messages:
        channel = self.channels[id]
        assert channel.schema is not None
        if id not in self._layouts:
            self._layouts[id] = parse_formats(channel.schema, f"{self.uri}: {channel.topic}")
        start, size = np.array(self._offsets[id], np.int64), np.array(self._sizes[id], np.int64)
        place = self._layouts[id].stamp
        if place is None:
            return Messages(buffer, start, size, np.zeros(len(start), np.int64))
        if (size < place + 8).any():
            raise InputError(f"{self.uri}: {channel.topic}: a message ends before its timestamp; the file is damaged")
        stamps = gather(buffer, start + place, 8).view("<u8")[:, 0]
        if stamps.max(initial=0) > 2**63 // 1000:
            raise InputError(f"{self.uri}: {channel.topic}: a timestamp beyond 2262; the file is damaged")
        return Messages(buffer, start, size, stamps.astype(np.int64) * 1000)
