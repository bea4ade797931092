"""Fixtures of the tests that compare a mode of running with the local one."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_kit import do, job, write_shards


@pytest.fixture(scope="module")
def logs(request, tmp_path_factory) -> Path:
    """As many shards as the module's SHARDS says."""
    return write_shards(tmp_path_factory.mktemp("shards") / "logs", request.module.SHARDS)


@pytest.fixture(scope="module")
def local(logs) -> Path:
    """What the local mode makes of the logs."""
    out = logs.parent / "local"
    do(job(logs, out))
    return out
