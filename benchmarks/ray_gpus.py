"""How ray mode and Ray Data scale from one GPU worker to as many as there are cards, each on a card of its own.

    python benchmarks/ray_gpus.py FOLDER --out benchmarks/results/ray_gpus.csv

FOLDER holds the logs (96 sample logs of 60 s, 1 GB, made once) and links to them, so that so many gigabytes a worker
are read from memory; put it on a tmpfs. The work grows with the workers, so ``over_one`` is as many at best.

``demo``      configs/demo.yaml: reading and decoding decide
``4 kHz``     the same with timeline.rate_hz=4000: aligning, encoding and writing decide
``Ray Data``  EpisodeDatasource and AlignEpisodes in map_batches, a batch an episode
``voxels``, ``kinematics``  kernels alone, from device memory, at the same time on every card: work a second

``gb_s`` and ``rows_s`` are of the whole run, workers' start included; ``steady_rows_s`` between the commits of the
first and the last tenth. ``driver_s``: processor seconds of this process. ``shares``: where the workers' time went.
At the widest, a worker is killed in mid-run, and a card gets a fault that ends its context: ``killed`` and ``fault``
say whether the parts are those of one worker.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import common
import ray
import torch
from many_logs import linked

from robocache import AlignEpisodes, EpisodeDatasource
from robocache.config.load import load_job
from robocache.engine import run as engine
from robocache.engine.align import Aligner, Begun
from robocache.engine.process import Processor
from robocache.types import Episode

CONFIG = str(Path(__file__).resolve().parent.parent / "configs" / "demo.yaml")


def digest(out: Path) -> str:
    found = hashlib.sha256()
    for path in sorted((out / "data").iterdir()):
        found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class FaultyAligner(Aligner):
    """One assertion in a kernel, which ends the context of a card, at the episode with that number."""

    at: int = 0
    folder: str = ""

    def begin(self, index: int, episode: Episode) -> Begun:
        if index == self.at:
            try:
                (Path(self.folder) / "happened").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                torch.zeros(4, device=self.device)[torch.tensor([9], device=self.device)].cpu()
        return super().begin(index, episode)


@dataclass(frozen=True)
class Faulty(Processor):
    at: int = 0
    folder: str = ""

    @cached_property
    def aligner(self) -> Aligner:
        return FaultyAligner(self.job, self.types, self.device, self.at, self.folder)


def whole_run(source: Path, out: Path, workers: int, cpus: float, settings: list[str], watch: Any = None) -> dict:
    shutil.rmtree(out, ignore_errors=True)
    ray_mode = ["cluster.mode=ray", f"cluster.workers={workers}", "cluster.gpus_per_worker=1"]
    ray_mode += [f"cluster.cpus_per_worker={cpus:g}", "cluster.memory_mb=8000", "compute.device=cuda"]
    job = load_job(CONFIG, [f"input.uri={source}", f"output.uri={out}", *ray_mode, *settings])
    seen: list[tuple[float, engine.Progress]] = []

    def progress(p: engine.Progress) -> None:
        seen.append((time.perf_counter(), p))
        if watch is not None:
            watch(p)

    began, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    summary = engine.run(job, progress=progress)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    low = next(s for s in seen if s[1].episodes >= max(1, summary.episodes // 10))
    high = next(s for s in seen if s[1].episodes >= summary.episodes - summary.episodes // 10)
    whole = sum(summary.stages.values())
    return {
        "seconds": seconds,
        "gb_s": summary.bytes_in / 1e9 / seconds,
        "rows_s": summary.rows / seconds,
        "steady_rows_s": (high[1].rows - low[1].rows) / max(1e-9, high[0] - low[0]),
        "driver_s": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime,
        "shares": ", ".join(f"{name} {100 * s / whole:.0f} %" for name, s in summary.stages.items() if s > whole / 100),
        "quarantined": len(summary.quarantined),
    }


def ray_data(source: Path, workers: int) -> dict:
    began = time.perf_counter()
    episodes = EpisodeDatasource(CONFIG, [f"input.uri={source}", "compute.device=cuda"])
    rows = ray.data.read_datasource(episodes).map_batches(
        AlignEpisodes,
        fn_constructor_args=(episodes.processor, str(source.parent / "quarantine")),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1,
        batch_format="pyarrow",
        batch_size=1,
    )
    count = sum(block.num_rows for block in rows.iter_batches(batch_size=None, batch_format="pyarrow"))
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in source.rglob("*.mcap"))
    return {"seconds": seconds, "gb_s": size / 1e9 / seconds, "rows_s": count / seconds}


@ray.remote(num_gpus=1, num_cpus=1)
def kernel(kind: str, urdf: str, tip: str, start: float, seconds: float) -> float:
    """Work a second of one card, from ``start`` on by the clock."""
    import robocache

    numbers = torch.Generator(device="cuda").manual_seed(0)
    if kind == "voxels":
        points = torch.rand(64 * 100_000, 3, generator=numbers, device="cuda") * 10
        offsets = torch.arange(0, 64 * 100_000 + 1, 100_000, device="cuda")
        bounds = ((0.0, 0.0, 0.0), (10.0, 10.0, 10.0))
        work = partial(robocache.voxelize, points, voxel_size=10 / 128, bounds=bounds, offsets=offsets)
        each = len(points)
    else:
        chain = robocache.KinematicChain.from_urdf(urdf, tip=tip)
        q = torch.rand(1_000_000, len(chain.joint_names), generator=numbers, device="cuda")
        work, each = partial(chain.forward, q), len(q)
    work()
    torch.cuda.synchronize()
    while time.time() < start:
        time.sleep(0.001)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(20):
            work()
        torch.cuda.synchronize()
        done += 20 * each
    return done / (time.perf_counter() - began)


def killer(after: int) -> Any:
    """Kills one of the busiest workers once so many episodes are committed."""
    done = threading.Event()

    def watch(progress: engine.Progress) -> None:
        if progress.episodes >= after and not done.is_set():
            done.set()
            named = ((path, path.read_bytes()) for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
            pid = next(int(path.parent.name) for path, name in named if name.startswith(b"ray::Worker"))
            os.kill(pid, signal.SIGKILL)
            print("killed", pid, flush=True)

    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="a worker")
    parser.add_argument("--cpus", type=float, default=14.0, help="a worker")
    parser.add_argument("--urdf", type=Path, help="of a robot, for kinematics")
    parser.add_argument("--tip", default="panda_hand", help="a link of it")
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cards = torch.cuda.device_count()
    counts = [n for n in (1, 2, 4, 8) if n <= cards]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    about = {"gpu": torch.cuda.get_device_name(), **common.machine("ray", "torch", "pyarrow")}
    rows: list[dict[str, object]] = []
    one: dict[str, float] = {}

    def told(case: str, n: int, found: dict[str, Any], of: str = "rows_s") -> None:
        one.setdefault(case, found[of])
        found = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found.items()}
        found |= {"case": case, "workers": n, "over_one": f"{float(found[of]) / one[case]:.3f}"}
        print(found, flush=True)
        rows.append(found)
        keys = list(dict.fromkeys(key for row in rows for key in row))
        common.write_csv(args.out, [{key: row.get(key, "") for key in keys} | about for row in rows])

    ray.init(address="local", include_dashboard=False, object_store_memory=8_000_000_000)
    out = args.folder / "out"
    few = min(2.0, args.gigabytes)
    for n in counts:
        told("demo", n, whole_run(linked(args.folder, n * args.gigabytes), out, n, args.cpus, []), "steady_rows_s")
    for n in counts:
        source = linked(args.folder, n * few / 4)
        settings = ["timeline.rate_hz=4000", "output.shard_mb=16"]
        told("4 kHz", n, whole_run(source, out, n, args.cpus, settings), "steady_rows_s")
    for kind in ("voxels", *(["kinematics"] if args.urdf else [])):
        for n in counts:
            urdf = args.urdf.read_text() if args.urdf else ""
            start = time.time() + 12
            rates = ray.get([kernel.remote(kind, urdf, args.tip, start, 2.0) for _ in range(n)])
            told(kind, n, {"rows_s": sum(rates)})
    small = linked(args.folder, few)
    whole_run(small, out, 1, args.cpus, ["output.shard_mb=32"])
    expected, episodes = digest(out), len(list(small.rglob("*.mcap")))
    found = whole_run(small, out, counts[-1], args.cpus, ["output.shard_mb=32"], killer(episodes // 3))
    told("killed", counts[-1], found | {"same": digest(out) == expected})
    with tempfile.TemporaryDirectory() as folder:
        saved = engine.Processor
        engine.Processor = partial(Faulty, at=episodes // 2, folder=folder)  # type: ignore[assignment,misc]
        found = whole_run(small, out, counts[-1], args.cpus, ["output.shard_mb=32"])
        engine.Processor = saved  # type: ignore[misc]
        told("fault", counts[-1], found | {"same": digest(out) == expected})
    for n in counts:
        told("Ray Data", n, ray_data(linked(args.folder, n * few), n))
    ray.shutdown()


if __name__ == "__main__":
    main()
