"""Zarr stores of version 2 and 3, as a folder (``x.zarr/``) or zipped (``x.zarr.zip``): replay buffers of UMI and
diffusion policy, and any other arrays of a row a step. The package zarr reads them.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from robocache.errors import InputError
from robocache.formats.arrays import ENDS, Arrays, ArraysReader, Rows
from robocache.formats.base import InputSpec, local_path
from robocache.formats.compression import MOST_CHUNK, refuse_bomb
from robocache.storage import open_storage
from robocache.types import FileStamp

#: What says that a folder of a store is an array or a group.
_ARRAYS, _GROUPS = (".zarray", "zarr.json"), (".zgroup", ".zattrs", ".zmetadata")
_MOST_ARRAYS = 10_000


class ZarrReader(ArraysReader):
    """Only the chunks of the episode asked for are read."""

    name: ClassVar[str] = "zarr"
    suffixes: ClassVar[tuple[str, ...]] = (".zarr.zip",)
    folder: ClassVar[str] = ".zarr"
    magic: ClassVar[bytes] = b"PK\x03\x04"
    package: ClassVar[str] = "zarr"

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec, key: str = "") -> Iterator[Arrays]:
        import zarr

        if file.uri.endswith(self.folder):
            fs, path = open_storage(file.uri, spec.storage_options)
            names = [name.removeprefix(path).lstrip("/") for name in fs.find(path)]
            options = dict(spec.storage_options) if "://" in file.uri else None
            root = zarr.open(file.uri, mode="r", storage_options=options, use_consolidated=False)
            yield _arrays(root, names, "", file)
            return
        with local_path(file, spec) as path:
            try:
                with zipfile.ZipFile(path) as archive:
                    names = archive.namelist()
                    for member in archive.infolist():
                        where = f"{file.uri}: {member.filename}"
                        refuse_bomb(where, member.file_size, member.compress_size, MOST_CHUNK)
            except zipfile.BadZipFile as error:
                raise InputError(f"{file.uri}: is no whole archive ({error}); it was cut off or is damaged") from None
            store = zarr.storage.ZipStore(path, mode="r")
            try:
                prefix = _root(names, file.uri)
                yield _arrays(zarr.open(store, path=prefix, mode="r", use_consolidated=False), names, prefix, file)
            finally:
                store.close()


def _root(names: list[str], uri: str) -> str:
    """Where in an archive the store is: around its episodes' ends, else at its top, or in a folder of it."""
    ends = [name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in _ARRAYS]
    if around := [path.removesuffix(ENDS) for path in ends if path.endswith(ENDS)]:
        return min(around, key=len).rstrip("/")
    marks = [name for name in names if name.rpartition("/")[2] in (*_ARRAYS, *_GROUPS)]
    if not marks:
        raise InputError(f"{uri}: holds no Zarr store: none of its {len(names)} members is .zgroup or zarr.json")
    return min((name.rpartition("/")[0] for name in marks), key=lambda folder: (folder.count("/"), len(folder)))


def _arrays(root: Any, names: list[str], prefix: str, file: FileStamp) -> Arrays:
    import zarr

    if isinstance(root, zarr.Array):
        return Arrays({"data": _checked(root, file)}, {}, dict(root.attrs))
    found: dict[str, Rows] = {}
    unread: dict[str, str] = {}
    folder = f"{prefix}/" if prefix else ""
    below = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    paths = sorted({path for path, _, name in (item.rpartition("/") for item in below) if path and name in _ARRAYS})
    for path in paths[:_MOST_ARRAYS]:
        try:
            item = root[path]
            if isinstance(item, zarr.Array):
                found[path] = _checked(item, file)
        except Exception as error:  # each codec has its own
            unread[path] = f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
    return Arrays(found, unread, dict(root.attrs))


def _checked(array: Any, file: FileStamp) -> Rows:
    told = array.metadata.to_dict()
    if "pickle" in str([told.get(key) for key in ("filters", "compressor", "codecs")]).lower():
        raise InputError(f"{file.uri}: its codec is pickle, which runs what it reads; save it as numbers or text")
    itemsize = getattr(array.dtype, "itemsize", 8)
    piece = math.prod(array.chunks) * itemsize
    refuse_bomb(f"{file.uri}: kept in pieces of {array.chunks}", piece, max(file.size, 0), MOST_CHUNK)
    return array
