"""What does ray mode cost beside the work itself: when shards fail, when workers are added, when there is no work?

    python benchmarks/ray_overhead.py FOLDER --out benchmarks/results/ray_overhead.csv

On a Ray cluster of this process's own, of two CPUs; every run a whole one, listing and summing up included.

``clean``, ``5% fail once``  192 real alignments of about 200 ms each on two workers; with the second, the first attempt
                             of every 20th shard ends by an OSError after all its work
``one worker``, ``two``      the same work, a thread a worker (which reads the next log in one more: 8 % of the work)
``no work``                  shards that take no time on two workers, each committed and synced; the driver's resident
                             memory on the way, and a second run that finds everything done

Take the numbers on a quiet machine of two cores or more. FOLDER holds the logs (made once, 40 MB) and the outputs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import ray

from robocache.config.job import ClusterSpec, Job
from robocache.config.load import load_job
from robocache.engine import run as engine
from robocache.engine.process import Processor, ShardResult
from robocache.engine.shards import Shard
from robocache.formats import list_episodes
from robocache.output.manifest import EpisodeRecord, ShardRecord
from robocache.sample import write_samples
from robocache.types import Episode, EpisodeRef

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
SAMPLED_AT = (1_000, 10_000, 50_000, 100_000)


@dataclass(frozen=True)
class Failing(Processor):
    """The first attempt of every ``every``th shard fails as storage does; ``folder`` remembers across processes."""

    folder: str = ""
    every: int = 20

    def process(self, shard: Shard, **options: Any) -> ShardResult:
        result = super().process(shard, **options)
        marker = Path(self.folder) / str(shard.index)
        if shard.index % self.every == self.every // 2 and not marker.exists():
            marker.touch()
            raise OSError(5, "the disk hiccups")
        return result


@dataclass(frozen=True)
class Idle(Processor):
    """Says that its shard is done."""

    @property
    def reading(self) -> Callable[[EpisodeRef], Episode]:
        return self.read

    def read(self, ref: EpisodeRef) -> Episode:
        return Episode(ref.id, {})

    def process(self, shard: Shard, **_: Any) -> ShardResult:
        episodes = tuple(EpisodeRecord(i, ref.id, (), 1, 0, ()) for i, ref in shard.episodes())
        return ShardResult(ShardRecord(shard.index, self.job.identity(), shard.fingerprint(), (), episodes, ()))


def work(folder: Path, shards: int) -> tuple[Job, list[EpisodeRef]]:
    """A job of so many alignments, of few logs: rows at 4 kHz make aligning and encoding most of the work."""
    logs = folder / "logs_8x30s"
    if len(list(logs.glob("*.mcap"))) != 8:
        shutil.rmtree(logs, ignore_errors=True)
        write_samples(logs, episodes=8, seconds=30.0, damaged=False)
    settings = [f"input.uri={logs}/*.mcap", f"output.uri={folder / 'dataset'}", "compute.device=cpu"]
    job = load_job(str(CONFIG), [*settings, "timeline.rate_hz=4000", "output.shard_mb=1"])
    few = list_episodes(job.input)
    refs = [replace(few[i % len(few)], id=f"{i:03d}") for i in range(shards)]
    return job, refs


def whole_run(job: Job, refs: Callable[[], list[EpisodeRef]], processor: Any, **options: Any) -> Any:
    """:func:`robocache.engine.run.run` of these episodes, with this processor in place of its own."""
    saved = engine.list_episodes, engine.Processor
    engine.list_episodes, engine.Processor = (lambda _: refs()), processor  # type: ignore[assignment,misc]
    try:
        return engine.run(job, **options)
    finally:
        engine.list_episodes, engine.Processor = saved  # type: ignore[misc]


def on_workers(job: Job, count: int) -> Job:
    return replace(job, cluster=ClusterSpec(mode="ray", workers=count, gpus_per_worker=0, memory_mb=500))


def with_work(folder: Path, shards: int, repetitions: int) -> list[dict[str, object]]:
    job, refs = work(folder, shards)

    def run(workers: int, processor: Any = Processor) -> None:
        if whole_run(on_workers(job, workers), lambda: refs, processor, overwrite=True).episodes != shards:
            sys.exit("not all episodes came through")

    def failing() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as seen:
            run(2, lambda job, types: Failing(job, types, folder=seen))

    cases = {"clean": lambda: run(2), "5% fail once": failing, "one worker": lambda: run(1)}
    timings = common.take_turns(cases, repetitions)
    timings["two workers"] = timings["clean"]
    ratios = {"5% fail once": ("clean", "5% fail once"), "two workers": ("two workers", "one worker")}
    rows: list[dict[str, object]] = []
    for name, timing in timings.items():
        found = common.ratio(*(timings[n] for n in ratios[name])) if name in ratios else None
        shown = f", ratio {found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]" if found else ""
        print(f"{name:14} {shards} shards in {timing.median:.2f} s{shown}", flush=True)
        keys = ("ratio", "ratio_min", "ratio_max")
        columns = {key: f"{value:.3f}" for key, value in zip(keys, found or (), strict=False)}
        rows.append({"case": name, "shards": shards, **common.timing_columns(timing), **columns})
    return rows


def without_work(folder: Path, shards: int) -> list[dict[str, object]]:
    job = on_workers(load_job(str(CONFIG), ["input.uri=none", f"output.uri={folder / 'idle'}"]), 2)
    job = replace(job, output=replace(job.output, shard_mb=1))
    saved, engine.resolve = engine.resolve, lambda *_: {}
    memory: dict[int, float] = {}
    waiting = [n for n in SAMPLED_AT if n <= shards]

    def sample(progress: engine.Progress) -> None:
        while waiting and progress.episodes >= waiting[0]:
            memory[waiting.pop(0)] = resident_mb()

    def episodes() -> list[EpisodeRef]:
        return [EpisodeRef(f"e{i}", "mcap", (), nbytes=2_000_000) for i in range(shards)]

    def run(**options: Any) -> tuple[float, Any]:
        began = time.perf_counter()
        summary = whole_run(job, episodes, Idle, **options)
        return time.perf_counter() - began, summary

    try:
        seconds, summary = run(overwrite=True, progress=sample)
        again, resumed = run()
    finally:
        engine.resolve = saved
    if (summary.episodes, resumed.skipped_shards) != (shards, shards):
        sys.exit(f"{summary.episodes} of {shards} episodes came through, {resumed.skipped_shards} were found done")
    print(f"no work        {shards} shards in {seconds:.1f} s: {shards / seconds:.0f} shards/s", flush=True)
    print("  driver's resident memory: " + ", ".join(f"{mb:.0f} MB at {n:,}" for n, mb in memory.items()))
    print(f"  a second run: {again:.1f} s, nothing to do")
    held = {f"rss_mb_at_{n}": f"{memory[n]:.0f}" if n in memory else "" for n in SAMPLED_AT}
    rates = {"shards_per_s": f"{shards / seconds:.0f}", "median_ms": f"{seconds * 1e3:.0f}", "n": 1}
    resume = {"case": "no work, second run", "shards": shards, "median_ms": f"{again * 1e3:.0f}", "n": 1}
    return [{"case": "no work", "shards": shards, **rates, **held}, resume]


def resident_mb() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def commit() -> str:
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=CONFIG.parent, capture_output=True, text=True)
    return os.environ.get("ROBOCACHE_COMMIT") or said.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=192, help="that are real work")
    parser.add_argument("--idle-shards", type=int, default=100_000, help="without work; 0: none")
    parser.add_argument("--repetitions", type=int, default=3, help="0: none of those with work")
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    rows: list[dict[str, object]] = []
    if args.idle_shards:
        rows += without_work(args.folder, args.idle_shards)
    if args.repetitions:
        rows += with_work(args.folder, args.shards, args.repetitions)
    ray.shutdown()
    about: Mapping[str, object] = {**common.machine("ray", "torch", "numpy", "pyarrow"), "commit": commit()}
    columns = list(dict.fromkeys(key for row in rows for key in row))
    common.write_csv(args.out, [{**{key: row.get(key, "") for key in columns}, **about} for row in rows])


if __name__ == "__main__":
    main()
