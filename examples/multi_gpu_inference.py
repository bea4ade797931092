"""Run a policy over a finished dataset with Ray Data, an actor a GPU, and write what it predicts as Parquet.

    python examples/multi_gpu_inference.py [--dataset out/demo] [--actors N] [--weights policy.pt]

Without --dataset it makes one from sample logs. Where Ray has no GPU, the actors run on CPUs.

CPU tasks read parts and assemble windows: the last WINDOW rows of the same episode, so that a batch for the policy may
begin and end anywhere. They read a part whole, because it holds whole episodes; ``ray.data.read_parquet`` would cut it
where a block is full. GPU actors hold the policy and take batches of windows, whatever part these come from.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from rich.console import Console
from rich.table import Table

from robocache import Output, run
from robocache.sample import write_samples

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
WINDOW = 8  # rows that the policy sees, the newest last
CHUNK = 4  # actions that it predicts, for this row and the next ones


class Policy(torch.nn.Module):
    """Windows ``[B, WINDOW, F]`` to actions ``[B, CHUNK, A]``, both in the dataset's units."""

    def __init__(self, features: int, actions: int):
        super().__init__()
        for name, size in (("mean", features), ("std", features), ("action_mean", actions), ("action_std", actions)):
            self.register_buffer(name, torch.zeros(size))
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(WINDOW * features, 256),
            torch.nn.GELU(),
            torch.nn.Linear(256, CHUNK * actions),
            torch.nn.Unflatten(1, (CHUNK, actions)),
        )

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.layers((windows - self.mean) / self.std) * self.action_std + self.action_mean


def untrained(statistics: dict, columns: list[str]) -> dict[str, torch.Tensor]:
    """Weights of a policy that knows the dataset's scale and nothing else: what ``--weights`` replaces."""
    torch.manual_seed(0)
    mean = np.concatenate([np.append(statistics[c]["mean"], 0.0) for c in columns])
    std = np.concatenate([np.append(statistics[c]["std"], 1.0) for c in columns])  # the flags stay as they are
    policy = Policy(len(mean), len(np.atleast_1d(statistics["action"]["mean"])))
    policy.mean, policy.std = (torch.tensor(x, dtype=torch.float32) for x in (mean, np.maximum(std, 1e-6)))
    policy.action_mean, policy.action_std = (torch.tensor(statistics["action"][k]).float() for k in ("mean", "std"))
    return policy.state_dict()


def windows(batch: dict[str, np.ndarray], columns: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """Parts to windows ``[n, WINDOW, F]``, an episode at a time: each column and its validity, zero where not valid.

    The first windows of an episode repeat its first row.
    """
    keys = ["episode_index", "frame_index"]
    for part in batch["part"]:
        rows = pq.read_table(part, columns=keys + [f"{c}{end}" for c in columns for end in ("", ".valid")])
        starts = np.flatnonzero(rows["frame_index"].to_numpy() == 0)
        for start, end in itertools.pairwise([*starts, rows.num_rows]):
            episode = rows.slice(start, end - start)
            picked = np.arange(end - start)[:, None] + np.arange(1 - WINDOW, 1)
            seen = np.hstack([features(episode, column) for column in columns], dtype=np.float32)
            yield {key: episode[key].to_numpy() for key in keys} | {"window": seen[np.maximum(picked, 0)]}


def features(episode: pa.Table, column: str) -> np.ndarray:
    """A column ``[n, D]`` with zeros where it is not valid, and its validity beside it: ``[n, D + 1]``."""
    valid = episode[f"{column}.valid"].to_numpy()[:, None]
    values = episode[column].combine_chunks()
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    return np.hstack([np.where(valid, values.to_numpy().reshape(len(valid), -1), 0), valid])


@ray.remote(num_cpus=0)
class Tally:
    """Rows and seconds of each actor."""

    def __init__(self) -> None:
        self.work: dict[str, tuple[int, float]] = {}

    def add(self, actor: str, rows: int, seconds: float) -> None:
        done, spent = self.work.get(actor, (0, 0.0))
        self.work[actor] = (done + rows, spent + seconds)

    def all(self) -> dict[str, tuple[int, float]]:
        return self.work


class Predict:
    """For ``map_batches``: batches of :func:`windows` in, predicted actions out."""

    def __init__(self, weights: dict[str, torch.Tensor], tally: ray.actor.ActorHandle):
        self.device = "cuda" if ray.get_gpu_ids() else "cpu"  # Ray shows each actor its own card alone
        self.policy = Policy(len(weights["mean"]), len(weights["action_mean"])).to(self.device).eval()
        self.policy.load_state_dict(weights)
        self.tally = tally
        card = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
        self.name = f"{ray.util.get_node_ip_address()}, process {os.getpid()}, {card}"

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        began = time.perf_counter()
        actions = self.policy(torch.tensor(batch["window"], device=self.device)).cpu().numpy()
        self.tally.add.remote(self.name, len(actions), time.perf_counter() - began)
        values = pa.FixedSizeListArray.from_arrays(pa.array(actions.reshape(-1)), actions.shape[2])
        keys = {name: pa.array(batch[name]) for name in ("episode_index", "frame_index")}
        return pa.table({**keys, "action.predicted": pa.FixedSizeListArray.from_arrays(values, CHUNK)})


def rows_of(folder: Path) -> list[tuple[int, int]]:
    """Episode and frame of every row, in order."""
    table = pq.read_table(folder, columns=["episode_index", "frame_index"])
    return sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", help="output.uri of a run; default: out/inference/dataset, of sample logs")
    parser.add_argument("--predictions", default="out/inference/predictions", help="replaced where it exists")
    parser.add_argument("--weights", help="a state_dict of Policy, as torch.save wrote it")
    parser.add_argument("--actors", type=int, help="default: the cluster's GPUs, else 2")
    parser.add_argument("--batch-size", type=int, default=512)
    args = parser.parse_args()
    console = Console(width=max(Console().width, 100))
    dataset, predictions = Path(args.dataset or "out/inference/dataset").resolve(), Path(args.predictions).resolve()
    if not args.dataset:
        write_samples("sample_logs", episodes=8, seconds=20.0, seed=0)
        run(str(CONFIG), [f"output.uri={dataset}", "output.shard_mb=4"], overwrite=True)
    output = Output.open(str(dataset))
    statistics = output.statistics
    columns = [name for name in statistics if name.startswith("observation.")]
    weights = torch.load(args.weights) if args.weights else untrained(statistics, columns)

    ray.init(os.environ.get("RAY_ADDRESS", "local"), logging_level="WARNING")
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actors, tally = args.actors or gpus or 2, Tally.remote()
    parts = [{"part": str(dataset / name)} for name in output.parts]
    shutil.rmtree(predictions, ignore_errors=True)
    began = time.monotonic()
    (
        ray.data.from_items(parts, override_num_blocks=len(parts))
        .map_batches(windows, fn_kwargs={"columns": columns}, batch_size=1)
        .map_batches(
            Predict,
            fn_constructor_args=(weights, tally),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=args.batch_size,
            **({"num_gpus": 1} if gpus else {"num_cpus": 0.5}),
        )
        .write_parquet(str(predictions))
    )
    seconds = time.monotonic() - began

    shown = Table("actor", "rows", "seconds in the policy", "rows/s", title_justify="left")
    work = ray.get(tally.all.remote())
    for actor, (rows, spent) in sorted(work.items()):
        shown.add_row(actor, f"{rows:,}", f"{spent:.2f}", f"{rows / spent:,.0f}")
    console.print(shown)
    same = rows_of(predictions) == rows_of(dataset / "data")
    rows = sum(rows for rows, _ in work.values())
    verdict = "one prediction for each row of the dataset" if same else "NOT the rows of the dataset"
    print(f"{rows:,} rows in {seconds:.1f} s, start of the actors included; {predictions}: {verdict}")
    ray.shutdown()
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
