"""How fast does RoboCache align and fuse, what share of a copy is that, and how do its peers do on the same data?

    python benchmarks/throughput.py resample --out benchmarks/results/phase1_trajectory.csv
    python benchmarks/throughput.py fuse     --out benchmarks/results/phase2_multimodal.csv

Cases are those of configs/{small,medium,large}.json; docs/benchmarks/REPRODUCING.md has the protocol and the columns.
A peer that cannot do a case, fails, or is wrong gets a row whose status says so. Rows are on disk as soon as they are
measured. A fault that ends the CUDA context (a wild access, say) starts the program anew without the peer at fault.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import checking
import gpu_common
import torch
from baselines import BASELINES
from bytes_model import Bytes, bytes_of
from cases import SIZES, Batch, Case, load
from common import CsvLog
from gpu_common import Bench, Times
from torch import Tensor

OURS = "robocache"
#: Compiled or tuned for every case, which takes seconds; dropped when the time is up.
SLOW_TO_BUILD = ("torch.compile", "triton")


class Stuck(Exception):
    """The CUDA context is gone."""

    def __init__(self, who: str, why: str) -> None:
        super().__init__(f"{who}: {why}")
        self.who = who


def prepare(
    case: Case, who: str, batch: Batch, device: str
) -> tuple[Callable[[Batch], tuple[Tensor, Tensor]] | None, str]:
    """A peer that is known to be right on this case, or why there is none."""
    baseline = BASELINES[who]
    if why := baseline.unsupported(case, device):
        return None, why
    try:
        call = baseline.build(batch)
        why = checking.wrong(batch, *call(batch))
        gpu_common.synchronize(device)
    except Exception as error:  # a peer may fail in any way: its row says how
        _raise_if_stuck(who, error, device)
        return None, gpu_common.reason(error)
    return (None, f"wrong: {why}") if why else (call, "")


def _raise_if_stuck(who: str, error: Exception, device: str) -> None:
    try:
        gpu_common.synchronize(device)
    except Exception:
        raise Stuck(who, gpu_common.reason(error)) from error


class Run:
    def __init__(self, log: CsvLog, device: str, bench: Bench, args: argparse.Namespace) -> None:
        self._log, self._device, self._bench, self._args = log, device, bench, args
        self._begin = time.monotonic()
        self._nothing = bench.nothing()
        self._where = gpu_common.environment(device)

    def case(self, case: Case) -> None:
        done = {row["who"] for row in self._log.rows if _key(row) == (case.size, case.name, case.dtype)}
        if OURS in done:
            return
        begin = time.monotonic()
        batch = case.build(self._device)
        out, valid = batch.aligned()
        moved = bytes_of(batch, out, valid)
        if why := checking.wrong(batch, out, valid):
            sys.exit(f"{case.name} {case.dtype}: robocache is wrong: {why}")
        per_set = batch.input_bytes + out.nbytes + valid.nbytes
        del out, valid
        calls: dict[str, Callable[[Batch], object]] = {OURS: Batch.aligned}
        why_not: dict[str, str] = {}
        for who in case.peers(list(BASELINES)) if not self._args.no_peers else []:
            if who in done:
                continue
            if who in self._args.skip:
                continue
            late = who in SLOW_TO_BUILD and time.monotonic() - self._begin > self._args.time_limit
            if who in self._args.stuck or late:
                why_not[who] = "the run's time limit was reached" if late else "ended the CUDA context before"
                continue
            call, why = prepare(case, who, batch, self._device)
            if call is None:
                why_not[who] = why
            else:
                calls[who] = call
        copy, copy_bytes = self._bench.copy()
        count = gpu_common.sets_needed(per_set, self._device)
        sets = [batch, *(batch.copy() for _ in range(count - 1))]
        times, failed = self._bench.measure(calls, sets, self._args.repetitions)
        gpu_common.synchronize(self._device)
        copy_speed = copy_bytes / copy.median / 1e6
        about = {
            "phase": case.phase,
            "size": case.size,
            "case": case.name,
            "dtype": case.dtype,
            "must_show": case.spec.get("must_show", False),
        }
        rest = {
            "bytes_ideal": moved.ideal,
            "bytes_sectors": moved.sectors,
            "bytes_pieces": moved.pieces,
            "sets": count,
            "set_bytes": per_set,
            "copy_gb_s": f"{copy_speed:.1f}",
            "copy_median_ms": f"{copy.median:.6f}",
            "nothing_median_ms": f"{self._nothing.median:.6f}",
            **self._where,
        }
        for who in (OURS, *BASELINES):
            if who in times:
                numbers = _numbers(times[who], times.get(OURS), moved, copy_speed)
                self._log.write({**about, "who": who, "status": "ok", **numbers, **rest})
            elif who in why_not or who in failed:
                status = why_not.get(who) or failed[who]
                self._log.write({**about, "who": who, "status": status, **dict.fromkeys(NUMBERS, ""), **rest})
        self._say(case, times, {**why_not, **failed}, moved.sectors, copy_speed, time.monotonic() - begin)

    @staticmethod
    def _say(
        case: Case, times: dict[str, Times], why_not: dict[str, str], size: int, copy_speed: float, seconds: float
    ) -> None:
        ours = times[OURS].median
        peers = ", ".join(f"{who} {t.median / ours:.2f}x" for who, t in times.items() if who != OURS)
        share = size / ours / 1e6 / copy_speed
        print(
            f"{case.size:6} {case.name} {case.dtype}: {ours:.4f} ms, {share:.1%} of a copy; {peers} [{seconds:.1f} s]",
            flush=True,
        )
        for who, why in why_not.items():
            print(f"       {who}: {why}", flush=True)


def _numbers(times: Times, ours: Times | None, moved: Bytes, copy_speed: float) -> dict[str, object]:
    ms = times.median
    return {
        **times.columns(),
        "gb_s_ideal": f"{moved.ideal / ms / 1e6:.1f}",
        "gb_s_sectors": f"{moved.sectors / ms / 1e6:.1f}",
        "share_ideal": f"{moved.ideal / ms / 1e6 / copy_speed:.4f}",
        "share_sectors": f"{moved.sectors / ms / 1e6 / copy_speed:.4f}",
        "share_pieces": f"{moved.pieces / ms / 1e6 / copy_speed:.4f}",
        "times_robocache": f"{ms / ours.median:.3f}" if ours else "",
    }


NUMBERS = tuple(_numbers(Times([1.0, 1.0]), Times([1.0]), Bytes(1, 1, 1), 1.0))


def _key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["size"], row["case"], row["dtype"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("resample", "fuse"))
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--only", default="", help='cases whose "phase name dtype" holds this')
    parser.add_argument("--device", default=gpu_common.default_device(), choices=("cuda", "cpu"))
    parser.add_argument("--repetitions", type=int, default=gpu_common.REPETITIONS)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--skip", nargs="*", default=[], help="peers to leave out")
    parser.add_argument("--stuck", nargs="*", default=[], help="peers that ended the CUDA context (set by itself)")
    parser.add_argument("--time-limit", type=float, default=150, help="seconds after which no slow build is begun")
    parser.add_argument("--append", action="store_true", help="go on with the file: its cases are not measured again")
    args = parser.parse_args()
    if args.device == "cuda":
        torch.cuda.init()
    log = CsvLog(args.out, append=args.append)
    begin = time.monotonic()
    bench = Bench(args.device)
    run = Run(log, args.device, bench, args)
    # Large first: they are what the time limit must not cut.
    cases = [case for size in reversed(args.sizes) for case in load([size], args.only) if case.phase == args.phase]
    for case in cases:
        try:
            run.case(case)
        except Stuck as stuck:
            print(f"{stuck}: starting anew without it", flush=True)
            left = max(1.0, args.time_limit - (time.monotonic() - begin))
            again = [a for a in sys.argv[1:] if a != "--append"]
            os.execv(
                sys.executable,
                [
                    sys.executable,
                    sys.argv[0],
                    *again,
                    "--append",
                    "--time-limit",
                    str(left),
                    "--skip",
                    *args.skip,
                    stuck.who,
                ],
            )
        except torch.OutOfMemoryError as error:
            print(f"{case.size:6} {case.name} {case.dtype}: not measured: {gpu_common.reason(error)}", flush=True)
        if args.device == "cuda":
            torch.cuda.empty_cache()
    good = [float(row["share_sectors"]) for row in log.rows if row["who"] == OURS and row["status"] == "ok"]
    if not good:
        print(f"no case holds {args.only!r}")
        return 1
    middle = statistics.median(good)
    print(f"wrote {args.out}: {len(log.rows)} rows of {len(good)} cases, median share of a copy {middle:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
