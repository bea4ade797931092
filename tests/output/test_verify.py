"""`verify` finds whatever is wrong with an output, and says what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import META, do, folder, job, part, write_recordings, write_shards

from robocache.engine.run import run
from robocache.errors import OutputError
from robocache.output import documents, parts, statistics
from robocache.output.dataset import Output
from robocache.output.layout import statistics_name
from robocache.output.verify import verify


@pytest.fixture(params=["parquet", "arrow"])
def out(request, tmp_path) -> Path:
    logs = write_shards(tmp_path / "logs", 3)
    do(job(logs, tmp_path / "out", output__format=request.param))
    return tmp_path / "out"


def problems(out: Path) -> str:
    return "\n".join(verify(str(out)).problems)


def edit_lines(out: Path, name: str, edit) -> None:
    path = (folder(out) if name in ("_manifest.jsonl", "_plan.jsonl") else out / META) / name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in edit(lines)))


def test_counts(out):
    found = verify(str(out))
    assert (found.episodes, found.parts, found.quarantined, found.problems) == (3, 3, 0, ())


def test_lost_part(out):
    part(out, 1).unlink()
    assert "part-000001" in problems(out)
    assert "cannot be read" in problems(out)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
def test_flipped_byte(out, where):
    data = bytearray(part(out, 1).read_bytes())
    data[int(where * len(data))] ^= 1
    part(out, 1).write_bytes(data)
    assert "part-000001" in problems(out)
    assert "sha256" in problems(out)


def test_truncated_part(out):
    data = part(out, 2).read_bytes()
    part(out, 2).write_bytes(data[:-1])
    assert f"{len(data) - 1} bytes, the manifest says {len(data)}" in problems(out)


def test_extra_file(out):
    (out / "data/part-000009.parquet").write_bytes(b"?")
    assert "data/part-000009.parquet: no record of this file" in problems(out)


def test_lost_record(out):
    edit_lines(out, "_manifest.jsonl", lambda lines: lines[:1] + lines[2:])
    assert "episode 1 (log_001.parquet): lost" in problems(out)
    assert "part-000001" in problems(out)


def test_record_of_another_shard_twice(out):
    edit_lines(out, "_manifest.jsonl", lambda lines: [*lines, lines[1] | {"shard": 7}])
    assert "episode 1 (log_001.parquet): recorded 2 times" in problems(out)


@pytest.mark.parametrize("name", ["_manifest.jsonl", "_plan.jsonl"])
def test_files_that_are_not_those_that_the_version_was_made_with(out, name):
    edit_lines(out, name, lambda lines: [lines[0] | {"identity": lines[0]["identity"]}, *lines[1:]])
    assert (problems(out) == "") == (name == "_plan.jsonl")  # which is written so, a record without spaces
    edit_lines(out, name, lambda lines: [lines[0], *lines[1:][::-1]])
    assert f"{name}: its sha256 is not the version's: changed or damaged" in problems(out)


def test_episode_in_output_and_quarantine(out):
    def both(lines):
        e = lines[0]["episodes"][0]
        lines[1]["quarantined"] = [{"index": e["index"], "id": e["id"], "files": e["files"], "reason": "?"}]
        return lines

    edit_lines(out, "_manifest.jsonl", both)
    assert "episode 0 (log_000.parquet): recorded 2 times" in problems(out)


def test_plan_mismatch(out):
    more = {"index": 3, "id": "log_003.parquet", "shard": 3, "stamp": "?"}
    edit_lines(out, "_plan.jsonl", lambda lines: [*lines, more])
    assert "episode 3 (log_003.parquet): lost" in problems(out)
    edit_lines(out, "_plan.jsonl", lambda lines: [*lines, more | {"id": "log_004.parquet"}])
    assert "episode 3 (log_004.parquet): its number was given twice" in problems(out)
    edit_lines(out, "_plan.jsonl", lambda lines: lines[:3])
    assert "episode 2 (log_002.parquet): in the manifest but not in the plan" in problems(out)


def test_rows_that_are_not_the_episodes(out):
    """A part with the right checksum and the wrong rows: parts swapped together with their checksums."""

    def swap(lines):
        lines[0]["parts"], lines[1]["parts"] = lines[1]["parts"], lines[0]["parts"]
        return lines

    edit_lines(out, "_manifest.jsonl", swap)
    assert "51 rows, its episodes 52" in problems(out)

    def recount(lines):
        for line in lines:
            line["episodes"][0]["rows"] = line["parts"][0]["rows"]
        return lines

    edit_lines(out, "_manifest.jsonl", recount)
    assert "are not those of episodes [0]" in problems(out)


def test_record_of_another_config(out):
    edit_lines(out, "_manifest.jsonl", lambda lines: [lines[0] | {"identity": "feed"}, *lines[1:]])
    assert "shard 0: its record belongs to config feed" in problems(out)


def test_left_overs_of_a_killed_run(out):
    """What the next run takes up or away is no fault of the version that stands; a file that no run writes is."""
    (out / META / "_run.lock").touch()
    (out / META / "._report.json.7.tmp").touch()
    (out / "data/part-000003-0123456789ab.parquet").touch()
    found = verify(str(out))
    assert found.problems == () and "or was killed: meta/robocache/_run.lock, and 2 files" in found.notes[0]
    (out / "data/thesis.parquet").touch()
    assert problems(out) == "data/thesis.parquet: no record of this file"
    (out / META / "_run.lock").unlink()
    assert "._report.json.7.tmp: left behind" in problems(out)
    assert "part-000003-0123456789ab.parquet: no record of this file" in problems(out)


@pytest.mark.parametrize("name", ["_manifest.jsonl", "_plan.jsonl", "_version.json"])
@pytest.mark.parametrize("content", ["garbage\n", "[1]\n", "{}\n", "\xff\n"])
def test_garbage_in_meta(out, name, content):
    (folder(out) / name).write_bytes(content.encode("latin-1"))
    if name == "_version.json":
        with pytest.raises(OutputError, match=r"cannot be read .* run again with --overwrite"):
            verify(str(out))
    else:
        assert "cannot be read" in problems(out)


def edit_episodes(out: Path, edit: Callable[[list[dict]], list[dict]]) -> None:
    path = out / META / "_episodes.pq"
    before = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(edit(before.to_pylist()), schema=before.schema), path)


def changed(rows: list[dict], /, **values: object) -> list[dict]:
    return [rows[0], rows[1] | values, *rows[2:]]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda rows: rows[:1] + rows[2:], "no rows of episodes 1"),
        (lambda rows: [], "no rows of episodes 0, 1, 2"),
        (lambda rows: [*rows, rows[0] | {"episode_index": 7}], "rows of episodes 7, which the manifest does not have"),
        (lambda rows: [*rows, rows[2]], "not in the order of the episodes, each once"),
        (lambda rows: rows[::-1], "not in the order of the episodes, each once"),
        (lambda rows: changed(rows, episode_index=None), "not in the order of the episodes, each once"),
        (lambda rows: changed(rows, rows=rows[1]["rows"] + 1), "the rows of episodes 1 do not say what"),
        (lambda rows: changed(rows, id="another"), "the rows of episodes 1 do not say what"),
        (lambda rows: changed(rows, part=rows[0]["part"]), "the rows of episodes 1 do not say what"),
        (lambda rows: changed(rows, streams=rows[1]["streams"][1:]), "the rows of episodes 1 do not say what"),
    ],
)
def test_an_episode_table_that_is_not_the_manifest(out, edit, problem):
    edit_episodes(out, lambda rows: rows)
    assert problems(out) == ""
    edit_episodes(out, edit)
    (found,) = verify(str(out)).problems
    assert found.startswith(f"{META}/_episodes.pq: ") and problem in found


def test_an_episode_table_of_other_columns(out):
    path = out / META / "_episodes.pq"
    pq.write_table(pq.read_table(path).drop_columns("streams"), path)
    assert "_episodes.pq: its columns are not episode_index, id, split, files" in problems(out)


def edit_statistics(out: Path, edit: Callable[[dict], object]) -> None:
    path = out / META / "_statistics.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda s: s.pop("action"), "columns ['observation.state'], the parts have ['observation.state', 'action']"),
        (lambda s: s.update(more=s["action"]), "columns ['observation.state', 'action', 'more']"),
        (lambda s: s["action"].update(count=s["action"]["count"] + 1), "action is not what the parts' statistics"),
        (lambda s: s["action"].pop("q50"), "action is not what"),
        (lambda s: s["action"].update(max=[s["action"]["max"][0] * (1 + 1e-6)]), "action is not what"),
        (lambda s: s["action"].update(mean=[None]), "action is not what"),
        (lambda s: s["action"].update(std=["?"]), "action is not what"),
        (lambda s: s["action"].update(min=s["action"]["min"] * 2), "action is not what"),
        (lambda s: s.update(action=3), "action is not what"),
    ],
)
def test_statistics_that_are_not_those_of_the_parts(out, edit, problem):
    def last_bit(content):
        content["action"]["mean"] = [float(np.nextafter(x, 1.0)) for x in content["action"]["mean"]]

    edit_statistics(out, last_bit)  # another machine may round so
    assert problems(out) == ""
    edit_statistics(out, edit)
    (found,) = verify(str(out)).problems
    assert found.startswith(f"{META}/_statistics.json: ") and problem in found


def test_a_quarantine_list_that_is_not_the_manifest(tmp_path):
    logs = write_shards(tmp_path / "logs", 2)
    (logs / "log_002.parquet").write_bytes(b"PAR1 and no more")
    do(job(logs, tmp_path / "out"))
    edit_lines(tmp_path / "out", "_quarantine.jsonl", lambda lines: lines)
    assert problems(tmp_path / "out") == ""
    edit_lines(tmp_path / "out", "_quarantine.jsonl", lambda lines: [lines[0] | {"reason": "it was late"}])
    assert "_quarantine.jsonl: its lines are not the manifest's" in problems(tmp_path / "out")


@pytest.mark.parametrize("name", ["_episodes.pq", "_quarantine.jsonl", "_statistics.json"])
def test_a_table_that_is_gone_or_garbage_comes_back_with_a_rerun(out, tmp_path, name):
    (out / META / name).unlink()
    assert f"{META}/{name}: cannot be read" in problems(out)
    (out / META / name).write_text("[garbage")
    assert f"{META}/{name}: " in problems(out)
    do(job(tmp_path / "logs", out, output__format=part(out, 1).suffix[1:]))


def beside(out: Path, index: int) -> Path:
    return out / statistics_name(f"data/{part(out, index).name}")


def test_statistics_of_a_part_that_are_gone_or_damaged_come_back_with_a_rerun(out, tmp_path):
    beside(out, 1).unlink()
    assert "part-000001" in problems(out) and "_statistics/_part-000001" in problems(out)
    again = job(tmp_path / "logs", out, output__format=part(out, 1).suffix[1:])
    assert do(again).skipped_shards == 2
    data = bytearray(beside(out, 1).read_bytes())
    data[len(data) // 2] ^= 1
    beside(out, 1).write_bytes(data)
    assert "its statistics' sha256 is not the manifest's" in problems(out)
    (out / META / "_statistics/_part-000009.pq").write_bytes(b"?")
    assert "_statistics/_part-000009.pq: no record of this file" in problems(out)


def test_statistics_that_are_not_those_of_the_rows(out):
    """With the right checksums everywhere."""

    def forge(columns):
        s = columns["action"]
        return columns | {"action": replace(s, mean=s.mean * (1 + 1e-6))}

    each, together = statistics.decode(beside(out, 1).read_bytes())
    for forged, problem in (
        (statistics.encode({1: forge(each[1])}), "the statistics of episode 1 are not those of its rows"),
        (statistics.encode({2: each[1]}), "the statistics of episode 1 are not those of its rows"),
    ):
        beside(out, 1).write_bytes(forged)
        sha256 = hashlib.sha256(forged).hexdigest()

        def claim(lines, to=sha256):
            lines[1]["parts"][0]["statistics"] = to
            return lines

        edit_lines(out, "_manifest.jsonl", claim)
        assert problem in problems(out)
    assert list(together) == list(each[1]) == ["observation.state", "action"]


def test_no_output(tmp_path):
    with pytest.raises(OutputError, match=r"not an output of robocache run"):
        verify(str(tmp_path))


def test_damaged_statistics_stop_a_rerun_with_advice(out, tmp_path):
    """Skipping goes by names and sizes; what makes the tables anew reads the statistics of each part."""
    beside(out, 1).write_bytes(b"PAR1")
    (out / META / "_statistics.json").unlink()
    again = job(tmp_path / "logs", out, output__format=part(out, 1).suffix[1:])
    with pytest.raises(OutputError, match=r"part-000001.* cannot be read back .* delete it and run again"):
        run(again)
    beside(out, 1).unlink()
    do(again)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_an_episode_of_many_pieces_is_held_and_others_are_not(tmp_path, monkeypatch, format):
    """Row groups that no episode fills; and what is held of them has a limit."""
    monkeypatch.setattr(parts, "GROUP_BYTES", 2000)
    logs = write_recordings(tmp_path / "logs", 2, samples=2000)
    out = tmp_path / "out"
    rows = do(job(logs, out, output__format=format)).rows
    name = Output.open(str(out)).parts[0]
    if format == "parquet":
        assert pq.ParquetFile(out / name).num_row_groups > 6
    else:
        with pa.ipc.open_file(str(out / name)) as file:
            assert file.num_record_batches > 6
    monkeypatch.setattr(documents, "RATIO", 0)
    assert problems(out) == ""
    monkeypatch.setattr(documents, "UNPACKED", 30_000)
    assert "rows of episode 0 unpack to" in problems(out) and "--max-unpacked-mb allows more" in problems(out)
    assert verify(str(out), max_unpacked_mb=1).problems == ()
    with pytest.raises(OutputError, match=r"bytes unpack to \d+ or more, at most 30000 are taken"):
        Output.open(str(out)).table(name)
    assert Output.open(str(out)).table(name, max_unpacked_mb=1).num_rows == rows
