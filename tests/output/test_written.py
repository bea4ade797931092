"""What is written is read as is by the libraries that people train with, and its row groups hold whole episodes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from robocache.config.job import Job
from robocache.config.load import job_from_mapping
from robocache.engine.run import run
from robocache.output import parts, schema, statistics
from robocache.output.dataset import Output
from robocache.output.schema import FeatureType

EPISODES, SAMPLES = 4, 300
COLUMNS = ["episode_index", "frame_index", "timestamp", "time_ns", "state", "state.valid", "transform",
           "transform.valid", "grip", "grip.valid", "image", "image.valid", "task", "task.valid"]  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Vectors, matrices, scalars, images and text: every kind of column, in several parts."""
    root = tmp_path_factory.mktemp("written")
    for i in range(EPISODES):
        rng = np.random.default_rng(i)
        matrices = pa.FixedSizeListArray.from_arrays(
            pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(SAMPLES * 16)), 4), 4
        )
        images = [{"bytes": bytes([i, k % 256]), "path": f"{k}.png"} for k in range(SAMPLES)]
        table = pa.table(
            {
                "time": np.arange(SAMPLES) * 10_000_000,
                "q": pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(SAMPLES * 7)), 7),
                "T": matrices,
                "grip": rng.random(SAMPLES),
                "image": pa.array(images),
                "task": [f"task {i}"] * SAMPLES,
                "padding": [bytes(4000)] * SAMPLES,
            }
        )
        pq.write_table(table, root / f"log_{i}.parquet", compression="none", use_dictionary=False)
    config = {
        "input": {"uri": f"{root}/*.parquet", "times": {"column": "time", "unit": "ns"}},
        "features": {
            "state": {"source": "q"},
            "transform": {"source": "T"},
            "grip": {"source": "grip"},
            "image": {"source": "image", "align": "previous"},
            "task": {"source": "task", "align": "nearest"},
        },
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(root / "out"), "shard_mb": 2},
        "compute": {"device": "cpu"},
    }
    summary = run(job_from_mapping(OmegaConf.create(config)))
    assert (summary.episodes, summary.parts, summary.quarantined) == (EPISODES, 2, ())
    return root / "out"


@pytest.fixture(scope="module")
def rows(written) -> int:
    return json.loads((written / "meta/robocache/_report.json").read_text())["rows"]


def test_pyarrow(written, rows):
    data = pyarrow.dataset.dataset(written)
    assert data.schema.names == COLUMNS
    assert data.count_rows() == rows
    table = data.to_table(filter=pyarrow.dataset.field("episode_index") == 2)
    assert table["frame_index"].to_pylist() == list(range(table.num_rows))
    assert table["task"].unique().to_pylist() == ["task 2"]
    assert table["image"][3].as_py() == {"bytes": bytes([2, 6]), "path": None}
    assert table.schema.field("transform").type == pa.list_(pa.list_(pa.float32(), 4), 4)
    assert pq.read_table(written).num_rows == rows


def test_output(written, rows):
    output = Output.open(str(written))
    assert output.schema.names == COLUMNS
    assert output.dataset().count_rows() == rows == sum(output.episodes["rows"].to_pylist()) == output.report["rows"]
    assert output.parts == tuple(sorted(p.relative_to(written).as_posix() for p in (written / "data").iterdir()))
    assert output.episodes["id"].to_pylist() == [f"log_{i}.parquet" for i in range(EPISODES)]
    assert list(output.statistics) == ["state", "transform", "grip"]
    assert output.quarantine == ()
    assert [r.identity for r in output.records()] == [output.identity] * 2
    assert load_job_text(output.config).identity() == output.identity


def load_job_text(text: str) -> Job:
    return job_from_mapping(OmegaConf.create(text))


def test_polars(written, rows):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.scan_parquet(f"{written}/**/*.parquet").collect()
    assert (frame.height, frame.columns) == (rows, COLUMNS)
    assert polars.scan_parquet(written, hidden_file_prefix=["_", "."]).collect().equals(frame)
    expected = pyarrow.dataset.dataset(written).to_table()
    assert frame["transform"].to_list() == expected["transform"].to_pylist()
    assert frame["state"].dtype == polars.Array(polars.Float32, 7)


def test_duckdb(written, rows):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    query = "select count(*), max(len(state)), max(transform[4][4]), count(image.bytes) from read_parquet('{}')"
    found = duckdb.sql(query.format(f"{written}/**/*.parquet")).fetchall()[0]
    table = pyarrow.dataset.dataset(written).to_table()
    assert found[:2] == (rows, 7)
    assert found[2] == max(matrix[3][3] for matrix in table["transform"].to_pylist())
    assert found[3] == rows


def test_pandas(written, rows):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_parquet(written)
    assert (len(frame), list(frame.columns)) == (rows, COLUMNS)
    assert frame["grip"].dtype == np.float32
    assert np.stack(frame["state"]).shape == (rows, 7)
    assert len(pandas.read_parquet(written / "meta/robocache/_episodes.pq")) == EPISODES


def test_hugging_face(written, rows, tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    data = datasets.load_dataset(str(written), split="train", cache_dir=str(tmp_path))
    assert (len(data), data.column_names) == (rows, COLUMNS)
    expected = pyarrow.dataset.dataset(written).to_table()
    assert data[5]["transform"] == expected["transform"][5].as_py()
    assert data[5]["image"]["bytes"] == expected["image"][5].as_py()["bytes"]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_data(written, rows, ray_cluster):
    ray_data = pytest.importorskip("ray.data", reason="Ray is installed without Ray Data")
    data = ray_data.read_parquet(str(written))
    assert data.schema().names == COLUMNS
    assert data.count() == rows
    assert data.sum("frame_index") == pyarrow.dataset.dataset(written).to_table()["frame_index"].to_numpy().sum()


def test_statistics_are_those_of_the_rows(written):
    table = pyarrow.dataset.dataset(written).to_table()
    found = json.loads((written / "meta/robocache/_statistics.json").read_text())
    assert list(found) == ["state", "transform", "grip"]
    for name, stats in found.items():
        valid = table[f"{name}.valid"].to_numpy()
        values = np.array(table[name].to_pylist())[valid].reshape(valid.sum(), -1)
        assert stats["count"] == len(values)
        np.testing.assert_allclose(stats["mean"], values.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(stats["std"], values.std(axis=0), rtol=1e-9)
        np.testing.assert_array_equal(stats["max"], values.max(axis=0))


# Parts


FEATURE = FeatureType("x", pa.list_(pa.float32(), 2))
SCHEMA = schema.arrow_schema([FEATURE])


def episode(index: int, rows: int) -> pa.Table:
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 2, dtype=np.float32)), 2)
    columns = {"x": values, "x.valid": np.ones(rows, bool)}
    return schema.episode_table(SCHEMA, index, f"e{index}", np.arange(rows) * 10**6, columns)


@pytest.mark.parametrize(
    ("lengths", "most", "groups"),
    [
        ([10, 20, 30], 0, [10, 20, 30]),
        ([100], 0, [100]),
        ([250, 10], 0, [100, 100, 50, 10]),
        ([1, 101, 1], 0, [1, 100, 1, 1]),
        ([10, 25, 7], 10, [10, 10, 10, 5, 7]),
        ([150], 120, [100, 50]),
    ],
)
@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_row_group_holds_an_episode_or_a_piece_of_it(monkeypatch, format, lengths, most, groups):
    tables = [episode(i, n) for i, n in enumerate(lengths)]
    monkeypatch.setattr(parts, "GROUP_BYTES", 4020)  # 100 rows of 40 bytes and a bit
    data = parts.encode(tables, format, "zstd", group_rows=most)
    if format == "parquet":
        file = pq.ParquetFile(pa.BufferReader(data))
        found = [file.read_row_group(i) for i in range(file.num_row_groups)]
    else:
        file = pa.ipc.open_file(data)
        found = [pa.Table.from_batches([file.get_batch(i)]) for i in range(file.num_record_batches)]
    assert [t.num_rows for t in found] == groups
    assert pa.concat_tables(found).equals(pa.concat_tables(tables))


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_parts_are_the_same_bytes_and_have_no_dictionary_of_floats(format, compression):
    data = parts.encode([episode(0, 5)], format, compression)
    assert data == parts.encode([episode(0, 5)], format, compression)
    if format == "parquet":
        group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert "RLE_DICTIONARY" not in columns["x.list.element"].encodings
        assert columns["x.list.element"].compression == ("ZSTD" if compression == "zstd" else "UNCOMPRESSED")
        assert all(c.has_offset_index and c.has_column_index for c in columns.values() if c.path_in_schema != "x.valid")


class Counting(io.FileIO):
    """A file that counts the bytes that are read of it."""

    count = 0

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer) -> int:
        size = super().readinto(buffer)
        self.count += size
        return size


def test_one_episode_of_many_is_read_alone(tmp_path):
    rng = np.random.default_rng(0)
    feature = FeatureType("state", pa.list_(pa.float32(), 14))
    arrow = schema.arrow_schema([feature])
    tables = []
    for i in range(200):
        flat = pa.array(rng.standard_normal(300 * 14).astype(np.float32))
        columns = {"state": pa.FixedSizeListArray.from_arrays(flat, 14), "state.valid": np.ones(300, bool)}
        tables.append(schema.episode_table(arrow, i, f"e{i}", np.arange(300) * 20_000_000, columns))
    path = tmp_path / "part.parquet"
    path.write_bytes(parts.encode(tables, "parquet", "zstd"))
    with Counting(path, "rb") as file:
        table = pq.read_table(pa.PythonFile(file, mode="r"), filters=[("episode_index", "==", 100)])
        assert table.equals(tables[100])
        print(f"{file.count} of {path.stat().st_size} bytes")
        assert file.count < path.stat().st_size / 10


def test_the_first_frame_of_many_is_read_with_few(tmp_path):
    """Of an episode of 200 encoded images of 40 kB, by a reader that goes page by page."""
    rng = np.random.default_rng(0)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    frames = [{"bytes": rng.bytes(40_000), "path": None} for _ in range(200)]
    arrow = schema.arrow_schema([FeatureType("image", image)])
    columns = {"image": pa.array(frames, image), "image.valid": np.ones(200, bool)}
    table = schema.episode_table(arrow, 0, "e", np.arange(200) * 20_000_000, columns)
    path = tmp_path / "part.parquet"
    for group_rows, share in ((0, 1 / 4), (16, 1 / 8)):
        path.write_bytes(parts.encode([table], "parquet", "none", group_rows=group_rows))
        with Counting(path, "rb") as file:
            parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=1 << 16, pre_buffer=False)
            first = next(parquet.iter_batches(batch_size=1, columns=["image"]))
            assert first["image"].to_pylist() == frames[:1]
            print(f"{file.count} of {path.stat().st_size} bytes")
            assert file.count < path.stat().st_size * share


IMAGES = {
    "uint8": lambda rng, shape: rng.integers(0, 256, shape, dtype=np.uint8),
    "uint16": lambda rng, shape: rng.integers(0, 60_000, shape, dtype=np.uint16),
    "float32": lambda rng, shape: rng.standard_normal(shape).astype(np.float32),
    "bool": lambda rng, shape: rng.random(shape) < 0.5,
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_as_numbers_costs_its_pixels(kind):
    """Noise, which nothing compresses: neither the nesting nor the footer grows with the pixels."""
    frames = IMAGES[kind](np.random.default_rng(0), (12, 224, 224, 3))
    column = pa.array(frames.reshape(-1))
    for size in reversed(frames.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    arrow = schema.arrow_schema([FeatureType("image", column.type)])
    table = schema.episode_table(
        arrow, 0, "e0", np.arange(12) * 10**8, {"image": column, "image.valid": np.ones(12, bool)}
    )
    data = parts.encode([table], "parquet", "zstd")
    assert pq.read_table(pa.BufferReader(data)).equals(table)
    assert pq.read_metadata(pa.BufferReader(data)).serialized_size < 10_000
    assert data.size < 1.2 * frames.nbytes / (8 if kind == "bool" else 1)
    beside = statistics.encode({0: {"image": statistics.of_column(column, np.ones(12, bool))}})
    assert beside.size < 20_000
