"""What the CPU benchmarks share: taking turns, naming the machine, writing the CSV."""

from __future__ import annotations

import csv
import os
import platform
import random
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """Seconds of one case, a value a repetition: wall clock, and user plus system time of the process' threads."""

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.wall)


def take_turns(cases: Mapping[str, Callable[[], object]], repetitions: int, *, warm_up: int = 1) -> dict[str, Timing]:
    """Run every case once per repetition, in shuffled order, so that a slow moment of the machine falls on all."""
    timings = {name: Timing([], []) for name in cases}
    order = list(cases)
    for repetition in range(-warm_up, repetitions):
        for name in order:
            cpu, begin = cpu_seconds(), time.perf_counter()
            cases[name]()
            wall, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
            if repetition >= 0:
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
        random.Random(repetition).shuffle(order)
    return timings


def cpu_seconds() -> float:
    """User and system time of this process and of the children it has waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def ratio(base: Timing, other: Timing) -> tuple[float, float, float]:
    """``other / base``, repetition by repetition: median, least, largest."""
    ratios = [b / a for a, b in zip(base.wall, other.wall, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def slower(first: Timing, second: Timing) -> Timing:
    """The slower of two cases, repetition by repetition."""
    pairs = list(zip(first.wall, second.wall, strict=True))
    return Timing([max(pair) for pair in pairs], [0.0 for _ in pairs])


def machine(*packages: str) -> dict[str, object]:
    """CSV columns that say where the numbers come from: CPU, versions, command line."""
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "command": shlex.join(["python", *sys.argv]),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def timing_columns(timing: Timing) -> dict[str, object]:
    """CSV columns of one case."""
    return {
        "median_ms": f"{timing.median * 1e3:.3f}",
        "min_ms": f"{min(timing.wall) * 1e3:.3f}",
        "max_ms": f"{max(timing.wall) * 1e3:.3f}",
        "median_cpu_ms": f"{statistics.median(timing.cpu) * 1e3:.1f}",
        "n": len(timing.wall),
    }


def write_csv(path: Path | None, rows: Sequence[Mapping[str, object]]) -> None:
    """Nothing where no path was given."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class CsvLog:
    """A CSV that grows row by row, on disk after each; ``append`` goes on with a file that is there."""

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = read_csv(path) if append and path.exists() else []
        self._file = path.open("a" if self.rows else "w", newline="")
        self._writer: csv.DictWriter | None = csv.DictWriter(self._file, list(self.rows[0])) if self.rows else None

    def write(self, row: Mapping[str, object]) -> None:
        """The first row names the columns."""
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row))
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()
        self.rows.append({key: str(value) for key, value in row.items()})


def tell(row: Mapping[str, object], path: Path | None) -> None:
    """Print a row, and add it to a CSV where there is to be one."""
    print(row)
    if path:
        CsvLog(path, append=True).write(row)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
