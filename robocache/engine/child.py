"""A process that makes calls for another one and may end at any of them: by a crash, a limit, or because it is ended.

How such a process ends is evidence that a worker's death is not: nobody who kills workers, restarts nodes or cuts links
has touched it.
"""

from __future__ import annotations

import contextlib
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
from typing import Any

from robocache.engine.deadline import DeadlineError, outlasts, overdue
from robocache.errors import WorkersError
from robocache.threads import without_pandas

_MAIN = "from robocache.engine.child import main; main()"
_LENGTH = struct.Struct("<Q")


class EndedError(Exception):
    """The process has ended at a call; says how: ``signal SIGSEGV``, ``exit code 3``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may take: bytes of address space, and seconds of processor time a call. 0: no limit."""

    memory: int = 0
    seconds: float = 0.0


class Child:
    """A process that makes one call at a time; whoever asks waits for it. ``WorkersError`` where none can be started.

    The thread that makes it must live as long: the system ends it with that thread, so that it outlives nobody.
    """

    def __init__(self, limits: Limits = Limits()):
        self._limits = limits
        self._socket, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-c", _MAIN, str(number)]
            # What it prints is nobody's result.
            self._process = subprocess.Popen(command, pass_fds=(number,), stdin=subprocess.DEVNULL, stdout=2)
        try:
            _send(self._socket, (sys.path, limits))
            if _receive(self._socket) is not True:
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
            _send(self._socket, _by_value(call))
            _receive(self._socket)  # it has imported what the call needs, which is none of its time
            if seconds and outlasts(self._answers, what, seconds, key):
                self.close()
                raise overdue(what, seconds, key)
            well, value = _receive(self._socket)
        except (EOFError, ConnectionError):
            raise self._ended(what, key) from None
        if well:
            return value
        raise value

    def close(self) -> None:
        """End it, whatever it is at; a thread that waits for its answer gets ``EndedError``."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _answers(self, timeout: float) -> bool:
        return bool(select.select([self._socket], [], [], timeout)[0])

    def _ended(self, what: str, key: str) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return DeadlineError(f"{what} has used {self._limits.seconds:g} s of processor time ({key})")
        return EndedError(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")


def main() -> None:
    """The process: makes calls until nobody asks any more."""
    if sys.platform == "linux":  # it must not outlive who asks: 1 is PR_SET_PDEATHSIG
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; who asks ends this one
    without_pandas()
    asked = socket.socket(fileno=int(sys.argv[1]))
    path, limits = _receive(asked)
    sys.path[:] = path
    _limit("RLIMIT_CORE", 0)
    if limits.memory:
        _limit("RLIMIT_AS", limits.memory)
    _send(asked, True)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            call = pickle.loads(_receive(asked))
            _send(asked, True)
            if limits.seconds:
                _limit("RLIMIT_CPU", int(sum(os.times()[:2]) + limits.seconds + 1))
            try:
                answer = True, call()
            except Exception as error:
                answer = False, _travelling(error)
            _send(asked, answer)
            del call, answer


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


def _send(to: socket.socket, value: Any) -> None:
    """Pickled; arrays go as they lie in memory, behind it."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pieces = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    to.sendall(_LENGTH.pack(len(pieces)) + b"".join(_LENGTH.pack(piece.nbytes) for piece in pieces))
    for piece in pieces:
        to.sendall(piece)


def _receive(source: socket.socket) -> Any:
    """The inverse; ``EOFError`` where nobody is there any more."""
    (count,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    sizes = [size for (size,) in _LENGTH.iter_unpack(_exactly(source, count * _LENGTH.size))]
    head, *buffers = [_exactly(source, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)


def _exactly(source: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    rest = memoryview(found)
    while rest:
        if not (count := source.recv_into(rest)):
            raise EOFError
        rest = rest[count:]
    return found
