"""Array formats from recordings to aligned Parquet: RoboCache beside what a careful person writes with each library.

    python benchmarks/end_to_end_formats.py FOLDER [--episodes 200] --out benchmarks/results/end_to_end_formats.csv

The same episodes (30 s at 200 Hz with jitter: 14 numbers of state, 7 of action, float32) as HDF5 with a group each and
as one Parquet file, and brought to 200 Hz as a LeRobot dataset; rows at 50 Hz, the state interpolated, the action the
last one.

``script``  two processes; arrays read whole (h5py, pyarrow), one np.searchsorted an episode, take and multiply for all
            columns at once, a Parquet file an episode. No validity, statistics, checks or crash safety.
``run``     robocache's own run in this process with two threads

Both work on files in the page cache, in turns; rows and values are compared.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import common
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robocache.engine.run import run
from robocache.output.dataset import Output

RATE, SECONDS, STATE, ACTION = 200, 30, 14, 7
ROWS, STEP = RATE * SECONDS, 0.02
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # stamps in seconds, state, action


def episode(number: int) -> Arrays:
    random = np.random.default_rng(number)
    stamps = np.arange(ROWS) / RATE + random.uniform(0, 0.2 / RATE, ROWS)
    return stamps, *(random.standard_normal((ROWS, k)).cumsum(axis=0).astype(np.float32) for k in (STATE, ACTION))


def lists(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def write_hdf5(folder: Path, episodes: int) -> None:
    with h5py.File(folder / "x.hdf5", "w") as file:
        for k in range(episodes):
            for name, values in zip(("t", "state", "action"), episode(k), strict=True):
                file[f"data/demo_{k}/{name}"] = values


def write_parquet(path: Path, episodes: int) -> None:
    kinds = {"t": pa.float64(), "state": pa.list_(pa.float32(), STATE), "action": pa.list_(pa.float32(), ACTION)}
    schema = pa.schema({**kinds, "episode_index": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for k in range(episodes):
            t, state, action = episode(k)
            table = pa.table([pa.array(t), lists(state), lists(action), pa.array(np.full(ROWS, k))], schema=schema)
            writer.write_table(table, row_group_size=ROWS)


def from_hdf5(folder: Path, some: range) -> Iterator[Arrays]:
    with h5py.File(folder / "x.hdf5") as file:
        for k in some:
            group = file[f"data/demo_{k}"]
            yield group["t"][:], group["state"][:], group["action"][:]


def from_parquet(path: Path, some: range) -> Iterator[Arrays]:
    file = pq.ParquetFile(path)
    for k in some:
        yield arrays(file.read_row_group(k, columns=["t", "state", "action"]), "t")


def from_lerobot(folder: Path, some: range) -> Iterator[Arrays]:
    (path,) = (folder / "data").rglob("*.parquet")
    table = pq.read_table(path, columns=["frame_index", "state", "action", "episode_index"])
    ends = np.searchsorted(table["episode_index"].to_numpy(), range(some.start, some.stop + 1))
    for first, last in pairwise(ends.tolist()):
        frame, state, action = arrays(table.slice(first, last - first), "frame_index")
        yield frame / RATE, state, action


def arrays(table: pa.Table, clock: str) -> Arrays:
    flat = (table[name].combine_chunks().flatten().to_numpy() for name in ("state", "action"))
    state, action = (values.reshape(table.num_rows, -1) for values in flat)
    return table[clock].to_numpy().astype(np.float64), state, action


def script(read: Callable[[range], Iterator[Arrays]], out: Path, some: range) -> int:
    """What a process of the peer does; how many rows it makes."""
    made = 0
    for number, (t, state, action) in zip(some, read(some), strict=True):
        rows = np.arange(t[0], t[-1], STEP)
        at = np.searchsorted(t, rows + 1e-9, "right") - 1  # what is one instant may differ in its last bits
        right = np.minimum(at + 1, len(t) - 1)
        share = ((rows - t[at]) / np.maximum(t[right] - t[at], 1e-9)).astype(np.float32)[:, None]
        left = state[at]
        columns = {"timestamp": rows, "state": lists(left + (state[right] - left) * share), "action": lists(action[at])}
        pq.write_table(pa.table(columns), out / f"{number}.parquet", compression="zstd")
        made += len(rows)
    return made


def run_anew(made: dict[str, int], job: dict[str, object], out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    made["run"] = run(job).rows


def script_anew(
    made: dict[str, int], pool: ProcessPoolExecutor, some: Callable[[range], int], halves: list[range]
) -> None:
    made["script"] = sum(pool.map(some, halves))


def config(uri: Path, out: Path, times: dict[str, str] | None) -> dict[str, object]:
    return {
        "input": {"uri": str(uri), **({"times": times} if times else {})},
        "features": {"state": "state", "action": {"source": "action", "align": "previous", "snap": "0s"}},
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(out)},
        "compute": {"device": "cpu", "threads": 2},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the recordings and the outputs")
    parser.add_argument("--episodes", type=int, default=200, help="of 0.5 MB each")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()

    shutil.rmtree(args.folder, ignore_errors=True)
    (args.folder / "logs").mkdir(parents=True)
    write_hdf5(args.folder / "logs", args.episodes)
    table = args.folder / "logs" / "x.parquet"
    write_parquet(table, args.episodes)
    stamps, tree = {"column": "t", "unit": "s"}, args.folder / "lerobot"
    run(
        config(table, tree, stamps) | {"timeline": {"rate_hz": RATE}, "output": {"uri": str(tree), "format": "lerobot"}}
    )
    sources: dict[str, tuple[Path, dict[str, str] | None, Callable[[range], Iterator[Arrays]]]] = {
        "hdf5": (args.folder / "logs" / "x.hdf5", stamps, partial(from_hdf5, args.folder / "logs")),
        "parquet": (table, stamps, partial(from_parquet, table)),
        "lerobot": (tree, None, partial(from_lerobot, tree)),
    }
    rows: list[dict[str, object]] = []
    halves = [range(args.episodes // 2), range(args.episodes // 2, args.episodes)]
    with ProcessPoolExecutor(2) as pool:
        for name, (uri, times, read) in sources.items():
            out, plain = args.folder / f"out_{name}", args.folder / f"plain_{name}"
            made: dict[str, int] = {}
            plain.mkdir()

            ours = partial(run_anew, made, config(uri, out, times), out)
            theirs = partial(script_anew, made, pool, partial(script, read, plain), halves)
            timings = common.take_turns({"run": ours, "script": theirs}, args.repetitions)
            if abs(made["run"] - made["script"]) > args.episodes:  # the last row of an episode may be its end itself
                sys.exit(f"{name}: run makes {made['run']} rows, the script {made['script']}")
            mine = Output.open(str(out)).dataset().to_table(filter=pc.field("episode_index") == 0)
            both = [arrays(some, "timestamp") for some in (mine, pq.read_table(plain / "0.parquet"))]
            count = min(len(stamps) for stamps, *_ in both)
            off = max(float(np.abs(a[:count] - b[:count]).max()) for a, b in zip(both[0][1:], both[1][1:], strict=True))
            times_, low, high = common.ratio(timings["run"], timings["script"])
            size = sum(p.stat().st_size for p in [uri, *uri.rglob("*")] if p.is_file()) / 1e6
            print(
                f"{name}: {size:.0f} MB, {made['run']} rows: run {timings['run'].median:.2f} s, "
                f"script {timings['script'].median:.2f} s, {times_:.2f} times as long [{low:.2f}, {high:.2f}], "
                f"off by {off:.2g}"
            )
            for who, timing in timings.items():
                rows.append(
                    {
                        "format": name,
                        "who": who,
                        **common.timing_columns(timing),
                        "input_mb": f"{size:.0f}",
                        "rows": made[who],
                        "times_run": f"{times_:.2f}" if who == "script" else "",
                        "times_min": f"{low:.2f}" if who == "script" else "",
                        "times_max": f"{high:.2f}" if who == "script" else "",
                        "largest_difference": f"{off:.3g}",
                        **common.machine("h5py", "numpy", "pyarrow"),
                    }
                )
    common.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
