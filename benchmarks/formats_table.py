"""docs/formats.md: every file of the folder of real recordings, read or refused, and one of each format into a dataset.

Usage: python benchmarks/formats_table.py [FOLDER]    (default: ../shared/data; needs the test extra)

Of one recording a format every stream is listed, the first numbers of each topic become a dataset that is verified, and
the same numbers are read with another library: the largest difference between the two is in the table.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from documents import fill, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "formats"))

from log_kit import flat, reached  # noqa: E402

from robocache import run, verify  # noqa: E402
from robocache.errors import InputError  # noqa: E402
from robocache.formats import (  # noqa: E402
    InputSpec,
    TableTimes,
    describe_episode,
    list_episodes,
    list_input,
    list_streams,
    read_episode,
)
from robocache.types import EpisodeRef  # noqa: E402

MOST_FEATURES, RATE, A_DAY = 12, 10, 86_400
#: What another library reads of a source, one row a sample in the order of the file: (recording, key, sources).
Reference = Callable[[Path, str, Sequence[str]], dict[str, np.ndarray]]


def rosbags_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    found: dict[str, list[Any]] = {source: [] for source in sources}
    with AnyReader([path], default_typestore=get_typestore(Stores.LATEST)) as bag:
        first: dict[str, Any] = {}
        for connection, _, raw in bag.messages():
            mine = [source for source in sources if source.partition(".")[0] == connection.topic]
            if mine:
                message = bag.deserialize(raw, connection.msgtype)
                start = first.setdefault(connection.topic, message)
                for source in mine:
                    value = flat(reached(message, source.partition(".")[2], start))
                    if value is not None:  # a message without the transform that is meant
                        found[source].append(value)
    return {source: np.array(values) for source, values in found.items()}


def json_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    from mcap.reader import make_reader

    found: dict[str, list[Any]] = {source: [] for source in sources}
    with path.open("rb") as file:
        for _, channel, message in make_reader(file).iter_messages(log_time_order=False):
            for source in sources:
                topic, _, name = source.partition(".")
                if channel.topic == topic:
                    value = json.loads(message.data)
                    for part in name.split("."):
                        value = value[part]
                    found[source].append(value)
    return {source: np.array(values, float) for source, values in found.items()}


def pyulog_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    import pyulog

    logged = {(d.name, d.multi_id): d.data for d in pyulog.ULog(str(path)).data_list}
    topics = {f"{name}_{k}" if k else name: data for (name, k), data in logged.items()}
    found = {}
    for source in sources:
        topic, _, name = source.partition(".")
        data = topics[topic]
        count = sum(field.startswith(f"{name}[") for field in data)
        if count:
            found[source] = np.stack([data[f"{name}[{k}]"] for k in range(count)], 1)
        elif name in data:  # a type within the type has no array of its own
            found[source] = data[name]
    return found


def hdf5_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        return {source: file[f"{key}/{source}"][()] for source in sources}


def zarr_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    import zarr

    root = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", use_consolidated=False)
    return {source: np.asarray(root[source][:]) for source in sources}


def numpy_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    loaded = np.load(path)
    return {source: loaded[source] for source in sources}


def polars_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    import polars

    frame = polars.read_csv(path)
    return {source: frame[source].to_numpy() for source in sources}


def parquet_values(path: Path, key: str, sources: Sequence[str]) -> dict[str, np.ndarray]:
    import polars

    frame = polars.read_parquet(path / "data/chunk-000" / f"episode_{int(key.partition(':')[0]):06d}.parquet")
    return {source: np.array(frame[source].to_list()) for source in sources}


#: A line each: format, recording, the library that reads it too.
RECORDINGS: tuple[tuple[str, str, str, Reference], ...] = (
    ("mcap (ROS 2 CDR)", "bags/husky.mcap", "rosbags, of husky.bag",
     lambda path, key, sources: rosbags_values(path.with_suffix(".bag"), key, sources)),
    ("mcap (JSON)", "more/mcap/example.mcap", "mcap and json", json_values),
    ("rosbag1", "bags/tilt_laser.bag", "rosbags", rosbags_values),
    ("rosbag1 (lz4)", "more/bags1/example-lz4.bag", "rosbags", rosbags_values),
    ("rosbag2, without definitions", "more/bags2/plotjuggler_rosbag2_test", "rosbags", rosbags_values),
    ("rosbag2, with definitions", "more/bags2/rosbags_rs_allmsgs_sqlite", "rosbags", rosbags_values),
    ("ulog", "ulog/sample_log_small.ulg", "pyulog", pyulog_values),
    ("ulog", "ulog/sample_px4_events.ulg", "pyulog", pyulog_values),
    ("hdf5", "hdf5/PandaWipe.hdf5", "h5py", hdf5_values),
    ("hdf5", "hdf5/isaaclab_stack.hdf5", "h5py", hdf5_values),
    ("zarr (version 2)", "more/zarr/zarrita_v2_within.zarr.zip", "zarr, which it is read with", zarr_values),
    ("zarr (version 3)", "more/zarr/zarrita_v3_stored.zarr.zip", "zarr, which it is read with", zarr_values),
    ("numpy", "more/npz/humanoid_run.npz", "numpy", numpy_values),
    ("csv", "more/tables/motor_data.csv", "polars", polars_values),
    ("lerobot (v2.1)", "lerobot/g1_inspire_v21", "polars", parquet_values),
    ("lerobot (v2.0)", "more/lerobot/gr1_picknplace_v20", "polars", parquet_values),
)  # fmt: skip


def numeric_sources(ref: EpisodeRef, spec: InputSpec) -> tuple[int, list[str]]:
    """How many streams there are, and of some of them one source of numbers each."""
    infos, found = list_streams(ref, spec), []
    usual = np.median([info.times[0] for info in infos if len(info.times)])
    for info in infos:
        if info.failure or len(info.times) < 2 or len(found) == MOST_FEATURES:
            continue
        if np.abs(info.times - usual).max() > 1e9 * A_DAY:  # a clock of its own
            continue
        for source in [f"{info.source}.{name}" for name, _ in info.fields] or [info.source]:
            try:
                (kind,) = describe_episode(ref, [source], spec, look=True).values()
            except (InputError, ValueError):
                continue
            if (
                kind.numeric
                and not kind.open
                and len(kind.shape) < 2
                and "stamp" not in source
                and "header" not in source
            ):
                found.append(source)
                break
    return len(infos), found


def compared(path: Path, ref: EpisodeRef, spec: InputSpec, sources: Sequence[str], other: Reference) -> str:
    """The largest difference between what is read here and there; samples in the order of their values' file."""
    theirs, ours = other(path, ref.key, sources), read_episode(ref, sources, spec).streams
    worst, count = 0.0, 0
    for source, wanted in theirs.items():
        found = np.asarray(ours[source].values, float).reshape(len(ours[source].times), -1)
        order = np.argsort(ours[source].log_times, kind="stable") if ours[source].log_times is not None else ...
        wanted = np.asarray(wanted, float).reshape(len(wanted), -1)
        if found.shape != wanted.shape:
            return f"{source}: {list(found.shape)} here, {list(wanted.shape)} there"
        gap = np.abs(found[order] - wanted)
        same = (found[order] == wanted) | (np.isnan(found[order]) & np.isnan(wanted))
        worst = max(worst, float(np.where(same, 0, gap).max(initial=0)))
        count += found.size
    return f"{worst:g} ({count:,} numbers)"


def line(folder: Path, format: str, name: str, library: str, other: Reference) -> list[str]:
    path = folder / name
    rate = TableTimes(rate_hz=RATE)
    spec = InputSpec((str(path),), times=rate)
    ref = next(ref for ref in list_episodes(spec) if not ref.failure)
    streams, sources = numeric_sources(ref, spec)
    difference = compared(path, ref, spec, sources, other)
    with tempfile.TemporaryDirectory() as out:
        config: dict[str, Any] = {
            "input": {"uri": str(path), "select": [ref.id], "on_restart": "sort"},  # several senders of one topic
            "features": {f"f{k}": source for k, source in enumerate(sources)},
            "timeline": {"rate_hz": RATE, "range": "union"},
            "output": {"uri": f"{out}/made"},
        }
        if "#" in ref.id:
            config["input"]["select"] = [ref.id.rpartition("#")[2].rpartition("/")[2]]
        if ref.format in ("hdf5", "zarr", "csv", "numpy"):
            config["input"]["times"] = {"rate_hz": RATE}
        place = Path(out) / "config.yaml"
        place.write_text(yaml.safe_dump(config))
        summary = run(str(place))
        proven = not verify(f"{out}/made").problems and not summary.quarantined
    rows = f"{summary.rows:,} x {len(sources)}"
    return [format, f"`{name}`", f"{streams}", rows, f"{difference}, {library}", "whole" if proven else "no"]


def every_file(folder: Path) -> list[list[str]]:
    """A line for each file: what it is read as, or why it is not."""
    spec = InputSpec((str(folder),), times=TableTimes(rate_hz=RATE))
    listing = list_input(spec)
    lines: dict[str, list[str]] = {}
    for ref in listing.episodes:
        name = ref.id.partition("#")[0]
        if name in lines:
            continue
        told = f"{ref.format}, refused"
        reason = ref.failure
        if not reason:
            try:
                infos = list_streams(ref, spec)
            except (InputError, OSError) as error:
                reason = str(error)
            else:
                told = f"{ref.format}, read"
                reason = f"{len(infos)} stream{'s' if len(infos) != 1 else ''}"
                if bad := [info for info in infos if info.failure]:
                    reason += f"; not read: {bad[0].source}: {bad[0].failure}"
        lines[name] = [f"`{name}`", told, reason.replace(f"{folder}/", "").removeprefix(f"{name}: ")]
    for file in listing.passed_over:
        name = file.uri.removeprefix(f"{folder}/")
        reason = f"{file.what}; {file.remedy}" if file.what else "of no known kind"
        if "LICENSE" not in name and not name.endswith("README.md"):
            lines[name] = [f"`{name}`", "passed over", reason]
    return [lines[name] for name in sorted(lines)]


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT.parent / "shared" / "data").resolve()
    lines = []
    for recording in RECORDINGS:
        lines.append(line(folder, *recording))
        print(*lines[-1], sep=" | ", flush=True)
    header = ["format", "recording", "streams", "rows x features", "largest difference", "verify"]
    files = every_file(folder)
    blocks = {
        "formats": lambda: table(header, lines),
        "every_file": lambda: table(["file", "", "what of it"], files),
    }
    fill(ROOT / "docs" / "formats.md", blocks)


if __name__ == "__main__":
    main()
