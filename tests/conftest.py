"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real recordings; tests that use this are marked ``realdata``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("ROBOCACHE_TEST_DATA") or default)
    if not path.is_dir():
        pytest.skip(f"real recordings are not at {path}; set ROBOCACHE_TEST_DATA")
    return path
