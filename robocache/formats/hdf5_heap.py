"""A guard against the one kind of damage that libhdf5 does not survive: it loops for ever on a broken global heap.

Strings and variable-length values lie in heap collections (HDF5 File Format Specification 3.0, III.E). libhdf5 walks a
collection's objects by their sizes and (seen with 2.0.0) does not notice a size of zero. Nothing can interrupt it
there, so each collection is walked here first, when libhdf5 reads it.
"""

from __future__ import annotations

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
        self.size = stream.seek(0, 2)
        stream.seek(0)

    def at(self, offset: int, size: int) -> bytes:
        """Bytes from an offset on, as far as there are; libhdf5's place in the file stays where it is."""
        position = self._stream.tell()
        self._stream.seek(offset)
        data = self._stream.read(min(size, self.size))
        self._stream.seek(position)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        start = self._stream.tell()
        data = self._stream.read(size)
        self._check(start, data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        start = self._stream.tell()
        count = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._check(start, memoryview(buffer)[:count])
        return count

    def _check(self, start: int, data: bytes | memoryview) -> None:
        if len(data) > _LARGEST_METADATA_READ:
            return  # values; a collection's first read is 4 KiB
        for match in _COLLECTION.finditer(data):
            at = start + match.start()
            position = self._stream.tell()
            self._stream.seek(at)
            _walk(self._stream, at, self.size)
            self._stream.seek(position)


def _walk(stream: BinaryIO, at: int, end: int) -> None:
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
