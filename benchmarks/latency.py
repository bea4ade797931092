"""What a small call costs: on the device under CUDA graph replay, and on the host as an eager Python call.

    python benchmarks/latency.py --out benchmarks/results/latency.csv

``graph``  a CUDA graph of 20 calls, replayed; device time a call, by the protocol of gpu_common (device events, replays
           of everyone in turn). ``empty kernel`` is the same graph of 20 kernels that do nothing. Inputs are in L2.
``host``   wall-clock time of one eager call that is enqueued on an idle device and not waited for: 20 calls in a row,
           a 20th of their time, median over some rounds. Of RoboCache's call also its parts: ``robocache op`` is what
           the public function calls in the end, with the same arguments; the difference is the Python wrapper. ``torch
           op`` is the same operator through ``torch.ops``, ``torch empty`` one of its two allocations.
``turns``  as ``host``, but everyone calls once in turn, so that each finds the processor's caches full of others' code.

Cases: configs/small.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu_common
import torch
from baselines import BASELINES
from cases import Batch, Case, load
from common import CsvLog
from gpu_common import Bench, Times
from throughput import OURS, prepare
from torch.utils._python_dispatch import TorchDispatchMode

from robocache.ops import _fuse, fuse_multimodal, resample_trajectories

CALLS_A_GRAPH = 20
HOST_CALLS = 400
IDLE_EVERY = 20  # calls, then wait: the launch queue must not fill


class Recorder(TorchDispatchMode):
    """Keeps the last call of a robocache operator: the operator and its arguments."""

    call: tuple[Any, tuple, dict] | None = None

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "robocache":
            self.call = func, args, kwargs or {}
        return func(*args, **(kwargs or {}))


def eager_calls(case: Case, batch: Batch) -> dict[str, Callable[[], object]]:
    """As a user writes it."""
    if case.phase == "fuse":
        return {OURS: lambda: fuse_multimodal(batch.streams, batch.targets, validate=False)}
    (values, times, mode, *_), targets = batch.streams[0], batch.targets
    return {
        OURS: lambda: resample_trajectories(values, times, targets, mode=mode, validate=False),
        "robocache with valid": lambda: resample_trajectories(
            values, times, targets, mode=mode, return_valid=True, validate=False
        ),
    }


def operator_calls(call: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """The operator that ``call`` ends in, with its arguments: as the package calls it, and through ``torch.ops``."""
    with Recorder() as recorder:
        call()
    if recorder.call is None:
        raise RuntimeError("no robocache operator was called")
    operator, args, kwargs = recorder.call
    return {
        "robocache op": lambda: _fuse.fuse(_fuse.Arguments(*args, **kwargs)),
        "torch op": lambda: operator(*args, **kwargs),
    }


def host_times(calls: dict[str, Callable[[], object]], device: str, together: int, count: int) -> dict[str, Times]:
    """Milliseconds until a call returns, in turns; ``together`` calls in a row each."""
    times = {name: Times() for name in calls}
    for k in range(-3, count // together):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(together):
                result = call()
            took = time.perf_counter() - begin
            del result
            if k >= 0:
                times[name].ms.append(took * 1e3 / together)
            if together > 1:
                gpu_common.synchronize(device)
        if k % IDLE_EVERY == 0:
            gpu_common.synchronize(device)
    return times


def empty_kernel() -> Callable[[], None]:
    import cupy

    kernel = cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")

    def launch() -> None:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            kernel((1,), (32,), ())

    return launch


def graph_of(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_A_GRAPH):
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def measure(case: Case, bench: Bench, log: CsvLog, where: dict[str, object]) -> None:
    batch = case.build("cuda")
    eager = eager_calls(case, batch)
    about = {"phase": case.phase, "size": case.size, "case": case.name, "dtype": case.dtype}
    calls: dict[str, Callable[[], object]] = {OURS: eager[OURS]}
    for who in case.peers(list(BASELINES)):
        call, why = prepare(case, who, batch, "cuda")
        if call is None:
            print(f"       {who}: {why}")
        else:
            calls[who] = lambda call=call: call(batch)
    graphs: dict[str, torch.cuda.CUDAGraph] = {}
    for who, call in {"empty kernel": empty_kernel(), "torch fill of 1": _fill_one(), **calls}.items():
        try:
            graphs[who] = graph_of(call)
        except Exception as error:  # a peer that cannot be captured
            print(f"       {who} in a graph: {gpu_common.reason(error)}")
            torch.cuda.synchronize()
    replays = {who: lambda _, g=graph: g.replay() for who, graph in graphs.items()}
    times, _ = bench.measure(replays, [None], 60)
    empty = times["empty kernel"].median if "empty kernel" in times else times["torch fill of 1"].median
    for who, found in times.items():
        ratio = f"{found.median / empty:.3f}"
        log.write(
            {**about, "measure": "graph", "who": who, **_micro(found, CALLS_A_GRAPH), "times_empty": ratio, **where}
        )
    everyone = {**calls, **eager, **operator_calls(eager[OURS])}
    everyone |= {"torch fill of 1": _fill_one(), "torch empty": _empty(batch)}
    hosts = host_times(everyone, "cuda", IDLE_EVERY, 30 * IDLE_EVERY)
    for measure, found_of in (("host", hosts), ("turns", host_times(everyone, "cuda", 1, HOST_CALLS))):
        for who, found in found_of.items():
            log.write({**about, "measure": measure, "who": who, **_micro(found, 1), "times_empty": "", **where})
    print(
        f"{case.name} {case.dtype}: graph {times[OURS].median * 1e3 / CALLS_A_GRAPH:.2f} us a call, "
        f"{times[OURS].median / empty:.2f} x an empty kernel; host {hosts[OURS].median * 1e3:.1f} us, "
        f"of it the operator {hosts['robocache op'].median * 1e3:.1f} us",
        flush=True,
    )


def _fill_one() -> Callable[[], object]:
    one = torch.zeros(1, device="cuda")
    return lambda: one.fill_(1)


def _empty(batch: Batch) -> Callable[[], object]:
    shape = (*batch.targets.shape, batch.width)
    return lambda: torch.empty(shape, device="cuda")


def _micro(times: Times, calls: int) -> dict[str, object]:
    """The columns in microseconds a call."""
    columns = Times([ms * 1e3 / calls for ms in times.ms], times.ahead).columns()
    return {name.replace("_ms", "_us"): value for name, value in columns.items() if name != "host_ahead"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--only", default="", help='cases whose "phase name dtype" holds this')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: launch and host times were not measured")
        return 0
    log, bench, where = CsvLog(args.out), Bench("cuda"), gpu_common.environment("cuda")
    failed = 0
    for case in load(["small"], args.only):
        try:
            measure(case, bench, log, where)
        except Exception as error:  # the other cases still count
            print(f"{case.name} {case.dtype}: not measured: {gpu_common.reason(error)}", flush=True)
            failed += 1
    print(f"wrote {args.out}: {len(log.rows)} rows, {failed} cases failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
