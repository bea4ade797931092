"""Folders of cloud files as sequences: their times, their fields, what is refused; and clouds in messages."""

from __future__ import annotations

from pathlib import Path

import cloud_kit as kit
import numpy as np
import pyarrow as pa
import pytest
from damage import outcomes
from message_kit import T0, record, stream

from robocache.clouds import MESSAGE, decode_cloud
from robocache.errors import InputError, MissingError
from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes, list_streams, read_episode
from robocache.types import Stream

DAY = 1_355_494_975_000_000_000  # 2012-12-14 14:22:55 UTC


def folder(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for i, name in enumerate(names):
        (path / name).write_bytes(kit.pcd(kit.points(5, i)))
    return path


def read(path: Path, times: TableTimes | None = None) -> Stream:
    spec = InputSpec((str(path),), format="pcd", episode="folder", times=times)
    (ref,) = list_episodes(spec)
    return read_episode(ref, ["points"], spec).streams["points"]


@pytest.mark.parametrize(
    "names, times",
    [
        (["f_20121214T142255.814212.pcd", "f_20121214T142256.068683.pcd"], [DAY + 814_212_000, DAY + 1_068_683_000]),
        (["2012-12-14_14-22-55.pcd", "2012-12-14_14-22-56.pcd"], [DAY, DAY + 10**9]),
        (["1700000000.25.pcd", "1700000001.000000001.pcd"], [T0 + 250_000_000, T0 + 1_000_000_001]),
        (["1700000000_000000007.pcd", "1700000000_000000009.pcd"], [T0 + 7, T0 + 9]),
        (["lidar_1700000000000000123.pcd", "lidar_1700000000000000456.pcd"], [T0 + 123, T0 + 456]),
        (["1700000000123.pcd", "1700000000456.pcd"], [T0 + 123_000_000, T0 + 456_000_000]),
    ],
)
def test_times_that_names_state(tmp_path, names, times):
    found = read(folder(tmp_path / "run", names))
    assert found.times.tolist() == times


def test_names_that_only_count(tmp_path):
    run = folder(tmp_path / "run", ["0000000009.pcd", "0000000010.pcd", "0000000100.pcd"])
    with pytest.raises(MissingError, match=r"the names of its 3 files state no time; set input\.times"):
        read(run)
    found = read(run, TableTimes(rate_hz=10))
    assert found.times.tolist() == [0, 100_000_000, 200_000_000]


def test_a_table_of_times(tmp_path):
    run = folder(tmp_path / "run", ["a.pcd", "b.pcd"])
    (run / "times.csv").write_text("file,stamp\nb.pcd,2.5\na,1.25\nc.pcd,9\n")
    named = TableTimes("stamp", "s", file="times.csv", files="file")
    assert read(run, named).times.tolist() == [1_250_000_000, 2_500_000_000]
    with pytest.raises(InputError, match="3 rows for 2 files; name the column"):
        read(run, TableTimes("stamp", "s", file="times.csv"))
    (run / "times.csv").write_text("file,stamp\nb.pcd,2.5\n")
    with pytest.raises(InputError, match=r"has no row for a.pcd \(1 of 2 files\)"):
        read(run, named)
    spec = InputSpec((str(run),), format="pcd", episode="folder", times=TableTimes("stamp", "s", file="no.csv"))
    (ref,) = list_episodes(spec)
    assert "no.csv: is not there" in ref.failure


def test_a_table_of_times_is_an_input_and_no_recording(tmp_path):
    run = folder(tmp_path / "run", ["a.pcd"])
    (run / "times.csv").write_text("time_s\n1\n")
    spec = InputSpec((str(run),), episode="folder", times=TableTimes(file="times.csv"))
    (ref,) = list_episodes(spec)
    assert [f.uri.rpartition("/")[2] for f in ref.files] == ["a.pcd", "times.csv"]
    assert read_episode(ref, ["points"], spec).streams["points"].times.tolist() == [10**9]


def test_what_a_sequence_says_of_itself(tmp_path):
    run = folder(tmp_path / "run", ["1700000000.1.pcd", "1700000000.2.pcd"])
    spec = InputSpec((str(run),), episode="folder")
    (ref,) = list_episodes(spec)
    (info,) = list_streams(ref, spec)
    assert (info.source, info.type, len(info.times)) == ("points", "pcd cloud", 2)
    assert info.fields == (
        ("x", "float32"),
        ("y", "float32"),
        ("z", "float32"),
        ("intensity", "uint16"),
        ("t", "float64"),
    )
    kind = describe_episode(ref, ["points", "other"], spec)
    assert list(kind) == ["points"]
    assert (kind["points"].arrow, kind["points"].open) == (pa.large_binary(), False)
    found = read_episode(ref, ["points"], spec).streams["points"]
    for i in range(2):
        np.testing.assert_array_equal(decode_cloud(found.values[i], found.about).column("x"), kit.points(5, i)["x"])


def test_las_files(tmp_path):
    pytest.importorskip("laspy")
    xyz = np.arange(12.0).reshape(4, 3)
    for i in (1, 2):
        (tmp_path / f"170000000{i}.0.las").write_bytes(kit.las(xyz + i, np.arange(4)))
    spec = InputSpec((str(tmp_path),), episode="folder")
    (ref,) = list_episodes(spec)
    found = read_episode(ref, ["points"], spec).streams["points"]
    np.testing.assert_allclose(decode_cloud(found.values[1], found.about).places(), xyz + 2, atol=1e-9)
    (tmp_path / "1700000001.0.las").write_bytes(b"LASF" + b"\0" * 60)
    with pytest.raises(InputError, match="170000000"):
        list_streams(*((list_episodes(spec))[0], spec))


def test_whole_messages(tmp_path):
    """Fields and frame are what all messages agree on; the rest is each message's own."""
    clouds = [kit.points(6, i) for i in range(3)]
    how = [{}, {"rows": 2, "pad": 3}, {"big": True}]
    sent = [(T0 + i, kit.message(T0 + i, c, **h)) for i, (c, h) in enumerate(zip(clouds, how, strict=True))]
    path = record(tmp_path / "log.mcap", {"/points": (kit.CLOUD2, sent)})
    found = stream(path, "/points")
    assert found.values.type == MESSAGE
    assert found.times.tolist() == [T0, T0 + 1, T0 + 2]
    assert (found.about["kind"], found.about["frame"]) == ("cloud", "lidar")
    assert [f["name"] for f in found.about["fields"]] == ["x", "y", "z", "intensity", "t"]
    for i, columns in enumerate(clouds):
        cloud = decode_cloud(found.values[i], found.about)
        for name, values in columns.items():
            np.testing.assert_array_equal(cloud.column(name), values)
    spec = InputSpec((str(path),))
    (ref,) = list_episodes(spec)
    schema = describe_episode(ref, ["/points"], spec)["/points"]
    assert schema.open
    looked = describe_episode(ref, ["/points"], spec, look=True)["/points"]
    assert not looked.open
    assert looked.about["fields"] == found.about["fields"]
    with pytest.raises(InputError, match="taken as a whole"):
        describe_episode(ref, ["/points[x,y,z]"], spec)


@pytest.mark.parametrize("name", ["pcd", "las"])
def test_damaged_files_are_refused_or_read(tmp_path, name):
    if name == "las":
        pytest.importorskip("laspy")
    made = kit.pcd(kit.points(30)) if name == "pcd" else kit.las(np.ones((30, 3)), np.arange(30))
    path = tmp_path / f"a.{name}"
    path.write_bytes(made)
    seen = outcomes(path, ["points"], 60)
    assert set(seen) == {"read", "refused"}
