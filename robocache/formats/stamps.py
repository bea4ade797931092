"""What tells one version of a file from the next, on any file system, and what stands there where it is no file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from robocache.storage import neutral
from robocache.types import FileStamp

#: Where file systems keep what tells one version of a file from the next, the surest first.
_VERSION_KEYS = ("ETag", "etag", "checksum", "md5Hash", "content_md5", "mtime", "LastModified", "created")


class Looked(NamedTuple):
    """stamp: size -1 where that is unknown, or the file is gone

    special: what stands there where it is no plain file: a pipe or a device (to read it could wait for ever, or never
             end), a link that leads nowhere but to itself; empty where it is one
    """

    stamp: FileStamp
    special: str = ""


def look(fs: fsspec.AbstractFileSystem, path: str, info: Mapping[str, Any]) -> Looked:
    """``info``: what the file system says of the path; of a local one it is not needed, it is asked once here."""
    if isinstance(fs, LocalFileSystem):
        try:
            status = os.stat(path)
        except FileNotFoundError:  # a dangling link, or deleted since it was listed
            return Looked(FileStamp(neutral(path), -1, ""))
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return Looked(FileStamp(neutral(path), -1, ""), "a link that leads to itself")
        return Looked(FileStamp(neutral(path), status.st_size, str(status.st_mtime_ns)), _special(status.st_mode))
    size = info.get("size")
    version = next((str(info[name]) for name in _VERSION_KEYS if info.get(name)), "")
    return Looked(FileStamp(full_uri(fs, path), -1 if size is None else size, version))


def full_uri(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """As a :class:`FileStamp` has it."""
    return (neutral(path) if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)).rstrip("/")


def _special(mode: int) -> str:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
