"""CPU seconds (user and system) of commands that do little: what starting costs, modules compiled already. And how much
of 60 logs is read before a source that none of them has is reported.

    python benchmarks/startup.py FOLDER [--tree before=PATH ...] [--out cpu_startup.csv]

FOLDER gets sample logs, a config and an output of each tree. Each ``--tree`` is another checkout, extension built, that
takes turns with this one.
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

TYPO = "a typo in a source, 60 logs"
#: A run that ends with a mistake, twice: the first imports what it needs. What Linux counts as read by the second.
_READ = """
import contextlib, sys
from robocache import cli

def run(logs):
    with contextlib.suppress(SystemExit):
        cli.main(["run", "config.yaml", f"input.uri={logs}", "output.uri=none", "features.typo=/no_such_topic.x"])
    return int(open("/proc/self/io").read().split()[1])

print(-run("logs") + run("sixty"))
"""


def command(tree: Path, folder: Path, *arguments: str, check: bool = True) -> int:
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder.parent / "compiled")}
    return subprocess.run(
        [sys.executable, "-m", "robocache.cli", *arguments],
        cwd=folder,
        env={**os.environ, **kept, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        stderr=None if check else subprocess.DEVNULL,
        check=check,
    ).returncode


def read_before_a_typo_is_told(tree: Path, folder: Path) -> tuple[int, int]:
    """Bytes read, of how many."""
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, "-c", _READ], cwd=folder, env=env, capture_output=True, text=True)
    assert "/no_such_topic" in done.stderr, done.stderr
    return int(done.stdout.split()[-1]), sum(path.stat().st_size for path in (folder / "sixty").iterdir())


def prepare(tree: Path, folder: Path) -> None:
    """The demo's config on three short logs, and what this tree makes of it; and 60 logs."""
    if (folder / "out").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command(ROOT, folder, "sample", "sixty", "--episodes", "59", "--seconds", "4")
    command(ROOT, folder, "sample", "logs", "--episodes", "2", "--seconds", "1")
    (folder / "config.yaml").write_text((tree / "configs/demo.yaml").read_text())
    command(tree, folder, "run", "config.yaml", "input.uri=logs", "output.uri=out")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.folder.resolve()
    trees = {"now": ROOT} | {name: Path(path).resolve() for name, path in (t.split("=", 1) for t in args.tree)}
    for name, tree in trees.items():
        prepare(tree, folder / name)
    cases: dict[str, Callable[[], object]] = {}
    for words in COMMANDS:
        for name, tree in trees.items():
            more = ["input.uri=logs", "output.uri=out"] if words.startswith("plan") else []
            case = partial(command, tree, folder / name, *words.split(), *more)
            if case(check=False):
                print(f"{words:34}{name:10}    has no such command")
                continue
            cases[f"{words}|{name}"] = case
    rows: list[dict[str, object]] = []
    machine = common.machine("numpy", "pyarrow", "fsspec", "omegaconf", "rich")
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
                "bytes_read": "",
                "bytes": "",
                **machine,
            }
        )
    for name, tree in trees.items():
        found, size = read_before_a_typo_is_told(tree, folder / name)
        print(f"{TYPO:34}{name:10}{found:13,} bytes read of {size:,}, {found / size:.2%}")
        empty = dict.fromkeys(rows[0], "")
        rows.append({**empty, "command_line": TYPO, "tree": name, "bytes_read": found, "bytes": size, **machine})
    common.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
