"""What is not read says what it is and what to do about it, and hides nothing else."""

from __future__ import annotations

import datetime
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mcap.writer import Writer
from message_kit import JOINTS, STORE, T0, joints

from robocache.errors import InputError, UnexpectedError
from robocache.formats import (
    READERS,
    InputSpec,
    TableTimes,
    list_episodes,
    list_streams,
    read_episode,
)

COUNT = 5
DEFINITION = STORE.generate_msgdef(JOINTS, ros_version=2)[0].encode()


def plain(data: bytes) -> bytes:
    return data


def write(path: Path, encoding: str, kind: str, schema: bytes, pack=plain) -> InputSpec:
    """Joint states on ``/odd`` in that guise, and on ``/good`` as they should be."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        odd = writer.register_channel("/odd", encoding, writer.register_schema(JOINTS, kind, schema) if kind else 0)
        good = writer.register_channel("/good", "cdr", writer.register_schema(JOINTS, "ros2msg", DEFINITION))
        for i in range(COUNT):
            data = bytes(STORE.serialize_cdr(joints(T0 + i, ["a", "b"], [float(i), 2.0]), JOINTS))
            writer.add_message(odd, T0 + 100 + i, pack(data), T0)
            writer.add_message(good, T0 + 100 + i, data, T0)
        writer.finish()
    return InputSpec((str(path),))


@pytest.mark.parametrize(
    ("encoding", "kind", "schema", "pack", "said"),
    [
        ("xml", "xsd", b"\n\x01x", plain, r"cdr with ros2msg, .*ros1msg, protobuf .* json, are"),
        ("cdr", "ros1msg", DEFINITION, plain, "the file is at odds with itself"),
        ("cbor", "", b"", plain, "'cbor'.*write them again as one of these"),
        ("cdr", "ros2msg", b"float64 [position", plain, "has the line"),
    ],
)  # fmt: skip
def test_messages_that_are_not_read(tmp_path, encoding, kind, schema, pack, said):
    """The topic beside them is read; of theirs people see the times of the log and the reason."""
    spec = write(tmp_path / "a.mcap", encoding, kind, schema, pack)
    (ref,) = list_episodes(spec)
    with pytest.raises(InputError, match=said) as caught:
        read_episode(ref, ["/odd.position"], spec)
    assert str(tmp_path / "a.mcap") in str(caught.value) and "/odd" in str(caught.value)
    assert read_episode(ref, ["/good.position"], spec).streams["/good.position"].values.tolist()[1] == [1.0, 2.0]
    odd, good = list_streams(ref, spec)
    assert (odd.source, good.source) == ("/odd", "/good")
    assert odd.times.tolist() == [T0 + 100 + i for i in range(COUNT)]
    assert good.times.tolist() == [T0 + i for i in range(COUNT)]
    assert str(caught.value).endswith(odd.failure) and not good.failure and ("position", "float64[]") in good.fields


def test_a_type_without_fields_has_an_empty_schema(tmp_path):
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        channel = writer.register_channel("/go", "cdr", writer.register_schema("std_msgs/msg/Empty", "ros2msg", b""))
        writer.add_message(channel, T0, bytes([0, 1, 0, 0, 0]), T0)
        writer.finish()
    spec = InputSpec((str(path),))
    (found,) = list_streams(list_episodes(spec)[0], spec)
    assert found.failure == "" and found.times.tolist() == [T0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.svo", "a ZED recording, .* export its streams"),
        ("a.laz", "a compressed point cloud, .* laszip"),
        ("a.AVI", "a video that does not say when .* convert it to MP4"),
        ("a.bin", "unrecognised format; known are .mcap"),
    ],
)
def test_a_file_asked_for_by_name_says_what_it_is(tmp_path, name, said):
    path = tmp_path / name
    path.write_bytes(b"\0" * 100)
    (ref,) = list_episodes(InputSpec((str(path),)))
    assert ref.failure.startswith(f"{path}: ")
    with pytest.raises(InputError, match=said):
        read_episode(ref, ["x"], InputSpec((str(path),)))


@pytest.mark.parametrize(
    ("second", "readable"),
    [("1677-09-21T00:12:44", True), ("2262-04-11T23:47:15", True), ("1677-09-21T00:12:42", False),
     ("2262-04-11T23:47:17", False), ("3000-01-01T00:00:00", False)],
)  # fmt: skip
def test_stamps_of_96_bits_out_of_range(tmp_path, second, readable):
    """Nanoseconds of 64 bits reach from 1677-09-21T00:12:43.145 to 2262-04-11T23:47:16.854."""
    path = tmp_path / "a.parquet"
    stamps = [datetime.datetime(2024, 1, 1), datetime.datetime.fromisoformat(second), datetime.datetime(2024, 1, 2)]
    table = pa.table({"t": pa.array(stamps, pa.timestamp("us")), "x": [1.0, 2.0, 3.0]})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    spec = InputSpec((str(path),), times=TableTimes("t"))
    (ref,) = list_episodes(spec)
    if readable:
        exact = (stamps[1] - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1) * 1000
        assert read_episode(ref, ["x"], spec).streams["x"].times.tolist()[1] == exact
    else:
        with pytest.raises(InputError, match=r"a\.parquet: column 't': row 2 \(of 3\).*1677 to 2262.*timestamp\[us\]"):
            read_episode(ref, ["x"], spec)


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server that refuses, as its path says: ``/500/a.csv``."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(int(self.path.split("/")[1]))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_a_host_that_does_not_answer_is_no_missing_file(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}.*; check the address \(endpoint_url.*that it is up"):
        list_episodes(InputSpec((f"http://127.0.0.1:{port}/logs/a.csv",)))
    with pytest.raises(OSError, match="503"):
        list_episodes(InputSpec((f"{server}/503/a.csv",)))
    with pytest.raises(InputError, match="nothing at"):
        list_episodes(InputSpec((f"{server}/404/a.csv",)))


def test_a_mistake_of_ours_is_no_fault_of_the_file(tmp_path, monkeypatch, caplog):
    """It is told as what it is, with its traceback in the log; what a library finds in a file stays the file's."""
    (tmp_path / "a.csv").write_text("time_ns,x\n0,1\n")
    spec = InputSpec((str(tmp_path),))
    (ref,) = list_episodes(spec)

    def from_library(*_: object) -> None:
        np.frombuffer(b"abc", np.uint16)

    def from_json(*_: object) -> None:
        json.loads(None)  # type: ignore[arg-type]

    for wrong in (from_library, from_json):
        monkeypatch.setattr(READERS["csv"], "read", wrong)
        with pytest.raises(InputError, match="cannot be read as csv") as caught:
            read_episode(ref, ["x"], spec)
        assert not isinstance(caught.value, UnexpectedError)
    monkeypatch.undo()
    monkeypatch.setattr("robocache.formats.tables.column_times", None)
    with (
        caplog.at_level(logging.DEBUG, "robocache"),
        pytest.raises(UnexpectedError, match="unexpected TypeError"),
    ):
        read_episode(ref, ["x"], spec)
    assert "tables.py" in caplog.text and str(tmp_path / "a.csv") in caplog.text
