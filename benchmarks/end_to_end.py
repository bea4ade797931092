"""How long does a whole run take, against what no run can avoid: decompressing the logs and writing the result?

    python benchmarks/end_to_end.py CACHE_FOLDER --out benchmarks/results/cpu_end_to_end.csv

94 sample logs of 60 s (1 GB on disk, 1.9 GB of messages) are made once into CACHE_FOLDER; the job is configs/demo.yaml.

``run``             robocache's own run, in this process: list, read, verify checksums, align, encode, sync, commit
``robocache run``   the same as a command, start of Python and torch included
``decompress``      read every file and decompress all its chunks into reused buffers; with 1 and with 2 threads, files
                    shared out. Chunk positions are known beforehand; no checksum, no message is looked at
``write``           the bytes of the finished parts to new files, each synced, in one thread
``plain script``    plain_script.py on the first few logs in two processes that have imported everything, beside ``run``
                    on the same logs; it must make as many rows

The shares of the stages are those that the last run says of itself.

The floor is the slower of decompress and write; the ratio that counts is to the floor with one thread, and that to the
floor with two is given beside it. Files are in the page cache for everyone. All cases run once per repetition in
shuffled order, ratios are taken within a repetition.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import plain_script
from inflating import Decompressor, chunks_of

from robocache.config.load import load_job
from robocache.engine.run import run
from robocache.sample import write_samples

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
#: Columns of the CSV: by how much the plain script takes longer than ``run`` on the same logs.
TIMES = ("times_run", "times_run_min", "times_run_max")


def sample_logs(folder: Path, episodes: int, seconds: float) -> list[Path]:
    """Made once: a folder of the same size is taken as it is."""
    paths = sorted(folder.glob("*.mcap"))
    if len(paths) != episodes:
        shutil.rmtree(folder, ignore_errors=True)
        paths = write_samples(folder, episodes=episodes, seconds=seconds, damaged=False)
    return paths


def write_parts(parts: list[bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, data in enumerate(parts):
        with (folder / f"{number}.bin").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def beside_plain_script(paths: list[Path], args: argparse.Namespace, columns: Iterable[str]) -> list[dict[str, object]]:
    """Rows of the CSV for what people write themselves and for ``run``, on the same logs."""
    logs = args.cache / "some_logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    for path in paths:
        (logs / path.name).symlink_to(path.resolve())
    out = args.cache / "some"
    job = load_job(str(CONFIG), [f"input.uri={logs}/*.mcap", f"output.uri={out}", "compute.device=cpu"])
    made: dict[str, int] = {}
    with ProcessPoolExecutor(2) as pool:

        def ours() -> None:
            made["run"] = run(job, overwrite=True).rows

        def theirs() -> None:
            made["plain script"] = plain_script.convert_all(paths, args.cache / "plain", pool)

        cases = {f"run, {len(paths)} logs": ours, f"plain script, {len(paths)} logs": theirs}
        timings = common.take_turns(cases, min(args.repetitions, 3))
    if made["run"] != made["plain script"]:
        sys.exit(f"run makes {made['run']} rows of {len(paths)} logs, the plain script {made['plain script']}")
    ours_, theirs_ = timings.values()
    times, low, high = common.ratio(ours_, theirs_)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(
        f"{len(paths)} logs, {size:.0f} MB, {made['run']} rows: run {ours_.median:.2f} s, the plain script (rosbags, "
        f"pandas) on 2 processes {theirs_.median:.2f} s: {times:.1f} times as long [{low:.1f}, {high:.1f}]"
    )
    about = {"input_mb": f"{size:.0f}", "rows": made["run"], **common.machine("rosbags", "pandas")}
    told = dict(zip(TIMES, (f"{times:.2f}", f"{low:.2f}", f"{high:.2f}"), strict=True))
    rows = [{"case": name, **common.timing_columns(timing), **about} for name, timing in timings.items()]
    return [dict.fromkeys(columns, "") | rows[0], dict.fromkeys(columns, "") | rows[1] | told]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder for the sample logs (1 GB) and the outputs")
    parser.add_argument("--episodes", type=int, default=94)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=0, help="compute.threads (0: all cores)")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--plain", type=int, default=8, help="logs that the plain script gets (0: none)")
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()

    logs = args.cache / f"logs_{args.episodes}x{args.seconds:g}s"
    paths = sample_logs(logs, args.episodes, args.seconds)
    chunks = {path: chunks_of(path) for path in paths}
    settings = [
        f"input.uri={logs}/*.mcap",
        f"output.uri={args.cache / 'dataset'}",
        f"compute.threads={args.threads}",
        "compute.device=cpu",
    ]
    job = load_job(str(CONFIG), settings)
    summary = run(job, overwrite=True)
    if summary.episodes != args.episodes:
        sys.exit(f"{summary.episodes} of {args.episodes} episodes came through")
    parts = [path.read_bytes() for path in sorted((args.cache / "dataset" / "data").iterdir())]
    command = [sys.executable, "-m", "robocache.cli", "run", "--overwrite", str(CONFIG), *settings]

    cases: dict[str, Callable[[], object]] = {
        "run": lambda: run(job, overwrite=True),
        "robocache run": lambda: subprocess.run(command, check=True, capture_output=True),
        "decompress, 1 thread": Decompressor(chunks, 1),
        "decompress, 2 threads": Decompressor(chunks, 2),
        "write": lambda: write_parts(parts, args.cache / "written"),
    }
    timings = common.take_turns(cases, args.repetitions)
    stages = run(job, overwrite=True).stages
    floors = {
        threads: common.slower(timings[f"decompress, {threads}"], timings["write"])
        for threads in ("1 thread", "2 threads")
    }

    shares = {f"share_{stage}": f"{seconds / sum(stages.values()):.3f}" for stage, seconds in stages.items()}
    about = {
        "input_mb": f"{sum(p.stat().st_size for p in paths) / 1e6:.0f}",
        "messages_mb": f"{sum(size for found in chunks.values() for _, _, size in found) / 1e6:.0f}",
        "output_mb": f"{sum(map(len, parts)) / 1e6:.1f}",
        "rows": summary.rows,
        "threads": args.threads or os.cpu_count(),
        **common.machine("torch", "numpy", "pyarrow", "zstandard", "rosbags", "pandas"),
        **dict.fromkeys(TIMES, ""),
    }
    print(
        f"{len(paths)} logs, {about['input_mb']} MB ({about['messages_mb']} MB of records) to {about['output_mb']} MB, "
        f"{about['threads']} threads, {about['cpu']}, page cache warm\n"
        f"{'case':24}{'median s':>9}{'min':>7}{'max':>7}{'cpu s':>7}   of floor x1 [min, max]   of floor x2 [min, max]"
    )
    rows = []
    for name, timing in timings.items():
        ratios = {threads: common.ratio(floor, timing) for threads, floor in floors.items()}
        shown = "".join(f"{r[0]:11.2f} [{r[1]:.2f}, {r[2]:.2f}]" for r in ratios.values())
        cpu = sorted(timing.cpu)[len(timing.cpu) // 2]
        print(f"{name:24}{timing.median:9.2f}{min(timing.wall):7.2f}{max(timing.wall):7.2f}{cpu:7.2f}{shown}")
        columns = {
            f"ratio_to_floor_{threads.replace(' ', '_')}{suffix}": f"{value:.3f}"
            for threads, found in ratios.items()
            for suffix, value in zip(("", "_min", "_max"), found, strict=True)
        }
        told = shares if name == "run" else dict.fromkeys(shares, "")
        rows.append({"case": name, **common.timing_columns(timing), **columns, **told, **about})
    print("stages of run: " + ", ".join(f"{stage[6:]} {float(share):.0%}" for stage, share in shares.items()))
    if args.plain:
        rows += beside_plain_script(paths[: args.plain], args, rows[0].keys())
    common.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
