"""How the benchmarks measure on a device (docs/benchmarks/REPRODUCING.md states the protocol): rotating input and
output sets, taking turns, device events with the host far ahead, a copy for the yardstick, and where it ran.

Works on the CPU too, with wall-clock times, so that everything but the GPU itself can be tried without one.
"""

from __future__ import annotations

import math
import os
import platform
import random
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import common
import torch

REPETITIONS = 30
WARM_UP = 3
LONG_MS = 5.0  # calls longer than this are repeated less, for the same time in all
CACHE_FACTOR = 4  # rotating sets exceed the last-level cache this many times
SET_LIMIT = 64
CHUNK_CALLS = 32  # enqueued at once: a launch queue holds about a thousand entries
CYCLES_PER_MS = 2_000_000  # for the sleep in front of a chunk; SM clocks stay below 2 GHz

Call = Callable[[Any], object]


@dataclass
class Times:
    """Milliseconds of each call, and for how many the host was ahead of the device when it had enqueued them."""

    ms: list[float] = field(default_factory=list)
    ahead: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def columns(self) -> dict[str, object]:
        return {
            "median_ms": f"{self.median:.6f}",
            "mean_ms": f"{statistics.fmean(self.ms):.6f}",
            "stddev_ms": f"{statistics.stdev(self.ms) if len(self.ms) > 1 else 0:.6f}",
            "min_ms": f"{min(self.ms):.6f}",
            "max_ms": f"{max(self.ms):.6f}",
            "n": len(self.ms),
            "host_ahead": f"{self.ahead / len(self.ms):.2f}",
        }


def numbers(times: Times, ours: Times | None, moved: int, speed: float) -> dict[str, object]:
    """A row's cells that are measured; ``moved``: bytes that have to be, ``speed``: a copy's, GB/s."""
    ms = times.median
    return {
        **times.columns(),
        "gb_s_ideal": f"{moved / ms / 1e6:.1f}",
        "share_ideal": f"{moved / ms / 1e6 / speed:.4f}",
        "times_robocache": f"{ms / ours.median:.3f}" if ours else "",
    }


#: Their columns.
NUMBERS = tuple(numbers(Times([1.0, 1.0]), Times([1.0]), 1, 1.0))


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def environment(device: str) -> dict[str, object]:
    """CSV columns that say where a row comes from. ROBOCACHE_COMMIT names the commit where there is no checkout."""
    cuda = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else common.cpu_name(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "",
        "cuda": torch.version.cuda if cuda else "",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cupy": _version("cupy-cuda13x", "cupy-cuda12x", "cupy"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "commit": commit(),
    }


def commit() -> str:
    return os.environ.get("ROBOCACHE_COMMIT") or _output("git", "describe", "--always", "--dirty") or "unknown"


def _output(*command: str) -> str:
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found[0] if found else ""


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def cache_bytes(device: str) -> int:
    """The last-level cache: L2 of the GPU; on a CPU a size that few exceed."""
    return torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 32 * 2**20


def sets_needed(bytes_per_set: int, device: str) -> int:
    """Input and output sets to rotate among: beyond CACHE_FACTOR times the cache, at least two, at most SET_LIMIT."""
    return min(max(2, math.ceil(CACHE_FACTOR * cache_bytes(device) / max(bytes_per_set, 1))), SET_LIMIT)


class Bench:
    """Times calls on one device. It holds the memory that pushes everything else out of the cache."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._flush = torch.ones(CACHE_FACTOR * cache_bytes(device) // 4, device=device)

    def measure(
        self, calls: Mapping[str, Call], sets: Sequence[Any], repetitions: int = REPETITIONS
    ) -> tuple[dict[str, Times], dict[str, str]]:
        """Times of each call, and why the others have none.

        Every round runs every call once, in shuffled order, each on the next of ``sets``. What a call returns is kept
        until all sets have had their turn, so outputs rotate as well. A call that fails in warm-up is left out.
        """
        good, failed, lasts = {}, {}, {}
        for name, call in calls.items():
            try:
                lasts[name] = self._warm_up(call, sets[0])
                good[name] = call
            except Exception as error:  # a baseline may fail in any way; the others go on
                failed[name] = reason(error)
        if not good:
            return {}, failed
        schedule = _schedule(lasts, repetitions)
        # Where the rotation is smaller than the cache, a chunk uses each set once, and the cache is flushed before.
        chunk = min(CHUNK_CALLS, len(sets)) if len(sets) == SET_LIMIT else CHUNK_CALLS
        times = {name: Times() for name in good}
        run = self._chunk_cuda if self.device == "cuda" else self._chunk_cpu
        kept: deque[object] = deque(maxlen=len(sets))
        self._host_ms = 5.0
        run(good, schedule[:chunk], sets, 0, {name: Times() for name in good}, kept)
        for begin in range(0, len(schedule), chunk):
            run(good, schedule[begin : begin + chunk], sets, begin, times, kept)
        return times, failed

    def measure_apart(
        self, calls: Mapping[str, Call], waiting: Collection[str], sets: Sequence[Any], repetitions: int = REPETITIONS
    ) -> tuple[dict[str, Times], dict[str, str]]:
        """As :meth:`measure`, each of those ``waiting`` in rounds of its own: a call that waits for the device keeps
        the host from being ahead of it for all others of its round.
        """
        times: dict[str, Times] = {}
        failed: dict[str, str] = {}
        for group in ([who for who in calls if who not in waiting], *([who] for who in calls if who in waiting)):
            found, why_not = self.measure({who: calls[who] for who in group}, sets, repetitions)
            times |= found
            failed |= why_not
        return times, failed

    def _warm_up(self, call: Call, data: Any) -> float:
        """Milliseconds of the last of a few calls, waiting included."""
        for _ in range(WARM_UP):
            synchronize(self.device)
            begin = time.perf_counter()
            call(data)
            synchronize(self.device)
        return (time.perf_counter() - begin) * 1e3

    def _chunk_cuda(
        self,
        calls: Mapping[str, Call],
        names: Sequence[str],
        sets: Sequence[Any],
        position: int,
        times: dict[str, Times],
        kept: deque[object],
    ) -> None:
        """Flush, put the device to sleep, enqueue all calls between events, then read the events."""
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in names]
        awake = torch.cuda.Event()
        self._flush.sum()  # read, so that no lines wait to be written back
        torch.cuda._sleep(int((2 * self._host_ms + 1) * CYCLES_PER_MS))
        awake.record()
        begin = time.perf_counter()
        for index, name in enumerate(names):
            data = sets[(position + index) % len(sets)]
            events[index][0].record()
            kept.append(calls[name](data))
            events[index][1].record()
            times[name].ahead += not awake.query()
        self._host_ms = min((time.perf_counter() - begin) * 1e3, 50.0)
        torch.cuda.synchronize()
        for name, (first, last) in zip(names, events, strict=True):
            times[name].ms.append(first.elapsed_time(last))

    def _chunk_cpu(
        self,
        calls: Mapping[str, Call],
        names: Sequence[str],
        sets: Sequence[Any],
        position: int,
        times: dict[str, Times],
        kept: deque[object],
    ) -> None:
        for index, name in enumerate(names):
            data = sets[(position + index) % len(sets)]
            begin = time.perf_counter()
            kept.append(calls[name](data))
            times[name].ms.append((time.perf_counter() - begin) * 1e3)

    def copy(self) -> tuple[Times, int]:
        """A device copy of 2 GiB (CPU: 64 MiB) by the same protocol, and its bytes, reads and writes both counted."""
        if not hasattr(self, "_pair"):
            size = 2 * 2**30 if self.device == "cuda" else 64 * 2**20
            source = torch.empty(size, dtype=torch.uint8, device=self.device).random_()
            self._pair = source, torch.empty_like(source)
        times, _ = self.measure({"copy": lambda pair: pair[1].copy_(pair[0]) is None}, [self._pair])
        return times["copy"], 2 * self._pair[0].nbytes

    def nothing(self) -> Times:
        """What the protocol shows for a kernel that does nothing: the part of every time that is not the kernel's."""

        def call(_: object) -> None:
            if self.device == "cuda":
                torch.cuda._sleep(0)

        return self.measure({"nothing": call}, [None])[0]["nothing"]


def _schedule(lasts: Mapping[str, float], repetitions: int) -> list[str]:
    """Whose turn it is, call by call. Long calls sit out rounds, evenly spread."""
    turns = {name: max(min(repetitions, 8), round(repetitions * min(1.0, LONG_MS / ms))) for name, ms in lasts.items()}
    order, shuffle = [], random.Random(0)
    for k in range(repetitions):
        names = [name for name, n in turns.items() if k * n // repetitions != (k + 1) * n // repetitions]
        shuffle.shuffle(names)
        order += names
    return order


def reason(error: Exception) -> str:
    """One line for a CSV cell."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200]
