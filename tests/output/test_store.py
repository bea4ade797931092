"""The local store's promises to the disk, in the order of its calls: a process that is killed never shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine_kit import META, do, job, part, write_shards

from robocache.output.layout import manifest_file, version_file
from robocache.output.store import Store


@pytest.fixture
def calls(monkeypatch, tmp_path) -> list[tuple[str, str]]:
    """What is synced and moved, by names below the folder; drafts are called by the name that they will have."""
    seen: list[tuple[str, str]] = []

    def name(path: str | Path) -> str:
        path = Path(path)
        if path.name.endswith(".tmp"):
            path = path.with_name(path.name[1:].rpartition(".")[0].rpartition(".")[0])
        return os.path.relpath(path, tmp_path)

    fsync, replace = os.fsync, os.replace

    def syncing(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        seen.append(("sync folder" if os.path.isdir(path) else "sync", name(path)))
        fsync(handle)

    def moving(draft: object, target: object) -> None:
        seen.append(("move", name(str(target))))
        replace(draft, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", moving)
    return seen


def test_a_file_is_synced_before_it_is_moved_and_its_folder_after(calls, tmp_path):
    Store(str(tmp_path)).write("data/part", b"rows")
    assert calls == [("sync folder", "."), ("sync", "data/part"), ("move", "data/part"), ("sync folder", "data")]
    calls.clear()
    Store(str(tmp_path)).write("data/part", b"other rows")
    assert calls == [("sync", "data/part"), ("move", "data/part"), ("sync folder", "data")]


def test_an_append_is_synced_and_so_is_the_name_of_a_new_file(calls, tmp_path):
    store = Store(str(tmp_path))
    assert store.append("log", b"one\n") == 0
    assert calls == [("sync", "log"), ("sync folder", ".")]
    calls.clear()
    assert store.append("log", b"two\n") == 4
    assert calls == [("sync", "log")]
    assert store.read("log") == b"one\ntwo\n"


def test_folders_that_are_made_are_synced_into_those_above(calls, tmp_path):
    Store(str(tmp_path / "a/b")).write("c/file", b"")
    assert calls[:3] == [("sync folder", "."), ("sync folder", "a"), ("sync folder", "a/b")]


def test_a_part_and_its_statistics_are_on_the_disk_before_their_record(calls, tmp_path):
    do(job(write_shards(tmp_path / "logs", 3), tmp_path / "out", compute__threads=1))
    calls[:] = [(call, name.removeprefix("out/")) for call, name in calls]
    commits = [i for i, call in enumerate(calls) if call == ("sync", manifest_file(1))][:3]
    assert len(commits) == 3
    for shard, commit in enumerate(commits):
        name = part(tmp_path / "out", shard).name
        for folder, file in (("data", name), (f"{META}/_statistics", f"_{name.removesuffix('.parquet')}.pq")):
            at = [calls.index((call, f"{folder}/{file}")) for call in ("sync", "move")]
            at.append(calls.index(("sync folder", folder), at[-1]))
            assert at == sorted(at) and at[-1] < commit
    moved = [calls.index(("move", name)) for name in (manifest_file(1), version_file(1), f"{META}/_episodes.pq")]
    assert [commits[-1], *moved] == sorted([commits[-1], *moved])  # compacted, then it stands, then come its tables
