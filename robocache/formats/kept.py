"""What was read last of files, by what tells their version."""

from __future__ import annotations

import threading
from collections import OrderedDict

from robocache.types import FileStamp


class Kept:
    """Up to a number of bytes, of files whose version is known. ``key`` begins with the file; shared by threads."""

    def __init__(self, most: int):
        self._most, self._bytes, self._lock = most, 0, threading.Lock()
        self._items: OrderedDict[tuple, tuple[object, int]] = OrderedDict()

    def get(self, key: tuple):
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: tuple, item: object, size: int) -> None:
        file: FileStamp = key[0]
        if not file.version or size > self._most // 2:
            return
        with self._lock:
            self._bytes += size - self._items.pop(key, (None, 0))[1]
            self._items[key] = (item, size)
            while self._bytes > self._most:
                _, (_, freed) = self._items.popitem(last=False)
                self._bytes -= freed
