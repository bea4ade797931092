"""Builds the extension in variants (compile-time switches of the kernels) and times the same cases with each.

    python benchmarks/ablations.py --out benchmarks/results/ablations.csv
    python benchmarks/ablations.py --variant "no streaming stores=-DNAME=0" --only "D32 linear bf16" --out ...

Variants and cases: configs/ablations.json; both value dtypes of each case, which is the BF16 against FP32 comparison.
Each variant is built into build/ablations/NAME, with setup.py and ROBOCACHE_NVCC_FLAGS, all at once, and runs in a
process of its own. The processes take turns, a few calls at a time in shuffled order, so that a
slow moment of the machine falls on all. A variant that does not build or fails gets a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path(__file__).resolve().parent / "configs" / "ablations.json"
BUILDS = ROOT / "build" / "ablations"
ROUNDS, CALLS = 6, 6


def build(name: str, flags: str) -> Path:
    """The folder that goes on PYTHONPATH. ``CalledProcessError`` where the compiler refuses."""
    folder = BUILDS / re.sub(r"\W+", "_", name)
    shutil.rmtree(folder, ignore_errors=True)
    environment = {**os.environ, "ROBOCACHE_NVCC_FLAGS": flags}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder / "temp"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    shutil.copytree(
        ROOT / "robocache",
        folder / "robocache",
        ignore=shutil.ignore_patterns("_C.*", "__pycache__"),
        dirs_exist_ok=True,
    )
    return folder


class Worker:
    """A process that times one build; a JSON line in, a JSON line out."""

    def __init__(self, folder: Path, device: str) -> None:
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", device],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return json.loads(answer) if answer else {"error": f"the process ended: {self._process.poll()}"}

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def work(device: str) -> None:
    """The worker: answers until its input ends."""
    import cases
    import gpu_common
    from bytes_model import bytes_of

    from robocache.ops import _library

    bench = gpu_common.Bench(device)
    sets: list[cases.Batch] = []
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if "open" in request:
                sets = []
                if device == "cuda":
                    gpu_common.torch.cuda.empty_cache()
                phase, size, name, dtype = request["open"]
                case = next(c for c in cases.load([size]) if (c.phase, c.name, c.dtype) == (phase, name, dtype))
                batch = case.build(device)
                out, valid = batch.aligned()
                moved = bytes_of(batch, out, valid)
                count = gpu_common.sets_needed(batch.input_bytes + out.nbytes + valid.nbytes, device)
                del out, valid
                sets = [batch, *(batch.copy() for _ in range(count - 1))]
                answer = {"bytes_sectors": moved.sectors, "extension": _library.available()}
            elif "copy" in request:
                times, size = gpu_common.Bench(device).copy()  # its 4 GiB are free again afterwards
                answer = {"gb_s": size / times.median / 1e6, "environment": gpu_common.environment(device)}
            else:
                times, failed = bench.measure({"ours": cases.Batch.aligned}, sets, request["calls"])
                answer = {"ms": times["ours"].ms} if not failed else {"error": failed["ours"]}
        except Exception as error:  # the driver writes it into the variant's row
            answer = {"error": gpu_common.reason(error)}
        print(json.dumps(answer), flush=True)


def run(workers: dict[str, Worker], key: tuple[str, str, str, str], why: dict[str, str]) -> tuple[dict[str, list], int]:
    """Milliseconds of each variant that works on this case, and the bytes that it moves."""
    times: dict[str, list] = {}
    size = 0
    for name, worker in workers.items():
        answer = worker.ask(open=key)
        if "error" in answer:
            why[name] = answer["error"]
        else:
            times[name], size = [], answer["bytes_sectors"]
    for k in range(ROUNDS):
        order = list(times)
        random.Random(k).shuffle(order)
        for name in order:
            answer = workers[name].ask(calls=CALLS)
            if "error" in answer:
                why[name] = answer["error"]
                del times[name]
            else:
                times[name] += answer["ms"]
    return times, size


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] == "--worker":
        work(sys.argv[2])
        return 0
    import cases
    import gpu_common

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--device", default=gpu_common.default_device(), choices=("cuda", "cpu"))
    parser.add_argument("--variant", action="append", default=[], help="NAME=FLAGS, beside those of the configuration")
    parser.add_argument("--sizes", nargs="+", default=["large"], choices=cases.SIZES)
    parser.add_argument("--only", action="append", help="instead of the configuration's cases")
    args = parser.parse_args()
    config = json.loads(CONFIG.read_text())
    variants = {v["name"]: v["flags"] for v in config["variants"]} | dict(v.split("=", 1) for v in args.variant)
    log = common.CsvLog(args.out)
    workers, refused = {}, {}
    with ThreadPoolExecutor() as pool:
        builds = {name: pool.submit(build, name, flags) for name, flags in variants.items()}
    for name, built in builds.items():
        try:
            workers[name] = Worker(built.result(), args.device)
            print(f"built: {name} {variants[name]}", flush=True)
        except subprocess.CalledProcessError as error:
            refused[name] = "does not build: " + " ".join((error.stderr or error.stdout or "").split())[-200:]
            print(f"{name}: {refused[name]}", flush=True)
    if not workers:
        return 1
    yardstick = next(iter(workers))
    copy = {name: worker.ask(copy=True) for name, worker in workers.items()}[yardstick]  # all alike, so all copy
    wanted = args.only or config["cases"]
    for case in cases.load(args.sizes):
        if not any(text in f"{case.phase} {case.name} {case.dtype}" for text in wanted):
            continue
        why = dict(refused)
        times, size = run(workers, (case.phase, case.size, case.name, case.dtype), why)
        for name, flags in variants.items():
            about = {"phase": case.phase, "size": case.size, "case": case.name, "dtype": case.dtype, "variant": name}
            found = gpu_common.Times(times.get(name, [1.0]))
            base = gpu_common.Times(times.get(yardstick, [])) if yardstick in times else None
            numbers: dict[str, object] = {
                **found.columns(),
                "share_sectors": f"{size / found.median / 1e6 / copy['gb_s']:.4f}",
                "times_first": f"{found.median / base.median:.4f}" if base else "",
            }
            if name not in times:
                numbers = dict.fromkeys(numbers, "")
            status = why.get(name, "ok")
            log.write({**about, "flags": flags, "status": status, **numbers, **copy["environment"]})
            shown = f"{numbers['median_ms']} ms, {numbers['times_first']} of the first" if name in times else status
            print(f"{case.name} {case.dtype}: {name}: {shown}", flush=True)
    for worker in workers.values():
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
