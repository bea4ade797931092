"""``robocache``, and ``python -m robocache.cli`` where that script is not on the path: the command line as a process."""

import sys

from robocache.cli import main


def entry() -> int:
    """The exit code. To pyarrow and all else in this process there is no pandas: nothing here uses it, and pyarrow would
    import it (a quarter of a second, and not safe from threads) as soon as it converts anything.
    """
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]
    return main()


if __name__ == "__main__":
    sys.exit(entry())
