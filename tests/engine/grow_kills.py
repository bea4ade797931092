"""A dataset grows by runs that are killed at random moments, while a reader opens it in a loop.

    python grow_kills.py FOLDER CHANGES KILLS SEED

Each change of the input (recordings that come, are corrected, go, come back, are touched) is followed by KILLS runs
that are killed and one that is not. The same changes with one run each make FOLDER/unbroken; FOLDER/killed must end as
that, byte for byte. Prints how many runs were killed, and how often the reader looked.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from engine_kit import job, timeless, write_parquet

from robocache.engine.run import run
from robocache.output.dataset import Output
from robocache.output.layout import LOCK
from robocache.output.verify import verify


def change(logs: Path, aside: Path, step: int, rng: random.Random) -> None:
    """One day's: at least one of everything, over the days."""
    there = sorted(logs.iterdir())
    kind = ("come", "corrected", "gone", "back", "touched")[step % 5]
    if kind == "come":
        for k in range(3):
            write_parquet(logs / f"{rng.choice('abc')}_{step}_{k}.parquet", seed=100 * step + k)
    elif kind == "corrected":
        write_parquet(rng.choice(there), seed=1000 + step, samples=rng.randint(300, 900))
    elif kind == "gone":
        shutil.move(rng.choice(there), aside)
    elif kind == "back":
        for path in list(aside.iterdir()):
            shutil.move(path, logs)
    else:
        os.utime(rng.choice(there))


def forked(work: Callable[[], object]) -> int:
    """The process that does it."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read(out: Path, stop: Path) -> None:
    """Until told to stop: whatever version there is, it is whole, its rows are those that its table counts, and none is
    older than one seen before.
    """
    looks: Counter[int] = Counter()
    last = 0
    while not stop.exists():
        output = Output.open(str(out))
        found = verify(str(out), version=output.version.number)
        assert found.problems == (), found
        assert output.version.number >= last
        last = output.version.number
        counted = Counter(output.dataset().to_table(columns=["episode_index"])["episode_index"].to_pylist())
        wanted = {e["episode_index"]: e["rows"] for e in output.episodes.select(["episode_index", "rows"]).to_pylist()}
        assert counted == wanted
        looks[last] += 1
    print(f"the reader looked {sum(looks.values())} times and saw {len(looks)} versions", flush=True)


def grow(root: Path, changes: int, kills: int, seed: int) -> None:
    rng, when = random.Random(seed), random.Random(seed + 1)
    logs, aside = root / "logs", root / "aside"
    for folder in (logs, aside):
        folder.mkdir(parents=True)
    for i in range(6):
        write_parquet(logs / f"log_{i}.parquet", seed=i)
    jobs = {name: job(logs, root / name, compute__threads=1) for name in ("unbroken", "killed")}
    seconds, stop = 1.0, root / "stop"
    reader = 0
    times = 0
    for step in range(-1, changes):
        if step >= 0:
            change(logs, aside, step, rng)
        began = time.monotonic()
        assert ended(forked(lambda: run(jobs["unbroken"], prune=True))) == 0
        seconds = time.monotonic() - began
        for _ in range(kills if step >= 0 else 0):
            pid = forked(lambda: run(jobs["killed"], prune=True))
            time.sleep(when.uniform(0.05, 0.7) * seconds)
            os.kill(pid, signal.SIGKILL)
            times += ended(pid) == -signal.SIGKILL
        assert ended(forked(lambda: run(jobs["killed"], prune=True))) == 0
        assert not (root / "killed" / LOCK).exists()
        reader = reader or forked(lambda: read(root / "killed", stop))
    stop.touch()
    assert ended(reader) == 0
    print(f"{times} runs killed", flush=True)
    one, other = (
        timeless(
            {
                p.relative_to(root / name).as_posix(): p.read_bytes()
                for p in sorted((root / name).rglob("*"))
                if p.is_file()
            }
        )
        for name in ("unbroken", "killed")
    )
    assert list(one) == list(other), set(one) ^ set(other)
    assert [name for name in one if one[name] != other[name]] == []
    rows = sum(pq.read_metadata(p).num_rows for p in (root / "killed/data").iterdir())
    assert rows == Output.open(str(root / "killed")).version.rows


if __name__ == "__main__":
    grow(Path(sys.argv[1]), *map(int, sys.argv[2:]))
