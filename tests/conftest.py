"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

ROOT = Path(__file__).resolve().parents[1]

if TYPE_CHECKING:
    from s3_kit import Bucket, Server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    import process_kit

    process_kit.interpreters = config.getoption("--slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests wait to be asked for. Of two processes (``-n 2``) one has everything that shares the Ray cluster, and
    a file's tests stay together, so that they share what it makes.
    """
    slow = pytest.mark.skip(reason="slow; `make test-all` runs it")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
        shares = "ray_cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if shares else item.path.name))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real recordings; tests that use this are marked ``realdata``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("ROBOCACHE_TEST_DATA") or default)
    if not path.is_dir():
        pytest.skip(f"real recordings are not at {path}; set ROBOCACHE_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One for all tests that need no more than some workers; what drives it can import tests/engine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:  # what its workers, of this driver or another, can import
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'engine'}")
        ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


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
