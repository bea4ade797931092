"""Camera frames in HDF5, end to end: the size of the part, pixels in every reader, encoded images as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from robocache.engine.run import run
from robocache.output.verify import verify

h5py = pytest.importorskip("h5py", reason="HDF5 is optional")


def produce(tmp_path: Path, **sources: object) -> Path:
    config = {
        "input": {"uri": str(tmp_path / "e.hdf5"), "times": {"rate_hz": 50}},
        "features": sources,
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(tmp_path / "out")},
    }
    assert not run(config).quarantined
    assert verify(str(tmp_path / "out")).problems == ()
    return tmp_path / "out"


def opened(out: Path, name: str) -> dict[str, pa.Array]:
    """The column in every reader that is installed, given the root of the output."""
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    found = {
        "pyarrow": pyarrow.dataset.dataset(out).to_table([name])[name],
        "duckdb": duckdb.sql(f"select \"{name}\" from '{out}/**/*.parquet'").to_arrow_table()[name],
        "polars": polars.scan_parquet(f"{out}/**/*.parquet").select(name).collect().to_arrow()[name],
    }
    try:
        import datasets
    except ImportError:
        return found
    found["datasets"] = datasets.load_dataset(str(out), split="train").with_format("arrow")[:][name]
    return found


def pixels(column: pa.Array | pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    while not pa.types.is_integer(flat.type):
        flat = flat.flatten()
    assert flat.type == pa.uint8()
    return flat.to_numpy(zero_copy_only=False).reshape(shape)


@pytest.mark.parametrize(
    "shape",
    [
        (130, 224, 224, 3),
        (40, 480, 640, 3),
        pytest.param((300, 480, 640, 3), marks=pytest.mark.slow),
    ],
)
def test_frames_cost_about_their_size_and_open_everywhere(tmp_path: Path, shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with h5py.File(tmp_path / "e.hdf5", "w") as file:
        file["action"] = np.arange(shape[0] * 14, dtype=np.float32).reshape(-1, 14)
        file["observations/images/top"] = frames
    out = produce(tmp_path, action="action", top="observations/images/top")
    (part,) = (out / "data").glob("*.parquet")
    whole = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert part.stat().st_size < whole < 1.2 * frames.nbytes
    for reader, column in opened(out, "top").items():
        assert (pixels(column, shape) == frames).all(), reader
    some = [0, len(frames) // 2, len(frames) - 1]  # pandas makes an object of every pixel
    frame = pandas.read_parquet(out, columns=["top"], filters=[("frame_index", "in", some)])["top"]
    for k, found in zip(some, frame, strict=True):
        assert (np.stack([np.stack(row) for row in found]) == frames[k]).all()
    assert pq.read_table(part, columns=["top.valid"])["top.valid"].to_pylist() == [True] * len(frames)


@pytest.mark.parametrize("lengths", [False, True])
def test_padded_jpeg_buffers_come_out_as_the_same_bytes(tmp_path: Path, lengths: bool) -> None:
    rng = np.random.default_rng(0)
    images = [b"\xff\xd8\xff" + rng.bytes(int(rng.integers(1000, 4000))) + b"\xff\xd9" for _ in range(30)]
    images[7] = b""  # a frame that was dropped
    with h5py.File(tmp_path / "e.hdf5", "w") as file:
        file["top"] = np.stack([np.frombuffer(image.ljust(5000, b"\0"), np.uint8) for image in images])
        if lengths:
            file["compress_len"] = np.array([[len(image) for image in images]], np.float32)
        file["task"], file.attrs["success"] = "pick", True
    out = produce(
        tmp_path,
        top={"source": "top", "max_gap": "1ms"},
        task={"source": "task", "static": True},
        success={"source": "@success", "static": True},
    )
    table = pyarrow.dataset.dataset(out).to_table()
    found, valid = table["top"].to_pylist(), table["top.valid"].to_pylist()
    assert valid == [k != 7 for k in range(30)]
    assert [row["bytes"] for row, ok in zip(found, valid, strict=True) if ok] == [i for i in images if i]
    assert table["task"].to_pylist() == ["pick"] * 30 and table["success"].to_pylist() == [True] * 30
