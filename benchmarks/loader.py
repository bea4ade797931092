"""Windows for a training loop of the same fused rows: RoboCache's Dataset, LeRobotDataset, Hugging Face datasets, Ray.

    python benchmarks/loader.py [--episodes 100] [--rows 1000] [--repetitions 5] [--csv FILE] [--peers PYTHON]

16 rows of history of a state and a chunk of 50 actions, 26 float32 each, 256 windows a batch, shuffled. ``--peers``
names the Python that has ``lerobot`` (0.4) and ``datasets``; without it they are left out. Each side is a process of
its own that keeps its dataset open; sides take turns, repetition by repetition. Before that, the windows of the first
episode of every side are compared with windows cut from the rows by NumPy.

Each side as its documentation has it: LeRobotDataset with ``delta_timestamps`` in a DataLoader, without workers and
with two; Hugging Face datasets in torch format, asked for all rows of a batch's windows at once (``dataset[indices]``),
which is many times as fast as window by window; Ray Data with windows made by ``map_batches`` on whole blocks, a local
shuffle buffer and ``iter_torch_batches``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

HISTORY, CHUNK, BATCH, FPS = 16, 50, 256, 30
STATE, ACTION = "observation.state", "action"
STEPS = {STATE: list(range(1 - HISTORY, 1)), ACTION: list(range(CHUNK))}
#: Batches of a repetition: of the slow sides as many as take some seconds.
SIDES = {
    "robocache arrow": 390,
    "robocache parquet": 390,
    "robocache lerobot": 390,
    "robocache arrow, DataLoader": 390,
    "lerobot": 6,
    "lerobot, 2 workers": 12,
    "huggingface": 20,
    "huggingface, 2 workers": 40,
    "ray": 390,
}
PEERS = ("lerobot", "huggingface")
KEYS = (STATE, ACTION, f"{STATE}_is_pad", f"{ACTION}_is_pad", "episode_index", "frame_index")


def robocache_side(root: Path, side: str) -> Callable[[bool], Iterable[dict[str, Any]]]:
    from torch.utils.data import DataLoader

    from robocache import Dataset

    name, _, loader = side.removeprefix("robocache ").partition(", ")
    dataset = Dataset(str(root / name), delta_steps=STEPS)
    if loader:
        return lambda shuffle: DataLoader(dataset, batch_size=BATCH, sampler=dataset.sampler(shuffle=shuffle))
    return lambda shuffle: dataset.batches(BATCH, shuffle=shuffle)


def lerobot_side(root: Path, side: str) -> Callable[[bool], Iterable[dict[str, Any]]]:
    from lerobot_writer import lerobot_dataset
    from torch.utils.data import DataLoader

    deltas = {key: [step / FPS for step in steps] for key, steps in STEPS.items()}
    dataset = lerobot_dataset()("bench/x", root=root / "lerobot", delta_timestamps=deltas)
    workers = 2 if "workers" in side else 0
    return lambda shuffle: DataLoader(dataset, batch_size=BATCH, shuffle=shuffle, num_workers=workers)


class Windows:
    """Windows of a Hugging Face dataset in torch format, a batch of them by one index."""

    def __init__(self, root: Path):
        import datasets

        files = sorted(map(str, (root / "lerobot/data").rglob("*.parquet")))
        self.rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(root / "hf"))
        self.episodes = np.array(self.rows["episode_index"])
        self.frames = np.array(self.rows["frame_index"])
        firsts = np.flatnonzero(np.diff(self.episodes, prepend=-1))
        place = np.searchsorted(firsts, np.arange(len(self.episodes)), "right") - 1
        self.first, self.last = firsts[place], np.append(firsts[1:], len(self.episodes))[place] - 1
        self.columns = {key: self.rows.select_columns([key]).with_format("torch") for key in STEPS}

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        import torch

        items = np.asarray(indices)
        out: dict[str, Any] = {}
        for key, steps in STEPS.items():
            wanted = items[:, None] + np.array(steps)
            rows = np.clip(wanted, self.first[items][:, None], self.last[items][:, None])
            out[key] = self.columns[key][rows.ravel()][key].view(*rows.shape, -1)
            out[f"{key}_is_pad"] = torch.from_numpy(rows != wanted)
        return out | {"episode_index": torch.from_numpy(self.episodes[items]),
                      "frame_index": torch.from_numpy(self.frames[items])}  # fmt: skip


def huggingface_side(root: Path, side: str) -> Callable[[bool], Iterable[dict[str, Any]]]:
    from torch.utils.data import DataLoader

    dataset, workers = Windows(root), 2 if "workers" in side else 0
    return lambda shuffle: DataLoader(
        dataset, batch_size=BATCH, shuffle=shuffle, num_workers=workers, collate_fn=lambda batch: batch
    )


def cut(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The windows of all rows of whole episodes."""
    episodes = batch["episode_index"]
    firsts = np.flatnonzero(np.diff(episodes, prepend=-1))
    place = np.searchsorted(firsts, np.arange(len(episodes)), "right") - 1
    first, last = firsts[place], np.append(firsts[1:], len(episodes))[place] - 1
    out = {"episode_index": episodes, "frame_index": batch["frame_index"]}
    for key, steps in STEPS.items():
        wanted = np.arange(len(episodes))[:, None] + np.array(steps)
        rows = np.clip(wanted, first[:, None], last[:, None])
        out[key], out[f"{key}_is_pad"] = np.stack([*batch[key]])[rows], rows != wanted
    return out


def ray_side(root: Path, side: str) -> Callable[[bool], Iterable[dict[str, Any]]]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=2_000_000_000)
    ray.data.DataContext.get_current().enable_progress_bars = False
    columns = ["episode_index", "frame_index", *STEPS]
    rows = ray.data.read_parquet(str(root / "parquet/data"), columns=columns)
    windows = rows.map_batches(cut, batch_size=None, batch_format="numpy")

    def batches(shuffle: bool) -> Iterable[dict[str, Any]]:
        buffer = 4 * BATCH if shuffle else None
        return windows.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=buffer)

    return batches


def serve(side: str, root: Path) -> None:
    """Measure a repetition, or store the windows of the first episode, for each line that comes in."""
    makers = {"robocache": robocache_side, "lerobot": lerobot_side, "huggingface": huggingface_side, "ray": ray_side}
    made = makers[side.split()[0].rstrip(",")](root, side)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        if "to" in asked:
            np.savez(asked["to"], **first_episode(made(False), asked["rows"]))
            answer: dict[str, Any] = {}
        else:
            began, cpu, count = time.perf_counter(), time.process_time(), 0
            for batch in islice(made(True), asked["batches"]):
                count += len(batch["frame_index"])
            answer = {"items": count, "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        print(json.dumps(answer), file=answers, flush=True)


def first_episode(batches: Iterable[dict[str, Any]], rows: int) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {key: [] for key in KEYS}
    for batch in batches:
        mine = np.asarray(batch["episode_index"]) == 0
        for key in KEYS:
            found[key].append(np.asarray(batch[key])[mine])
        if sum(map(len, found["frame_index"])) == rows:
            break
    out = {key: np.concatenate(values) for key, values in found.items()}
    order = np.argsort(out["frame_index"], kind="stable")
    return {key: values[order] for key, values in out.items()}


def make_outputs(root: Path, episodes: int, rows: int) -> None:
    from lerobot_writer import record

    from robocache import run

    (root / "logs").mkdir(parents=True)
    record(root / "logs", argparse.Namespace(episodes=episodes, rows=rows, video=False))
    for name in ("parquet", "arrow", "lerobot"):
        run(
            {
                "input": {"uri": str(root / "logs"), "format": "parquet", "times": {"column": "time", "unit": "ns"}},
                "features": {key: {"source": key} for key in STEPS},
                "timeline": {"rate_hz": FPS},
                "output": {"uri": str(root / name), "format": name, "shard_mb": 8}
                | ({"lerobot": {"task": "bench"}} if name == "lerobot" else {}),
                "compute": {"device": "cpu", "threads": 2},
            }
        )


class Side:
    """A process that serves."""

    def __init__(self, name: str, root: Path, python: str):
        paths = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        self.name, self.log = name, root / f"{name}.log"
        self.process = subprocess.Popen(
            [python, __file__, "--serve", name, "--root", str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True, env=environment,
        )  # fmt: skip

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(what), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} has ended:\n{self.log.read_text()[-2000:]}")
        return json.loads(answer)

    def end(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)


def measure(root: Path, args: argparse.Namespace) -> Iterator[dict[str, object]]:
    import pyarrow.parquet as pq
    from common import machine

    table = pq.read_table(root / "parquet/data", columns=["episode_index", "frame_index", *STEPS])
    first = {name: np.array(table[name].to_pylist()[: args.rows]) for name in table.column_names}
    wanted = cut({name: v.astype(np.float32) if v.dtype.kind == "f" else v for name, v in first.items()})
    names = [name for name in SIDES if args.peers or not name.startswith(PEERS)]
    sides = [Side(name, root, args.peers if name.startswith(PEERS) else sys.executable) for name in names]
    speeds: dict[str, list[float]] = {name: [] for name in names}
    try:
        for side in sides:
            side.ask(to=str(root / "found.npz"), rows=args.rows)
            found = np.load(root / "found.npz")
            for key in KEYS:
                if not np.array_equal(found[key], wanted[key]):
                    raise SystemExit(f"{side.name}: {key} is not what the rows say")
        for repetition in range(-1, args.repetitions):
            for side in sides[repetition % len(sides) :] + sides[: repetition % len(sides)]:
                took = side.ask(batches=SIDES[side.name])
                if repetition >= 0:
                    speeds[side.name].append(took["items"] / took["seconds"])
    finally:
        for side in sides:
            side.end()
    told = machine("torch", "pyarrow", "ray")
    if args.peers:
        told |= peer_versions(args.peers)
        told["command"] = str(told["command"]).replace(args.peers, "PYTHON")
    for name in names:
        ratios = {
            f"times {other}": max(statistics.median(speeds[o]) for o in names if o.startswith(other))
            for other in ("lerobot", "huggingface", "ray")
            if any(o.startswith(other) for o in names)
        }
        median = statistics.median(speeds[name])
        yield {
            "side": name,
            "items_per_s": f"{median:.0f}",
            "min": f"{min(speeds[name]):.0f}",
            "max": f"{max(speeds[name]):.0f}",
            "n": len(speeds[name]),
            **{key: f"{median / other:.1f}" for key, other in ratios.items()},
            "windows": args.episodes * args.rows,
            "values": "equal",
            **told,
        }


def peer_versions(python: str) -> dict[str, str]:
    code = "from importlib.metadata import version; print(version('lerobot'), version('datasets'))"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(PEERS, found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--peers", help="a Python with lerobot and datasets")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.root)
        return
    from common import write_csv

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "work"
        make_outputs(root, args.episodes, args.rows)
        rows = list(measure(root, args))
    for row in rows:
        print({key: row[key] for key in list(row)[:8]})
    write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
