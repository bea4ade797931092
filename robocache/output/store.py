"""Files of one output: whole or not at all, on a local disk or any fsspec object store; and on S3, conditionally."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from fsspec.asyn import sync
from fsspec.implementations.local import LocalFileSystem

from robocache.errors import OutputError
from robocache.storage import answer, as_oserror, open_storage

_FATAL = {
    errno.ENOSPC: "the disk is full; free some space and run again, finished parts are kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, finished parts are kept",
    errno.EROFS: "the file system is read-only; choose another output.uri",
    errno.EACCES: "no permission to write there; choose another output.uri or change the folder's owner",
    errno.EPERM: "no permission to write there; choose another output.uri or change the folder's owner",
    errno.ENOTDIR: "a part of the path is a file; choose another output.uri",
    errno.EEXIST: "a file stands where a folder is needed; choose another output.uri",
}

#: Larger objects go to S3 in pieces of this many bytes, several at a time; S3 allows 5 MiB to 5 GiB.
PIECE = 16 * 2**20
#: How many pieces an object may have, and keys a request to delete.
_PIECES, _KEYS = 10_000, 1_000
#: S3's words for a condition that does not hold. The second: another conditional write is under way.
_UNMET = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})


#: Lines that a run writes, a shard's record each, are shorter.
LONGEST = 64 << 20
_NO_FILES = {
    stat.S_ISLNK: "a link",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


class UnmetError(Exception):
    """The object is not, or no longer, as a conditional request asked for. It has changed nothing."""


class Store:
    """The folder ``uri``. Names are relative to it, with ``/``. Can be pickled and used from any thread.

    links: whether local files may be links, as in a cache of downloads
    local: on this machine's file system; s3: on S3, with its conditional requests
    ``OutputError`` for a protocol that there is no client for; from all that asks the storage, where it refuses for
    good; ``OSError`` where it may not refuse next time.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, Any] | None = None, *, links: bool = False):
        self.uri, self.links = uri.rstrip("/"), links
        try:
            self.options = dict(storage_options or {})
            self.fs, root = open_storage(uri, self.options)
        except (ValueError, ImportError) as error:  # no such protocol, or its package is missing
            raise OutputError(f"output.uri: {uri!r}: {error}") from error
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        self.s3 = "s3" in ([self.fs.protocol] if isinstance(self.fs.protocol, str) else self.fs.protocol)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def place(self, name: str, *, file: bool = True) -> str:
        """The path of what may be opened: it lies in the folder itself, no link leads elsewhere, and a ``file`` is no
        pipe or device. ``OutputError`` where it is not so. What is not there is nowhere else either.
        """
        steps = name.split("/")
        if not {"", ".", ".."}.isdisjoint(steps) or "\0" in name:
            raise OutputError(f"{self.uri}: {name!r} is no name of a file below it")
        if not self.local:
            return self.path(name)
        place = self.root
        for number, step in enumerate(steps, 1):
            place = f"{place}/{step}"
            try:
                kind = (os.stat if self.links else os.lstat)(place).st_mode
            except (FileNotFoundError, NotADirectoryError):
                break
            what = next((what for test, what in _NO_FILES.items() if test(kind)), "")
            if not what and file and number == len(steps) and stat.S_ISDIR(kind):
                what = "a folder"
            if what:
                right = "an output's files lie in its own folder; move it away, or choose another folder"
                raise OutputError(f"{self.uri}/{'/'.join(steps[:number])} is {what}, not a file; {right}")
        return self.path(name)

    def size(self, name: str) -> int:
        """Bytes of a file. ``FileNotFoundError`` where there is none."""
        with self._asking(name):
            return int(self.fs.info(self.place(name))["size"])

    def lines(self, name: str) -> Iterator[tuple[int, bytes]]:
        """The whole lines of a file and their places. A last one that a crash cut off is none. ``OutputError`` where
        one is longer than any that a run writes.
        """
        # Not every file of fsspec's can be asked for so many bytes of a line.
        with self.reading(name) as opened, io.BufferedReader(opened) as file:  # type: ignore[type-var]
            place = 0
            while line := file.readline(LONGEST + 1):
                if len(line) > LONGEST:
                    raise OutputError(f"{self.uri}/{name}: a line at byte {place} is longer than {LONGEST} bytes")
                if not line.endswith(b"\n"):
                    return
                yield place, line
                place += len(line)

    def exists(self, name: str) -> bool:
        with self._asking(name), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.fs.info(self.path(name))
            return True
        return False

    def read(self, name: str, most: int = 0) -> bytes:
        """The whole file. ``OutputError`` where it has more bytes than ``most`` (0: whatever it has)."""
        with self._asking(name):
            place = self.place(name)
            if most and (size := self.size(name)) > most:
                raise OutputError(f"{self.uri}/{name} has {size} bytes, more than the {most} that it may have")
            return self.fs.cat_file(place)

    @contextlib.contextmanager
    def reading(self, *names: str) -> Iterator[IO[bytes]]:
        """The file, to read; under whichever of ``names`` it is, the first of them first. It may be given another of
        them at any time, and reading goes on: its bytes are the same. ``FileNotFoundError`` where there is none.
        """
        with self._asking(names[0]), self.first(*names) as file:
            yield file

    def first(self, *names: str) -> IO[bytes]:
        """As :meth:`reading`, to be closed by who asked for it."""
        if self.local or len(names) == 1:  # an open local file stays what it is
            return self._first(names)
        return io.BufferedReader(_Moving(lambda: self._first(names)), 1 << 20)

    def _first(self, names: Sequence[str]) -> IO[bytes]:
        for name in names[:-1]:
            with contextlib.suppress(FileNotFoundError):
                return self.fs.open(self.place(name), "rb", block_size=PIECE)
        return self.fs.open(self.place(names[-1]), "rb", block_size=PIECE)

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Whole files, at the same time where the storage is remote."""
        with self._asking(names[0] if names else ""):
            places = ([0] * len(names), [None] * len(names))
            return self.fs.cat_ranges([self.place(n) for n in names], *places, on_error="raise")

    def read_tails(self, sizes: Mapping[str, int], nbytes: int) -> list[bytes]:
        """The last ``nbytes`` of files of these sizes, at the same time where the storage is remote."""
        with self._asking(next(iter(sizes), "")):
            places = ([max(0, size - nbytes) for size in sizes.values()], list(sizes.values()))
            return self.fs.cat_ranges([self.place(n) for n in sizes], *places, on_error="raise")

    def files(self, folder: str = "") -> list[str]:
        """Names of all files below ``folder``, sorted; hidden ones included."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of all files below ``folder``, by name: one listing instead of a request a file. On a local disk links
        are not followed, and counted as the files that they are.
        """
        if self.local and not self.links:
            return dict(_below(self.path(folder).rstrip("/"), len(self.root) + 1))
        found: Mapping[str, Any] = {}
        with self._asking(folder), contextlib.suppress(NotADirectoryError):
            found = self.fs.find(self.path(folder).rstrip("/"), detail=True)
        # A name that ends in a slash is how consoles keep an empty folder on an object store.
        return {f[len(self.root) + 1 :]: int(i["size"]) for f, i in found.items() if not f.endswith("/")}

    def move(self, name: str, to: str) -> None:
        """Give a file another name, under which it is there before it is gone under the first; at once where it is
        local."""
        self.move_all({name: to})

    def move_all(self, names: Mapping[str, str]) -> None:
        """As :meth:`move`, of each name to the other, in their order; on a local disk each folder is synced once."""
        into, out_of = dict[Path, None](), dict[Path, None]()
        for name, to in names.items():
            self._rename(name, to)
            if self.local:
                into[Path(self.path(to)).parent] = out_of[Path(self.path(name)).parent] = None
        for folder in (*into, *(f for f in out_of if f not in into)):
            _sync_folder(folder)

    def _rename(self, name: str, to: str) -> None:
        with self.writing(name):
            if self.local:
                target = Path(self.path(to))
                _make_folder(target.parent)
                os.replace(self.path(name), target)
            else:
                self.fs.cp_file(self.path(name), self.path(to))
                self.fs.rm_file(self.path(name))

    def remove(self, name: str) -> None:
        with self.writing(name), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def remove_all(self, names: Sequence[str]) -> None:
        """In no particular order, and not all at once."""
        if not self.s3:
            for name in names:
                self.remove(name)
            return
        for i in range(0, len(names), _KEYS):
            with self.writing(names[i]):
                bucket, _, _ = self.fs.split_path(self.root)
                keys = [{"Key": self.fs.split_path(self.path(name))[1]} for name in names[i : i + _KEYS]]
                done = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
                for failure in done.get("Errors", []):
                    raise OSError(errno.EIO, f"{failure.get('Key')} cannot be deleted: {failure.get('Message')}")

    def write(self, name: str, data: Any) -> None:
        """Put a whole file there, replacing what was: a reader sees the old bytes or the new, never a piece, also
        after a crash or a power cut. ``data``: bytes or a buffer. ``OutputError`` where the storage refuses for good.
        """
        if self.local:
            self.write_lines(name, (data,))
            return
        with self.writing(name):
            view = memoryview(data)
            if not self.s3:
                self.fs.pipe_file(self.path(name), bytes(view))
                return
            # One PUT, or a multipart upload that is completed once all pieces are there, and aborted on any error.
            piece = max(PIECE, -(-view.nbytes // _PIECES))
            content = bytes(view) if view.nbytes < 2 * piece else _Slices(view)
            self.fs.pipe_file(self.path(name), content, chunksize=piece)

    def put_if(self, name: str, data: bytes, etag: str | None) -> str:
        """Write a small object where there is none (``etag`` None), or in place of the one of this etag; its own.

        ``UnmetError`` where there is another. A lost answer may have been a success.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        return self._conditional("put_object", name, Body=data, **condition)["ETag"]

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """A small object and its etag. ``FileNotFoundError`` where there is none."""

        async def get() -> tuple[bytes, str]:
            bucket, key, _ = self.fs.split_path(self.path(name))
            found = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
            async with found["Body"] as body:
                return await body.read(), found["ETag"]

        with self._asking(name):
            return sync(self.fs.loop, get)

    def remove_if(self, name: str, etag: str) -> None:
        """Remove the object of this etag. ``UnmetError`` where there is another, or none."""
        self._conditional("delete_object", name, IfMatch=etag)

    def _conditional(self, method: str, name: str, **request: Any) -> Mapping[str, Any]:
        bucket, key, _ = self.fs.split_path(self.path(name))
        with self.writing(name):
            try:
                return self.fs.call_s3(method, Bucket=bucket, Key=key, **request)
            except FileNotFoundError as error:
                if answer(error) == "NoSuchBucket":
                    raise
                raise UnmetError(f"{self.uri}/{name} is gone") from error
            except OSError as error:
                if answer(error) in _UNMET:
                    raise UnmetError(f"{self.uri}/{name} is another one") from error
                raise

    def write_lines(self, name: str, pieces: Iterable[Any]) -> None:
        """As :meth:`write`, of pieces that are never all in memory; local only."""
        with self.writing(name):
            target = Path(self.path(name))
            _make_folder(target.parent)
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
        with self.writing(name):
            path = Path(self.path(name))
            _make_folder(path.parent)
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
            if re.fullmatch(r"\..+\.\d+\.tmp", name.rpartition("/")[2]):
                self.remove(name)

    def remove_drafts_of(self, name: str) -> None:
        """As :meth:`remove_drafts`, of one file beside which others may lie that are not ours."""
        if self.local:
            target = Path(self.path(name))
            for draft in target.parent.glob(f".{target.name}.*.tmp"):
                self.remove(draft.relative_to(self.root).as_posix())

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Says what a refusal to write means."""
        if self.local and "/" in name:
            self.place(name.rpartition("/")[0], file=False)
        try:
            with self._asking(name):
                yield
        except OSError as error:
            if self.local and error.errno in _FATAL:
                raise OutputError(f"{self.uri}/{name}: {_FATAL[error.errno]} ({error.strerror})") from error
            raise

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Gives remote faults the object's URI, an error number and a class that says whether they may pass."""
        if self.local:
            yield
            return
        where = f"{self.uri}/{name}"
        try:
            with as_oserror(where):
                yield
        except FileNotFoundError as error:
            if answer(error) == "NoSuchBucket":
                raise OutputError(f"{where}: no such bucket; create it or choose another output.uri") from error
            raise FileNotFoundError(errno.ENOENT, f"{where}: {error}") from error
        except PermissionError as error:
            right = "check the credentials, and that they may list, read, write and delete below output.uri"
            raise OutputError(f"{where}: the storage refuses ({error}); {right}") from error
        except OSError as error:
            number = error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
            text = str(error.strerror or error).removeprefix(f"{where}: ")
            raise OSError(number, f"{where}: {text}") from error


def _below(folder: str, cut: int) -> Iterator[tuple[str, int]]:
    """Name (the path from ``cut`` on) and bytes of all that is no folder below one. What goes meanwhile is left out."""
    folders = [folder]
    while folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    yield entry.path[cut:], entry.stat(follow_symlinks=False).st_size


class _Moving(io.RawIOBase):
    """A file of an object store, where to have opened one keeps nothing: it is opened anew where it has gone."""

    def __init__(self, open_file: Callable[[], IO[bytes]]):
        self._open, self._file, self._at = open_file, open_file(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset, whence = offset + self._at, io.SEEK_SET
        self._at = self._file.seek(offset, whence)
        return self._at

    def readinto(self, into: Any) -> int:
        try:
            data = self._file.read(len(into))
        except FileNotFoundError:
            self._file.close()
            self._file = self._open()
            self._file.seek(self._at)
            data = self._file.read(len(into))
        into[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Slices:
    """A buffer whose slices are bytes, which is what the S3 client takes: only pieces under way are copied."""

    def __init__(self, view: memoryview):
        self._view = view.cast("B")

    def __len__(self) -> int:
        return self._view.nbytes

    def __getitem__(self, place: slice) -> bytes:
        return bytes(self._view[place])


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


def _make_folder(folder: Path) -> None:
    """With those above it; their names are on the disk too."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
