"""Compressed blocks and files, unpacked to a size that is known or bounded beforehand."""

from __future__ import annotations

import bz2
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from robocache.errors import InputError, TooLargeError
from robocache.stages import stage

#: How many times its size zstd data may unpack to: a block of 4 bytes yields at most 128 KiB.
ZSTD_RATIO = 1 << 15


def inflate(codec: str, data: np.ndarray, target: np.ndarray, where: str) -> None:
    """Unpack ``data`` (uint8) into the whole of ``target`` (uint8). ``InputError``: it cannot be, or has another size.

    codec: ``""`` (stored as it is), ``zstd``, ``lz4`` (frames) or ``bz2``
    """
    size = len(target)
    if codec == "":
        if len(data) != size:
            raise InputError(f"{where}: {len(data)} stored bytes for {size}; the file is damaged")
        target[:] = data
        return
    try:
        with stage("inflate"):
            got, more = _bz2(data, target) if codec == "bz2" else _streamed(codec, data, target)
    except (OSError, ValueError, EOFError, pa.ArrowException, zstandard.ZstdError) as error:
        raise InputError(f"{where}: cannot be decompressed ({error}); the file is damaged") from None
    if got != size or more:
        raise InputError(f"{where}: decompresses to {'more' if more else got} than {size} bytes")


def _streamed(codec: str, data: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    # The stream forms write to memory we have and report what they found, where the one-shot forms allocate, or do not
    # tell a short result.
    with _stream(codec, data) as stream:
        return stream.readinto(target.data), len(stream.read(1))


_OWN = threading.local()  # the decompressor of each thread, whose memory it keeps from block to block


def _stream(codec: str, data: np.ndarray) -> Any:
    if codec != "zstd":
        return pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), codec)
    if not hasattr(_OWN, "zstd"):
        _OWN.zstd = zstandard.ZstdDecompressor()
    return _OWN.zstd.stream_reader(data.data, read_across_frames=True)


def _bz2(data: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    found = bz2.BZ2Decompressor().decompress(data.data, max_length=len(target) + 1)
    target[: len(found)] = np.frombuffer(found, np.uint8)[: len(target)]
    return min(len(found), len(target)), len(found) > len(target)


#: What a chunk, a table, an array or a packed table may unpack to, unless the config says otherwise; and how many
#: times the bytes that it is packed in, where that is more: recordings shrink to a tenth, runs of zeros without end.
MOST_UNPACKED, RATIO = 128 << 20, 64
#: A chunk is held in memory whole, so that a ratio alone is no bound for it.
MOST_CHUNK = 512 << 20

_MOST = ContextVar("most unpacked", default=MOST_UNPACKED)


@contextmanager
def unpacking(most: int) -> Iterator[None]:
    """Within, so many bytes are unpacked from any few: ``input.max_unpacked_mb`` of whose recording is read."""
    token = _MOST.set(most)
    try:
        yield
    finally:
        _MOST.reset(token)


def most_unpacked(packed: int, most: int | None = None) -> int:
    """Bytes that so many may unpack to; ``most``: however many they are, unless the config allows more."""
    return max(_MOST.get(), RATIO * packed if most is None else min(RATIO * packed, most))


def refuse_bomb(where: str, size: int, packed: int, most: int | None = None) -> None:
    """``TooLargeError`` where ``packed`` bytes would unpack to more than any recording does."""
    if size > (allowed := most_unpacked(packed, most)):
        raise TooLargeError(
            f"{where}: {packed} bytes unpack to {size} or more, at most {allowed} are taken from them; if it is sound, "
            "raise input.max_unpacked_mb, or write it anew with less compression"
        )
