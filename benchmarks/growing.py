"""What a rerun costs once a dataset is there: nothing new, one recording at the front, in the middle, corrected, gone.

    python benchmarks/growing.py [--files 5000] [--csv FILE]

Small recordings (CSV, 100 rows), so that what is measured is listing, planning and committing rather than aligning.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from common import cpu_seconds, machine, write_csv

from robocache import Output, run, verify


def record(path: Path, rows: int, x: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("time_ms,x\n" + "".join(f"{20 * i},{x + i / 1000}\n" for i in range(rows)))


def indexes(out: Path) -> dict[str, int]:
    table = Output.open(str(out)).episodes
    return dict(zip(table["id"].to_pylist(), table["episode_index"].to_pylist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--csv", type=Path, help="where to write what was measured")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="robocache-growing-"))
    logs, out = folder / "logs", folder / "out"
    for i in range(args.files):
        record(logs / f"day_{2 * i // 100:03d}/r_{2 * i:05d}.csv", 100, i)
    config = {
        "input": {"uri": str(logs)},
        "features": {"x": "x"},
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(out), "shard_mb": 1},
        "compute": {"device": "cpu"},
    }
    middle = logs / f"day_{args.files // 100:03d}"
    changes = (
        ("first run", lambda: None),
        ("nothing new", lambda: None),
        ("one at the front", lambda: record(logs / "day_000/a_new_one.csv", 100, -1)),
        ("one in the middle", lambda: record(middle / "r_0000_new.csv", 100, -2)),
        ("one corrected and longer", lambda: record(sorted(middle.iterdir())[3], 300, -3)),
        ("one withdrawn", lambda: sorted(middle.iterdir())[5].unlink()),
    )
    results = []
    before: dict[str, int] = {}
    for what, change in changes:
        change()
        parts = {p.name for p in (out / "data").glob("*")} if out.exists() else set()
        began, cpu = time.perf_counter(), cpu_seconds()
        summary = run(config, prune=what == "one withdrawn")
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        written = len({p.name for p in (out / "data").glob("*")} - parts)
        now = indexes(out)
        moved = sum(now.get(id, index) != index for id, index in before.items())
        before = now
        row = {"what": what, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "parts": summary.parts}
        row |= {"written": written, "indexes_changed": moved, "version": summary.version, "episodes": summary.episodes}
        results.append(row | {"files": args.files} | machine("robocache", "pyarrow"))
        print(
            f"{what:26s} {seconds:7.2f} s ({cpu:.2f} of CPU)  {written:4d} of {summary.parts} parts written, {moved} "
            "indexes changed",
            flush=True,
        )
    assert verify(str(out)).problems == ()
    shutil.rmtree(folder)
    write_csv(args.csv, results)


if __name__ == "__main__":
    main()
