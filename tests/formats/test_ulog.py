"""PX4 logs: against pyulog, cut off, damaged, and with instances, dropouts and appended data."""

from __future__ import annotations

import itertools
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from damage import outcomes

from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode, ulog, ulog_walk
from robocache.formats.messages import native


def message(kind: str, content: bytes) -> bytes:
    return struct.pack("<HB", len(content), ord(kind)) + content


def key(kind: str, text: str, value: bytes) -> bytes:
    return message(kind, bytes([len(text)]) + text.encode() + value)


def log(appended: int = 0, samples: int = 50) -> bytes:
    """Two instances of one message, which pads its middle and its end, and one within another."""
    flags = bytes(8) + bytes([appended > 0]) + bytes(7) + struct.pack("<3Q", appended, 0, 0)
    out = b"ULog\x01\x12\x35\x01" + struct.pack("<Q", 5) + message("B", flags)
    out += message("F", b"inner:float a;int16_t b;")
    out += message(
        "F", b"arm:uint64_t timestamp;uint8_t n;uint8_t[3] _padding0;float[2] q;inner[2] of;uint8_t[4] _padding1;"
    )
    out += key("I", "char[3] sys_name", b"PX4") + key("P", "float GAIN", struct.pack("<f", 0.5))
    out += message("A", bytes([0, 7, 0]) + b"arm") + message("A", bytes([1, 9, 0]) + b"arm")
    for i in range(samples):
        for id, sign in ((7, 1), (9, -1)):
            values = (1000 * i, i % 256, float(sign * i), 0.5, 1.0, i, 2.0, -i)
            out += message("D", struct.pack("<H", id) + struct.pack("<QB3x2ffhfh", *values))
    return out + message("O", struct.pack("<H", 20))


def spec_of(tmp_path: Path, data: bytes, **options) -> InputSpec:
    (tmp_path / "a.ulg").write_bytes(data)
    return InputSpec((str(tmp_path / "a.ulg"),), **options)


def read(spec: InputSpec, *sources: str):
    (ref,) = list_episodes(spec)
    return read_episode(ref, list(sources), spec)


def test_instances_padding_and_types_within_types(tmp_path):
    episode = read(spec_of(tmp_path, log()), "arm.q", "arm_1.q[0]", "arm.of[1].b", "arm.n")
    np.testing.assert_array_equal(episode.streams["arm.q"].values, [[i, 0.5] for i in range(50)])
    np.testing.assert_array_equal(episode.streams["arm_1.q[0]"].values[:, 0], -np.arange(50))
    np.testing.assert_array_equal(episode.streams["arm.of[1].b"].values, -np.arange(50))
    assert episode.streams["arm.n"].times.tolist() == [i * 1_000_000 for i in range(50)]
    assert episode.metadata == {"sys_name": "PX4", "parameters": {"GAIN": 0.5}}
    assert episode.notes == ("a.ulg: the logger lost messages 1 times, for 20 ms in all",)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["sample_log_small", "sample_px4_events"])
def test_every_number_is_what_pyulog_reads(data_dir, name):
    pyulog = pytest.importorskip("pyulog", reason="pyulog is not installed")
    path = data_dir / "ulog" / f"{name}.ulg"
    spec = InputSpec((str(path),))
    (ref,) = list_episodes(spec)
    infos = {info.source: info for info in list_streams(ref, spec)}
    wanted = {f"{d.name}_{d.multi_id}" if d.multi_id else d.name: d for d in pyulog.ULog(str(path)).data_list}
    assert set(infos) == set(wanted)
    compared = {}
    for topic, data in wanted.items():
        for field, values in data.data.items():
            if "[" not in field and "." not in field:
                compared[f"{topic}.{field}"] = (values, data)
            elif field.endswith("[0]") and "." not in field:
                name = field.removesuffix("[0]")
                count = sum(other.startswith(f"{name}[") for other in data.data)
                compared[f"{topic}.{name}"] = np.stack([data.data[f"{name}[{k}]"] for k in range(count)], 1), data
    found = read_episode(ref, list(compared), spec).streams
    for source, (values, data) in compared.items():
        np.testing.assert_array_equal(found[source].values, values, err_msg=source)
        np.testing.assert_array_equal(found[source].times, data.data["timestamp"].astype(np.int64) * 1000)
    assert len(compared) > 200


def test_a_log_ends_where_the_power_was_cut(tmp_path):
    episode = read(spec_of(tmp_path, log()[:-60]), "arm.q")
    assert 45 < len(episode.streams["arm.q"].times) < 51
    assert any("are no whole message, as of a log that was cut off" in note for note in episode.notes)


def test_what_was_appended_after_a_crash_is_read(tmp_path):
    whole = log()
    cut = len(whole) - 5  # in the middle of the last message
    more = message("D", struct.pack("<H", 7) + struct.pack("<QB3x2ffhfh", 99_000, 1, 7.0, 0.5, 1.0, 0, 2.0, 0))
    episode = read(spec_of(tmp_path, log(appended=cut)[:cut] + more), "arm.q[0]")
    assert episode.streams["arm.q[0]"].values[-1].tolist() == [7.0]


def test_damage_in_the_middle_is_refused_and_salvaged(tmp_path):
    whole = log()
    at = whole.index(message("D", struct.pack("<H", 7))[2:], len(whole) // 2) - 2
    broken = whole[: at + 2] + b"\xff" + whole[at + 3 :]
    with pytest.raises(InputError, match=rf"unknown type 0xff at byte {at}; the file is .* set input.salvage: true"):
        read(spec_of(tmp_path, broken), "arm.q[0]")
    episode = read(spec_of(tmp_path, broken, salvage=True), "arm.q[0]")
    count = len(episode.streams["arm.q[0]"].times)
    assert 10 < count < 45
    assert "bytes are lost" in episode.notes[0]


def test_a_listing_reads_no_data(tmp_path, monkeypatch):
    spec = spec_of(tmp_path, log())
    monkeypatch.setattr(ulog_walk, "UlogFile", None)
    monkeypatch.setattr(ulog, "UlogFile", None)
    assert [ref.failure for ref in list_episodes(spec)] == [""]


def test_an_id_is_given_anew(tmp_path):
    """What was instance 0 goes on as instance 1, under the id of the other."""
    again = message("A", bytes([1, 7, 0]) + b"arm") + message("A", bytes([0, 9, 0]) + b"arm")
    more = b"".join(
        message("D", struct.pack("<H", id) + struct.pack("<QB3x2ffhfh", 99_000, 1, float(id), 0, 0, 0, 0, 0))
        for id in (7, 9)
    )
    episode = read(spec_of(tmp_path, log() + again + more), "arm.q[0]", "arm_1.q[0]")
    assert episode.streams["arm_1.q[0]"].values[-2:].tolist() == [[-49.0], [7.0]]
    assert episode.streams["arm.q[0]"].values[-2:].tolist() == [[49.0], [9.0]]


def outcome(spec: InputSpec) -> object:
    """What comes of a log: all that was read of it, or what was said."""
    try:
        (ref,) = list_episodes(spec)
        infos = [(info.source, info.times.tolist(), info.failure) for info in list_streams(ref, spec)]
        episode = read_episode(ref, ["arm.q", "arm_1.of[1].b"], spec)
    except InputError as error:
        return str(error)
    streams = {key: (s.times.tolist(), np.asarray(s.values).tolist()) for key, s in episode.streams.items()}
    return infos, streams, episode.metadata, episode.notes


@pytest.mark.skipif(native.library is None, reason="robocache._decode is not built")
def test_windows_of_any_size_and_both_walks_tell_the_same(tmp_path, monkeypatch):
    rng = random.Random(0)
    cut = len(log(samples=900)) - 5
    answered = 0
    for trial in range(120):
        data = bytearray(log(appended=cut if trial % 2 else 0, samples=900))
        if trial % 4 == 1:
            data[cut:] = message("A", bytes([0, rng.choice([7, 9]), 0]) + b"arm") + bytes(data[cut - 60 : cut])
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 7, 9, 65, 68, 255, rng.randrange(256)])
        del data[len(data) - rng.choice([0, 0, rng.randrange(200)]) :]
        spec = spec_of(tmp_path, bytes(data), salvage=trial % 3 == 0)
        answers = []
        for library, window in itertools.product((native.library, None), (ulog_walk.WINDOW, 1 << 16 | 7)):
            with monkeypatch.context() as patch:
                patch.setattr(native, "library", library)
                patch.setattr(ulog_walk, "WINDOW", window)
                answers.append(outcome(spec))
        assert all(answer == answers[0] for answer in answers), trial
        answered += not isinstance(answers[0], str)
    assert 20 < answered < 110


def test_flags_of_newer_software_are_refused(tmp_path):
    whole = bytearray(log())
    whole[16 + 3 + 8] = 2
    (ref,) = list_episodes(spec_of(tmp_path, bytes(whole)))
    assert "incompatible flags [1]" in ref.failure


def test_damage_is_refused(tmp_path):
    spec_of(tmp_path, log())
    assert set(outcomes(tmp_path / "a.ulg", ["arm.q", "arm_1.n"], 200)) == {"read", "refused"}
    with pytest.raises(InputError, match="no field 'z'"):
        read(spec_of(tmp_path, log()), "arm.z")
