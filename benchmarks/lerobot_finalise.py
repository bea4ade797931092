"""Making a LeRobot tree of parts that are there, beside a plain copy of the same parts to the same disk.

    python benchmarks/lerobot_finalise.py [--episodes 40] [--rows 5000] [--repeats 5] [--csv FILE]

Rows of 52 random float32, not compressed, so that bytes are bytes. Both read all parts and write as much, each file
synced; they take turns, and the medians count. The tree's side also renumbers rows and takes the statistics of every
column, the quantiles of each episode exactly.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache import run
from robocache.lerobot import from_dataset
from robocache.types import frame_times

FPS, WIDTH = 30, 26


def record(logs: Path, episodes: int, rows: int) -> None:
    logs.mkdir()
    for seed in range(episodes):
        rng = np.random.default_rng(seed)
        columns = {"time": pa.array(frame_times(np.arange(rows), FPS) + 10**18)}
        for name in ("observation.state", "action"):
            values = rng.standard_normal(rows * WIDTH).astype(np.float32)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)
        pq.write_table(pa.table(columns), logs / f"{seed:04d}.parquet", compression="none")


def copy(parts: list[Path], to: Path) -> None:
    to.mkdir()
    for part in parts:
        with open(part, "rb") as source, open(to / part.name, "wb") as made:
            shutil.copyfileobj(source, made, 1 << 20)
            made.flush()
            os.fsync(made.fileno())


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    began, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--rows", type=int, default=5000, help="of each episode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="where to add what was measured")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="robocache-finalise-"))
    record(folder / "logs", args.episodes, args.rows)
    run(
        {
            "input": {"uri": str(folder / "logs"), "format": "parquet", "times": {"column": "time", "unit": "ns"}},
            "features": {name: {"source": name} for name in ("observation.state", "action")},
            "timeline": {"rate_hz": FPS},
            "output": {"uri": str(folder / "out"), "compression": "none", "shard_mb": 16},
            "compute": {"device": "cpu", "threads": 2},
        }
    )
    parts = sorted((folder / "out/data").glob("*.parquet"))
    size = sum(part.stat().st_size for part in parts) / 1e6
    copies, trees = [], []
    for k in range(args.repeats):
        copies.append(timed(lambda k=k: copy(parts, folder / f"copy_{k}")))
        trees.append(timed(lambda k=k: from_dataset(str(folder / "out"), str(folder / f"tree_{k}"), data_mb=16)))
        shutil.rmtree(folder / f"copy_{k}")
        shutil.rmtree(folder / f"tree_{k}")
    plain, tree = (tuple(map(statistics.median, zip(*some, strict=True))) for some in (copies, trees))
    row = {
        "mb": round(size, 1),
        "rows": args.episodes * args.rows,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "copy_s": round(plain[0], 3),
        "copy_cpu_s": round(plain[1], 3),
        "tree_s": round(tree[0], 3),
        "tree_cpu_s": round(tree[1], 3),
        "copy_mb_s": round(size / plain[0]),
        "tree_mb_s": round(size / tree[0]),
    }
    common.tell(row, args.csv)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
