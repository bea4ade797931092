"""As many gigabytes of logs as a benchmark wants, in the memory that one takes."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

from robocache.sample import write_samples

FOLDERS, SECONDS = 16, 60.0  # of six logs each, 1 GB together


def _some_logs(folder: Path, seed: int) -> None:
    write_samples(folder / f"{seed:02d}", episodes=6, seconds=SECONDS, seed=seed, damaged=False)


def linked(folder: Path, gigabytes: float) -> Path:
    """A folder in which sample logs, made once, appear as often as that takes, and no oftener."""
    made, target = folder / "logs", folder / f"{gigabytes:g}gb"
    if target.exists():
        return target
    if not made.exists():
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(_some_logs, made), range(FOLDERS)))
    left = gigabytes * 1e9
    for k, path in ((k, path) for k in count() for path in sorted(made.rglob("*.mcap"))):
        there = target / str(k) / path.relative_to(made)
        there.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, there)
        left -= path.stat().st_size
        if left <= 0:
            break
    return target
