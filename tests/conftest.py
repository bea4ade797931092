"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: The groups of tests that are begun first: see _group.
LONGEST = ("ray", "test_kill.py", "test_s3.py")
#: A file system without a disk, where there is one.
MEMORY = "/dev/shm"

if TYPE_CHECKING:
    from s3_kit import Bucket, Server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    import process_kit

    process_kit.interpreters = config.getoption("--slow")
    # Whatever a run writes it syncs, at a millisecond or more each time on a disk; in memory that is nothing.
    if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 2 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)  # where pytest makes its temporary folders


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests wait to be asked for. What takes longest begins first."""
    slow = pytest.mark.skip(reason="slow; `make test-all` runs it")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
    groups = [_group(item.nodeid) for item in items]
    order = [LONGEST.index(group) if group in LONGEST else len(LONGEST) for group in groups]
    items[:] = [items[k] for k in sorted(range(len(items)), key=order.__getitem__)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes (``-n 2``) one has everything that shares the Ray cluster, and a file's tests stay together,
    so that they share what it makes. (Marks for ``--dist loadgroup`` say nothing to pytest-xdist 3.8 under pytest 9.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return Groups(config, log)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0].rpartition("/")[2]
    return "ray" if file.startswith("test_ray_") else file


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The Ray cluster, a fifth of a core even when it has nothing to do, ends with the last test that needs it."""
    last = nextitem is None or _group(nextitem.nodeid) != "ray"
    if last and _group(item.nodeid) == "ray" and (ray := sys.modules.get("ray")):
        ray.shutdown()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real recordings; tests that use this are marked ``realdata``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("ROBOCACHE_TEST_DATA") or default)
    if not path.is_dir():
        pytest.skip(f"real recordings are not at {path}; set ROBOCACHE_TEST_DATA")
    return path


@pytest.fixture
def ray_cluster() -> None:
    """One for all tests that need no more than some workers; what drives it can import tests/engine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    if not ray.is_initialized():
        with pytest.MonkeyPatch.context() as patch:  # what its workers, of this driver or another, can import
            patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'engine'}")
            patch.setenv("RAY_worker_niceness", "0")  # at 15, as usual, they starve beside whatever else there is to do
            for last in (False, False, True):  # a node that is not up within 30 s, on a busy machine, is given up
                try:
                    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100_000_000)
                    return
                except Exception as error:
                    ray.shutdown()
                    if last or "timed out" not in str(error):
                        raise


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
