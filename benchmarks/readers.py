"""Which versions of which readers open the parts that a run writes.

    python benchmarks/readers.py make FOLDER                          (with robocache)
    PYTHONPATH=... python benchmarks/readers.py read FOLDER pyarrow   (any Python from 3.7 on, without robocache)

Reading prints a line of JSON for each output: that the values of every kind of column are those that were recorded, or
what the reader said instead. Old versions go into folders of their own (``pip install --no-deps --target``).
"""

from __future__ import annotations

import glob
import json
import os
import sys

OUTPUTS = {"parquet": {}, "byte_stream_split": {"byte_stream_split": True}, "arrow": {"format": "arrow"}}


def make(folder: str) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from robocache import run

    rng, samples = np.random.default_rng(0), 500
    os.makedirs(f"{folder}/logs")
    expected = {"rows": 0, "grip": 0.0, "q": 0.0, "word": 0, "image": 0}
    for k in range(3):
        times = 1_700_000_000_000_000_000 + 20_000_000 * np.arange(samples) + k * 10**12
        q, grip = rng.standard_normal((samples, 3)), rng.random(samples)
        words, images = ["pick", "place"] * (samples // 2), [rng.bytes(50 + i % 9) for i in range(samples)]
        q_list = pa.FixedSizeListArray.from_arrays(pa.array(q.ravel()), 3)
        table = pa.table({"time": times, "q": q_list, "grip": grip, "word": words, "image": images})
        pq.write_table(table, f"{folder}/logs/log_{k}.parquet")
        expected["rows"] += samples
        expected["grip"] += float(grip.astype(np.float32).sum(dtype=float))
        expected["q"] += float(q.astype(np.float32).sum(dtype=float))
        expected["word"] += sum(map(len, words))
        expected["image"] += sum(map(len, images))
    for name, output in OUTPUTS.items():
        config = {
            "input": {"uri": f"{folder}/logs", "format": "parquet", "times": {"column": "time", "unit": "ns"}},
            "features": {"q": "q", "grip": "grip", "word": "word", "image": "image"},
            "timeline": {"rate_hz": 50},
            "output": {"uri": f"{folder}/{name}", **output},
            "compute": {"device": "cpu"},
        }
        run(config)
    with open(f"{folder}/expected.json", "w") as file:
        json.dump(expected, file)


def columns(paths: list, library: str) -> dict:
    """Of all files together: name -> list of Python values."""
    found: dict = {"grip": [], "q": [], "word": [], "image": []}
    arrow = paths[0].endswith(".arrow")
    for path in paths:
        if library == "pyarrow":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.ipc.open_file(pa.memory_map(path)).read_all() if arrow else pq.ParquetFile(path).read()
            part = {name: table.column(name).to_pylist() for name in found}
        elif library == "pandas":
            import pandas as pd

            frame = pd.read_feather(path) if arrow else pd.read_parquet(path)
            part = {name: frame[name].tolist() for name in found}
        elif library == "polars":
            import polars as pl

            frame = pl.read_ipc(path) if arrow else pl.read_parquet(path)
            part = {name: frame[name].to_list() for name in found}
        elif library == "duckdb":
            import duckdb

            rows = duckdb.query(f"SELECT grip, q, word, image FROM read_parquet('{path}')").fetchall()
            part = dict(zip(found, map(list, zip(*rows))))  # noqa: B905 (Python 3.7)
        elif library == "pyspark":
            part = of_spark(path, list(found))
        else:
            import fastparquet

            frame = fastparquet.ParquetFile(path).to_pandas()
            nested = [name for name in ("q.list.element", "image.bytes") if name in frame]
            part = {name: frame[name].tolist() for name in (*found, *nested) if name in frame}
        for name, values in part.items():
            found.setdefault(name, []).extend(values)
    return found


def of_spark(path: str, names: list) -> dict:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    rows = spark.read.parquet(path).select(*names).collect()
    return {name: [row[name] for row in rows] for name in names}


def read(folder: str, library: str) -> None:
    with open(f"{folder}/expected.json") as file:
        expected = json.load(file)
    module = __import__(library)
    for name in OUTPUTS:
        if name == "arrow" and library in ("duckdb", "fastparquet", "pyspark"):
            continue
        row = {"reader": library, "version": module.__version__, "python": sys.version.split()[0], "output": name}
        try:
            row["lacks"] = compared(columns(sorted(glob.glob(f"{folder}/{name}/data/*")), library), expected)
            row["opens"] = not row["lacks"]
        except BaseException as error:
            row["opens"], row["said"] = False, f"{type(error).__name__}: {error}"[:200]
        print(json.dumps(row), flush=True)


def compared(found: dict, expected: dict) -> list:
    """What is not as it was recorded."""
    q = found["q"] or found.get("q.list.element", [])
    image = found["image"] or found.get("image.bytes", [])
    have = {
        "rows": len(found["grip"]),
        "grip": sum(found["grip"]),
        "q": sum(float(x) for row in q for x in (row if hasattr(row, "__len__") else [row])),
        "word": sum(len(word if isinstance(word, str) else word.decode()) for word in found["word"]),
        "image": sum(len(row["bytes"] if hasattr(row, "keys") or hasattr(row, "asDict") else row) for row in image),
    }
    return [
        f"{name}: {have[name]!r}, not {expected[name]!r}" for name in have if abs(have[name] - expected[name]) > 1e-6
    ]


if __name__ == "__main__":
    make(sys.argv[2]) if sys.argv[1] == "make" else read(sys.argv[2], sys.argv[3])
