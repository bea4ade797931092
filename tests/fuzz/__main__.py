"""Mutants for as long as it is told: ``python -m tests.fuzz --seconds 600 --format mcap``, of everything without one.

Prints how many had which outcome, the slowest and the largest, and keeps what is a finding below ``--keep``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), *(str(TESTS / name) for name in ("fuzz", "formats", "engine", "clouds", "config"))]
sys.path.insert(0, str(TESTS))

from corpus import WRITERS, seeds  # noqa: E402
from fuzz_kit import Session, Tally, endless  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--format", action="append", choices=list(WRITERS), help="a target; may be given again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    args = parser.parse_args()
    logging.getLogger("robocache").setLevel(logging.ERROR)
    found = 0
    for target in args.format or WRITERS:
        tally = Tally()
        with tempfile.TemporaryDirectory() as folder, Session(Path(folder), args.keep / target, args.seed) as session:
            made = seeds(Path(folder) / "seeds", target, real=True)
            end = time.monotonic() + args.seconds
            for seed in endless(made):
                if time.monotonic() > end:
                    break
                session.one(seed, tally)
        print(f"{target}: {tally}", flush=True)
        for finding in tally.findings:
            print(f"  {finding}", flush=True)
        found += len(tally.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
