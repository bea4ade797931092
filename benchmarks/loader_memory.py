"""What memory an epoch takes over a dataset ten times as large as the cache that it was given.

    python benchmarks/loader_memory.py [--cache-mb 100] [--times 10] [--csv FILE]

Rows of 52 random float32 in Parquet, not compressed; windows of 16 rows of history and 50 actions, 256 a batch, in the
order of an epoch. Each epoch in a process of its own, which tells what it held before the dataset was opened and the
most that it held until the end (the kernel's VmRSS and VmHWM).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from lerobot_finalise import FPS, WIDTH, record

from robocache import run

ROWS = 5000
EPOCH = """
import json, re, sys
import robocache, torch
memory = lambda key: int(re.search(rf"{key}:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6
robocache.Dataset  # imports it
before = memory("VmRSS")
steps = {"observation.state": range(-15, 1), "action": range(50)}
data = robocache.Dataset(sys.argv[1], delta_steps=steps, cache_mb=float(sys.argv[2]), columns=list(steps))
count = sum(len(batch["frame_index"]) for batch in data.batches(256, seed=0, threads=1))
print(json.dumps({"windows": count, "of": len(data), "before_mb": before, "peak_mb": memory("VmHWM")}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache-mb", type=float, default=100)
    parser.add_argument("--times", type=float, default=10, help="how many times as large the rows are")
    parser.add_argument("--csv", type=Path, help="where to add what was measured")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="robocache-loader-"))
    episodes = round(args.cache_mb * args.times * 1e6 / (ROWS * 2 * WIDTH * 4))
    record(folder / "logs", episodes, ROWS)
    run(
        {
            "input": {"uri": str(folder / "logs"), "format": "parquet", "times": {"column": "time", "unit": "ns"}},
            "features": {name: {"source": name} for name in ("observation.state", "action")},
            "timeline": {"rate_hz": FPS},
            "output": {"uri": str(folder / "out"), "compression": "none", "shard_mb": 16},
            "compute": {"device": "cpu", "threads": 2},
        }
    )
    command = [sys.executable, "-c", EPOCH, str(folder / "out"), str(args.cache_mb)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    row = {
        "cache_mb": args.cache_mb,
        "rows_mb": round(episodes * ROWS * 2 * WIDTH * 4 / 1e6),
        "windows": told["windows"],
        "each_once": told["windows"] == told["of"],
        "before_mb": round(told["before_mb"]),
        "peak_mb": round(told["peak_mb"]),
        "over_cache_mb": round(told["peak_mb"] - args.cache_mb),
    }
    common.tell(row, args.csv)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
