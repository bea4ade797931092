"""LeRobot datasets v2.x (a Parquet file an episode) and v3.0 (many episodes a file).

Layout and field names: github.com/huggingface/lerobot, ``src/lerobot/datasets`` (``meta/info.json`` holds the
``data_path`` template; v2.x lists its episodes in ``meta/episodes.jsonl``, v3.0 in ``meta/episodes/*/*.parquet``).
Sources are feature names, ``observation.state``, ``action[0:7]``, or with the names that info.json gives to a
feature's columns, ``action[kLeftElbow]``; and ``task``, the text of each row's task. Videos are references to frames
(:mod:`robocache.formats.lerobot_videos`), embedded images payloads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import InputError
from robocache.formats.base import (
    InputSpec,
    Reader,
    Selector,
    open_file,
    parse_source,
    positions,
    read_bytes,
    select_episodes,
)
from robocache.formats.columns import is_payload, read_column, stream_type, type_name
from robocache.formats.guard import guarded
from robocache.formats.lerobot_videos import Camera, video_type
from robocache.formats.parquet_rows import Rows, read_columns, read_rows, read_schema
from robocache.formats.times import column_times
from robocache.types import (
    Episode,
    EpisodeRef,
    FileStamp,
    Source,
    Stream,
    StreamInfo,
    StreamType,
    array_type,
    as_rows,
    frame_times,
    numpy_type,
)

#: A recorded timestamp this close to ``frame_index / fps`` says the same, less exactly (it is float32 seconds).
TIMESTAMP_TOLERANCE_S = 1e-3
_CLOCK = ("timestamp", "frame_index", "task_index")
#: The source that is the text of each row's task, where no column has that name.
_TASK = "task"


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
    video_path: str | None
    splits: dict[str, range]

    @property
    def videos(self) -> list[str]:
        """Features that are videos."""
        return [name for name, feature in self.features.items() if feature.get("dtype") == "video"]

    @property
    def shared_files(self) -> bool:
        """True where a data file holds many episodes."""
        return self.version >= 3


@dataclass(frozen=True, slots=True)
class _Entry:
    """One episode as the dataset's metadata lists it: ``start`` is its first row of the dataset, -1: not told; the
    ``tasks`` of its rows, where it names them.
    """

    index: int
    length: int
    path: str
    start: int = -1
    tasks: tuple[str, ...] = ()


class LeRobotReader(Reader):
    """LeRobot datasets; ``files`` of a listing is info.json, then the dataset's other files but videos and images."""

    name: ClassVar[str] = "lerobot"
    marker: ClassVar[str] = "meta/info.json"
    parts: ClassVar[tuple[str, ...]] = ("meta", "data")
    selects: ClassVar[bool] = True
    own_time: ClassVar[bool] = True

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """Every episode of the dataset; one whose data file is missing as a failed reference."""
        root = files[0].uri.removesuffix(self.marker)
        below = {file.uri.removeprefix(root): file for file in files}
        info = _read_info(files[0], spec)
        listed = _list_v3(below, info, spec) if info.shared_files else _list_v2(below, info, spec)
        names = Counter(path.rpartition("/")[2] for path in below if path.startswith("data/"))
        # Some templates name folders that no writer has made: a file of that name, and only one, is the one meant.
        unique = {path.rpartition("/")[2]: file for path, file in below.items() if path.startswith("data/")}
        unique = {name: file for name, file in unique.items() if names[name] == 1}
        by_index = {str(entry.index): entry for entry in listed}
        splits = {name: [str(i) for i in episodes] for name, episodes in info.splits.items()}
        listed = [by_index[name] for name in select_episodes(list(by_index), spec.select, splits, files[0].uri)]
        tasks = [below[p] for p in ("meta/tasks.parquet", "meta/tasks.jsonl") if p in below][:1]
        lengths = Counter[str]()
        starts: dict[str, int] = {}  # the dataset's row that a file begins with
        for entry in listed:
            lengths[entry.path] += max(entry.length, 1)
            starts[entry.path] = min(entry.start, starts.get(entry.path, entry.start))
        texts = _texts(tasks, spec)
        refs = []
        for entry in listed:
            data = below.get(entry.path) or unique.get(entry.path.rpartition("/")[2])
            first = entry.start - starts[entry.path]
            if not info.shared_files:
                first = 0
            runs = ((first, first + entry.length),) if first >= 0 and entry.length else ()
            key, context = str(Rows(entry.index, runs)), _context(info, entry, texts)
            ref = EpisodeRef(f"{id}#{entry.index}", self.name, (files[0],), key, context=context)
            if data is None:
                ref = replace(ref, failure=f"{root}{entry.path}: no such file")
            elif not data.size:
                ref = replace(ref, failure=f"{data.uri}: empty file")
            else:
                nbytes = data.size * max(entry.length, 1) // lengths[entry.path]
                ref = replace(ref, files=(data, files[0], *tasks), nbytes=nbytes)
            refs.append(ref)
        if len(by_index) < info.total_episodes and not spec.select:
            lost = f"{files[0].uri}: counts {info.total_episodes} episodes, {len(listed)} are listed in meta/episodes"
            refs.append(EpisodeRef(f"{id}#unlisted", self.name, (files[0],), failure=lost))
        return refs

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every feature, its column names as fields; of videos the rows' frames."""
        info = _read_info(ref.files[1], spec)
        schema = read_schema(ref.files[0], spec)
        times = _times(_load(ref, [], info, spec), info, ref)
        found = []
        for column in schema:
            names = _names(info.features.get(column.name, {})) or ()
            kind = type_name(column.type)
            found.append(StreamInfo(column.name, kind, tuple((f"[{n}]", kind.partition("[")[0]) for n in names), times))
        if _has_tasks(ref, schema.names):
            found.append(StreamInfo(_TASK, "string", (), times))
        cameras = (self._camera(ref, name, info) for name in info.videos if name not in schema.names)
        return found + [StreamInfo(camera.name, "video", (), times, camera.lacking(spec)) for camera in cameras]

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the data file's schema and the shapes that info.json gives; rows are read where it gives none."""
        info = _read_info(ref.files[1], spec)
        schema = read_schema(ref.files[0], spec)
        found = {}
        for source in sources:
            feature = _feature(source, schema.names, info)
            if feature is None and source.path == _TASK and _has_tasks(ref, schema.names):
                found[source.key] = StreamType(pa.string())
                continue
            if feature is None:
                if source.path in info.videos:
                    found[source.key] = video_type(info.features[source.path])
                continue
            kind = _declared(schema.field(feature.column).type, feature, where=_where(ref))
            if look and kind.open:
                head = read_rows(ref.files[0], [feature.column], None, spec, head=True)
                if head.num_rows:
                    kind = _stream(head, np.zeros(1, np.int64), feature, ref).type
            found[source.key] = kind
        return found

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """Read the named features of one episode. Metadata: ``tasks``, ``robot_type`` and ``fps``."""
        info = _read_info(ref.files[1], spec)
        names = read_schema(ref.files[0], spec).names
        wanted = {s.key: feature for s in sources if (feature := _feature(s, names, info)) is not None}
        of_tasks = {s.key for s in sources if s.path == _TASK and s.key not in wanted and _has_tasks(ref, names)}
        videos = {s.key: s.path for s in sources if s.key not in wanted and s.path in info.videos}
        data = _load(ref, [feature.column for feature in wanted.values()], info, spec)
        times = _times(data, info, ref)
        streams = {key: _stream(data, times, feature, ref) for key, feature in wanted.items()}
        for key, name in videos.items():
            if (camera := self._camera(ref, name, info).read(times, spec)) is not None:
                streams[key] = camera
        metadata: dict[str, Any] = {"fps": info.fps, "robot_type": info.robot_type}
        if len(ref.files) > 2 and "task_index" in data.column_names:
            tasks = _read_tasks(ref.files[2], spec)
            metadata["tasks"] = [tasks[i] for i in data.column("task_index").unique().to_pylist() if i in tasks]
            texts = [tasks.get(i) for i in data.column("task_index").to_pylist()] if of_tasks else []
            streams |= {key: Stream(times, pa.array(texts, pa.string())) for key in of_tasks}
        return Episode(ref.id, streams, metadata)

    def _camera(self, ref: EpisodeRef, name: str, info: _Info) -> Camera:
        root, episode = ref.files[1].uri.removesuffix(self.marker), int(Rows.parse(ref.key).episode)
        return Camera(root, info.video_path, name, info.features[name], episode, info.chunks_size)


@dataclass(frozen=True, slots=True)
class _Feature:
    """What a source stands for: a column, which of its values, and what info.json says of it."""

    column: str
    selector: Selector | None
    names: tuple[str, ...] | None
    shape: tuple[int, ...] | None


def _has_tasks(ref: EpisodeRef, columns: Sequence[str]) -> bool:
    """Whether each row says which task it is of."""
    return len(ref.files) > 2 and "task_index" in columns and _TASK not in columns


def _where(ref: EpisodeRef) -> str:
    return f"{ref.files[0].uri}#{Rows.parse(ref.key).episode}"


def _feature(source: Source, columns: Sequence[str], info: _Info) -> _Feature | None:
    """The column that a source names and its selector; a column that exists wins over a selector.

    Where the order of its columns is settled, they are selected by these names.
    """
    name, selector = (source.path, None) if source.path in columns else parse_source(source.path)
    if name not in columns:
        return None
    declared = info.features.get(name, {})
    shape = declared.get("shape")
    known = tuple(shape) if isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) else None
    names = _names(declared)
    if source.names and names and set(source.names) <= set(names):
        selector = tuple(source.names)
    return _Feature(name, selector, tuple(names) if names else None, known)


def _declared(kind: pa.DataType, feature: _Feature, *, where: str) -> StreamType:
    """The type of a source as schema and info.json tell it."""
    found = StreamType(stream_type(kind, where=f"{where}: {feature.column!r}"))
    shape = feature.shape if found.open else found.shape
    if shape is None or (not found.open and not (found.numeric or pa.types.is_boolean(found.element))):
        return found
    element = found.element
    while pa.types.is_list(element):
        element = element.value_type
    sample = np.empty((0, *shape), numpy_type(element))
    picked, names = _pick(sample, None, feature, where)
    return StreamType(array_type(picked[0].dtype, picked[0].shape[1:]), {"names": names} if names else {})


def _pick(values: np.ndarray, present: np.ndarray | None, feature: _Feature, where: str):
    """The columns that a source selects (with which are present), and their names."""
    if feature.selector is None:
        return (values, present), list(feature.names or ())
    flat = as_rows(values)
    where = f"{where}: {feature.column!r}"
    at = positions(feature.selector, flat.shape[1], where=where, names=feature.names)
    return (flat[:, at], None if present is None else present[:, at]), [feature.names[i] for i in at if feature.names]


def _stream(data: pa.Table, times: np.ndarray, feature: _Feature, ref: EpisodeRef) -> Stream:
    where = f"{_where(ref)}: {feature.column!r}"
    values, present = read_column(data.column(feature.column), where=where)
    if not isinstance(values, np.ndarray):
        if feature.selector is not None:
            raise InputError(f"{where}: holds payloads, numbers are needed to select from it")
        return Stream(times, values)
    (values, present), names = _pick(values, present, feature, _where(ref))
    return Stream(times, values, {"names": names} if names else {}, present)


def _load(ref: EpisodeRef, columns: Sequence[str], info: _Info, spec: InputSpec) -> pa.Table:
    """Those columns of the episode's rows, and the clock's."""
    clock = [name for name in _CLOCK if name in read_schema(ref.files[0], spec).names]
    rows = Rows.parse(ref.key)
    data = read_rows(ref.files[0], list(dict.fromkeys([*columns, *clock])), rows if info.shared_files else None, spec)
    if info.shared_files and not data.num_rows:
        raise InputError(f"{_where(ref)}: the file holds no row of episode {rows.episode}")
    listed = sum(stop - start for start, stop in rows.runs)
    if data.num_rows < listed:
        raise InputError(
            f"{_where(ref)}: the dataset lists {listed} frames of episode {rows.episode}, the file holds "
            f"{data.num_rows}; it is cut short or not the dataset's"
        )
    return data


def _times(data: pa.Table, info: _Info, ref: EpisodeRef) -> np.ndarray:
    """int64 nanoseconds ``[n]``: ``frame_index / fps`` where the stamps agree with it (but for where they begin), else
    the stamps.
    """
    columns = {
        name: read_column(data.column(name), where=f"{_where(ref)}: {name!r}").values
        for name in ("timestamp", "frame_index")
        if name in data.column_names
    }
    frames, stamps = columns.get("frame_index"), columns.get("timestamp")
    if frames is None and stamps is not None:  # old datasets lack it
        frames = np.arange(len(stamps))
    if isinstance(frames, np.ndarray) and frames.dtype.kind in "iu" and frames.ndim == 1:
        if stamps is None:
            return frame_times(frames, info.fps)
        if isinstance(stamps, np.ndarray) and stamps.shape == frames.shape:
            drift = stamps.astype(np.float64) - frames / info.fps
            if (np.abs(drift) < TIMESTAMP_TOLERANCE_S).all():
                return frame_times(frames, info.fps)
            if len(drift) and (np.abs(drift - drift[0]) < TIMESTAMP_TOLERANCE_S).all():  # a clock that began elsewhere
                return frame_times(frames, info.fps) + round(drift[0] * 1e9)
            if (rate := _true_rate(frames, stamps)) is not None:
                return frame_times(frames, rate)
    if stamps is None:
        raise InputError(f"{_where(ref)}: has neither frame_index nor timestamp; columns {data.column_names}")
    return column_times(data.column("timestamp"), "s", where=f"{_where(ref)}: 'timestamp'")


def _true_rate(frames: np.ndarray, stamps: np.ndarray) -> Fraction | None:
    """The simple rate of which all stamps are the frames' times, rounded to float32; None where there is none.

    A dataset taken at another rate than its info.json says has stamps that tell it. Rounded as they are, they would end
    before their last frame does.
    """
    span = float(stamps[-1]) - float(stamps[0]) if len(stamps) > 2 else 0.0
    if stamps.dtype != np.float32 or not span > 0 or frames[-1] <= frames[0]:
        return None
    measured = float(frames[-1] - frames[0]) / span
    for rate in (Fraction(round(measured)), Fraction(round(measured * 1001), 1001), Fraction(round(measured * 10), 10)):
        if rate > 0:
            told = (frames / float(rate)).astype(np.float32)
            if (np.abs(told - stamps) <= np.spacing(np.maximum(np.abs(told), np.float32(1e-6)))).all():
                return rate
    return None


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
    with guarded((file,), format="LeRobot's info.json", document=True):
        raw = json.loads(read_bytes(file, spec))
        version = str(raw["codebase_version"])
        if not version.startswith(("v2.", "v3.")):
            raise InputError(f"{file.uri}: codebase_version {version}; v2.x and v3.x can be read")
        info = _Info(
            version=int(version[1]),
            fps=float(raw["fps"]),
            data_path=_data_path(str(raw["data_path"]), file.uri),
            chunks_size=int(raw.get("chunks_size") or 1000),
            total_episodes=int(raw.get("total_episodes") or 0),
            robot_type=raw.get("robot_type"),
            splits=_splits(raw.get("splits")),
            video_path=None if raw.get("video_path") is None else _data_path(str(raw["video_path"]), file.uri),
            features={str(name): dict(feature) for name, feature in raw["features"].items()},
        )
        frame_times(np.empty(0, np.int64), info.fps)  # ValueError unless a positive number
        return info


#: Plain text, and placeholders of so many digits at least; other templates could be of any length.
_DATA_PATH = re.compile(r"(?:[^{}]|\{[a-z_]*(?::0?[0-9]{0,2}d?)?\})*")


def _data_path(template: str, uri: str) -> str:
    if not _DATA_PATH.fullmatch(template) or len(template) > 1000:
        raise InputError(
            f"{uri}: data_path {template[:200]!r} is no path with placeholders such as {{episode_index:06d}}"
        )
    return template


def _splits(found: Any) -> dict[str, range]:
    """Episodes by split, as info.json has them: ``{"train": "0:50"}``."""
    splits = {}
    for name, text in found.items() if isinstance(found, dict) else ():
        first, colon, stop = str(text).partition(":")
        if colon and first.isdigit() and stop.isdigit():
            splits[str(name)] = range(int(first), int(stop))
    return splits


def _texts(tasks: Sequence[FileStamp], spec: InputSpec) -> dict[int, str]:
    """The tasks' texts, as far as they can be read; who reads an episode says what is wrong."""
    try:
        return _read_tasks(tasks[0], spec) if tasks else {}
    except InputError:
        return {}


def _context(info: _Info, entry: _Entry, texts: dict[int, str]) -> str:
    """What beside its rows an episode is read by: of info.json, whose counts and splits change with every episode that
    is added, and of the table of tasks, to which episodes add theirs.
    """
    of_tasks = sorted((k, text) for k, text in texts.items() if not entry.tasks or text in entry.tasks)
    told = [info.fps, info.robot_type, info.features, of_tasks]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _list_v2(below: dict[str, FileStamp], info: _Info, spec: InputSpec) -> list[_Entry]:
    file = below.get("meta/episodes.jsonl")
    if file is None:
        raise InputError("meta/episodes.jsonl is missing")
    with guarded((file,), format="LeRobot's episodes.jsonl", document=True):
        entries = []
        for row in _json_lines(file, spec):
            index = int(row["episode_index"])
            path = _path(info, file, index, index // info.chunks_size, index)
            entries.append(
                _Entry(index, int(row.get("length") or 0), path, -1, tuple(map(str, row.get("tasks") or ())))
            )
        return _once(entries, file)


def _list_v3(below: dict[str, FileStamp], info: _Info, spec: InputSpec) -> list[_Entry]:
    tables = [below[path] for path in sorted(below) if path.startswith("meta/episodes/") and path.endswith(".parquet")]
    if not tables:
        raise InputError("meta/episodes/ holds no Parquet file")
    entries: list[_Entry] = []
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    start = "dataset_from_index"
    for file in tables:
        with guarded((file,), format="LeRobot's table of episodes", document=True):
            with open_file(file, spec) as stream, pq.ParquetFile(stream) as parquet:
                told = [name for name in (start, "tasks") if name in parquet.schema_arrow.names]
                rows = read_columns(parquet, [*columns, *told], file).to_pydict()
            tasks = rows.pop("tasks", [None] * len(rows["length"]))
            for named, row in zip(tasks, zip(*rows.values(), strict=True), strict=True):
                index, length, chunk, number, *first = (-1 if item is None else int(item) for item in row)
                path = _path(info, file, index, chunk, number)
                entries.append(_Entry(index, length, path, first[0] if first else -1, tuple(map(str, named or ()))))
    return _once(entries, tables[0])


def _path(info: _Info, file: FileStamp, episode: int, chunk: int, number: int) -> str:
    """Where the data of an episode is: by every placeholder that datasets are seen to use."""
    try:
        return info.data_path.format(episode_index=episode, episode_chunk=chunk, chunk_index=chunk, file_index=number)
    except (KeyError, IndexError, ValueError) as error:
        uri = f"{file.uri.partition('/meta/')[0]}/meta/info.json"
        raise InputError(
            f"{uri}: data_path {info.data_path!r} has a placeholder {error} that is none of episode_index, "
            "episode_chunk, chunk_index and file_index"
        ) from None


def _once(entries: list[_Entry], file: FileStamp) -> list[_Entry]:
    """By episode index; one that is listed twice the same counts once."""
    unique = sorted(set(entries), key=lambda entry: (entry.index, entry.path))
    for entry, after in pairwise(unique):
        if entry.index == after.index:
            raise InputError(f"{file.uri}: episode {entry.index} is listed twice, as {entry} and {after}")
    return unique


def _read_tasks(file: FileStamp, spec: InputSpec) -> dict[int, str]:
    """Task text by index. In v3.0 the text is a pandas index, whose column name depends on who wrote it."""
    with guarded((file,), format="LeRobot's tasks", document=True):
        if file.uri.endswith(".jsonl"):
            return {int(row["task_index"]): str(row["task"]) for row in _json_lines(file, spec)}
        with open_file(file, spec) as stream, pq.ParquetFile(stream) as parquet:
            table = read_columns(parquet, None, file)
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
