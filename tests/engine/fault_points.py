"""Run a job over and over, each time with a call of the system that fails or is the last of its process; run it again.

    python fault_points.py FOLDER --faults 2000     (with config.yaml; prints a line for each hundred, then the counts)

Calls about files below FOLDER are counted in the C library (fault_shim.c), whichever thread or library makes them:
opening, reading, writing, syncing, renaming, making and removing. The one that is drawn fails once, as a disk that is
full or failing, or a machine without memory or file handles; or the process ends before it, or with half of a write
done. In a third of all cases the run that comes after it is hurt, too. The last run is left alone, and what it leaves
must be what an unbroken run writes, byte for byte.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from crash_points import DIED, child
from engine_kit import assert_same_tree

from robocache.config.load import load_job
from robocache.engine.run import run
from robocache.errors import RoboCacheError
from robocache.output.verify import verify

#: What passes: a disk that fails or is full, no more file handles, no memory, a server that does not answer.
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EMFILE", "ENOMEM", "ETIMEDOUT", "ESTALE")
BEFORE, TORN = 0, -1
SHIM = "ROBOCACHE_FAULT_SHIM"


def preloaded() -> None:
    """Begin anew with the shim, which must be there before the C library."""
    if SHIM in os.environ:
        return
    library = Path(tempfile.mkdtemp(prefix="robocache-shim-")) / "shim.so"
    source = Path(__file__).with_name("fault_shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), SHIM: str(library), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


class Shim:
    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[SHIM])
        self._library.fault_count.restype = ctypes.c_long

    def arm(self, folder: Path, at: int, how: int) -> None:
        self._library.fault_arm(os.fsencode(folder), ctypes.c_long(at), ctypes.c_int(how))

    def count(self) -> int:
        return int(self._library.fault_count())


def main() -> int:
    preloaded()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root, rng, shim, seen = args.folder.resolve(), random.Random(args.seed), Shim(), Counter[str]()
    job = load_job(str(root / "config.yaml"), ["compute.threads=1"])  # output.uri is relative to each child's folder

    def counted() -> None:
        shim.arm(root, 0, 0)
        run(job)
        Path("calls").write_text(str(shim.count()))

    if child(root / "unbroken", counted):
        return 1
    calls, highest = int((root / "unbroken/calls").read_text()), 0
    print(f"an unbroken run makes {calls} calls about its files", flush=True)
    work = root / "hurt"

    def hurt() -> str:
        """A run with one fault; how it ended."""
        nonlocal highest
        kind = rng.choice([*ERRORS, "end", "torn"])
        at = rng.randint(1, calls)
        highest = max(highest, at)
        how = {"end": BEFORE, "torn": TORN}.get(kind) if kind in ("end", "torn") else getattr(errno, kind)

        def work_() -> None:
            shim.arm(root, at, how)
            try:
                run(job)
            except (RoboCacheError, OSError, MemoryError):  # told, and not ended by what nobody expects
                os._exit(2)

        code = child(work, work_)
        if code not in (0, 2, DIED):
            raise AssertionError(f"{kind} at call {at}: the run ended with {code}")
        return f"{'crash' if kind in ('end', 'torn') else 'error'}, {'done' if code == 0 else 'stopped'}"

    for n in range(1, args.faults + 1):
        shutil.rmtree(work, ignore_errors=True)
        seen[hurt()] += 1
        while rng.random() < 1 / 3:
            seen[f"{hurt()} (run again)"] += 1
        code = child(work, lambda: run(job))
        assert code == 0, f"the run that was left alone ended with {code}"
        assert_same_tree(work / "out", root / "unbroken/out")
        assert verify(str(work / "out")).problems == ()
        if n % 100 == 0:
            print(n, dict(seen), flush=True)
    print(
        json.dumps(
            {"faults": sum(seen.values()), "calls": calls, "highest": highest, "ended": dict(sorted(seen.items()))}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
