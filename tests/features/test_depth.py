"""Images of depths as clouds: pixel by pixel, whatever their numbers are, picked and never interpolated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from align_kit import aligned, stream
from config_kit import job, only_problem, problems
from message_kit import T0, header, make, record
from voxel_oracles import answer, dense

from robocache import run
from robocache.config.job import Feature, FeatureSource
from robocache.errors import ConfigError
from robocache.features.depth import Depth
from robocache.features.voxelize import Voxelize
from robocache.output.dataset import Output

CAMERA = {"fx": 60.0, "fy": 50.0, "cx": 19.5, "cy": 14.5}
SIZE, BOUNDS = 0.1, ((-1.0, -1.0, 0.0), (1.0, 1.0, 3.0))


def images(count: int, dtype: str = "u2") -> np.ndarray:
    """``[count, 30, 40]`` of millimetres, with pixels that saw nothing."""
    random = np.random.default_rng(0)
    found = random.integers(300, 3300, (count, 30, 40))
    found[random.random(found.shape) < 0.1] = 0
    return found.astype(dtype)


def points(image: np.ndarray, scale: float) -> np.ndarray:
    """Pixel by pixel."""
    found = []
    for v, row in enumerate(image.tolist()):
        for u, depth in enumerate(row):
            z = depth * scale
            if z > 0 and math.isfinite(z):
                found.append([(u - 19.5) / 60.0 * z, (v - 14.5) / 50.0 * z, z])
            else:
                found.append([math.nan] * 3)
    return np.array(found).astype(np.float32)


def feature(**source) -> Feature:
    steps = (Depth(**CAMERA), Voxelize((SIZE,) * 3, BOUNDS, "count"))
    return Feature("voxels", (FeatureSource("depth", **source),), steps=steps)


@pytest.mark.parametrize("dtype, scale", [("u2", 0.001), ("i4", 0.001), ("f4", 1.0)])
def test_images_of_any_numbers(monkeypatch, dtype, scale):
    recorded = images(4, dtype)
    if dtype == "f4":
        recorded = recorded / np.float32(1000)
        recorded[recorded == 0] = np.nan
        recorded[0, 0, 0] = np.inf
    source = stream([0, 20, 45, 60], recorded[..., None])
    table = aligned(monkeypatch, {"voxels": feature()}, {"depth": source}).table
    assert table["voxels.valid"].to_pylist() == [True] * 4
    for row, image in zip(table["voxels"].to_pylist(), recorded, strict=True):
        places = points(image, scale)
        found = answer(places, [0, len(places)], voxel_size=SIZE, bounds=BOUNDS, reduce="count")
        np.testing.assert_array_equal(np.array(row), dense(found, 1, (20, 20, 30), "count")[0])


def test_depths_are_not_interpolated(monkeypatch):
    source = {"depth": stream([0, 20], images(2, "f4"))}
    with pytest.raises(ConfigError) as caught:
        aligned(monkeypatch, {"voxels": feature(align="linear")}, source)
    assert "linear would make samples that were never recorded, and depth takes them as they are" in str(caught.value)


def test_what_is_no_image(monkeypatch):
    with pytest.raises(ConfigError) as caught:
        aligned(monkeypatch, {"voxels": feature()}, {"depth": stream([0, 20], np.zeros((2, 4, 4, 3), np.uint8))})
    assert str(caught.value).startswith("features.voxels.depth: the source holds fixed_size_list<")


def test_images_of_messages(tmp_path):
    recorded = images(3)
    sent = []
    for k, image in enumerate(recorded):
        data = np.frombuffer(image.astype(">u2").tobytes(), np.uint8)
        ns = T0 + k * 100_000_000
        sent.append((ns, make("sensor_msgs/msg/Image", header(ns, "camera"), 30, 40, "16UC1", 1, 80, data)))
    record(tmp_path / "log.mcap", {"/depth": ("sensor_msgs/msg/Image", sent)})
    voxelize = {"size": SIZE, "bounds": [list(corner) for corner in BOUNDS]}
    run(
        {
            "input": {"uri": str(tmp_path / "log.mcap")},
            "features": {"v": {"source": "/depth", "depth": CAMERA, "voxelize": voxelize}},
            "timeline": {"rate_hz": 10},
            "output": {"uri": str(tmp_path / "out")},
        }
    )
    table = Output.open(str(tmp_path / "out")).dataset().to_table()
    assert table.schema.field("v").metadata[b"frame"] == b'"camera"'
    for row, image in zip(table["v"].to_pylist(), recorded, strict=True):
        places = points(image, 0.001)
        found = answer(places, [0, len(places)], voxel_size=SIZE, bounds=BOUNDS)
        np.testing.assert_array_equal(np.array(row), dense(found, 1, (20, 20, 30), "occupancy")[0])


CONFIG = """
input: {uri: logs}
features:
  v:
    source: /depth
    depth: {fx: 525, fy: 525, cx: 319.5, cy: 239.5}
    voxelize: {size: 0.1, bounds: [[-10, -10, -1], [10, 10, 3]]}
timeline: {rate_hz: 10}
output: {uri: out}
"""


def test_config():
    made = job(CONFIG, "features.v.depth.scale=0.0002")
    assert made.features[0].steps[0] == Depth(525.0, 525.0, 319.5, 239.5, 0.0002)
    assert made.identity() != job(CONFIG).identity()
    assert problems(CONFIG, "features.v.depth={fx: 0, fy: -1, cx: .nan}") == [
        "features.v.depth.cy: missing; write the principal point in pixels along y, such as 239.5",
        "features.v.depth.fx: found 0.0; write a number above 0",
        "features.v.depth.fy: found -1.0; write a number above 0",
        "features.v.depth.cx: found nan; write the principal point in pixels along x, such as 319.5",
    ]
    alone = "features.v={source: /d, depth: {fx: 1, fy: 1, cx: 1, cy: 1}}"
    assert only_problem(CONFIG, alone) == "features.v.depth: makes clouds, which a column does not hold; add voxelize"
