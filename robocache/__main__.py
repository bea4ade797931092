"""``python -m robocache``, as ``robocache`` does."""

import sys

from robocache.cli.__main__ import entry

if __name__ == "__main__":
    sys.exit(entry())
