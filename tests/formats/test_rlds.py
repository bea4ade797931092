"""RLDS episodes in TFRecords: against google.protobuf, a real shard of Bridge, checksums, cut off and damaged files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from damage import outcomes
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

from robocache import run, verify
from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, list_episodes, list_streams, read_episode

RATE = TableTimes(rate_hz=5)
STEPS = 12
NAME = "demo-train.tfrecord-00000-of-00002"


def _classes() -> dict[str, Any]:
    """tf.train.Example and its parts."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    for name, kind in (
        ("BytesList", Field.TYPE_BYTES),
        ("FloatList", Field.TYPE_FLOAT),
        ("Int64List", Field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, label=Field.LABEL_REPEATED, type=kind)
    lists = [("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List")]
    parts = (("Feature", lists),
             ("Entry", [("value", 2, "Feature")]), ("Features", [("feature", 1, "Entry")]),
             ("Example", [("features", 1, "Features")]))  # fmt: skip
    for name, fields in parts:
        message = file.message_type.add(name=name)
        if name == "Entry":
            message.field.add(name="key", number=1, label=Field.LABEL_OPTIONAL, type=Field.TYPE_STRING)
        for field, number, kind in fields:
            label = Field.LABEL_REPEATED if field == "feature" else Field.LABEL_OPTIONAL
            known = {"type": Field.TYPE_MESSAGE, "type_name": f".tf.{kind}"}
            message.field.add(name=field, number=number, label=label, **known)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Example",)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tf.{name}")) for name in names}


Example = _classes()["Example"]


def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def example(episode: int) -> bytes:
    message = Example()

    def add(name: str, kind: str, values: list[Any]) -> None:
        entry = message.features.feature.add(key=name)
        getattr(entry.value, f"{kind}_list").value.extend(values)

    add("steps/action", "float", [float(episode * 1000 + k) for k in range(STEPS * 7)])
    add("steps/observation/count", "int64", [k - 5 for k in range(STEPS)])
    add("steps/observation/image", "bytes", [b"\xff\xd8\xff" + bytes([k]) * k for k in range(STEPS)])
    add("steps/language_instruction", "bytes", [b"pick it up"] * STEPS)
    add("steps/is_last", "int64", [int(k == STEPS - 1) for k in range(STEPS)])
    add("episode_metadata/success", "int64", [1])
    return message.SerializeToString()


def write(folder: Path, episodes: int = 3, features: bool = True) -> Path:
    def tensor(dtype: str, *shape: int) -> dict[str, Any]:
        return {"tensor": {"dtype": dtype, "shape": {"dimensions": [str(n) for n in shape]}}}

    steps = {
        "action": tensor("float32", 7), "is_last": tensor("bool"), "language_instruction": {"text": {}},
        "observation": {"featuresDict": {"features": {
            "count": tensor("int32"), "image": {"image": {"shape": {"dimensions": ["4", "4", "3"]}}}}}},
    }  # fmt: skip
    told = {"featuresDict": {"features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": steps}}}}}}}
    if features:
        (folder / "features.json").write_text(json.dumps(told))
    path = folder / NAME
    path.write_bytes(b"".join(record(example(k)) for k in range(episodes)))
    return path


def test_every_feature_of_every_episode(tmp_path):
    write(tmp_path)
    spec = InputSpec((str(tmp_path),), times=RATE)
    refs = list_episodes(spec)
    assert [ref.id for ref in refs] == [f"{NAME}#{k}" for k in range(3)]
    sources = ["action", "observation/count", "observation/image", "language_instruction", "is_last"]
    episode = read_episode(refs[2], sources, spec)
    action, count, image, text, last = (episode.streams[source] for source in sources)
    np.testing.assert_array_equal(action.values, np.arange(2000, 2000 + 7 * STEPS).reshape(STEPS, 7))
    assert (action.values.dtype, count.values.dtype, last.values.dtype) == (np.float32, np.int32, bool)
    assert count.values.tolist() == [k - 5 for k in range(STEPS)]
    assert image.values.to_pylist() == [b"\xff\xd8\xff" + bytes([k]) * k for k in range(STEPS)]
    assert image.about == {"kind": "image", "encoding": "jpeg", "height": 4, "width": 4}
    assert text.values.to_pylist() == ["pick it up"] * STEPS
    assert last.values.tolist() == [False] * (STEPS - 1) + [True]
    assert action.times.tolist() == [k * 200_000_000 for k in range(STEPS)]
    assert episode.metadata == {"success": 1}


def test_without_features_json_steps_are_told_by_their_flags(tmp_path):
    write(tmp_path, features=False)
    spec = InputSpec((str(tmp_path),), times=RATE)
    ref = list_episodes(spec)[0]
    assert {info.source: len(info.times) for info in list_streams(ref, spec)}["action"] == STEPS
    assert read_episode(ref, ["action[6]"], spec).streams["action[6]"].values.tolist() == [
        [7.0 * k + 6] for k in range(STEPS)
    ]


@pytest.mark.realdata
def test_a_shard_of_bridge_into_a_dataset(data_dir, tmp_path):
    folder = data_dir / "more/rlds/bridge_octo_debug"
    config = {
        "input": {"uri": str(folder), "times": {"rate_hz": 5}},
        "features": {"state": "observation/state", "image": "observation/image_0", "action": "action"},
        "timeline": {"rate_hz": 5},
        "output": {"uri": str(tmp_path / "out")},
    }
    summary = run(config)
    assert (summary.episodes, summary.quarantined) == (25, ())
    assert not verify(str(tmp_path / "out")).problems
    data = (folder / "bridge_dataset-train.tfrecord-00000-of-00001").read_bytes()
    message = Example()
    message.ParseFromString(data[12 : 12 + struct.unpack_from("<Q", data)[0]])
    wanted = {entry.key: entry.value for entry in message.features.feature}
    spec = InputSpec((str(folder),), times=RATE)
    episode = read_episode(list_episodes(spec)[0], ["observation/state", "observation/image_0", "reward"], spec)
    for source, kind in (("observation/state", "float_list"), ("reward", "float_list")):
        values = np.float32(getattr(wanted[f"steps/{source}"], kind).value)
        np.testing.assert_array_equal(episode.streams[source].values.ravel(), values)
    images = episode.streams["observation/image_0"].values.to_pylist()
    assert images == list(wanted["steps/observation/image_0"].bytes_list.value)


def test_a_damaged_record_is_one_episode_and_hides_no_other(tmp_path):
    path = write(tmp_path)
    whole = bytearray(path.read_bytes())
    size = len(whole) // 3
    whole[size + 100] ^= 4
    path.write_bytes(whole[: 3 * size - 20])
    spec = InputSpec((str(tmp_path),), times=RATE)
    first, second, third = list_episodes(spec)
    assert len(read_episode(first, ["action"], spec).streams["action"].times) == STEPS
    with pytest.raises(InputError, match=r"#1: has CRC 0x\w+, the file says 0x\w+; it is damaged"):
        read_episode(second, ["action"], spec)
    assert "it was cut off" in third.failure


def test_damage_is_refused(tmp_path):
    path = write(tmp_path)
    assert set(outcomes(path, ["action"], 60, times=RATE)) == {"read", "refused"}
    spec = InputSpec((str(tmp_path),), times=RATE, verify_checksums=False)
    whole, seen = path.read_bytes(), set()
    rng = np.random.default_rng(0)
    for _ in range(60):  # and without the checksum that catches most of it
        data = bytearray(whole)
        for at in rng.integers(12, len(whole) // 3 - 4, 3):
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            read_episode(list_episodes(spec)[0], ["action", "observation/image"], spec)
            seen.add("read")
        except InputError:
            seen.add("refused")
    assert seen == {"read", "refused"}
