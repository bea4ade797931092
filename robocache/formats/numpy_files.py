"""NumPy's files: ``.npy``, one array, and ``.npz``, a zip of them. Python objects in them are never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import prod
from typing import Any, BinaryIO, ClassVar

import numpy as np

from robocache.errors import InputError
from robocache.formats.arrays import Arrays, ArraysReader
from robocache.formats.base import InputSpec, open_file
from robocache.formats.compression import refuse_bomb
from robocache.formats.kept import Kept
from robocache.types import FileStamp

_HEADER, _MOST_HEADER = 128, 1 << 16
_MOST_MEMBERS = 10_000
#: Arrays of which some rows were asked for: the episodes of a file follow one another, and it is unpacked whole.
_KEPT = Kept(128 << 20)


class _Array:
    """An array of a file, its header read; its rows when they are asked for.

    key: the file, and the array's name there
    """

    def __init__(
        self, open: Callable[[], AbstractContextManager[Any]], size: int, where: str, key: tuple[FileStamp, str]
    ):
        self._open, self._where, self._key = open, where, key
        with open() as file:
            if isinstance(file, zipfile.ZipExtFile):
                file.MIN_READ_SIZE = _HEADER  # it would read 4 KB
            major, _ = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            self.shape, _, self.dtype = read(file, max_header_size=_MOST_HEADER)
            begin = file.tell()
        if self.dtype.hasobject:
            raise InputError(f"{where}: holds Python objects, which are not unpickled; save it as numbers or text")
        if prod(self.shape) * self.dtype.itemsize > size - begin:
            raise InputError(f"{where}: claims {list(self.shape)} of {self.dtype}, {size - begin} bytes are there")

    def __getitem__(self, key: Any) -> Any:
        whole = _KEPT.get(self._key)
        if whole is None:
            with self._open() as file:
                whole = np.lib.format.read_array(file, allow_pickle=False, max_header_size=_MOST_HEADER)
            if isinstance(key, slice) and len(range(*key.indices(len(whole)))) < len(whole):
                whole.flags.writeable = False
                _KEPT.put(self._key, whole, whole.nbytes)
        return whole[key]


class NumpyReader(ArraysReader):
    """Arrays are called as the members of the archive are; that of a ``.npy`` file is ``data``."""

    name: ClassVar[str] = "numpy"
    suffixes: ClassVar[tuple[str, ...]] = (".npz", ".npy")
    magic: ClassVar[bytes] = b"PK\x03\x04"

    def begins(self, head: bytes, spec: InputSpec) -> bool:
        return head.startswith((b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06"))

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec, key: str = "") -> Iterator[Arrays]:
        with open_file(file, spec) as stored:
            size = stored.seek(0, 2)
            stored.seek(0)
            if stored.read(6) == b"\x93NUMPY":
                yield Arrays({"data": _Array(partial(_again, stored), size, file.uri, (file, ""))})
                return
            try:
                with zipfile.ZipFile(stored) as archive:
                    yield _members(archive, file)
            except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
                raise InputError(f"{file.uri}: is no whole archive ({error}); it was cut off or is damaged") from None


@contextmanager
def _again(file: BinaryIO) -> Iterator[BinaryIO]:
    """An open file from its beginning, that stays open."""
    file.seek(0)
    yield file


def _members(archive: zipfile.ZipFile, file: FileStamp) -> Arrays:
    uri = file.uri
    found: dict[str, _Array] = {}
    unread: dict[str, str] = {}
    for member in archive.infolist()[:_MOST_MEMBERS]:
        name = member.filename.removesuffix(".npy")
        if member.filename == name:
            continue
        try:
            refuse_bomb(f"{uri}: {name}", member.file_size, member.compress_size)
            found[name] = _Array(partial(archive.open, member), member.file_size, f"{uri}: {name}", (file, name))
        except (ValueError, InputError, EOFError) as error:
            unread[name] = str(error).removeprefix(f"{uri}: {name}: ")
    return Arrays(found, unread)
