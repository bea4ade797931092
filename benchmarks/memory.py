"""How much memory does a run hold, against what ``compute.max_memory_mb`` allows?

    python benchmarks/memory.py CACHE_FOLDER --out benchmarks/results/cpu_memory.csv

Each case is a process of its own; what it held at most is what Linux says of it (VmHWM) at its end.

``nothing``       a process that has imported what a run needs, and does nothing
``many files``    20 times the limit in logs of 10.7 MB, with 1 and 2 threads
``long episode``  one log that is many times the limit
``longer one``    the log of ``--longer`` (see long_log.py) under a limit of ``--longer-limit``, which its rows need
``many rows``     a small table at a rate that makes 4 GB of rows of it: is to be refused before they are made
"""

from __future__ import annotations

import argparse
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
#: What a run may hold beyond its limit (2^20 bytes, as the limit).
BEYOND_MB = 500

_RUN = """
import sys
from robocache import run
rows, reasons = 0, []
if sys.argv[1:]:
    summary = run(sys.argv[1], sys.argv[2:])
    rows, reasons = summary.rows, [q.reason for q in summary.quarantined]
else:
    import torch, robocache.engine.run
held = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(held, rows, *reasons)
"""


def peak_of(*arguments: str) -> tuple[float, int, str]:
    """Peak memory of a run in MB (of 10^6 bytes), its rows, and why an episode was refused."""
    done = subprocess.run([sys.executable, "-c", _RUN, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"a run ended with status {done.returncode}: {' '.join(arguments)}")
    held, rows, *reason = done.stdout.strip().split(" ", 2)
    return int(held) * 1024 / 1e6, int(rows), "".join(reason)


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
    parser.add_argument("--longer", type=Path, help="a log of 5 GB, say")
    parser.add_argument("--longer-limit", type=int, default=600, help="compute.max_memory_mb of that")
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
    always = [f"output.uri={args.cache}/out", "compute.device=cpu"]
    cases: dict[str, tuple[list[str], list[Path], int]] = {"nothing": ([], [], args.limit)}
    for n in (1, 2):
        logs = [str(CONFIG), f"input.uri={few}/*.mcap", f"compute.threads={n}"]
        cases[f"many files, {n} threads"] = (logs, list(few.iterdir()), args.limit)
    cases["long episode"] = ([str(CONFIG), f"input.uri={long}/*.mcap"], list(long.iterdir()), args.limit)
    if args.longer is not None:
        cases["longer one"] = ([str(CONFIG), f"input.uri={args.longer}"], [args.longer], args.longer_limit)
    cases["many rows"] = ([str(config), "input.max_failed_episodes=1"], [Path(small)], args.limit)
    rows = []
    print(f"{'case':24}{'input MB':>9}{'rows':>11}{'limit MB':>9}{'peak MB':>9}  within the limit and {BEYOND_MB} MB")
    for name, (arguments, files, limit) in cases.items():
        size = sum(path.stat().st_size for path in files) / 1e6
        shutil.rmtree(args.cache / "out", ignore_errors=True)
        peak, made, reason = peak_of(*arguments, *([*always, f"compute.max_memory_mb={limit}"] if arguments else []))
        allowed = (limit + BEYOND_MB) * 2**20 / 1e6
        print(f"{name:24}{size:9.0f}{made:11,}{limit:9}{peak:9.0f}  {'yes' if peak <= allowed else 'no'}  {reason}")
        rows.append(
            {
                "case": name,
                "input_mb": f"{size:.0f}",
                "rows": made,
                "limit_mb": limit,
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
