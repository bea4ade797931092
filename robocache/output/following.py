"""Parts for :mod:`pyarrow.dataset`, found where they lie once it comes to read them."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
from pyarrow import fs

from robocache.output import layout
from robocache.output.store import Store


def following(store: Store) -> fs.PyFileSystem:
    """The file system of an output on which a part that was put away since is still found by its name."""
    return fs.PyFileSystem(_Following(store))


class _Following(fs.FSSpecHandler):
    def __init__(self, store: Store):
        super().__init__(store.fs)
        self.store = store
        self._native = fs.LocalFileSystem() if store.local else None

    def open_input_file(self, path: str) -> Any:
        places = layout.ways(path[len(self.store.root) + 1 :])
        if self._native is None:
            return pa.PythonFile(self.store.first(*places), mode="r")
        for place in map(self.store.place, places[:-1]):
            with contextlib.suppress(FileNotFoundError):
                return self._native.open_input_file(place)
        return self._native.open_input_file(path)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Parts are files, wherever they lie."""
        return [fs.FileInfo(path, fs.FileType.File) for path in paths]
