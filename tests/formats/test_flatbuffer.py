"""Flatbuffers with Foxglove's own schemas, written by the flatbuffers package."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer

from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode
from robocache.formats.messages.batch import Schema
from robocache.formats.messages.flatbuffer import _Parts, parse_schema

flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
package = pytest.importorskip("foxglove_schemas_flatbuffer", reason="Foxglove's schemas are not installed")

T0 = 1_700_000_000_000_000_000


def schema(name: str) -> bytes:
    return (Path(package.__file__).parent / f"{name}.bfbs").read_bytes()


def module(name: str):
    return importlib.import_module(f"foxglove_schemas_flatbuffer.{name}")


def pose(k: int) -> bytes:
    builder = flatbuffers.Builder(0)
    parts = {}
    for name, values in {"Vector3": (k, 2.0 * k, -k), "Quaternion": (0.0, 0.0, 0.5, k)}.items():
        make = module(name)
        getattr(make, f"{name}Start")(builder)
        for axis, value in zip("XYZW", values, strict=False):
            getattr(make, f"{name}Add{axis}")(builder, float(value))
        parts[name] = getattr(make, f"{name}End")(builder)
    make = module("Pose")
    make.PoseStart(builder)
    make.PoseAddPosition(builder, parts["Vector3"])
    make.PoseAddOrientation(builder, parts["Quaternion"])
    whole = make.PoseEnd(builder)
    frame = builder.CreateString("map")
    make = module("PoseInFrame")
    make.PoseInFrameStart(builder)
    stamp = module("Time").CreateTime(builder, T0 // 10**9 + k, 250)
    make.PoseInFrameAddTimestamp(builder, stamp)
    make.PoseInFrameAddFrameId(builder, frame)
    make.PoseInFrameAddPose(builder, whole)
    builder.Finish(make.PoseInFrameEnd(builder))
    return bytes(builder.Output())


def image(k: int) -> bytes:
    builder = flatbuffers.Builder(0)
    data, kind = builder.CreateByteVector(b"\xff\xd8\xff" + bytes([k] * (k + 1))), builder.CreateString("jpeg")
    make = module("CompressedImage")
    make.CompressedImageStart(builder)
    make.CompressedImageAddTimestamp(builder, module("Time").CreateTime(builder, T0 // 10**9 + k, 0))
    make.CompressedImageAddData(builder, data)
    make.CompressedImageAddFormat(builder, kind)
    builder.Finish(make.CompressedImageEnd(builder))
    return bytes(builder.Output())


def write(path: Path, name: str, sent: list[bytes]) -> InputSpec:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        kind = writer.register_schema(f"foxglove.{name}", "flatbuffer", schema(name))
        channel = writer.register_channel("/x", "flatbuffer", kind)
        for k, data in enumerate(sent):
            writer.add_message(channel, T0 + k, data, T0 + k)
        writer.finish()
    return InputSpec((str(path),))


def test_poses(tmp_path):
    """Zeros are left out by the writer, so messages have several shapes."""
    count = 50
    spec = write(tmp_path / "a.mcap", "PoseInFrame", [pose(k) for k in range(count)])
    (ref,) = list_episodes(spec)
    found = read_episode(ref, ["/x.pose.position", "/x.pose"], spec).streams
    k = np.arange(count, dtype=float)
    position = found["/x.pose.position"]
    np.testing.assert_array_equal(position.values, np.stack([k, 2 * k, -k], 1))
    assert (position.times == T0 + np.arange(count) * 10**9 + 250).all() and position.about["frame"] == "map"
    rest = [0 * k, 0 * k, 0 * k + 0.5, np.where(k == 0, 0, k)]
    np.testing.assert_array_equal(found["/x.pose"].values[1:, 3:], np.stack(rest, 1)[1:])


def test_images(tmp_path):
    spec = write(tmp_path / "a.mcap", "CompressedImage", [image(k) for k in range(6)])
    (ref,) = list_episodes(spec)
    stream = read_episode(ref, ["/x"], spec).streams["/x"]
    assert stream.values.to_pylist() == [b"\xff\xd8\xff" + bytes([k] * (k + 1)) for k in range(6)]
    assert stream.about["kind"] == "image" and stream.about["encoding"] == "jpeg"


def test_every_schema_of_foxglove_can_be_listed(tmp_path):
    for file in sorted(Path(package.__file__).parent.glob("*.bfbs")):
        name = f"foxglove.{file.stem}"
        try:
            form = parse_schema(Schema(name, "flatbuffer", file.read_bytes()), "x")
        except InputError as error:
            assert "has no type" in str(error), error
            continue
        assert form.struct.fields


def test_damage_is_refused(tmp_path):
    """Any byte of a message or a schema changed, or its end cut: a message, a refusal, nothing else."""
    good, known = pose(3), schema("PoseInFrame")
    form = parse_schema(Schema("foxglove.PoseInFrame", "flatbuffer", known), "x")
    random = np.random.default_rng(1)
    seen = {"read": 0, "refused": 0}
    for _ in range(800):
        of_schema = random.random() < 0.3
        data = bytearray(known if of_schema else good)
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = random.integers(256)
        data = data[: random.integers(len(data))] if random.random() < 0.2 else data
        try:
            if of_schema:
                parse_schema(Schema("foxglove.PoseInFrame", "flatbuffer", bytes(data)), "x")
            else:
                _Parts(form, "x", bytes(data))
            seen["read"] += 1
        except InputError:
            seen["refused"] += 1
    assert min(seen.values()) > 50
    spec = write(tmp_path / "a.mcap", "PoseInFrame", [good[:-20]])
    (info,) = list_streams(list_episodes(spec)[0], spec)
    assert info.source == "/x"
