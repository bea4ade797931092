"""Did anything get slower? Compares two result files of the same device.

    python benchmarks/regression.py OLD.csv NEW.csv [--tolerance 0.05] [--who robocache]

A case is slower when its median grew by more than the tolerance, and the means differ by more than three standard
errors of their difference (their spread would explain less). Exit status: 0 nothing slower, 1 something slower or
missing from the new file, 2 files that cannot be compared.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from common import read_csv

STANDARD_ERRORS = 3
KEYS = ("phase", "size", "case", "dtype", "measure", "input", "output", "variant", "who")
Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    key: Key
    old: float
    new: float
    verdict: str  # slower, faster, same, missing

    @property
    def ratio(self) -> float:
        return self.new / self.old


def compare(old: list[dict[str, str]], new: list[dict[str, str]], tolerance: float) -> list[Change]:
    """Every measured case of ``old`` beside its row in ``new``; ``ValueError`` where the devices differ."""
    devices = [sorted({row.get("device", "") for row in rows}) for rows in (old, new)]
    if devices[0] != devices[1]:
        raise ValueError(f"measured on {', '.join(devices[0])} and on {', '.join(devices[1])}: not comparable")
    later = {_key(row): row for row in new if _measured(row)}
    changes = []
    for row in filter(_measured, old):
        key = _key(row)
        if key not in later:
            changes.append(Change(key, _number(row, "median"), math.nan, "missing"))
            continue
        a, b = row, later[key]
        noise = math.hypot(*(_number(r, "stddev") / math.sqrt(_number(r, "n")) for r in (a, b)))
        difference = _number(b, "mean") - _number(a, "mean")
        ratio = _number(b, "median") / _number(a, "median")
        beyond = abs(difference) > STANDARD_ERRORS * noise
        slower, faster = ratio > 1 + tolerance and difference > 0, ratio < 1 - tolerance and difference < 0
        verdict = "slower" if slower and beyond else "faster" if faster and beyond else "same"
        changes.append(Change(key, _number(a, "median"), _number(b, "median"), verdict))
    return changes


def _key(row: dict[str, str]) -> Key:
    return tuple(row[name] for name in KEYS if name in row)


def _measured(row: dict[str, str]) -> bool:
    return row.get("status", "ok") == "ok"


def _number(row: dict[str, str], name: str) -> float:
    """From ``median``, ``median_ms`` or ``median_us``."""
    for column in (name, f"{name}_ms", f"{name}_us"):
        if column in row:
            return float(row[column])
    raise ValueError(f"a result file has no column {name}_ms; its columns: {', '.join(row)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.05, help="part of the old median (0.05)")
    parser.add_argument("--who", default="robocache", help="whose rows; empty: everyone's")
    args = parser.parse_args()
    try:
        old, new = (
            [row for row in read_csv(path) if not args.who or row.get("who", args.who) == args.who]
            for path in (args.old, args.new)
        )
        changes = compare(old, new, args.tolerance)
    except (OSError, ValueError) as error:
        print(error)
        return 2
    if not changes:
        print(f"{args.old} holds no measured row of {args.who or 'anyone'}")
        return 2
    for change in sorted(changes, key=lambda c: -c.ratio if c.ratio == c.ratio else -math.inf):
        if change.verdict != "same":
            print(
                f"{change.verdict:8} {change.ratio:6.2f}x  {change.old:.4f} -> {change.new:.4f}  {' '.join(change.key)}"
            )
    counts = {v: sum(c.verdict == v for c in changes) for v in ("slower", "missing", "faster", "same")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["slower"] or counts["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
