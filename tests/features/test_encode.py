"""``encode``: what comes out again, decoded by PyAV alone, is what went in, and each frame is there once."""

from __future__ import annotations

import io
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import robocache
from robocache.clouds.depth import log_codes, log_depths
from robocache.errors import ConfigError
from robocache.features import Compute, Samples
from robocache.features.encode import DepthCodes, Encode
from robocache.types import StreamType, array_type
from robocache.video import FFMPEG, packet_frames
from robocache.video.encode import Encoding, encode

av = pytest.importorskip("av", reason="the extra video is not installed")


def picture(k: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A gradient that moves."""
    x = np.arange(width) + k
    image = np.broadcast_to(2 * x, (height, width)).astype(np.uint8)
    return np.stack([image, image[:, ::-1], np.full_like(image, 100 + k)], axis=-1)


def images(count: int) -> np.ndarray:
    return np.stack([picture(k) for k in range(count)])


def apply(step: Encode, pixels: np.ndarray, **about) -> Samples:
    kind = StreamType(array_type(pixels.dtype, pixels.shape[1:]), about)
    step.type(kind)
    return step.apply(Samples(pixels, np.ones(len(pixels), bool), about), Compute())


def demuxed(data: bytes, codec: str) -> list[np.ndarray]:
    """What FFmpeg's own demuxer and decoder make of a stream."""
    with av.open(io.BytesIO(data), format={"h264": "h264", "h265": "hevc", "av1": "obu"}[codec]) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_a_video_is_its_packets(codec):
    """One behind the other they are a stream that any decoder reads, and each group of g frames stands by itself."""
    given = images(7)
    done = apply(Encode(codec, crf=10, g=3), given)
    rows = done.values.to_pylist()
    assert done.valid.all() and [r["frame"] for r in rows] == list(range(7))
    keys = [r["key"] for r in rows]
    assert all(k == keys[k] or (keys[k] == keys[k - 1] and k - keys[k] < 3) for k in range(7))
    if codec != "h264":  # which begins anew where pictures differ much, as such small ones do
        assert keys == [0, 0, 0, 3, 3, 3, 6]
    whole = demuxed(b"".join(r["bytes"] for r in rows), codec)
    assert len(whole) == 7
    for found, true in zip(whole, given, strict=True):
        assert np.abs(found.astype(int) - true).mean() < 12
    at = keys[3]
    part = dict(packet_frames(done.values.slice(at, 6 - at), codec))
    assert list(part) == list(range(6 - at))
    for k, frame in part.items():
        assert np.array_equal(frame.to_ndarray(format="rgb24"), whole[at + k])
    lost = [k for k in range(4, 6) if keys[k] < 4]  # their key frame is not among the rows
    assert list(packet_frames(done.values.slice(4, 2), codec)) == [] or len(lost) < 2
    assert apply(Encode(codec, crf=10, g=3), given).values.equals(done.values)
    assert FFMPEG[codec]


@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("rgb8", images(2)),
        ("bgr8", images(2)),
        ("", images(2)),
        ("mono8", images(2)[..., :1]),
        ("rgba8", np.concatenate([images(2), 255 - images(2)[..., :1]], axis=-1)),
        ("16UC1", images(2)[..., :1].astype(np.uint16) * 257 - 3),
        ("mono16", images(2)[..., 0].astype(np.uint16) * 200),
    ],
)
def test_png_loses_nothing(encoding, pixels):
    done = apply(Encode("png"), pixels, **({"encoding": encoding} if encoding else {}))
    for data, true in zip(done.values.to_pylist(), pixels, strict=True):
        layout = "gray16le" if true.dtype == np.uint16 else {1: "gray", 3: "rgb24", 4: "rgba"}[true.shape[-1]]
        with av.open(io.BytesIO(data), format="png_pipe") as file:
            found = next(file.decode(video=0)).to_ndarray(format=layout)
        found = found[..., ::-1] if encoding == "bgr8" else found
        assert np.array_equal(found, true.reshape(found.shape))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 2), st.floats(1.5, 100), st.integers(0, 2**32 - 1))
def test_codes_of_depths(near, ratio, seed):
    """Back to within half a step of the law; no reading stays none; order is kept."""
    far = near * ratio
    depth = np.sort(np.random.default_rng(seed).uniform(near, far, 100))
    found = log_depths(log_codes(depth, near, far), near, far)
    assert np.allclose(found, depth, rtol=np.log(ratio) / 4094 * 0.51 + 1e-6)
    assert (np.diff(log_codes(depth, near, far).astype(int)) >= 0).all()
    none = log_codes(np.array([0.0, -1.0, np.nan, np.inf]), near, far)
    assert none.tolist() == [0] * 4 and np.isnan(log_depths(none, near, far)).all()
    assert log_codes(np.array([near / 2, near, far, far * 2]), near, far).tolist() == [1, 1, 4095, 4095]


@pytest.mark.parametrize("codec", ["png", "h265"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_depths(codec, dtype):
    metres = np.linspace(0.4, 9.5, 64 * 96).reshape(1, 64, 96).repeat(3, 0)
    metres[1, :4] = 0
    metres[2, 0] = 12
    raw = np.round(metres * 1000).astype(dtype) if dtype is np.uint16 else metres.astype(dtype)
    done = apply(Encode(codec, crf=0, depth=DepthCodes(0.3, 10)), raw)
    (told,) = done.findings
    assert told.code == "overflow" and "not within 0.3 to 10 m" in told.text
    if codec == "png":
        some = [av.open(io.BytesIO(d), format="png_pipe") for d in done.values.to_pylist()]
        codes = [next(file.decode(video=0)).to_ndarray(format="gray16le") for file in some]
    else:
        codes = [frame.to_ndarray(format="gray12le") for _, frame in packet_frames(done.values, codec)]
    worst = 0.002 if codec == "png" else 0.02  # h265 loses a little at crf 0
    found = log_depths(codes[0], 0.3, 10)
    assert np.abs(found / metres[0] - 1).max() < worst
    if codec == "png":
        assert np.isnan(log_depths(codes[1], 0.3, 10)[:4]).all()
        assert np.allclose(log_depths(codes[2], 0.3, 10)[0], 10)


def run(tmp_path: Path, feature: dict, rate: int = 20, count: int = 6) -> pa.Table:
    """Frames at 10 Hz in rows at ``rate``: several rows have one frame."""
    np.savez(tmp_path / "a.npz", image=images(count), timestamp=np.arange(count) / 10)
    out = tmp_path / f"out_{len(list(tmp_path.iterdir()))}"
    config = {
        "input": {"uri": str(tmp_path / "a.npz"), "times": {"column": "timestamp", "unit": "s"}},
        "features": {"image": {"source": "image", "align": "previous"} | feature},
        "timeline": {"rate_hz": rate},
        "output": {"uri": str(out)},
    }
    report = robocache.run(config)
    assert not report.quarantined
    assert not robocache.verify(str(out)).problems
    return pq.read_table(out / "data")


def test_a_frame_of_several_rows_is_stored_once(tmp_path):
    """In the file, and in the video."""
    once = run(tmp_path, {"encode": {"codec": "png"}}, rate=10)
    often = run(tmp_path, {"encode": {"codec": "png"}}, rate=80)
    assert often.num_rows > 6 * once.num_rows and set(often["image"].to_pylist()[0]) == {"bytes", "path"}
    sizes = []
    for part in sorted(tmp_path.glob("out_*/data/*.parquet")):
        group = pq.ParquetFile(part).metadata.row_group(0)
        columns = [group.column(i) for i in range(group.num_columns)]
        sizes.append(next(c.total_uncompressed_size for c in columns if c.path_in_schema == "image.bytes"))
    assert abs(sizes[1] - sizes[0]) < 100
    video = run(tmp_path, {"encode": {"codec": "h264", "g": 2}}, rate=80)
    frames = [row["frame"] for row in video["image"].to_pylist()]
    assert frames == [k // 8 for k in range(len(frames))]
    told = {k.decode(): json.loads(v) for k, v in video.schema.field("image").metadata.items()}
    assert (told["kind"], told["encoding"], told["height"], told["width"]) == ("video", "h264", 64, 96)
    shown = dict(packet_frames(video["image"], "h264"))
    assert list(shown) == list(range(0, len(frames), 8))


def test_png_and_back_through_decode(tmp_path):
    """Encoded images are a recording again: what was encoded is decoded, resized and encoded as a video."""
    png = run(tmp_path, {"encode": {"codec": "png"}}, rate=10)
    data = [row["bytes"] for row in png["image"].to_pylist()]
    given = Samples(pa.array(data, pa.binary()), np.ones(len(data), bool), {"kind": "image"})
    from robocache.features.decode import Decode
    from robocache.features.encode import joined

    (step,) = joined([Decode((64, 64)), Encode("h264", crf=5, g=2)])
    step.type(StreamType(pa.binary(), {"kind": "image"}))
    done = step.apply(given, Compute())
    frames = [frame for _, frame in packet_frames(done.values, "h264")]
    assert [(f.height, f.width) for f in frames] == [(64, 64)] * 6


@pytest.mark.parametrize(
    "encode, said",
    [
        ({"codec": "vp9"}, "encode.codec: found 'vp9'; write h264"),
        ({"codec": "h264", "crf": 70}, "encode.crf: found 70; write 0 to 51"),
        ({"codec": "h264", "g": 0}, "encode.g"),
        ({"codec": "png", "g": 3}, "is for videos"),
        ({"codec": "h264", "depth": {"near": 0.3, "far": 10}}, "write png or h265"),
        ({"codec": "png", "depth": {"near": 3, "far": 1}}, "far the larger"),
        ({"codec": "png", "depth": {"near": 0.3, "far": 9}}, "which is no image of one channel"),
    ],
)
def test_mistakes(tmp_path, encode, said):
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, {"encode": encode})
    assert said in str(caught.value)


def test_what_cannot_be_encoded():
    odd = StreamType(array_type(np.dtype(np.uint8), (65, 96, 3)))
    with pytest.raises(ValueError, match="even sides"):
        Encode("h264").type(odd)
    with pytest.raises(ValueError, match="add decode"):
        Encode("h264").type(StreamType(pa.binary(), {"kind": "image"}))
    with pytest.raises(ValueError, match="bayer_rggb8"):
        Encode("png").type(StreamType(odd.arrow, {"encoding": "bayer_rggb8"}))
    with pytest.raises(ValueError, match="of 16 bits"):
        Encode("h264").type(StreamType(array_type(np.dtype(np.uint16), (4, 4)), {"encoding": "16UC1"}))


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_no_encoder_leaves_the_priority_of_real_time(codec):
    """SVT-AV1 takes it for the whole process where it may: as root."""
    frames = [av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8)) for _ in range(2)]
    encode(frames, (64, 64), Fraction(30), Encoding(codec))
    policies = {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")}
    assert policies == {os.SCHED_OTHER}
