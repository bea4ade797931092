"""Images of depths in a LeRobot tree: as its own videos of depths have them."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import do
from tree_kit import START, job

from robocache.formats import InputSpec
from robocache.video import depth

av = pytest.importorskip("av", reason="the extra video is not installed")

CAMERA = "observation.images.depth"


def published(depths: np.ndarray, metre: float) -> np.ndarray:
    """LeRobot's quantisation, written down from its documentation: 0.01 to 10 m, shift 3.5, logarithmic, 12 bits."""
    low, high, shift = 0.01 * metre, 10.0 * metre, 3.5 * metre
    share = (np.log(depths + shift) - np.log(low + shift)) / (np.log(high + shift) - np.log(low + shift))
    return np.rint(share * 4095).clip(0, 4095).astype(np.uint16)


def test_codes_are_the_published_ones_and_come_back():
    millimetres = np.arange(0, 12_000, dtype=np.uint16)
    assert np.array_equal(depth.codes(millimetres), published(millimetres.astype(np.float64), 1000.0))
    metres = np.linspace(0.02, 9.9, 5000).astype(np.float32)
    assert np.array_equal(depth.codes(metres), published(metres.astype(np.float64), 1.0))
    inside = millimetres[10:10_001]
    back = depth.depths(depth.codes(inside), depth.depth_info("mm"))
    assert np.abs(back - inside).max() < 2.3  # half of the widest step, at 10 m
    assert np.abs(back - inside)[:1000].max() < 1.1
    assert depth.codes(np.array([np.nan, -1.0, np.inf, 0.0])).tolist() == [0, 0, 4095, 0]


def images(rows: int) -> np.ndarray:
    y, x = np.mgrid[:64, :80]
    found = np.stack([500 + 11 * x + 7 * y + 40 * k for k in range(rows)]).astype(np.uint16)
    found[:, :4, :4] = 0  # no reading
    found[0, 10, 10] = 15_000  # out of range
    return found


def codes_of(path: Path) -> np.ndarray:
    with av.open(io.BytesIO(path.read_bytes())) as opened:
        stream = opened.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("hevc", "gray12le")
        return np.stack([frame.to_ndarray(format="gray12le") for frame in opened.decode(stream)])


def test_a_camera_of_depths(tmp_path):
    """Recorded as ROS has it; the video is lossless after the codes, also when another tree takes it over."""
    mcap = pytest.importorskip("mcap_ros2.writer", reason="mcap-ros2-support is not installed")
    found, rows = images(6), 6
    definition = (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\n"
        "uint8[] data\n" + "=" * 80 + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
        + "=" * 80 + "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
    )  # fmt: skip
    (tmp_path / "logs").mkdir()
    with open(tmp_path / "logs/0.mcap", "wb") as file:
        writer = mcap.Writer(file)
        schema = writer.register_msgdef("sensor_msgs/msg/Image", definition)
        for k in range(rows):
            at = START + k * 50_000_000
            stamp = {"sec": at // 10**9, "nanosec": at % 10**9}
            message = {
                "header": {"stamp": stamp, "frame_id": "cam"}, "height": 64, "width": 80, "encoding": "16UC1",
                "is_bigendian": 0, "step": 160, "data": found[k].tobytes(),
            }  # fmt: skip
            writer.write_message("/depth", schema, message, at, at)
        writer.finish()
    made = job(tmp_path / "logs", tmp_path / "out", features={CAMERA: "/depth"}, video="av1")
    made = replace(made, input=InputSpec((str(tmp_path / "logs"),)))
    notes = do(made).notes
    assert any(f"{CAMERA}: 0.0% of the depths are not within 0.01 to 10 m" in note for note in notes)
    (path,) = (tmp_path / "out").rglob("*.mp4")
    assert np.array_equal(codes_of(path), published(found.astype(np.float64), 1000.0))
    said = json.loads((tmp_path / "out/meta/info.json").read_text())["features"][CAMERA]
    assert said["shape"] == [64, 80, 1] and said["info"] == {
        "video.height": 64, "video.width": 80, "video.codec": "hevc", "video.pix_fmt": "gray12le",
        "video.is_depth_map": True, "is_depth_map": True, "video.fps": 20, "video.channels": 1, "has_audio": False,
        "video.depth_min": 0.01, "video.depth_max": 10.0, "video.shift": 3.5, "video.use_log": True,
        "depth_unit": "mm",
    }  # fmt: skip
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())[CAMERA]
    assert np.shape(stats["mean"]) == (1, 1, 1) and stats["max"] == [[[15_000.0]]]
    np.testing.assert_allclose(np.ravel(stats["mean"]), found.mean(), rtol=0.02)  # of spread pixels
    shutil.rmtree(tmp_path / "out/meta/robocache")
    again = job(tmp_path / "out", tmp_path / "again", features={CAMERA: CAMERA})
    do(replace(again, input=InputSpec((str(tmp_path / "out"),))))
    (copy,) = (tmp_path / "again").rglob("*.mp4")
    assert np.array_equal(codes_of(copy), codes_of(path))
    assert json.loads((tmp_path / "again/meta/info.json").read_text())["features"][CAMERA] == said
    back = json.loads((tmp_path / "again/meta/stats.json").read_text())[CAMERA]
    np.testing.assert_allclose(np.ravel(back["mean"]), np.ravel(stats["mean"]), rtol=0.01)


def test_a_lossless_table_of_depths_without_videos(tmp_path):
    """``video: none`` keeps the numbers as they were measured; and the codec has no part in it."""
    found = images(3)
    rows = pa.array(found.tolist(), pa.list_(pa.list_(pa.uint16(), 80), 64))
    (tmp_path / "logs").mkdir()
    pq.write_table(pa.table({"time": START + np.arange(3) * 50_000_000, "cam": rows}), tmp_path / "logs/0.parquet")
    do(job(tmp_path / "logs", tmp_path / "out", features={CAMERA: "cam"}))
    said = json.loads((tmp_path / "out/meta/info.json").read_text())["features"][CAMERA]
    assert (said["dtype"], said["shape"]) == ("uint16", [64, 80])
    stored = pq.read_table(tmp_path / "out/data")[CAMERA].to_pylist()
    assert np.array_equal(np.array(stored), found)
