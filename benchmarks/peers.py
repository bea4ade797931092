"""How fast are recordings read? Each format beside the library that its users have, the same numbers from both.

    python benchmarks/peers.py [DATA] [--repetitions 7] [--csv FILE]

DATA: the folder of real recordings (../shared/data). Logs with protobuf, HDF5 and Zarr are made: 60 s of a sensor at
1 kHz, 20 demonstrations of 300 steps; the ROS 1 bag with other chunks; a ROS 2 bag and a flight of 40 times the length
of the real ones. Every case starts from the path (page cache warm) and ends with arrays of float64, which are compared
before anything is timed; the cases take turns. A peer reads as its documentation has it: message by message, an array
an episode, or row by row.
"""

from __future__ import annotations

import argparse
import operator
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import common
import h5py
import numpy as np
from decode import HUSKY, official_arrays, topics_of

from robocache.formats import InputSpec, TableTimes, list_episodes, read_episode

Arrays = dict[str, np.ndarray]
DEMOS, STEPS = 20, 300
WIDTHS = {"obs/eef_pos": 3, "obs/joint_pos": 7, "obs/joint_vel": 7, "obs/gripper": 2, "actions": 7}
RATE = TableTimes(rate_hz=20.0)
POSE_TYPES = {
    "/imu.orientation": [f"orientation.{c}" for c in "xyzw"],
    "/imu.angular_velocity": [f"angular_velocity.{c}" for c in "xyz"],
    "/imu.linear_acceleration": [f"linear_acceleration.{c}" for c in "xyz"],
    "/pose.pose": [*(f"pose.position.{c}" for c in "xyz"), *(f"pose.orientation.{c}" for c in "xyzw")],
}
FORCE = {"/force.force": [f"force.{c}" for c in "xyz"], "/force.torque": [f"torque.{c}" for c in "xyz"]}
FLIGHT = {"sensor_combined": ("gyro_rad", 3), "vehicle_attitude": ("q", 4)}


def ours(path: Path, sources: Sequence[str], times: TableTimes | None = None) -> Arrays:
    """Of all episodes, one after the other, float64 ``[n, D]``."""
    spec = InputSpec((str(path),), times=times)
    found: dict[str, list[np.ndarray]] = {source: [] for source in sources}
    for ref in list_episodes(spec):
        for source, stream in read_episode(ref, list(sources), spec).streams.items():
            found[source].append(np.reshape(stream.values, (len(stream.times), -1)))
    return {source: np.concatenate(arrays).astype(np.float64) for source, arrays in found.items()}


def rosbags_arrays(path: Path, sources: dict[str, list[str]]) -> Arrays:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    rows: dict[str, list] = {source: [] for source in sources}
    wanted: dict[str, list] = {topic: [] for topic in topics_of(sources)}
    for source, fields in sources.items():
        wanted[source.partition(".")[0]].append((rows[source].append, operator.attrgetter(*fields)))
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        chosen = [c for c in reader.connections if c.topic in wanted]
        for connection, _, data in reader.messages(chosen):
            message = reader.deserialize(data, connection.msgtype)
            for append, get in wanted[connection.topic]:
                append(get(message))
    return {source: np.array(values, np.float64).reshape(len(values), -1) for source, values in rows.items()}


def write_protobuf(path: Path, seconds: int = 60) -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from mcap_protobuf.writer import Writer

    file = descriptor_pb2.FileDescriptorProto(name="wrench.proto", package="bench", syntax="proto3")
    for name, fields in (("Vector", "xyz"), ("Wrench", ("force", "torque"))):
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields, 1):
            kind = {"type": 1} if name == "Vector" else {"type": 11, "type_name": ".bench.Vector"}
            message.field.add(name=field, number=number, label=1, **kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    wrench = message_factory.GetMessageClass(pool.FindMessageTypeByName("bench.Wrench"))
    values = np.random.default_rng(0).standard_normal((1000 * seconds, 2, 3))
    with path.open("wb") as stream, Writer(stream) as writer:
        for k, (force, torque) in enumerate(values.tolist()):
            sides = {name: dict(zip("xyz", v, strict=True)) for name, v in (("force", force), ("torque", torque))}
            stamp = 10**18 + k * 1_000_000
            writer.write_message("/force", wrench(**sides), log_time=stamp, publish_time=stamp)


def protobuf_arrays(path: Path) -> Arrays:
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    rows: dict[str, list] = {source: [] for source in FORCE}
    with path.open("rb") as file:
        for _, _, _, message in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages():
            for source, values in rows.items():
                side = getattr(message, source.rpartition(".")[2])
                values.append((side.x, side.y, side.z))
    return {source: np.array(values, np.float64) for source, values in rows.items()}


def pyulog_arrays(path: Path) -> Arrays:
    import pyulog

    found = {d.name: d.data for d in pyulog.ULog(str(path), list(FLIGHT)).data_list if d.multi_id == 0}
    return {
        f"{topic}.{field}": np.stack([found[topic][f"{field}[{k}]"] for k in range(width)], axis=1).astype(np.float64)
        for topic, (field, width) in FLIGHT.items()
    }


def write_bag(path: Path, bag: Path) -> None:
    """The same messages in chunks of lz4."""
    from rosbags.rosbag1 import Reader, Writer

    writer = Writer(path)
    writer.set_compression(Writer.CompressionFormat.LZ4)
    with Reader(bag) as reader, writer:
        known = {}
        for c in reader.connections:
            more = {"md5sum": c.digest, "callerid": c.ext.callerid, "latching": c.ext.latching}
            known[c.id] = writer.add_connection(c.topic, c.msgtype, msgdef=c.msgdef.data, **more)
        for connection, stamp, data in reader.messages():
            writer.write(known[connection.id], stamp, data)


def write_long_bag(folder: Path, recording: Path, times: int) -> None:
    """A recording of so many times the length: its messages again and again, their stamps going on."""
    shutil.copytree(recording, folder)
    (file,) = folder.glob("*.db3")
    with closing(sqlite3.connect(file)) as bag, bag:
        first, last, count = bag.execute("SELECT min(timestamp), max(timestamp), max(id) FROM messages").fetchone()
        moved = "id + :k * :count, topic_id, timestamp + :k * :span, data"
        copied = f"INSERT INTO messages SELECT {moved} FROM messages WHERE id <= :count"
        for k in range(1, times):
            bag.execute(copied, {"k": k, "count": count, "span": last - first + 10_000_000})


def write_flight(path: Path, log: Path, times: int) -> None:
    """A flight of so many times the length: the log's data again and again, its stamps going on."""
    whole = log.read_bytes()
    at, data = 16, []  # behind the header: (length, type, content) without end
    while at + 3 <= len(whole) and at + 3 + int.from_bytes(whole[at : at + 2], "little") <= len(whole):
        end = at + 3 + int.from_bytes(whole[at : at + 2], "little")
        if whole[at + 2] == ord("D"):
            data.append((at, end))
        at = end
    again = np.frombuffer(b"".join(whole[begin:end] for begin, end in data), np.uint8).copy()
    sizes = np.array([end - begin for begin, end in data])
    stamps = (np.cumsum(sizes) - sizes + 5)[:, None] + np.arange(8)  # of each message the first field
    first = again[stamps].view("<u8")
    with path.open("wb") as file:
        file.write(whole[:at])
        for k in range(1, times):
            again[stamps] = (first + np.uint64(k * (int(np.ptp(first)) + 1000))).view(np.uint8)
            file.write(again)


def steps(name: str, demo: int) -> np.ndarray:
    return np.random.default_rng((demo, len(name))).standard_normal((STEPS, WIDTHS[name])).astype(np.float32)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for demo in range(DEMOS):
            for name in WIDTHS:
                file[f"data/demo_{demo}/{name}"] = steps(name, demo)


def h5py_arrays(path: Path, by_row: bool) -> Arrays:
    found: dict[str, list] = {name: [] for name in WIDTHS}
    with h5py.File(path, "r") as file:
        for demo in range(DEMOS):
            group = file[f"data/demo_{demo}"]
            for name, arrays in found.items():
                arrays.append(np.stack([group[name][k] for k in range(STEPS)]) if by_row else group[name][:])
    return {name: np.concatenate(arrays).astype(np.float64) for name, arrays in found.items()}


def write_zarr(path: Path) -> None:
    import zarr

    stored = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else zarr.storage.LocalStore(path)
    group = zarr.open_group(stored, mode="w", zarr_format=2)
    for name, width in WIDTHS.items():
        array = group.create_array(f"data/{name}", shape=(DEMOS * STEPS, width), chunks=(2048, width), dtype="f4")
        array[:] = np.concatenate([steps(name, demo) for demo in range(DEMOS)])
    group.create_array("meta/episode_ends", shape=(DEMOS,), dtype="i8")[:] = STEPS * np.arange(1, DEMOS + 1)
    stored.close()


def zarr_arrays(path: Path) -> Arrays:
    import zarr

    root = zarr.open(zarr.storage.ZipStore(path) if path.suffix == ".zip" else str(path), mode="r")
    ends = [0, *root["meta/episode_ends"][:].tolist()]
    arrays = {name: root[f"data/{name}"] for name in WIDTHS}
    found: dict[str, list] = {name: [] for name in WIDTHS}
    for low, high in pairwise(ends):
        for name, array in arrays.items():
            found[name].append(array[low:high])
    return {f"data/{name}": np.concatenate(some).astype(np.float64) for name, some in found.items()}


class Case(NamedTuple):
    """A format: what RoboCache reads, and what the peers do, by name."""

    goal: int
    ours: Callable[[], Arrays]
    peers: dict[str, Callable[[], Arrays]]


def cases_of(data: Path, made: Path) -> dict[str, Case]:
    bag, log, flight = data / "bags/husky.bag", data / "bags/husky.mcap", data / "ulog/sample_log_small.ulg"
    sqlite = data / "more/bags2/plotjuggler_rosbag2_test"
    proto, demos, store, zipped = (made / f"demos.{suffix}" for suffix in ("mcap", "hdf5", "zarr", "zarr.zip"))
    lz4, long, drive = made / "lz4.bag", made / "long.ulg", made / "drive"
    write_bag(lz4, bag)
    write_long_bag(drive, sqlite, 40)
    write_flight(long, flight, 40)
    write_protobuf(proto)
    write_hdf5(demos)
    write_zarr(store)
    write_zarr(zipped)
    fields = [f"{topic}.{field}" for topic, (field, _) in FLIGHT.items()]
    stored = [f"data/{name}" for name in WIDTHS]
    return {
        "mcap, ROS 2": Case(
            20, lambda: ours(log, list(HUSKY)), {"mcap-ros2-support": lambda: official_arrays(log, HUSKY)}
        ),
        "rosbag1, bz2": Case(20, lambda: ours(bag, list(HUSKY)), {"rosbags": lambda: rosbags_arrays(bag, HUSKY)}),
        "rosbag1, lz4": Case(20, lambda: ours(lz4, list(HUSKY)), {"rosbags": lambda: rosbags_arrays(lz4, HUSKY)}),
        "rosbag2, SQLite": Case(
            20, lambda: ours(sqlite, list(POSE_TYPES)), {"rosbags": lambda: rosbags_arrays(sqlite, POSE_TYPES)}
        ),
        "rosbag2, 40 MB": Case(
            20, lambda: ours(drive, list(POSE_TYPES)), {"rosbags": lambda: rosbags_arrays(drive, POSE_TYPES)}
        ),
        "mcap, protobuf": Case(
            20, lambda: ours(proto, list(FORCE)), {"mcap-protobuf-support": lambda: protobuf_arrays(proto)}
        ),
        "ulog": Case(20, lambda: ours(flight, fields), {"pyulog": lambda: pyulog_arrays(flight)}),
        "ulog, 34 MB": Case(20, lambda: ours(long, fields), {"pyulog": lambda: pyulog_arrays(long)}),
        "hdf5": Case(
            3,
            lambda: ours(demos, list(WIDTHS), RATE),
            {
                "h5py, row by row": lambda: h5py_arrays(demos, True),
                "h5py, an array an episode": lambda: h5py_arrays(demos, False),
            },
        ),
        "zarr": Case(3, lambda: ours(store, stored, RATE), {"zarr": lambda: zarr_arrays(store)}),
        "zarr, zipped": Case(3, lambda: ours(zipped, stored, RATE), {"zarr": lambda: zarr_arrays(zipped)}),
    }


def check(name: str, one: Arrays, other: Arrays) -> None:
    for source, values in one.items():
        if not np.array_equal(values, other[source], equal_nan=True):
            raise SystemExit(f"{name}: {source}: RoboCache and its peer disagree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--csv", type=Path, help="CSV to write")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    about = common.machine("numpy", "h5py", "zarr", "rosbags", "mcap-ros2-support", "mcap-protobuf-support", "pyulog")
    with tempfile.TemporaryDirectory(prefix="robocache-peers-") as made:
        for name, case in cases_of(args.data, Path(made)).items():
            found = case.ours()
            for peer, work in case.peers.items():
                check(f"{name}, {peer}", found, work())
            timings = common.take_turns({"robocache": case.ours, **case.peers}, args.repetitions)
            for peer in case.peers:
                middle, low, high = common.ratio(timings["robocache"], timings[peer])
                row = {"format": name, "peer": peer, "times_as_fast": f"{middle:.2f}", "min": f"{low:.2f}"}
                row |= {"max": f"{high:.2f}", "goal": case.goal, "numbers": sum(v.size for v in found.values())}
                row |= {f"robocache_{k}": v for k, v in common.timing_columns(timings["robocache"]).items()}
                row |= {f"peer_{k}": v for k, v in common.timing_columns(timings[peer]).items()}
                print(f"{name:18}{peer:28}{middle:8.2f} [{low:.2f}, {high:.2f}]  goal {case.goal}", flush=True)
                rows.append(row | about)
    common.write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
