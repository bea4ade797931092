"""The compiled decoder (kernels/decode), where it has been built: the one place that says whether it runs.

Each function gives None where it is missing or does not take what it is given: then the numpy code beside the call
does the work, or says what is wrong with it. So both accept the same, and refuse it in the same words.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
import zlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

library: Any = None
reason = ""  #: why it is missing
if os.environ.get("ROBOCACHE_NO_EXTENSION"):
    reason = "switched off by ROBOCACHE_NO_EXTENSION"
else:
    try:
        library = importlib.import_module("robocache._decode")
    except ImportError as error:
        reason = str(error)
if reason:
    logging.getLogger("robocache").debug("messages are decoded in numpy: %s", reason)

_LITTLE = sys.byteorder == "little"
_MOST = 2**63 - 1


def crc32(data: memoryview, value: int = 0) -> int:
    """``zlib.crc32``, faster where the processor can."""
    if library is not None and library.has_crc32:
        return library.crc32(data, value)
    return zlib.crc32(data, value)


def scan(
    data: memoryview, start: int, end: int, channels: Collection[int]
) -> tuple[dict[int, np.ndarray], int | None, int] | None:
    """See :func:`robocache.formats.mcap.windows.scan`."""
    if library is None:
        return None
    ids = list(channels)
    found, chunk, stop = library.scan(data, start, end, ids)
    offsets = {id: np.frombuffer(some, np.uint64) for id, some in zip(ids, found, strict=True) if some}
    return offsets, chunk if chunk >= 0 else None, stop


def locate(
    buffer: np.ndarray, channel: int, pieces: Sequence[np.ndarray], limits: Sequence[tuple[int, int, int]]
) -> np.ndarray | None:
    """int64 ``[4, n]``: offsets and sizes of payloads, log and publish times. See
    :func:`robocache.formats.mcap.windows.locate`.
    """
    if library is None or not _LITTLE:
        return None
    found = np.empty((4, sum(map(len, pieces))), np.int64)
    return found if library.locate(buffer, channel, pieces, np.array(limits, np.int64), found) else None


class _UlogWalk:
    """As :class:`robocache.formats.ulog_walk.Walk`."""

    def __init__(self, ends: Sequence[int]):
        self._walk = library.open_ulog(ends)

    def step(self, window: np.ndarray, base: int) -> tuple[int, bool, list[int]]:
        return library.step_ulog(self._walk, window, base)

    def found(self) -> tuple[list[int], bytes]:
        return library.walked_ulog(self._walk)

    def find(self, window: np.ndarray, base: int, numbers: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        found = library.find_ulog(self._walk, window, base, numbers)
        return [(np.frombuffer(starts, np.int64), np.frombuffer(sizes, np.int64)) for starts, sizes in found]


def ulog_walk(ends: Sequence[int]) -> _UlogWalk | None:
    """What goes through a ULog, see :class:`robocache.formats.ulog_walk.Walk`."""
    return None if library is None else _UlogWalk(ends)


def concatenate(
    buffer: np.ndarray, start: np.ndarray, size: np.ndarray, total: int, swapped: int = 1
) -> np.ndarray | None:
    """uint8 ``[total]``: spans one behind the other; numbers of ``swapped`` bytes in the other byte order."""
    if library is None:
        return None
    out = np.empty(total, np.uint8)
    return out if library.concatenate(buffer, plain(start), plain(size), swapped, out) else None


def distinct(buffer: np.ndarray, start: np.ndarray, size: np.ndarray) -> tuple[list[int], np.ndarray] | None:
    """The first span of each content, and which of these each span has: int64 ``[n]``."""
    if library is None:
        return None
    which = np.empty(len(start), np.int64)
    first = library.distinct(buffer, plain(start), plain(size), which)
    return None if first is None else (first, which)


def plain(numbers: np.ndarray) -> np.ndarray:
    """Numbers as the library takes them: int64, one beside the other."""
    return np.ascontiguousarray(numbers, np.int64)


def order(times: np.ndarray) -> tuple[bool, int] | None:
    """Whether int64 stamps ``[n]`` never go back, and how many are that of the one before."""
    return None if library is None else library.order(plain(times))


def steps(times: np.ndarray) -> tuple[float, int] | None:
    """The median and the widest of the steps between sorted stamps, int64 ``[n]``, n at least 2."""
    if library is None or int(times[-1]) - int(times[0]) > _MOST:
        return None
    low, high, widest = library.steps(plain(times))
    return (low + high) / 2, widest


def wider(times: np.ndarray, limit: float) -> int | None:
    """How many of these steps are wider than ``limit``."""
    if library is None or int(times[-1]) - int(times[0]) > _MOST:
        return None
    return library.wider(plain(times), min(math.floor(limit), _MOST))


def extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """See :func:`robocache.features.cast.extremes`."""
    if library is None or values.dtype not in (np.float64, np.float32) or not values.flags.c_contiguous:
        return None
    low, high = np.empty((2, values.shape[1]), values.dtype)
    library.extremes(values, low, high)
    return low, high


def ways(values: np.ndarray) -> np.ndarray | None:
    """float64 ``[k]``: how far each column of floats ``[n, k]`` goes, its distances from row to row together."""
    if library is None or values.dtype not in (np.float64, np.float32) or not values.flags.c_contiguous:
        return None
    out = np.empty(values.shape[1])
    library.ways(values, out)
    return out
