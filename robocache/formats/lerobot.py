"""LeRobot datasets v2.x (a Parquet file an episode) and v3.0 (many episodes a file).

Layout and field names: github.com/huggingface/lerobot, ``src/lerobot/datasets`` (``meta/info.json`` holds the
``data_path`` template; v2.x lists its episodes in ``meta/episodes.jsonl``, v3.0 in ``meta/episodes/*/*.parquet``).
Sources are feature names, ``observation.state``, ``action[0:7]``, or with the names that info.json gives to a
feature's columns, ``action[kLeftElbow]``. Videos are no streams here; embedded images are payloads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file, parse_source, read_bytes, select_columns
from robocache.formats.columns import column_values, is_payload, read_rows, type_name
from robocache.formats.guard import guarded
from robocache.formats.times import column_times
from robocache.types import Episode, EpisodeRef, FileStamp, Stream, StreamInfo, frame_times

INFO = "meta/info.json"
#: A recorded timestamp this close to ``frame_index / fps`` says the same, less exactly (it is float32 seconds).
TIMESTAMP_TOLERANCE_S = 1e-3
_CLOCK = ("timestamp", "frame_index", "task_index")


@dataclass(frozen=True, slots=True)
class _Info:
    """What info.json says, checked."""

    version: int
    fps: float
    data_path: str
    chunks_size: int
    total_episodes: int
    robot_type: str | None
    features: dict[str, dict[str, Any]]

    @property
    def shared_files(self) -> bool:
        """True where a data file holds many episodes."""
        return self.version >= 3


@dataclass(frozen=True, slots=True)
class _Entry:
    """One episode as the dataset's metadata lists it."""

    index: int
    length: int
    path: str


class LeRobotReader:
    """LeRobot datasets; ``files`` of a listing is info.json, then the dataset's other files but videos and images."""

    name: ClassVar[str] = "lerobot"
    suffixes: ClassVar[tuple[str, ...]] = ()

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """Every episode of the dataset; one whose data file is missing as a failed reference."""
        root = files[0].uri.removesuffix(INFO)
        below = {file.uri.removeprefix(root): file for file in files}
        info = _read_info(files[0], spec)
        listed = _list_v3(below, info, spec) if info.shared_files else _list_v2(below, info, spec)
        tasks = [below[p] for p in ("meta/tasks.parquet", "meta/tasks.jsonl") if p in below][:1]
        lengths = Counter[str]()
        for entry in listed:
            lengths[entry.path] += max(entry.length, 1)
        refs = []
        for entry in listed:
            data = below.get(entry.path)
            ref = EpisodeRef(f"{id}#{entry.index}", self.name, (files[0],), str(entry.index))
            if data is None:
                ref = replace(ref, failure=f"{root}{entry.path}: no such file")
            elif not data.size:
                ref = replace(ref, failure=f"{data.uri}: empty file")
            else:
                nbytes = data.size * max(entry.length, 1) // lengths[entry.path]
                ref = replace(ref, files=(data, files[0], *tasks), nbytes=nbytes)
            refs.append(ref)
        if len(listed) < info.total_episodes:
            lost = f"{files[0].uri}: counts {info.total_episodes} episodes, {len(listed)} are listed in meta/episodes"
            refs.append(EpisodeRef(f"{id}#unlisted", self.name, (files[0],), failure=lost))
        return refs

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every feature, its column names as fields; videos are listed but cannot be read."""
        info = _read_info(ref.files[1], spec)
        with open_file(ref.files[0], spec) as stream, pq.ParquetFile(stream) as parquet:
            schema = parquet.schema_arrow
            data = _load(parquet, [], ref, info)
        times = _times(data, info, ref)
        found = []
        for column in schema:
            names = _names(info.features.get(column.name, {})) or ()
            kind = type_name(column.type)
            found.append(StreamInfo(column.name, kind, tuple((f"[{n}]", kind.partition("[")[0]) for n in names), times))
        videos = [name for name, feature in info.features.items() if feature.get("dtype") == "video"]
        return found + [StreamInfo(v, "video, not decoded", (), times) for v in videos if v not in schema.names]

    def read(self, ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> Episode:
        """Read the named features of one episode. Metadata: ``tasks``, ``robot_type`` and ``fps``."""
        info = _read_info(ref.files[1], spec)
        with (
            open_file(ref.files[0], spec) as stream,
            pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=spec.verify_checksums) as parquet,
        ):
            names = parquet.schema_arrow.names
            wanted = {s: parts for s in sources if (parts := _feature(s, names)) is not None}
            data = _load(parquet, [name for name, _ in wanted.values()], ref, info)
        times = _times(data, info, ref)
        streams = {}
        for source, (name, selector) in wanted.items():
            where = f"{_where(ref)}: {name!r}"
            values = column_values(data.column(name), where=where)
            if selector is not None:
                if not isinstance(values, np.ndarray):
                    raise InputError(f"{where}: holds payloads, numbers are needed to select {source!r}")
                values = select_columns(values, selector, where=where, names=_names(info.features.get(name, {})))
            streams[source] = Stream(times, values)
        metadata: dict[str, Any] = {"fps": info.fps, "robot_type": info.robot_type}
        if len(ref.files) > 2 and "task_index" in data.column_names:
            tasks = _read_tasks(ref.files[2], spec)
            metadata["tasks"] = [tasks[i] for i in data.column("task_index").unique().to_pylist() if i in tasks]
        return Episode(ref.id, streams, metadata)


def _where(ref: EpisodeRef) -> str:
    return f"{ref.files[0].uri}#{ref.key}"


def _feature(source: str, names: Sequence[str]) -> tuple[str, Any] | None:
    """The column that a source names and its selector; a column that exists wins over a selector."""
    if source in names:
        return source, None
    name, selector = parse_source(source)
    return (name, selector) if name in names else None


def _load(parquet: pq.ParquetFile, columns: Sequence[str], ref: EpisodeRef, info: _Info) -> pa.Table:
    """Those columns of the episode's rows, and the clock's."""
    clock = [name for name in _CLOCK if name in parquet.schema_arrow.names]
    episode = int(ref.key) if info.shared_files else None
    data = read_rows(parquet, list(dict.fromkeys([*columns, *clock])), episode)
    if info.shared_files and not data.num_rows:
        raise InputError(f"{_where(ref)}: the file holds no row of episode {ref.key}")
    return data


def _times(data: pa.Table, info: _Info, ref: EpisodeRef) -> np.ndarray:
    """int64 nanoseconds ``[n]``: ``frame_index / fps`` where the stamps agree with it, else the stamps."""
    columns = {
        name: column_values(data.column(name), where=f"{_where(ref)}: {name!r}")
        for name in ("timestamp", "frame_index")
        if name in data.column_names
    }
    frames, stamps = columns.get("frame_index"), columns.get("timestamp")
    if isinstance(frames, np.ndarray) and frames.dtype.kind in "iu" and frames.ndim == 1:
        if stamps is None:
            return frame_times(frames, info.fps)
        if isinstance(stamps, np.ndarray) and stamps.shape == frames.shape:
            drift = np.abs(stamps.astype(np.float64) - frames / info.fps)
            if (drift < TIMESTAMP_TOLERANCE_S).all():
                return frame_times(frames, info.fps)
    if stamps is None:
        raise InputError(f"{_where(ref)}: has neither frame_index nor timestamp; columns {data.column_names}")
    return column_times(data.column("timestamp"), "s", where=f"{_where(ref)}: 'timestamp'")


def _names(feature: dict[str, Any]) -> list[str] | None:
    """Names of a feature's columns: info.json has them as a list, nested lists, or a dict of lists or of positions."""

    def flatten(item: Any) -> list[str]:
        if isinstance(item, dict):
            if item and all(isinstance(position, int) for position in item.values()):
                return sorted(item, key=item.__getitem__)
            item = list(item.values())
        return [name for part in item for name in flatten(part)] if isinstance(item, list) else [str(item)]

    names = flatten(feature.get("names") or [])
    return names if names and feature.get("shape") == [len(names)] else None


def _read_info(file: FileStamp, spec: InputSpec) -> _Info:
    with guarded((file,), format="LeRobot's info.json"):
        raw = json.loads(read_bytes(file, spec))
        version = str(raw["codebase_version"])
        if not version.startswith(("v2.", "v3.")):
            raise InputError(f"{file.uri}: codebase_version {version}; v2.x and v3.x can be read")
        info = _Info(
            version=int(version[1]),
            fps=float(raw["fps"]),
            data_path=str(raw["data_path"]),
            chunks_size=int(raw.get("chunks_size") or 1000),
            total_episodes=int(raw.get("total_episodes") or 0),
            robot_type=raw.get("robot_type"),
            features={str(name): dict(feature) for name, feature in raw["features"].items()},
        )
        frame_times(np.empty(0, np.int64), info.fps)  # ValueError unless a positive number
        return info


def _list_v2(below: dict[str, FileStamp], info: _Info, spec: InputSpec) -> list[_Entry]:
    file = below.get("meta/episodes.jsonl")
    if file is None:
        raise InputError("meta/episodes.jsonl is missing")
    with guarded((file,), format="LeRobot's episodes.jsonl"):
        entries = []
        for row in _json_lines(file, spec):
            index = int(row["episode_index"])
            path = info.data_path.format(episode_chunk=index // info.chunks_size, episode_index=index)
            entries.append(_Entry(index, int(row.get("length") or 0), path))
        return _once(entries, file)


def _list_v3(below: dict[str, FileStamp], info: _Info, spec: InputSpec) -> list[_Entry]:
    tables = [below[path] for path in sorted(below) if path.startswith("meta/episodes/") and path.endswith(".parquet")]
    if not tables:
        raise InputError("meta/episodes/ holds no Parquet file")
    entries: list[_Entry] = []
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for file in tables:
        with guarded((file,), format="LeRobot's table of episodes"):
            with open_file(file, spec) as stream, pq.ParquetFile(stream) as parquet:
                rows = parquet.read(columns=columns).select(columns).to_pydict()
            for index, length, chunk, number in zip(*rows.values(), strict=True):
                path = info.data_path.format(chunk_index=int(chunk), file_index=int(number))
                entries.append(_Entry(int(index), int(length), path))
    return _once(entries, tables[0])


def _once(entries: list[_Entry], file: FileStamp) -> list[_Entry]:
    """By episode index; one that is listed twice the same counts once."""
    unique = sorted(set(entries), key=lambda entry: (entry.index, entry.path))
    for entry, after in pairwise(unique):
        if entry.index == after.index:
            raise InputError(f"{file.uri}: episode {entry.index} is listed twice, as {entry} and {after}")
    return unique


def _read_tasks(file: FileStamp, spec: InputSpec) -> dict[int, str]:
    """Task text by index. In v3.0 the text is a pandas index, whose column name depends on who wrote it."""
    with guarded((file,), format="LeRobot's tasks"):
        if file.uri.endswith(".jsonl"):
            return {int(row["task_index"]): str(row["task"]) for row in _json_lines(file, spec)}
        with open_file(file, spec) as stream, pq.ParquetFile(stream) as parquet:
            table = parquet.read()
        text = [column.name for column in table.schema if is_payload(column.type)]
        if not text:
            raise InputError(f"{file.uri}: has no column of task text; columns {table.column_names}")
        return dict(zip(table.column("task_index").to_pylist(), table.column(text[0]).to_pylist(), strict=True))


def _json_lines(file: FileStamp, spec: InputSpec) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(read_bytes(file, spec).splitlines(), start=1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except ValueError as error:
                raise InputError(f"{file.uri}: line {number} is no JSON object: {error}") from error
    return rows
