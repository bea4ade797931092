"""Compressed blocks and files, unpacked to a size that is known or bounded beforehand."""

from __future__ import annotations

import bz2
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from robocache.errors import InputError


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
        got, more = (_bz2 if codec == "bz2" else _arrow(codec))(data, target)
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        raise InputError(f"{where}: cannot be decompressed ({error}); the file is damaged") from None
    if got != size or more:
        raise InputError(f"{where}: decompresses to {'more' if more else got} than {size} bytes")


def _arrow(codec: str) -> Callable[[np.ndarray, np.ndarray], tuple[int, int]]:
    def unpack(data: np.ndarray, target: np.ndarray) -> tuple[int, int]:
        # The stream form writes to memory we have and reports what it found, where the one-shot form allocates and
        # does not tell a short result.
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), codec) as stream:
            return stream.readinto(target.data), len(stream.read(1))

    return unpack


def _bz2(data: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    found = bz2.BZ2Decompressor().decompress(data.data, max_length=len(target) + 1)
    target[: len(found)] = np.frombuffer(found, np.uint8)[: len(target)]
    return min(len(found), len(target)), len(found) > len(target)
