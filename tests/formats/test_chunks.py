"""Messages taken apart chunk by chunk give what the walk in numpy gives, window by window, whatever changes midway."""

from __future__ import annotations

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer
from message_kit import JOINTS, STORE, T0, joints, make, record, register, stamp, streams

from robocache.errors import InputError
from robocache.formats.messages import native
from robocache.formats.messages.lowered import ChunkDecoder

pytestmark = pytest.mark.skipif(native.library is None, reason="robocache._decode is not built")

SMALL = 2000  # bytes of a chunk, some ten messages
NAMES = ["a", "b", "c"]
PAIR = register("test_msgs/msg/Pair", "builtin_interfaces/Time stamp\nstring frame_id\nfloat64 x\nint32 n\n")


@pytest.fixture
def taken(monkeypatch) -> list[bool]:
    """Of each chunk and channel that was tried, whether it was taken."""
    seen: list[bool] = []
    take = ChunkDecoder.take

    def spy(chunk, decoders, entries):
        found = take(chunk, decoders, entries)
        seen.extend(found)
        return found

    monkeypatch.setattr(ChunkDecoder, "take", staticmethod(spy))
    return seen


def same(path, *sources: str) -> dict:
    """What is read with the compiled decoder, which is what is read without it."""
    compiled = streams(path, *sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", None)
        plain = streams(path, *sources)
    assert compiled.keys() == plain.keys()
    for key, stream in compiled.items():
        other = plain[key]
        np.testing.assert_array_equal(stream.times, other.times)
        np.testing.assert_array_equal(stream.log_times, other.log_times)
        np.testing.assert_array_equal(np.asarray(stream.values), np.asarray(other.values))
        assert (stream.present is None) == (other.present is None)
        if stream.present is not None:
            np.testing.assert_array_equal(stream.present, other.present)
        assert (stream.about, stream.notes, stream.type) == (other.about, other.notes, other.type)
    return compiled


def at(i: int) -> int:
    return T0 + i * 1_000_000


def arm(i: int, names=tuple(NAMES), velocity=(1.0, 2.0, 3.0)):
    return at(i), joints(at(i) - 5, list(names), [i + 0.25 * k for k in range(len(names))], velocity)


def test_all_chunks_but_the_first_are_taken(tmp_path, taken):
    sent = [arm(i) for i in range(200)]
    path = record(tmp_path / "a.mcap", {"/arm": (JOINTS, sent), "/other": (JOINTS, sent)}, chunk_size=SMALL)
    found = same(path, "/arm.position", "/arm.velocity[b]", "/other.position[c,a]")
    assert len(taken) > 40 and all(taken)
    position = found["/arm.position"]
    np.testing.assert_array_equal(position.values, np.arange(200)[:, None] + [0.0, 0.25, 0.5])
    np.testing.assert_array_equal(position.times, [at(i) - 5 for i in range(200)])
    np.testing.assert_array_equal(found["/other.position[c,a]"].values, np.arange(200)[:, None] + [0.5, 0.0])
    assert position.about == {"frame": "base", "names": NAMES}


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("c", "a", "b")},
        {"names": ("a", "b", "c", "d"), "velocity": (1.0, 2.0, 3.0, 4.0)},
        {"names": ("a", "b"), "velocity": (1.0, 2.0)},
        {"velocity": ()},
    ],
    ids=["other order", "more joints", "fewer joints", "no velocity"],
)
def test_what_changes_midway_is_read_the_other_way(tmp_path, taken, change):
    sent = [arm(i) for i in range(100)] + [arm(i, **change) for i in range(100, 200)] + [arm(200)]
    path = record(tmp_path / "a.mcap", {"/arm": (JOINTS, sent)}, chunk_size=SMALL)
    found = same(path, "/arm.position")
    assert taken[0] and len(found["/arm.position"].times) == 201
    assert taken.count(False) <= 1  # after which nothing of the channel is tried
    same(path, "/arm.position[b]", "/arm.velocity[b]")


def test_texts_that_say_what_numbers_are_may_change(tmp_path, taken):
    """A frame that changes is told; one that is another in every message does not fill the memory."""
    few = [(at(i), make(PAIR, stamp(at(i)), "cam" if i < 90 else "lens", i / 8, -i)) for i in range(200)]
    many = [(at(i), make(PAIR, stamp(at(i)), f"{i:04d}" * 400, i / 8, i)) for i in range(200)]
    path = record(tmp_path / "a.mcap", {"/few": (PAIR, few), "/many": (PAIR, many)}, chunk_size=SMALL)
    found = same(path, "/few.x", "/few.n", "/many.x")
    assert False in taken and taken.count(True) > 50
    assert found["/few.n"].values.tolist() == [-i for i in range(200)]
    assert any("frame is not the same throughout" in note for note in found["/few.x"].notes)


def test_texts_and_whole_messages_are_not_taken(tmp_path, taken):
    sent = [(at(i), make(PAIR, stamp(at(i)), f"f{i % 3}", i / 8, i)) for i in range(100)]
    path = record(tmp_path / "a.mcap", {"/pair": (PAIR, sent)}, chunk_size=SMALL)
    found = same(path, "/pair.frame_id", "/pair.x")
    assert found["/pair.frame_id"].values.to_pylist() == [f"f{i % 3}" for i in range(100)]
    assert not taken


def test_two_senders_of_one_topic_are_read_window_by_window(tmp_path, taken):
    """Their rows take turns."""
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=SMALL)
        writer.start("ros2")
        text, _ = STORE.generate_msgdef(JOINTS, ros_version=2)
        schema = writer.register_schema(JOINTS, "ros2msg", text.encode())
        ids = [writer.register_channel("/arm", "cdr", schema) for _ in range(2)]
        for i in range(200):
            log, message = arm(i)
            writer.add_message(ids[i % 2], log, bytes(STORE.serialize_cdr(message, JOINTS)), log)
        writer.finish()
    found = same(path, "/arm.position")
    assert found["/arm.position"].values[:, 0].tolist() == list(range(200))
    assert not taken


def test_a_message_that_its_index_misplaces_is_refused_in_the_same_words(tmp_path, taken):
    """The last chunks' index entries are moved by a byte."""
    path = record(tmp_path / "a.mcap", {"/arm": (JOINTS, [arm(i) for i in range(100)])}, chunk_size=SMALL)
    with path.open("rb") as file:
        chunk = make_reader(file).get_summary().chunk_indexes[-2]
    data = bytearray(path.read_bytes())
    place = next(iter(chunk.message_index_offsets.values())) + 15 + 8  # record, channel, bytes; the first log time
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError) as compiled:
        streams(path, "/arm.position", verify_checksums=False)
    assert taken[-1] is False and taken.count(False) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", None)
        with pytest.raises(InputError) as plain:
            streams(path, "/arm.position", verify_checksums=False)
    assert str(compiled.value) == str(plain.value) and "where its index says" in str(plain.value)
