"""Processes by fork from one that has imported what they need. See :class:`ForkServer`."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from threading import Lock

from robocache.engine.child import Process, begin, die_with_parent, exactly, receive, send, serve, spawn
from robocache.errors import WorkersError

_MAIN = "from robocache.engine.forkserver import main; main()"
#: To the server: 0 and a socket asks for a process, its number for its exit code. The answers have the same form.
_ORDER = struct.Struct("<q")


class ForkServer:
    """A process that has imported some modules and becomes others by fork, in a hundredth of a second each: they share
    the memory of what it has imported. It has no threads, so that no lock is held as it forks.

    The thread that makes it must live as long as the processes do.
    """

    def __init__(self, modules: Sequence[str]):
        self._lock, self._ready = Lock(), False
        self._codes: dict[int, int] = {}
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = spawn(_MAIN, theirs)
        send(self._socket, (sys.path, tuple(modules)))

    def ready(self, timeout: float | None = 0.0) -> bool:
        """Whether it has imported its modules, or does within so many seconds (None: however long it takes).
        ``WorkersError`` where it has ended instead.
        """
        with self._lock:
            if not self._ready and select.select([self._socket], [], [], timeout)[0]:
                try:
                    self._ready = bool(receive(self._socket))
                except (EOFError, OSError):
                    raise WorkersError("the process that others are to be forked from has ended") from None
            return self._ready

    def fork(self, theirs: socket.socket) -> Process:
        """A process that serves who is at the other end of a socket. ``EOFError`` or ``OSError``: it does not start. To
        be called once it is ready.
        """
        with self._lock:
            socket.send_fds(self._socket, [_ORDER.pack(0)], [theirs.fileno()])
            (pid,) = _ORDER.unpack(exactly(self._socket, _ORDER.size))
            self._codes.pop(pid, None)
        return _Forked(self, pid)

    def exit_code(self, pid: int) -> int:
        """Of a process of its own, once that has ended. 255 where nobody knows any more."""
        with self._lock:
            if pid not in self._codes:  # it can be asked for once
                try:
                    self._socket.sendall(_ORDER.pack(pid))
                    (self._codes[pid],) = _ORDER.unpack(exactly(self._socket, _ORDER.size))
                except (EOFError, OSError):
                    return 255
            return self._codes[pid]

    def close(self) -> None:
        """End it, and with it all that it has become."""
        self._process.kill()
        self._process.wait()
        self._socket.close()


class _Forked:
    def __init__(self, server: ForkServer, pid: int):
        self._server, self._pid = server, pid
        self._ended = False

    def kill(self) -> None:
        if not self._ended:  # until then nobody else can have its number
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        code = self._server.exit_code(self._pid)
        self._ended = True
        return code


def main() -> None:
    """The server's process."""
    begin()
    asked = socket.socket(fileno=int(sys.argv[1]))
    sys.path[:], modules = receive(asked)
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # a collection would write to, and so copy, what the others share
    send(asked, True)
    while True:
        order, sockets, _, _ = socket.recv_fds(asked, _ORDER.size, 1, socket.MSG_WAITALL)
        if len(order) < _ORDER.size:
            return
        if pid := _ORDER.unpack(order)[0]:
            asked.sendall(_ORDER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            continue
        if not (pid := os.fork()):
            asked.close()
            die_with_parent()
            serve(socket.socket(fileno=sockets[0]))
            os._exit(0)
        os.close(sockets[0])
        asked.sendall(_ORDER.pack(pid))
