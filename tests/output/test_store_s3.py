"""The store and the manifest's log on S3, over the wire: whole or not at all, conditional, and nothing remembered."""

from __future__ import annotations

import pickle
import socket
import tempfile

import numpy as np
import pytest
from s3_kit import CHANGES, SECRET, Bucket, Request

from robocache.errors import OutputError
from robocache.output import manifest as manifest_log
from robocache.output import store
from robocache.output.manifest import ObjectLog, open_log
from robocache.output.store import Store, UnmetError

LOG = "meta/manifest.jsonl"


@pytest.fixture
def out(s3: Bucket) -> Store:
    return Store(s3.uri("out"), s3.options)


@pytest.fixture
def big(monkeypatch) -> np.ndarray:
    """Data of two and a half pieces of the smallest size that S3 takes."""
    monkeypatch.setattr(store, "PIECE", 5 * 2**20)
    return np.random.default_rng(0).integers(0, 256, 25 * 2**19, dtype=np.uint8)


def once(fault: str, *words: str):
    """The fault at the first request that has all of these in it."""
    left = [fault]
    return lambda request: left.pop() if left and all(word in str(request) for word in words) else ""


def test_files(s3, out):
    assert (out.files(), out.exists("a")) == ([], False)
    out.write("data/a", b"one")
    out.write("data/.b", memoryview(b"three"))
    s3.fs.touch(f"{s3.name}/out/data/")  # what a console makes of an empty folder
    assert out.files() == ["data/.b", "data/a"]
    assert out.sizes("data") == {"data/.b": 5, "data/a": 3}
    assert out.exists("data/a") and out.read("data/a") == b"one"
    assert out.read_tails({"data/.b": 5, "data/a": 3}, 4) == [b"hree", b"one"]
    out.remove("data/a")
    out.remove("data/a")
    assert out.files("data") == ["data/.b"]
    with pytest.raises(FileNotFoundError, match=r"s3://.*/out/data/a"):
        out.read("data/a")


def test_another_process_is_seen_at_once(s3, out):
    out.write("data/a", b"1")
    assert out.files("data") == ["data/a"] and out.exists("data/a")
    s3.fs.pipe_file(f"{s3.name}/out/data/b", b"12")
    s3.fs.rm_file(f"{s3.name}/out/data/a")
    assert out.sizes("data") == {"data/b": 2}
    assert out.exists("data/b") and not out.exists("data/a")


def test_a_store_travels(s3, out):
    pickle.loads(pickle.dumps(out)).write("x", b"1")
    assert out.read("x") == b"1"


def test_many_are_removed_in_few_requests(s3, out, monkeypatch):
    monkeypatch.setattr(store, "_KEYS", 3)
    names = [f"data/{i}" for i in range(7)]
    for name in names:
        out.write(name, b"x")
    s3.server.requests.clear()
    out.remove_all(names)
    assert out.files() == []
    assert len(s3.server.log(*CHANGES)) == 3


def test_a_large_file_goes_in_pieces(s3, out, big):
    out.write("part", big.data)
    assert out.read("part") == big.tobytes()
    assert sum("partNumber" in line for line in s3.server.log("PUT")) == 3
    assert s3.uploads() == []


@pytest.mark.parametrize("fault", ["500", "403"])
@pytest.mark.parametrize("at", ["uploads", "partNumber=2", "POST uploadId"])
def test_a_large_file_that_fails_half_way(s3, out, big, fault, at):
    """Nothing of it is visible, the old one stays, no piece is left; the error says where, and whether to try again."""
    out.write("part", b"old")
    s3.server.fault = once(fault, *at.split())
    with pytest.raises(OSError if fault == "500" else OutputError, match=r"s3://.*/out/part: .*injected"):
        out.write("part", big.data)
    assert s3.objects("out") == {"part": b"old"}
    assert s3.uploads() == []
    out.write("part", big.data)
    assert out.read("part") == big.tobytes()


@pytest.mark.parametrize("fault", ["drop", "deaf"])
def test_a_connection_that_breaks_is_tried_again(s3, out, fault):
    s3.server.fault = once(fault, "PUT", "/out/part")
    out.write("part", b"x" * 100_000)
    assert len(s3.server.log("PUT")) == 2
    assert out.read("part") == b"x" * 100_000


def test_storage_that_cannot_be_reached(s3):
    away = Store(s3.uri("out"), s3.options | {"endpoint_url": "http://127.0.0.1:1"})
    away.fs.retries = 1
    for call in (lambda: away.write("a", b""), lambda: away.read("a"), lambda: away.files(), lambda: away.exists("a")):
        with pytest.raises(OSError, match=r"s3://.*127\.0\.0\.1:1"):  # may pass, so it is tried again
            call()


def test_refusals_for_good(s3, out, monkeypatch):
    with pytest.raises(OutputError, match=r"s3://no-such-bucket-here/out/a: no such bucket"):
        Store("s3://no-such-bucket-here/out", s3.options).write("a", b"")
    s3.server.fault = lambda _: "403"
    for call in (lambda: out.write("a", b""), lambda: out.read("a"), lambda: out.put_if("a", b"", None)):
        with pytest.raises(OutputError, match="credentials") as refused:
            call()
        assert SECRET not in str(refused.value)
    s3.server.fault = lambda _: ""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = Store(s3.uri("out"), {"endpoint_url": s3.server.endpoint, "key": None})
    with pytest.raises(OutputError, match="storage_options key and secret"):
        nobody.write("a", b"")
    with pytest.raises(OutputError, match="carrierpigeon"):
        Store("carrierpigeon://roof/out")


def test_conditions(s3, out):
    first = out.put_if("a", b"1", None)
    with pytest.raises(UnmetError):
        out.put_if("a", b"2", None)
    second = out.put_if("a", b"3", first)
    for stale in (lambda: out.put_if("a", b"4", first), lambda: out.remove_if("a", first)):
        with pytest.raises(UnmetError):
            stale()
    assert out.read_tagged("a") == (b"3", second)
    out.remove_if("a", second)
    for gone in (lambda: out.put_if("a", b"5", second), lambda: out.remove_if("a", second)):
        with pytest.raises(UnmetError):
            gone()
    with pytest.raises(FileNotFoundError):
        out.read_tagged("a")


def lines(log: ObjectLog) -> list[bytes]:
    return [line for _, line in log.scan()]


def test_a_log_is_its_base_and_its_segments(s3, out, monkeypatch):
    monkeypatch.setattr(manifest_log, "_BATCH", 2)
    log = open_log(out, LOG)
    assert lines(log) == []
    places = [log.append(f"line {i}\n".encode()) for i in range(5)]
    s3.server.requests.clear()
    assert list(log.read(reversed(places))) == [b"line %d\n" % i for i in (4, 3, 2, 1, 0)]
    assert s3.server.requests == []  # from this machine
    reader = open_log(out, LOG)
    assert lines(reader) == [b"line %d\n" % i for i in range(5)]
    log.rewrite(log.read([places[4], places[0]]))
    assert s3.objects("out") == {LOG: b"line 4\nline 0\n"}
    assert log.append(b"more\n") == len(b"line 4\nline 0\n")
    assert lines(open_log(out, LOG)) == [b"line 4\n", b"line 0\n", b"more\n"]
    log.rewrite([])
    assert s3.objects("out") == {LOG: b""}


def test_what_a_log_keeps_on_this_machine_has_no_name(s3, out, tmp_path, monkeypatch):
    """So that a process which is killed leaves nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    log = open_log(out, LOG)
    log.append(b"a\n")
    log.rewrite([b"b\n"])
    assert lines(log) == [b"b\n"]
    assert list(tmp_path.iterdir()) == []


def test_a_rewrite_that_is_cut_off(s3, out):
    """Between the new base and the removal of the segments: their lines are there twice, and the last one holds."""
    log = open_log(out, LOG)
    list(log.scan())
    for i in range(3):
        log.append(b"%d\n" % i)
    s3.server.fault = lambda request: "500" if "delete" in request.query else ""
    with pytest.raises(OSError, match="injected"):
        log.rewrite([b"2\n", b"1\n", b"0\n"])
    s3.server.fault = lambda _: ""
    after = open_log(out, LOG)
    assert lines(after) == [b"2\n", b"1\n", b"0\n", b"0\n", b"1\n", b"2\n"]
    after.heal()
    assert list(s3.objects("out")) == [LOG]
    assert lines(open_log(out, LOG)) == lines(after)


def test_two_writers_collide(s3, out):
    one, other = open_log(out, LOG), open_log(out, LOG)
    for log in (one, other):
        list(log.scan())
    one.append(b"one\n")
    with pytest.raises(OutputError, match="another run is writing"):
        other.append(b"other\n")
    assert lines(open_log(out, LOG)) == [b"one\n"]


def test_an_append_whose_answer_is_lost_is_there_once(s3, out):
    log = open_log(out, LOG)
    list(log.scan())
    s3.server.fault = once("deaf", "PUT", "manifest/")
    assert (log.append(b"a\n"), log.append(b"b\n")) == (0, 2)
    assert len(s3.server.log("PUT")) == 3
    assert lines(open_log(out, LOG)) == [b"a\n", b"b\n"]


def test_requests_are_few(s3, out):
    """Opening costs by the segment, reading back nothing, adding one request however many the lines."""
    log = open_log(out, LOG)
    list(log.scan())
    s3.server.requests.clear()
    log.append(b"".join(b"%d\n" % i for i in range(10_000)))
    assert [r.method for r in s3.server.requests] == ["PUT"]
    s3.server.requests.clear()
    reader = open_log(out, LOG)
    places = [place for place, _ in reader.scan()]
    assert len(list(reader.read(places))) == 10_000
    assert len(s3.server.requests) <= 4
    assert all(isinstance(r, Request) and r.method in ("GET", "HEAD") for r in s3.server.requests)


def test_a_refused_head_has_no_body(s3):
    """The kit's own: a client that keeps its connection would take one for the answer to its next request."""
    s3.server.fault = lambda _: "500"
    host, port = s3.server.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"HEAD /{s3.name}/x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith((b"HTTP/1.0 500", b"HTTP/1.1 500"))
    assert answer.partition(b"\r\n\r\n")[2] == b""


def test_a_file_that_is_moved_while_it_is_read(s3, out):
    """Between its opening and its first byte, and then back, as where a run sweeps and is undone."""
    out.write("data/a", b"0123456789")
    with out.reading("data/a", "old/a", "data/a") as file:
        out.move("data/a", "old/a")
        assert file.read(4) == b"0123"
        assert file.seek(-1, 2) == 9 and file.read() == b"9"
        assert file.seek(2) == 2 and file.seek(1, 1) == 3 and file.read(2) == b"34"
    with out.reading("data/a", "old/a", "data/a") as file:
        out.move("old/a", "data/a")
        assert file.read() == b"0123456789"
    out.remove("data/a")
    with pytest.raises(FileNotFoundError, match=r"s3://.*/out/data/a"), out.reading("data/a", "old/a") as file:
        file.read()
