"""Bytes that are fetched of a file on an object store to list its episodes, to tell the type of one source, and to read
that source of one of them.

    python benchmarks/remote_reads.py [--csv FILE] [--label TEXT] [FORMAT ...]

Needs moto (the extra ``test``), whose S3 server runs in this process and counts what it sends; h5py, and for Zarr zarr.
Files of 20 episodes of 4,000 rows, eight sources of 7 float32 each; a sample log of a minute.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache import run
from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes, read_episode
from robocache.sample import write_samples

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import s3_kit

ROWS, EPISODES, NAMES = 4_000, 20, "abcdefgh"
ALL = ROWS * EPISODES
STAMPS = np.arange(ALL) / 50.0
RNG = np.random.default_rng(0)


def numbers(rows: int = ALL) -> np.ndarray:
    return RNG.standard_normal((rows, 7)).astype(np.float32)


def listed(rows: int = ALL) -> dict[str, pa.Array]:
    return {name: pa.FixedSizeListArray.from_arrays(pa.array(numbers(rows).reshape(-1)), 7) for name in NAMES}


def parquet(folder: Path) -> None:
    columns = {"t": STAMPS, "episode_index": np.repeat(np.arange(EPISODES), ROWS), **listed()}
    pq.write_table(pa.table(columns), folder / "x.parquet", row_group_size=ROWS, compression="none")


def hdf5(folder: Path, chunks: tuple[int, int] | None = None) -> None:
    with h5py.File(folder / "x.hdf5", "w") as file:
        for e in range(EPISODES):
            for name in NAMES:
                packed = {"chunks": chunks, "compression": "gzip"} if chunks else {}
                file.create_dataset(f"data/demo_{e}/{name}", data=numbers(ROWS), **packed)
            file[f"data/demo_{e}/t"] = STAMPS[:ROWS]


def zarr(folder: Path, archive: bool = False) -> None:
    import zarr

    store = zarr.storage.ZipStore(folder / "x.zarr.zip", mode="w") if archive else str(folder / "x.zarr")
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for name in NAMES:
        group.create_array(f"data/{name}", shape=(ALL, 7), chunks=(2_000, 7), dtype="f4")[:] = numbers()
    group.create_array("data/t", shape=(ALL,), dtype="f8")[:] = STAMPS
    group.create_array("meta/episode_ends", shape=(EPISODES,), dtype="i8")[:] = ROWS * np.arange(1, EPISODES + 1)
    if archive:
        store.close()


def npz(folder: Path) -> None:
    np.savez(folder / "x.npz", **{name: numbers() for name in NAMES}, t=STAMPS)


def lerobot(folder: Path) -> None:
    (folder / "logs").mkdir()
    for e in range(EPISODES):
        pq.write_table(pa.table({"t": STAMPS[:ROWS], **listed(ROWS)}), folder / f"logs/{e:03}.parquet")
    config = {
        "input": {"uri": str(folder / "logs"), "times": {"column": "t"}},
        "features": {name: name for name in NAMES},
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(folder / "x"), "format": "lerobot", "compression": "none"},
        "compute": {"device": "cpu"},
    }
    run(config)
    shutil.rmtree(folder / "logs")
    shutil.rmtree(folder / "x/meta/robocache")


def mcap(folder: Path) -> None:
    write_samples(folder, episodes=1, seconds=60.0, seed=0, damaged=False)


class Case(NamedTuple):
    write: Callable[[Path], None]
    times: TableTimes | None
    source: str


T, RATE = TableTimes(column="t"), TableTimes(rate_hz=50.0)
CASES = {
    "mcap": Case(mcap, None, "/imu.orientation"),
    "parquet": Case(parquet, T, "a"),
    "hdf5": Case(hdf5, T, "a"),
    "hdf5, gzip": Case(lambda folder: hdf5(folder, (500, 7)), T, "a"),
    "zarr, folder": Case(zarr, RATE, "data/a"),
    "zarr, archive": Case(lambda folder: zarr(folder, True), RATE, "data/a"),
    "npz": Case(npz, T, "a"),
    "lerobot": Case(lerobot, None, "a"),
}


def measure(bucket: s3_kit.Bucket, folder: Path, name: str) -> dict[str, Any]:
    case, server = CASES[name], bucket.server
    folder.mkdir()
    case.write(folder)
    uri = bucket.put(folder, name.replace(", ", "_"))
    spec = InputSpec((uri,), times=case.times, storage_options=bucket.options)

    def fetched(work: Callable[[], Any]) -> tuple[Any, int, int, float]:
        server.sent.clear()
        server.requests.clear()
        began = time.perf_counter()
        result = work()
        return result, sum(server.sent.values()), len(server.requests), time.perf_counter() - began

    refs, list_bytes, list_requests, _ = fetched(lambda: list_episodes(spec))
    ref = refs[len(refs) // 2]
    _, type_bytes, type_requests, _ = fetched(lambda: describe_episode(ref, [case.source], spec))
    episode, read_bytes, read_requests, seconds = fetched(lambda: read_episode(ref, [case.source], spec))
    return {
        "format": name,
        "file_mb": round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, 2),
        "episodes": len(refs),
        "list_mb": round(list_bytes / 1e6, 3),
        "list_requests": list_requests,
        "values_mb": round(episode.streams[case.source].values.nbytes / 1e6, 3),
        "read_mb": round(read_bytes / 1e6, 3),
        "read_requests": read_requests,
        "read_s": round(seconds, 3),
        "type_mb": round(type_bytes / 1e6, 3),
        "type_requests": type_requests,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="; ".join(CASES))
    parser.add_argument("--csv", type=Path, help="where to add what was measured")
    parser.add_argument("--label", default="", help="which robocache it is, for the CSV")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="robocache-remote-"))
    with s3_kit.serve() as server:
        bucket = s3_kit.Bucket(server)
        for i, name in enumerate(args.formats or CASES):
            common.tell({"robocache": args.label, **measure(bucket, folder / str(i), name)}, args.csv)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
