"""How fast are streams aligned on the CPU? RoboCache against what one would write with torch, numpy, SciPy or polars.

    python benchmarks/align_cpu.py --out benchmarks/results/cpu_align.csv

64 episodes of 60 s: joints 7 @ 200 Hz, wrench 6 @ 1 kHz, IMU 6 @ 400 Hz, pose 7 @ 100 Hz; float32 values, jittered
int64 nanosecond stamps; all brought to 50 Hz, float32, side by side. Three cases: ``linear`` (every stream linear, so
all do the same work), ``pose`` (the pose as xyz linear and quaternion slerp, which only RoboCache and SciPy have) and
``mean`` (every stream the mean of its 2 to 20 samples a bin).

Everyone has all cores: torch and polars use them by themselves, numpy and SciPy work on the episodes in a thread pool.
Nobody precomputes anything that depends on the stamps; polars gets its input as DataFrames, numpy and SciPy as arrays.
Only RoboCache also says which rows are valid. ``memcpy`` copies the inputs once; ``lines at its speed`` is what the
cache lines that the targets' samples and stamps lie in, the targets and the results take at the speed of that copy: the
floor, as most samples of a fast stream are not needed. Before timing, all results are compared. All cases run once per
repetition in shuffled order; ratios are taken within a repetition.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import numpy as np
import torch
from baselines.cpu_baseline import (
    Streams,
    bin_edges,
    mean_with_numpy,
    mean_with_torch,
    pl,
    polars_input,
    with_numpy,
    with_numpy_interp,
    with_polars,
    with_scipy,
    with_torch,
)
from bytes_model import blocks_of

from robocache.ops import StreamSpec, _library, fuse_multimodal

STREAMS = {"joints": (7, 200), "wrench": (6, 1000), "imu": (6, 400), "pose": (7, 100)}  # columns, Hz
RATE_HZ = 50
WIDTH = sum(width for width, _ in STREAMS.values())
LINE = 64  # bytes of a cache line
MEMCPY = "memcpy of the inputs"
START_NS = 1_700_000_000_000_000_000  # stamps are times of day, as in a recording
TOLERANCE = 2e-5  # values lie in about [-4, 4]; float32 here, float64 there


def make_input(episodes: int, seconds: int) -> tuple[Streams, np.ndarray]:
    """Each stream's values float32 ``[B, S, D]`` and stamps int64 ``[B, S]``, and the targets int64 ``[B, T]``."""
    rng = np.random.default_rng(0)
    streams = {}
    for name, (width, hz) in STREAMS.items():
        period = 1_000_000_000 // hz
        ticks = np.arange(seconds * hz) * period
        jitter = rng.integers(-period // 3, period // 3, (episodes, len(ticks)))
        times = START_NS + ticks + jitter
        phases = rng.uniform(0, 2 * np.pi, (episodes, 1, width))
        values = np.sin(ticks[:, None] / 1e9 * np.linspace(0.5, 3, width) + phases)
        if name == "pose":
            values[..., 3:] += 2 * np.eye(4)[3]  # away from zero, so that it has a direction
            values[..., 3:] /= np.linalg.norm(values[..., 3:], axis=-1, keepdims=True)
        streams[name] = values.astype(np.float32), times
    inside = np.arange(1, seconds * RATE_HZ - 2) * (1_000_000_000 // RATE_HZ)  # no target outside of any stream
    return streams, np.tile(START_NS + inside, (episodes, 1))


def robocache(streams: Streams, targets: np.ndarray, case: str, validate: bool) -> np.ndarray:
    modes = dict.fromkeys(streams, "mean" if case == "mean" else "linear")
    if case == "pose":
        modes["pose"] = "pose"
    specs = [
        StreamSpec(torch.from_numpy(values), torch.from_numpy(times), modes[name])
        for name, (values, times) in streams.items()
    ]
    return fuse_multimodal(specs, torch.from_numpy(targets), validate=validate)[0].numpy()


def memcpy(streams: Streams) -> Callable[[], None]:
    """Copy the inputs into memory that is there, with all threads of torch."""
    arrays = [torch.from_numpy(array) for stream in streams.values() for array in stream]
    copies = [array.clone() for array in arrays]

    def copy() -> None:
        for array, target in zip(arrays, copies, strict=True):
            target.copy_(array)

    return copy


def needed_bytes(streams: Streams, targets: np.ndarray, case: str) -> int:
    """Of the cache lines that the targets' samples and stamps lie in, of the targets and of the results."""

    total = targets.nbytes + targets.size * (WIDTH * 4 + len(streams))
    for values, times in streams.values():
        samples = times.shape[1]
        for b in range(len(targets)):
            if case == "mean":
                low, high = np.searchsorted(times[b], bin_edges(targets[b : b + 1])[0, [0, -1]])
                rows = np.arange(low, high)
            else:
                after = np.searchsorted(times[b], targets[b], side="right").clip(1, samples - 1)
                rows = np.unique(np.concatenate([after - 1, after]))
            used = torch.from_numpy(rows)
            total += LINE * (blocks_of(used, values.shape[-1] * 4, 0, LINE) + blocks_of(used, 8, 0, LINE))
    return total


def check_same(case: str, name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = np.abs(ours - theirs)
    if case == "pose":  # q and -q are one rotation
        difference[..., -4:] = np.minimum(difference[..., -4:], np.abs(ours + theirs)[..., -4:])
    if not difference.max() <= TOLERANCE:
        sys.exit(f"{case}: robocache and {name} differ by up to {difference.max():g}, allowed are {TOLERANCE:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()
    if not _library.available():
        sys.exit(f"nothing to measure: {_library.reason()}")

    streams, targets = make_input(args.episodes, args.seconds)
    if pl is None:
        print("polars is not installed: left out")
    tables, goal = polars_input(streams, targets) if pl else ([], None)
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    pool = ThreadPoolExecutor(threads)
    shape = (*targets.shape, WIDTH)
    runs: dict[str, dict[str, Callable[[], object]]] = {
        "linear": {
            "robocache": lambda: robocache(streams, targets, "linear", True),
            "robocache, validate=False": lambda: robocache(streams, targets, "linear", False),
            "torch": lambda: with_torch(streams, targets),
            "numpy": lambda: with_numpy(streams, targets, pool),
            "numpy.interp": lambda: with_numpy_interp(streams, targets, pool),
            "scipy": lambda: with_scipy(streams, targets, pool, slerp=False),
            **({"polars": lambda: with_polars(tables, goal)} if pl else {}),
            MEMCPY: memcpy(streams),
        },
        "pose": {
            "robocache": lambda: robocache(streams, targets, "pose", True),
            "robocache, validate=False": lambda: robocache(streams, targets, "pose", False),
            "scipy": lambda: with_scipy(streams, targets, pool, slerp=True),
            MEMCPY: memcpy(streams),
        },
        "mean": {
            "robocache": lambda: robocache(streams, targets, "mean", True),
            "robocache, validate=False": lambda: robocache(streams, targets, "mean", False),
            "torch": lambda: mean_with_torch(streams, targets),
            "numpy": lambda: mean_with_numpy(streams, targets, pool),
            MEMCPY: memcpy(streams),
        },
    }
    about = {
        "episodes": args.episodes,
        "targets": targets.size,
        "threads": threads,
        **common.machine("torch", "numpy", "scipy", *(["polars"] if pl else [])),
    }
    rows = []
    nbytes = sum(array.nbytes for stream in streams.values() for array in stream)
    print(f"{args.episodes} episodes, {nbytes / 1e6:.0f} MB to {targets.size} rows, {threads} threads, {about['cpu']}")
    for case, candidates in runs.items():
        ours = robocache(streams, targets, case, True)
        for name, run in candidates.items():
            if name != MEMCPY:
                result = run()
                theirs = result.to_numpy().reshape(shape) if hasattr(result, "to_numpy") else np.asarray(result)
                check_same(case, name, ours, theirs)
        timings = common.take_turns(candidates, args.repetitions)
        peers = [name for name in candidates if not name.startswith(("robocache", "memcpy"))]
        fastest = min(peers, key=lambda name: timings[name].median)
        print(f"\n{case:32}{'median ms':>10}{'min':>9}{'max':>9}{'cpu ms':>9}   x robocache [min, max]")
        for name, timing in timings.items():
            column = common.timing_columns(timing)
            middle, low, high = common.ratio(timings["robocache"], timing)
            print(
                f"{name:32}{column['median_ms']:>10}{column['min_ms']:>9}{column['max_ms']:>9}"
                f"{column['median_cpu_ms']:>9}{middle:8.2f} [{low:.2f}, {high:.2f}]"
                + ("  <- fastest peer" if name == fastest else "")
            )
            ratios = {"ratio_to_robocache": f"{middle:.3f}", "ratio_min": f"{low:.3f}", "ratio_max": f"{high:.3f}"}
            rows.append({"case": case, "who": name, **column, **ratios, "fastest_peer": name == fastest, **about})
        floor = needed_bytes(streams, targets, case) / (2 * nbytes / timings[MEMCPY].median)
        ratio = floor / timings["robocache"].median
        print(f"{'lines at its speed':32}{floor * 1e3:10.2f}{'':27}{ratio:8.2f}")
        nothing = dict.fromkeys(rows[-1], "")
        given = {"case": case, "who": "lines at its speed", "median_ms": f"{floor * 1e3:.3f}"}
        rows.append({**nothing, **given, "ratio_to_robocache": f"{ratio:.3f}", "fastest_peer": False, **about})
    common.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
