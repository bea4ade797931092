"""A guard against the one kind of damage that libhdf5 does not survive: it loops for ever on a broken global heap.

Strings and variable-length values lie in heap collections (HDF5 File Format Specification 3.0, III.E). libhdf5 walks a
collection's objects by their sizes and (seen with 2.0.0) does not notice a size of zero. Nothing can interrupt it
there, so each collection is walked here first, when libhdf5 reads it.
"""

from __future__ import annotations

import io
import os
import re
import struct
from typing import BinaryIO

from robocache.errors import InputError

_COLLECTION = re.compile(rb"GCOL\x01")  # signature and version
_HEADER = struct.Struct("<4sB3xQ")  # signature, version, size of the collection with this header
_OBJECT = struct.Struct("<HH4xQ")  # index (0: free space), references, size without (of free space with) this header
_LARGEST_METADATA_READ = 1 << 20


class HeapCheckedFile:
    """A binary file for h5py that raises :class:`InputError` where libhdf5 is about to read a broken heap."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self.size, self._at = stream.seek(0, 2), 0

    def at(self, offset: int, size: int) -> bytes:
        """Bytes from an offset on, as far as there are; libhdf5's place in the file stays where it is."""
        data = bytearray(max(0, min(size, self.size - offset)))
        return bytes(data[: self._into(memoryview(data), offset)])

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        """h5py knows a file by having this, and calls the other."""
        raise io.UnsupportedOperation("readinto")

    def readinto(self, buffer: memoryview) -> int:
        start, into = self._at, memoryview(buffer).cast("B")
        count = self._into(into, start)
        self._check(start, into[:count])
        self._at = start + count
        return count

    def _into(self, buffer: memoryview, start: int) -> int:
        """Read from ``start`` on; how many bytes there are."""
        if self._descriptor is None:
            self._stream.seek(start)
            return self._stream.readinto(buffer)  # type: ignore[attr-defined]
        got = 0  # libhdf5 asks for a hundred bytes here and there: a call of the system each, and nothing around it
        while got < len(buffer) and (count := os.preadv(self._descriptor, [buffer[got:]], start + got)):
            got += count
        return got

    def _check(self, start: int, data: memoryview) -> None:
        if len(data) <= _LARGEST_METADATA_READ:  # else values; a collection's first read is 4 KiB
            for match in _COLLECTION.finditer(data):
                _walk(self._stream, start + match.start(), self.size)


def _descriptor(stream: BinaryIO) -> int | None:
    """Of a file of this machine; None where there is none, or no reading from a place of it."""
    try:
        return stream.fileno() if hasattr(os, "preadv") else None
    except (OSError, AttributeError):
        return None


def _walk(stream: BinaryIO, at: int, end: int) -> None:
    stream.seek(at)
    head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size:
        return  # cut off: libhdf5 says so itself
    _, _, size = _HEADER.unpack(head)
    if at + size > end:  # libhdf5 would take that much memory before it finds out
        raise InputError(f"HDF5 heap at byte {at}: claims {size} bytes, the file ends after {end - at}; damaged")
    position = _HEADER.size
    while position + _OBJECT.size <= size:
        stream.seek(at + position)
        head = stream.read(_OBJECT.size)
        if len(head) < _OBJECT.size:
            return
        index, _, length = _OBJECT.unpack(head)
        step = length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
        if step < _OBJECT.size or position + step > size:
            raise InputError(
                f"HDF5 heap at byte {at}: an object of {length} bytes at byte {position} of {size}; damaged"
            )
        position += step
