"""MCAP files that are damaged, or whose index does not tell of all that is there."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from test_mcap import (
    LAYOUTS,
    STORE,
    TOP,
    CompressionType,
    Writer,
    make,
    mcap_reader,
    mixed,
    read,
    refer,
    streams,
    write,
)

from robocache.errors import InputError
from robocache.formats import InputSpec
from robocache.formats.messages import native
from robocache.types import Episode


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (2, "a list of members of XCDR1, which is not read"),
        (3, "a list of members of XCDR1, which is not read"),
        (7, "the message does not match its schema"),  # XCDR2, which these bytes are not
        (9, "the message does not match its schema"),
        (32, "encapsulation 0x0020"),
    ],
)
def test_other_encapsulations_are_refused(tmp_path, kind, said):
    path = tmp_path / "a.mcap"
    spec = write(path, [mixed(1)], compression=CompressionType.NONE, enable_crcs=False)
    data = path.read_bytes()
    payload = bytes(STORE.serialize_cdr(mixed(1), "test_msgs/msg/Mixed"))
    path.write_bytes(data.replace(payload, bytes([0, kind]) + payload[2:]))
    with pytest.raises(InputError, match=said):
        read(spec, "/mixed.gain")


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.mcap"
    spec = write(path, [mixed(i) for i in range(50)], chunk_size=3000, enable_data_crcs=True)
    data = path.read_bytes()
    for found, bad in {
        "begins with": b"#ROSBAG " + data[8:],
        "ends in the middle of a record": data[:-200],
        "cut off before its footer": data[:20],
        "the footer says": data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        "data section has CRC": data[:12] + bytes([data[12] ^ 1]) + data[13:],
    }.items():
        path.write_bytes(bad)
        with pytest.raises(InputError, match=found):
            read(spec, "/mixed.gain")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="begins with"):
        refer(spec)


def outcome(attempt) -> str | dict:
    """The refusal, or what was read, in a form that can be compared."""
    try:
        found = attempt()
    except InputError as error:
        assert "a.mcap" in str(error)
        return str(error)
    if isinstance(found, Episode):
        return {
            key: (s.times.tolist(), repr(s.values.tolist() if hasattr(s.values, "tolist") else s.values), s.notes)
            for key, s in found.streams.items()
        }
    return {key: (info.times.tolist(), info.failure) for key, info in found.items()}


@pytest.mark.parametrize("layout", ["zstd", "lz4", "uncompressed", "unchunked", "no message index", "no chunk index"])
def test_damaged_files_raise_input_error_and_nothing_else(tmp_path, layout, monkeypatch):
    """Checksums off, so that the damage reaches every parser; and both decoders say the same of it."""
    path = tmp_path / "a.mcap"
    sent = [mixed(i, label="l" * (i % 5), words=i % 4, many=i % 3) for i in range(24)]
    options = {**LAYOUTS[layout], "chunk_size": 1500, "enable_crcs": False}
    write(path, sent, topics=("/mixed", "/mixed", "/b"), **options)
    good = path.read_bytes()
    spec = InputSpec((str(path),), verify_checksums=False)
    sources = [f"/mixed.{name}" for name in ("pair", "samples", "blob")]
    sources += [f"/b.{name}" for name in ("named[1].xyz", "tail", "label")]
    rng = random.Random(layout)
    refused = 0
    for trial in range(75):
        data = bytearray(good)
        if trial % 5 == 0:
            del data[rng.randrange(len(data)) :]
        elif trial % 5 == 1:  # a length becomes huge
            at = rng.randrange(8, len(data) - 8)
            data[at : at + 8] = rng.choice([b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 6 + b"\1\0"])
        else:
            for _ in range(rng.choice([1, 1, 3, 20])):
                data[rng.randrange(8, len(data) - 8)] = rng.randrange(256)
        path.write_bytes(data)
        for attempt in (lambda: read(spec, *sources), lambda: streams(spec)):
            compiled = outcome(attempt)
            with monkeypatch.context() as patch:
                patch.setattr(native, "library", None)
                assert outcome(attempt) == compiled
            refused += isinstance(compiled, str)
    assert refused > 15


def _loose(path: Path, statistics: bool) -> list[int]:
    """A file of which the middle third of the messages lies outside of chunks; what it holds."""
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=1 << 30, use_statistics=statistics)
        writer.start("ros2")
        kind = writer.register_schema("std_msgs/msg/Int64", "ros2msg", b"int64 data")
        channel = writer.register_channel("/x", "cdr", kind)
        chunk = writer._Writer__chunk_builder
        for i in range(90):
            if i in (30, 60):
                writer._Writer__finalize_chunk()
                writer._Writer__chunk_builder = None if i == 30 else chunk
            data = bytes(STORE.serialize_cdr(make("std_msgs/msg/Int64", data=i), "std_msgs/msg/Int64"))
            writer.add_message(channel, TOP + i, data, TOP + i)
        writer.finish()
    return list(range(90))


@pytest.mark.parametrize("statistics", [True, False])
def test_messages_outside_of_chunks_are_read(tmp_path, statistics):
    held = _loose(tmp_path / "a.mcap", statistics)
    spec = InputSpec((str(tmp_path / "a.mcap"),))
    assert read(spec, "/x.data").streams["/x.data"].values.tolist() == held
    assert len(streams(spec)["/x"].times) == 90


def test_what_the_statistics_count_must_be_there(tmp_path):
    path = tmp_path / "a.mcap"
    spec = write(path, [mixed(i) for i in range(300)], chunk_size=3000, enable_crcs=False)
    whole = read(spec, "/mixed.tail").streams["/mixed.tail"].values
    data = bytearray(path.read_bytes())
    summary = mcap_reader.make_reader(path.open("rb")).get_summary()
    count = b"\x01\x00" + len(whole).to_bytes(8, "little")  # channel 1
    at = data.rindex(count)
    data[at : at + 10] = b"\x01\x00" + (len(whole) + 1).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="its statistics count 301 messages, 300 are there"):
        read(spec, "/mixed.tail")
    data[at : at + 10] = count
    # A chunk that no index points to: its record of the summary becomes one that nobody knows.
    start = summary.chunk_indexes[1].chunk_start_offset.to_bytes(8, "little")
    record = data.rindex(start) - 16 - 9
    assert data[record] == 0x08
    data[record] = 0x7F
    path.write_bytes(data)
    np.testing.assert_array_equal(read(spec, "/mixed.tail").streams["/mixed.tail"].values, whole)
