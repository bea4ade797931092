"""`verify` finds whatever is wrong with an output, and says what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_kit import META, do, job, write_shards

from robocache.engine.run import run
from robocache.engine.verify import verify
from robocache.errors import OutputError


@pytest.fixture(params=["parquet", "arrow"])
def out(request, tmp_path) -> Path:
    logs = write_shards(tmp_path / "logs", 3)
    do(job(logs, tmp_path / "out", output__format=request.param))
    return tmp_path / "out"


def problems(out: Path) -> str:
    return "\n".join(verify(str(out)).problems)


def part(out: Path, index: int) -> Path:
    return next((out / "data").glob(f"part-{index:06d}.*"))


def edit_lines(out: Path, name: str, edit) -> None:
    path = out / META / name
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
    edit_lines(out, "manifest.jsonl", lambda lines: lines[:1] + lines[2:])
    assert "episode 1 (log_001.parquet): lost" in problems(out)
    assert "part-000001" in problems(out)


def test_record_of_another_shard_twice(out):
    edit_lines(out, "manifest.jsonl", lambda lines: [*lines, lines[1] | {"shard": 7}])
    assert "episode 1 (log_001.parquet): recorded 2 times" in problems(out)


def test_a_later_record_of_a_shard_replaces_the_earlier(out):
    edit_lines(out, "manifest.jsonl", lambda lines: [lines[0], *lines])
    assert problems(out) == ""


def test_episode_in_output_and_quarantine(out):
    def both(lines):
        e = lines[0]["episodes"][0]
        lines[1]["quarantined"] = [{"index": e["index"], "id": e["id"], "files": e["files"], "reason": "?"}]
        return lines

    edit_lines(out, "manifest.jsonl", both)
    assert "episode 0 (log_000.parquet): recorded 2 times" in problems(out)


def test_plan_mismatch(out):
    edit_lines(out, "plan.jsonl", lambda lines: [*lines, {"index": 3, "id": "log_003.parquet", "shard": 3}])
    assert "episode 3 (log_003.parquet): lost" in problems(out)
    edit_lines(out, "plan.jsonl", lambda lines: lines[:2])
    assert "episode 2 (log_002.parquet): in the manifest but not in the plan" in problems(out)


def test_rows_that_are_not_the_episodes(out):
    """A part with the right checksum and the wrong rows: parts swapped together with their checksums."""

    def swap(lines):
        for key in ("part", "bytes", "sha256", "rows"):
            lines[0][key], lines[1][key] = lines[1][key], lines[0][key]
        return lines

    edit_lines(out, "manifest.jsonl", swap)
    assert "are not those of episodes [0]" in problems(out)


def test_record_of_another_config(out):
    edit_lines(out, "manifest.jsonl", lambda lines: [lines[0] | {"identity": "feed"}, *lines[1:]])
    assert "shard 0: its record belongs to config feed" in problems(out)


def test_left_overs_of_a_killed_run(out):
    (out / META / "run.lock").touch()
    (out / META / ".report.json.7.tmp").touch()
    assert "or was killed" in problems(out)
    assert ".report.json.7.tmp: left behind" in problems(out)


@pytest.mark.parametrize("name", ["manifest.jsonl", "plan.jsonl", "identity.json"])
@pytest.mark.parametrize("content", ["garbage\n", "[1]\n", "{}\n", "\xff\n"])
def test_garbage_in_meta(out, name, content):
    (out / META / name).write_bytes(content.encode("latin-1"))
    assert "cannot be read" in problems(out)


def test_no_output(tmp_path):
    with pytest.raises(OutputError, match=r"not an output of robocache run"):
        verify(str(tmp_path))


def test_a_damaged_part_stops_a_rerun_with_advice(out, tmp_path):
    """Skipping goes by size; a rerun reads the statistics of each part, and says so where it cannot."""
    size = part(out, 1).stat().st_size
    part(out, 1).write_bytes(bytes(size))
    again = job(tmp_path / "logs", out, output__format=part(out, 1).suffix[1:])
    with pytest.raises(OutputError, match=r"part-000001.* cannot be read back .* delete it and run again"):
        run(again, "config: test\n")
    part(out, 1).unlink()
    do(again)
