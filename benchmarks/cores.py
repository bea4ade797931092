"""What a whole run makes of a machine's cores: `robocache run` as a command, beside inflating the same logs.

    python benchmarks/cores.py FOLDER --out benchmarks/results/cores.csv [--device cpu cuda] [--cores 1 2 4 8 16]

FOLDER holds 96 sample logs of 60 s (1 GB, made once) and links to them, so that each count of cores gets so many
gigabytes (``--gigabytes`` a core, one at least) read from memory; put it on a tmpfs. A count of cores is an affinity,
which processes and threads inherit; the job is configs/demo.yaml with as many threads as there are cores.

``command_s``  the command as a whole, with Python and torch; ``run_s``: the run, as it says itself
``inflate_s``  all chunks of those logs decompressed, by as many threads, positions known beforehand, nothing else
``ratio``      run_s / inflate_s, medians; shares: of the run's stages
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import common
from inflating import Decompressor, chunks_of
from many_logs import linked

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"


def inflate(source: Path, threads: int, repetitions: int) -> float:
    """Median seconds, in this process and on its cores."""
    chunks = {path: chunks_of(path) for path in sorted(source.rglob("*.mcap"))}
    work, found = Decompressor(chunks, threads), []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def command(source: Path, out: Path, cores: int, device: str) -> tuple[float, dict]:
    """Seconds of the command, and what it says of the run."""
    shutil.rmtree(out, ignore_errors=True)
    settings = [f"input.uri={source}", f"output.uri={out}", f"compute.threads={cores}", f"compute.device={device}"]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "robocache.cli", "run", str(CONFIG), *settings, "--json", "-q"],
        stdout=subprocess.PIPE,
        check=True,
    )
    return time.perf_counter() - began, json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--device", nargs="+", default=["cpu"], choices=("cpu", "cuda"))
    parser.add_argument("--gigabytes", type=float, default=1.0, help="a core")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    usable = sorted(os.sched_getaffinity(0))
    about, rows = common.machine("torch", "pyarrow", "zstandard"), []
    for cores in [n for n in args.cores if n <= len(usable)]:
        source = linked(args.folder, max(1.0, cores * args.gigabytes))
        os.sched_setaffinity(0, usable[:cores])
        floor = inflate(source, cores, args.repetitions)
        for device in args.device:
            found = [command(source, args.folder / "out", cores, device) for _ in range(args.repetitions)]
            seconds, told = [s for s, _ in found], [t["seconds"] for _, t in found]
            last = found[-1][1]
            whole = sum(last["stages"].values())
            run_s, size = statistics.median(told), last["bytes_in"] / 1e9
            row = {
                "device": device,
                "cores": cores,
                "gigabytes": f"{size:.2f}",
                "command_s": f"{statistics.median(seconds):.2f}",
                "run_s": f"{run_s:.2f}",
                "run_s_min": f"{min(told):.2f}",
                "run_s_max": f"{max(told):.2f}",
                "gb_s": f"{size / run_s:.3f}",
                "inflate_s": f"{floor:.3f}",
                "ratio": f"{run_s / floor:.2f}",
                "rows": last["rows"],
                "quarantined": len(last["quarantined"]),
                "n": args.repetitions,
                "shares": ", ".join(
                    f"{k} {100 * s / whole:.0f} %" for k, s in last["stages"].items() if s > whole / 100
                ),
            }
            print({key: row[key] for key in list(row)[:10]}, flush=True)
            rows.append(row | about)
            common.write_csv(args.out, rows)
        os.sched_setaffinity(0, usable)


if __name__ == "__main__":
    main()
