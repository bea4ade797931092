"""How ray mode scales from one GPU worker to as many as there are GPUs, each on a card of its own.

    python benchmarks/ray_gpus.py FOLDER --out benchmarks/results/ray_gpus.csv

The work of ray_overhead.py (30 s logs, decoded on the CPU, aligned to 4 kHz on the GPU, encoded on the CPU), a shard a
log. ``seconds`` is the whole run, start of the workers included; ``steady`` is rows a second between the commits of
the first and the last tenth of the shards. Copies of the same few logs: they stay in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import common
import ray
import ray_overhead
import torch

from robocache.config.job import ClusterSpec, Job
from robocache.engine.process import Processor
from robocache.engine.run import Progress


def measured(job: Job, refs: list, workers: int, cpus: float) -> tuple[float, float]:
    cluster = ClusterSpec(mode="ray", workers=workers, gpus_per_worker=1, cpus_per_worker=cpus, memory_mb=2000)
    job = replace(job, cluster=cluster, compute=replace(job.compute, device="cuda", require_extension=True))
    seen: list[tuple[float, Progress]] = []
    began = time.perf_counter()
    ray_overhead.whole_run(
        job, lambda: refs, Processor, overwrite=True, progress=lambda p: seen.append((time.perf_counter(), p))
    )
    seconds = time.perf_counter() - began
    low = next(s for s in seen if s[1].episodes >= len(refs) // 10)
    high = next(s for s in seen if s[1].episodes >= len(refs) - len(refs) // 10)
    return seconds, (high[1].rows - low[1].rows) / (high[0] - low[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=4.0, help="a worker")
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()
    cards = torch.cuda.device_count()
    args.folder.mkdir(parents=True, exist_ok=True)
    job, refs = ray_overhead.work(args.folder, args.shards)
    ray.init(address="local", include_dashboard=False, object_store_memory=100_000_000)
    counts = [n for n in (1, 2, 4, 8) if n <= cards]
    found: dict[int, list[tuple[float, float]]] = {n: [] for n in counts}
    for _ in range(args.repetitions):
        for n in counts:
            found[n].append(measured(job, refs, n, args.cpus))
    ray.shutdown()
    rows = []
    alone = statistics.median(steady for _, steady in found[1])
    for n in counts:
        seconds, steady = (statistics.median(column) for column in zip(*found[n], strict=True))
        print(f"{n} GPUs: {seconds:.1f} s, {steady:,.0f} rows/s steady, {steady / alone:.2f} x one", flush=True)
        spread = {"rows_per_s_min": min(s for _, s in found[n]), "rows_per_s_max": max(s for _, s in found[n])}
        rows.append(
            {"gpus": n, "shards": args.shards, "seconds": f"{seconds:.2f}", "rows_per_s": f"{steady:.0f}"}
            | {k: f"{v:.0f}" for k, v in spread.items()}
            | {"over_one": f"{steady / alone:.3f}", "n": args.repetitions, "gpu": torch.cuda.get_device_name()}
        )
    about = {**common.machine("ray", "torch", "numpy", "pyarrow"), "commit": ray_overhead.commit()}
    common.write_csv(args.out, [{**row, **about} for row in rows])


if __name__ == "__main__":
    main()
