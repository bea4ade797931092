"""A remote file of which small pieces are read here and there, as of HDF5, Parquet and archives.

fsspec's own files read a megabyte ahead from wherever they are, which suits a log that is read from front to back; a
reader that jumps would fetch many times what it looks at.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

#: Bytes that are fetched and kept together: about what a request to an object store takes as long for as for one.
BLOCK = 64 << 10
#: What is fetched at most beyond what is asked for, where a file turns out to be read from front to back.
MOST_AHEAD = 2 << 20
#: Blocks that are kept.
KEPT = 256


class ScatteredFile(io.RawIOBase):
    """Reads ``stream`` in blocks, several in one request where they lie side by side, and keeps the last ones.

    The first reads of a place fetch a block; each that goes on where the last fetch ended fetches twice as much. With
    the last block, where most files say what is where in them, comes the one before.

    stream: seekable, reads exactly what it is asked for; closed with this one
    listed: it is known to be of the version that was listed, so that what was learnt of that holds
    """

    def __init__(self, stream: Any, *, listed: bool = False):
        super().__init__()
        self.listed = listed
        self._stream = stream
        self._size = stream.seek(0, io.SEEK_END)
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next, self._ahead = -1, 1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"seek to byte {at}")
        self._at = at
        return at

    def read(self, size: int = -1, /) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        data = self._between(self._at, stop) if stop > self._at else b""
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        into = memoryview(buffer).cast("B")
        data = self.read(len(into))
        into[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._blocks.clear()
            self._stream.close()
        super().close()

    def _between(self, start: int, stop: int) -> bytes:
        if stop - start >= MOST_AHEAD:
            return self._straight(start, stop)
        first, last = start // BLOCK, (stop - 1) // BLOCK
        have: dict[int, bytes] = {}
        k = first
        while k <= last:
            if (block := self._blocks.get(k)) is not None:
                self._blocks.move_to_end(k)
                have[k] = block
                k += 1
                continue
            end = k + 1
            while end <= last and end not in self._blocks:
                end += 1
            have |= self._fetch(k, end)
            k = end
        data = have[first] if first == last else b"".join(have[k] for k in range(first, last + 1))
        return data[start - first * BLOCK : stop - first * BLOCK]

    def _fetch(self, first: int, end: int) -> dict[int, bytes]:
        """Blocks from ``first`` to before ``end``, and those ahead."""
        self._ahead = min(2 * self._ahead, MOST_AHEAD // BLOCK) if first == self._next else 1
        count = -(-self._size // BLOCK)
        until = min(max(end, first + self._ahead), count)
        if first == count - 1 > 0 and first - 1 not in self._blocks:  # which may be of a few bytes
            first -= 1
        data = self._straight(first * BLOCK, min(until * BLOCK, self._size))
        self._next = until
        found = {k: data[(k - first) * BLOCK : (k - first + 1) * BLOCK] for k in range(first, until)}
        self._blocks |= found
        while len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)
        return found

    def _straight(self, start: int, stop: int) -> bytes:
        self._stream.seek(start)
        return self._stream.read(stop - start)
