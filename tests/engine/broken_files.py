"""One small good recording of each format, and many broken copies of it: cut, flipped, empty, of another format."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.sample import write_samples

CUTS, FLIPS = 20, 20
CHECKED = {"write_page_checksum": True, "use_dictionary": False}
TIMES = 1_700_000_000_000_000_000 + np.arange(50) * 10_000_000


@dataclass(frozen=True)
class Case:
    """How recordings of a format are made, broken and read.

    write:  a good one, from its number, to a path
    flip:   one damage that the format can notice
    source: a source of its recordings; input: the rest of the config's input section
    """

    suffix: str
    write: Callable[[Path, int], None]
    flip: Callable[[bytes, random.Random], bytes]
    source: str
    input: dict = field(default_factory=dict)


def broken(case: Case, good: bytes, other: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each broken copy; ``other`` is a good file of another format."""
    rng = random.Random(0)
    yield "empty", b""
    yield "zeros", bytes(len(good))
    yield "foreign", other
    yield "noise", rng.randbytes(1000)
    for i in range(CUTS):
        # CSV keeps its shape when cut behind a whole number, so a cut CSV ends within its second line's first comma.
        end = len(good) * (i + 1) // (CUTS + 1) if case.suffix != ".csv" else 1 + i * good.index(b"\n") // CUTS
        yield f"cut_{i:02d}", good[:end]
    for i in range(FLIPS):
        yield f"flip_{i:02d}", case.flip(good, rng)


def _flip_bit(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _write_mcap(path: Path, number: int) -> None:
    folder = path.parent / f".{path.stem}"
    made = write_samples(folder, episodes=1, seconds=1.0, seed=number, damaged=False)[0]
    made.replace(path)
    folder.rmdir()


def _flip_mcap(data: bytes, rng: random.Random) -> bytes:
    """A bit anywhere in the first chunk's records, which have a CRC (the chunk is most of the file)."""
    return _flip_bit(data, rng.randrange(len(data) // 10, len(data) // 2), rng)


def _table(number: int) -> pa.Table:
    rng = np.random.default_rng(number)
    return pa.table({"time": TIMES, "x": rng.random(len(TIMES)), "y": rng.random(len(TIMES))})


def _write_parquet(path: Path, number: int) -> None:
    pq.write_table(_table(number), path, **CHECKED)


def _flip_parquet(data: bytes, rng: random.Random) -> bytes:
    """A bit in one of the pages, which have a CRC (asked for when written), behind their headers."""
    column = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(rng.randrange(2))  # time or x
    begin = column.dictionary_page_offset or column.data_page_offset
    return _flip_bit(data, begin + column.total_compressed_size - 1 - rng.randrange(40), rng)


def _write_csv(path: Path, number: int) -> None:
    rows = [f"{t},{x!r},{y!r}\n" for t, x, y in zip(*(c.to_pylist() for c in _table(number).columns), strict=True)]
    path.write_text("time,x,y\n" + "".join(rows))


def _flip_csv(data: bytes, rng: random.Random) -> bytes:
    """A digit of x becomes a letter, or a comma something else: CSV has no checksum, a digit for a digit is valid."""
    lines = data.split(b"\n")
    row = rng.randrange(1, len(lines) - 1)
    time, x, y = lines[row].split(b",")
    lines[row] = rng.choice([time + b"," + x[:3] + b"q" + x[4:] + b"," + y, time + b";" + x + b"," + y])
    return b"\n".join(lines)


def _write_hdf5(path: Path, number: int) -> None:
    table = _table(number)
    with h5py.File(path, "w") as file:
        for name in table.schema.names:
            file.create_dataset(name, data=table[name].to_numpy(), fletcher32=True, chunks=True)


def _flip_hdf5(data: bytes, rng: random.Random) -> bytes:
    """A bit of the signature, or one in a chunk of x, which has a checksum (asked for when written)."""
    if rng.random() < 0.25:
        return _flip_bit(data, rng.randrange(8), rng)
    with h5py.File(io.BytesIO(data)) as file:
        chunk = file["x"].id.get_chunk_info(0)
    return _flip_bit(data, chunk.byte_offset + rng.randrange(chunk.size), rng)


CASES = {
    "mcap": Case(".mcap", _write_mcap, _flip_mcap, "/joint_states.position"),
    "parquet": Case(".parquet", _write_parquet, _flip_parquet, "x", {"times": {"column": "time", "unit": "ns"}}),
    "csv": Case(".csv", _write_csv, _flip_csv, "x", {"times": {"column": "time", "unit": "ns"}}),
    "hdf5": Case(".hdf5", _write_hdf5, _flip_hdf5, "x", {"times": {"column": "time", "unit": "ns"}}),
    "lerobot": Case(".parquet", _write_parquet, _flip_parquet, "x"),
}


def write_folder(name: str, folder: Path) -> tuple[set[str], set[str]]:
    """Good and broken recordings side by side; the episode ids of each."""
    case = CASES[name]
    folder.mkdir(parents=True)
    if name == "lerobot":
        return _write_lerobot(case, folder)
    sample, foreign = folder / f"good_0{case.suffix}", folder / "foreign"
    for i in range(3):
        case.write(folder / f"good_{i}{case.suffix}", i)
    CASES["csv" if name == "hdf5" else "hdf5"].write(foreign, 0)
    other = foreign.read_bytes()
    foreign.unlink()
    bad = set()
    for kind, data in broken(case, sample.read_bytes(), other):
        assert data != sample.read_bytes()
        (folder / f"{kind}{case.suffix}").write_bytes(data)
        bad.add(f"{kind}{case.suffix}")
    return {f"good_{i}{case.suffix}" for i in range(3)}, bad


def _write_lerobot(case: Case, root: Path) -> tuple[set[str], set[str]]:
    """One v2.1 dataset, a file an episode."""

    def rows(index: int) -> pa.Table:
        n = np.arange(len(TIMES))
        x = np.random.default_rng(index).random(len(TIMES)).astype("f4")
        index_columns = {"frame_index": n, "episode_index": np.full(len(n), index), "index": n + index * len(n)}
        return pa.table({"x": x, "timestamp": (n / 100).astype("f4"), **index_columns, "task_index": 0 * n})

    data = root / "data/chunk-000"
    data.mkdir(parents=True)
    pq.write_table(rows(0), data / "good", **CHECKED)
    good = (data / "good").read_bytes()
    (data / "good").unlink()
    case_of_x = Case(case.suffix, case.write, _flip_first_column, case.source)
    copies = [content for _, content in broken(case_of_x, good, b"a,b\n1,2\n")]
    for i in range(3 + len(copies)):
        path = data / f"episode_{i:06d}.parquet"
        if i < 3:
            pq.write_table(rows(i), path, **CHECKED)
        else:
            path.write_bytes(copies[i - 3])
    (root / "meta").mkdir()
    episodes = [{"episode_index": i, "tasks": ["t"], "length": len(TIMES)} for i in range(3 + len(copies))]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in episodes))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "t"}\n')
    floats = {"x": {"dtype": "float32", "shape": [1]}, "timestamp": {"dtype": "float32", "shape": [1]}}
    info = {
        "codebase_version": "v2.1", "robot_type": "arm", "fps": 100, "total_episodes": len(episodes),
        "chunks_size": 1000, "features": floats,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    return {f"#{i}" for i in range(3)}, {f"#{i}" for i in range(3, len(episodes))}


def _flip_first_column(data: bytes, rng: random.Random) -> bytes:
    column = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    return _flip_bit(data, begin + column.total_compressed_size - 1 - rng.randrange(40), rng)
