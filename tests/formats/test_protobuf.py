"""Protobuf messages by embedded descriptors: against google.protobuf, for messages of many shapes and damaged ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import outcomes
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from mcap.writer import CompressionType, Writer

from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode

T0 = 1_700_000_000_000_000_000
STAMP = ".google.protobuf.Timestamp"
#: A pose, a tree (which holds itself), and a message of every kind of field.
TYPES: dict[str, list[tuple[str, Any, bool]]] = {
    "Vector3": [("x", Field.TYPE_DOUBLE, False), ("y", Field.TYPE_DOUBLE, False), ("z", Field.TYPE_DOUBLE, False)],
    "Pair": [("name", Field.TYPE_STRING, False), ("value", Field.TYPE_SINT32, False), ("of", ".fox.Vector3", False)],
    "CompressedImage": [("timestamp", STAMP, False), ("frame_id", Field.TYPE_STRING, False),
                        ("data", Field.TYPE_BYTES, False), ("format", Field.TYPE_STRING, False)],
    "All": [
        ("timestamp", STAMP, False), ("frame_id", Field.TYPE_STRING, False), ("position", ".fox.Vector3", False),
        ("on", Field.TYPE_BOOL, False), ("i32", Field.TYPE_INT32, False), ("i64", Field.TYPE_INT64, False),
        ("u32", Field.TYPE_UINT32, False), ("u64", Field.TYPE_UINT64, False), ("s32", Field.TYPE_SINT32, False),
        ("s64", Field.TYPE_SINT64, False), ("f32", Field.TYPE_FLOAT, False), ("fx32", Field.TYPE_FIXED32, False),
        ("sf64", Field.TYPE_SFIXED64, False), ("names", Field.TYPE_STRING, True), ("angles", Field.TYPE_DOUBLE, True),
        ("counts", Field.TYPE_SINT64, True), ("flags", Field.TYPE_BOOL, True), ("pairs", ".fox.Pair", True),
        ("left", ".google.protobuf.Duration", False), ("children", ".fox.All", True),
    ],
}  # fmt: skip
NUMBERS = ["on", "i32", "i64", "u32", "u64", "s32", "s64", "f32", "fx32", "sf64"]


def _descriptors() -> descriptor_pb2.FileDescriptorSet:
    file = descriptor_pb2.FileDescriptorProto(name="fox.proto", package="fox", syntax="proto3")
    found = descriptor_pb2.FileDescriptorSet()
    for module in (timestamp_pb2, duration_pb2):
        module.DESCRIPTOR.CopyToProto(found.file.add())
        file.dependency.append(module.DESCRIPTOR.name)
    for name, fields in TYPES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, start=1):
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            known = {"type": Field.TYPE_MESSAGE, "type_name": kind} if isinstance(kind, str) else {"type": kind}
            message.field.add(name=field, number=number * 3, label=label, **known)
    found.file.add().CopyFrom(file)
    return found


SET = _descriptors()
POOL = descriptor_pool.DescriptorPool()
for _file in SET.file:
    POOL.Add(_file)


def make(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"fox.{name}"))()


def messages(count: int, seed: int = 0) -> list[Any]:
    """Of many shapes: fields left out, numbers of all sizes and signs, lists of every length."""
    rng, found = random.Random(seed), []
    for i in range(count):
        m = make("All")
        ns = T0 + i * 10_000_000 + rng.choice([0, 7])
        m.timestamp.seconds, m.timestamp.nanos = ns // 10**9, ns % 10**9
        m.frame_id = "base"
        if rng.random() < 0.9:
            m.position.x, m.position.z = 1.5 * i, -0.25
        for field in NUMBERS:
            if rng.random() < 0.7:
                bits = rng.choice([1, 7, 8, 20, 31])
                value: Any = rng.getrandbits(bits)
                if field in ("i32", "i64", "s32", "s64", "sf64") and rng.random() < 0.5:
                    value = -value
                setattr(m, field, bool(value & 1) if field == "on" else float(value) if field == "f32" else value)
        m.names.extend(["a", "bb"])
        m.angles.extend([float(i), -1.0])
        m.counts.extend(rng.choice([-1, 5, 1 << 40]) for _ in range(3))
        m.flags.extend([True, False])
        for name in rng.sample(["one", "two"], 2):
            m.pairs.add(name=name, value=-i if name == "two" else i).of.y = 0.5
        m.left.nanos = 5
        found.append(m)
    return found


def write(path: Path, sent: dict[str, list[Any]], schema: bytes | None = None) -> InputSpec:
    data = SET.SerializeToString() if schema is None else schema
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=8000, enable_crcs=False, compression=CompressionType.NONE)
        writer.start()
        for topic, some in sent.items():
            kind = writer.register_schema(some[0].DESCRIPTOR.full_name, "protobuf", data)
            channel = writer.register_channel(topic, "protobuf", kind)
            for i, message in enumerate(some):
                writer.add_message(channel, T0 + i, message.SerializeToString(), T0 + i)
        writer.finish()
    return InputSpec((str(path),))


def test_every_field_is_what_google_protobuf_reads(tmp_path):
    sent = messages(300)
    spec = write(tmp_path / "a.mcap", {"/all": sent})
    (ref,) = list_episodes(spec)
    (info,) = list_streams(ref, spec)
    stamps = [m.timestamp.seconds * 10**9 + m.timestamp.nanos for m in sent]
    assert (info.type, info.failure, info.times.tolist()) == ("fox.All", "", stamps)
    assert {"i32", "angles", "names", "timestamp", "pairs[0].name"} <= {name for name, _ in info.fields}
    paths = [f"/all.{name}" for name in (*NUMBERS, "position", "names", "counts", "flags", "left.nanos")]
    paths += ["/all.angles[bb,a]", "/all.pairs[name=two].value", "/all.pairs[name=one].of"]
    found = {key: s.values for key, s in read_episode(ref, paths, spec).streams.items()}
    for name in NUMBERS:
        assert found[f"/all.{name}"].tolist() == [getattr(m, name) for m in sent], name
    assert found["/all.position"].tolist() == [[m.position.x, m.position.y, m.position.z] for m in sent]
    assert found["/all.names"].to_pylist() == [["a", "bb"]] * 300
    assert found["/all.counts"].tolist() == [list(m.counts) for m in sent]
    assert found["/all.flags"].tolist() == [[True, False]] * 300
    assert found["/all.angles[bb,a]"].tolist() == [[-1.0, float(i)] for i in range(300)]
    assert found["/all.pairs[name=two].value"].tolist() == [-i for i in range(300)]
    assert found["/all.pairs[name=one].of"][:, 1].tolist() == [0.5] * 300
    assert (found["/all.left.nanos"] == 5).all()


def test_images_are_payloads_with_what_they_are(tmp_path):
    sent = []
    for i in range(20):
        image = make("CompressedImage")
        image.timestamp.seconds, image.frame_id, image.format = 100 + i, "camera", "jpeg"
        image.data = b"\xff\xd8" + bytes([i]) * (100 + i)
        sent.append(image)
    spec = write(tmp_path / "a.mcap", {"/camera": sent})
    (ref,) = list_episodes(spec)
    stream = read_episode(ref, ["/camera"], spec).streams["/camera"]
    assert stream.values.to_pylist() == [m.data for m in sent]
    assert {"kind": "image", "encoding": "jpeg", "frame": "camera"}.items() <= stream.about.items()
    assert stream.times.tolist() == [(100 + i) * 10**9 for i in range(20)]


@pytest.mark.parametrize(
    ("schema", "said"),
    [(b"\n\x01x", "schema 'fox.All': descriptor: a number that does not end"), (b"\xff" * 40, "schema 'fox.All'")],
)
def test_descriptors_that_say_nothing_are_refused(tmp_path, schema, said):
    spec = write(tmp_path / "a.mcap", {"/all": messages(3)}, schema)
    (ref,) = list_episodes(spec)
    with pytest.raises(InputError, match=said):
        read_episode(ref, ["/all.i32"], spec)


def test_messages_of_another_type_than_the_schema_says_are_refused(tmp_path):
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        kind = writer.register_schema("fox.All", "protobuf", SET.SerializeToString())
        writer.add_message(writer.register_channel("/all", "protobuf", kind), T0, b"\x1a\xff\xff\x01", T0)
        writer.finish()
    spec = InputSpec((str(path),))
    (ref,) = list_episodes(spec)
    with pytest.raises(InputError, match="the message does not match its schema"):
        read_episode(ref, ["/all.i32"], spec)


def test_a_topic_is_read_without_a_loop_over_its_messages(tmp_path, monkeypatch):
    from robocache.formats.messages import repack

    shapes = []
    made = repack._Shape.__init__
    monkeypatch.setattr(repack._Shape, "__init__", lambda *args: (shapes.append(1), made(*args))[1])
    sent = []
    for i in range(5000):
        message = make("Pair")
        message.name, message.value = "joint", i + 1
        message.of.x = float(i)
        sent.append(message)
    spec = write(tmp_path / "a.mcap", {"/pair": sent})
    (ref,) = list_episodes(spec)
    np.testing.assert_array_equal(read_episode(ref, ["/pair.value"], spec).streams["/pair.value"].values,
                                  np.arange(1, 5001))  # fmt: skip
    assert len(shapes) < 200


def test_damage_is_refused(tmp_path):
    path = tmp_path / "a.mcap"
    write(path, {"/all": messages(40)})
    seen = outcomes(path, ["/all.i32", "/all.position"], 150)
    assert set(seen) == {"read", "refused"}
