"""Listing: what is found, what it is called, how it is told apart, and that nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from robocache.errors import InputError
from robocache.formats import (
    READERS,
    UNAVAILABLE,
    InputSpec,
    TableTimes,
    describe_passed,
    guarded,
    list_episodes,
    list_input,
    list_streams,
    read_episode,
)
from robocache.formats.base import natural_key
from robocache.types import EpisodeRef, frame_times, rate_times

CSV = "time_ns,x\n0,1\n1000,2\n"


def write(path: Path, content: str | bytes = CSV) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def listed(*uris: object, **options: object) -> list[EpisodeRef]:
    return list_episodes(InputSpec(tuple(map(str, uris)), **options))  # type: ignore[arg-type]


def ids(refs: list[EpisodeRef]) -> list[str]:
    return [ref.id for ref in refs]


def test_folder_is_searched_in_natural_order(tmp_path: Path) -> None:
    for name in ("run_10.csv", "run_2.csv", "day/run_1.csv", "notes.txt", ".hidden/x.csv", ".y.csv"):
        write(tmp_path / name)
    refs = listed(tmp_path)
    assert ids(refs) == ["day/run_1.csv", "run_2.csv", "run_10.csv"]
    assert not any(ref.failure for ref in refs)
    stamp = refs[1].files[0]
    status = os.stat(tmp_path / "run_2.csv")
    assert (stamp.uri, stamp.size, stamp.version) == (
        str(tmp_path / "run_2.csv"),
        status.st_size,
        str(status.st_mtime_ns),
    )


def test_ids_depend_on_the_uri_not_on_what_else_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a/one.csv")
    assert ids(listed(tmp_path / "a")) == ids(listed(tmp_path / "a/*.csv")) == ids(listed(tmp_path / "a/one.csv"))
    write(tmp_path / "b/two.csv")
    assert ids(listed(tmp_path / "a", tmp_path / "b")) == ["a/one.csv", "b/two.csv"]
    assert ids(listed(tmp_path / "*/*.csv")) == ["a/one.csv", "b/two.csv"]


def test_a_file_by_two_ways_is_one_episode(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    assert ids(listed(tmp_path, tmp_path / "*.csv", tmp_path / "a.csv")) == ["a.csv"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.csv")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/day1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert ids(listed(tmp_path / "logs")) == ["day1/a.csv"] == ids(listed(tmp_path / "logs/*"))


@pytest.mark.parametrize("name", ["gone", "gone.csv", "gone/*.csv", "empty"])
def test_a_uri_that_matches_nothing_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.csv")
    with pytest.raises(InputError, match=name.replace("*", r"\*")):
        listed(tmp_path / "a.csv", tmp_path / name)


def test_unknown_format_protocol_and_pattern_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    for options, message in [
        ({"format": "rosbag9"}, r"input\.format: 'rosbag9' is unknown"),
        ({"episode": "(oops"}, r"input\.episode: .* no regular expression"),
        ({"episode": r"(\d+)\.csv"}, r"input\.episode: .* lacks a group"),
    ]:
        with pytest.raises(InputError, match=message):
            listed(tmp_path, **options)
    with pytest.raises(InputError, match="nosuch"):
        listed("nosuch://x/a.csv")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.mcap", b"", "empty file"),
        ("a.csv", b"", "empty file"),
        ("a.mcap", b"PAR1" + bytes(50), r"not mcap: begins with b'PAR1.*which is parquet"),
        ("a.parquet", b"#ROSBAG V2.0\n", "which is rosbag1"),
        ("a.hdf5", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.csv", b"\x89HDF\r\n\x1a\n" + bytes(50), "which is hdf5"),
        ("a.csv", "time_ns,x\n0,1\n".encode("utf-16-le"), "text is right"),
        ("a.svo", b"SVO", "is a ZED recording, which no reader takes"),
        ("README", b"hello", "unrecognised format"),
    ],
)
def test_what_no_reader_can_read_is_listed_with_its_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = write(tmp_path / name, content)
    write(tmp_path / "good.csv")
    for uri in (path, tmp_path / "*"):
        (bad,) = [ref for ref in listed(uri) if ref.failure]
        assert bad.id == name
        assert str(path) in bad.failure
        assert re.search(reason, bad.failure), bad.failure
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_episode(bad, ["x"], InputSpec((str(path),)))


def test_a_format_whose_package_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.h5", b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setitem(UNAVAILABLE, "hdf5", "needs h5py: pip install it")
    (ref,) = listed(tmp_path)
    assert ref.failure == "needs h5py: pip install it"


def test_format_can_be_given_for_any_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.log")
    (ref,) = listed(tmp_path / "a.log", format="csv")
    assert not ref.failure
    assert read_episode(ref, ["x"], InputSpec(())).streams["x"].values.tolist() == [1, 2]


def test_a_dangling_link_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    (tmp_path / "b.csv").symlink_to(tmp_path / "nowhere")
    good, bad = listed(tmp_path)
    assert not good.failure
    assert "no such file" in bad.failure


def test_a_folder_that_may_not_be_listed_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.csv")
    write(tmp_path / "locked/b.csv")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refs = listed(tmp_path)
    assert [(ref.id, bool(ref.failure)) for ref in refs] == [("a.csv", False), ("locked", True)]


def test_tables_of_a_folder_are_one_episode(tmp_path: Path) -> None:
    for run in ("r2", "r10"):
        write(tmp_path / run / "joints.csv")
        write(tmp_path / run / "force.csv")
    refs = listed(tmp_path, episode="folder")
    assert ids(refs) == ["r2", "r10"]
    assert refs[0].tables == ("force", "joints")
    assert ids(listed(tmp_path / "r2", episode="folder")) == ["r2"]
    write(tmp_path / "r2/force.csv", b"")
    assert [bool(ref.failure) for ref in listed(tmp_path, episode="folder")] == [True, False]


def test_tables_are_grouped_by_pattern(tmp_path: Path) -> None:
    for name in ("7_joints.csv", "7_force.csv", "12_joints.csv", "stray.csv"):
        write(tmp_path / name)
    refs = listed(tmp_path, episode=r"(?P<episode>\d+)_(?P<table>\w+)\.csv")
    assert [ref.id for ref in refs if not ref.failure] == ["7", "12"]
    assert [ref.tables for ref in refs if not ref.failure] == [("force", "joints"), ("joints",)]
    (stray,) = [ref for ref in refs if ref.failure]
    assert stray.id == "stray.csv"
    assert "does not match input.episode" in stray.failure
    (both,) = [ref for ref in listed(tmp_path, episode=r"(?P<episode>\d+)_(?P<table>)\w+\.csv") if ref.id == "7"]
    assert both.tables == ("7_force", "7_joints")


def test_a_group_must_be_of_one_kind(tmp_path: Path) -> None:
    write(tmp_path / "r/a.csv")
    pq.write_table(pa.table({"time_ns": [0], "x": [1.0]}), tmp_path / "r/b.parquet")
    (ref,) = listed(tmp_path, episode="folder")
    assert "cannot mix csv and parquet" in ref.failure


def test_ids_stay_unique(tmp_path: Path) -> None:
    write(tmp_path / "a/x.csv")
    write(tmp_path / "a/a/x.csv")
    refs = listed(tmp_path / "a", episode="folder")
    assert len(set(ids(refs))) == len(refs) == 2


class Flaky(MemoryFileSystem):
    """A store that fails on demand."""

    protocol = "flaky"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    error: ClassVar[Exception | None] = None

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("flaky://").strip("/")

    def cat_file(self, path, start=None, end=None, **kwargs):
        if Flaky.error is not None:
            raise Flaky.error
        return super().cat_file(path, start, end, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        if Flaky.error is not None and mode == "rb":
            raise Flaky.error
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(Flaky, "error", None)
    fs = fsspec.filesystem("flaky")
    fs.pipe("/logs/a.csv", CSV.encode())
    fs.pipe("/logs/deep/b.csv", CSV.encode())
    yield fs
    Flaky.store.clear()


def test_remote_storage(flaky: Flaky) -> None:
    refs = listed("flaky://logs")
    assert ids(refs) == ["a.csv", "deep/b.csv"] == ids(listed("flaky://logs/**/*.csv"))
    assert refs[0].files[0].uri.startswith("flaky://")
    assert refs[0].files[0].version
    assert read_episode(refs[0], ["x"], InputSpec(())).streams["x"].values.tolist() == [1, 2]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "boom"), TimeoutError("slow"), ConnectionResetError("gone")])
def test_storage_faults_stay_oserrors(flaky: Flaky, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    (ref,) = listed("flaky://logs/a.csv")
    monkeypatch.setattr(Flaky, "error", error)
    with pytest.raises(type(error)):
        listed("flaky://logs/a.csv")
    for call in (lambda: list_streams(ref, InputSpec(())), lambda: read_episode(ref, ["x"], InputSpec(()))):
        with pytest.raises(type(error)):
            call()


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), FileNotFoundError(errno.ENOENT, "no")])
def test_refused_and_missing_files_are_input_errors(
    flaky: Flaky, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ref,) = listed("flaky://logs/a.csv")
    monkeypatch.setattr(Flaky, "error", error)
    (failed,) = listed("flaky://logs/a.csv")
    assert "flaky://" in failed.failure
    with pytest.raises(InputError, match="flaky://"):
        read_episode(ref, ["x"], InputSpec(()))


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), ValueError("bad"), RecursionError(), OverflowError("big"), OSError("bad chunk"),
     UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), pa.ArrowInvalid("bad"), OSError(errno.EINVAL, "seek")],
)  # fmt: skip
def test_guarded_blames_the_file_for_parser_errors(tmp_path: Path, error: Exception) -> None:
    (ref,) = listed(write(tmp_path / "a.csv"))
    with pytest.raises(InputError, match=r"a\.csv"), guarded(ref.files, format="csv"):
        raise error


def test_a_lack_of_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again: what files claim is checked before it is allocated."""
    (ref,) = listed(write(tmp_path / "a.csv"))

    def lack(*_: object) -> None:
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(READERS["csv"], "read", lack)
    with pytest.raises(MemoryError, match="3 TiB"):
        read_episode(ref, ["x"], InputSpec(()))


def test_guarded_leaves_interrupts_alone() -> None:
    with pytest.raises(KeyboardInterrupt), guarded(()):
        raise KeyboardInterrupt


def test_a_bad_source_is_an_input_error(tmp_path: Path) -> None:
    (ref,) = listed(write(tmp_path / "a.csv"))
    with pytest.raises(InputError, match="empty item"):
        read_episode(ref, ["[x,,y]"], InputSpec(()))


def test_natural_key_orders_numbers_of_any_length() -> None:
    names = ["demo_10", "demo_2", "demo_02", "a", "2", "10", "demo_" + "9" * 5000, "demo"]
    ordered = sorted(names, key=natural_key)
    assert ordered.index("2") < ordered.index("10") < ordered.index("a")
    assert ordered.index("demo_2") < ordered.index("demo_10") < ordered.index("demo_" + "9" * 5000)


@pytest.mark.parametrize("rate", [30, 29.97, 30000 / 1001, 100 / 3, 0.1, 1e6, 119.88])
def test_fixed_rates_never_drift(rate: float) -> None:
    from fractions import Fraction

    exact = Fraction(rate).limit_denominator(10**6)
    frames = np.array([0, 1, 2, 3, 29, 30, 10**6, 10**8 - 1])
    wanted = [(2 * k * 10**9 * exact.denominator + exact.numerator) // (2 * exact.numerator) for k in frames.tolist()]
    assert frame_times(frames, rate).tolist() == wanted
    assert rate_times(4, rate).tolist() == wanted[:4]


def test_thirty_hertz_is_exact_after_a_day() -> None:
    day = 30 * 86_400
    assert frame_times(np.array([day]), 30).tolist() == [86_400 * 10**9]
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            rate_times(3, bad)


@pytest.mark.realdata
def test_real_recordings(data_dir: Path) -> None:
    refs = [ref for ref in listed(data_dir, times=TableTimes(rate_hz=20)) if not ref.id.startswith("more/")]
    found = [ref for ref in refs if ref.format != "mcap"]
    assert not any(ref.failure for ref in found)
    assert len(ids(refs)) == len(set(ids(refs)))
    assert sum(ref.format == "lerobot" for ref in found) == 60
    assert [ref.id for ref in found if ref.format == "hdf5"][-1] == "hdf5/isaaclab_stack.hdf5#data/demo_9"


def test_files_passed_over_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    names = ("b.svo", "c/d_0.avi", "e.mp4", "notes.txt", "notes.md", "f.laz", "c/x.ply")
    for name in (*names, ".hidden.svo"):
        write(tmp_path / name, b"x" * 7)
    listing = list_input(InputSpec((str(tmp_path),)))
    assert [ref.id for ref in listing.episodes] == ["a.csv"]
    found = {file.uri.removeprefix(f"{tmp_path}/"): file for file in listing.passed_over}
    assert set(found) == set(names)
    assert {file.size for file in found.values()} == {7}
    assert found["b.svo"].what == "a ZED recording" and found["notes.txt"].what == "a text file"
    said = describe_passed(listing.passed_over)
    assert "1 file passed over: a compressed point cloud, as f.laz; decompress it to LAS, as with laszip" in said
    assert said.endswith("1 file passed over: of no known kind, as notes.md")
    assert list_input(InputSpec((str(tmp_path / "a.csv"),))).passed_over == []  # nothing else was asked for
    other = list_input(InputSpec((str(tmp_path),), format="csv"))
    assert len(other.passed_over) == 7
    with pytest.raises(InputError, match=r"is a recording \(1 file passed over: a point cloud, as x\.ply"):
        list_input(InputSpec((str(tmp_path / "c"),)))


def test_files_taken_by_another_uri_are_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    write(tmp_path / "b.log")
    listing = list_input(InputSpec((str(tmp_path), str(tmp_path / "b.log"))))
    assert [ref.id for ref in listing.episodes] == ["a.csv", "b.log"] and not listing.passed_over


def test_a_folder_of_glob_characters_is_what_it_says(tmp_path: Path) -> None:
    write(tmp_path / "run[1]/a.csv")
    write(tmp_path / "run1/b.csv")
    assert ids(listed(tmp_path / "run[1]")) == ["a.csv"]
    assert ids(listed(tmp_path / "run[1]/*.csv")) == ["a.csv"]
    assert ids(listed(tmp_path / "run[12]/*.csv")) == ["run1/b.csv"]
    write(tmp_path / "what?/c.csv")
    assert ids(listed(tmp_path / "what?/*.csv")) == ["c.csv"]


def test_names_that_are_no_text_are_escaped_and_read(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"pr\xfcfung.csv")
    with open(path, "wb") as file:
        file.write(b"time_ns,x\n0,1\n")
    (ref,) = listed(tmp_path)
    assert ref.id == "pr\\udcfcfung.csv"
    assert read_episode(ref, ["x"], InputSpec(())).streams["x"].values.tolist() == [1]


_SAY = r"""
import json
from robocache.formats import InputSpec, list_input, read_episode
said = []
for episode in ("file", "folder"):
    spec = InputSpec((FOLDER,), episode=episode)
    found = list_input(spec)
    for ref in found.episodes:
        streams = read_episode(ref, ["x", "\u65e5.x"], spec).streams
        said.append([ref.id, ref.files[0].uri, ref.files[0].version, sorted(ref.tables), sorted(streams)])
print(json.dumps([said, [file.uri for file in found.passed_over]]))
"""


def test_ids_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    """File names are bytes: an id, and what tells a file's version, are the same whatever a process takes them for."""
    folder = write(tmp_path / "läufe/日.csv").parent
    for name in (b"caf\xe9.csv", "caf\u00e9.csv".encode(), "\U0001f916.csv".encode(), b"\xff.svo"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_text(CSV)
    code = _SAY.replace("FOLDER", ascii(str(folder)))  # as a config has it: text, no bytes of a command line
    heard = []
    for locale in ({"PYTHONUTF8": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **locale}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        heard.append(json.loads(done.stdout))
    said, passed = heard[0]
    assert heard[1] == heard[0]
    assert {id for id, *_ in said[:4]} == {r"caf\udce9.csv", "caf\u00e9.csv", "日.csv", "\U0001f916.csv"}
    assert [streams for *_, streams in said] == [["x"]] * 4 + [["日.x"]] and said[4][0] == "läufe"
    assert passed == [f"{folder}/\udcff.svo"]


def test_files_are_selected_by_id_and_glob(tmp_path: Path) -> None:
    for name in ("run_1/a.csv", "run_1/b.csv", "run_2/a.csv", "c.csv"):
        write(tmp_path / name)
    write(tmp_path / "run_2/broken.csv", b"")

    def chosen(*select: str) -> list[str]:
        return ids(list_episodes(InputSpec((str(tmp_path),), select=select)))

    assert chosen("run_1/*", "c.csv") == ["c.csv", "run_1/a.csv", "run_1/b.csv"]
    assert chosen("*/a.csv") == ["run_1/a.csv", "run_2/a.csv"]
    assert "run_2/broken.csv" in chosen("run_2/*")
    with pytest.raises(InputError, match=r"input\.select: no episode 'run_3'; the episodes are c\.csv, run_1/a\.csv"):
        chosen("c.csv", "run_3")
