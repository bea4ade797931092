"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from s3_kit import Bucket, Server


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real recordings; tests that use this are marked ``realdata``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("ROBOCACHE_TEST_DATA") or default)
    if not path.is_dir():
        pytest.skip(f"real recordings are not at {path}; set ROBOCACHE_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """moto's S3, listening on this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto, flask or flask-cors is missing")
    import s3_kit

    with s3_kit.serve() as server:
        yield server


@pytest.fixture
def s3(s3_server: Server) -> Iterator[Bucket]:
    """An empty bucket; the server's faults and its log are this test's."""
    import s3_kit

    bucket = s3_kit.Bucket(s3_server)
    s3_server.requests.clear()
    yield bucket
    s3_server.fault = lambda _: ""
