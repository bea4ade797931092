"""Storage behind a URI: one way to get at it, and what its faults mean whichever client library reports them."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

#: Where an output keeps what it knows of itself, below its folder. What holds it is no recording.
OUTPUT_META = "meta/robocache"
#: Client libraries of object stores whose errors are no OSError although it is the storage that failed.
_CLIENTS = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpx", "s3fs", "urllib3"})
#: Of these the ones that say that nobody has told the client who is asking.
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
#: Answers of HTTP that say that there is no such file.
_GONE = (404, 410)
#: What errors are called where nobody answers.
_NO_CONNECTION = re.compile("Connect|DNS")
#: Answers of S3 that are about one object; any other refusal is about the storage or who is asking.
_ABOUT_THE_OBJECT = frozenset({"403", "404", "416", "AccessDenied", "InvalidObjectState", "InvalidRange", "NoSuchKey"})


def open_storage(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The fsspec file system of ``uri``, and the path on it. Listings are not cached: another process may write there.

    ``ValueError`` or ``ImportError``: no such protocol, or its package is missing.
    """
    if "://" not in uri:  # a path of this machine, whatever it holds: fsspec takes `::` for a chain of file systems
        return fsspec.filesystem("file", **options), LocalFileSystem._strip_protocol(native(uri))
    options = {key: deepcopy(v) if isinstance(v, dict) else v for key, v in options.items()}  # botocore writes in them
    if "::" not in uri:
        options = {"use_listings_cache": False, **options}
    return fsspec.core.url_to_fs(uri, **options)


def is_local(uri: str) -> bool:
    """Whether it is a path of this machine."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def native(path: str) -> str:
    """A local path as the calls of this process take it, which depends on its locale (``LANG=C``)."""
    return os.fsdecode(path.encode("utf-8", "surrogateescape"))


def neutral(path: str) -> str:
    """The same path as every process would write it: its bytes as UTF-8, those that are none as surrogates. What is
    recorded, compared or shown is this one.
    """
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def answer(error: BaseException) -> str:
    """The code with which an object store has refused, such as ``NoSuchBucket``; empty for any other error."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, Mapping) else ""


def is_storage_fault(error: Exception) -> bool:
    """True where an object store or its client failed or refused for a reason that is not the object it was asked for:
    a connection, a timeout, an expired token.
    """
    if code := answer(error):
        return code not in _ABOUT_THE_OBJECT
    return type(error).__module__.partition(".")[0] in _CLIENTS and not isinstance(error, OSError)


def unanswered(error: BaseException) -> bool:
    """True where "no such file" only means that the host was not reached, or refused: fsspec's HTTP says so."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None or answer(error):
        return False
    client = type(cause).__module__.partition(".")[0] in _CLIENTS and getattr(cause, "status", None) not in _GONE
    return client or isinstance(cause, TimeoutError | asyncio.TimeoutError | ConnectionError)


def as_fault(error: Exception, where: str) -> OSError:
    """A fault of the storage, as :func:`is_storage_fault` or :func:`unanswered` has it, with what to check."""
    told = error.__cause__ if unanswered(error) and error.__cause__ is not None else error
    text = f"{where}: {type(told).__name__}: {told}"
    if _NO_CONNECTION.search(type(told).__name__):
        text += "; check the address (endpoint_url in storage_options), that it is up, and the network"
    return OSError(errno.EIO, text)


@contextmanager
def as_oserror(where: str) -> Iterator[None]:
    """Let errors of client libraries out as ``OSError``: ``PermissionError`` where credentials are missing."""
    try:
        yield
    except asyncio.TimeoutError as error:  # before Python 3.11 not a TimeoutError
        raise TimeoutError(errno.ETIMEDOUT, f"{where}: the storage timed out") from error
    except Exception as error:
        if unanswered(error):
            raise as_fault(error, where) from error
        if isinstance(error, OSError) or not is_storage_fault(error):
            raise
        if type(error).__name__ in _NO_CREDENTIALS:
            right = "give storage_options key and secret, or set the environment as for the AWS command line"
            raise PermissionError(errno.EACCES, f"{where}: {error}; {right}") from error
        raise as_fault(error, where) from error
