"""Zarr stores and NumPy files: replay buffers cut into episodes, real stores of both versions, damaged archives."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from damage import outcomes

from robocache import run, verify
from robocache.errors import InputError, MissingError
from robocache.formats import InputSpec, TableTimes, list_episodes, list_input, list_streams, read_episode, zarr_store
from robocache.formats.kept import Kept

zarr = pytest.importorskip("zarr", reason="zarr is not installed")
RATE = TableTimes(rate_hz=10)
ENDS = [30, 30, 100]  # the second has no step
ACTION = np.arange(700, dtype=np.float32).reshape(100, 7)


def buffer(path: Path, version: int, inside: str = "") -> Path:
    """A replay buffer as UMI and diffusion policy write it: a folder, or zipped, at its top or in a folder of it."""
    zipped = path.suffix == ".zip"
    store = zarr.storage.ZipStore(path, mode="w") if zipped else zarr.storage.LocalStore(path)
    root = zarr.open_group(store, path=inside, mode="w", zarr_format=version)
    root.attrs["task"] = "push"
    root.create_array("data/action", data=ACTION, chunks=(16, 7))
    root.create_array("data/img", data=np.arange(100 * 48, dtype=np.uint8).reshape(100, 4, 4, 3), chunks=(10, 4, 4, 3))
    root.create_array("meta/episode_ends", data=np.array(ENDS, np.int64))
    store.close()
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("name", "inside"), [("b.zarr", ""), ("b.zarr.zip", ""), ("c.zarr.zip", "pusht/replay.zarr")])
def test_the_episodes_of_a_replay_buffer(tmp_path, version, name, inside):
    buffer(tmp_path / name, version, inside)
    spec = InputSpec((str(tmp_path),), times=RATE)
    listing = list_input(spec)
    assert [ref.id for ref in listing.episodes] == [f"{name}#{k}" for k in range(3)]
    assert listing.passed_over == []
    first, none, last = listing.episodes
    episode = read_episode(last, ["data/action[0:2]", "data/img"], spec)
    np.testing.assert_array_equal(episode.streams["data/action[0:2]"].values, ACTION[30:, :2])
    assert episode.streams["data/img"].values.shape == (70, 4, 4, 3)
    assert episode.streams["data/img"].times.tolist() == [k * 100_000_000 for k in range(70)]
    assert episode.metadata["task"] == "push"
    assert len(read_episode(none, ["data/action"], spec).streams["data/action"].times) == 0
    assert [(i.source, i.type, len(i.times)) for i in list_streams(first, spec)] == [
        ("data/action", "float32[7]", 30),
        ("data/img", "uint8[4,4,3]", 30),
    ]
    with pytest.raises(MissingError, match=r"keep no time; set input\.times"):
        read_episode(first, ["data/action"], InputSpec((str(tmp_path),)))


def test_a_buffer_into_a_dataset_and_one_file_that_changes(tmp_path):
    path = buffer(tmp_path / "b.zarr", 2)
    config = {
        "input": {"uri": str(path), "times": {"rate_hz": 10}, "select": ["0", "2"]},
        "features": {"action": "data/action"},
        "timeline": {"rate_hz": 10},
        "output": {"uri": str(tmp_path / "out")},
    }
    summary = run(config)
    assert (summary.episodes, summary.rows, summary.quarantined) == (2, 100, ())
    assert not verify(str(tmp_path / "out")).problems
    (before,) = {ref.files[0].version for ref in list_episodes(InputSpec((str(path),), times=RATE))}
    zarr.open_group(path, mode="a")["data/action"][3] = 0
    (after,) = {ref.files[0].version for ref in list_episodes(InputSpec((str(path),), times=RATE))}
    assert before != after


@pytest.mark.parametrize(("name", "opens"), [("b.zarr", "_folder"), ("b.zarr.zip", "_archive")])
def test_a_store_is_opened_once_for_all_its_episodes_and_anew_once_it_has_changed(tmp_path, monkeypatch, name, opens):
    path = buffer(tmp_path / name, 2)
    spec = InputSpec((str(path),), times=RATE)
    opened, real = [], getattr(zarr_store, opens)
    monkeypatch.setattr(zarr_store, opens, lambda *given: opened.append(given) or real(*given))
    refs = list_episodes(spec)
    for ref in refs * 2:
        read_episode(ref, ["data/action", "data/img"], spec)
    assert len(opened) == 1
    path.unlink() if path.is_file() else shutil.rmtree(path)
    buffer(path, 3)
    values = read_episode(list_episodes(spec)[2], ["data/action"], spec).streams["data/action"].values
    np.testing.assert_array_equal(values, ACTION[30:])
    assert len(opened) == 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells which files are open")
def test_few_of_many_archives_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_store, "_STORES", Kept(4 * zarr_store._OPEN))
    for k in range(12):
        store = zarr.storage.ZipStore(tmp_path / f"e{k:02d}.zarr.zip", mode="w")
        zarr.open_group(store, mode="w", zarr_format=2).create_array("q", shape=(5, 2), chunks=(5, 2), dtype="f4")[
            :
        ] = k
        store.close()
    spec = InputSpec((str(tmp_path),), times=RATE)
    for k, ref in enumerate(list_episodes(spec)):
        assert (read_episode(ref, ["q"], spec).streams["q"].values == k).all()
    there = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert sum(path.startswith(str(tmp_path)) for path in there) <= 4


def test_an_open_archive_that_fails_is_opened_anew(tmp_path, monkeypatch):
    spec = InputSpec((str(buffer(tmp_path / "b.zarr.zip", 2)),), times=RATE)
    ref = list_episodes(spec)[0]
    real = zipfile.ZipFile
    with monkeypatch.context() as patch:
        patch.setattr(real, "open", lambda *given: (_ for _ in ()).throw(OSError(errno.ESTALE, "stale")))
        with pytest.raises(OSError, match="stale"):
            read_episode(ref, ["data/action"], spec)
    opened = []
    monkeypatch.setattr(zipfile, "ZipFile", lambda *given: opened.append(given) or real(*given))
    assert len(read_episode(ref, ["data/action"], spec).streams["data/action"].times) == 30 and opened


def test_an_archive_is_unpacked_once_for_all_its_episodes_and_anew_once_it_has_changed(tmp_path, monkeypatch):
    path, spec = tmp_path / "a.npz", InputSpec((str(tmp_path / "a.npz"),), times=RATE)
    unpacked: list[tuple[int, ...]] = []
    read_array = np.lib.format.read_array

    def counted(*given, **options):
        array = read_array(*given, **options)
        unpacked.append(array.shape)
        return array

    monkeypatch.setattr(np.lib.format, "read_array", counted)
    for factor in (1, 2):
        np.savez_compressed(path, **{"data/action": factor * ACTION, "meta/episode_ends": np.array(ENDS)})
        refs = list_episodes(spec)
        found = [read_episode(ref, ["data/action"], spec).streams["data/action"].values for ref in refs]
        np.testing.assert_array_equal(np.concatenate(found), factor * ACTION)
        assert unpacked.count(ACTION.shape) == factor


def test_storage_that_fails_is_no_array_that_cannot_be_read(tmp_path, monkeypatch):
    path = buffer(tmp_path / "b.zarr", 2)
    spec = InputSpec((str(path),), times=RATE)
    ref = list_episodes(spec)[0]
    monkeypatch.setattr(zarr_store, "_STORES", Kept(1 << 20))
    small = zarr_store._small
    broken = {"data/action/.zarray": ConnectionResetError("reset by peer")}
    with monkeypatch.context() as patch:
        patch.setattr(zarr_store, "_small", lambda *given: small(*given) | broken)
        with pytest.raises(OSError, match="reset by peer"):
            read_episode(ref, ["data/action"], spec)
    assert len(read_episode(ref, ["data/action"], spec).streams["data/action"].times) == 30


def test_ends_that_go_back_or_beyond_are_refused(tmp_path):
    path = buffer(tmp_path / "b.zarr", 2)
    ends = zarr.open_group(path, mode="a")["meta/episode_ends"]
    ends[:] = [30, 20, 100]
    (ref,) = list_episodes(InputSpec((str(path),), times=RATE))
    assert "meta/episode_ends goes back, at episode 1" in ref.failure
    ends[:] = [30, 40, 1000]
    spec = InputSpec((str(path),), times=RATE)
    with pytest.raises(InputError, match="data/action"):
        read_episode(list_episodes(spec)[2], ["data/action"], spec)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["zarrita_v2_within", "zarrita_v3_stored"])
def test_real_stores_are_read_as_zarr_reads_them_and_what_is_not_says_why(data_dir, name):
    path = data_dir / "more" / "zarr" / f"{name}.zarr.zip"
    root = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", use_consolidated=False)
    compared = 0
    for source, time in (("1d.contiguous.i4", RATE), ("2d.chunked.i2", RATE), ("1d.contiguous.f4.be", RATE)):
        spec = InputSpec((str(path),), times=time)
        (ref,) = list_episodes(spec)
        infos = {info.source: info for info in list_streams(ref, spec)}
        if source in infos and not infos[source].failure and len(infos[source].times) == root[source].shape[0]:
            np.testing.assert_array_equal(read_episode(ref, [source], spec).streams[source].values, root[source][:])
            compared += 1
    assert compared
    unread = [info for info in infos.values() if info.failure]
    assert all("cannot be read" in info.failure for info in unread)
    assert name != "zarrita_v2_within" or "1d.contiguous.json2.O" in {info.source for info in unread}


@pytest.mark.realdata
def test_a_motion_clip_says_its_rate_itself(data_dir):
    path = data_dir / "more/npz/humanoid_run.npz"
    spec = InputSpec((str(path),))
    (ref,) = list_episodes(spec)
    stream = read_episode(ref, ["dof_positions[0:3]"], spec).streams["dof_positions[0:3]"]
    np.testing.assert_array_equal(stream.values, np.load(path)["dof_positions"][:, :3])
    assert stream.times[:3].tolist() == [0, 16_666_667, 33_333_333]
    with pytest.raises(InputError, match=r"'dof_names' has shape \[28\], the steps are 82"):
        read_episode(ref, ["dof_names"], spec)


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "prefix"), [("diamond.npz", "points"), ("diamond.npy", "data")])
def test_records_are_read_field_by_field(data_dir, name, prefix):
    path = data_dir / "more/clouds/ply" / name
    spec = InputSpec((str(path),), times=TableTimes(rate_hz=1))
    (ref,) = list_episodes(spec)
    found = np.load(path)
    wanted = found[prefix] if name.endswith("npz") else found
    if len(wanted) == 6 and name.endswith("npy"):
        stream = read_episode(ref, [f"{prefix}.red"], spec).streams[f"{prefix}.red"]
        np.testing.assert_array_equal(stream.values, wanted["red"])
    with pytest.raises(InputError, match=r"records of x, y, z"):
        read_episode(ref, [prefix], spec)


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), evil=np.array([{}, print, None], object))
    spec = InputSpec((str(tmp_path),), times=RATE)
    (ref,) = list_episodes(spec)
    assert read_episode(ref, ["x"], spec).streams["x"].values.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="holds Python objects, which are not unpickled"):
        read_episode(ref, ["evil"], spec)


def test_an_array_that_claims_more_than_is_there_is_refused(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(80))
    (ref,) = list_episodes(InputSpec((str(tmp_path),), times=RATE))
    assert "claims [1000000000000] of float64, 80 bytes are there" in ref.failure


def test_damage_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(500.0), y=np.arange(500))
    seen = outcomes(tmp_path / "a.npz", ["x"], 120, times=RATE)
    seen += outcomes(buffer(tmp_path / "b.zarr.zip", 2), ["data/action"], 60, times=RATE)
    assert set(seen) == {"read", "refused"}
    assert zipfile.is_zipfile(tmp_path / "b.zarr.zip")
