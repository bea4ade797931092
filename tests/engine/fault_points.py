"""Run a job over and over, each time with one call that fails or is the last of its process; run it again.

    python fault_points.py FOLDER --faults 2000 [--store local|s3] [--seed 0] [--table FILE]

Locally these are calls of the system about files below FOLDER, counted in the C library (fault_shim.c), whichever
thread or library makes them: opening, reading, writing, syncing, renaming, making and removing. The one that is drawn
fails, as on a disk that is full or failing, or a machine without memory or file handles; or the process ends before it,
or with half of a write done. On S3 they are requests, pieces of multipart uploads and the lease's among them: refused,
broken off within the body, done without an answer, or the process ends before or during one.

Half of the runs are a first one, half grow a dataset by a recording, a correction and a withdrawal. In a third of all
cases the run that comes after a hurt one is hurt, too. The last run is left alone, and what it leaves must be what an
unbroken run writes, byte for byte. Each is a fork of this process, which has imported everything.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import errno
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from crash_points import DIED
from engine_kit import job, write_parquet, write_shards
from grow_kills import Place, ended, forked, serving

from robocache.engine import retry
from robocache.engine.run import run
from robocache.errors import RoboCacheError
from robocache.output import store
from robocache.output.layout import LOCK
from robocache.output.verify import verify

if TYPE_CHECKING:
    from s3_kit import Request

SHIM = "ROBOCACHE_FAULT_SHIM"
#: On S3 whatever is larger than two pieces goes there in pieces.
PIECE = 2048


class Faults(Protocol):
    """Calls that are counted, of which one can be made to fail."""

    kinds: ClassVar[tuple[str, ...]]

    def arm(self, at: int, kind: str) -> None:
        """From now on, in this process and its threads: the call of that number from now; 0: none, they are counted."""

    def count(self) -> int: ...


class Calls:
    """Of the system, about files below a folder."""

    #: What passes: a disk that fails or is full, no more file handles, no memory, a server that does not answer.
    kinds = ("EIO", "ENOSPC", "EDQUOT", "EMFILE", "ENOMEM", "ETIMEDOUT", "ESTALE", "end", "torn")

    def __init__(self, folder: Path):
        self.folder, self._library = folder, ctypes.CDLL(os.environ[SHIM])
        self._library.fault_count.restype = ctypes.c_long

    def arm(self, at: int, kind: str) -> None:
        how = {"end": 0, "torn": -1}.get(kind) if kind in ("end", "torn") else getattr(errno, kind)
        self._library.fault_arm(os.fsencode(self.folder), ctypes.c_long(at), ctypes.c_int(how))

    def count(self) -> int:
        return int(self._library.fault_count())


class Requests:
    """To a server of S3's, which is another process; both have the memory in which it stands what is to fail."""

    kinds = ("500", "503 SlowDown", "403", "drop", "deaf", "end", "end meanwhile")
    #: A client tries again what fails once; so many in a row it does not.
    lasting = 12

    def __init__(self) -> None:
        self._told = (ctypes.c_long * 6).from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
        # how many were made, which is to fail and how, how many after it, whose process it is; pieces of uploads hurt
        self._lock = threading.Lock()

    def arm(self, at: int, kind: str) -> None:
        self._told[:5] = [0, at, self.kinds.index(kind), at % 2 or self.lasting, os.getpid()]

    def count(self) -> int:
        return self._told[0]

    def pieces(self) -> int:
        """How many requests that were to fail were of a multipart upload."""
        return self._told[5]

    def fault(self, request: Request) -> str:
        """In the server: what comes of a request."""
        with self._lock:
            self._told[0] += 1
            count, at, kind, many, pid, _ = self._told
            if not at <= count < at + many or not at:
                return ""
            self._told[5] += count == at and "upload" in request.query  # uploads=, uploadId=
        if not self.kinds[kind].startswith("end"):
            return self.kinds[kind]
        if count == at:
            os.kill(pid, signal.SIGKILL)
        return "drop" if self.kinds[kind] == "end" else "deaf"


@contextmanager
def local(root: Path) -> Iterator[tuple[str, dict, Faults]]:
    yield str(root / "hurt"), {}, Calls(root)


@contextmanager
def s3(root: Path) -> Iterator[tuple[str, dict, Faults]]:
    import botocore.loaders
    import botocore.session
    import moto.s3.models
    import s3_kit

    moto.s3.models.S3_UPLOAD_PART_MIN_SIZE = 1024
    load = botocore.loaders.JSONFileLoader.load_file  # half a second of every run
    botocore.loaders.JSONFileLoader.load_file = staticmethod(cache(partial(load, botocore.loaders.JSONFileLoader())))
    botocore.session.Session().create_client("s3", region_name="us-east-1")
    faults = Requests()

    def serve(say: Callable[[str], None]) -> None:
        with s3_kit.serve() as server:
            bucket = s3_kit.Bucket(server).name
            server.fault = faults.fault
            say(f"{server.endpoint} {bucket}")
            signal.pause()

    store.PIECE = PIECE
    with serving(serve) as (line, _):
        endpoint, bucket = line.split()
        yield f"s3://{bucket}/hurt", s3_kit.Server(endpoint=endpoint).options, faults


class Case:
    """A run, what was there before it, and what it should leave."""

    def __init__(self, root: Path, name: str, uri: str, options: dict, faults: Faults):
        self.place, self.faults, self.name, self.grows = Place(f"{uri}/{name}", options), faults, name, name == "grows"
        whole, logs = Place(str(root / "unbroken" / name)), write_shards(root / name, 3, samples=400)
        self.before: dict[str, bytes] = {}
        told = {"output__storage_options": options} if options else {}
        self.job, unbroken = (job(logs, to.uri, compute__threads=1, **told) for to in (self.place, whole))
        if self.grows:
            assert alone(partial(run, unbroken)) == 0
            self.before = {p.relative_to(whole.uri).as_posix(): p.read_bytes() for p in Path(whole.uri).rglob("*.*")}
            write_parquet(logs / "a_new_one.parquet", seed=7)
            write_parquet(logs / "log_001.parquet", seed=8, samples=900)
            (logs / "log_002.parquet").unlink()
        assert alone(partial(run, unbroken, prune=self.grows)) == 0
        self.expected = whole.files()
        counted = root / f"calls_{name}"
        assert alone(partial(self.counting, counted)) == 0
        self.calls = int(counted.read_text())
        print(f"a run that {'grows a dataset' if self.grows else 'is the first'} makes {self.calls} calls", flush=True)

    def counting(self, counted: Path) -> None:
        self.begin()
        self.faults.arm(0, self.faults.kinds[0])
        run(self.job, prune=self.grows)
        counted.write_text(str(self.faults.count()))

    def begin(self) -> None:
        """What there was before."""
        there = store.Store(self.place.uri, self.place.options)
        if self.place.options:
            there.remove_all(there.files())
        else:
            shutil.rmtree(self.place.uri, ignore_errors=True)
        for name, data in self.before.items():
            there.write(name, data)

    def released(self) -> None:
        """As if the time of a lease were over that one who died had."""
        if self.place.options:
            store.Store(self.place.uri, self.place.options).remove(LOCK)

    def hurt(self, at: int, kind: str, *, first: bool) -> None:
        self.faults.arm(0, kind)
        (self.begin if first else self.released)()
        self.faults.arm(at, kind)
        try:
            run(self.job, prune=self.grows)
        except (RoboCacheError, OSError, MemoryError) as error:  # told, and not ended by what nobody expects
            print(f"{kind} at {at}: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(2)

    def check(self) -> None:
        """The run that is left alone."""
        self.faults.arm(0, self.faults.kinds[0])
        self.released()
        run(self.job, prune=self.grows)
        found = self.place.files()
        assert sorted(found) == sorted(self.expected), set(found) ^ set(self.expected)
        assert [name for name in found if found[name] != self.expected[name]] == []
        assert verify(self.place.uri, self.place.options).problems == ()


def alone(work: Callable[[], object]) -> int:
    """The exit code of a process that does it."""
    return ended(forked(work))


def preloaded() -> None:
    """Begin anew with the shim, which must be there before the C library."""
    if SHIM in os.environ:
        atexit.register(shutil.rmtree, Path(os.environ[SHIM]).parent, ignore_errors=True)
        return
    library = Path(tempfile.mkdtemp(prefix="robocache-shim-")) / "shim.so"
    source = Path(__file__).with_name("fault_shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), SHIM: str(library), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="add a line of JSON to this file")
    args = parser.parse_args()
    if args.store == "local":
        preloaded()
    root, rng, seen, highest = args.folder.resolve(), random.Random(args.seed), Counter[str](), 0
    root.mkdir(parents=True)
    retry.BACKOFF_S = 0.001
    with {"local": local, "s3": s3}[args.store](root) as where:
        cases = [Case(root, name, *where) for name in ("first", "grows")]
        while seen.total() < args.faults:
            case, first = rng.choice(cases), True
            while first or rng.random() < 1 / 3:
                at, kind = rng.randint(1, case.calls), rng.choice(case.faults.kinds)
                code = alone(partial(case.hurt, at, kind, first=first))
                assert code in (0, 2, DIED, -signal.SIGKILL), f"{kind} at call {at}: the run ended with {code}"
                how = "crash" if kind in ("end", "torn", "end meanwhile") else "error"
                what = f"{how}, {'done' if code == 0 else 'stopped'}{'' if first else ', of a rerun'}"
                seen[what], highest, first = seen[what] + 1, max(highest, at), False
            code = alone(case.check)
            assert code == 0, f"{kind} at call {at} of a run that {case.name}: what was left alone ended with {code}"
            if seen.total() // 100 > (seen.total() - 1) // 100:
                print(seen.total(), dict(seen), flush=True)
        row = {"harness": "fault_points", "store": args.store, "seed": args.seed, "faults": seen.total()}
        row |= {"calls": {case.name: case.calls for case in cases}, "highest": highest}
        row |= {"ended": dict(sorted(seen.items())), "other_than_unbroken": 0}
        if isinstance(faults := where[-1], Requests):
            row["of_multipart_uploads"] = faults.pieces()
    print(json.dumps(row), flush=True)
    if args.table:
        with args.table.open("a") as table:
            table.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
