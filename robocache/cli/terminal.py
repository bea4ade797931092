"""How the command line speaks: text on a person's terminal, documents for programs, and log lines between them.

Topics, ids, file names, feature names and reasons come from files that anybody may have made. :mod:`robocache.text` is
the one place that makes them harmless, and everything printed goes through it: here, or in the cells of a table.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn, TextIO

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from robocache.text import shown

#: Columns where there is no terminal: a program, or a person's pager, gets names in full.
_PIPE_WIDTH = 160


class ReaderGoneError(Exception):
    """Who reads our output has closed it (``robocache inspect ... | head``)."""


def cell(text: object, style: StyleType = "") -> Text:
    """``text`` for a table: never markup."""
    return Text(shown(text), style=style)


def heading(title: object, rest: object = "") -> Text:
    """A line that begins with something's name."""
    return Text.assemble((shown(title), "bold"), shown(rest))


def grid(*columns: str, folded: str = "") -> Table:
    """A table without lines; numbers stand right. ``folded``: the first column, which takes as many lines as it needs
    so that the others stay whole.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    if folded:
        table.add_column(folded, overflow="fold", min_width=8)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


class _Console(RichConsole):
    def on_broken_pipe(self) -> NoReturn:
        _reader_gone()


def console(file: TextIO | None = None) -> RichConsole:
    """A rich console on ``file`` (standard output) that takes no text for markup."""
    file = file or sys.stdout
    width = None if file.isatty() else _PIPE_WIDTH
    return _Console(file=file, width=width, markup=False, emoji=False, highlight=False)


def show(renderable: RenderableType) -> None:
    """A table, or what else rich draws, on standard output."""
    console().print(renderable)


def say(*lines: object) -> None:
    """Lines on standard output, whole whatever the width of the terminal."""
    try:
        for line in lines:
            print(shown(line))
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_gone()


def complain(*lines: object) -> None:
    """Lines on standard error."""
    for line in lines:
        print(shown(line), file=sys.stderr)


def leave_line() -> None:
    """Away from what the terminal itself has written into the line, such as ``^C``."""
    if sys.stderr.isatty():
        sys.stderr.write("\n" if os.environ.get("TERM") == "dumb" else "\r\x1b[2K")


def document(value: Any) -> None:
    """A dataclass as one JSON document on standard output. Numbers that JSON does not have are null."""
    text = json.dumps(_plain(value), indent=1)  # ASCII: nothing in it is active
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _reader_gone()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def _reader_gone() -> NoReturn:
    """The rest, and what Python flushes at its end, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise ReaderGoneError


class _Lines(logging.Formatter):
    """A record is a line, whatever is in it; a traceback behind it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = shown(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(shown, super().formatException(ei).splitlines()))


class _StandardError(logging.StreamHandler):
    """Writes to what is standard error now: while a bar is drawn, that puts lines above it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def handler() -> logging.Handler:
    """Writes log records as lines to standard error."""
    lines = _StandardError()
    lines.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    return lines


def set_up(level: int) -> None:
    """Log to standard error from ``level`` on, and let no encoding of standard output end a command."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=level, handlers=[handler()])
