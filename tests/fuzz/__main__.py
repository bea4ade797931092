"""Mutants for as long as it is told: ``python -m tests.fuzz --seconds 600 --format mcap``, of everything without one.

Prints how many had which outcome, the slowest and the largest, and keeps what is a finding below ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), *(str(TESTS / name) for name in ("fuzz", "formats", "engine", "clouds", "config"))]
sys.path.insert(0, str(TESTS))

import bombs  # noqa: E402
from corpus import WRITERS, seeds  # noqa: E402
from fuzz_kit import Seed, Session, Tally, endless  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="for each target; without --mutants 60")
    parser.add_argument("--mutants", type=int, help="so many of each target, however long it takes")
    parser.add_argument("--table", type=Path, help="write a line of JSON for each target to this file, too")
    parser.add_argument(
        "--format", action="append", choices=sorted({*WRITERS, *bombs.BOMBS}), help="a target; may be given again"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--bombs", action="store_true", help="read the files made by hand instead of mutants")
    args = parser.parse_args()
    logging.getLogger("robocache").setLevel(logging.ERROR)
    if args.bombs:
        return hand_made(args)
    found = 0
    for target in args.format or WRITERS:
        tally = Tally()
        with tempfile.TemporaryDirectory() as folder, Session(Path(folder), args.keep / target, args.seed) as session:
            made = seeds(Path(folder) / "seeds", target, real=True)
            seconds = args.seconds or (None if args.mutants else 60.0)
            began = time.monotonic()
            for tried, seed in enumerate(endless(made, args.seed)):
                if tried == args.mutants or (seconds and time.monotonic() > began + seconds):
                    break
                session.one(seed, tally)
        print(f"{target}: {tally}", flush=True)
        for finding in tally.findings:
            print(f"  {finding}", flush=True)
        if args.table:
            with args.table.open("a") as table:
                table.write(json.dumps(tally.row(target)) + "\n")
        found += len(tally.findings)
    return 1 if found else 0


def hand_made(args: argparse.Namespace) -> int:
    """Each file made by hand, what came of it, what it took."""
    found = 0
    with tempfile.TemporaryDirectory() as folder, Session(Path(folder)) as session:
        for k, (target, name) in enumerate((t, n) for t in args.format or bombs.BOMBS for n in bombs.BOMBS[t]):
            place = Path(folder) / str(k)
            place.mkdir()
            seed = Seed(target, bombs.BOMBS[target][name](place), ())
            session.ask(seed, place / f"nothing{seed.root.suffix}")  # what is imported is not the file's doing
            answer, took, peak = session.ask(seed, seed.root)
            size = sum(p.stat().st_size for p in [seed.root, *seed.root.rglob("*")] if p.is_file())
            shutil.rmtree(place)
            bad = answer.outcome not in Session.GOOD or took > bombs.SECONDS or peak > bombs.MEMORY
            found += bad
            row = {"target": target, "bomb": name, "bytes": size, "outcome": answer.outcome, "cpu_s": round(took, 2),
                   "peak_MB": round(peak / 1e6)}  # fmt: skip
            print(f"{'FINDING ' if bad else ''}{json.dumps(row)}", flush=True)
            if args.table:
                with args.table.open("a") as table:
                    table.write(json.dumps(row) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
