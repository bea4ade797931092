"""A rerun does what is missing or has changed, and nothing else; whatever the workers, the bytes are the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from engine_kit import (
    META,
    assert_same_dataset,
    assert_same_tree,
    do,
    job,
    manifest,
    part,
    table,
    tree,
    write_parquet,
    write_recordings,
    write_shards,
)
from omegaconf import OmegaConf

from robocache.engine.run import run
from robocache.errors import OutputError
from robocache.output.commit import OutputWriter
from robocache.output.dataset import Output
from robocache.output.verify import verify


@pytest.fixture
def logs(tmp_path) -> Path:
    return write_shards(tmp_path / "logs", 5)


def stamps(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted((out / "data").iterdir())}


def redone(before: dict[str, int], after: dict[str, int]) -> list[int]:
    """First episodes of the parts that were written since."""
    return [int(name[5:11]) for name, stamp in after.items() if before.get(name) != stamp]


def test_done_shards_are_skipped(tmp_path, logs):
    first = do(job(logs, tmp_path / "out"))
    before = stamps(tmp_path / "out")
    again = do(job(logs, tmp_path / "out", compute__threads=1))  # another number of threads is no other config
    assert (first.skipped_shards, again.skipped_shards) == (0, 5)
    assert (again.rows, again.episodes, again.bytes_out) == (first.rows, first.episodes, first.bytes_out)
    assert stamps(tmp_path / "out") == before


def test_the_order_of_quaternions_changes_no_byte_and_may_be_corrected(tmp_path):
    """It stands in the output's config alone, which is that of the last run."""
    rng = np.random.default_rng(0)
    flat = pa.array(rng.standard_normal(4 * 400))
    logs = write_recordings(tmp_path / "logs", 2, pose=pa.FixedSizeListArray.from_arrays(flat, 4))
    changes = {"features": {"pose": {"source": "pose", "align": "slerp", "quaternion_order": "xyzw"}}}
    made = job(logs, tmp_path / "out", **changes)
    run(made)
    parts = tree(tmp_path / "out/data")
    changes["features"]["pose"]["quaternion_order"] = "wxyz"
    again = job(logs, tmp_path / "out", **changes)
    summary = run(again)
    assert summary.skipped_shards == summary.shards == 1
    config = OmegaConf.load(tmp_path / f"out/{META}/_config.yaml")
    assert config.features.pose[0].quaternion_order == "wxyz"
    run(job(logs, tmp_path / "other", **changes))
    assert tree(tmp_path / "other/data") == parts == tree(tmp_path / "out/data")


def test_a_changed_file_redoes_its_shard_only(tmp_path, logs):
    do(job(logs, tmp_path / "out"))
    before = stamps(tmp_path / "out")
    write_parquet(logs / "log_002.parquet", seed=99, samples=100, padding=[b"x" * 11_000] * 100)
    do(job(logs, tmp_path / "out"))
    assert redone(before, stamps(tmp_path / "out")) == [2]
    do(job(logs, tmp_path / "fresh"))
    assert_same_dataset(tmp_path / "out", tmp_path / "fresh")


def test_a_touched_file_redoes_its_shard_into_the_same_bytes(tmp_path, logs):
    """Under the same name, since that is of the content: a version, for the stamp is another, without a new part."""
    do(job(logs, tmp_path / "out"))
    before = tree(tmp_path / "out/data")
    os.utime(logs / "log_003.parquet")
    summary = do(job(logs, tmp_path / "out"))
    assert (summary.version, summary.changes["changed"], summary.skipped_shards) == (2, 1, 4)
    assert tree(tmp_path / "out/data") == before
    assert not do(job(logs, tmp_path / "out")).is_new


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_removed_and_added_files(tmp_path, logs, gone):
    """Numbers stay: of one that goes a gap, of one that comes back its own, of one that is new, wherever, the next."""
    out, file = tmp_path / "out", logs / f"log_{gone:03d}.parquet"
    do(job(logs, out))
    before, rows = stamps(out), rows_by_id(out)
    file.rename(tmp_path / "aside")
    with pytest.raises(
        OutputError, match=rf"1 episodes that it holds are gone from the input: {file.name}; nothing was"
    ):
        run(job(logs, out))
    assert stamps(out) == before
    do(job(logs, out), prune=True)
    assert redone(before, stamps(out)) == []
    assert rows_by_id(out) == {id: value for id, value in rows.items() if id != file.name}
    (tmp_path / "aside").rename(file)
    write_parquet(logs / "a_new_one.parquet", seed=9)
    before = stamps(out)
    do(job(logs, out))
    assert redone(before, stamps(out)) == [gone, 5] if gone else [0]
    found = rows_by_id(out)
    assert found.pop("a_new_one.parquet")[0] == 5 and found == rows


def rows_by_id(out: Path) -> dict[str, tuple[int, list]]:
    """Of each episode its number and its rows, but for the number in them."""
    rows, found = table(out), {}
    for e in Output.open(str(out)).episodes.select(["episode_index", "id"]).to_pylist():
        mine = rows.filter(pc.equal(rows["episode_index"], e["episode_index"]))
        found[e["id"]] = (e["episode_index"], mine.drop_columns("episode_index").to_pylist())
    return found


def test_a_stopped_rerun_leaves_the_version_before(tmp_path, logs, monkeypatch):
    out = tmp_path / "out"
    do(job(logs, out))
    before = tree(out / "data")
    os.utime(logs / "log_002.parquet")
    with monkeypatch.context() as patch:
        patch.setattr("robocache.engine.local.execute", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(job(logs, out))
    found = verify(str(out))
    assert (found.version, found.problems) == (1, ()) and tree(out / "data") == before
    summary = do(job(logs, out))
    assert (summary.skipped_shards, summary.version) == (4, 2)


def test_a_deleted_or_shortened_part_is_redone(tmp_path, logs):
    out = tmp_path / "out"
    do(job(logs, out))
    before = stamps(out)
    part(out, 1).unlink()
    os.truncate(part(out, 4), 100)
    assert not do(job(logs, out)).is_new
    assert redone(before, stamps(out)) == [1, 4]
    do(job(logs, tmp_path / "fresh"))
    assert_same_tree(out, tmp_path / "fresh")


def test_an_episode_that_is_bad_now_leaves_no_part(tmp_path, logs):
    out = tmp_path / "out"
    do(job(logs, out))
    (logs / "log_001.parquet").write_bytes(b"PAR1" + bytes(1_100_000))
    summary = do(job(logs, out, input__max_failed_episodes=1))
    assert [q.index for q in summary.quarantined] == [1]
    assert not [name for name in stamps(out) if name.startswith("part-000001")]
    assert summary.within_limit
    assert not do(job(logs, out)).within_limit  # the limit is no part of the output's identity


def test_the_quarantine_lasts_until_the_file_changes(tmp_path, logs):
    good = (logs / "log_001.parquet").read_bytes()
    (logs / "log_001.parquet").write_bytes(good[: len(good) // 2])
    assert len(do(job(logs, tmp_path / "out")).quarantined) == 1
    again = do(job(logs, tmp_path / "out"))
    assert again.skipped_shards == again.shards
    (logs / "log_001.parquet").write_bytes(good)
    assert do(job(logs, tmp_path / "out")).quarantined == ()


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_threads_and_memory_do_not_change_a_byte(tmp_path, format):
    """Episodes of about 22,000 rows, so that 1 MB of working set cuts them in pieces."""
    logs = write_recordings(tmp_path / "logs", 5, samples=45_000)
    trees = []
    for threads in (1, 2, 4):
        for memory in (1, 16, 2048):
            out = tmp_path / f"out_{threads}_{memory}"
            changes = {"compute__threads": threads, "compute__max_memory_mb": memory, "output__format": format}
            do(job(logs, out, **changes))
            trees.append(out)
    assert table(trees[0]).num_rows > 100_000
    for out in trees[1:]:
        assert_same_tree(out, trees[0])


def test_the_report_and_the_tables_agree(tmp_path, logs):
    summary = do(job(logs, tmp_path / "out"))
    report = json.loads((tmp_path / f"out/{META}/_report.json").read_text())
    assert (report["rows"], report["episodes"], report["quarantined"]) == (summary.rows, 5, 0)
    assert table(tmp_path / "out").num_rows == summary.rows


def test_a_torn_line_of_the_manifest_and_a_rerun_that_is_killed_too(tmp_path, logs, monkeypatch):
    """The second run must not continue the piece of a line that the first one left, for nobody mends it in time."""

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    do(job(logs, tmp_path / "fresh"))
    out = tmp_path / "out"
    for torn in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(OutputWriter, "stand", killed)
            with pytest.raises(Killed):
                run(job(logs, out, compute__threads=1))
        with pytest.raises(OutputError, match="a run has begun it and none has ended yet"):
            verify(str(out))
        lines = manifest(out).read_bytes().splitlines(keepends=True)
        assert len(lines) == 5
        if torn:
            manifest(out).write_bytes(b"".join(lines[:2]) + lines[2][: len(lines[2]) // 2])
    assert do(job(logs, out)).skipped_shards == 5
    assert_same_tree(out, tmp_path / "fresh")
