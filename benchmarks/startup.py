"""CPU seconds (user and system) of commands that do little: what starting costs, modules compiled already.

    python benchmarks/startup.py FOLDER [--tree before=PATH ...] [--out cpu_startup.csv]

FOLDER gets the sample logs, a config and an output. Each ``--tree`` is another checkout, extension built, that takes
turns with this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("--help", "--version", "verify out", "inspect out", "plan config.yaml", "inspect logs/episode_000.mcap")


def command(tree: Path, folder: Path, *arguments: str) -> None:
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    subprocess.run(
        [sys.executable, "-m", "robocache.cli", *arguments],
        cwd=folder,
        env={**os.environ, **kept, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def prepare(folder: Path) -> None:
    """The demo's config on three short logs, and the output of it."""
    if (folder / "out").exists():
        return
    command(ROOT, folder, "sample", "logs", "--episodes", "2", "--seconds", "1")
    demo = (ROOT / "configs/demo.yaml").read_text()
    (folder / "config.yaml").write_text(demo)
    command(ROOT, folder, "run", "-q", "config.yaml", "input.uri=logs", "output.uri=out")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    trees = {"now": ROOT} | {name: Path(path).resolve() for name, path in (t.split("=", 1) for t in args.tree)}
    cases: dict[str, Callable[[], object]] = {}
    for words in COMMANDS:
        for name, tree in trees.items():
            more = ["input.uri=logs", "output.uri=out"] if words.startswith("plan") else []
            cases[f"{words}|{name}"] = partial(command, tree, folder, *words.split(), *more)
    rows = []
    print(f"{'command':34}{'tree':10}{'median CPU s':>13}{'least':>8}")
    for case, timing in common.take_turns(cases, args.repetitions).items():
        words, _, name = case.partition("|")
        columns = common.timing_columns(timing)
        least = min(timing.cpu)
        print(f"{words:34}{name:10}{float(str(columns['median_cpu_ms'])) / 1e3:13.2f}{least:8.2f}")
        rows.append(
            {
                "command_line": words,
                "tree": name,
                **columns,
                "min_cpu_ms": f"{least * 1e3:.1f}",
                **common.machine("numpy", "pyarrow", "fsspec", "omegaconf", "rich"),
            }
        )
    common.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
