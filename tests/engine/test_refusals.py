"""What a run refuses to do, losing nothing by it: other outputs, live runs, full and read-only disks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engine_kit import (
    META,
    assert_same_dataset,
    assert_same_tree,
    config,
    do,
    job,
    manifest,
    table,
    write_recordings,
    write_shards,
)
from omegaconf import OmegaConf
from process_kit import robocache, start

from robocache.errors import InputError, OutputError
from robocache.output.layout import LOCK
from robocache.output.lock import locked
from robocache.output.store import Store
from robocache.output.verify import verify


@pytest.fixture
def logs(tmp_path) -> Path:
    return write_recordings(tmp_path / "logs", 2)


@pytest.fixture
def mount(tmp_path):
    """Mount a small tmpfs on a folder, with these options; skips where that is not permitted."""
    mounted = []

    def make(folder: Path, options: str) -> None:
        folder.mkdir(exist_ok=True)
        mount = shutil.which("mount")
        if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder]).returncode:
            pytest.skip("mounting a tmpfs is not permitted here")
        mounted.append(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_output_of_another_config(tmp_path, logs):
    do(job(logs, tmp_path / "out"))
    other = job(logs, tmp_path / "out", timeline__rate_hz=20)
    with pytest.raises(OutputError, match=r"belongs to another config .* --overwrite"):
        do(other)
    do(job(logs, tmp_path / "out"))  # still as it was
    do(other, overwrite=True)
    fresh = job(logs, tmp_path / "fresh", timeline__rate_hz=20)
    do(fresh)
    assert_same_dataset(tmp_path / "out", Path(fresh.output.uri))
    assert verify(str(tmp_path / "out"), version=1).problems == ()  # the one before is there too


def test_files_that_no_run_wrote(tmp_path, logs):
    ours, theirs = job(logs, tmp_path / "out"), tmp_path / "out/data/thesis.parquet"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds data/thesis.parquet, which no run wrote"):
            do(ours, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]
    theirs.rename(tmp_path / "thesis")
    do(ours)
    (tmp_path / "thesis").rename(theirs)  # now among the parts
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds data/thesis.parquet, which no run wrote"):
            do(ours, overwrite=overwrite)
    assert theirs.read_text() == "years of work"


def test_parts_without_their_records_are_not_ours(tmp_path, logs):
    part = tmp_path / "out/data/part-000000.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?")
    with pytest.raises(OutputError, match="no run wrote"):
        do(job(logs, tmp_path / "out"))
    assert part.exists()


def test_files_beside_the_output_are_left_alone(tmp_path, logs):
    (tmp_path / "out").mkdir()
    for name in ("README", ".notes.tmp"):
        (tmp_path / "out" / name).write_text("mine")
    (tmp_path / "out/..huggingface.yaml.7.tmp").touch()  # a killed run's
    do(job(logs, tmp_path / "out"))
    do(job(logs, tmp_path / "out"), overwrite=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "README",
        ".notes.tmp",
        ".huggingface.yaml",
        "data",
        "meta",
    }


def test_second_live_run(tmp_path):
    """Two real processes. The second one is refused, the first one ends as if it had been alone."""
    logs = write_recordings(tmp_path / "logs", 12, samples=28_000)
    OmegaConf.save(config(logs, "out"), tmp_path / "config.yaml")
    first = start("run", "config.yaml", cwd=tmp_path)
    lock = tmp_path / f"out/{META}/_run.lock"
    while not (lock.exists() and lock.stat().st_size):
        assert first.poll() is None
        time.sleep(0.002)
    os.kill(first.pid, 19)  # SIGSTOP: alive, and holding its lock for as long as the second run needs
    second = robocache("run", "config.yaml", cwd=tmp_path)
    os.kill(first.pid, 18)
    assert second.returncode == 3
    assert f"being written by another run (process {first.pid} on" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.wait(120) == 0
    assert verify(str(tmp_path / "out")).problems == ()


def test_output_path_is_a_file(tmp_path, logs):
    (tmp_path / "out").write_text("a file")
    for uri in (tmp_path / "out", tmp_path / "out/below"):
        with pytest.raises(OutputError, match=r"is a file|a file stands"):
            do(job(logs, uri))
    assert (tmp_path / "out").read_text() == "a file"


def test_read_only_file_system(tmp_path, logs, mount):
    mount(tmp_path / "disk", "ro,size=1m")
    with pytest.raises(OutputError, match="read-only; choose another"):
        do(job(logs, tmp_path / "disk/out"))


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.EROFS, "read-only"), (errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EACCES, "permission")],
)
def test_storage_that_refuses_for_good(tmp_path, logs, monkeypatch, code, message):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OutputError, match=message):
            do(job(logs, tmp_path / "out"))
    do(job(logs, tmp_path / "out"))
    do(job(logs, tmp_path / "fresh"))
    assert_same_tree(tmp_path / "out", tmp_path / "fresh")


def test_full_disk(tmp_path, mount):
    """A disk too small for the run: refused with what was committed kept; with more space, the rerun ends the same."""
    logs = write_recordings(tmp_path / "logs", 6, samples=28_000)
    do(job(logs, tmp_path / "fresh"))
    size = sum(p.stat().st_size for p in (tmp_path / "fresh").rglob("*") if p.is_file())
    mount(tmp_path / "disk", f"size={size // 2 // 1024}k")
    OmegaConf.save(config(logs, tmp_path / "disk/out"), tmp_path / "config.yaml")
    ended = robocache("run", "config.yaml", cwd=tmp_path)
    assert ended.returncode == 3
    assert "the disk is full; free some space and run again, finished parts are kept" in ended.stderr
    assert "Traceback" not in ended.stderr
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "disk/out/data").iterdir()}
    assert 0 < len(kept) < 6
    subprocess.run(["mount", "-o", f"remount,size={2 * size}", tmp_path / "disk"], check=True)
    summary = do(job(logs, tmp_path / "disk/out"))
    assert summary.skipped_shards > 0
    assert sum(p.stat().st_mtime_ns == kept.get(p) for p in kept) == summary.skipped_shards
    assert_same_tree(tmp_path / "disk/out", tmp_path / "fresh")


def test_an_append_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    """Another thread may append next; it must not go on in the middle of a line."""
    store = Store(str(tmp_path))
    store.append("lines", b"first\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OutputError):
            store.append("lines", b"second\n")
    store.append("lines", b"third\n")
    assert store.read("lines") == b"first\nthird\n"


def test_no_input(tmp_path):
    with pytest.raises(InputError, match="nothing at"):
        do(job(tmp_path / "none" / "*.parquet", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_overwrite_starts_anew(tmp_path):
    logs = write_shards(tmp_path / "logs", 3)
    do(job(logs, tmp_path / "out"))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/data").iterdir()}
    manifest(tmp_path / "out").write_text("garbage\n")
    with pytest.raises(OutputError, match=r"line 1 is not a shard record .* --overwrite"):
        do(job(logs, tmp_path / "out"))
    summary = do(job(logs, tmp_path / "out"), overwrite=True)
    assert summary.skipped_shards == 0
    assert all(p.stat().st_mtime_ns != before[p] for p in before)
    assert table(tmp_path / "out").num_rows == summary.rows


def test_folders_that_were_made_for_a_lock_go_with_it(tmp_path):
    """Whoever wants it just then makes them again."""
    store = Store(str(tmp_path / "new/out"))
    with locked(store, LOCK):
        assert (tmp_path / "new/out" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []

    def hold(_: int) -> bool:
        try:
            with locked(store, LOCK):
                return True
        except OutputError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert any(pool.map(hold, range(2000)))


def test_a_lock_whose_file_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    """Between our opening of the file and our lock on it its last holder removes it: what we locked, nobody sees."""
    store, path = Store(str(tmp_path / "out")), tmp_path / "out" / LOCK
    flock, times = fcntl.flock, 0

    def late(handle: int, how: int) -> None:
        nonlocal times
        times += 1
        if times <= 2:
            path.unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(store, LOCK):
        assert times == 3
        assert path.exists()
        with pytest.raises(OutputError, match="is being written by another run"), locked(store, LOCK):
            pass
    assert not path.exists()
