"""How much memory does a run hold, against what ``compute.max_memory_mb`` allows?

    python benchmarks/memory.py CACHE_FOLDER --out benchmarks/results/cpu_memory.csv

Each case is a process of its own; what it held at most is what the system says of it when it has ended.

``nothing``       a process that has imported what a run needs, and does nothing
``many files``    20 times the limit in logs of 10.7 MB, with 1 and 2 threads
``long episode``  one log that is many times the limit
``many rows``     a small table at a rate that makes 4 GB of rows of it: is to be refused before they are made
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from end_to_end import CONFIG, sample_logs

LIMIT_MB = 64
#: What a run may hold beyond its limit.
BEYOND_MB = 500

_RUN = """
import sys
from robocache import run
if sys.argv[1:]:
    summary = run(sys.argv[1], sys.argv[2:])
    print(summary.rows, len(summary.quarantined), *(q.reason for q in summary.quarantined))
else:
    import torch, robocache.engine.run
    print(0, 0)
"""


def peak_of(*arguments: str) -> tuple[float, int, str]:
    """Peak memory of a run in MB (of 10^6 bytes), its rows, and why an episode was refused."""
    process = subprocess.Popen([sys.executable, "-c", _RUN, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"a run ended with status {os.waitstatus_to_exitcode(status)}: {' '.join(arguments)}")
    rows, _, reason = said.strip().partition(" ")
    return usage.ru_maxrss * 1024 / 1e6, int(rows), reason.partition(" ")[2]


def many_rows(path: Path) -> str:
    """A small table of a day at 10 Hz in a file, and its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(864_000) * 100_000_000
    table = pa.table({"time": pa.array(times, pa.timestamp("ns")), "x": pa.array(np.arange(len(times)) % 7 * 1.0)})
    pq.write_table(table, path, compression="zstd")
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder for the sample logs (up to 2.4 GB) and the outputs")
    parser.add_argument("--limit", type=int, default=LIMIT_MB, help="compute.max_memory_mb")
    parser.add_argument("--seconds", type=float, default=6000.0, help="of the long episode, 0.18 MB each")
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()

    few, long = args.cache / "logs_94x60s", args.cache / f"logs_1x{args.seconds:g}s"
    sample_logs(few, 94, 60.0)
    sample_logs(long, 1, args.seconds)
    small = many_rows(args.cache / "day" / "day.parquet")
    config = args.cache / "day.yaml"
    config.write_text(
        f"input: {{uri: '{small}', times: {{column: time}}}}\nfeatures: {{x: [{{source: x}}]}}\n"
        f"timeline: {{rate_hz: 1000}}\noutput: {{uri: '{args.cache}/out'}}\n"
    )
    always = [f"output.uri={args.cache}/out", f"compute.max_memory_mb={args.limit}", "compute.device=cpu"]
    cases = {
        "nothing": ([], 0.0),
        **{
            f"many files, {n} threads": ([str(CONFIG), f"input.uri={few}/*.mcap", f"compute.threads={n}", *always], few)
            for n in (1, 2)
        },
        "long episode": ([str(CONFIG), f"input.uri={long}/*.mcap", *always], long),
        "many rows": ([str(config), *always, "input.max_failed_episodes=1"], args.cache / "day"),
    }
    rows = []
    print(f"limit {args.limit} MB, and {BEYOND_MB} MB beyond it")
    print(f"{'case':24}{'input MB':>9}{'rows':>11}{'peak MB':>9}  fits")
    for name, (arguments, folder) in cases.items():
        size = sum(p.stat().st_size for p in Path(folder).iterdir()) / 1e6 if folder else 0.0
        shutil.rmtree(args.cache / "out", ignore_errors=True)
        peak, made, reason = peak_of(*arguments)
        allowed = args.limit * 2**20 / 1e6 + BEYOND_MB
        print(f"{name:24}{size:9.0f}{made:11,}{peak:9.0f}  {'yes' if peak <= allowed else 'no'}  {reason}")
        rows.append(
            {
                "case": name,
                "input_mb": f"{size:.0f}",
                "rows": made,
                "limit_mb": args.limit,
                "allowed_mb": f"{allowed:.0f}",
                "peak_mb": f"{peak:.0f}",
                "fits": peak <= allowed,
                "refused": reason,
                **common.machine("torch", "numpy", "pyarrow"),
            }
        )
    shutil.rmtree(args.cache / "out", ignore_errors=True)
    common.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
