"""``python -m robocache.cli``: the command line, where the ``robocache`` script is not on the path."""

import sys

from robocache.cli import main

sys.exit(main())
