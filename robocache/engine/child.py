"""A process that makes calls for another one and may end at any of them: by a crash, a limit, or because it is ended.

How such a process ends is evidence that a worker's death is not: nobody who kills workers, restarts nodes or cuts links
has touched it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from robocache.engine.deadline import DeadlineError, outlasts, overdue
from robocache.errors import WorkersError
from robocache.threads import without_pandas

_MAIN = "from robocache.engine.child import main; main()"
_LENGTH = struct.Struct("<Q")

logger = logging.getLogger("robocache")


class EndedError(Exception):
    """The process has ended at a call; says how: ``signal SIGSEGV``, ``exit code 3``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may take: bytes of address space, and seconds of processor time a call. 0: no limit."""

    memory: int = 0
    seconds: float = 0.0


class Process(Protocol):
    """What there is to do with a process."""

    def kill(self) -> None: ...
    def wait(self) -> int: ...


class Child:
    """A process that makes one call at a time; whoever asks waits for it. ``WorkersError`` where none can be started.

    start: starts one that serves who is at the other end of a socket; None: a new Python

    The thread that makes it must live as long: the system ends it with that thread, so that it outlives nobody.
    """

    def __init__(self, limits: Limits = Limits(), start: Callable[[socket.socket], Process] | None = None):
        self._limits = limits
        self._process: Process | None = None
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = spawn(_MAIN, theirs) if start is None else start(theirs)
            send(self._socket, (sys.path, limits, logger.getEffectiveLevel()))
            if receive(self._socket) is not True:
                raise EOFError
        except (EOFError, OSError):
            self.close()
            raise WorkersError("a process that is to make calls of its own does not start") from None

    def ask(self, call: Callable[[], Any], what: str = "", seconds: float = 0.0, key: str = "") -> Any:
        """What ``call``, which can be pickled, returns there; raises what it raises there.

        ``EndedError`` where the process ends at it, ``DeadlineError`` where it takes longer than ``seconds`` (0: it may
        take for ever): the process is of no more use then. what, key: see :func:`robocache.engine.deadline.outlasts`
        """
        try:
            send(self._socket, _by_value(call))
            receive(self._socket)  # it has imported what the call needs, which is none of its time
            if seconds and outlasts(self._answers, what, seconds, key):
                self.close()
                raise overdue(what, seconds, key)
            well, value, messages = receive(self._socket)
        except (EOFError, ConnectionError):
            raise self._ended(what, key) from None
        for level, message in messages:
            logger.log(level, "%s", message)
        if well:
            return value
        raise value

    def close(self) -> None:
        """End it, whatever it is at; a thread that waits for its answer gets ``EndedError``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _answers(self, timeout: float) -> bool:
        return bool(select.select([self._socket], [], [], timeout)[0])

    def _ended(self, what: str, key: str) -> Exception:
        assert self._process is not None
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return DeadlineError(f"{what} has used {self._limits.seconds:g} s of processor time ({key})")
        return EndedError(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")


def spawn(code: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A new Python that runs ``code``, the number of a socket as its argument."""
    number = theirs.fileno()
    # What it prints is nobody's result.
    command = [sys.executable, "-c", code, str(number)]
    return subprocess.Popen(command, pass_fds=(number,), stdin=subprocess.DEVNULL, stdout=2)


def main() -> None:
    """The process."""
    begin()
    serve(socket.socket(fileno=int(sys.argv[1])))


def begin() -> None:
    """What every such process does first."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; who asks ends this one
    without_pandas()


def die_with_parent() -> None:
    """It must not outlive who asks: 1 is PR_SET_PDEATHSIG."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(asked: socket.socket) -> None:
    """Make calls until nobody asks any more."""
    path, limits, level = receive(asked)
    sys.path[:] = path
    messages = _Kept()
    logger.addHandler(messages)
    logger.setLevel(level)
    logger.propagate = False
    _limit("RLIMIT_CORE", 0)
    if limits.memory:
        _limit("RLIMIT_AS", limits.memory)
    send(asked, True)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            call = pickle.loads(receive(asked))
            send(asked, True)
            if limits.seconds:
                _limit("RLIMIT_CPU", int(sum(os.times()[:2]) + limits.seconds + 1))
            try:
                answer = True, call()
            except Exception as error:
                answer = False, _travelling(error)
            send(asked, (*answer, messages.taken()))
            del call, answer


class _Kept(logging.Handler):
    """Keeps messages for who asks, on whose terminal there is more than this process knows of."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append((record.levelno, record.getMessage()))

    def taken(self) -> list[tuple[int, str]]:
        kept, self._kept = self._kept, []
        return kept


def _limit(name: str, most: int) -> None:
    """Of this process; the hard limit stays, so that another call may have its own."""
    import resource

    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _by_value(call: Callable[[], Any]) -> bytes:
    """What a driver's ``__main__`` defines travels to Ray's workers by value, so it does here."""
    return sys.modules.get("ray.cloudpickle", pickle).dumps(call)


def _travelling(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be pickled."""
    error.__traceback__ = None
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def send(to: socket.socket, value: Any) -> None:
    """Pickled; arrays go as they lie in memory, behind it."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pieces = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    to.sendall(_LENGTH.pack(len(pieces)) + b"".join(_LENGTH.pack(piece.nbytes) for piece in pieces))
    for piece in pieces:
        to.sendall(piece)


def receive(source: socket.socket) -> Any:
    """The inverse; ``EOFError`` where nobody is there any more."""
    (count,) = _LENGTH.unpack(exactly(source, _LENGTH.size))
    sizes = [size for (size,) in _LENGTH.iter_unpack(exactly(source, count * _LENGTH.size))]
    head, *buffers = [exactly(source, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)


def exactly(source: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    rest = memoryview(found)
    while rest:
        if not (count := source.recv_into(rest)):
            raise EOFError
        rest = rest[count:]
    return found
