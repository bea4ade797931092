"""The command line as a process: ``robocache``, or ``python -m robocache`` where that is not on the path."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

from robocache.cli import STOPPED, main
from robocache.threads import without_pandas

#: Some 115,000 are there when `robocache plan` has imported what it needs.
_FIRST_OBJECTS = 150_000


def entry() -> int:
    """The exit code."""
    _collect_later()
    without_pandas()
    code = [1]  # of an exception that nobody expects
    atexit.register(lambda: _leave(code[0]))  # before all others, so that it is the last to be called
    try:
        code[0] = main()
    except SystemExit as error:
        code[0] = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    if code[0] == STOPPED:  # whatever a thread is still at, a read that never returns say, is not waited for
        _leave(STOPPED)
    return code[0]


def _collect_later() -> None:
    """Begin to collect garbage once so many objects are there as the imports of most commands make. These stay: to look
    through them again and again is a tenth of a short command's time.
    """
    usual = gc.get_threshold()

    def as_usual(phase: str, info: dict[str, int]) -> None:
        gc.callbacks.remove(as_usual)
        gc.set_threshold(*usual)

    gc.callbacks.append(as_usual)
    gc.set_threshold(_FIRST_OBJECTS, *usual[1:])


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart: a thread of pyarrow's that lets go of a buffer of Python's
    just then would abort it.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # who read it has gone, or it was closed
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(entry())
