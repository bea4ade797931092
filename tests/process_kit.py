"""``robocache`` in a process of its own. Each would import torch for seconds, so a server that has done so forks them;
with ``--slow`` each is an interpreter of its own, as a user starts it.
"""

from __future__ import annotations

import fcntl
import functools
import multiprocessing
import multiprocessing.context
import os
import subprocess
import sys
import termios
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL

#: Whether ``--slow`` was given.
interpreters = False

#: A new session whose terminal is standard input, then the command: what a terminal window does.
_SESSION = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
)


def start(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: int = DEVNULL,
    stdout: int = PIPE,
    stderr: int = PIPE,
    session: bool = False,
) -> subprocess.Popen[str] | Forked:
    """``robocache ARGUMENTS``, its pipes in UTF-8. ``session``: of its own, on the terminal that is its stdin."""
    env = {**(os.environ if env is None else env), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if not interpreters:
        return Forked(arguments, cwd, env, (stdin, stdout, stderr), session)
    command = [sys.executable, *(["-c", _SESSION, sys.executable] if session else []), "-m", "robocache.cli"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        encoding="utf-8",
        start_new_session=session,
    )


def robocache(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("OMP_NUM_THREADS", "1")  # read when torch is imported
        forkserver.ensure_running()
    return context


class Forked:
    """As much of a ``subprocess.Popen`` as the tests use."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        cwd: Path,
        env: Mapping[str, str],
        files: tuple[int, int, int],
        session: bool,
    ):
        ends, given, opened = [], [], []
        for file in files:
            ours, theirs = os.pipe() if file == PIPE else (None, file)
            if file == DEVNULL:
                theirs = os.open(os.devnull, os.O_RDWR)
            ends.append(None if ours is None else os.fdopen(ours, encoding="utf-8"))
            given.append(theirs)
            opened += [theirs] if file in (PIPE, DEVNULL) else []
        self._process = _server().Process(
            target=_command, args=(arguments, str(cwd), dict(env), _Files(given), session), daemon=True
        )
        self._process.start()
        for file in opened:
            os.close(file)
        _, self.stdout, self.stderr = ends
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("robocache", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        with ThreadPoolExecutor(2) as pool:
            out, err = pool.map(lambda pipe: pipe.read() if pipe else "", (self.stdout, self.stderr))
        self.wait(timeout)
        return out, err

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        self._process.kill()


class _Files(list):
    """File descriptors, which become the other process's when it is given them."""

    def __reduce__(self):
        return _taken, tuple(DupFd(file) for file in self)


def _taken(*files) -> list[int]:
    return [file.detach() for file in files]


def _command(arguments: tuple[str, ...], cwd: str, env: dict[str, str], files: list[int], session: bool) -> None:
    """In the forked process: what the kernel and the interpreter do before a command's first line, then the command."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    if session:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.argv = ["robocache", *arguments]
    from robocache.cli.__main__ import entry

    sys.exit(entry())
