"""How fast do joints become poses, Jacobians and actions, what share of a copy is that, and how do others do?

    python benchmarks/kinematics.py --urdf FOLDER --out benchmarks/results/phase4_action_space.csv

--urdf: a folder with panda.urdf, a 7-joint arm (example-robot-data ships one). docs/benchmarks/REPRODUCING.md has the
protocol. ``bytes_ideal``: the inputs once and the results once. Peers that are not installed, fail, or give another
answer (beyond TOLERANCE) get a row whose status says so. Inverse kinematics is told apart from the rest: its ``solved``
is the share of poses reached to 1e-4 m and 1e-3 rad, looked at with our own forward kinematics in float64.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gpu_common
import torch
from common import CsvLog
from gpu_common import NUMBERS, Bench, Times, numbers
from torch import Tensor

from robocache import KinematicChain, convert_rotation, to_delta

OURS = "robocache"
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pytorch-kinematics eager": ("kinematics_pytorch", {"compiled": False}),
    "pytorch-kinematics compiled": ("kinematics_pytorch", {"compiled": True}),
    "triton": ("kinematics_triton", {}),
    "pinocchio": ("kinematics_pinocchio", {}),
    "pytorch eager": ("kinematics_torch", {"compiled": False}),
    "torch.compile": ("kinematics_torch", {"compiled": True}),
}
CPU_ONLY, GPU_ONLY = ("pinocchio",), ("triton",)
#: Metres, radians or the unit of an action, in float32.
TOLERANCE = 2e-4
SIZES = {"small": 10_000, "medium": 100_000, "large": 1_000_000}
POSES = 10_000
BASE, TIP = "panda_link0", "panda_hand"


@dataclass(frozen=True)
class Case:
    """name: forward (pose), jacobian (world axes), chunk (deltas of 50 steps of 7 joints), rot6d (of quaternions)."""

    name: str
    rows: int
    q: Tensor
    urdf: str

    @property
    def chain(self) -> KinematicChain:
        return KinematicChain.from_urdf(self.urdf, BASE, TIP)


def ours(case: Case) -> Callable[[Tensor], Tensor]:
    if case.name == "chunk":
        offsets = torch.arange(0, case.rows + 1, EPISODE, device=case.q.device)
        return lambda q: to_delta(q, "chunk", state=q, offsets=offsets, chunk=CHUNK, validate=False)
    if case.name == "rot6d":
        return lambda q: convert_rotation(q, "quaternion_xyzw", "rot6d")
    chain = case.chain
    return chain.forward if case.name == "forward" else chain.jacobian


EPISODE, CHUNK = 500, 50


def build(name: str, rows: int, urdf: str, device: str, dtype: torch.dtype) -> Case:
    random = torch.Generator(device).manual_seed(rows)
    if name == "rot6d":
        q = torch.randn(rows, 4, device=device, generator=random, dtype=dtype)
        return Case(name, rows, q / q.norm(dim=1, keepdim=True), urdf)
    lower, upper = KinematicChain.from_urdf(urdf, BASE, TIP).limits.to(device, dtype).unbind(1)
    q = lower + torch.rand(rows, 7, device=device, generator=random, dtype=dtype) * (upper - lower)
    return Case(name, rows, q, urdf)


def measure(case: Case, size: str, bench: Bench, log: CsvLog, args: argparse.Namespace, where: dict) -> None:
    begin, device = time.monotonic(), args.device
    expected = ours(case)(case.q)
    moved = case.q.nbytes + expected.nbytes
    calls: dict[str, Callable[[Tensor], object]] = {OURS: ours(case)}
    why_not: dict[str, str] = {}
    for who, (module, options) in PEERS.items():
        if who in args.skip or who in (CPU_ONLY if device == "cuda" else GPU_ONLY):
            continue
        try:
            call = import_module(f"baselines.{module}").build(case, **options)
            if call is None:  # not its kind of work
                continue
            found = call(case.q)
            error = float((found - expected).nan_to_num().abs().max())
            if not torch.equal(found.isnan(), expected.isnan()):
                why_not[who] = "wrong: NaN in other places"
            elif found.shape != expected.shape or not error <= TOLERANCE:
                why_not[who] = f"wrong: {list(found.shape)}, off by {error:g}"
            else:
                calls[who] = call
            del found
        except Exception as error:  # a peer may fail in any way: its row says how
            why_not[who] = gpu_common.reason(error)
    del expected
    sets = [case.q, *(case.q.clone() for _ in range(gpu_common.sets_needed(moved, device) - 1))]
    copy, copy_bytes = bench.copy()
    waiting = {who for who in calls if who.startswith("pytorch-kinematics")}
    times, failed = bench.measure_apart(calls, waiting, sets, args.repetitions)
    speed = copy_bytes / copy.median / 1e6
    dtype = "f64" if case.q.dtype == torch.float64 else "f32"
    about = {"phase": "kinematics", "size": size, "case": f"{case.name} of {case.rows}", "dtype": dtype}
    rest = {"solved": "", "bytes_ideal": moved, "copy_gb_s": f"{speed:.1f}", **where}
    for who in calls | why_not:
        status = why_not.get(who) or failed.get(who) or "ok"
        measured = numbers(times[who], times[OURS], moved, speed) if status == "ok" else dict.fromkeys(NUMBERS, "")
        log.write({**about, "who": who, "status": status, **measured, **rest})
    mine = times[OURS].median
    peers = ", ".join(f"{who} {t.median / mine:.1f}x" for who, t in times.items() if who != OURS)
    print(
        f"{size:6} {case.name} of {case.rows} {dtype}: {mine:.4f} ms, {moved / mine / 1e6 / speed:.1%} of a copy; "
        f"{peers} [{time.monotonic() - begin:.1f} s]",
        flush=True,
    )
    for who, why in {**why_not, **failed}.items():
        print(f"       {who}: {why}", flush=True)


def measure_inverse(urdf: str, bench: Bench, log: CsvLog, args: argparse.Namespace, where: dict) -> None:
    """Each solver three times; the median."""
    case = replace(build("forward", POSES, urdf, args.device, torch.float64), name="inverse")
    chain = case.chain
    poses = chain.forward(case.q)
    solvers: dict[str, Callable[[Tensor], Tensor]] = {OURS: lambda poses: chain.inverse(poses).q}
    why_not: dict[str, str] = {}
    for who in ("pytorch-kinematics eager", "pinocchio"):
        if who in args.skip or (who in CPU_ONLY and args.device == "cuda"):
            continue
        try:
            solvers[who] = import_module(f"baselines.{PEERS[who][0]}").build(case)
        except Exception as error:
            why_not[who] = gpu_common.reason(error)
    medians: dict[str, Times] = {}
    for who, solve in solvers.items():
        times = Times()
        for _ in range(3):
            gpu_common.synchronize(args.device)
            begin = time.perf_counter()
            q = solve(poses)
            gpu_common.synchronize(args.device)
            times.ms.append((time.perf_counter() - begin) * 1e3)
        reached = chain.forward(q.to(poses))
        apart = (reached[:, :3] - poses[:, :3]).norm(dim=1)
        turned = 2 * (reached[:, 3:] * poses[:, 3:]).sum(1).abs().clamp(max=1).acos()
        low, high = chain.limits.to(q.device).unbind(1)
        within = ((q.double() >= low - 1e-9) & (q.double() <= high + 1e-9)).all(1)
        solved = float(((apart <= 1e-4) & (turned <= 1e-3) & within).double().mean())
        medians[who] = times
        measured = numbers(times, medians[OURS], poses.nbytes + q.nbytes, 1.0)
        measured["share_ideal"] = ""
        about = {"phase": "kinematics", "size": "medium", "case": f"inverse of {POSES}", "dtype": "f64", "who": who}
        tail = {"solved": f"{solved:.4f}", "bytes_ideal": poses.nbytes + q.nbytes, "copy_gb_s": "", **where}
        log.write({**about, "status": "ok", **measured, **tail})
        print(f"inverse of {POSES}: {who} {times.median:.0f} ms, {solved:.2%} reached within limits", flush=True)
    for who, why in why_not.items():
        print(f"       {who}: {why}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--urdf", type=Path, required=True, help="folder with panda.urdf")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--only", default="", help="the case of this name")
    parser.add_argument("--device", default=gpu_common.default_device(), choices=("cuda", "cpu"))
    parser.add_argument("--repetitions", type=int, default=gpu_common.REPETITIONS)
    parser.add_argument("--skip", nargs="*", default=[], help="peers to leave out")
    args = parser.parse_args()
    urdf = (args.urdf / "panda.urdf").read_text()
    log, bench = CsvLog(args.out), Bench(args.device)
    where = gpu_common.environment(args.device)
    one = partial(measure, bench=bench, log=log, args=args, where=where)
    for size in args.sizes:
        for name in ("forward", "jacobian", "chunk", "rot6d"):
            for dtype in (torch.float32, torch.float64) if name in ("forward", "jacobian") else (torch.float32,):
                rows = SIZES[size] // (10 if name == "chunk" else 1)  # a chunk is 50 rows of its own
                if args.only in ("", name):
                    one(build(name, rows, urdf, args.device, dtype), size)
                    if args.device == "cuda":
                        torch.cuda.empty_cache()
    if args.only in ("", "inverse"):
        measure_inverse(urdf, bench, log, args, where)
    print(f"wrote {args.out}: {len(log.rows)} rows")
    return 0 if log.rows else 1


if __name__ == "__main__":
    sys.exit(main())
