"""What the steps of making a LeRobot tree take, and a prototype that copies column chunks instead of encoding them.

    python benchmarks/lerobot_chunks.py [--episodes 40] [--rows 5000] [--repeats 7] [--csv FILE]

The parts are those of benchmarks/lerobot_finalise.py. The prototype takes the features' column chunks (encoded pages)
of the parts byte for byte, encodes the five index columns alone, and writes footers in Thrift's compact protocol; what
it makes is read by pyarrow (page checksums on) and compared. It is no part of the package: docs/lerobot.md says why.
Seconds are the processor's, the least of the repeats.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot_finalise import FPS, WIDTH, record

from robocache import run
from robocache.output import parts
from robocache.output.lerobot.rows import points_of
from robocache.output.lerobot.statistics import of_rows

FEATURES, IN_A_FILE = ("observation.state", "action"), 14
KIND = pa.list_(pa.float32())
INDEX = {
    "timestamp": pa.float32(),
    **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), pa.int64()),
}
SCHEMA = pa.schema([*((name, KIND) for name in FEATURES), *INDEX.items()])

#: A struct of Thrift's: by field, its type and value.
Struct = dict[int, tuple[int, Any]]
BOOLS, BYTE, INTS, BINARY, LIST, STRUCT = (1, 2), 3, (4, 5, 6), 8, 9, 12
I16, I64 = 4, 6
#: Fields of Parquet's structs that the prototype touches: https://github.com/apache/parquet-format
SCHEMA_OF, ROWS_OF, GROUPS_OF, MORE_OF = 2, 3, 4, (5, 6, 7)
CHUNKS, BYTES, ROWS, OFFSET, PACKED, ORDINAL = 1, 2, 3, 5, 6, 7
FILE_OFFSET, META = 2, 3
PATH, SIZE, DATA_PAGE, DICTIONARY_PAGE = 3, 7, 9, 11


class Reader:
    """Thrift's compact protocol."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _size(self) -> int:
        found = shift = 0
        while (byte := self._byte()) > 127:
            found, shift = found | (byte & 127) << shift, shift + 7
        return found | byte << shift

    def _number(self) -> int:
        size = self._size()
        return size >> 1 ^ -(size & 1)

    def _value(self, kind: int) -> Any:
        if kind in BOOLS:
            return kind == 1
        if kind == BYTE:
            return self._byte()
        if kind in INTS:
            return self._number()
        if kind == BINARY:
            size = self._size()
            self._at += size
            return self._data[self._at - size : self._at]
        if kind == LIST:
            head = self._byte()
            count, element = head >> 4, head & 15
            count = self._size() if count == 15 else count
            return element, [self._byte() if element in BOOLS else self._value(element) for _ in range(count)]
        if kind == STRUCT:
            return self.struct()
        raise ValueError(f"Thrift type {kind}")

    def struct(self) -> Struct:
        found: Struct = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            found[field] = head & 15, self._value(head & 15)
        return found


def size_of(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def number(n: int) -> bytes:
    return size_of(n << 1 ^ n >> 63)


def encoded(kind: int, value: Any) -> bytes:
    if kind == BYTE:
        return bytes([value])
    if kind in INTS:
        return number(value)
    if kind == BINARY:
        return size_of(len(value)) + value
    if kind == LIST:
        element, items = value
        head = bytes([len(items) << 4 | element]) if len(items) < 15 else bytes([240 | element]) + size_of(len(items))
        return head + b"".join(bytes([i]) if element in BOOLS else encoded(element, i) for i in items)
    out, last = bytearray(), 0
    for field, (inner, item) in sorted(value.items()):
        inner = (1 if item else 2) if inner in BOOLS else inner
        out += bytes([field - last << 4 | inner]) if field - last < 16 else bytes([inner]) + number(field)
        out += b"" if inner in BOOLS else encoded(inner, item)
        last = field
    return bytes([*out, 0])


def footer(data: bytes) -> Struct:
    (length,) = struct.unpack_from("<I", data, len(data) - 8)
    return Reader(data[-8 - length : -8]).struct()


def chunks_of(group: Struct) -> dict[str, Struct]:
    return {chunk[META][1][PATH][1][1][0].decode(): chunk for chunk in group[CHUNKS][1][1]}


def moved(chunk: Struct, data: bytes, out: bytearray) -> Struct:
    """Append a column chunk's pages; its description at the new place, without page indexes."""
    meta = dict(chunk[META][1])
    begin = min(meta[f][1] for f in (DATA_PAGE, DICTIONARY_PAGE) if f in meta)
    for field in (DATA_PAGE, DICTIONARY_PAGE):
        if field in meta:
            meta[field] = I64, meta[field][1] + len(out) - begin
    out += memoryview(data)[begin : begin + meta[SIZE][1]]
    return {FILE_OFFSET: (I64, 0), META: (STRUCT, meta)}


def file_of(groups: list[tuple[bytes, Struct]], index: bytes, empty: Struct) -> bytes:
    """Row groups with the features' chunks of parts and the others of ``index``; ``empty``: a footer of the schema."""
    out, described, total = bytearray(b"PAR1"), [], 0
    for (data, group), own in zip(groups, footer(index)[GROUPS_OF][1][1], strict=True):
        theirs, ours, begin = chunks_of(group), chunks_of(own), len(out)
        chunks = [
            moved(ours[name], index, out) if name in INDEX else moved(theirs[name], data, out) for name in SCHEMA.names
        ]
        size, rows = len(out) - begin, group[ROWS][1]
        told = {CHUNKS: (LIST, (STRUCT, chunks)), BYTES: (I64, size), ROWS: (I64, rows), OFFSET: (I64, begin)}
        described.append(told | {PACKED: (I64, size), ORDINAL: (I16, len(described))})
        total += rows
    told = {1: empty[1], SCHEMA_OF: empty[SCHEMA_OF], ROWS_OF: (I64, total), GROUPS_OF: (LIST, (STRUCT, described))}
    end = encoded(STRUCT, told | {field: empty[field] for field in MORE_OF})
    return bytes(out) + end + struct.pack("<I", len(end)) + b"PAR1"


def index_of(episode: int, start: int, rows: int) -> pa.Table:
    values = (np.arange(rows) / FPS, np.arange(rows), np.full(rows, episode), np.arange(start, start + rows))
    columns = [*values, np.zeros(rows)]
    return pa.table(
        {n: pa.array(v.astype(t.to_pandas_dtype())) for (n, t), v in zip(INDEX.items(), columns, strict=True)}
    )


def copied(paths: list[Path]) -> list[bytes]:
    """The tree's files of rows, of the parts' chunks."""
    groups = [(data, group) for p in paths for data in [p.read_bytes()] for group in footer(data)[GROUPS_OF][1][1]]
    sink = pa.BufferOutputStream()
    pq.write_table(SCHEMA.empty_table(), sink)
    empty = footer(sink.getvalue().to_pybytes())
    made, start, episode = [], 0, 0
    for at in range(0, len(groups), IN_A_FILE):
        some, tables = groups[at : at + IN_A_FILE], []
        for _, group in some:
            tables.append(index_of(episode, start, group[ROWS][1]))
            start, episode = start + group[ROWS][1], episode + 1
        made.append(file_of(some, parts.encode(tables, "parquet", "none", plainly=True).to_pybytes(), empty))
    return made


def decoded(paths: list[Path]) -> list[pa.Table]:
    files = [pq.ParquetFile(path, page_checksum_verification=True) for path in paths]
    return [f.read_row_groups([g], FEATURES, use_threads=False) for f in files for g in range(f.num_row_groups)]


def listed(tables: list[pa.Table]) -> list[pa.Table]:
    """As the tree has them."""
    found, start = [], 0
    for episode, table in enumerate(tables):
        offsets = pa.array(np.arange(0, WIDTH * len(table) + 1, WIDTH, dtype=np.int32))
        flat = {name: table[name].combine_chunks().flatten() for name in FEATURES}
        index = index_of(episode, start, len(table))
        columns = [*(pa.ListArray.from_arrays(offsets, values) for values in flat.values()), *index.columns]
        found.append(pa.Table.from_arrays(columns, schema=SCHEMA))
        start += len(table)
    return found


def numbers(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].combine_chunks().flatten()).reshape(-1, WIDTH)


def least(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    spent = []
    for _ in range(repeats):
        began = common.cpu_seconds()
        found = work()
        spent.append(common.cpu_seconds() - began)
    return min(spent), found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--rows", type=int, default=5000, help="of each episode")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--csv", type=Path, help="CSV to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="robocache-chunks-") as made:
        record(Path(made) / "logs", args.episodes, args.rows)
        run(
            {
                "input": {"uri": f"{made}/logs", "format": "parquet", "times": {"column": "time", "unit": "ns"}},
                "features": {name: {"source": name} for name in FEATURES},
                "timeline": {"rate_hz": FPS},
                "output": {"uri": f"{made}/out", "compression": "none", "shard_mb": 16},
                "compute": {"device": "cpu", "threads": 2},
            }
        )
        paths = sorted(Path(made, "out/data").glob("*.parquet"))
        times: dict[str, float] = {}
        times["read"], _ = least(lambda: [path.read_bytes() for path in paths], args.repeats)
        times["decode"], tables = least(lambda: decoded(paths), args.repeats)
        times["lists"], trees = least(lambda: listed(tables), args.repeats)
        each = range(0, len(trees), IN_A_FILE)
        encode = lambda k: parts.encode(trees[k : k + IN_A_FILE], "parquet", "none", plainly=True)  # noqa: E731
        times["encode"], files = least(lambda: [encode(k) for k in each], args.repeats)
        points = points_of(args.rows)
        count = lambda: [of_rows(numbers(t, name), points) for t in tables for name in FEATURES]  # noqa: E731
        times["statistics"], _ = least(count, args.repeats)
        times["sha256"], _ = least(lambda: [hashlib.sha256(file).digest() for file in files], args.repeats)
        times["copy_chunks"], chunks = least(lambda: copied(paths), args.repeats)
        again = [pq.ParquetFile(pa.BufferReader(c), page_checksum_verification=True).read() for c in chunks]
        if not pa.concat_tables(again).equals(pa.concat_tables(trees)):
            raise SystemExit("the copied chunks are not the rows that were encoded")
        row = {"mb": round(sum(path.stat().st_size for path in paths) / 1e6, 1), "rows": args.episodes * args.rows}
        row |= {f"{name}_cpu_s": f"{seconds:.3f}" for name, seconds in times.items()}
        print(row)
        common.write_csv(args.csv, [row | common.machine("pyarrow")])


if __name__ == "__main__":
    main()
