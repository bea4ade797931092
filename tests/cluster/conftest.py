"""The testbed, and what the engine's tests share, can be imported here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "cluster"), str(ROOT / "tests" / "engine")]


@pytest.fixture(scope="session")
def testbeds() -> None:
    """Skips where there can be none."""
    import testbed

    pytest.importorskip("ray", reason="Ray is not installed")
    if reason := testbed.why_not():
        pytest.skip(f"no testbed here: {reason}")
