"""Messages as a container hands them over, whatever it is: where each lies in a buffer, and when it came."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.compression import MOST_CHUNK, most_unpacked, refuse_bomb
from robocache.formats.messages.offload import Unpacked


@dataclass(frozen=True, slots=True)
class Schema:
    """What a container says of the type of a channel's messages."""

    name: str
    encoding: str
    data: bytes

    def plain(self) -> tuple[str, str]:
        """Name and definition without what changes no message: comments, blanks, the style of names."""
        lines = (line.partition("#")[0].split() for line in self.data.decode("utf-8", "replace").splitlines())
        text = "\n".join(" ".join(words) for words in lines if words)
        return self.name.replace("/msg/", "/"), text.replace("/msg/", "/")


@dataclass(frozen=True, slots=True)
class Offloaded:
    """Messages that lie on a device: ``count`` of those unpacked, from ``first`` on."""

    unpacked: Unpacked
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of one channel in a window, in file order.

    buffer:    uint8, the window, valid until the next window is asked for
    start:     int64 ``[n]`` offset of each payload in the buffer
    size:      int64 ``[n]`` its bytes
    log_times: int64 ``[n]`` nanoseconds, when each arrived
    publish_times: int64 ``[n]`` nanoseconds, when each was sent; None where the container does not tell
    offloaded: where they lie on a device; the buffer is then the first message, and where others begin is not told
    """

    buffer: np.ndarray
    start: np.ndarray
    size: np.ndarray
    log_times: np.ndarray
    publish_times: np.ndarray | None = None
    offloaded: Offloaded | None = None

    def first(self) -> Messages:
        """The first of them."""
        publish = None if self.publish_times is None else self.publish_times[:1]
        return Messages(self.buffer, self.start[:1], self.size[:1], self.log_times[:1], publish)

    def on_host(self) -> Messages:
        """The same with all bytes on the host."""
        if self.offloaded is None:
            return self
        there = self.offloaded
        start = there.unpacked.places[0, there.first : there.first + there.count]
        return replace(self, buffer=there.unpacked.records(), start=start, offloaded=None)


def gather(buffer: np.ndarray, start: np.ndarray, nbytes: int) -> np.ndarray:
    """``nbytes`` from each offset as uint8 ``[n, nbytes]``: one memcpy a row. The caller has checked the bounds."""
    if not len(start) or not nbytes:
        return np.empty((len(start), nbytes), np.uint8)
    rows = np.ndarray(len(buffer) - nbytes + 1, f"V{nbytes}", buffer, strides=1)
    return rows[start].view(np.uint8).reshape(len(start), nbytes)


_ZSTD = 0xFD2FB528


def unpacked(messages: Messages, where: str) -> Messages:
    """The same where none of them is compressed by itself (rosbag2's ``compression_mode: message``), else inflated.

    ``InputError``, beginning with ``where``, for one that is damaged.
    """
    large = messages.size >= 4
    words = np.zeros(len(messages.start), np.uint32)
    words[large] = gather(messages.buffer, messages.start[large], 4).view("<u4")[:, 0]
    if not (words == _ZSTD).any():
        return messages
    pieces = []
    for start, size, packed in zip(messages.start.tolist(), messages.size.tolist(), words == _ZSTD, strict=True):
        data = messages.buffer[start : start + size]
        pieces.append(_inflated(data, where) if packed else data.tobytes())
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    buffer = np.frombuffer(b"".join(pieces), np.uint8)
    return replace(messages, buffer=buffer, start=np.cumsum(sizes) - sizes, size=sizes)


def _inflated(data: np.ndarray, where: str) -> bytes:
    most = most_unpacked(len(data), MOST_CHUNK)
    try:
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), "zstd") as stream:
            found = stream.read(most + 1)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{where}: a message cannot be decompressed ({error}); the file is damaged") from None
    if len(found) > most:
        refuse_bomb(f"{where}: a message", len(found), len(data), MOST_CHUNK)
    return found
