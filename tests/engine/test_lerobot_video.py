"""Cameras in a LeRobot tree: images stay the bytes that were recorded, videos have each frame at its time."""

from __future__ import annotations

import io
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import do
from tree_kit import job, write

from robocache.engine.run import run
from robocache.errors import OutputError
from robocache.output.lerobot.features import tree_features
from robocache.output.lerobot.images import as_payloads
from robocache.output.lerobot.options import LeRobotOptions, TreeSpec
from robocache.video import Encoding, check_times, encode, join, png, times

av = pytest.importorskip("av", reason="the extra video is not installed")

CAMERA = "observation.images.top"
LENGTHS = (7, 12, 5)
FEATURES = {"observation.state": "q", CAMERA: "cam"}


def level(episode: int, frame: int) -> int:
    """The grey that a frame is all of."""
    return 20 + 60 * episode + 5 * frame


def recordings(logs: Path, height: int = 32, width: int = 48) -> list[list[bytes]]:
    found = []
    for i, n in enumerate(LENGTHS):
        images = [png(np.full((height, width, 3), level(i, k), np.uint8)) for k in range(n)]
        cam = pa.array([{"bytes": data, "path": None} for data in images])
        write(logs / f"{i}.parquet", i, {"q": np.full((n, 3), i, np.float32), "cam": cam})
        found.append(images)
    return found


def shown(data: bytes) -> list[tuple[Fraction, float]]:
    """Of each frame that a decoder shows: its time and its mean."""
    with av.open(io.BytesIO(data)) as container:
        return [
            (f.pts * f.time_base, float(f.to_ndarray(format="rgb24").mean()))
            for f in container.decode(container.streams.video[0])
        ]


def test_images_stay_what_was_recorded(tmp_path):
    recorded = recordings(tmp_path / "logs")
    do(job(tmp_path / "logs", tmp_path / "out", features=FEATURES))
    rows = pq.read_table(tmp_path / "out/data")
    assert [row["bytes"] for row in rows[CAMERA].to_pylist()] == [data for images in recorded for data in images]
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["features"][CAMERA] == {
        "dtype": "image",
        "shape": [32, 48, 3],
        "names": ["height", "width", "channels"],
    }
    levels = np.array([level(i, k) for i, n in enumerate(LENGTHS) for k in range(n)]) / 255
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())[CAMERA]
    assert stats["count"] == [24]
    for key, right in (("min", levels.min()), ("max", levels.max()), ("mean", levels.mean()), ("std", levels.std())):
        np.testing.assert_allclose(stats[key], np.full((3, 1, 1), right), rtol=1e-9)


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_each_frame_of_a_video(tmp_path, codec):
    recordings(tmp_path / "logs")
    out = tmp_path / "out"
    do(job(tmp_path / "logs", out, features=FEATURES, video=codec))
    info = json.loads((out / "meta/info.json").read_text())
    assert info["features"][CAMERA]["info"]["video.codec"] == codec
    assert CAMERA not in pq.read_table(out / "data").column_names
    episodes = pq.read_table(out / "meta/episodes").to_pylist()
    for i, e in enumerate(episodes):
        place = (e[f"videos/{CAMERA}/{key}"] for key in ("chunk_index", "file_index"))
        name = info["video_path"].format(
            video_key=CAMERA, **dict(zip(("chunk_index", "file_index"), place, strict=True))
        )
        frames = shown((out / name).read_bytes())
        assert [t for t, _ in frames] == [Fraction(k, 20) for k in range(24)]
        first, last = e[f"videos/{CAMERA}/from_timestamp"], e[f"videos/{CAMERA}/to_timestamp"]
        assert (first, last) == (sum(LENGTHS[:i]) / 20, sum(LENGTHS[: i + 1]) / 20)
        for k in range(LENGTHS[i]):  # as LeRobot asks: the frame that is nearest to from_timestamp + timestamp
            nearest = min(frames, key=lambda f, at=first + k / 20: abs(float(f[0]) - at))
            assert abs(nearest[1] - level(i, k)) < 4
    before = (out / name).stat().st_ino
    shutil.rmtree(out / "meta/robocache/_lerobot")
    do(job(tmp_path / "logs", out, features=FEATURES, video=codec))
    assert (out / name).stat().st_ino != before and shown((out / name).read_bytes()) == frames


def test_a_video_an_episode_in_version_2_1(tmp_path):
    recordings(tmp_path / "logs")
    do(job(tmp_path / "logs", tmp_path / "out", features=FEATURES, video="h264", version="v2.1"))
    for i, n in enumerate(LENGTHS):
        frames = shown((tmp_path / f"out/videos/chunk-000/{CAMERA}/episode_{i:06d}.mp4").read_bytes())
        assert [t for t, _ in frames] == [Fraction(k, 20) for k in range(n)]
        assert all(abs(mean - level(i, k)) < 4 for k, (_, mean) in enumerate(frames))
    do(job(tmp_path / "logs", tmp_path / "out", features=FEATURES))
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_a_row_without_an_image_is_black(tmp_path):
    """The second recording has no camera, which is optional."""
    grey = png(np.full((32, 48, 3), 99, np.uint8))
    cam = pa.array([{"bytes": grey, "path": None}] * 4)
    write(tmp_path / "logs/0.parquet", 0, {"q": np.ones((4, 3), np.float32), "cam": cam})
    write(tmp_path / "logs/1.parquet", 1, {"q": np.ones((3, 3), np.float32)})
    features = {"observation.state": "q", CAMERA: {"source": "cam", "optional": True}}
    do(job(tmp_path / "logs", tmp_path / "out", features=features))
    images = [row["bytes"] for row in pq.read_table(tmp_path / "out/data")[CAMERA].to_pylist()]
    assert images[:4] == [grey] * 4 and len(images) == 7
    assert all(shown(image)[0][1] == 0.0 for image in images[4:])
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())[CAMERA]
    assert stats["count"] == [4]
    np.testing.assert_allclose(stats["min"], np.full((3, 1, 1), 99 / 255))


def test_what_cannot_be_a_video(tmp_path):
    recordings(tmp_path / "logs", 31, 48)
    with pytest.raises(OutputError, match="images of 48 x 31; a video has even sides"):
        run(job(tmp_path / "logs", tmp_path / "out", features=FEATURES, video="h264"))
    assert not (tmp_path / "out/meta/info.json").exists()
    write(tmp_path / "more/a.parquet", 0, {"q": np.ones((3, 3), np.float32), "cam": [b"GIF89a", b"", b"x"]})
    with pytest.raises(OutputError, match="begins with b'GIF89a', which is no JPEG"):
        run(job(tmp_path / "more", tmp_path / "other", features=FEATURES))


def test_a_video_with_a_frame_too_few_is_refused():
    grey = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 9, np.uint8), format="rgb24")
    one = encode([grey, None, grey], (16, 16), Fraction(30000, 1001), Encoding("h264"))
    assert times(one) == [k * Fraction(1001, 30000) for k in range(3)]
    assert len(times(join([one, one], [3, 3], Fraction(30000, 1001)))) == 6
    with pytest.raises(ValueError, match="has 3 of 4 frames"):
        check_times(one, 4, Fraction(30000, 1001))
    with pytest.raises(ValueError, match="has frame 1 at"):
        check_times(one, 3, Fraction(30))


def test_raw_pixels_become_png():
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    kind = pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 6), 4)
    about = {"kind": '"image"', "encoding": '"bgr8"'}
    schema = pa.schema([pa.field("cam", kind, metadata=about), ("cam.valid", pa.bool_())])
    spec = TreeSpec(LeRobotOptions(), Fraction(20), ("cam",), "zstd")
    (feature, *_) = tree_features(schema, spec, lambda name: (0, 0))
    assert (feature.dtype, feature.shape) == ("image", (4, 6, 3))
    column = as_payloads(pa.chunked_array([pa.array(image.tolist(), kind)]), feature, "cam")
    for row, right in zip(column.to_pylist(), image, strict=True):
        with av.open(io.BytesIO(row["bytes"])) as container:
            (frame,) = container.decode(video=0)
        assert np.array_equal(frame.to_ndarray(format="rgb24"), right[:, :, ::-1])
