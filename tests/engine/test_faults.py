"""Faults that pass are tried again, faults that stay are quarantined, and no fault of one episode reaches another."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from engine_kit import do, job, table, write_shards
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from robocache.engine import align, process, reading, retry
from robocache.engine.run import run

SHARDS = 3


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_S", 0.001)


@pytest.fixture
def logs(tmp_path) -> Path:
    return write_shards(tmp_path / "logs", SHARDS)


class FaultyStorage(AbstractFileSystem):
    """Local files behind a protocol of its own; reading fails as often as ``faults`` says for a file's name."""

    protocol = "faulty"
    cachable = False
    local = LocalFileSystem()
    faults: ClassVar[Counter[str]] = Counter()

    def ls(self, path, detail=True, **_):
        return self.local.ls(path, detail)

    def info(self, path, **_):
        return self.local.info(path)

    def _open(self, path, mode="rb", **_):
        name = path.rpartition("/")[2]
        if self.faults[name] > 0:
            self.faults[name] -= 1
            raise OSError(errno.EIO, "the disk hiccups")
        return self.local.open(path, mode)


@pytest.fixture
def storage(logs):
    fsspec.register_implementation("faulty", FaultyStorage, clobber=True)
    FaultyStorage.faults.clear()
    yield f"faulty://{logs}"
    FaultyStorage.faults.clear()


def arm(monkeypatch, name: str, times: int) -> None:
    """From the start of the processing, not of the listing, which opens files as well."""
    original = reading.read_episode

    def armed(ref, *args):
        if ref.id == name and not FaultyStorage.faults[f"armed {name}"]:
            FaultyStorage.faults |= Counter({name: times, f"armed {name}": 1})
        return original(ref, *args)

    monkeypatch.setattr(reading, "read_episode", armed)


def test_storage_that_fails_for_a_while(tmp_path, logs, storage, monkeypatch, caplog):
    do(job(logs, tmp_path / "plain"))
    arm(monkeypatch, "log_001.parquet", times=2)
    summary = do(job(storage, tmp_path / "out"))
    assert summary.quarantined == ()
    assert FaultyStorage.faults["log_001.parquet"] == 0
    assert "shard 1, attempt 2 of 3" in caplog.text
    assert table(tmp_path / "out").equals(table(tmp_path / "plain"))


def test_storage_that_keeps_failing(tmp_path, storage, monkeypatch):
    """Quarantined after the attempts are used up; tried again by the next run, for the fault may have passed."""
    arm(monkeypatch, "log_001.parquet", times=1000)
    summary = do(job(storage, tmp_path / "out", cluster__max_attempts=4))
    assert 1000 - FaultyStorage.faults["log_001.parquet"] == 4
    (q,) = summary.quarantined
    assert (q.id, q.retry) == ("log_001.parquet", True)
    assert q.reason.startswith("OSError on every attempt")
    assert "the disk hiccups" in q.reason
    FaultyStorage.faults["log_001.parquet"] = 0
    again = do(job(storage, tmp_path / "out"))
    assert (again.quarantined, again.skipped_shards) == ((), SHARDS - 1)


def test_storage_that_fails_before_the_first_shard(tmp_path, storage):
    """Listing and settling the types read files too."""
    for name in ("log_000.parquet", "log_002.parquet"):
        FaultyStorage.faults[name] = 2
    assert do(job(storage, tmp_path / "out")).quarantined == ()


def test_storage_that_is_down(tmp_path, storage):
    """No episode can be read: that is no reason to put all of them into the quarantine."""
    for i in range(SHARDS):
        FaultyStorage.faults[f"log_{i:03d}.parquet"] = 10_000
    with pytest.raises(OSError, match="hiccups"):
        run(job(storage, tmp_path / "out"))
    FaultyStorage.faults.clear()
    assert do(job(storage, tmp_path / "out")).quarantined == ()


@pytest.mark.parametrize(("failures", "quarantined"), [(2, 0), (3, 1)])
def test_memory_that_runs_out(tmp_path, logs, monkeypatch, failures, quarantined):
    left = Counter({1: failures})
    real = align.Aligner.begin

    def aligning(self, index, episode):
        if left[index] > 0:
            left[index] -= 1
            raise MemoryError("9 GB")
        return real(self, index, episode)

    seen = []
    original = process.Processor.process

    def processing(self, shard, **options):
        if 1 in shard.indexes:
            seen.append(options["lean"])
        return original(self, shard, **options)

    monkeypatch.setattr(align.Aligner, "begin", aligning)
    monkeypatch.setattr(process.Processor, "process", processing)
    summary = do(job(logs, tmp_path / "out"))
    assert seen == [False, True, True]  # once memory has run out, an episode at a time
    assert [q.reason for q in summary.quarantined] == ["MemoryError on every attempt: 9 GB"] * quarantined
    assert summary.episodes == SHARDS - quarantined


def test_a_fault_of_ours_costs_one_episode(tmp_path, monkeypatch):
    """Also where it shares its shard with others. It is quarantined at once, and tried again by the next run."""
    logs = write_shards(tmp_path / "logs", 4)
    real, tried = align.Aligner.begin, Counter()

    def aligning(self, index, episode):
        tried[index] += 1
        if index == 2:
            raise ZeroDivisionError("nobody thought of it")
        return real(self, index, episode)

    monkeypatch.setattr(align.Aligner, "begin", aligning)
    summary = do(job(logs, tmp_path / "out", output__shard_mb=100))
    (q,) = summary.quarantined
    assert (q.index, q.reason) == (2, "unexpected ZeroDivisionError: nobody thought of it")
    assert table(tmp_path / "out")["episode_index"].unique().to_pylist() == [0, 1, 3]
    assert tried == dict.fromkeys(range(4), 1)
    monkeypatch.undo()
    assert do(job(logs, tmp_path / "out", output__shard_mb=100)).quarantined == ()


@pytest.mark.parametrize("failures", [1, 3])
def test_storage_that_fails_when_writing(tmp_path, logs, monkeypatch, failures):
    """Tried again; an error that stays but is no episode's fault stops the run, what was committed is kept."""
    from robocache.output.store import Store

    write, calls = Store.write, Counter()

    def writing(self, name, data):
        calls[name] += 1
        if "data/part-000002-" in name and calls[name] <= failures:
            raise OSError(errno.EIO, "the disk hiccups")
        write(self, name, data)

    monkeypatch.setattr(Store, "write", writing)
    if failures < 3:
        assert do(job(logs, tmp_path / "out")).quarantined == ()
        return
    with pytest.raises(OSError, match="hiccups"):
        run(job(logs, tmp_path / "out"))
    assert do(job(logs, tmp_path / "out")).skipped_shards >= 1
