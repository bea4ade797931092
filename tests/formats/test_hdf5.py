"""HDF5 demonstrations: layouts, times, types, metadata, real files and damaged ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes, list_streams, read_episode
from robocache.types import EpisodeRef, rate_times

h5py = pytest.importorskip("h5py", reason="HDF5 is optional")
from damage import outcomes  # noqa: E402

RATE = TableTimes(rate_hz=20)


def spec(path: object, times: TableTimes | None = RATE) -> InputSpec:
    return InputSpec((str(path),), times=times)


def listed(path: object, times: TableTimes | None = RATE) -> list[EpisodeRef]:
    refs = list_episodes(spec(path, times))
    assert not any(ref.failure for ref in refs), refs[0].failure
    return refs


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Three demonstrations in robomimic's layout, with every type that HDF5 recordings hold."""
    path = tmp_path / "demos.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Lift"})
        file["mask/train"] = [b"demo_2"]
        for number in (10, 2, 1):
            demo = file.create_group(f"data/demo_{number}")
            n = 5 + number
            demo.attrs.update({"num_samples": n, "success": np.bool_(True), "model_file": "x" * 100_000, "bad": np.nan})
            demo["t"] = np.arange(n) * 0.1 + 5
            demo["actions"] = np.arange(n * 7, dtype="f4").reshape(n, 7)
            demo["obs/pose"] = np.arange(n * 16, dtype=">f8").reshape(n, 4, 4)
            demo["obs/done"] = np.arange(n) % 2 == 0
            demo["obs/none"] = np.empty((n, 0))
            demo["obs/short"] = np.zeros((3, 2))
            demo["obs/text"] = [f"step {i}" for i in range(n)]
            jpeg = demo.create_dataset("obs/jpeg", (n,), h5py.vlen_dtype(np.uint8))
            for i in range(n):
                jpeg[i] = np.arange(i + 1, dtype=np.uint8)
            demo["obs/compound"] = np.zeros(n, [("x", "f4"), ("y", "f4")])
            demo["obs/scalar"] = 3.0
    return path


def test_demos_are_episodes_in_natural_order(demos: Path) -> None:
    refs = listed(demos)
    assert [ref.key for ref in refs] == ["data/demo_1", "data/demo_2", "data/demo_10"]
    assert refs[0].id == "demos.hdf5#data/demo_1"
    assert sum(ref.nbytes for ref in refs) <= demos.stat().st_size


def test_values_keep_dtype_and_shape(demos: Path) -> None:
    ref = listed(demos)[1]
    sources = ["actions", "actions[0,6]", "obs/pose", "obs/done", "obs/none", "obs/text", "obs/jpeg", "gone", "obs"]
    episode = read_episode(ref, sources, spec(demos))
    values = {source: stream.values for source, stream in episode.streams.items()}
    assert list(values) == sources[:-2]
    assert values["actions"].dtype == np.float32
    assert values["actions"].shape == (7, 7)
    assert values["actions[0,6]"].tolist() == values["actions"][:, [0, 6]].tolist()
    assert values["obs/pose"].shape == (7, 4, 4)
    assert values["obs/pose"].dtype == np.dtype("f8")
    assert values["obs/done"].dtype == np.bool_
    assert values["obs/none"].shape == (7, 0)
    assert values["obs/text"].to_pylist() == [f"step {i}" for i in range(7)]
    assert values["obs/jpeg"].to_pylist() == [bytes(range(i + 1)) for i in range(7)]
    for stream in episode.streams.values():
        assert stream.times.tolist() == [50_000_000 * k for k in range(7)]


def test_metadata_is_small_and_json(demos: Path) -> None:
    metadata = read_episode(listed(demos)[0], [], spec(demos)).metadata
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata == {"env_args": '{"env_name": "Lift"}', "num_samples": 6, "success": True}


def test_time_from_a_dataset(demos: Path) -> None:
    times = TableTimes("t", "s")
    ref = listed(demos, times)[0]
    episode = read_episode(ref, ["actions"], spec(demos, times))
    assert episode.streams["actions"].times.tolist() == [5_000_000_000 + 100_000_000 * k for k in range(6)]
    sources = {info.source for info in list_streams(ref, spec(demos, times))}
    assert "actions" in sources
    assert "obs/short" not in sources
    assert {"obs/scalar", "@success"} <= sources
    with pytest.raises(InputError, match=r"'obs/short' has 3 rows, the time 't' has 6"):
        read_episode(ref, ["obs/short"], spec(demos, times))


@pytest.mark.parametrize(
    ("times", "source", "message"),
    [
        (None, "actions", r"input\.times.*datasets are .*actions"),
        (TableTimes("gone"), "actions", r"time 'gone' is not a dataset.*datasets are"),
        (TableTimes("obs/text"), "actions", r"times must be numbers"),
        (TableTimes("obs/pose"), "actions", r"one column of numbers"),
        (RATE, "actions[9]", r"column 9 asked for, it has 7"),
        (RATE, "actions[x]", r"no names"),
        (RATE, "obs/compound", r"cannot be read as a stream"),
        (RATE, "obs/text[0]", r"cannot be read as a stream"),
    ],
)
def test_mistakes_are_explained(demos: Path, times: TableTimes | None, source: str, message: str) -> None:
    ref = listed(demos)[0]
    with pytest.raises(InputError, match=rf"demos\.hdf5#data/demo_1.*{message}"):
        read_episode(ref, [source], spec(demos, times))


def test_a_file_without_demo_groups_is_one_episode(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "episode_0.h5", "w", userblock_size=512) as file:
        file["observations/qpos"] = np.ones((4, 14))
        file["data"] = np.zeros((4, 2))  # a dataset of that name is no folder of demos
        file.attrs["sim"] = True
    (ref,) = listed(tmp_path)
    assert (ref.id, ref.key) == ("episode_0.h5", "")
    episode = read_episode(ref, ["observations/qpos", "data"], spec(tmp_path))
    assert episode.streams["observations/qpos"].values.shape == (4, 14)
    assert episode.metadata == {"sim": True}


def test_remote_files(demos: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/h5/demos.hdf5", demos.read_bytes())
    try:
        ref = listed("memory://h5")[2]
        assert read_episode(ref, ["actions"], spec("memory://h5")).streams["actions"].values.shape == (15, 7)
    finally:
        fs.rm("/h5", recursive=True)


def test_a_size_that_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("x", (1 << 40,), "f8", chunks=(1024,))
    (ref,) = listed(tmp_path)
    with pytest.raises(InputError, match="0 bytes unpack to 8796093022208 or more"):
        read_episode(ref, ["x"], spec(tmp_path))


def test_a_heap_that_libhdf5_would_never_leave_is_refused(demos: Path) -> None:
    content = bytearray(demos.read_bytes())
    (ref, *_) = listed(demos)
    starts = [match.start() for match in re.finditer(rb"GCOL\x01", content)]
    assert starts
    for start in starts:  # the first object of each collection becomes free space of no size
        content[start + 16 : start + 32] = bytes(16)
    demos.write_bytes(content)
    with pytest.raises(InputError, match="HDF5 heap at byte"):
        read_episode(ref, ["obs/text"], spec(demos))


def test_a_heap_that_claims_more_than_the_file_has_is_refused(demos: Path) -> None:
    content = bytearray(demos.read_bytes())
    (ref, *_) = listed(demos)
    for match in re.finditer(rb"GCOL\x01", content):
        content[match.start() + 8 : match.start() + 16] = (4 << 30).to_bytes(8, "little")
    demos.write_bytes(content)
    with pytest.raises(InputError, match="claims 4294967296 bytes, the file ends after"):
        read_episode(ref, ["obs/text"], spec(demos))


@pytest.mark.parametrize("user_block", [0, 512])
@pytest.mark.parametrize("chunks", [None, (7,)])
@pytest.mark.parametrize("kind", ["text", "list"])
def test_a_value_that_claims_more_than_the_file_has_is_refused(tmp_path, user_block, chunks, kind):
    """libhdf5 would take that memory before it looks; what is whole is read all the same."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=user_block) as file:
        dtype = h5py.string_dtype() if kind == "text" else h5py.vlen_dtype(np.int32)
        words = file.create_dataset("words", (20,), dtype, chunks=chunks)
        for i in range(20):
            words[i] = f"word {i}" if kind == "text" else np.arange(i + 1)
        at = words.id.get_chunk_info(1).byte_offset if chunks else words.id.get_offset()
    (ref,) = listed(path)
    assert len(read_episode(ref, ["words"], spec(path)).streams["words"].values) == 20
    content = bytearray(path.read_bytes())
    content[at : at + 4] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"a value of 2147483648 elements in a file of {len(content)} bytes"):
        read_episode(ref, ["words"], spec(path))


def test_a_chunk_shorter_than_its_checksum_is_refused(tmp_path: Path) -> None:
    """libhdf5 2.0 reads before its begin, and the process ends."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=np.arange(600.0).reshape(200, 3), chunks=(50, 3), fletcher32=True)
        size = x.id.get_chunk_info(1).size
    (ref,) = listed(path)
    assert len(read_episode(ref, ["x"], spec(path)).streams["x"].values) == 200
    content = bytearray(path.read_bytes())
    key = size.to_bytes(4, "little") + bytes(4) + (50).to_bytes(8, "little")  # of the B-tree: size, filters, place
    assert content.count(key) == 1
    at = content.index(key)
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(InputError, match="a chunk of 0 bytes with a checksum of 4"):
        read_episode(ref, ["x"], spec(path))


def test_damage(demos: Path) -> None:
    sources = ["actions", "obs/pose", "obs/text", "obs/jpeg", "obs/done"]
    seen = outcomes(demos, sources, tries=60, times=TableTimes("t"))
    assert set(seen) == {"read", "refused"}, seen


@pytest.mark.realdata
def test_real_sawyer(data_dir: Path) -> None:
    path, times = data_dir / "hdf5/SawyerLift.hdf5", TableTimes("states[0]")
    refs = listed(path, times)
    assert [ref.key for ref in refs] == ["data/demo_1", "data/demo_2"]
    episode = read_episode(refs[0], ["joint_velocities", "left_dpos", "states[1:8]"], spec(path, times))
    stream = episode.streams["joint_velocities"]
    assert stream.values.shape == (1058, 7)
    assert episode.streams["left_dpos"].values.shape == (1058, 0)
    steps = np.diff(stream.times)
    assert stream.times[0] == 10_000_000
    assert steps.min() >= 9_000_000
    assert steps.max() <= 25_000_000
    with h5py.File(path) as file:
        states = file["data/demo_1/states"][()]
    assert (episode.streams["states[1:8]"].values == states[:, 1:8]).all()
    assert stream.times.tolist() == [round(t * 10**9) for t in states[:, 0].tolist()]
    assert episode.metadata["env"] == "SawyerLift"


@pytest.mark.realdata
def test_real_wipe_and_stack(data_dir: Path) -> None:
    path = data_dir / "hdf5/PandaWipe.hdf5"
    (ref,) = listed(path, TableTimes("states[0]"))
    stream = read_episode(ref, ["joint_torques"], spec(path, TableTimes("states[0]"))).streams["joint_torques"]
    assert stream.times[:3].tolist() == [52_000_000, 102_000_000, 152_000_000]
    assert stream.values.shape == (174, 7)

    path = data_dir / "hdf5/isaaclab_stack.hdf5"
    refs = listed(path)
    assert len(refs) == 10
    total = 0
    for ref in refs:
        episode = read_episode(ref, ["obs/eef_pos", "obs/datagen_info/eef_pose/franka"], spec(path))
        n = episode.metadata["num_samples"]
        assert episode.streams["obs/datagen_info/eef_pose/franka"].values.shape == (n, 4, 4)
        assert episode.streams["obs/eef_pos"].times.tolist() == rate_times(n, 20).tolist()
        assert episode.metadata["success"] is True
        assert "Isaac-Stack" in episode.metadata["env_args"]
        total += n
    assert total == 2163
    infos = {info.source: info.type for info in list_streams(refs[0], spec(path))}
    assert infos["obs/datagen_info/eef_pose/franka"] == "float32[4,4]"


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["PandaWipe", "SawyerLift"])
def test_damage_to_real_files(data_dir: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(data_dir / f"hdf5/{name}.hdf5", tmp_path))
    seen = outcomes(path, ["states", "joint_torques"], tries=60, times=TableTimes("states[0]"))
    assert set(seen) == {"read", "refused"}, seen


def test_what_holds_for_the_whole_episode(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["t"], file["x"], file["success"], file["goal"] = np.arange(5) + 7.0, np.arange(5), True, "fold"
        file.attrs["task"], file.attrs["mass"], file.attrs["sim"] = "pick", [1.5, 2.5], np.bool_(False)
    spec = InputSpec((str(path),), times=TableTimes("t"))
    (ref,) = list_episodes(spec)
    sources = ["success", "goal", "metadata.task", "metadata.mass", "metadata.sim", "metadata.gone"]
    found = read_episode(ref, ["x", *sources], spec).streams
    assert list(found) == ["x", *sources[:-1]]
    assert all(found[name].times.tolist() == [7 * 10**9] for name in sources[:-1])
    assert found["success"].values.tolist() == [True] and found["goal"].values.to_pylist() == ["fold"]
    assert found["metadata.task"].values.to_pylist() == ["pick"]
    assert found["metadata.mass"].values.tolist() == [[1.5, 2.5]] and found["metadata.sim"].values.tolist() == [False]
    assert describe_episode(ref, sources, spec) == {name: found[name].type for name in sources[:-1]}


def test_episodes_are_selected_by_mask_name_and_range(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for i in range(12):
            file[f"data/demo_{i}/x"] = np.arange(3) + i
        file["mask/train"] = np.array([b"demo_10", b"demo_1"])

    def chosen(*select: str) -> list[str]:
        refs = list_episodes(InputSpec((str(path),), times=TableTimes(rate_hz=1), select=select))
        return [ref.failure or ref.key.rpartition("/")[2] for ref in refs]

    assert chosen("train") == ["demo_1", "demo_10"] and len(chosen()) == 12
    assert chosen("train", "demo_3", "10:") == ["demo_1", "demo_3", "demo_10", "demo_11"]
    assert chosen("0", "3", "demo_1?") == ["demo_0", "demo_3", "demo_10", "demo_11"]
    assert "no episodes 'valid'; its lists are train; its episodes are demo_0" in chosen("valid")[0]
    with h5py.File(path, "a") as file:
        file["mask/test"] = np.array([b"demo_5", b"demo_99"])
    assert "mask/test names demo_99, which are not there" in chosen("test")[0] and len(chosen("train")) == 2


def test_trajectories_at_the_top_are_episodes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for i in (0, 2, 10):
            file[f"traj_{i}/actions"] = np.full((4, 2), i)
            file[f"traj_{i}"].attrs["seed"] = i
    spec = InputSpec((str(path),), times=TableTimes(rate_hz=20))
    refs = list_episodes(spec)
    assert [ref.key for ref in refs] == ["traj_0", "traj_2", "traj_10"]
    episode = read_episode(refs[1], ["actions", "metadata.seed"], spec)
    assert (episode.streams["actions"].values == 2).all() and episode.streams["metadata.seed"].values.tolist() == [2]


def test_layouts_of_known_datasets_are_found_by_themselves(tmp_path):
    """ALOHA and DROID keep an episode a file, LIBERO and robomimic all below data, ManiSkill all at the top."""
    rows = np.arange(12.0).reshape(4, 3)
    for name, paths in {
        "aloha": ["observations/qpos", "action"],
        "droid": ["observation/robot_state/joint_positions", "action/joint_position"],
        "libero": ["data/demo_0/obs/ee_pos", "data/demo_0/actions", "data/demo_1/actions"],
        "maniskill": ["traj_0/actions", "traj_0/obs/agent/qpos"],
    }.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for path in paths:
                file[path] = rows
            if name == "droid":  # one row a step, milliseconds since 1970
                file["observation/timestamp/control/step_start"] = 1_700_000_000_000 + 66 * np.arange(4)
    times = TableTimes(rate_hz=15)
    spec = InputSpec((str(tmp_path),), times=times)
    refs = {ref.id: ref for ref in list_episodes(spec)}
    assert list(refs) == ["aloha.h5", "droid.h5", "libero.h5#data/demo_0", "libero.h5#data/demo_1",
                          "maniskill.h5#traj_0"]  # fmt: skip
    for id, source in (("aloha.h5", "observations/qpos"), ("libero.h5#data/demo_0", "obs/ee_pos"),
                       ("maniskill.h5#traj_0", "obs/agent/qpos")):  # fmt: skip
        np.testing.assert_array_equal(read_episode(refs[id], [source], spec).streams[source].values, rows)
    droid = InputSpec((str(tmp_path),), times=TableTimes("observation/timestamp/control/step_start", "ms"))
    stream = read_episode(refs["droid.h5"], ["action/joint_position"], droid).streams["action/joint_position"]
    assert np.diff(stream.times).tolist() == [66_000_000] * 3
