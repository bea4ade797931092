"""What is asked of files before their data is asked for reads next to nothing of them, whatever their format."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from robocache.config.load import job_from_mapping
from robocache.engine.listing import listing
from robocache.errors import ConfigError, InputError
from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes
from robocache.parquet import read_metadata
from robocache.sample import write_samples

ROWS = 20_000
TIMES = np.arange(ROWS) * 10_000_000 + 1_700_000_000_000_000_000
NUMBERS = np.random.default_rng(0).random((ROWS, 8))


def parquet(folder: Path, name: str) -> str:
    columns = {f"x{k}": NUMBERS[:, k] for k in range(8)}
    pq.write_table(pa.table({"time": TIMES, **columns}), folder / f"{name}.parquet", use_dictionary=False)
    return "x3"


def hdf5(folder: Path, name: str) -> str:
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["time"], file["obs/x"] = TIMES, NUMBERS
    return "obs/x"


def npz(folder: Path, name: str) -> str:
    np.savez(folder / f"{name}.npz", time=TIMES, x=NUMBERS)
    return "x"


def mcap(folder: Path, name: str) -> str:
    write_samples(folder / name, episodes=1, seconds=5.0, seed=0, damaged=False)
    return "/imu.orientation"


def bag(folder: Path, name: str) -> str:
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = "sensor_msgs/msg/JointState"
    header = store.types["std_msgs/msg/Header"](0, store.types["builtin_interfaces/msg/Time"](1, 0), "")
    message = store.types[kind](header, ["a", "b"], np.zeros(50), np.zeros(50), np.zeros(0))
    data = store.serialize_ros1(message, kind)
    with Writer(folder / f"{name}.bag") as writer:
        connection = writer.add_connection("/joints", kind, typestore=store)
        for time in TIMES[:2000].tolist():
            writer.write(connection, time, data)
    return "/joints.header.frame_id"


FORMATS: dict[str, Callable[[Path, str], str]] = {f.__name__: f for f in (parquet, hdf5, npz, mcap, bag)}


def read_so_far() -> int:
    """Bytes that this process has read of files, the cache of the system among them."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux counts what a process reads")
@pytest.mark.parametrize("format", FORMATS)
def test_types_take_less_than_a_hundredth_of_a_file(tmp_path: Path, format: str) -> None:
    for folder in ("first", "logs"):  # the first call imports what it needs
        (tmp_path / folder).mkdir()
        source = FORMATS[format](tmp_path / folder, "a")
        size = sum(path.stat().st_size for path in (tmp_path / folder).rglob("*") if path.is_file())
        spec = InputSpec((str(tmp_path / folder),), times=TableTimes("time", "ns"))
        before = read_so_far()
        (ref,) = list_episodes(spec)
        assert list(describe_episode(ref, [source], spec)) == [source]
        read = read_so_far() - before
    assert size > 500_000 and read < size / 100


def test_a_listed_log_is_not_opened_again_for_its_types(tmp_path: Path) -> None:
    """But one that was replaced is, and one whose data is looked into."""
    mcap(tmp_path, "logs")
    spec = InputSpec((str(tmp_path / "logs"),))
    (ref,) = list_episodes(spec)
    path = Path(ref.files[0].uri)
    whole = path.read_bytes()
    path.write_bytes(b"")
    known = describe_episode(ref, ["/imu.orientation", "/joint_states.position"], spec)
    assert known["/imu.orientation"].shape == (4,) and known["/joint_states.position"].open
    with pytest.raises(InputError, match="MCAP"):
        describe_episode(ref, ["/joint_states.position"], spec, look=True)
    (broken,) = list_episodes(spec)
    assert "empty file" in broken.failure
    path.write_bytes(whole)
    (again,) = list_episodes(spec)
    types = describe_episode(again, ["/joint_states.position"], spec, look=True)
    assert not types["/joint_states.position"].open


def test_a_typo_is_told_alone(tmp_path: Path) -> None:
    """Of types that only messages tell nothing is said before one is read."""
    mcap(tmp_path, "logs")
    features = {"q": {"source": "/joint_states.position"}, "typo": {"source": "/no_such.x"}}
    config = {"input": {"uri": str(tmp_path / "logs")}, "features": features, "timeline": {"rate_hz": 50}}
    with pytest.raises(ConfigError) as caught:
        listing(job_from_mapping({**config, "output": {"uri": str(tmp_path / "out")}}))
    (problem,) = caught.value.problems
    assert problem.startswith("features.typo[0].source: /no_such.x is in none of 1 episodes")


@pytest.mark.parametrize("damage", ["cut", "magic", "length", "thrift"])
def test_a_damaged_end_is_refused_as_pyarrow_does(tmp_path: Path, damage: str) -> None:
    parquet(tmp_path, "a")
    path = tmp_path / "a.parquet"
    with path.open("rb") as file:
        assert read_metadata(file).equals(pq.read_metadata(path))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-5]
    elif damage == "magic":
        data[-1:] = b"X"
    elif damage == "length":
        data[-8:-4] = (1 << 31).to_bytes(4, "little")
    else:
        length = int.from_bytes(data[-8:-4], "little")
        data[-8 - length : -8] = b"\xff" * length
    path.write_bytes(data)
    with pytest.raises((pa.ArrowInvalid, OSError)), path.open("rb") as file:
        read_metadata(file)
    with pytest.raises((pa.ArrowInvalid, OSError)):
        pq.read_metadata(path)
