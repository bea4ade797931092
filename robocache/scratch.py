"""Arrays that wait on the disk: the columns of a long recording, which memory has no room for, until they are aligned.

Such an array is a file without a name, mapped into memory, and the same as any other to who reads it. Its pages take
memory once they are touched, until :func:`tidy` hands them back to the system, which keeps what it can and writes the
rest. So whoever goes through many of them calls it from time to time.

And files that a library opens by their path (:func:`named_file`), which a process that is killed cannot remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import math
import mmap
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

_here = threading.local()
#: Of every thread, and at which addresses each begins and ends.
_maps: weakref.WeakKeyDictionary[mmap.mmap, tuple[int, int]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()
#: Bytes that are copied, or looked at, before the pages are handed back.
BLOCK = 8 << 20


@contextmanager
def beyond(most: int | None) -> Iterator[None]:
    """Within, arrays that this thread makes with :func:`room` and that are over ``most`` bytes long are on the disk."""
    before = getattr(_here, "most", None)
    _here.most = most
    try:
        yield
    finally:
        _here.most = before


def waits(nbytes: int) -> bool:
    """Whether an array of so many bytes is made on the disk."""
    most = getattr(_here, "most", None)
    return most is not None and nbytes > most


def room(shape: int | Sequence[int], dtype: Any) -> np.ndarray:
    """An array that has not been filled, as ``np.empty``; on the disk where it is large.

    ``OSError`` where the disk has no room for it.
    """
    shape, dtype = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if not waits(nbytes):
        return np.empty(shape, dtype)
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):  # else a full disk would be a signal in the middle of a copy
                os.posix_fallocate(file.fileno(), 0, nbytes)
            else:
                file.truncate(nbytes)
        except OSError as error:
            what = f"{folder} has no room for a column of {nbytes / 2**20:,.0f} MB ({error.strerror})"
            text = f"{what}; set TMPDIR to a folder that has, or raise compute.max_memory_mb"
            raise OSError(error.errno, text) from None
        held = mmap.mmap(file.fileno(), nbytes)
    array = np.frombuffer(held, dtype).reshape(shape)
    with _LOCK:
        _maps[held] = (array.ctypes.data, array.ctypes.data + nbytes)
    return array


def on_disk(array: np.ndarray) -> bool:
    """Whether an array, or what it is a view of, waits on the disk. By its address: a tensor's array hides its base."""
    with _LOCK:
        return any(begin <= array.ctypes.data < end for begin, end in _maps.values())


def tidy() -> None:
    """Hand back the memory of all arrays on the disk; what is read of them next comes from there."""
    if _maps and hasattr(mmap, "MADV_DONTNEED"):
        with _LOCK:
            for held in list(_maps):
                held.madvise(mmap.MADV_DONTNEED)


def blocks(array: np.ndarray) -> Iterator[slice]:
    """The rows of an array, so many at a time as are worth it: all at once but of one on the disk."""
    count = len(array)
    each = max(1, BLOCK * count // max(1, array.nbytes)) if on_disk(array) else max(1, count)
    for at in range(0, count, each):
        yield slice(at, at + each)
        if each < count:
            tidy()


def filled(values: np.ndarray, dtype: Any) -> np.ndarray:
    """``values`` in that dtype, C-contiguous; the same where they are."""
    if values.dtype == dtype and values.flags.c_contiguous:
        return values
    out = room(values.shape, dtype)
    for rows in blocks(out):
        out[rows] = values[rows]
    return out


def picked(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``values[rows]``: int64 ``[k]`` of them."""
    out = room((len(rows), *values.shape[1:]), values.dtype)
    for some in blocks(out):
        np.take(values, rows[some], axis=0, out=out[some])
    return out


def numbered(count: int) -> np.ndarray:
    """0 to ``count - 1``, float64."""
    out = room(count, np.float64)
    for some in blocks(out):
        out[some] = np.arange(*some.indices(count))
    return out


_PREFIX = "robocache-copy-"
#: Seconds: what is younger may be about to be locked by who has made it.
_YOUNG = 60.0


@contextmanager
def named_file() -> Iterator[IO[bytes]]:
    """A temporary file with a name, which goes at the end; those that killed processes left go sooner or later, too."""
    _sweep()
    with tempfile.NamedTemporaryFile(prefix=_PREFIX) as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # which goes with the process
        yield file


@functools.cache
def _sweep() -> None:
    """Once a process, of all in the folder that no process holds any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mtime < time.time() - _YOUNG:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
