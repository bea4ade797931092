"""The same rows into a LeRobot dataset: LeRobot's own writer, and a run of RoboCache from recordings to the same tree.

    python benchmarks/lerobot_writer.py [--episodes 20] [--rows 500] [--csv FILE] [--video] [--size 256]

Needs ``lerobot`` (0.4) beside RoboCache. LeRobot's side is ``add_frame`` for each row and ``save_episode`` for each
episode of rows that are in memory already; RoboCache's is all of ``robocache run``: reading the recordings (Parquet),
aligning, parts, manifest, versions, and the tree. Afterwards every value of both trees is compared. With ``--video`` a
camera of moving noise is encoded by both, libsvtav1 with LeRobot's settings.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from robocache import run
from robocache.types import frame_times
from robocache.video import png

FPS, WIDTH = 30, 26
CAMERA = "observation.images.top"


def lerobot_dataset() -> Any:
    """LeRobot's class; an operator that its torchvision may lack is declared, and never called."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset


def episode(seed: int, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.standard_normal((rows, 2 * WIDTH)), axis=0).astype(np.float32)
    return {"observation.state": walk[:, :WIDTH], "action": walk[:, WIDTH:]}


def image(seed: int, k: int, size: int) -> np.ndarray:
    """Smooth shapes that move, and some noise."""
    y, x = np.mgrid[:size, :size]
    base = 128 + 60 * np.sin((x + 3 * k) / 17) + 50 * np.cos((y - 2 * k + seed) / 23)
    noise = np.random.default_rng((seed, k)).normal(0, 6, (size, size, 3))
    return np.clip(base[:, :, None] + noise, 0, 255).astype(np.uint8)


def record(logs: Path, args: argparse.Namespace) -> None:
    for seed in range(args.episodes):
        found = episode(seed, args.rows)
        columns: dict[str, Any] = {"time": frame_times(np.arange(args.rows), FPS) + 10**18}
        for name, values in found.items():
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), WIDTH)
        if args.video:
            columns[CAMERA] = pa.array([png(image(seed, k, args.size)) for k in range(args.rows)])
        pq.write_table(pa.table(columns), logs / f"{seed:04d}.parquet", compression="none")


def theirs(root: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of LeRobot's writer, as :func:`timed` has them."""
    features = {
        name: {"dtype": "float32", "shape": (WIDTH,), "names": None} for name in ("observation.state", "action")
    }
    if args.video:
        shape = (args.size, args.size, 3)
        features[CAMERA] = {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
    rows = [episode(seed, args.rows) for seed in range(args.episodes)]
    images = [[image(s, k, args.size) for k in range(args.rows)] for s in range(args.episodes)] if args.video else []
    create = lerobot_dataset().create

    def write() -> None:
        dataset = create("bench/x", fps=FPS, root=root, features=features, use_videos=args.video)
        for seed, found in enumerate(rows):
            for k in range(args.rows):
                frame = {name: values[k] for name, values in found.items()}
                if args.video:
                    frame[CAMERA] = images[seed][k]
                dataset.add_frame(frame | {"task": "bench"})
            dataset.save_episode()
        dataset.finalize()

    return timed(write)


def ours(logs: Path, out: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a run, as :func:`timed` has them."""
    features: dict[str, Any] = {name: {"source": name} for name in ("observation.state", "action")}
    if args.video:
        features[CAMERA] = {"source": CAMERA, "max_gap": "none"}
    config = {
        "input": {"uri": str(logs), "format": "parquet", "times": {"column": "time", "unit": "ns"}},
        "features": features,
        "timeline": {"rate_hz": FPS},
        "output": {"uri": str(out), "format": "lerobot", "shard_mb": 4},
        "compute": {"device": "cpu", "threads": 2},
    }
    config["output"]["lerobot"] = {"task": "bench", "video": "av1" if args.video else "none", "data_mb": args.data_mb}
    return timed(lambda: run(config))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of all cores; the latter do not depend on what else the machine is doing."""
    began, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - spent


def compare(one: Path, other: Path) -> None:
    """Every value that both trees have."""
    a, b = (pa.concat_tables(pq.read_table(p) for p in sorted((r / "data").glob("*/*.parquet"))) for r in (one, other))
    for name in ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert a[name].to_pylist() == b[name].to_pylist(), name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--rows", type=int, default=500, help="of each episode")
    parser.add_argument("--video", action="store_true")
    parser.add_argument("--size", type=int, default=256, help="pixels of the camera, each way")
    parser.add_argument("--data-mb", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the median counts")
    parser.add_argument("--csv", type=Path, help="where to add what was measured")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="robocache-lerobot-"))
    logs = folder / "logs"
    logs.mkdir()
    record(logs, args)
    ours(logs, folder / "warm", args)
    seconds = sorted(ours(logs, folder / f"ours_{i}", args) for i in range(args.repeats))
    mine, their = seconds[len(seconds) // 2], theirs(folder / "theirs", args)
    compare(folder / "ours_0", folder / "theirs")
    count = args.episodes * args.rows
    row = {
        "rows": count,
        "episodes": args.episodes,
        "numbers_a_row": 2 * WIDTH,
        "video": args.size if args.video else "",
        "cores": len(os.sched_getaffinity(0)),
        "lerobot_s": round(their[0], 2),
        "lerobot_cpu_s": round(their[1], 2),
        "robocache_s": round(mine[0], 3),
        "robocache_cpu_s": round(mine[1], 3),
        "lerobot_rows_s": round(count / their[0]),
        "robocache_rows_s": round(count / mine[0]),
        "times_as_fast": round(their[0] / mine[0], 1),
        "times_less_cpu": round(their[1] / mine[1], 1),
    }
    common.tell(row, args.csv)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
