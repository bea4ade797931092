"""One live run an output: a lock that the kernel frees on a local disk, a lease that its holder renews on S3.

No clock is compared with another machine's. The holder of a lease writes it anew every few seconds; a newcomer watches
it, and takes it once it has not changed for ``LEASE_S`` by the newcomer's own clock. The holder, who began that count
earlier, has stopped by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from robocache.errors import OutputError
from robocache.output.documents import mapping, parsed, text
from robocache.output.store import Store, UnmetError

logger = logging.getLogger("robocache")

#: How long a lease holds after it was written.
LEASE_S = 60.0
#: It is written anew this many times in ``LEASE_S``; its holder stops as long as between two times before its end.
BEATS = 6

#: Raises ``OutputError`` once another run may write.
Check: TypeAlias = Callable[[], None]


def locked(store: Store, name: str) -> AbstractContextManager[Check]:
    """Hold the output for the length of a ``with``. ``OutputError`` where another run does, or nobody can."""
    if store.local:
        return _file_lock(store, name)
    if store.s3:
        return _lease(store, name)
    raise OutputError(
        f"{store.uri}: a run cannot keep others from writing to this kind of storage; use a local path or s3://"
    )


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _refusal(store: Store, holder: str) -> OutputError:
    return OutputError(f"{store.uri} is being written by another run ({holder}); wait for it to end or stop it")


@contextlib.contextmanager
def _file_lock(store: Store, name: str) -> Iterator[Check]:
    """The kernel frees it when its holder dies, however it dies. Folders that were made for it and hold nothing when it
    is let go of, since the run was refused, go with it."""
    path = Path(store.path(name))
    while True:
        made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        with store.writing(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                if path.parent.exists():
                    raise
                continue  # who had made the folder has just removed it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise _refusal(store, holder) from None
        try:
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # its last holder removed the file between our open and our lock
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, _me().encode(), 0)
        yield lambda: None
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        with contextlib.suppress(OSError):  # the first that holds something ends it
            for folder in made:
                folder.rmdir()


@contextlib.contextmanager
def _lease(store: Store, name: str) -> Iterator[Check]:
    lease = _Lease(store, name)
    try:
        lease.take()
        lease.start()
        yield lease.check
    finally:
        lease.release()


@dataclass(frozen=True)
class _Seen:
    """A lease as it was found."""

    etag: str
    holder: str
    token: str


def _seen(content: bytes, etag: str) -> _Seen:
    """What a lease says, whoever wrote it."""
    try:
        found = mapping(parsed(content))
        return _Seen(etag, text(found["holder"], "holder")[:200], text(found["token"], "token"))
    except (ValueError, KeyError):
        return _Seen(etag, "unknown", "")


class _Lease(threading.Thread):
    """Takes the object ``name`` and, as a thread, keeps it fresh."""

    def __init__(self, store: Store, name: str):
        super().__init__(name="lease", daemon=True)
        self.store, self.object = store, name
        self.token = uuid.uuid4().hex
        self.beat = 0
        self.etag: str | None = None
        self.until = 0.0
        self.loss = ""
        self.over = threading.Event()

    def take(self) -> None:
        """Where there is none, create it; where there is one, wait until it has been still for long enough."""
        seen, since = self._look(), time.monotonic()
        if seen is not None:
            what = f"{self.store.uri} is held by {seen.holder}"
            logger.info("%s; waiting up to %.0f s to see whether that is alive", what, LEASE_S)
        while seen is not None and time.monotonic() < since + LEASE_S:
            time.sleep(LEASE_S / (4 * BEATS))
            now = self._look()
            if now is not None and now.etag != seen.etag:
                raise _refusal(self.store, now.holder)
            seen = now
        try:
            self._write(None if seen is None else seen.etag)
        except UnmetError as error:
            now = self._look()
            if now is None or now.token != self.token:  # else it is this one: its first answer was lost
                raise _refusal(self.store, "unknown" if now is None else now.holder) from error
            self.etag = now.etag
        self._prove_conditions()

    def check(self) -> None:
        """``OutputError`` once the lease is lost, or could not be renewed for so long that it may be."""
        if not self.loss and time.monotonic() > self.until:
            self.loss = f"it could not be renewed for {LEASE_S * (1 - 1 / BEATS):.0f} s"
        if self.loss:
            raise OutputError(
                f"{self.store.uri}: this run no longer holds the output ({self.loss}); what was committed is kept, run "
                "again once no other run writes there"
            )

    def run(self) -> None:
        while not self.over.wait(LEASE_S / BEATS):
            try:
                self._renew()
            except (OSError, OutputError) as error:  # the next time may be better; if not, check() says so
                logger.warning("the lease on %s could not be renewed: %s", self.store.uri, error)
            if self.loss:
                logger.error("%s: the lease is lost: %s", self.store.uri, self.loss)
                return

    def release(self) -> None:
        self.over.set()
        if self.is_alive():
            self.join()
        if self.etag is not None and not self.loss:
            with contextlib.suppress(UnmetError, OSError, OutputError):  # then the next run has to wait, no more
                self.store.remove_if(self.object, self.etag)

    def _renew(self) -> None:
        try:
            self._write(self.etag)
        except UnmetError:
            now = self._look()
            if now is not None and now.token == self.token:  # an earlier request that seemed to fail had not
                self.etag = now.etag
            else:
                self.loss = f"{self.object} was removed" if now is None else f"taken by {now.holder}"

    def _write(self, etag: str | None) -> None:
        began = time.monotonic()
        self.beat += 1
        content = {"holder": _me(), "token": self.token, "beat": self.beat}
        self.etag = self.store.put_if(self.object, json.dumps(content).encode(), etag)
        self.until = began + LEASE_S * (1 - 1 / BEATS)

    def _look(self) -> _Seen | None:
        try:
            content, etag = self.store.read_tagged(self.object)
        except FileNotFoundError:
            return None
        return _seen(content, etag)

    def _prove_conditions(self) -> None:
        """Some servers that speak S3 pass over conditions in silence, and would let two runs in."""
        for etag in (None, '"00000000000000000000000000000000"'):
            with contextlib.suppress(UnmetError):
                self._write(etag)
                raise OutputError(
                    f"{self.store.uri}: this S3 service does not honour If-None-Match and If-Match, without which a "
                    "run cannot keep others from writing; choose another output.uri"
                )
