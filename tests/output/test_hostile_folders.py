"""Outputs made to mislead: `verify` and `inspect` say what is wrong, `Output.open` refuses, and nothing else happens.

No path of a record leaves the folder, no link, pipe or device is opened, and no memory is taken on a record's word.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import META, folder, job, part, write_recordings

from robocache import cli
from robocache.engine.run import run
from robocache.errors import OutputError
from robocache.output import documents, layout, store
from robocache.output.dataset import Output
from robocache.output.verify import verify
from robocache.stages import peak_bytes

SECRET = "what no output may show"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("whole")
    logs = write_recordings(made / "logs", 2, samples=40)
    (logs / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    run(job(logs, made / "out"))
    (made / "secret").write_text(SECRET)
    return made / "out"


@pytest.fixture
def out(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "out")
    shutil.copy(whole.parent / "secret", tmp_path / "secret")
    return tmp_path / "out"


def version(out: Path, **changes: object) -> None:
    """Change what the version says of itself."""
    path = folder(out) / "_version.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sealed(out: Path) -> None:
    """Let the version have the checksums of the files that it is made of, as who makes one up would."""
    sums = {
        key: hashlib.sha256((folder(out) / f"_{key}{end}").read_bytes()).hexdigest()
        for key, end in (("plan", ".jsonl"), ("manifest", ".jsonl"))
    }
    version(out, **sums)


def record(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the first shard's record."""

    def make(out: Path) -> None:
        path = folder(out) / "_manifest.jsonl"
        first, *rest = path.read_text().splitlines()
        found = json.loads(first)
        edit(found)
        path.write_text("\n".join([json.dumps(found), *rest]) + "\n")
        sealed(out)

    return make


def of_part(**changes: object) -> Callable[[Path], None]:
    return record(lambda found: found["parts"][0].update(changes))


def of_episode(**changes: object) -> Callable[[Path], None]:
    return record(lambda found: found["episodes"][0].update(changes))


def text(name: str, content: bytes) -> Callable[[Path], None]:
    def make(out: Path) -> None:
        (out / name).write_bytes(content)
        if name.endswith(("_plan.jsonl", "_manifest.jsonl")):
            sealed(out)

    return make


def table(name: str, content: bytes) -> Callable[[Path], None]:
    """One of the tables, with its right checksum in the version."""

    def make(out: Path) -> None:
        (out / name).write_bytes(content)
        sums = json.loads((folder(out) / "_version.json").read_text())["tables"]
        version(out, tables=sums | {name: hashlib.sha256(content).hexdigest()})

    return make


def replaced(where: Callable[[Path], Path], by: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """Put something else in a file's or folder's place: given that place and the secret."""

    def make(out: Path) -> None:
        place = where(out)
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
        by(place, out.parent / "secret")

    return make


def pipe(place: Path, _: Path) -> None:
    os.mkfifo(place)


def link(place: Path, secret: Path) -> None:
    place.symlink_to(secret)


def device(place: Path, _: Path) -> None:
    place.symlink_to("/dev/zero")


def sparse(place: Path, _: Path) -> None:
    with place.open("wb") as file:
        file.truncate(1 << 40)


def link_to_copy(place: Path, secret: Path) -> None:
    """A folder elsewhere with the very same files."""
    elsewhere = secret.parent / "elsewhere"
    shutil.copytree(secret.parent / "kept", elsewhere)
    place.symlink_to(elsewhere)


def linked_data(out: Path) -> None:
    (out / "data").rename(out.parent / "kept")
    (out / "data").symlink_to(out.parent / "kept")


def linked_meta(out: Path) -> None:
    (out / "meta").rename(out.parent / "kept")
    (out / "meta").symlink_to(out.parent / "kept")


def bomb(out: Path) -> None:
    """A part whose few bytes are rows without end, by a record that says so, with the right checksum."""
    count = 3_000_000
    ones = np.ones(count, np.int64)
    columns = {"episode_index": ones, "frame_index": np.arange(count), "x": ones}
    few = {"use_dictionary": ["episode_index", "x"], "column_encoding": {"frame_index": "DELTA_BINARY_PACKED"}}
    pq.write_table(pa.table(columns), part(out, 1), compression="zstd", row_group_size=200_000, **few)
    data = part(out, 1).read_bytes()

    def edit(found: dict) -> None:
        found["parts"][0].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=count, episodes=1)
        found["episodes"] = [found["episodes"][0] | {"rows": count}]
        found["parts"] = found["parts"][:1]

    record(edit)(out)


def version_of(out: Path) -> Path:
    return folder(out) / "_version.json"


def manifest_of(out: Path) -> Path:
    return folder(out) / "_manifest.jsonl"


def plan_of(out: Path) -> Path:
    return folder(out) / "_plan.jsonl"


def part_of(out: Path) -> Path:
    return part(out, 1)


DEEP = b"[" * 100_000
VERSION, MANIFEST, PLAN = (f(1) for f in (layout.version_file, layout.manifest_file, layout.plan_file))
EVERYWHERE = {
    "a part above the folder": (of_part(name="../secret"), "no name of a part"),
    "a part by its whole path": (of_part(name="/etc/passwd"), "no name of a part"),
    "a part that is a device": (of_part(name="data/../../../../../../dev/zero"), "no name of a part"),
    "a part whose name is a number": (of_part(name=5), "is no text"),
    "rows beyond counting": (of_part(rows=10**30), "is no count"),
    "rows below nothing": (of_part(rows=-5), "is no count"),
    "rows in words": (of_part(rows="x"), "is no count"),
    "rows of nobody": (of_part(rows=400_000_000), "400000000 rows, its episodes"),
    "an episode of 2^47 rows": (of_episode(rows=1 << 47), "rows, its episodes"),
    "an index that is none": (of_episode(index=-1), "is no count"),
    "an id that is no text": (of_episode(id="\ud800"), "surrogates not allowed"),
    "files that are none": (of_episode(files=7), "files is no list"),
    "streams that are none": (of_episode(streams=[7]), "a stream is no mapping"),
    "a stamp beyond int64": (of_episode(start_ns=1 << 70), "is no stamp"),
    "a record of another shape": (text(MANIFEST, b"[1, 2]\n"), "it is no mapping"),
    "a deep manifest": (text(MANIFEST, DEEP + b"\n"), "nested hundreds deep"),
    "a manifest that is a pipe": (replaced(manifest_of, pipe), "is a pipe"),
    "a manifest that is a link": (replaced(manifest_of, link), "is a link"),
    "a manifest without end": (replaced(manifest_of, sparse), "is longer than"),
    "a meta folder elsewhere": (linked_meta, "is a link"),
    "a version of a deep nest": (text(VERSION, DEEP), "nested hundreds deep"),
    "a version that is a list": (text(VERSION, b"[]"), "it is no mapping"),
    "a version without end": (replaced(version_of, sparse), "more than the"),
    "a version that is a pipe": (replaced(version_of, pipe), "is a pipe"),
    "a version with another table": (lambda out: version(out, tables={"../secret": "0" * 64}), "none of its tables"),
    "a version of odd counts": (lambda out: version(out, rows=1.5), "is no count"),
}  # fmt: skip
#: What `Output.open` cannot know before it is asked for it; the second: which of its properties.
LATER = {
    "a plan that is a pipe": (replaced(plan_of, pipe), "plan", "is a pipe"),
    "a plan of a deep nest": (text(PLAN, DEEP + b"\n"), "plan", "nested hundreds deep"),
    "a plan of odd": (text(PLAN, b'{"identity": ""}\n{"index": 0, "id": "", "shard": 0.5}\n'), "plan", "no count"),
    "a part that is a link": (replaced(part_of, link), "schema", "is a link"),
    "a part that is a pipe": (replaced(part_of, pipe), "schema", "is a pipe"),
    "a part that is a device": (replaced(part_of, device), "schema", "is a link"),
    "a part without end": (replaced(part_of, sparse), "schema", "cannot be read"),
    "a data folder elsewhere": (linked_data, "schema", "is a link"),
    "a config that is no text": (text(layout.config_file(1), b"\xff"), "config", "cannot be read"),
    "a bomb": (bomb, "", "bytes unpack to 72000000 or more"),
    "episodes of other columns": (table(layout.EPISODES, b"PAR1"), "episodes", "cannot be read"),
    "a quarantine of a deep nest": (table(layout.QUARANTINE, DEEP), "quarantine", "nested hundreds deep"),
    "statistics of a deep nest": (table(layout.STATISTICS, DEEP), "statistics", "nested hundreds deep"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def soon_and_small(monkeypatch):
    monkeypatch.setattr(documents, "UNPACKED", 16 << 20)
    monkeypatch.setattr(store, "LONGEST", 1 << 20)
    began, before = time.process_time(), peak_bytes()
    yield
    assert time.process_time() - began < 5
    assert peak_bytes() - before < 300e6


def assert_told(out: Path, what: str, capsys) -> None:
    """By verify, and by inspect as the command line has it, in one line without a traceback."""
    try:
        told = "\n".join(verify(str(out)).problems)
    except OutputError as error:
        told = str(error)
    assert what in told
    assert SECRET not in told
    assert cli.main(["verify", str(out)]) in (cli.FAILED, cli.REFUSED)
    code = cli.main(["inspect", str(out)])
    said = capsys.readouterr()
    assert code in (cli.DONE, cli.FAILED, cli.REFUSED)
    assert SECRET not in said.out + said.err and "Traceback" not in said.err
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())


def refusal(out: Path, attribute: str) -> str:
    """Why what is asked of it cannot be had; empty: it can."""
    try:
        opened = Output.open(str(out))
        for name in () if attribute else opened.parts:
            opened.table(name)
        if attribute:
            getattr(opened, attribute)
    except OutputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_no_reader_takes(out, name, capsys):
    make, what = EVERYWHERE[name]
    make(out)
    assert_told(out, what, capsys)
    assert what in refusal(out, "parts")


@pytest.mark.parametrize("name", LATER)
def test_what_is_refused_once_it_is_asked_for(out, name, capsys):
    make, attribute, what = LATER[name]
    make(out)
    in_verify = {
        "a part without end": "the manifest says",
        "a bomb": "rows of episode 1 unpack to",
        "a quarantine of a deep nest": "its lines are not",
    }
    assert_told(out, in_verify.get(name, what), capsys)
    assert what in refusal(out, attribute)


def test_the_folder_that_these_are_made_of_is_whole(out):
    assert verify(str(out)).problems == ()
    opened = Output.open(str(out))
    assert (opened.episodes.num_rows, len(opened.quarantine)) == (2, 1)


def test_nothing_is_written_through_a_link(out, tmp_path):
    """A run refuses to write where ``data/`` or ``meta/`` leads elsewhere."""
    logs = write_recordings(tmp_path / "logs", 1, samples=40)
    for name in ("data", "meta"):
        elsewhere = tmp_path / f"elsewhere_{name}"
        elsewhere.mkdir()
        target = tmp_path / f"out_{name}"
        target.mkdir()
        (target / name).symlink_to(elsewhere)
        with pytest.raises(OutputError, match=f"out_{name}/{name} is a link, not a file"):
            run(job(logs, target))
        assert list(elsewhere.iterdir()) == []
    assert META
