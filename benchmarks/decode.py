"""How fast is a log decoded? Topics of MCAP files, read by RoboCache and by mcap-ros2-support.

    python benchmarks/decode.py husky.mcap CACHE_FOLDER/log.mcap --out benchmarks/results/cpu_decode.csv

Three topics of the Husky recording; and all of a log of the demo, with the sources of configs/demo.yaml, which is made
where the second path does not exist.

Every case starts from the path (page cache warm) and ends with the same float64 arrays, except the two that only
decompress the chunks, the floor for any reader, and the one that decodes messages and drops them. The official decoder
always decodes whole messages; RoboCache only the fields asked for. All cases run once per repetition, in shuffled
order, so that a slow moment of the machine falls on all of them. Before timing, RoboCache's arrays are checked against
the official decoder's, value for value.
"""

from __future__ import annotations

import argparse
import operator
import sys
from collections.abc import Callable
from pathlib import Path

import common
import mcap_ros2.decoder
import numpy as np
import pyarrow as pa
import zstandard
from mcap.reader import make_reader

from robocache.formats import read_episode
from robocache.formats.base import InputSpec
from robocache.formats.messages import native
from robocache.sample import write_samples
from robocache.types import EpisodeRef, FileStamp

#: source -> the numbers it stands for, as attribute paths of the official decoder's message
Sources = dict[str, list[str]]
HUSKY: Sources = {
    "/imu/data.orientation": [f"orientation.{c}" for c in "xyzw"],
    "/imu/data.angular_velocity": [f"angular_velocity.{c}" for c in "xyz"],
    "/imu/data.linear_acceleration": [f"linear_acceleration.{c}" for c in "xyz"],
    "/husky_velocity_controller/odom.pose.pose": [
        *(f"pose.pose.position.{c}" for c in "xyz"),
        *(f"pose.pose.orientation.{c}" for c in "xyzw"),
    ],
    "/husky_velocity_controller/odom.twist.twist": [
        *(f"twist.twist.linear.{c}" for c in "xyz"),
        *(f"twist.twist.angular.{c}" for c in "xyz"),
    ],
    "/fix.latitude": ["latitude"],
    "/fix.longitude": ["longitude"],
    "/fix.altitude": ["altitude"],
}
DEMO: Sources = {
    "/joint_states.position": ["position"],
    "/joint_states.velocity": ["velocity"],
    "/ft_sensor.wrench": [*(f"wrench.force.{c}" for c in "xyz"), *(f"wrench.torque.{c}" for c in "xyz")],
    "/imu.angular_velocity": [f"angular_velocity.{c}" for c in "xyz"],
    "/imu.linear_acceleration": [f"linear_acceleration.{c}" for c in "xyz"],
    "/imu.orientation": [f"orientation.{c}" for c in "xyzw"],
    "/ee_pose.pose": [*(f"pose.position.{c}" for c in "xyz"), *(f"pose.orientation.{c}" for c in "xyzw")],
    "/command.position": ["position"],
}

Arrays = dict[str, np.ndarray]


def robocache(path: Path, sources: Sources, *, verify_checksums: bool = True) -> Arrays:
    """Every source as float64 ``[n, D]``."""
    stat = path.stat()
    file = FileStamp(str(path), stat.st_size, str(stat.st_mtime_ns))
    spec = InputSpec(uri=(str(path),), verify_checksums=verify_checksums)
    ref = EpisodeRef(path.name, "mcap", (file,))
    streams = read_episode(ref, list(sources), spec).streams
    return {source: np.reshape(stream.values, (len(stream.times), -1)) for source, stream in streams.items()}


def in_numpy(path: Path, sources: Sources) -> Arrays:
    """The same without the compiled decoder."""
    library, native.library = native.library, None
    try:
        return robocache(path, sources)
    finally:
        native.library = library


def official_messages(path: Path, topics: list[str], keep: Callable[[str, object], None]) -> None:
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[mcap_ros2.decoder.DecoderFactory()])
        for _, channel, _, message in reader.iter_decoded_messages(topics=topics, log_time_order=False):
            keep(channel.topic, message)


def topics_of(sources: Sources) -> list[str]:
    return list(dict.fromkeys(source.partition(".")[0] for source in sources))


def official_arrays(path: Path, sources: Sources) -> Arrays:
    """The same arrays, gathered from the official decoder's messages."""
    getters = {source: operator.attrgetter(*fields) for source, fields in sources.items()}
    rows: dict[str, list] = {source: [] for source in sources}
    wanted: dict[str, list] = {topic: [] for topic in topics_of(sources)}
    for source in sources:
        wanted[source.partition(".")[0]].append((rows[source].append, getters[source]))

    def keep(topic: str, message: object) -> None:
        for append, get in wanted[topic]:
            append(get(message))

    official_messages(path, topics_of(sources), keep)
    return {source: np.array(values, np.float64).reshape(len(values), -1) for source, values in rows.items()}


def official_decode_only(path: Path, sources: Sources) -> None:
    official_messages(path, topics_of(sources), lambda topic, message: None)


def chunks_of(path: Path) -> list[tuple[int, int, int]]:
    """Where each chunk's compressed bytes begin and end in the file, and how many bytes they become."""
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    if summary is None or {index.compression for index in summary.chunk_indexes} != {"zstd"}:
        sys.exit(f"{path}: needs a summary and zstd chunks")
    found = []
    for index in summary.chunk_indexes:
        end = index.chunk_start_offset + index.chunk_length
        found.append((end - index.compressed_size, end, index.uncompressed_size))
    return found


def check_same(path: Path, sources: Sources) -> None:
    """Exit unless RoboCache reads what the official decoder reads."""
    ours, theirs = robocache(path, sources), official_arrays(path, sources)
    for source in sources:
        if not len(theirs[source]):
            sys.exit(f"{path}: no messages for {source}; the Husky recording and a log of the demo are right")
        if source not in ours or not np.array_equal(ours[source], theirs[source], equal_nan=True):
            sys.exit(f"{path}: {source}: RoboCache and mcap-ros2-support disagree")


def measure(path: Path, sources: Sources, repetitions: int) -> list[dict[str, object]]:
    chunks = chunks_of(path)
    check_same(path, sources)

    def decompress_pyarrow() -> None:
        data, codec = memoryview(path.read_bytes()), pa.Codec("zstd")
        for begin, end, size in chunks:
            codec.decompress(data[begin:end], size)

    def decompress_zstandard() -> None:
        data, context = memoryview(path.read_bytes()), zstandard.ZstdDecompressor()
        for begin, end, size in chunks:
            context.decompress(data[begin:end], max_output_size=size)

    cases: dict[str, Callable[[], object]] = {
        "robocache": lambda: robocache(path, sources),
        "robocache, no CRC check": lambda: robocache(path, sources, verify_checksums=False),
        "robocache, in numpy": lambda: in_numpy(path, sources),
        "decompress only, pyarrow": decompress_pyarrow,
        "decompress only, zstandard": decompress_zstandard,
        "mcap-ros2-support, to arrays": lambda: official_arrays(path, sources),
        "mcap-ros2-support, decode only": lambda: official_decode_only(path, sources),
    }
    timings = common.take_turns(cases, repetitions, warm_up=2)

    megabytes = sum(size for _, _, size in chunks) / 1e6
    about = {
        "file": path.name,
        "uncompressed_mb": f"{megabytes:.2f}",
        **common.machine("numpy", "pyarrow", "zstandard", "mcap", "mcap-ros2-support"),
    }
    rows = []
    print(f"{path.name}: {megabytes:.1f} MB of records, n={repetitions}, {about['cpu']} x{about['cpus']}")
    print(f"{'case':32}{'median ms':>11}{'min':>11}{'max':>11}{'MB/s':>8}   x robocache [min, max]")
    for case, timing in timings.items():
        columns = common.timing_columns(timing)
        middle, low, high = common.ratio(timings["robocache"], timing)
        print(
            f"{case:32}{columns['median_ms']:>11}{columns['min_ms']:>11}{columns['max_ms']:>11}"
            f"{megabytes / timing.median:8.0f}{middle:13.2f} [{low:.2f}, {high:.2f}]"
        )
        ratios = {"ratio_to_robocache": f"{middle:.3f}", "ratio_min": f"{low:.3f}", "ratio_max": f"{high:.3f}"}
        rows.append({"case": case, **columns, **ratios, **about})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("husky", type=Path)
    parser.add_argument("demo", type=Path, help="a log of the demo; made, 60 s long, where there is none")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()
    if args.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    if not args.demo.exists():
        (made,) = write_samples(args.demo.parent, episodes=1, seconds=60.0, damaged=False)
        made.rename(args.demo)
    rows = measure(args.husky, HUSKY, args.repetitions)
    rows += measure(args.demo, DEMO, args.repetitions)
    common.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
