"""Recorded clouds through whole runs: read back in torch and polars, against NumPy's answer to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from voxel_oracles import Answer, answer, dense, read_las, read_pcd

from robocache import run, verify
from robocache.ops.grid import Grid

pytestmark = pytest.mark.realdata
CONFIGS = Path(__file__).parent.parent / "configs"
VLP16 = ("x", "y", "z", "intensity", "return_type", "channel", "azimuth", "elevation", "distance", "time_stamp")


@pytest.fixture
def produce(data_dir, tmp_path, monkeypatch):
    """Run a shipped config with other features perhaps; the folder of the verified output."""
    monkeypatch.setenv("ROBOCACHE_TEST_DATA", str(data_dir))

    def made(name: str, **features: dict) -> Path:
        config = OmegaConf.load(CONFIGS / f"{name}.yaml")
        config.output.uri = str(tmp_path / name)
        for feature, voxelize in features.items():
            config.features[feature] = {"source": "points", "voxelize": voxelize}
        summary = run(config)
        assert not summary.quarantined
        assert verify(config.output.uri).problems == ()
        return tmp_path / name

    return made


def same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == wanted.tobytes()


def sparse_in_torch(out: Path, column: str, row: int) -> dict[str, torch.Tensor]:
    """The lists of one row, as tensors."""
    struct = pq.read_table(out / "data")[column].combine_chunks()
    found = {}
    for field in struct.type:
        flat, shape = struct.field(field.name)[row].values, []
        while hasattr(flat.type, "list_size"):
            shape.append(flat.type.list_size)
            flat = flat.flatten()
        found[field.name] = torch.from_numpy(flat.to_numpy(zero_copy_only=False).copy()).reshape(-1, *shape)
    return found


def test_kinect_sequence(produce, data_dir):
    out = produce("kinect")
    files = sorted((data_dir / "clouds" / "kinect_sequence").glob("*.pcd"))
    frames = [read_pcd(path) for path in files]
    box = {"voxel_size": 0.02, "bounds": ((-1, -0.8, 0.6), (0.7, 0.4, 1.8))}
    table = pl.scan_parquet(f"{out}/**/*.parquet").collect()
    times = [814_212_000, 1_068_683_000, 1_332_395_000]
    picked = [int(np.abs(np.array(times) - (t - 1_355_494_975_000_000_000)).argmin()) for t in table["time_ns"]]
    assert picked == [0, 0, 1, 1, 2, 2]
    occupied = torch.from_numpy(table["observation.occupied"].to_numpy())
    assert (occupied.dtype, occupied.shape) == (torch.bool, (6, 85, 60, 60))
    for row in (0, 2, 4):
        frame = frames[picked[row]]
        points, colour = frame[:, :3].astype(np.float32), frame[:, 3].astype(np.uint32)
        rgb = np.stack([(colour >> shift) & 255 for shift in (16, 8, 0)], axis=1).astype(np.float32)
        wanted = answer(points, [0, len(points)], features=rgb, reduce="mean", **box)
        cells = np.zeros((85, 60, 60), bool)
        cells[tuple(wanted.coordinates.T)] = True
        for again in (row, row + 1):
            same_bits(occupied[again].numpy(), cells)
            found = sparse_in_torch(out, "observation.colour", again)
            same_bits(found["coordinates"].numpy(), wanted.coordinates.astype(np.int32))
            same_bits(found["values"].numpy(), wanted.values)
        lists = table["observation.colour"][row]
        assert np.array(lists["coordinates"]).tolist() == wanted.coordinates.tolist()


def test_every_reduction_of_a_lidar(produce, data_dir):
    """Dense and sparse, on the whole cloud."""
    box = {"size": 0.5, "bounds": [[-10, -10, -1], [5, 8, 2]]}
    names = ["x", "z", "intensity", "azimuth"]
    wanted: dict[str, Answer] = {}
    table = read_pcd(data_dir / "clouds" / "vlp16.pcd").astype(np.float32)
    features = np.ascontiguousarray(table[:, [VLP16.index(name) for name in names]])
    asked: dict[str, dict] = {}
    for reduce in ("occupancy", "count", "sum", "mean", "min", "max", "points"):
        more = {"features": names} if reduce not in ("occupancy", "count") else {}
        kept = {"max_points": 5} if reduce == "points" else {}
        for layout in ("sparse",) if reduce == "points" else ("dense", "sparse"):
            asked[f"{reduce}_{layout}"] = {**box, "reduce": reduce, "layout": layout, **more, **kept}
        where = {"voxel_size": box["size"], "bounds": box["bounds"]}
        wanted[reduce] = answer(table, [0, len(table)], features=features, reduce=reduce, **where, **kept)
    out = produce("vlp16", **asked)
    row = pq.read_table(out / "data")
    shape = Grid.of(box["size"], box["bounds"]).shape
    for reduce, said in wanted.items():
        if reduce != "points":
            grid = dense(said, 1, shape, reduce)
            found = row[f"{reduce}_dense"].combine_chunks()
            while hasattr(found.type, "list_size"):
                found = found.flatten()
            flat = found.to_numpy(zero_copy_only=False)
            same_bits(flat.reshape(grid.shape), grid)
        lists = sparse_in_torch(out, f"{reduce}_sparse", 0)
        same_bits(lists["coordinates"].numpy(), said.coordinates.astype(np.int32))
        if reduce not in ("occupancy",):
            values = said.values[:, 0] if reduce == "count" else said.values
            same_bits(lists["values"].numpy(), values)
        if reduce == "points":
            same_bits(lists["counts"].numpy(), said.counts.astype(np.int32))
    (episode,) = pq.read_table(out / "meta/robocache/_episodes.pq").to_pylist()
    assert f"{wanted['count'].dropped[0]:,} of 14,831 points" in str(episode)


def test_a_survey_in_a_maps_frame(data_dir, tmp_path):
    """Places around 850,000 feet, of which float32 would tell no more than sixteenths."""
    path = data_dir / "clouds" / "simple.las"
    pytest.importorskip("laspy")
    xyz = read_las(path)
    box = {"size": 0.03, "bounds": [[635_600, 848_900, 400], [636_600, 850_000, 600]]}
    config = {
        "input": {"uri": str(path)},
        "features": {
            "mean": {
                "source": "points",
                "dtype": "float64",
                "voxelize": {**box, "reduce": "mean", "layout": "sparse", "features": ["x", "y", "z"]},
            }
        },
        "timeline": {"rate_hz": 1},
        "output": {"uri": str(tmp_path / "out")},
    }
    run(config)
    wanted = answer(xyz, [0, len(xyz)], reduce="mean", voxel_size=box["size"], bounds=box["bounds"])
    assert len(wanted.counts) > 50
    found = sparse_in_torch(tmp_path / "out", "mean", 0)
    same_bits(found["coordinates"].numpy(), wanted.coordinates.astype(np.int32))
    same_bits(found["values"].numpy(), wanted.values)
