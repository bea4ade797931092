"""A person's terminal: `robocache` in a process of its own under a pseudo-terminal, and its screen by pyte."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

import pyte
from process_kit import PIPE, start

ROWS = 60  # nothing scrolls away


class Terminal:
    """``robocache ARGUMENTS`` in ``cwd`` on a terminal of ``columns``.

    piped: standard output goes to a pipe, and is :attr:`out` at the end
    """

    def __init__(self, cwd: Path, *arguments: str, columns: int = 80, piped: bool = False, **environment: str):
        self.master, slave = pty.openpty()
        self.screen = pyte.Screen(columns, ROWS)
        self.raw = b""
        self.out = ""
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self._set_size(columns)
        usual = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
        self.process = start(
            *arguments,
            cwd=cwd,
            env={**usual, "TERM": "xterm-256color", **environment},
            stdin=slave,
            stdout=PIPE if piped else slave,
            stderr=slave,
            session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(self.master, 1 << 16):
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    def _set_size(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))

    def resize(self, columns: int) -> None:
        """Make the window another width; the kernel sends SIGWINCH."""
        with self._lock:
            self.screen.resize(ROWS, columns)
        self._set_size(columns)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def lines(self) -> list[str]:
        """The screen's lines down to the last one with anything on it."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    @property
    def text(self) -> str:
        """The same, with what the terminal's edge has broken put together."""
        width = self.screen.columns
        return "".join(line if len(line) == width else f"{line}\n" for line in self.lines)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < until, f"no {text!r} within {seconds} s on\n{self.text}"
            assert self.process.poll() is None or self._reader.is_alive(), f"ended without {text!r} on\n{self.text}"
            time.sleep(0.005)

    def end(self, seconds: float = 120) -> int:
        """Wait for the command; its exit code."""
        if self.process.stdout is not None:
            self.out = self.process.stdout.read()
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"no end within {seconds} s; the screen:\n{self.text}\n{self.raw[-500:]!r}") from None
        self._reader.join(timeout=10)
        os.close(self.master)
        return code

    @property
    def tidy(self) -> bool:
        """Whether it was left as a person expects it: cursor shown, at the beginning of a line, plain colours."""
        cursor = self.screen.cursor
        plain = cursor.attrs.fg == cursor.attrs.bg == "default" and not cursor.attrs.bold
        return not cursor.hidden and cursor.x == 0 and plain
