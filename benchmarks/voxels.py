"""How fast are point clouds brought into voxels, what share of a copy is that, and how do others do on the same data?

    python benchmarks/voxels.py --out benchmarks/results/phase3_voxelization.csv

Cases are those of configs/{small,medium,large}.json under "voxelize"; docs/benchmarks/REPRODUCING.md has the protocol.
``bytes_ideal``: the points once and every result once. ``same_bits``: whether ten calls on one input gave equal results
(rows compared as they are; a peer that numbers voxels by chance has other rows each time). A peer that cannot do
a case, fails, or is wrong gets a row whose status says so. RoboCache is compared with its plain-torch twin to the bit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gpu_common
import torch
from cases import SIZES
from common import CsvLog
from gpu_common import NUMBERS, Bench, numbers
from torch import Tensor
from voxel_cases import Case, Clouds, load

OURS = "robocache"
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pytorch eager": ("voxels_torch", {"compiled": False}),
    "torch.compile": ("voxels_torch", {"compiled": True}),
    "triton": ("voxels_triton", {}),
    "mmcv's algorithm": ("voxels_hard", {"algorithm": "mmcv"}),
    "spconv's algorithm": ("voxels_hard", {"algorithm": "spconv"}),
    "numpy": ("voxels_cpu", {"library": "numpy"}),
    "open3d": ("voxels_cpu", {"library": "open3d"}),
}
CPU_PEERS = ("pytorch eager", "numpy", "open3d")
GPU_PEERS = tuple(who for who in PEERS if who not in ("numpy", "open3d"))
#: Largest difference of a mean: peers add in float32, and compute cells in it, so that points on an edge may move.
TOLERANCE = 1e-3
MOVED = 2e-3  # share of voxels that may differ for that reason


def wrong(clouds: Clouds, found: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> str:
    """Whether a peer's answer is ours but for points within rounding of an edge; what is wrong, or nothing."""
    if clouds.layout == "dense":
        if found[0].shape != ours[0].shape:
            return f"shape {list(found[0].shape)}, not {list(ours[0].shape)}"
        differ = found[0] != ours[0] if clouds.reduce != "mean" else (found[0] - ours[0]).abs() > TOLERANCE
        used = (ours[0] != 0).sum()
        return "" if differ.sum() <= MOVED * used + 10 else f"{int(differ.sum())} of {int(used)} voxels differ"
    values, expected = found[1 if len(found) > 2 else 0], ours[1]
    rows, wanted = len(values), len(expected)
    if abs(rows - wanted) > MOVED * wanted + 10:
        return f"{rows} voxels, not {wanted}"
    got, right = values.double().sum().item(), expected.double().sum().item()
    scale = expected.double().abs().sum().item()
    return "" if abs(got - right) <= 5 * MOVED * scale else f"values sum to {got:g}, not {right:g}"


def checked(clouds: Clouds, device: str) -> tuple[Tensor, ...]:
    """Our answer, equal to the plain-torch twin's to the bit on the first cloud."""
    from robocache.ops import _voxel
    from robocache.ops.modes import REDUCTIONS
    from robocache.ops.reference import voxelize as reference

    first = Clouds(clouds.points[:1], clouds.grid, clouds.reduce, clouds.layout, clouds.max_points)
    if first.points.shape[1] <= 1_000_000:
        g = clouds.grid
        arguments = _voxel.Arguments(
            first.points,
            None,
            None,
            g.box,
            g.shape,
            (0, g.shape[0]),
            REDUCTIONS.index(clouds.reduce),
            clouds.max_points,
        )
        twin = getattr(reference, f"voxelize_{clouds.layout}")(arguments)
        for a, b in zip(first.voxels(), twin, strict=True):
            if not torch.equal(a, b):
                sys.exit("robocache is wrong: not the plain-torch twin's answer")
    return tuple(clouds.voxels())


def same_bits(call: Callable[[Clouds], tuple[Tensor, ...]], clouds: Clouds) -> bool:
    first = [x.clone() for x in call(clouds)]
    return all(all(torch.equal(a, b) for a, b in zip(first, call(clouds), strict=True)) for _ in range(9))


def measure(case: Case, bench: Bench, log: CsvLog, device: str, args: argparse.Namespace, where: dict) -> None:
    begin = time.monotonic()
    clouds = case.build(device)
    ours = checked(clouds, device)
    moved = clouds.points.nbytes + sum(x.nbytes for x in ours)
    calls: dict[str, Callable[[Clouds], object]] = {OURS: Clouds.voxels}
    why_not: dict[str, str] = {}
    bits = {OURS: same_bits(Clouds.voxels, clouds)}
    for who in case.spec.get("peers", GPU_PEERS) if device == "cuda" else CPU_PEERS:
        if who in args.skip:
            continue
        module, options = PEERS[who]
        try:
            call = import_module(f"baselines.{module}").build(clouds, **options)
            why = wrong(clouds, call(clouds), ours)
            gpu_common.synchronize(device)
            if why:
                why_not[who] = f"wrong: {why}"
            else:
                calls[who], bits[who] = call, same_bits(call, clouds)
        except Exception as error:  # a peer may fail in any way: its row says how
            why_not[who] = gpu_common.reason(error)
    del ours
    count = gpu_common.sets_needed(moved, device)
    sets = [clouds, *(clouds.copy() for _ in range(count - 1))]
    copy, copy_bytes = bench.copy()
    waiting = {who for who in calls if case.spec["layout"] == "sparse" or who == "pytorch eager"}
    times, failed = bench.measure_apart(calls, waiting, sets, args.repetitions)
    speed = copy_bytes / copy.median / 1e6
    about = {"phase": "voxelize", "size": case.size, "case": case.name, "dtype": case.dtype}
    about["must_show"] = case.spec.get("must_show", False)
    rest = {
        "bytes_ideal": moved,
        "sets": count,
        "copy_gb_s": f"{speed:.1f}",
        "copy_median_ms": f"{copy.median:.6f}",
        **where,
    }
    for who in (OURS, *PEERS):
        if who in times:
            measured = numbers(times[who], times.get(OURS), moved, speed)
            log.write({**about, "who": who, "status": "ok", "same_bits": bits[who], **measured, **rest})
        elif who in why_not or who in failed:
            status = why_not.get(who) or failed[who]
            log.write({**about, "who": who, "status": status, "same_bits": "", **dict.fromkeys(NUMBERS, ""), **rest})
    mine = times[OURS].median
    peers = ", ".join(
        f"{who} {t.median / mine:.1f}x{'' if bits[who] else ' (not the same bits)'}"
        for who, t in times.items()
        if who != OURS
    )
    print(
        f"{case.size:6} {case.name} {case.dtype}: {mine:.4f} ms, {moved / mine / 1e6 / speed:.1%} of a copy, "
        f"same bits: {bits[OURS]}; {peers} [{time.monotonic() - begin:.1f} s]",
        flush=True,
    )
    for who, why in {**why_not, **failed}.items():
        print(f"       {who}: {why}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--only", default="", help='cases whose "name dtype" holds this')
    parser.add_argument("--device", default=gpu_common.default_device(), choices=("cuda", "cpu"))
    parser.add_argument("--repetitions", type=int, default=gpu_common.REPETITIONS)
    parser.add_argument("--skip", nargs="*", default=[], help="peers to leave out")
    args = parser.parse_args()
    log, bench = CsvLog(args.out), Bench(args.device)
    where = gpu_common.environment(args.device)
    one = partial(measure, bench=bench, log=log, device=args.device, args=args, where=where)
    for case in load(args.sizes, args.only):
        try:
            one(case)
        except torch.OutOfMemoryError as error:
            print(f"{case.size:6} {case.name} {case.dtype}: not measured: {gpu_common.reason(error)}", flush=True)
        if args.device == "cuda":
            torch.cuda.empty_cache()
    print(f"wrote {args.out}: {len(log.rows)} rows")
    return 0 if log.rows else 1


if __name__ == "__main__":
    sys.exit(main())
