"""The local mode's processes: the same bytes as threads make, and what dies in one of them costs nothing."""

from __future__ import annotations

import logging
import os
import signal
import time
from functools import partial
from threading import Thread

import pytest
from engine_kit import job, write_shards
from hang_kit import crash, spin

from robocache.engine import run as engine
from robocache.engine.child import Child, EndedError
from robocache.engine.crew import Crew
from robocache.engine.forkserver import ForkServer
from robocache.errors import WorkersError


@pytest.fixture(scope="module")
def server():
    server = ForkServer(["colorsys"])
    while not server.ready():
        time.sleep(0.01)
    yield server
    server.close()


@pytest.fixture
def awaited(monkeypatch):
    """Whoever begins a run waits for its processes; the list of those that have done a shard."""
    done: list[Child] = []
    begin, run = Crew.begin, Crew.run

    def slowly(self, *work):
        begin(self, *work)
        while self._server and not self._server.ready():
            time.sleep(0.01)

    def counted(self, child, shard, **options):
        done.append(child)
        return run(self, child, shard, **options)

    monkeypatch.setattr(Crew, "begin", slowly)
    monkeypatch.setattr(Crew, "run", counted)
    return done


def parts(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "data").iterdir())}


def test_the_same_bytes_as_in_threads_whoever_is_killed(tmp_path, awaited, monkeypatch, caplog):
    logs = write_shards(tmp_path / "logs", 6)
    threads = engine.run(job(logs, tmp_path / "threads"))
    assert not awaited
    run, killed = Crew.run, []

    def kill_one(self, child, shard, **options):
        if shard.index == 2 and not killed:
            killed.append(child._process._pid)
            os.kill(killed[0], signal.SIGKILL)
        return run(self, child, shard, **options)

    monkeypatch.setattr(Crew, "run", kill_one)
    summary = engine.run(job(logs, tmp_path / "processes", compute__processes=2, compute__threads=2))
    assert parts(tmp_path / "processes") == parts(tmp_path / "threads")
    assert (summary.rows, summary.episodes) == (threads.rows, threads.episodes)
    assert len(awaited) == threads.parts + 1
    assert len(set(awaited)) == 3  # two at a time, and one for that which was killed
    assert {"decode", "align", "encode", "write"} <= set(summary.stages)
    assert "its process has ended by signal SIGKILL" in caplog.text
    for pid in {child._process._pid for child in awaited}:
        assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.slow
def test_one_that_is_stopped_is_given_up(tmp_path, awaited, monkeypatch, caplog):
    """As by SIGSTOP, or a machine that is suspended: it neither ends nor answers."""
    logs = write_shards(tmp_path / "logs", 3)
    engine.run(job(logs, tmp_path / "threads"))
    run, stopped = Crew.run, []

    def stop_one(self, child, shard, **options):
        if shard.index == 1 and not stopped:
            stopped.append(child._process._pid)
            os.kill(stopped[0], signal.SIGSTOP)
        return run(self, child, shard, **options)

    monkeypatch.setattr(Crew, "run", stop_one)
    changes = {"compute__processes": 2, "compute__threads": 2, "cluster__shard_deadline": 2.5}
    summary = engine.run(job(logs, tmp_path / "processes", **changes))
    assert summary.episodes == 3 and not summary.quarantined
    assert parts(tmp_path / "processes") == parts(tmp_path / "threads")
    assert "is given up: it has not ended in 2.5 s (cluster.shard_deadline)" in caplog.text
    assert not os.path.exists(f"/proc/{stopped[0]}")


def test_threads_go_on_where_the_server_does_not_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("robocache.engine.early.ForkServer", partial(_Broken))
    summary = engine.run(job(write_shards(tmp_path / "logs", 2), tmp_path / "out", compute__processes=2))
    assert summary.rows and not summary.quarantined
    assert "it is broken; going on in threads" in caplog.text


class _Broken:
    def __init__(self, _):
        pass

    def ready(self):
        raise WorkersError("it is broken")

    def close(self):
        pass


def test_what_one_says_is_said_here(server, caplog):
    child = Child(start=server.fork)
    say = partial(logging.getLogger("robocache").warning, "%s and %d", "this", 7)
    child.ask(say)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.WARNING, "this and 7")]
    child.close()
    assert not os.path.exists(f"/proc/{child._process._pid}")


def test_how_one_ends_is_known(server):
    for call, how in ((crash, "signal SIGSEGV"), (partial(os._exit, 3), "exit code 3")):
        with pytest.raises(EndedError, match=how):
            Child(start=server.fork).ask(call)


def test_one_that_never_answers_is_ended(server):
    child = Child(start=server.fork)
    ended = []

    def ask():
        try:
            child.ask(spin)
        except EndedError as error:
            ended.append(str(error))

    thread = Thread(target=ask)
    thread.start()
    time.sleep(0.05)
    child.close()
    thread.join(5)
    assert ended == ["signal SIGKILL"]


def test_a_server_without_its_modules_is_none():
    server = ForkServer(["no_such_module"])
    server._process.wait()
    with pytest.raises(WorkersError, match="has ended"):
        server.ready()
    server.close()
