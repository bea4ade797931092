"""A process that does without pandas is one that has none."""

from __future__ import annotations

import subprocess
import sys

from process_kit import ROOT


def test_pandas_is_not_there_for_who_looks_and_for_who_imports():
    """torch._dynamo asks for the places of modules that it does not look into, pandas among them."""
    code = (
        "from robocache.threads import without_pandas; without_pandas()\n"
        "from importlib.util import find_spec\n"
        "assert find_spec('pandas').origin is None\n"
        "try:\n    import pandas\nexcept ModuleNotFoundError: pass\nelse: raise SystemExit('there is one')\n"
        "import numpy, pyarrow\n"
        "assert pyarrow.array(numpy.arange(3)).to_pylist() == [0, 1, 2]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
