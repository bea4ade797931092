"""Recorded videos in a LeRobot tree: the frames that were recorded, as they were encoded, each at its row's time."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import do
from tree_kit import job, write

from robocache.config.job import Job
from robocache.engine.run import run
from robocache.errors import OutputError
from robocache.formats import InputSpec, list_episodes, read_episode
from robocache.output.lerobot import reels
from robocache.output.verify import verify
from robocache.types import Source
from robocache.video import cut, join, png, read_video, sort_of, times

av = pytest.importorskip("av", reason="the extra video is not installed")

CAMERA = "observation.images.top"
LENGTHS = (6, 8, 4)
FEATURES = {"observation.state": "observation.state", CAMERA: CAMERA}


def payloads(video: bytes | Path) -> list[bytes]:
    """The encoded frames, as a decoder gets them."""
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else str(video)) as opened:
        return [bytes(p) for p in opened.demux(opened.streams.video[0]) if p.size]


@pytest.fixture(scope="module", params=["v2.1", "v3.0"])
def source(request, tmp_path_factory) -> Path:
    """A LeRobot dataset with videos (h264, a key frame every other frame), whose episodes have a grey each."""
    work = tmp_path_factory.mktemp("source")
    for i, n in enumerate(LENGTHS):
        images = [png(np.full((32, 48, 3), 20 + 60 * i + 5 * k, np.uint8)) for k in range(n)]
        cam = pa.array([{"bytes": data, "path": None} for data in images])
        write(work / f"logs/{i}.parquet", i, {"q": np.full((n, 3), i, np.float32), "cam": cam})
    features = {"observation.state": "q", CAMERA: "cam"}
    do(job(work / "logs", work / "out", features=features, video="h264", version=request.param))
    shutil.rmtree(work / "out/meta/robocache")
    return work / "out"


def from_tree(source: Path, out: Path, *, rate: int = 20, features: dict | None = None, **output) -> Job:
    """A run from a LeRobot dataset to another."""
    made = job(source, out, features=features or FEATURES, **output)
    return replace(made, input=InputSpec((str(source),)), timeline=replace(made.timeline, rate=Fraction(rate)))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_the_streams_of_bytes_are_those_recorded(source, tmp_path, version):
    out = tmp_path / "out"
    do(from_tree(source, out, version=version))
    before = [data for path in sorted(source.rglob("*.mp4")) for data in payloads(path)]
    files = sorted(out.rglob("*.mp4"))
    assert [data for path in files for data in payloads(path)] == before
    found = [times(path.read_bytes()) for path in files]
    if version == "v2.1":
        assert found == [[Fraction(k, 20) for k in range(n)] for n in LENGTHS]
    else:
        assert found == [[Fraction(k, 20) for k in range(18)]]
        episodes = pq.read_table(out / "meta/episodes").to_pylist()
        begins = [(e[f"videos/{CAMERA}/from_timestamp"], e[f"videos/{CAMERA}/to_timestamp"]) for e in episodes]
        assert begins == [(0.0, 0.3), (0.3, 0.7), (0.7, 0.9)]
    said = json.loads((out / "meta/info.json").read_text())["features"][CAMERA]
    assert (said["info"]["video.codec"], said["shape"]) == ("h264", [32, 48, 3])
    levels = [(20 + 60 * i + 5 * k) / 255 for i, n in enumerate(LENGTHS) for k in range(n)]
    stats = json.loads((out / "meta/stats.json").read_text())[CAMERA]
    np.testing.assert_allclose(np.ravel(stats["mean"]), np.mean(levels), atol=4 / 255)
    assert verify(str(out)).problems == ()


def test_and_back_through_our_own_reader(source, tmp_path):
    do(from_tree(source, tmp_path / "out"))
    shutil.rmtree(tmp_path / "out/meta/robocache")
    assert verify(str(tmp_path / "out")).problems == ()
    spec = InputSpec((str(tmp_path / "out"),), "lerobot")
    for i, ref in enumerate(list_episodes(spec)):
        stream = read_episode(ref, [Source(CAMERA)], spec).streams[CAMERA]
        seconds = [row["pts"] * Fraction(row["time_base"]) for row in stream.values.to_pylist()]
        assert seconds == [Fraction(sum(LENGTHS[:i]) + k, 20) for k in range(LENGTHS[i])]


def test_files_end_where_they_are_full(source, tmp_path, monkeypatch):
    monkeypatch.setattr(reels, "VIDEO_MB", 1e-6)
    do(from_tree(source, tmp_path / "out"))
    episodes = pq.read_table(tmp_path / "out/meta/episodes").to_pylist()
    assert [e[f"videos/{CAMERA}/file_index"] for e in episodes] == [0, 1, 2]
    assert [e[f"videos/{CAMERA}/from_timestamp"] for e in episodes] == [0.0, 0.0, 0.0]
    for k, n in enumerate(LENGTHS):
        assert len(times((tmp_path / f"out/videos/{CAMERA}/chunk-000/file-{k:03d}.mp4").read_bytes())) == n


def test_what_does_not_fit_is_encoded_anew_or_refused(source, tmp_path):
    """At half the rate a row takes every other frame."""
    with pytest.raises(OutputError, match=r"do not take each frame once, in order.*video: av1 or h264 encodes"):
        run(from_tree(source, tmp_path / "none", rate=10))
    notes = do(from_tree(source, tmp_path / "out", rate=10, video="h264")).notes
    assert any("3 recorded videos do not fit and were encoded anew" in note for note in notes)
    with av.open(str(tmp_path / f"out/videos/{CAMERA}/chunk-000/file-000.mp4")) as opened:
        means = [f.to_ndarray(format="rgb24").mean() for f in opened.decode(video=0)]
    right = [20 + 60 * i + 10 * k for i, n in enumerate(LENGTHS) for k in range(n // 2)]
    np.testing.assert_allclose(means, right, atol=4)


def test_a_video_that_is_gone_is_named(source, tmp_path):
    here = tmp_path / "source"
    shutil.copytree(source, here)
    do(from_tree(here, tmp_path / "out", features={"observation.state": "observation.state"}))
    do(from_tree(here, tmp_path / "two", format="parquet"))
    video = next(here.rglob("*.mp4"))
    video.unlink()
    from robocache.lerobot import from_dataset

    with pytest.raises(OutputError, match=f"{video.name}: is not there; rows refer to its frames"):
        from_dataset(str(tmp_path / "two"), str(tmp_path / "three"))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rate", "codec", "frames"),
    [("lerobot/g1_inspire_v21", 30, "av1", 221), ("more/lerobot/gr1_picknplace_v20", 20, "h264", 328)],
)
def test_recorded_videos_of_others(data_dir, name, rate, codec, frames):
    """gr1's has B-frames, which are decoded in another order than they are shown."""
    (path,) = (data_dir / name).rglob("*.mp4")
    with path.open("rb") as opened:
        found = read_video(opened, str(path))
        video = cut(opened, str(path), found.pts.tolist(), Fraction(rate))
        assert (found.codec, len(found.pts)) == (codec, frames)
        assert payloads(video) == payloads(path)
        twice = join([video, video], [frames, frames], Fraction(rate))
        assert times(twice) == [Fraction(k, rate) for k in range(2 * frames)]
        assert payloads(twice) == 2 * payloads(path) and sort_of(twice) == sort_of(video)
        with pytest.raises(ValueError, match="its first frame is no key frame"):
            cut(opened, str(path), found.pts.tolist()[3:9], Fraction(rate))
