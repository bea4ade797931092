"""The command line as a process: ``robocache``, or ``python -m robocache.cli`` where that is not on the path."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

from robocache.cli import STOPPED, main
from robocache.threads import without_pandas


def entry() -> int:
    """The exit code."""
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
