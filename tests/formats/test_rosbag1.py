"""ROS 1 bags: against what rosbags reads from them, cut off and damaged ones, and the same recording in MCAP."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from damage import outcomes
from log_kit import compare
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from robocache import run, verify
from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode

STORE = get_typestore(Stores.ROS1_NOETIC)
TWIST, TEXT = "geometry_msgs/msg/TwistStamped", "std_msgs/msg/String"
T0, COUNT = 1_700_000_000_000_000_000, 60


def write(path: Path, compression: str = "none", chunk: int = 2000) -> Path:
    """``/twist`` with its own stamps, 3 ms before each arrives, and ``/text`` of varying length, in several chunks."""
    writer = Writer(path)
    if compression != "none":
        writer.set_compression(Writer.CompressionFormat[compression.upper()])
    writer.chunk_threshold = chunk
    types = STORE.types
    with writer:
        twists = writer.add_connection("/twist", TWIST, typestore=STORE)
        texts = writer.add_connection("/text", TEXT, typestore=STORE)
        for i in range(COUNT):
            ns = T0 + i * 10_000_000
            stamp = types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9)
            vector = types["geometry_msgs/msg/Vector3"]
            twist = types["geometry_msgs/msg/Twist"](vector(1.0 * i, 2.0, 3.0), vector(0.5, 0.25, -1.0 * i))
            message = types[TWIST](types["std_msgs/msg/Header"](i, stamp, "base"), twist)
            writer.write(twists, ns + 3_000_000, bytes(STORE.serialize_ros1(message, TWIST)))
            writer.write(texts, ns, bytes(STORE.serialize_ros1(types[TEXT]("x" * (i % 7)), TEXT)))
    return path


def spec_of(path: Path, **options) -> InputSpec:
    return InputSpec((str(path),), **options)


def read(path: Path, source: str, **options):
    spec = spec_of(path, **options)
    (ref,) = list_episodes(spec)
    episode = read_episode(ref, [source], spec)
    return episode.streams[source], episode.notes


@pytest.mark.parametrize("compression", ["none", "bz2", "lz4"])
def test_what_rosbags_wrote_comes_back(tmp_path, compression):
    path = write(tmp_path / "run.bag", compression)
    twist, notes = read(path, "/twist.twist")
    np.testing.assert_array_equal(twist.times, T0 + np.arange(COUNT) * 10_000_000)
    np.testing.assert_array_equal(twist.values[:, 0], np.arange(COUNT))
    np.testing.assert_array_equal(twist.values[:, 5], -np.arange(COUNT))
    assert twist.about["frame"] == "base"
    assert notes == ()
    np.testing.assert_array_equal(read(path, "/twist.twist", stamp="log")[0].times, twist.times + 3_000_000)
    assert read(path, "/text.data")[0].values.to_pylist() == ["x" * (i % 7) for i in range(COUNT)]
    assert len(list(compare(path, store=Stores.ROS1_NOETIC))) == 7


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "sources"), [("example-lz4", 43), ("example-unsorted-chunks", 1), ("grid_map", 16),
                                               ("out", 9), ("ros_numpy_test", 54)])  # fmt: skip
def test_every_field_is_what_rosbags_reads(data_dir, name, sources):
    assert len(list(compare(data_dir / "more" / "bags1" / f"{name}.bag"))) == sources


@pytest.mark.realdata
def test_a_type_without_a_definition_says_so_and_hides_nothing(data_dir):
    spec = spec_of(data_dir / "more/bags1/bag-with-empty-message-definition.bag")
    (ref,) = list_episodes(spec)
    (info,) = list_streams(ref, spec)
    assert len(info.times) == 14
    assert "led_array_msgs/Status') is empty, so what its messages hold is not known" in info.failure


@pytest.mark.realdata
def test_a_bag_and_an_mcap_of_one_recording_make_the_same_parts(data_dir, tmp_path):
    config = str(Path(__file__).parents[2] / "configs" / "husky.yaml")
    parts = {}
    for name in ("husky.mcap", "husky.bag"):
        out = tmp_path / name
        summary = run(config, [f"input.uri={data_dir / 'bags' / name}", f"output.uri={out}"])
        assert not summary.quarantined
        assert not verify(str(out)).problems
        (part,) = (out / "data").iterdir()
        parts[name] = part.read_bytes()
    assert parts["husky.bag"] == parts["husky.mcap"]


def test_without_an_index_a_bag_is_refused_with_the_remedy_and_salvaged(tmp_path):
    path = write(tmp_path / "run.bag")
    whole = path.read_bytes()
    at = whole.index(b"index_pos=") + 10
    path.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
    (ref,) = list_episodes(spec_of(path))
    assert "has no index" in ref.failure
    assert "set input.salvage: true to read what is whole of it" in ref.failure
    twist, notes = read(path, "/twist.twist", salvage=True)
    np.testing.assert_array_equal(twist.values[:, 0], np.arange(COUNT))
    assert "run.bag: its index cannot be used; going through it found 120 messages" in notes[0]


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_of_a_bag_that_was_cut_off_what_is_whole_is_read_and_the_loss_said(tmp_path, compression):
    path = write(tmp_path / "run.bag", compression)
    whole = path.read_bytes()
    (begin,) = struct.unpack_from("<Q", whole, whole.index(b"index_pos=") + 10)
    path.write_bytes(whole[: 4200 + (begin - 4200) * 7 // 10])  # behind the padded header
    (ref,) = list_episodes(spec_of(path))
    assert "it was cut off; set input.salvage: true" in ref.failure
    twist, notes = read(path, "/twist.twist", salvage=True)
    assert COUNT // 3 < len(twist.times) < COUNT
    np.testing.assert_array_equal(twist.values[:, 0], np.arange(len(twist.times)))
    (lost,) = [note for note in notes if "are lost" in note]
    if compression == "none":  # all but the record in the middle of which it ends
        assert int(lost.rpartition("the last ")[2].split()[0].replace(",", "")) < 300


def test_a_damaged_chunk_is_left_out_and_counted(tmp_path):
    path = write(tmp_path / "run.bag", "bz2")
    whole = bytearray(path.read_bytes())
    at = whole.index(b"BZh", len(whole) // 3) + 20
    whole[at : at + 8] = bytes(8)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="cannot be decompressed"):
        read(path, "/twist.twist")
    twist, notes = read(path, "/twist.twist", salvage=True)
    assert COUNT // 2 < len(twist.times) < COUNT
    (note,) = notes
    assert "cannot be decompressed" in note
    assert note.endswith("it is left out")


def test_a_salvaged_episode_has_a_finding(tmp_path):
    path = write(tmp_path / "run.bag")
    path.write_bytes(path.read_bytes()[:-100])
    config = {
        "input": {"uri": str(path), "salvage": True},
        "features": {"twist": "/twist.twist"},
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(tmp_path / "out")},
    }
    summary = run(config)
    assert (summary.episodes, summary.quarantined) == (1, ())
    assert any(finding.code == "lost" and "its index cannot be used" in finding.text for finding in summary.findings)


def test_other_versions_and_encrypted_bags_are_refused_with_what_helps(tmp_path):
    path = write(tmp_path / "run.bag")
    whole = path.read_bytes()
    path.write_bytes(b"#ROSBAG V1.2\n" + whole[13:])
    (ref,) = list_episodes(spec_of(path))
    assert "not rosbag1: begins with b'#ROSBAG '" in ref.failure or "rosbag fix" in ref.failure


def test_damage_is_refused(tmp_path):
    path = write(tmp_path / "run.bag", "lz4")
    seen = outcomes(path, ["/twist.twist", "/text.data"], 150)
    assert set(seen) == {"read", "refused"}
    assert sum(seen.values()) == 150


def test_damage_is_survived_by_salvage(tmp_path):
    path = write(tmp_path / "run.bag", "bz2")
    seen = outcomes(path, ["/twist.twist"], 100, salvage=True)
    assert set(seen) <= {"read", "refused"}
    assert seen["read"] > seen["refused"]


def test_a_bag_that_is_being_written_is_known_by_its_name(tmp_path):
    path = write(tmp_path / "run.bag")
    shutil.move(path, tmp_path / "run.bag.active")
    assert [ref.format for ref in list_episodes(spec_of(tmp_path))] == ["rosbag1"]
