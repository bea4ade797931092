"""The command line as a process: ``robocache``, or ``python -m robocache.cli`` where that is not on the path."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

from robocache.cli import STOPPED, main


class _NoPandas(MetaPathFinder):
    """Nothing here uses pandas, and pyarrow would import one that is there as soon as it converts anything, which takes
    a quarter of a second and is not safe from threads. So in this process there is none.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("robocache does without pandas", name=fullname)


def entry() -> int:
    """The exit code."""
    sys.meta_path.insert(0, _NoPandas())
    code = main()
    if code == STOPPED:  # whatever a thread is still at, a read that never returns say, is not waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(entry())
