"""Windows of a training loop that are gathered on the card, beside a device copy of the same bytes.

    python benchmarks/loader_device.py [--episodes 400] [--rows 2500] [--csv FILE]

16 rows of history of a state and a chunk of 50 actions, 26 float32 each, 256 windows a batch, shuffled, over a million
rows in all. The output is written by RoboCache's own commit protocol, so that nothing but torch, pyarrow and PyYAML is
needed. First every value of some batches is compared with those of the loader on the CPU, plain and normalised.

Then, by the protocol of docs/benchmarks/REPRODUCING.md (cold cache, device events, the host ahead):

    kernel      the launch that gathers, the windows' numbers being on the card
    delivered   as `batches` does it: the numbers are pinned and copied, then the launch
    copy        `copy_` of as many bytes as come out, which reads and writes each once

each for one batch, and for the batches that `batches` gathers at once. Last, how long `batches` takes by the clock.
Without a GPU all but the times is as there, in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import write_csv
from gpu_common import Bench, default_device, environment, sets_needed, synchronize

from robocache.output import parts, statistics
from robocache.output.commit import OutputWriter
from robocache.output.layout import part_name, statistics_name
from robocache.output.manifest import EpisodeRecord, PartRecord, ShardRecord
from robocache.output.plan import Plan, PlannedEpisode
from robocache.output.schema import FeatureType, arrow_schema, episode_table
from robocache.output.store import Store
from robocache.output.torch import Dataset
from robocache.output.torch.resident import Resident

HISTORY, CHUNK, BATCH, WIDTH, FPS = 16, 50, 256, 26, 50
STATE, ACTION = "observation.state", "action"
STEPS = {STATE: range(1 - HISTORY, 1), ACTION: range(CHUNK)}
CONFIG = f"timeline: {{rate_hz: {FPS}}}\n"
IDENTITY = hashlib.sha256(CONFIG.encode()).hexdigest()
EPISODES_A_PART = 20


def write_output(root: Path, episodes: int, rows: int) -> None:
    """An Arrow output of random numbers, a fiftieth of which is not valid."""
    kind = pa.list_(pa.float32(), WIDTH)
    schema = arrow_schema([FeatureType(STATE, kind), FeatureType(ACTION, kind)])
    numbers = np.random.default_rng(0)
    times = np.arange(rows) * (1_000_000_000 // FPS)
    shards = [range(at, min(at + EPISODES_A_PART, episodes)) for at in range(0, episodes, EPISODES_A_PART)]
    plan = Plan(IDENTITY, tuple(PlannedEpisode(e, str(e), k, "") for k, shard in enumerate(shards) for e in shard))
    store = Store(str(root))
    with OutputWriter.begin(store) as writer:
        writer.start(plan, CONFIG, "arrow", todo=True)
        for k, shard in enumerate(shards):
            tables, found = [], {}
            for e in shard:
                columns: dict[str, Any] = {}
                found[e] = {}
                for name in STEPS:
                    values, valid = numbers.standard_normal((rows, WIDTH), np.float32), numbers.random(rows) > 0.02
                    values[~valid, ::5] = np.nan
                    columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), WIDTH)
                    columns[f"{name}.valid"] = valid
                    some = statistics.of_column(values[::50], valid[::50])
                    assert some is not None
                    found[e][name] = some
                tables.append(episode_table(schema, e, str(e), times, columns))
            part, beside = parts.encode(tables, "arrow", "none"), statistics.encode(found)
            sha256 = hashlib.sha256(part).hexdigest()
            name = part_name(shard[0], sha256, "arrow")
            store.write(statistics_name(name), beside)
            store.write(name, part)
            told = PartRecord(name, len(tables), rows * len(tables), part.size, sha256,
                              hashlib.sha256(beside).hexdigest())  # fmt: skip
            records = tuple(EpisodeRecord(e, str(e), (), rows, 0, ()) for e in shard)
            writer.commit([ShardRecord(k, IDENTITY, str(k), (told,), records, ())])
        version = writer.stand(CONFIG, types={}, root="", changes={"new": episodes})
        writer.publish(version, 1)


def on(device: str, uri: str, **asked: Any) -> Dataset:
    """The dataset with its numbers on the device; on the CPU by the same kernel, in memory."""
    dataset = Dataset(uri, delta_steps=STEPS, device=device if device == "cuda" else None, cache_mb=8192, **asked)
    if dataset.resident is None:
        dataset.resident = Resident(dataset.rows, dataset._keys, dataset._fill, torch.device(device))
        dataset._plans = {}
    return dataset


def compare(device: str, uri: str, batches: int) -> None:
    """``SystemExit`` where a value is not that of the CPU's loader."""
    for asked in ({}, {"normalize": {STATE: "mean_std", ACTION: "openvla.q01_q99"}, "fill": 0.5}):
        there = on(device, uri, **asked).batches(BATCH, seed=3)
        here = Dataset(uri, delta_steps=STEPS, **asked).batches(BATCH, seed=3)
        worst = 0.0
        for got, wanted in islice(zip(there, here, strict=True), batches):
            for name, values in wanted.items():
                found = got[name].cpu()
                if found.dtype != values.dtype or found.shape != values.shape:
                    raise SystemExit(f"{name}: {found.dtype} {found.shape}, on the CPU {values.dtype} {values.shape}")
                if not torch.equal(found.nan_to_num(7.0), values.nan_to_num(7.0)):
                    apart = (found.double() - values.double()).abs().nan_to_num(0.0).max().item()
                    worst = max(worst, apart)
                    if not asked or apart > 1e-5 or not torch.equal(found.isnan(), values.isnan()):
                        raise SystemExit(f"{name}: differs from the CPU's by up to {apart}")
        print(f"{batches} batches {'normalised' if asked else 'as stored'}: equal to the CPU's, at most {worst} apart")


def measure(bench: Bench, dataset: Dataset, windows: int, repetitions: int) -> list[dict[str, object]]:
    """Rows of one number of windows at once."""
    resident = dataset.resident
    assert resident is not None
    moved = sum({t.data_ptr(): t.nbytes for t in resident.gather(np.arange(windows)).values()}.values())
    order = dataset.order(shuffle=True, seed=0, epoch=0)
    sets = []
    for k in range(sets_needed(2 * moved, bench.device)):
        at = k * windows % max(1, len(dataset) - windows)
        rows = order.windows(at, at + windows)
        source = torch.randint(0, 255, (moved,), dtype=torch.uint8, device=bench.device)
        sets.append((rows, torch.from_numpy(rows).to(bench.device), source, torch.empty_like(source)))
    calls = {
        "kernel": lambda data: resident.around(data[1]),
        "delivered": lambda data: resident.gather(data[0]),
        "copy": lambda data: data[3].copy_(data[2]) is None,
    }
    times, failed = bench.measure(calls, sets, repetitions)
    if failed:
        raise SystemExit(str(failed))
    floor = times["copy"].median
    return [
        {
            "case": name,
            "windows": windows,
            "bytes_out": moved,
            **took.columns(),
            "gb_s": f"{2 * moved / took.median / 1e6:.0f}",
            "times_copy": f"{took.median / floor:.3f}",
        }
        for name, took in times.items()
    ]


def by_the_clock(device: str, dataset: Dataset, batches: int) -> dict[str, object]:
    """What a loop that does nothing waits for a batch."""
    took = []
    for epoch in range(4):
        loader = dataset.batches(BATCH, seed=epoch)
        for _ in islice(loader, 8):
            pass
        synchronize(device)
        began, count = time.perf_counter(), 0
        for _ in islice(loader, batches):
            count += 1
        synchronize(device)
        took.append((time.perf_counter() - began) * 1e3 / count)
    median = float(np.median(took[1:]))
    return {
        "case": "batches, by the clock",
        "windows": BATCH,
        "median_ms": f"{median:.6f}",
        "min_ms": f"{min(took[1:]):.6f}",
        "max_ms": f"{max(took[1:]):.6f}",
        "n": 3 * batches,
        "windows_per_s": f"{BATCH / median * 1e3:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--device", default=default_device(), choices=("cpu", "cuda"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_output(Path(folder) / "out", args.episodes, args.rows)
        uri = str(Path(folder) / "out")
        compare(args.device, uri, min(60, args.episodes * args.rows // BATCH))
        dataset, bench = on(args.device, uri), Bench(args.device)
        assert dataset.resident is not None
        at_once = dataset.together(BATCH) * BATCH
        rows = []
        for windows in sorted({BATCH, min(at_once, len(dataset))}):
            rows += measure(bench, dataset, windows, args.repetitions)
        rows.append(by_the_clock(args.device, dataset, min(1000, len(dataset) // BATCH - 8)))
        names = list(dict.fromkeys(name for row in rows for name in row))
        shared = {"rows": len(dataset), "resident_mb": f"{dataset.resident.nbytes / 1e6:.0f}"} | environment(
            args.device
        )
        rows = [{name: row.get(name, "") for name in names} | shared for row in rows]
    for row in rows:
        print({k: row[k] for k in ("case", "windows", "bytes_out", "median_ms", "gb_s", "times_copy", "windows_per_s")})
    write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
