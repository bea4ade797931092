"""Which errors of a reader are the file's fault and which are the storage's."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from robocache.errors import InputError, UnexpectedError
from robocache.storage import as_fault, is_storage_fault, unanswered
from robocache.types import FileStamp

logger = logging.getLogger("robocache")

_CONTENT_ERRNO = (None, errno.EINVAL)
#: What a mistake in a program raises, and hardly ever a file that is damaged.
_MISTAKES = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError, ImportError)
_PACKAGE = str(Path(__file__).resolve().parents[1])


@contextmanager
def guarded(files: Sequence[FileStamp], key: str = "", format: str = "", *, document: bool = False) -> Iterator[None]:
    """Let out :class:`InputError` that names the file, ``OSError`` of the storage, ``MemoryError``, and nothing else.

    Whatever a parser throws at damaged content will fail the same way again, so it is an ``InputError``, as is a file
    that is missing or may not be read. A storage error (an ``OSError`` with an error number, a timeout, a lost
    connection, expired credentials, a client library's own error) may be gone at the next try and is an ``OSError``.
    Parsers raise ``OSError`` too (h5py, pyarrow), but without an error number, or ask for a place that no file has
    (``EINVAL``). A mistake of this program is no fault of the file: ``UnexpectedError``, and the traceback is
    logged for debugging.

    document: what is read is a document of no fixed form (JSON), of which our code asks more than it may hold
    """
    where = (files[0].uri if files else "input") + (f"#{key}" if key else "")
    try:
        yield
    except InputError as error:
        if any(file.uri in str(error) for file in files):
            raise
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        if is_storage_fault(error) or unanswered(error):
            raise as_fault(error, where) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise InputError(f"{where}: no such file") from error
        if isinstance(error, PermissionError):
            raise InputError(f"{where}: permission denied") from error
        if isinstance(error, asyncio.TimeoutError):  # before Python 3.11 not a TimeoutError
            raise TimeoutError(f"{where}: the storage timed out") from error
        if passes(error):
            raise
        if isinstance(error, _MISTAKES) and not document and _raised_here(error):
            logger.debug("%s", where, exc_info=error)
            raise UnexpectedError(f"{where}: unexpected {type(error).__name__}: {error}") from error
        raise InputError(f"{where}: cannot be read as {format or 'a recording'}: {_reason(error)}") from error


def passes(error: Exception) -> bool:
    """Whether an error is the storage's, or a lack of memory, and may be gone at the next try; what a file claims is
    checked before memory is taken for it."""
    if is_storage_fault(error) or unanswered(error):
        return True
    if isinstance(error, MemoryError | TimeoutError | asyncio.TimeoutError | ConnectionError):
        return True
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError):
        return False
    return isinstance(error, OSError) and error.errno not in _CONTENT_ERRNO


def _raised_here(error: Exception) -> bool:
    """Whether it is code of this package that raised, and no library that parses."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE)


def _reason(error: Exception) -> str:
    """The first line of an error, without the quotes that KeyError puts around its text."""
    text = str(error.args[0] if len(error.args) == 1 else error)
    line = text.strip().partition("\n")[0][:300]
    return line if " " in line else f"{type(error).__name__} {line}".strip()
