"""Chunks unpacked and messages decoded for who reads, as a GPU does it: here by the operators' CPU halves."""

from __future__ import annotations

import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged
from marks import needs_cuda
from message_kit import joints, make, record

from robocache.engine.offload import Offload, usable
from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, read_episode
from robocache.ops import _library
from robocache.sample import write_samples
from robocache.types import Episode, EpisodeRef, Source

pytestmark = pytest.mark.skipif(
    not _library.has_kernel("decode_messages", torch.device("cpu")), reason="the extension has not been built"
)
TOP = 1_700_000_000_000_000_000
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]
DEMO = ("/joint_states.position", "/joint_states.velocity", "/imu.orientation", "/imu.linear_acceleration")


class Counted(Offload):
    """Counts what it was asked for, and what it did not do."""

    def __init__(self, device: str = "cpu", most: int = 1 << 26):
        super().__init__(device, most)
        self.unpacked: list[bool] = []
        self.decoded: list[bool] = []

    def unpack(self, *asked):
        found = super().unpack(*asked)
        self.unpacked.append(found is not None)
        return found

    def decode(self, *asked):
        found = super().decode(*asked)
        self.decoded.append(found is not None)
        return found


def outcome(read, ref: EpisodeRef) -> str | dict:
    """All that reading gives, in a form that can be compared."""
    try:
        episode: Episode = read(ref)
    except InputError as error:
        return str(error)
    return {
        key: (
            s.times.tolist(),
            (s.values.dtype, s.values.shape, s.values.tobytes()) if isinstance(s.values, np.ndarray) else s.values,
            None if s.log_times is None else s.log_times.tolist(),
            None if s.present is None else s.present.tolist(),
            dict(s.about),
            s.notes,
        )
        for key, s in episode.streams.items()
    }


def reading(spec: InputSpec, *paths: str):
    return lambda ref: read_episode(ref, [Source(path) for path in paths], spec)


def episodes(folder: Path, **options) -> tuple[InputSpec, list[EpisodeRef]]:
    spec = InputSpec((str(folder),), **options)
    return spec, list_episodes(spec)


@pytest.mark.parametrize("device", DEVICES)
def test_streams_are_the_same(tmp_path, device):
    write_samples(tmp_path, episodes=3, seconds=2.0, damaged=False)
    spec, refs = episodes(tmp_path)
    read, offload = reading(spec, *DEMO), Counted(device)
    expected = [outcome(read, ref) for ref in refs]
    there = offload.reading(read)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda ref: outcome(there, ref), refs)) == expected
    assert all(isinstance(found, dict) and len(found) == 4 for found in expected)
    assert offload.unpacked == [True] * 3
    assert offload.decoded == [True] * 6
    assert pickle.loads(pickle.dumps(offload.reading(print))) is print  # of no use in another process


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "other",
    [
        joints(TOP + 500, ["b", "a"], [5.0, 6.0]),
        joints(TOP + 500, ["a", "b", "c"], [5.0, 6.0, 7.0]),
        joints(TOP + 500, ["a", "longer"], [5.0, 6.0]),
    ],
    ids=["names in another order", "one more", "another name"],
)
def test_messages_laid_out_otherwise_are_read_on_the_host(tmp_path, device, other):
    messages = [(TOP + k, joints(TOP + k, ["a", "b"], [1.0 + k, 2.0 + k])) for k in range(40)]
    messages[20] = (TOP + 20, other)
    record(tmp_path / "a.mcap", {"/j": ("sensor_msgs/msg/JointState", messages)})
    spec, refs = episodes(tmp_path)
    read, offload = reading(spec, "/j.position"), Counted(device)
    found = outcome(offload.reading(read), refs[0])
    assert isinstance(found, dict)
    assert found == outcome(read, refs[0])
    assert offload.unpacked == [True]
    assert offload.decoded == [False]


def test_texts_are_the_same(tmp_path):
    """What all messages say is taken from the first; of what they do not agree on, all are looked at."""
    for name, texts in {"alike": ["idle"] * 30, "unlike": ["idle"] * 15 + ["busy"] * 15}.items():
        messages = [(TOP + k, make("std_msgs/msg/String", text)) for k, text in enumerate(texts)]
        record(tmp_path / f"{name}.mcap", {"/state": ("std_msgs/msg/String", messages)})
    spec, refs = episodes(tmp_path, stamp="log")
    read, offload = reading(spec, "/state.data"), Counted()
    for ref, taken in zip(refs, (True, False), strict=True):
        assert outcome(offload.reading(read), ref) == outcome(read, ref)
        assert offload.decoded[-1] is taken


def test_damage_is_told_in_the_same_words(tmp_path):
    messages = [(TOP + k, joints(TOP + k, ["a", "b"], [1.0 + k, 2.0 + k])) for k in range(60)]
    path = record(tmp_path / "a.mcap", {"/j": ("sensor_msgs/msg/JointState", messages)}, chunk_size=2000)
    spec, refs = episodes(tmp_path)
    read, offload = reading(spec, "/j.position"), Counted()
    there, refused = offload.reading(read), 0
    for content in damaged(path.read_bytes(), 120, seed=5):
        path.write_bytes(content)
        expected = outcome(read, refs[0])
        assert outcome(there, refs[0]) == expected
        refused += isinstance(expected, str)
    assert refused > 60
    assert True in offload.unpacked
    assert False in offload.unpacked


@pytest.mark.parametrize("device", DEVICES)
def test_checksums_of_many_chunks(device):
    rng = np.random.default_rng(3)
    records = rng.integers(0, 256, 3_000_000, np.uint8)
    chunks = np.array([[0, 5, 5, 1000, 1_100_000], [5, 0, 995, 1_048_576, 1_234_567]])
    found = torch.ops.robocache.crc32_chunks(torch.tensor(records, device=device), torch.tensor(chunks, device=device))
    assert found.tolist() == [zlib.crc32(records[a : a + n]) for a, n in chunks.T]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("damage", ["beyond", "order", "opcode", "length", "channel", "time"])
def test_what_an_index_claims_is_checked(device, damage):
    """A message record: opcode, length, channel, sequence, two times, payload of 4 bytes."""
    one = bytes([5, *(26).to_bytes(8, "little"), *(7).to_bytes(2, "little"), *bytes(4), *(9).to_bytes(8, "little"),
                 *(8).to_bytes(8, "little"), 1, 2, 3, 4])  # fmt: skip
    records, offsets = np.frombuffer(one * 3, np.uint8).copy(), np.array([0, 35, 70])
    if damage == "beyond":
        offsets[2] = 75
    elif damage == "order":
        offsets[1:] = offsets[:0:-1]
    else:
        place = {"opcode": 35, "length": 36 + 3, "channel": 44, "time": 50 + 7}[damage]
        records[place] = 255
    pieces, firsts = np.array([[0, 3, 0, len(records), 7]]), np.array([0])
    given = [torch.tensor(x, device=device) for x in (records, offsets, pieces, firsts)]
    _, _, bad = torch.ops.robocache.locate_messages(*given, 8)
    assert bad.tolist() == [1]
    whole = torch.tensor(np.frombuffer(one * 3, np.uint8).copy(), device=device)
    places, heads, bad = torch.ops.robocache.locate_messages(
        whole, torch.tensor([0, 35, 70], device=device), *given[2:], 8
    )
    assert places.tolist() == [[31, 66, 101], [4, 4, 4], [9, 9, 9], [8, 8, 8]]
    assert heads.tolist() == [[1, 2, 3, 4, 0, 0, 0, 0]]
    assert bad.tolist() == [0]


def test_a_device_without_room_leaves_it_to_the_host(tmp_path, monkeypatch):
    write_samples(tmp_path, episodes=1, seconds=1.0, damaged=False)
    spec, refs = episodes(tmp_path)
    read, offload = reading(spec, *DEMO), Counted()

    def full(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(offload, "_inflate", full)
    assert outcome(offload.reading(read), refs[0]) == outcome(read, refs[0])
    assert offload.unpacked == [False]


def test_a_cpu_unpacks_for_itself():
    assert not usable("cpu")
