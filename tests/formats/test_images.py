"""Images as messages hold them: a message as a whole is its image, raw pixels are numbers, encoded ones their bytes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from mcap.writer import Writer
from message_kit import T0, header, make, record, stream, transform
from numpy.typing import NDArray

from robocache.engine.run import run
from robocache.errors import InputError
from robocache.formats import InputSpec, describe_episode, list_episodes
from robocache.formats.messages.images import pixels

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
RNG = np.random.default_rng(0)


def image(i: int, frame: NDArray, encoding: str, pad: int = 0, big: bool = False) -> object:
    """``frame`` [height, width, channels] as a message, each line with ``pad`` bytes behind it."""
    lines = frame.astype(frame.dtype.newbyteorder(">" if big else "<")).view(np.uint8).reshape(len(frame), -1)
    data = np.pad(lines, ((0, 0), (0, pad)), constant_values=0xAB)
    return make(
        IMAGE, header(T0 + i * 10**8, "optical"), *frame.shape[:2], encoding, int(big), data.shape[1], data.ravel()
    )


def frames_of(dtype: str, channels: int, count: int = 4) -> NDArray:
    wide = RNG.integers(0, 256, (count, 6, 5, channels * np.dtype(dtype).itemsize), dtype=np.uint8)
    return wide.view(dtype) if np.dtype(dtype).kind in "ui" else wide.astype(dtype)[..., :channels]


def write(path: Path, messages: list, kind: str = IMAGE, topic: str = "/camera/image_raw", **options) -> Path:
    return record(path, {topic: (kind, [(T0 + i * 10**8, m) for i, m in enumerate(messages)])}, **options)


@pytest.mark.parametrize(
    ("encoding", "dtype", "channels"),
    [("rgb8", "u1", 3), ("bgr8", "u1", 3), ("rgba8", "u1", 4), ("mono8", "u1", 1), ("mono16", "u2", 1),
     ("16UC1", "u2", 1), ("32FC1", "f4", 1), ("bayer_rggb8", "u1", 1), ("8UC3", "u1", 3), ("yuv422", "u1", 2),
     ("16SC2", "i2", 2), ("rgb16", "u2", 3), ("64FC4", "f8", 4), ("8UC", "u1", 1)],
)  # fmt: skip
@pytest.mark.parametrize(("pad", "big"), [(0, False), (7, False), (3, True)])
def test_raw_pixels_are_numbers(tmp_path, encoding, dtype, channels, pad, big):
    frames = frames_of(dtype, channels)
    path = write(tmp_path / "a.mcap", [image(i, f, encoding, pad, big) for i, f in enumerate(frames)], chunk_size=200)
    found = stream(path, "/camera/image_raw")
    assert found.values.dtype == np.dtype(dtype) and found.values.dtype.isnative
    np.testing.assert_array_equal(found.values, frames)
    assert found.times.tolist() == [T0 + i * 10**8 for i in range(4)]
    assert found.about == {"kind": "image", "encoding": encoding, "height": 6, "width": 5, "frame": "optical"}
    spec = InputSpec((str(path),))
    (ref,) = list_episodes(spec)
    (told,) = describe_episode(ref, ["/camera/image_raw"], spec, look=True).values()
    assert told == found.type
    assert describe_episode(ref, ["/camera/image_raw"], spec)["/camera/image_raw"].open


def test_what_is_no_image_of_numbers(tmp_path):
    frames = frames_of("u1", 3)
    odd = [image(0, frames[0], "rgb8"), image(1, frames[1], "bgr8")]
    with pytest.raises(InputError, match=r"encoding is not the same throughout.* take its \.data for the bytes"):
        stream(write(tmp_path / "a.mcap", odd), "/camera/image_raw")
    with pytest.raises(InputError, match="height and width is not the same throughout"):
        stream(write(tmp_path / "b.mcap", [odd[0], image(1, frames[1, :5, :4], "rgb8")]), "/camera/image_raw")
    with pytest.raises(InputError, match=r"pixels of encoding 'nv12' are not known; take its \.data"):
        stream(write(tmp_path / "c.mcap", [image(0, frames[0], "nv12")]), "/camera/image_raw")
    short = write(tmp_path / "d.mcap", [image(0, frames[0], "rgba8")])
    with pytest.raises(InputError, match="lines of 15 are not rgba8 of 6 by 5"):
        stream(short, "/camera/image_raw")
    odd[0].data = odd[0].data[:-1]
    with pytest.raises(InputError, match="89 bytes of image 0 are not rgb8 of 6 by 5 in lines of 15"):
        stream(write(tmp_path / "e.mcap", odd[:1]), "/camera/image_raw")
    assert stream(short, "/camera/image_raw.data").values.to_pylist() == [frames[0].tobytes()]
    assert pixels("8FC1") is None and pixels("rgb12") is None and pixels("") is None


@pytest.mark.parametrize(
    ("format", "encoding"),
    [("jpeg", "jpeg"), ("rgb8; jpeg compressed bgr8", "jpeg"), ("16UC1; png compressed ", "png"),
     ("16UC1; compressedDepth png", "16UC1; compressedDepth png")],
)  # fmt: skip
def test_encoded_images_are_their_bytes(tmp_path, format, encoding):
    data = [RNG.integers(0, 256, 50 + i, dtype=np.uint8) for i in range(3)]
    messages = [make(COMPRESSED, header(T0 + i * 10**8), format, d) for i, d in enumerate(data)]
    path = write(tmp_path / "a.mcap", messages, COMPRESSED, "/camera/compressed")
    for source in ("/camera/compressed", "/camera/compressed.data"):
        found = stream(path, source)
        assert found.values.to_pylist() == [d.tobytes() for d in data]
        assert (found.about["kind"], found.about["encoding"], found.about["format"]) == ("image", encoding, format)


def test_images_of_json(tmp_path):
    """Bytes as base64, as Foxglove and rosbridge write them, or as a list of numbers."""
    frames = frames_of("u2", 1)
    lines = [np.pad(f.view(np.uint8).reshape(6, 10), ((0, 0), (0, 2))).tobytes() for f in frames]
    layout = {"encoding": "mono16", "height": 6, "width": 5, "step": 12, "is_bigendian": 0}
    raw = [{**layout, "data": base64.b64encode(data).decode()} for data in lines]
    raw[1]["data"] = list(lines[1])
    jpegs = [{"format": "jpeg", "data": base64.b64encode(data).decode()} for data in lines]
    topics = {"/raw": ("foxglove.RawImage", raw), "/jpeg": ("sensor_msgs/CompressedImage", jpegs),
              "/bad": ("foxglove.CompressedImage", [{"format": "png", "data": "no base64!"}])}  # fmt: skip
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        for topic, (kind, messages) in topics.items():
            channel = writer.register_channel(topic, "json", writer.register_schema(kind, "jsonschema", b"{}"))
            for i, message in enumerate(messages):
                writer.add_message(channel, T0 + i, json.dumps(message).encode(), T0 + i)
        writer.finish()
    found = stream(tmp_path / "a.mcap", "/raw")
    np.testing.assert_array_equal(found.values, frames)
    assert found.about == {"kind": "image", "encoding": "mono16", "height": 6, "width": 5}
    found = stream(tmp_path / "a.mcap", "/jpeg")
    assert found.values.to_pylist() == lines
    assert found.about == {"kind": "image", "encoding": "jpeg", "format": "jpeg"}
    with pytest.raises(InputError, match="data of message 0 is neither base64 text nor bytes"):
        stream(tmp_path / "a.mcap", "/bad")


def test_a_camera_beside_other_streams_end_to_end(tmp_path):
    """Rows take the nearest frame, whole; the column says what its pixels are, statistics go by channel."""
    frames = frames_of("u1", 3, 20)
    images = [(T0 + i * 10**8, image(i, f, "bgr8")) for i, f in enumerate(frames)]
    poses = [(T0 + i * 10**7, transform(T0 + i * 10**7, "tool", i / 100)) for i in range(191)]
    record(
        tmp_path / "a.mcap",
        {"/camera": (IMAGE, images), "/pose": ("geometry_msgs/msg/TransformStamped", poses)},
    )
    summary = run(
        {
            "input": {"uri": str(tmp_path / "a.mcap")},
            "features": {"top": "/camera", "pose": "/pose.transform"},
            "timeline": {"rate_hz": 20},
            "output": {"uri": str(tmp_path / "out")},
        }
    )
    assert not summary.quarantined
    table = ds.dataset(tmp_path / "out").to_table()
    assert str(table.schema.field("top").type).count("fixed_size_list") == 3
    assert b'"bgr8"' in b"".join((table.schema.field("top").metadata or table.schema.metadata).values())
    flat = table["top"].combine_chunks()
    while not str(flat.type).startswith("uint8"):
        flat = flat.flatten()
    found = flat.to_numpy().reshape(-1, 6, 5, 3)
    at = np.arange(len(found)) * 50_000_000
    np.testing.assert_array_equal(found, frames[np.ceil(at / 10**8 - 0.5).astype(int)])
    assert table["top.valid"].to_pylist() == [True] * len(found) and len(found) == 39
