"""Run a job in forked children that die at the n-th change they make on the disk, for each n, and once more in full.

    python crash_points.py FOLDER [ray]    (with config.yaml; makes unbroken/ and crash_<n>/, prints the names of these)

With before.yaml too, its job is run first, in full, and config.yaml's grows what that made; after each crash a reader
must find one of the two versions, whole. With ray the driver dies so, on a cluster, and then the workers do, in folders
worker_<n>/: a run in which one of them dies at its n-th change goes on.

A change is any call that modifies files. A crash happens before it, and for a write also with half of it done.
Each child is forked before torch has run, so that no thread is lost in the fork.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from robocache.config.job import Job
from robocache.config.load import load_job
from robocache.engine.run import run
from robocache.output import store
from robocache.output.verify import verify

DIED = 9


class Fuse:
    """Burns down by one at each change and ends the process at zero, without any clean-up; ``says`` so before."""

    def __init__(self, left: int, says: Callable[[], object] = lambda: None):
        self.left, self.says = left, says

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.says()
            os._exit(DIED)


def arm(fuse: Fuse) -> None:
    def guard(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def guarded(*args, **kwargs):
            fuse.burn()
            return original(*args, **kwargs)

        setattr(owner, name, guarded)

    for name in ("replace", "ftruncate", "pwrite"):
        guard(os, name)
    guard(Path, "unlink")
    guard(store.Store, "remove")
    write_all = store._write_all

    def torn(file, data) -> None:
        half = len(memoryview(data)) // 2
        fuse.burn()
        write_all(file, memoryview(data)[:half])
        fuse.burn()
        write_all(file, memoryview(data)[half:])

    store._write_all = torn


def child(folder: Path, work: Callable[[], object], crash_at: int = 0) -> int:
    """Run in a forked process; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        if crash_at:
            arm(Fuse(crash_at))
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{folder.name}: {error!r}", flush=True)
        os._exit(1)


def read() -> None:
    """As a reader that comes now."""
    found = verify("out")
    assert found.problems == () and found.version in (1, 2), found


def main() -> int:
    root, *options = map(str, sys.argv[1:])
    with contextlib.ExitStack() as stack:
        cluster = {}
        if options:
            from grow_kills import place

            cluster = stack.enter_context(place("ray", Path(root))).cluster
        return crash(Path(root).resolve(), cluster)


def crash(root: Path, cluster: dict[str, object]) -> int:
    grows = (root / "before.yaml").exists()

    def begin(folder: Path) -> Path:
        if grows:
            shutil.copytree(root / "before", folder)
        return folder

    def job(config: str, **cluster: object) -> Job:
        words = ["compute.threads=1", *(f"cluster.{key}={value}" for key, value in cluster.items())]
        return load_job(str(root / config), [*words, f"output.uri={root / 'out'}"])

    def work(job: Job, folder: Path) -> None:
        run(replace(job, output=replace(job.output, uri=str(folder / "out"))), prune=grows)

    if grows and child(root / "before", partial(work, job("before.yaml"), root / "before")):
        return 1
    unbroken, whole = begin(root / "unbroken"), job("config.yaml", **cluster)
    if child(unbroken, partial(work, job("config.yaml"), unbroken)):
        return 1
    for n in itertools.count(1):
        folder = begin(root / f"crash_{n}")
        again = partial(work, whole, folder)
        code = child(folder, again, n)
        if code == 0:  # the fuse is longer than the run
            break
        if code != DIED or (grows and child(folder, read)) or child(folder, again):
            return 1
        print(folder.name, flush=True)
    for n in itertools.count(1) if cluster else ():
        folder = begin(root / f"worker_{n}")
        if child(folder, partial(a_worker_dies, partial(work, whole, folder), folder, n)):
            return 1
        if not (folder / "died.happened").exists():
            break
        print(folder.name, flush=True)
    return 0


def a_worker_dies(work: Callable[[], None], folder: Path, n: int) -> None:
    import ray_kit

    from robocache.engine import run as engine

    engine.Processor = lambda *args: ray_kit.Dying(*args, folder=str(folder), at=n)  # type: ignore
    work()


if __name__ == "__main__":
    sys.exit(main())
