"""A dataset that grows: who an episode is, what is done again, what may vanish, which version a reader sees."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from engine_kit import META, do, job, part, table, tree, write_parquet, write_recordings, write_shards

from robocache import cli
from robocache.engine.run import run
from robocache.engine.shards import lay_out
from robocache.errors import ConfigError, InputError, OutputError, RoboCacheError
from robocache.output.dataset import Output
from robocache.output.layout import FORMER, manifest_file
from robocache.output.verify import verify
from robocache.output.version import Version, list_versions
from robocache.types import EpisodeRef, FileStamp


@pytest.fixture
def logs(tmp_path) -> Path:
    """Two disks of two recordings."""
    for disk in "ab":
        write_recordings(tmp_path / "logs" / f"disk_{disk}", 2, samples=100)
    return tmp_path / "logs"


def ids(out: Path) -> dict[str, int]:
    found = Output.open(str(out)).episodes
    return dict(zip(found["id"].to_pylist(), found["episode_index"].to_pylist(), strict=True))


SPELLINGS = {
    "folder": lambda logs: str(logs),
    "relative": lambda logs: os.path.relpath(logs),
    "glob": lambda logs: f"{logs}/*/*.parquet",
    "list": lambda logs: [str(p) for p in sorted(logs.iterdir(), reverse=True)],
    "files": lambda logs: [str(p) for p in sorted(logs.glob("*/*"))],
}


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_an_episode_is_its_id_however_the_input_is_spelled_or_mounted(tmp_path, logs, spelled):
    do(job(logs, tmp_path / "out"))
    expected = {"disk_a/log_000.parquet": 0, "disk_a/log_001.parquet": 1, "disk_b/log_000.parquet": 2}
    assert ids(tmp_path / "out") == expected | {"disk_b/log_001.parquet": 3}
    shutil.copytree(logs, tmp_path / "mounted" / "elsewhere")
    (tmp_path / "out").rename(tmp_path / "moved")
    for where in (logs, tmp_path / "mounted" / "elsewhere"):
        summary = do(job(logs, tmp_path / "moved", input__uri=SPELLINGS[spelled](where)))
        assert (summary.is_new, summary.version) == (False, 1)


def test_a_list_that_gets_another_folder(tmp_path, logs):
    """What the ids are relative to moves up by a folder; they stay what they are."""
    disks = [str(logs / "disk_a"), str(logs / "disk_b")]
    do(job(logs, tmp_path / "out", input__uri=disks[:1]))
    assert do(job(logs, tmp_path / "out", input__uri=disks)).changes["kept"] == 2
    both = {"log_000.parquet": 0, "log_001.parquet": 1, "../disk_b/log_000.parquet": 2, "../disk_b/log_001.parquet": 3}
    assert ids(tmp_path / "out") == both
    assert not do(job(logs, tmp_path / "out")).is_new
    (tmp_path / "new").mkdir()
    logs.rename(tmp_path / "new/logs")  # and all of it a folder further down
    assert not do(job(tmp_path / "new/logs", tmp_path / "out")).is_new


def test_files_moved_into_a_folder_below_are_who_they_were(tmp_path):
    """The old root is above the new one, but below that are the ids that are known."""
    write_recordings(tmp_path / "logs", 2, samples=100)
    do(job(tmp_path / "logs", tmp_path / "out"))
    (tmp_path / "logs").rename(tmp_path / "aside")
    (tmp_path / "logs").mkdir()
    (tmp_path / "aside").rename(tmp_path / "logs/2024")
    assert not do(job(tmp_path / "logs/2024", tmp_path / "out")).is_new


@pytest.mark.parametrize("spelled", ["folder", "glob", "list"])
@pytest.mark.parametrize("how", ["empty", "away", "links"])
def test_a_disk_that_is_not_mounted(tmp_path, logs, spelled, how, capsys):
    if how == "links":
        logs.rename(tmp_path / "disks")
        for file in (tmp_path / "disks").glob("*/*"):
            (logs / file.parent.name).mkdir(parents=True, exist_ok=True)
            (logs / file.parent.name / file.name).symlink_to(file)
    made = job(logs, tmp_path / "out", input__uri=SPELLINGS[spelled](logs))
    do(made)
    before = tree(tmp_path / "out")
    if how == "links":
        shutil.rmtree(tmp_path / "disks/disk_b")
    else:
        shutil.rmtree(logs / "disk_b")
        if how == "empty":
            (logs / "disk_b").mkdir()
    wanted = (
        r"nothing at .*disk_b"
        if spelled == "list" and how != "links"
        else "2 episodes that it holds are gone .* disk_b/log"
    )
    with pytest.raises(RoboCacheError, match=wanted) as caught:
        run(made)
    assert not isinstance(caught.value, ConfigError)  # so that the command ends with exit code 3
    assert tree(tmp_path / "out") == before


def test_how_many_may_vanish(tmp_path, logs):
    do(job(logs, tmp_path / "out"))
    (logs / "disk_a/log_001.parquet").unlink()
    do(job(logs, tmp_path / "out", input__max_vanished=1))
    assert ids(tmp_path / "out") == {
        "disk_a/log_000.parquet": 0,
        "disk_b/log_000.parquet": 2,
        "disk_b/log_001.parquet": 3,
    }
    shutil.rmtree(logs / "disk_b")
    with pytest.raises(OutputError, match="2 episodes that it holds are gone"):
        run(job(logs, tmp_path / "out", input__max_vanished=1))


def test_a_recording_of_the_quarantine_may_go(tmp_path, logs):
    """Nothing is lost by it."""
    (logs / "disk_a/bad.parquet").write_bytes(b"PAR1 and no more")
    do(job(logs, tmp_path / "out", input__max_failed_episodes=1))
    (logs / "disk_a/bad.parquet").unlink()
    assert do(job(logs, tmp_path / "out")).changes["withdrawn"] == 1


def test_an_error_on_one_folder_of_the_listing_is_an_error(tmp_path, logs, monkeypatch):
    do(job(logs, tmp_path / "out"))
    scandir = os.scandir

    def failing(path: object):
        if str(path).endswith("disk_b"):
            raise OSError(5, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(OSError, match="Input/output error"):
        run(job(logs, tmp_path / "out", cluster={"max_attempts": 1}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"features__x": "xx"}, ConfigError),  # a typo in a source
        ({"input__times__column": "tt"}, ConfigError),
        ({"input__times__unit": "s"}, RoboCacheError),  # of nanoseconds: stamps that no int64 holds
        ({"features__x": {"source": "grip", "align": "slerp"}}, ConfigError),
        ({"input__uri": "nothing"}, InputError),
        ({"compute__device": "cuda"}, ConfigError),
    ],
)
def test_a_mistake_with_overwrite_leaves_the_dataset_as_it_was(tmp_path, logs, change, error, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    do(job(logs, tmp_path / "out"))
    before = tree(tmp_path / "out")
    with pytest.raises(error):
        run(job(logs, tmp_path / "out", **change), overwrite=True)
    assert tree(tmp_path / "out") == before


def test_a_config_under_which_nothing_can_be_used_replaces_nothing(tmp_path, logs):
    """Each for a reason of its own, found only as the shards are done."""
    do(job(logs, tmp_path / "out"))
    rows = table(tmp_path / "out").num_rows
    for k, file in enumerate(sorted(logs.glob("*/*"))):
        file.write_bytes(b"PAR1" + bytes(k))
    with pytest.raises(
        OutputError, match=r"none of the episodes can be used; version 1 stays as it is\. The first, disk_a"
    ):
        run(job(logs, tmp_path / "out"))
    found = verify(str(tmp_path / "out"))
    assert (found.problems, found.rows, found.version) == ((), rows, 1)


def test_content_as_fingerprint(tmp_path, logs):
    """Where a tool has kept size and time, only the content tells; where it has not, it tells that nothing changed."""
    made = job(logs, tmp_path / "out", input__fingerprint="content")
    do(made)
    file = logs / "disk_a/log_001.parquet"
    kept, other = file.stat(), tmp_path / "other"
    os.utime(file)
    assert not do(made).is_new
    write_parquet(other, seed=9, samples=100)
    assert other.stat().st_size == kept.st_size
    file.write_bytes(other.read_bytes())
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert do(made).changes["changed"] == 1


def test_a_reader_keeps_its_version_and_its_dataset_while_versions_are_kept(tmp_path, logs):
    out = str(tmp_path / "out")
    do(job(logs, out))
    first, scanned = Output.open(out), Output.open(out).dataset()
    rows = scanned.to_table()
    write_parquet(logs / "disk_a/log_000.parquet", seed=5, samples=300)
    do(job(logs, out))
    assert scanned.to_table().equals(rows) and first.dataset().to_table().equals(rows)
    assert first.table(first.parts[0]).num_rows and first.episodes.num_rows == 4
    assert pq.read_table(out, columns=["time_ns"]).num_rows == Output.open(out).version.rows  # a plain reader
    assert verify(out, version=1).problems == verify(out, version=2).problems == ()
    write_parquet(logs / "disk_a/log_000.parquet", seed=6, samples=200)
    do(job(logs, out, output__keep_versions=1))
    with pytest.raises(OutputError, match="version 1 is no longer kept"):
        Output.open(out, version=1)
    with pytest.raises(OutputError, match=r"version 9 is not there; there are 3"):
        Output.open(out, version=9)
    with pytest.raises(OutputError, match="no longer kept"):
        _ = Output(first.store, first.version).episodes
    assert len(list((tmp_path / "out/data").iterdir())) == Output.open(out).version.parts
    assert not list((tmp_path / f"out/{META}/_older").iterdir())


def test_a_version_that_is_swept_while_it_is_looked_at(tmp_path, logs, monkeypatch):
    """A slow reader, as on S3, between the listing of the versions and their manifests: nothing is damaged."""
    out = str(tmp_path / "out")
    for seed in (4, 5):
        write_parquet(logs / "disk_a/log_000.parquet", seed=seed)
        do(job(logs, out))
    store = Output.open(out).store
    listed = list_versions(store)
    assert listed.kept == (1, 2)
    (tmp_path / "out" / manifest_file(1)).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("robocache.output.verify.list_versions", lambda _: listed)
        found = verify(out)
        assert (found.version, [p for p in found.problems if "cannot be read" in p]) == (2, [])
        with pytest.raises(OutputError, match="version 1 is no longer kept"):
            list(Output(store, Version.read(store, 1)).records())
    monkeypatch.setattr(Output, "open", lambda *_, **__: Output(store, Version.read(store, 1)))
    with pytest.raises(OutputError, match=r"version 1 is no longer kept .*: runs went on meanwhile"):
        verify(out, version=1)


def test_splits_are_by_the_id_alone(tmp_path, logs):
    shares = {"train": 0.5, "val": 0.3, "test": 0.2}

    def right(id: str) -> str:
        place = int(hashlib.sha256(id.encode()).hexdigest()[:16], 16) / 2**64
        return "train" if place < 0.5 else "val" if place < 0.8 else "test"

    do(job(logs, tmp_path / "out", splits=shares))
    write_recordings(logs / "disk_0", 20, samples=50)  # before all that are there
    do(job(logs, tmp_path / "out", splits=shares))
    found = Output.open(str(tmp_path / "out"))
    by_id = dict(zip(found.episodes["id"].to_pylist(), found.episodes["split"].to_pylist(), strict=True))
    assert by_id == {id: right(id) for id in by_id} and set(by_id.values()) == set(shares)
    rows = {s: found.dataset(s).to_table(columns=["episode_index"])["episode_index"].unique() for s in shares}
    assert {s: len(i) for s, i in rows.items()} == {s: list(by_id.values()).count(s) for s in shares}
    with pytest.raises(OutputError, match="no episode is in a split 'trian'"):
        found.dataset("trian")
    parts = tree(tmp_path / "out/data")
    table = "\ufeffid,split\ndisk_a/log_000.parquet,mine\nlog_000.parquet,mine\n"  # as a spreadsheet saves it
    (tmp_path / "s.csv").write_text(table)
    made = do(job(logs, tmp_path / "out", splits=str(tmp_path / "s.csv")))
    assert made.is_new and tree(tmp_path / "out/data") == parts  # a version, and no part of it new
    assert made.notes[0] == "splits: 1 of 2 ids are no episode's: log_000.parquet"
    assert made.notes[1].startswith("splits: 23 episodes are in none: disk_a/log_001.parquet, ")
    assert set(Output.open(str(tmp_path / "out")).episodes["split"].to_pylist()) == {"mine", None}


def test_a_long_list_that_changed_is_told_in_a_line(tmp_path, logs):
    """And one that begins with another id has not changed as a whole."""
    ids = [f"a/{k}.parquet" for k in range(20)]
    do(job(logs, tmp_path / "out", splits={"val": ids, "test": ["disk_a/log_000.parquet", "b"]}))
    do(job(logs, tmp_path / "out", splits={"val": ["new", "one", *ids[:-1]], "test": ["b"]}))
    assert Output.open(str(tmp_path / "out")).version.settings == (
        "splits.val has 2 more, as 'new' and 1 fewer, as 'a/19.parquet'",
        "splits.test was ['disk_a/log_000.parquet', 'b'] and is ['b']",
    )


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_columns_that_say_whose_a_row_is_and_have_no_dots(tmp_path, logs, format):
    made = job(logs, tmp_path / "out", output__format=format, output__episode_id=True, output__name_separator="_")
    do(made)
    rows = table(tmp_path / "out")
    names = ["observation_state", "observation_state_valid", "action", "action_valid"]
    assert rows.column_names == ["episode_index", "frame_index", "timestamp", "time_ns", "episode_id", *names]
    assert pa.types.is_dictionary(rows.schema.field("episode_id").type)
    number = ids(tmp_path / "out")
    assert [number[id] for id in rows["episode_id"].to_pylist()] == rows["episode_index"].to_pylist()
    assert list(Output.open(str(tmp_path / "out")).statistics) == ["observation_state", "action"]
    assert cli.main(["inspect", str(tmp_path / "out")]) == cli.DONE
    clash = {"a.b": "grip", "a_b": "grip"}
    with pytest.raises(ConfigError, match=r"output\.name_separator: a\.b and a_b are then both a_b"):
        job(logs, tmp_path / "out", features=clash, output__name_separator="_")


def test_a_shard_of_many_rows_is_several_parts(tmp_path):
    logs = write_recordings(tmp_path / "logs", 4, samples=30_000)
    summary = do(job(logs, tmp_path / "out", output__shard_mb=64, output__part_mb=1))
    assert (summary.shards, summary.parts) == (1, 2)
    do(job(logs, tmp_path / "whole", output__shard_mb=64))
    assert table(tmp_path / "out").equals(table(tmp_path / "whole"))
    found = Output.open(str(tmp_path / "out")).episodes
    assert found["part"].to_pylist() == [*found["part"].to_pylist()[:1] * 2, *found["part"].to_pylist()[2:3] * 2]


def test_arrow_parts_can_be_mapped_and_parquet_has_no_encoding_that_some_cannot_read(tmp_path, logs):
    do(job(logs, tmp_path / "arrow", output__format="arrow"))
    (file,) = (tmp_path / "arrow/data").iterdir()
    with pa.memory_map(str(file)) as source:
        before = pa.total_allocated_bytes()
        rows = pa.ipc.open_file(source).read_all()
        assert rows.nbytes > 10_000 > pa.total_allocated_bytes() - before
    for split in (False, True):
        do(job(logs, tmp_path / f"split_{split}", output__byte_stream_split=split))
        group = pq.read_metadata(part(tmp_path / f"split_{split}", 0)).row_group(0)
        encodings = {e for i in range(group.num_columns) for e in group.column(i).encodings}
        assert ("BYTE_STREAM_SPLIT" in encodings) == split


def test_an_output_of_a_release_before_versions(tmp_path, logs):
    out = tmp_path / "out"
    (out / META).mkdir(parents=True)
    for name in FORMER:
        (out / name).write_text("{}")
    (out / META / "_config.yaml").write_text("")
    (out / "data").mkdir()
    (out / "data/part-000000.parquet").write_bytes(b"?")
    for refused in (lambda: run(job(logs, out)), lambda: Output.open(str(out))):
        with pytest.raises(OutputError, match="written by an earlier release, which kept no versions; make it anew"):
            refused()
    do(job(logs, out), overwrite=True)
    assert not any((out / name).exists() for name in FORMER)


def test_info_json_of_a_lerobot_dataset_is_no_change_of_its_episodes():
    """Its counts are others with each episode that is added."""

    def plan(info: str, context: str) -> str:
        files = (FileStamp("/d/data/file-000.parquet", 9, "1"), FileStamp("/d/meta/info.json", 5, info))
        ref = EpisodeRef("d#0", "lerobot", files, "0", context=context)
        return lay_out([ref], 1, identity="x")[0].episodes[0].stamp

    assert plan("1", "fps 30") == plan("2", "fps 30") != plan("2", "fps 20")


def test_plan_says_what_a_run_would_do(tmp_path, capsys):
    logs = write_shards(tmp_path / "logs", 3)
    do(job(logs, tmp_path / "out"))
    write_parquet(logs / "a_new.parquet", seed=7)
    write_parquet(logs / "log_001.parquet", seed=8)
    (logs / "log_002.parquet").unlink()
    from engine_kit import config
    from omegaconf import OmegaConf

    OmegaConf.save(OmegaConf.create(config(logs, tmp_path / "out")), tmp_path / "c.yaml")
    for words in (["plan"], ["run", "--dry-run"]):
        assert cli.main([*words, str(tmp_path / "c.yaml"), "--json"]) == cli.DONE
        said = json.loads(capsys.readouterr().out)
        assert (said["new"], said["changed"], said["vanished"]) == (
            ["a_new.parquet"],
            ["log_001.parquet"],
            ["log_002.parquet"],
        )
        assert (said["kept"], said["todo"], said["shards"]) == (1, 2, 3)
        assert verify(str(tmp_path / "out")).version == 1
    (logs / "a_new.parquet").unlink()
    (logs / "log_000.parquet").unlink()
    assert cli.main(["plan", str(tmp_path / "c.yaml")]) == cli.DONE  # as many withdrawn as there are left, or more
    said = capsys.readouterr().out
    assert "changed: log_001.parquet\n" in said and "withdrawn: log_000.parquet, log_002.parquet\n" in said
