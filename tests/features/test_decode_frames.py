"""``decode``: pixels of images and videos, each frame once, beside PyAV's own way through the file."""

from __future__ import annotations

import io
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from message_kit import T0, make, record, register, stamp

import robocache
from robocache.errors import ConfigError, InputError
from robocache.features import Compute, Samples
from robocache.features.decode import Decode
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode
from robocache.types import StreamType
from robocache.video import decoded_frames, is_key_frame

av = pytest.importorskip("av", reason="the extra video is not installed")

MS = 1_000_000
TEXT = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
VIDEO = register("foxglove_msgs/msg/CompressedVideo", TEXT)


def level(k: int) -> int:
    return 16 + 5 * k


def picture(k: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level(k), np.uint8)


def video(path: Path, count: int = 40, gop: int = 10, codec: str = "libx264", b_frames: int = 2, **options) -> Path:
    """A video whose frame k is all of one grey, 5 brighter than the one before; 30000/1001 frames a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=Fraction(30000, 1001), options={"bf": str(b_frames), **options})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 48, 32, "yuv420p", gop
        for k in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(k), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def packets(codec: str, count: int, gop: int) -> list[bytes]:
    """A message a frame: Annex B, no frame that another comes before."""
    params = f"scenecut=0:keyint={gop}:min-keyint={gop}:bframes=0"
    quiet = {"libx264": "", "libx265": ":log-level=none"}[codec]
    options = {"tune": "zerolatency", f"{codec.removeprefix('lib')}-params": params + quiet}
    with av.open(io.BytesIO(), "w", format="h264" if codec == "libx264" else "hevc") as file:
        stream = file.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 48, 32, "yuv420p", gop
        out = []
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 30)
            out += stream.encode(frame)
        out += stream.encode(None)
        return [bytes(packet) for packet in out]


def greys(pixels: np.ndarray) -> list[int]:
    return [round((float(image.mean()) - 16) / 5) for image in pixels]


def test_a_video_is_its_frames_at_their_times(tmp_path):
    """Times are told without decoding, and are those that a decoder shows."""
    uri = str(video(tmp_path / "a.mp4"))
    spec = InputSpec((uri,))
    (ref,) = list_episodes(spec)
    (info,) = list_streams(ref, spec)
    with av.open(uri) as file:
        pts = [frame.pts * file.streams.video[0].time_base for frame in file.decode(video=0)]
    assert info.times.tolist() == [round(t * 10**9) for t in pts] and info.type == "h264 video 32 x 48"
    stream = read_episode(ref, ["video"], spec).streams["video"]
    first = stream.values[1].as_py()
    assert (first["path"], first["frame"]) == ("a.mp4", 1) and first["pts"] * Fraction(first["time_base"]) == pts[1]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_no_frame_is_decoded_twice(tmp_path, name, monkeypatch):
    path = video(tmp_path / name)
    with av.open(str(path)) as file:
        shown = [frame.pts for frame in file.decode(video=0)]
    wanted = [shown[k] for k in (3, 4, 8, 25, 26, 39)]
    with path.open("rb") as opened:
        found = [(pts, frame.to_ndarray(format="rgb24")) for pts, frame in decoded_frames(opened, str(path), wanted)]
    assert [pts for pts, _ in found] == wanted
    assert greys([pixels for _, pixels in found]) == [3, 4, 8, 25, 26, 39]
    with path.open("rb") as opened, pytest.raises(InputError, match="its frame at"):
        list(decoded_frames(opened, str(path), [shown[3] + 1]))


def run(tmp_path: Path, features: dict, uri: Path, rate=10) -> pa.Table:
    out = tmp_path / "out"
    config = {
        "input": {"uri": str(uri)},
        "features": features,
        "timeline": {"rate_hz": rate},
        "output": {"uri": str(out)},
    }
    robocache.run(config)
    return pq.read_table(out / "data")


def test_a_video_into_a_dataset(tmp_path):
    """References by default; pixels with decode; a frame that several rows pick is the same frame."""
    path = video(tmp_path / "a.mp4", count=12)
    features = {
        "reference": "video",
        "pixels": {"source": "video", "decode": True},
        "small": {"source": "video", "decode": {"resize": [8, 12]}},
    }
    table = run(tmp_path, features, path, rate=60)
    picked = [row["frame"] for row in table["reference"].to_pylist()]
    assert set(picked) == set(range(12)) and len(picked) > 20
    pixels = np.array(table["pixels"].combine_chunks().flatten().flatten().flatten()).reshape(-1, 32, 48, 3)
    assert pixels.dtype == np.uint8 and greys(pixels) == picked
    small = np.array(table["small"].combine_chunks().flatten().flatten().flatten()).reshape(-1, 8, 12, 3)
    assert greys(small) == picked


@pytest.mark.parametrize(("codec", "format"), [("libx264", "h264"), ("libx265", "h265")])
def test_a_video_in_messages(tmp_path, codec, format):
    """From the key frame before: frames of a log that begins between two are not valid."""
    frames = packets(codec, 30, 10)
    assert [k for k, data in enumerate(frames) if is_key_frame(data, "h264" if format == "h264" else "hevc")] == [
        0,
        10,
        20,
    ]
    sent = []
    for k in range(4, 30):
        t = T0 + k * 100 * MS
        data = np.frombuffer(frames[k], np.uint8)
        sent.append((t, make(VIDEO, stamp(t), "camera", data, format)))
    path = record(tmp_path / "a.mcap", {"/camera": (VIDEO, sent)})
    table = run(tmp_path, {"camera": {"source": "/camera", "decode": {"resize": [32, 48]}}}, path, rate=5)
    pixels = np.array(table["camera"].combine_chunks().flatten().flatten().flatten()).reshape(-1, 32, 48, 3)
    valid = table["camera.valid"].to_pylist()
    assert valid == [False] * 3 + [True] * (len(valid) - 3)
    assert greys(pixels[3:]) == list(range(10, 30, 2))


def test_key_frames_of_av1():
    """Units of a temporal delimiter, a sequence header and a frame, with their sizes; and without a sequence header."""
    delimiter, header, frame = b"\x12\x00", b"\x0a\x02ab", b"\x32\x03abc"
    assert is_key_frame(delimiter + header + frame, "av1") and not is_key_frame(delimiter + frame, "av1")
    assert not is_key_frame(b"", "av1") and not is_key_frame(b"\x12", "av1") and not is_key_frame(b"", "h264")


def test_encoded_images(tmp_path):
    images = []
    for k in range(3):
        data = io.BytesIO()
        with av.open(data, "w", format="image2pipe") as file:
            stream = file.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(k), format="rgb24")))
            file.mux(stream.encode(None))
        images.append(data.getvalue())
    given = Samples(pa.array(images, pa.binary()), np.ones(3, bool), {"kind": "image"})
    done = Decode().apply(given, Compute())
    assert done.valid.all() and np.array_equal(done.values, np.stack([picture(k) for k in range(3)]))
    with pytest.raises(InputError, match="no JPEG, PNG or WebP"):
        Decode().apply(Samples(pa.array([b"none"]), np.ones(1, bool), {"kind": "image"}), Compute())


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_videos_of_lerobot(tmp_path, version):
    """A file an episode, or two episodes in one file, the second at the time that the dataset tells."""
    root, shared = tmp_path / "set", version == "v3.0"
    features = {
        "x": {"dtype": "float32", "shape": [1]},
        "cam.top": {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
    }
    data = "data/{chunk_index}-{file_index}.parquet" if shared else "data/{episode_index}.parquet"
    place = "videos/{video_key}/{chunk_index}-{file_index}.mp4" if shared else "videos/{video_key}/{episode_index}.mp4"
    info = {"codebase_version": version, "fps": 30000 / 1001, "data_path": data, "video_path": place}
    for folder in ("meta/episodes", "data", "videos/cam.top"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info | {"features": features, "total_episodes": 2}))
    columns = {"x": pa.array(range(10), pa.float32()), "frame_index": list(range(10))}
    rows = {k: pa.table({**columns, "episode_index": [k] * 10}) for k in (0, 1)}
    if shared:
        pq.write_table(pa.concat_tables([rows[0], rows[1]]), root / "data/0-0.parquet")
        video(root / "videos/cam.top/0-0.mp4", count=20)
        told = {"episode_index": [0, 1], "length": [10, 10], "dataset_from_index": [0, 10]}
        told |= {f"{what}/{key}_index": [0, 0] for what in ("data", "videos/cam.top") for key in ("chunk", "file")}
        told["videos/cam.top/from_timestamp"] = [0.0, 10 * 1001 / 30000]
        pq.write_table(pa.table(told), root / "meta/episodes/0.parquet")
    else:
        lines = [json.dumps({"episode_index": k, "length": 10}) for k in (0, 1)]
        (root / "meta/episodes.jsonl").write_text("\n".join(lines))
        for k in (0, 1):
            pq.write_table(rows[k], root / f"data/{k}.parquet")
            video(root / f"videos/cam.top/{k}.mp4", count=10)
    table = run(tmp_path, {"frame": "cam.top", "image": {"source": "cam.top", "decode": True}}, root, rate="30000/1001")
    second = 10 if shared else 0
    frames = [row["frame"] for row in table["frame"].to_pylist()]
    assert frames == [*range(10), *range(second, second + 10)]
    pixels = np.array(table["image"].combine_chunks().flatten().flatten().flatten()).reshape(-1, 32, 48, 3)
    assert greys(pixels) == frames


def test_a_video_that_is_not_there(tmp_path):
    """The rest of the episode can be read, and the camera be optional."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "data").mkdir()
    features = {"x": {"dtype": "float32", "shape": [1]}, "top": {"dtype": "video", "shape": [4, 4, 3]}}
    info = {"codebase_version": "v2.1", "fps": 10, "data_path": "data/{episode_index}.parquet", "features": features}
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"video_path": "videos/{episode_index}.mp4"}))
    (tmp_path / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 3}\n')
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "frame_index": [0, 1, 2]}), tmp_path / "data/0.parquet")
    spec = InputSpec((str(tmp_path),))
    (ref,) = list_episodes(spec)
    assert [info.failure[:21] for info in list_streams(ref, spec) if info.source == "top"] == ["its file is not there"]
    assert list(read_episode(ref, ["x", "top"], spec).streams) == ["x"]


def test_the_config_of_the_docs(tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs/cameras.md").read_text()
    config, *_ = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    video(Path("videos/a.mp4"))
    Path("config.yaml").write_text(config)
    assert not robocache.run("config.yaml").quarantined
    table = pq.read_table("out/data")
    pixels = np.array(table["observation.image"].combine_chunks().flatten().flatten().flatten()).reshape(-1, 24, 32, 3)
    assert greys(pixels) == [row["frame"] for row in table["observation.frame"].to_pylist()] == list(range(0, 40, 3))


def test_what_cannot_be_decoded(tmp_path):
    with pytest.raises(ValueError, match="add resize"):
        Decode().type(StreamType(pa.binary(), {"kind": "image"}))
    with pytest.raises(ValueError, match="no encoded image"):
        Decode().type(StreamType(pa.float64()))
    with pytest.raises(ConfigError, match="height and width"):
        run(tmp_path, {"x": {"source": "video", "decode": {"resize": [0, 3]}}}, tmp_path)
    (tmp_path / "b.mp4").write_bytes(video(tmp_path / "a.mp4").read_bytes()[:300])
    spec = InputSpec((str(tmp_path / "b.mp4"),))
    with pytest.raises(InputError, match="damaged or no video"):
        list_streams(list_episodes(spec)[0], spec)


@pytest.mark.realdata
def test_real_videos(data_dir):
    """Reordered frames, edit lists, fragments, ten bits, AV1: the frames that a decoder shows, at its times."""
    spec = InputSpec((str(data_dir / "more" / "video"),), format="video")
    refs = list_episodes(spec)
    assert len(refs) == 10
    for ref in refs:
        stream = read_episode(ref, ["video"], spec).streams["video"]
        with av.open(ref.files[0].uri) as file:
            base = file.streams.video[0].time_base
            shown = [round(frame.pts * base * 10**9) for frame in file.decode(video=0)]
        assert stream.times.tolist() == shown
