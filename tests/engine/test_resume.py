"""A rerun does what is missing or has changed, and nothing else; whatever the workers, the bytes are the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from engine_kit import META, assert_same_tree, do, job, table, tree, write_parquet, write_recordings, write_shards
from omegaconf import OmegaConf

from robocache.engine.run import run
from robocache.output.commit import OutputWriter
from robocache.output.verify import verify


@pytest.fixture
def logs(tmp_path) -> Path:
    return write_shards(tmp_path / "logs", 5)


def stamps(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted((out / "data").iterdir())}


def redone(before: dict[str, int], after: dict[str, int]) -> list[int]:
    """Shards whose parts were written since."""
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
    assert_same_tree(tmp_path / "out", tmp_path / "fresh")


def test_a_touched_file_redoes_its_shard_into_the_same_bytes(tmp_path, logs):
    do(job(logs, tmp_path / "out"))
    before, part = stamps(tmp_path / "out"), tmp_path / "out/data/part-000003.parquet"
    content = part.read_bytes()
    os.utime(logs / "log_003.parquet")
    do(job(logs, tmp_path / "out"))
    assert redone(before, stamps(tmp_path / "out")) == [3]
    assert part.read_bytes() == content


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_removed_and_added_files(tmp_path, logs, gone):
    """Episode numbers shift behind a file that goes or comes, so those shards are redone, and end as in a fresh run."""
    do(job(logs, tmp_path / "out"))
    before = stamps(tmp_path / "out")
    file = logs / f"log_{gone:03d}.parquet"
    file.rename(tmp_path / "aside")
    do(job(logs, tmp_path / "out"))
    assert redone(before, stamps(tmp_path / "out")) == list(range(gone, 4))
    do(job(logs, tmp_path / "fresh_less"))
    # _identity.json keeps which episode settled the columns' types, also when that one is gone.
    assert_same_tree(tmp_path / "out", tmp_path / "fresh_less", but=[f"{META}/_identity.json"])
    (tmp_path / "aside").rename(file)
    do(job(logs, tmp_path / "out"))
    do(job(logs, tmp_path / "fresh_more"))
    assert_same_tree(tmp_path / "out", tmp_path / "fresh_more")


def test_a_stopped_rerun_does_not_pass_for_a_whole_one(tmp_path, logs, monkeypatch):
    """What an earlier input gave is no record any more once a run with the new input has begun."""
    out = tmp_path / "out"
    do(job(logs, out))
    os.utime(logs / "log_002.parquet")
    with monkeypatch.context() as patch:
        patch.setattr("robocache.engine.local.execute", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(job(logs, out))
    assert any("episode 2 (log_002.parquet): lost" in p for p in verify(str(out)).problems)
    assert do(job(logs, out)).skipped_shards == 4


def test_a_deleted_or_shortened_part_is_redone(tmp_path, logs):
    out = tmp_path / "out"
    do(job(logs, out))
    before = stamps(out)
    (out / "data/part-000001.parquet").unlink()
    os.truncate(out / "data/part-000004.parquet", 100)
    do(job(logs, out))
    assert redone(before, stamps(out)) == [1, 4]
    do(job(logs, tmp_path / "fresh"))
    assert_same_tree(out, tmp_path / "fresh")


def test_a_torn_manifest_line_is_no_record(tmp_path, logs):
    out, manifest = tmp_path / "out", tmp_path / f"out/{META}/_manifest.jsonl"
    do(job(logs, out))
    before = stamps(out)
    manifest.write_bytes(manifest.read_bytes()[:-40])
    do(job(logs, out))
    assert redone(before, stamps(out)) == [4]
    do(job(logs, tmp_path / "fresh"))
    assert_same_tree(out, tmp_path / "fresh")


def test_an_episode_that_is_bad_now_leaves_no_part(tmp_path, logs):
    out = tmp_path / "out"
    do(job(logs, out))
    (logs / "log_001.parquet").write_bytes(b"PAR1" + bytes(1_100_000))
    summary = do(job(logs, out, input__max_failed_episodes=1))
    assert [q.index for q in summary.quarantined] == [1]
    assert "part-000001.parquet" not in stamps(out)
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
    do(job(logs, tmp_path / "fresh"))
    do(job(logs, tmp_path / "out"))
    manifest = tmp_path / f"out/{META}/_manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:2]) + lines[2][: len(lines[2]) // 2])

    class Killed(BaseException):
        pass

    def killed(output: OutputWriter) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(OutputWriter, "compact", killed)
        with pytest.raises(Killed):
            run(job(logs, tmp_path / "out", compute__threads=1))
    assert manifest.read_bytes().count(b"\n") == 5
    assert do(job(logs, tmp_path / "out")).skipped_shards == 5
    assert_same_tree(tmp_path / "out", tmp_path / "fresh")
