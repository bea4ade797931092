"""Files of one output: whole or not at all, on a local disk or any fsspec object store."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from robocache.errors import OutputError

_FATAL = {
    errno.ENOSPC: "the disk is full; free some space and run again, finished parts are kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, finished parts are kept",
    errno.EROFS: "the file system is read-only; choose another output.uri",
    errno.EACCES: "no permission to write there; choose another output.uri or change the folder's owner",
    errno.EPERM: "no permission to write there; choose another output.uri or change the folder's owner",
    errno.ENOTDIR: "a part of the path is a file; choose another output.uri",
    errno.EEXIST: "a file stands where a folder is needed; choose another output.uri",
}


class Store:
    """The folder ``uri``. Names are relative to it, with ``/``. Can be pickled and used from any thread."""

    def __init__(self, uri: str, storage_options: Mapping[str, Any] | None = None):
        self.uri = uri.rstrip("/")
        self.fs, root = fsspec.core.url_to_fs(uri, **(storage_options or {}))
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            return int(self.fs.info(self.path(name))["size"])
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        return self.fs.cat_file(self.path(name))

    def files(self, folder: str = "") -> list[str]:
        """Names of all files below ``folder``, sorted; hidden ones included."""
        root = self.path(folder).rstrip("/")
        if not self.fs.exists(root):
            return []
        self.fs.invalidate_cache(root)
        return sorted(f[len(self.root) + 1 :] for f in self.fs.find(root))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of all files below ``folder``, by name: one listing instead of a request a file."""
        root = self.path(folder).rstrip("/")
        if not self.fs.exists(root):
            return {}
        self.fs.invalidate_cache(root)
        return {f[len(self.root) + 1 :]: int(i["size"]) for f, i in self.fs.find(root, detail=True).items()}

    def remove(self, name: str) -> None:
        with self._explained(name), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def write(self, name: str, data: Any) -> None:
        """Put a whole file there, replacing what was: a reader sees the old bytes or the new, never a piece, also
        after a crash or a power cut. ``data``: bytes or a buffer. ``OutputError`` where the storage refuses for good.
        """
        if self.local:
            self.write_lines(name, (data,))
            return
        with self._explained(name):
            self.fs.pipe_file(self.path(name), bytes(data))

    def write_lines(self, name: str, pieces: Iterable[Any]) -> None:
        """As :meth:`write`, of pieces that are never all in memory; local only."""
        with self._explained(name):
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            # Process ids repeat across hosts, and a worker that outlived its run may still write the same part.
            draft = target.with_name(f".{target.name}.{os.getpid()}{uuid.uuid4().int}.tmp")
            try:
                with open(draft, "wb", buffering=0) as file:
                    for chunk in _chunks(pieces):
                        _write_all(file, chunk)
                    os.fsync(file.fileno())
                os.replace(draft, target)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)

    def append(self, name: str, data: bytes) -> int:
        """Add to the end of a local file, on the disk when this returns; where it begins. A crash may leave a piece of
        ``data``, an error (a full disk) leaves nothing of it.
        """
        with self._explained(name):
            path = Path(self.path(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            with open(path, "ab", buffering=0) as file:
                before = file.tell()
                try:
                    _write_all(file, data)
                    os.fsync(file.fileno())
                except BaseException:
                    file.truncate(before)  # another thread may still append: it must not continue a piece of a line
                    raise
            if new:
                _sync_folder(path.parent)
            return before

    def remove_drafts(self, folder: str) -> None:
        """What killed writers left behind. Only the holder of the output's lock may call this."""
        for name in self.files(folder):
            base = name.rpartition("/")[2]
            if base.startswith(".") and base.endswith(".tmp"):
                self.remove(name)

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FATAL:
                raise OutputError(f"{self.uri}/{name}: {_FATAL[error.errno]} ({error.strerror})") from error
            raise


def _chunks(pieces: Iterable[Any]) -> Iterator[Any]:
    """Small pieces together, a MB a write; large ones as they are."""
    held: list[Any] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= 1 << 20:
            yield held[0] if len(held) == 1 else b"".join(held)
            held, size = [], 0
    if held:
        yield held[0] if len(held) == 1 else b"".join(held)


def _write_all(file: io.FileIO, data: Any) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
