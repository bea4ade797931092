"""Zarr stores of version 2 and 3, as a folder (``x.zarr/``) or zipped (``x.zarr.zip``): replay buffers of UMI and
diffusion policy, and any other arrays of a row a step. The package zarr reads them.
"""

from __future__ import annotations

import asyncio
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import zstandard

from robocache.errors import InputError, TooLargeError
from robocache.formats.arrays import ENDS, Arrays, ArraysReader, Rows
from robocache.formats.base import InputSpec, open_file
from robocache.formats.compression import MOST_CHUNK, most_unpacked, refuse_bomb
from robocache.formats.guard import passes
from robocache.formats.kept import Kept
from robocache.storage import open_storage
from robocache.types import FileStamp

#: What says that a folder of a store is an array or a group.
_ARRAYS, _GROUPS = (".zarray", "zarr.json"), (".zgroup", ".zattrs", ".zmetadata")
_MOST_ARRAYS, _MOST_TOLD = 10_000, 1 << 20


class ZarrReader(ArraysReader):
    """Only the chunks of the episode asked for are read."""

    name: ClassVar[str] = "zarr"
    suffixes: ClassVar[tuple[str, ...]] = (".zarr.zip",)
    folder: ClassVar[str] = ".zarr"
    magic: ClassVar[bytes] = b"PK\x03\x04"
    package: ClassVar[str] = "zarr"

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec, key: str = "") -> Iterator[Arrays]:
        # Connections and places in files are not shared over a fork; what may be unpacked is settled as arrays open.
        known = (file, os.getpid(), repr(sorted(spec.storage_options.items())), most_unpacked(0, MOST_CHUNK))
        if (arrays := _STORES.get(known)) is None:
            opened = _folder if file.uri.endswith(self.folder) else _archive
            arrays, size = opened(file, spec)
            _STORES.put(known, arrays, size)
        try:
            yield arrays
        except BaseException:
            _STORES.put(known, None, 0)  # its connection, or its open file, may be what failed
            raise


#: Stores opened last: the episodes of one ask for it one after another, and to list its pieces and open its arrays
#: takes longer than to read an episode. The version of a folder tells that of all its files.
_STORES = Kept(128 << 20)
#: What an archive counts as at least, so that no more than 64 files stay open: a process may have a thousand.
_OPEN = 2 << 20


def _folder(file: FileStamp, spec: InputSpec) -> tuple[Arrays, int]:
    """What a store holds, and about how many bytes of memory that takes."""
    import zarr

    fs, path = open_storage(file.uri, spec.storage_options)
    sizes = {name.removeprefix(path).lstrip("/"): i["size"] for name, i in fs.find(path, detail=True).items()}
    names = list(sizes)
    found: Any
    if "://" in file.uri:
        found = zarr.storage.FsspecStore.from_url(file.uri, dict(spec.storage_options), read_only=True)
    else:
        found = zarr.storage.LocalStore(path, read_only=True)
    held = _small(fs, path, sizes)
    root = zarr.open(_bounded()(found, file.uri, names, held), mode="r", use_consolidated=False)
    told = sum(len(text) for text in held.values() if isinstance(text, bytes))
    return _arrays(root, names, "", file), 10 * told + sum(100 + len(name) for name in names)


def _archive(file: FileStamp, spec: InputSpec) -> tuple[Arrays, int]:
    """Likewise; its file stays open as long as the arrays are held."""
    import zarr

    try:
        archive = zipfile.ZipFile(open_file(file, spec))
    except zipfile.BadZipFile as error:
        raise InputError(f"{file.uri}: is no whole archive ({error}); it was cut off or is damaged") from None
    names = archive.namelist()
    for member in archive.infolist():
        refuse_bomb(f"{file.uri}: {member.filename}", member.file_size, member.compress_size, MOST_CHUNK)
    prefix = _root(names, file.uri)
    none = zarr.storage.MemoryStore(read_only=True)
    store = _bounded()(none, file.uri, names, {}, archive.read)
    root = zarr.open(store, path=prefix, mode="r", use_consolidated=False)
    return _arrays(root, names, prefix, file), max(_OPEN, sum(600 + len(name) for name in names))


def _small(fs: Any, path: str, sizes: Mapping[str, int | None]) -> dict[str, bytes | Exception]:
    """What says what arrays and groups are, fetched in one go: one after another, each would wait for the storage."""
    told = [name for name in sizes if name.rpartition("/")[2] in (*_ARRAYS, *_GROUPS)][: 2 * _MOST_ARRAYS]
    ends = {name: size for name in told if (size := sizes[name]) is not None and 0 < size <= _MOST_TOLD}
    read = fs.cat_ranges([f"{path}/{name}" for name in ends], [0] * len(ends), list(ends.values())) if ends else []
    return dict(zip(ends, read, strict=True))


@lru_cache(1)
def _bounded() -> Any:
    """A store without pieces that unpack to more than any array's may: a codec believes what a piece says of that.

    One class for all stores: each class is garbage that is found late, and with it the file that it knows.
    """
    import zarr

    class Bounded(zarr.storage.WrapperStore):
        """names: of all that the store has, so that it is not asked for others; held: what of it has been read, or why
        it could not be; read: reads one instead of the store
        """

        def __init__(
            self,
            store: Any,
            uri: str,
            names: Sequence[str],
            held: Mapping[str, bytes | Exception],
            read: Callable[[str], bytes] | None = None,
        ):
            super().__init__(store)
            self._uri, self._names, self._held, self._read = uri, frozenset(names), held, read
            self._allowed = most_unpacked(0, MOST_CHUNK)  # here, since zarr reads on a thread of its own

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if key not in self._names:
                return None
            if byte_range is None and (data := self._held.get(key)) is not None:
                if isinstance(data, Exception):
                    raise data
                return prototype.buffer.from_bytes(data)
            if self._read is not None:
                data = await asyncio.to_thread(self._read, key)
                found = prototype.buffer.from_bytes(data if byte_range is None else _part(data, byte_range))
            else:
                found = await super().get(key, prototype, byte_range)
            if found is not None and byte_range is None:
                piece = found.as_numpy_array()
                if (claimed := _claimed(piece[:32].tobytes(), len(piece))) > max(self._allowed, len(piece)):
                    raise TooLargeError(
                        f"{self._uri}: {key}: {len(piece)} bytes unpack to {claimed}, at most {self._allowed} are "
                        "taken from a piece; if it is sound, raise input.max_unpacked_mb"
                    )
            return found

    return Bounded


def _part(data: bytes, asked: Any) -> bytes:
    """What zarr's request asks for: a range, all from an offset on, or the last bytes."""
    if hasattr(asked, "suffix"):
        return data[max(len(data) - asked.suffix, 0) :]
    return data[asked.offset :] if hasattr(asked, "offset") else data[asked.start : asked.end]


def _claimed(head: bytes, size: int) -> int:
    """Bytes that a piece says that it unpacks to; 0 where it does not begin as zstd's or Blosc's do."""
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            claimed: int = zstandard.get_frame_parameters(head).content_size
        except zstandard.ZstdError:
            return 0
        return 0 if claimed == zstandard.CONTENTSIZE_UNKNOWN else claimed
    if len(head) >= 16 and head[0] in (1, 2) and int.from_bytes(head[12:16], "little") == size:  # Blosc's header
        return int.from_bytes(head[4:8], "little")
    return 0


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
            if passes(error):
                raise
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
