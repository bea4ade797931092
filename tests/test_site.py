"""The site of the documents: it is built without a warning, and links to files are right (`make docs`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_it_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(tmp_path / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    api = (tmp_path / "site/api/index.html").read_text()
    assert all(name in api for name in ("delta_timestamps", "max_gap", "from_urdf"))
    assert (tmp_path / "site/index.html").exists() and (tmp_path / "site/configuration/index.html").exists()
