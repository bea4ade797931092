"""Energy: joules per gigabyte moved and per million rows, of every kernel and its peers, from the card's own counter.

    python benchmarks/energy.py --out benchmarks/results/energy.csv [--seconds 2]

Everyone runs alone for a while, over the rotating input sets of gpu_common, so that the counter (millijoules, some tens
of updates a second) has enough to count; clocks and power limit are as they are found. ``idle`` is the card with
nothing to do, ``copy`` a copy of 2 GiB. ``joules_gb`` divides by the bytes that an alignment must move (bytes_model:
ideal), so it compares those who do the same; ``joules_gb_over_idle`` takes the idle power off first. The CPU's energy
is read from RAPL where the machine has it; where it has not, a row says so.

Cases: the large ones that configs/large.json marks ``must_show``, and one of each other mode.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu_common
import torch
from baselines import BASELINES
from bytes_model import bytes_of
from cases import Batch, Case, load
from common import CsvLog
from gpu_common import Bench
from throughput import OURS, prepare

RAPL = Path("/sys/class/powercap")
#: The usual one and the strongest; to build what torch.compile makes of a case takes longer than all of these loops.
PEERS = ("pytorch eager", "triton")
BETWEEN_MS = 50.0  # of queued calls between two looks at the clock


class Counter:
    """The energy that a card has used, from NVML."""

    def __init__(self, device: int = 0) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._handle = ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        self._check(self._nvml.nvmlInit_v2())
        self._check(self._nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(self._handle)))

    def joules(self) -> float:
        millijoules = ctypes.c_ulonglong()
        self._check(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules)))
        return millijoules.value / 1e3

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise OSError(f"NVML says {status}")


def run(call: Callable[[Any], object], sets: Sequence[Any], seconds: float, counter: Counter) -> dict[str, float]:
    """Calls, joules and seconds of a loop of about ``seconds``, the last call awaited."""
    call(sets[0])
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call(sets[0])
    torch.cuda.synchronize()
    together = max(int(BETWEEN_MS / 1e3 / (time.perf_counter() - begin)), 1)
    calls, start, first = 0, time.perf_counter(), counter.joules()
    while time.perf_counter() - start < seconds:
        for k in range(together):
            call(sets[(calls + k) % len(sets)])
        calls += together
        torch.cuda.synchronize()
    return {"calls": calls, "joules": counter.joules() - first, "seconds": time.perf_counter() - start}


def cases() -> list[Case]:
    """Shapes with a limit of their own, and one of each other mode."""
    found, modes = [], set()
    for case in load(("large",)):
        new = not case.modes <= modes
        if case.spec.get("must_show") or new:
            found.append(case)
        if case.dtype == "f32":  # the last of a shape's two
            modes |= case.modes
    return found


def measure(case: Case, log: CsvLog, counter: Counter, idle: float, seconds: float) -> None:
    batch = case.build("cuda")
    out, valid = batch.aligned()
    moved = bytes_of(batch, out, valid).ideal
    count = gpu_common.sets_needed(batch.input_bytes + out.nbytes + valid.nbytes, "cuda")
    del out, valid
    calls: dict[str, Callable[[Batch], object]] = {OURS: Batch.aligned}
    for who in PEERS:
        if who in case.peers(list(BASELINES)):
            call, _ = prepare(case, who, batch, "cuda")
            if call is not None:
                calls[who] = call
    sets = [batch, *(batch.copy() for _ in range(count - 1))]
    about = {"phase": case.phase, "case": case.name, "dtype": case.dtype}
    for who, call in calls.items():
        write(log, {**about, "who": who}, run(call, sets, seconds, counter), moved, batch.targets.numel(), idle)


def write(log: CsvLog, about: dict[str, object], found: dict[str, float], moved: int, rows: int, idle: float) -> None:
    watts = found["joules"] / found["seconds"]
    gigabytes, millions = found["calls"] * moved / 1e9, found["calls"] * rows / 1e6
    log.write(
        {
            **about,
            "watts": f"{watts:.1f}",
            "idle_watts": f"{idle:.1f}",
            "joules_gb": f"{found['joules'] / gigabytes:.4f}" if moved else "",
            "joules_gb_over_idle": f"{(found['joules'] - idle * found['seconds']) / gigabytes:.4f}" if moved else "",
            "joules_million_rows": f"{found['joules'] / millions:.5f}" if rows else "",
            "ms_a_call": f"{found['seconds'] * 1e3 / found['calls']:.4f}" if found["calls"] else "",
            **{key: f"{value:.3f}" for key, value in found.items()},
            **gpu_common.environment("cuda"),
        }
    )
    print(
        f"{about['case']} {about['dtype']}, {about['who']}: {watts:.0f} W"
        + (f", {found['joules'] / gigabytes:.3f} J/GB" if moved else ""),
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each loop")
    args = parser.parse_args()
    log, counter, bench = CsvLog(args.out), Counter(), Bench("cuda")
    torch.cuda.synchronize()
    time.sleep(1)  # until the clocks have fallen
    start, first = time.perf_counter(), counter.joules()
    time.sleep(max(args.seconds, 2))
    rest = {"calls": 0.0, "joules": counter.joules() - first, "seconds": time.perf_counter() - start}
    idle = rest["joules"] / rest["seconds"]
    nothing = {"phase": "", "case": "", "dtype": ""}
    write(log, {**nothing, "who": "idle"}, rest, 0, 0, idle)
    _, copied = bench.copy()
    source = torch.empty(copied // 2, dtype=torch.uint8, device="cuda").random_()
    pair = (source, torch.empty_like(source))
    found = run(lambda pair: pair[1].copy_(pair[0]), [pair], args.seconds, counter)
    write(log, {**nothing, "who": "copy"}, found, copied, 0, idle)
    del source, pair
    for case in cases():
        measure(case, log, counter, idle, args.seconds)
    if not any(RAPL.glob("intel-rapl*/energy_uj")):
        print(f"no {RAPL}/intel-rapl*/energy_uj here: the processor's energy was not measured")
        log.write(dict.fromkeys(log.rows[0], "") | {"who": "CPU: no RAPL on this machine"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
