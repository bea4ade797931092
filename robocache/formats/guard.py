"""Which errors of a reader are the file's fault and which are the storage's."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from robocache.errors import InputError
from robocache.storage import is_storage_fault
from robocache.types import FileStamp

_CONTENT_ERRNO = (None, errno.EINVAL)


@contextmanager
def guarded(files: Sequence[FileStamp], key: str = "", format: str = "") -> Iterator[None]:
    """Let out :class:`InputError` that names the file, ``OSError`` of the storage, ``MemoryError``, and nothing else.

    Whatever a parser throws at damaged content will fail the same way again, so it is an ``InputError``, as is a file
    that is missing or may not be read. A storage error (an ``OSError`` with an error number, a timeout, a lost
    connection, expired credentials, a client library's own error) may be gone at the next try and is an ``OSError``.
    Parsers raise ``OSError`` too (h5py, pyarrow), but without an error number, or ask for a place that no file has
    (``EINVAL``).
    """
    where = (files[0].uri if files else "input") + (f"#{key}" if key else "")
    try:
        yield
    except InputError as error:
        if any(file.uri in str(error) for file in files):
            raise
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        if is_storage_fault(error):
            raise OSError(errno.EIO, f"{where}: {type(error).__name__}: {error}") from error
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise InputError(f"{where}: no such file") from error
        if isinstance(error, PermissionError):
            raise InputError(f"{where}: permission denied") from error
        if isinstance(error, asyncio.TimeoutError):  # before Python 3.11 not a TimeoutError
            raise TimeoutError(f"{where}: the storage timed out") from error
        if isinstance(error, TimeoutError | ConnectionError):
            raise
        if isinstance(error, MemoryError):  # what a file claims is checked before it is allocated: no damage
            raise
        if isinstance(error, OSError) and error.errno not in _CONTENT_ERRNO:
            raise
        raise InputError(f"{where}: cannot be read as {format or 'a recording'}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of an error, without the quotes that KeyError puts around its text."""
    text = str(error.args[0] if len(error.args) == 1 else error)
    line = text.strip().partition("\n")[0][:300]
    return line if " " in line else f"{type(error).__name__} {line}".strip()
