"""A dataset grows by runs that are killed at random moments, while a reader opens it in a loop.

    python grow_kills.py FOLDER --kills 200 [--a-change 5] [--store local|s3|ray] [--seed 7] [--table FILE]

Each change of the input or the config is followed by runs that are killed (the process itself, or in ray mode by turns
one of its workers) and one that is not. The same changes with one run each, in local mode, make FOLDER/unbroken; what
was killed must end as that, byte for byte, and the reader must never see anything but versions of it. Prints counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_kit import job, timeless, tree, write_parquet

from robocache.config.job import Job
from robocache.engine.run import run
from robocache.errors import OutputError
from robocache.output import lock
from robocache.output.dataset import Output
from robocache.output.layout import LOCK
from robocache.output.store import Store
from robocache.output.verify import verify
from robocache.output.version import Version

KINDS = ("front", "middle", "longer", "withdrawn", "config", "back", "touched")
#: Bytes of a recording: three fill a shard.
BYTES = 350_000


def record(path: Path, seed: int, samples: int = 300) -> None:
    padding = np.random.default_rng(seed).bytes(BYTES // samples)
    write_parquet(path, seed=seed, samples=samples, padding=[padding] * samples)


@dataclass
class Input:
    """Recordings, and what is changed of them day by day."""

    logs: Path
    aside: Path
    rng: random.Random
    rate_hz: int = 50

    def begin(self) -> None:
        for folder in (self.logs, self.aside):
            folder.mkdir(parents=True)
        for i in range(6):
            record(self.logs / f"log_{i}.parquet", seed=i)

    def change(self, step: int) -> dict[str, bool]:
        """What a run has to be told for it to be taken."""
        there, kind = sorted(self.logs.iterdir()), KINDS[step % len(KINDS)]
        if kind == "front":
            record(self.logs / f"a_{1000 - step:04d}.parquet", seed=100 * step)
        elif kind == "middle":
            for k in range(2):
                record(self.logs / f"log_{self.rng.randint(0, 4)}_{step}_{k}.parquet", seed=100 * step + k)
        elif kind == "longer":
            record(self.rng.choice(there), seed=1000 + step, samples=self.rng.randint(400, 900))
        elif kind == "withdrawn":
            shutil.move(self.rng.choice(there), self.aside)
        elif kind == "config":
            self.rate_hz = 75 - self.rate_hz
        elif kind == "back":
            for path in list(self.aside.iterdir()):
                shutil.move(path, self.logs)
        else:
            os.utime(self.rng.choice(there))
        return {"prune": kind == "withdrawn", "overwrite": kind == "config"}


@dataclass
class Place:
    """Where the output lies whose runs are killed."""

    uri: str
    options: dict[str, Any] = field(default_factory=dict)
    cluster: dict[str, Any] = field(default_factory=dict)
    #: The process below which Ray's workers are.
    head: int = 0

    def job(self, input: Input) -> Job:
        changes = {"output__storage_options": self.options, "cluster": self.cluster} if self.options else {}
        changes |= {"cluster": self.cluster} if self.cluster else {}
        return job(input.logs, self.uri, timeline__rate_hz=input.rate_hz, compute__threads=1, **changes)

    def files(self) -> dict[str, bytes]:
        """Names and bytes of all that is there."""
        if not self.options:
            return tree(Path(self.uri))
        store = Store(self.uri, self.options)
        return timeless({name: store.read(name) for name in store.files()})


def forked(work: Callable[[], object]) -> int:
    """The process that does it."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@contextlib.contextmanager
def serving(work: Callable[[Callable[[str], None]], object]) -> Iterator[tuple[str, int]]:
    """A process that says a line once it is ready, and is ended afterwards: the line and the process."""
    theirs, ours = os.pipe()

    pid = forked(lambda: work(lambda line: os.write(ours, f"{line}\n".encode()) and os.close(ours)))
    os.close(ours)
    try:
        with os.fdopen(theirs) as lines:
            yield lines.readline().strip(), pid
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def place(store: str, root: Path) -> Iterator[Place]:
    if store == "s3":
        import s3_kit

        def serve(say: Callable[[str], None]) -> None:
            with s3_kit.serve() as server:
                say(f"{server.endpoint} {s3_kit.Bucket(server).name}")
                signal.pause()

        with serving(serve) as (line, _):
            endpoint, bucket = line.split()
            yield Place(f"s3://{bucket}/killed", s3_kit.Server(endpoint=endpoint).options)
    elif store == "ray":

        def start(say: Callable[[str], None]) -> None:
            import ray

            ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100_000_000)
            signal.signal(signal.SIGTERM, lambda *_: None)  # Ray has one of its own
            say(ray.get_runtime_context().gcs_address)
            signal.pause()
            ray.shutdown()

        os.environ["RAY_AUTH_MODE"] = "token"
        with serving(start) as (address, head):
            cluster = {"mode": "ray", "address": address, "workers": 2, "cpus_per_worker": 0.5, "memory_mb": 100}
            yield Place(str(root / "killed"), cluster=cluster, head=head)
    else:
        yield Place(str(root / "killed"))


def below(head: int) -> list[int]:
    """Workers of Ray's below a process, by what the kernel says."""
    parents, workers = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::Worker"):
                workers.append(pid)

    def is_below(pid: int) -> bool:
        while pid in parents and pid != head:
            pid = parents[pid]
        return pid == head

    return [pid for pid in workers if is_below(pid)]


class Watch:
    """What is changed in a folder, as far as it can be seen from outside."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.begun, self.seen = self._now(), set[tuple[str, int]]()

    def _now(self) -> set[tuple[str, int]]:
        found = set()
        for folder, _, names in os.walk(self.folder):
            for path in (f"{folder}/{name}" for name in names):
                with contextlib.suppress(FileNotFoundError):
                    found.add((path, os.stat(path).st_mtime_ns))
        return found

    def until(self, changes: int, pid: int) -> int:
        """Until there were so many of them, or the process has ended; how many there were."""
        while len(self.seen) < changes and alive(pid):
            time.sleep(0.002)
            self.seen |= self._now() - self.begun
        return len(self.seen)


def read(place: Place, unbroken: Path, stop: Path, seen: Path) -> None:
    """Until told to stop: whatever version there is, it is the one that unbroken runs have made, whole, its rows are
    those that its table counts, and none is older than one seen before. ``seen``: where to write how often it looked.
    """
    looks: Counter[int] = Counter()
    last = 0
    made = Store(str(unbroken))
    while not stop.exists():
        output = Output.open(place.uri, place.options)
        number = output.version.number
        assert number >= last
        try:
            look(place, output, Version.read(made, number))
        except OutputError as error:
            newest = Output.open(place.uri, place.options).version.number
            if "no longer kept" not in str(error) or newest < number + 2:
                raise
        last = number
        looks[number] += 1
    print(f"the reader looked {looks.total()} times and saw {len(looks)} versions", flush=True)
    seen.write_text(json.dumps({"looks": looks.total(), "versions_seen": len(looks)}))


def look(place: Place, output: Output, made: Version) -> None:
    found, version = verify(place.uri, place.options, version=made.number), output.version
    assert found.problems == (), found
    for name in ("identity", "plan", "manifest", "rows", "episodes", "parts", "changes"):
        assert getattr(version, name) == getattr(made, name), (name, version, made)
    counted = Counter(output.dataset().to_table(columns=["episode_index"])["episode_index"].to_pylist())
    episodes = output.episodes.select(["episode_index", "rows"]).to_pylist()
    assert counted == {e["episode_index"]: e["rows"] for e in episodes}


def started(place: Place, input: Input, told: dict[str, bool]) -> int:
    """The process of a run."""
    return forked(partial(run_soon, place.job(input), **told))


def run_soon(job: Job, **told: bool) -> None:
    """A run that takes the lease of one that died after a second; its own lasts as long as ever."""
    take, lasts = lock._Lease.take, lock.LEASE_S

    def taking(lease: lock._Lease) -> None:
        lock.LEASE_S = 1.0
        try:
            take(lease)
        finally:
            lock.LEASE_S = lasts
        lease._renew()

    lock._Lease.take = taking  # type: ignore[method-assign]
    run(job, **told)


def grow(root: Path, kills: int, a_change: int, seed: int, place: Place, minutes: float) -> dict[str, object]:
    """What came of it."""
    end = time.monotonic() + 60 * minutes
    rng, when = random.Random(seed), random.Random(seed + 1)
    input, unbroken, stop = Input(root / "logs", root / "aside", rng), Place(str(root / "unbroken")), root / "stop"
    seen = root / "seen.json"
    input.begin()
    reader, step, killed, seconds, changes = 0, -1, Counter[str](), 5.0, 10
    while killed.total() < kills and time.monotonic() < end:
        told = input.change(step) if step >= 0 else {}
        assert ended(started(unbroken, input, told)) == 0
        for k in range(a_change if step >= 0 else 0):
            pid = started(place, input, told)
            if place.options:
                time.sleep(when.uniform(0.02, 1.0) * seconds)
            else:  # by what it has done, for most of its time it may only wait for its workers
                Watch(Path(place.uri)).until(when.randint(1, changes), pid)
                time.sleep(when.uniform(0, 0.02))
            if place.head and k % 2 and (workers := below(place.head)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(when.choice(workers), signal.SIGKILL)
                killed["workers"] += 1
                assert ended(pid) == 0
                continue
            os.kill(pid, signal.SIGKILL)
            killed["runs"] += ended(pid) == -signal.SIGKILL
        began = time.monotonic()
        pid = started(place, input, told)
        if not place.options:
            changes = max(5, Watch(Path(place.uri)).until(sys.maxsize, pid))
        assert ended(pid) == 0
        seconds = time.monotonic() - began
        assert not reader or os.waitid(os.P_PID, reader, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, (
            "the reader ended"
        )
        reader = reader or forked(lambda: read(place, root / "unbroken", stop, seen))
        step += 1
        print(f"{step} changes, {killed.total()} kills, the last run took {seconds:.1f} s", flush=True)
    stop.touch()
    assert ended(reader) == 0
    one, other = unbroken.files(), place.files()
    assert LOCK not in other
    assert sorted(one) == sorted(other), set(one) ^ set(other)
    assert [name for name in one if one[name] != other[name]] == []
    print(f"{killed.total()} killed ({dict(killed)}) over {step} changes; {len(one)} files are the same", flush=True)
    counts = {"kills": killed.total(), "of": dict(killed), "changes": step, "files_the_same": len(one)}
    return counts | json.loads(seen.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--a-change", type=int, default=5)
    parser.add_argument("--store", choices=("local", "s3", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=1e9, help="no change is begun after so many")
    parser.add_argument("--table", type=Path, help="add a line of JSON to this file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    with place(args.store, args.folder) as where:
        row = {"harness": "grow_kills", "store": args.store, "seed": args.seed}
        try:
            row |= grow(args.folder, args.kills, args.a_change, args.seed, where, args.minutes)
        finally:
            (args.folder / "stop").touch()  # the reader, too
    if args.table:
        with args.table.open("a") as table:
            table.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
