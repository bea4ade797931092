"""Names of files and features that break most tools: all are read, written, shown escaped and read back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from engine_kit import META, do, job, write_recordings

from robocache import cli
from robocache.engine.run import run
from robocache.errors import ConfigError
from robocache.formats import InputSpec, list_episodes, read_episode
from robocache.output.dataset import Output
from robocache.output.verify import verify

FILES = [
    b"plain", b"two  blanks ", b" ", b"-rf", b"--help", b"a=b", b"a::b", b"zip::x", b"a#b", b"a#0", b"a@1", b"a?b=1",
    b"a%20b", b"%s%n", b"a*b", b"[a-z]", b"{a,b}", b"{0}", b"~", b"$HOME", b"${oc.env:HOME}", b"a;rm -rf b", b"'", b'"',
    b"a\\b", b"new\nline", b"\x1b[2J", b"\xe2\x80\xaegnp", "\u0130\u0301\U0001f916".encode(), b"caf\xe9", b"\xff\xfe",
    b"n" * 200,
]  # fmt: skip
FEATURES = [
    "observation.state", "a b", "a/b", "a\\b", "[/x]", "[bold]x", "{x}", "%s", "${x}", "-x", "x=y", "'", '"',
    "new\nline", "\x1b[31mred", "\u202etxet", "\U0001f916",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """An output of recordings of these names, each with a value of its own, by its id."""
    folder = tmp_path_factory.mktemp("names")
    logs, values = folder / "logs", {}
    logs.mkdir()
    for k, name in enumerate(FILES):
        (Path(os.fsdecode(os.fsencode(logs) + b"/" + name + b".csv"))).write_text(f"t,x\n0,{k}\n1,{k}\n2,{k}\n")
        values[(name + b".csv").decode("utf-8", "backslashreplace" if _lone(name) else "strict")] = float(k)
    features = dict.fromkeys(FEATURES, "x")
    changes = {"input__format": "csv", "input__times": {"column": "t", "unit": "s"}, "timeline__rate_hz": 1}
    do(job(logs, folder / "out", **changes, features=features))
    return folder / "out", values


def _lone(name: bytes) -> bool:
    """Whether it is no UTF-8; what is not is escaped as Python has surrogates."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_all_are_read_and_written(made):
    out, values = made
    opened = Output.open(str(out))
    assert opened.quarantine == ()
    ids = opened.episodes["id"].to_pylist()
    assert len(ids) == len(FILES) == 32
    assert len(set(ids)) == 32
    table = opened.dataset().to_table()
    for name in FEATURES:
        assert name in table.column_names
    first = dict(zip(table["episode_index"].to_pylist(), table["a b"].to_pylist(), strict=True))
    found = {id: first[k] for k, id in zip(opened.episodes["episode_index"].to_pylist(), ids, strict=True)}
    plain = {id: value for id, value in values.items() if "\\x" not in id}
    assert {id: value for id, value in found.items() if id in plain} == plain
    assert sorted(found.values()) == sorted(values.values())


def test_another_reader_has_the_same_columns(made):
    names = ds.dataset(made[0] / "data").schema.names
    assert [n for n in names if not n.endswith(".valid")][4:] == FEATURES


def test_all_are_shown_escaped(made, capsys):
    out, _ = made
    for words in (
        ["inspect", str(out)],
        ["verify", str(out)],
        ["log", str(out)],
        ["inspect", str(out.parent / "logs")],
    ):
        code = cli.main([*words, *(["--time-column", "t"] if words[1].endswith("logs") else [])])
        said = capsys.readouterr()
        assert code == cli.DONE, said.err
        shown = said.out + said.err
        assert "\x1b" not in shown and "\u202e" not in shown
        assert all(c.isprintable() or c == "\n" for c in shown)


def test_each_is_found_again_by_its_name(made, capsys):
    out, _ = made
    for id in Output.open(str(out)).episodes["id"].to_pylist():
        assert cli.main(["inspect", str(out), f"--episode={id}", "--json"]) == cli.DONE
        assert json.loads(capsys.readouterr().out)["id"] == id


def test_what_no_run_wrote_stays(tmp_path):
    """Among our files below meta/, where a run with ``--overwrite`` clears away."""
    logs, out = write_recordings(tmp_path / "logs", 1, samples=40), tmp_path / "out"
    do(job(logs, out))
    folders = ("_versions", "_versions/_000001", "_older", "_statistics", "_parts")
    theirs = [out / META / folder / name for folder in folders for name in ("notes.txt", ".notes.tmp")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for rate in (20, 10, 5):
        run(job(logs, out, timeline__rate_hz=rate, output__keep_versions=1), overwrite=True)
    assert [path for path in theirs if not path.exists()] == []


def test_all_are_in_a_lerobot_dataset(made, tmp_path):
    """Its tree names them, and read as anybody's dataset it holds every recording's value under every name. LeRobot has
    no names with slashes: those are refused beforehand.
    """
    root, values = made
    changes = {"input__format": "csv", "input__times": {"column": "t", "unit": "s"}, "timeline__rate_hz": 1}
    out = tmp_path / "out"
    slashes = [name for name in FEATURES if "/" in name]
    with pytest.raises(ConfigError) as refused:
        job(root.parent / "logs", out, **changes, features=dict.fromkeys(FEATURES, "x"), output__format="lerobot")
    assert len(refused.value.problems) == len(slashes) == 2
    names = [name for name in FEATURES if name not in slashes]
    do(job(root.parent / "logs", out, **changes, features=dict.fromkeys(names, "x"), output__format="lerobot"))
    assert verify(str(out)).problems == ()
    info = json.loads((out / "meta/info.json").read_text())
    assert set(names) <= set(info["features"]) and info["total_episodes"] == len(FILES)
    shutil.copytree(out, tmp_path / "theirs", ignore=shutil.ignore_patterns("robocache"))
    spec = InputSpec((str(tmp_path / "theirs"),))
    refs = list_episodes(spec)
    read = [read_episode(ref, names, spec).streams for ref in refs]
    for name in names:
        assert sorted(float(streams[name].values.ravel()[0]) for streams in read) == sorted(values.values()), name
