"""A LeRobot dataset that anybody made, v2.x or v3.0, read as the output of a run is: its rows, their statistics, its
episodes. Nothing is converted; what such a dataset does not tell (streams, quarantine, how a run went) is empty.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import OutputError
from robocache.output import statistics, tables
from robocache.output.dataset import Output, row_groups
from robocache.output.following import following
from robocache.output.lerobot import layout
from robocache.output.lerobot.images import refused
from robocache.output.lerobot.listing import Listed, listed_episodes, of_others, tasks_of
from robocache.output.manifest import EpisodeRecord, PartRecord, QuarantineRecord, ShardRecord
from robocache.output.schema import INDEX_COLUMNS
from robocache.output.store import Store
from robocache.output.version import Version
from robocache.types import frame_times
from robocache.video import FRAME, Video, read_video

#: Columns of a tree that are no features; ``task`` stands for the last.
_OWN = ("episode_index", "frame_index", "timestamp", "index", "task_index")
_TASK = "task"
#: Videos whose frames are known at the same time.
_VIDEOS = 64


def open_dataset(uri: str, storage_options: Mapping[str, Any] | None = None, *, version: int | None = None) -> Output:
    """The output of a run (:meth:`Output.open`), or a LeRobot dataset that no run has made. ``OutputError``."""
    try:
        return Output.open(uri, storage_options, version=version)
    except OutputError:
        store = Store(uri, storage_options)
        if version is None and of_others(store):
            return OthersTree(store)
        raise


class OthersTree(Output):
    """See the module. Each feature counts in every row; its ``valid`` column says so.

    A frame of a video is a reference (:data:`robocache.video.FRAME`); the text of the task is the feature ``task``.
    ``time_ns`` counts from each episode's first row, by the stamps that the rows have.
    """

    def __init__(self, store: Store):
        self.store, self.uri = store, store.uri
        with self._readable(layout.INFO):
            data = store.read(layout.INFO)
            self.info = json.loads(data)
            self.made_as = str(self.info["codebase_version"])
            self._fps = Fraction(str(self.info["fps"])).limit_denominator(1001)
            self._features = {str(name): dict(f) for name, f in self.info["features"].items()}
            listed = sorted(listed_episodes(store, self.info), key=lambda e: (e.file, e.start or 0, e.index))
            self.tasks = tasks_of(store, self.made_as)
            if not self._fps > 0:
                raise ValueError(f"fps is {self.info['fps']}")
        self._of_part: dict[str, list[Listed]] = {}
        for e in listed:
            self._of_part.setdefault(e.file, []).append(e)
        sizes = {name: n for folder in layout.FOLDERS for name, n in store.sizes(folder).items()}
        self._bytes = {part: sizes.get(part, 0) for part in self._of_part}
        self._videos: OrderedDict[str, Video] = OrderedDict()
        identity = hashlib.sha256(repr((data, sorted(sizes.items()))).encode()).hexdigest()
        rows = sum(e.length for e in listed)
        made = f"LeRobot {self.made_as}"
        self.version = Version(
            0, made, identity, {}, self.uri, "", "", len(listed), rows, len(self.parts), sum(sizes.values()), 0
        )

    @property
    def rate(self) -> Fraction:
        return self._fps

    @cached_property
    def parts(self) -> tuple[str, ...]:
        return tuple(sorted(self._of_part, key=lambda part: self._of_part[part][0].index))

    @property
    def sizes(self) -> dict[str, int]:
        return self._bytes

    def records(self) -> Iterator[ShardRecord]:
        for number, part in enumerate(self.parts):
            episodes = tuple(self._record(e) for e in self._of_part[part])
            rows = sum(e.rows for e in episodes)
            told = PartRecord(part, len(episodes), rows, self._bytes[part], "", "")
            yield ShardRecord(number, self.identity, "", (told,), episodes, ())

    def _record(self, e: Listed) -> EpisodeRecord:
        videos = {name: f"{self.uri}/{name}" for name, _ in e.videos.values()}
        return EpisodeRecord(e.index, f"episode_{e.index:06d}", (e.file,), e.length, 0, (), {}, {}, videos)

    @cached_property
    def episodes(self) -> pa.Table:
        splits = self.info.get("splits") or {}
        ranges = {name: range(*map(int, str(text).split(":"))) for name, text in splits.items() if _is_range(text)}
        rows: list[dict[str, Any]] = [
            {
                "episode_index": e.index,
                "id": e.id,
                "split": next((name for name, some in ranges.items() if e.index in some), None),
                "files": list(e.files),
                "part": record.parts[0].name,
                "rows": e.rows,
                "start_ns": 0,
                "metadata": json.dumps(e.metadata),
                "quality": json.dumps(e.quality),
                "streams": [],
            }
            for record in self.records()
            for e in record.episodes
        ]
        rows.sort(key=lambda row: row["episode_index"])
        return pa.Table.from_pylist(rows, schema=tables.EPISODE_SCHEMA)

    @cached_property
    def filmed(self) -> frozenset[int]:
        """The episodes of which there are videos."""
        there = frozenset(self.store.files("videos"))
        listed = (e for some in self._of_part.values() for e in some)
        return frozenset(e.index for e in listed if any(name in there for name, _ in e.videos.values()))

    @property
    def quarantine(self) -> tuple[QuarantineRecord, ...]:
        return ()

    @property
    def report(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _stored(self) -> pa.Schema:
        """Of its files of rows."""
        if not self.parts:
            return pa.schema([])
        with self._part(self.parts[0]) as part:
            return part.schema_arrow

    @cached_property
    def features(self) -> dict[str, pa.Field]:
        """By name, as a row has them: of fixed shape."""
        found: dict[str, pa.Field] = {}
        for name, told in self._features.items():
            if name in _OWN:
                continue
            if told.get("dtype") == "video":
                found[name] = pa.field(name, FRAME, metadata={"kind": '"video"'})
            elif name in self._stored.names:
                kind = _fixed(self._stored.field(name).type, told.get("shape") or [1])
                about: dict[str, Any] = {"kind": "image"} if told.get("dtype") == "image" else {}
                if names := _names(told.get("names")):
                    about["names"] = names
                metadata = {key: json.dumps(value) for key, value in about.items()}
                found[name] = pa.field(name, kind, metadata=metadata or None)
        if _TASK not in found and "task_index" in self._stored.names:
            found[_TASK] = pa.field(_TASK, pa.string())
        return found

    @cached_property
    def schema(self) -> pa.Schema:
        stamps = self._stored.field("timestamp").type if "timestamp" in self._stored.names else pa.float64()
        kinds = dict(zip(INDEX_COLUMNS, (pa.int64(), pa.int64(), stamps, pa.int64()), strict=True))
        fields = [pa.field(name, kind) for name, kind in kinds.items()]
        for name, field in self.features.items():
            fields += [field, pa.field(f"{name}.valid", pa.bool_())]
        return pa.schema(fields)

    def rows(self, part: str, begin: int, end: int, names: Sequence[str]) -> tuple[pa.Table, int]:
        with self._readable(part), following(self.store).open_input_file(self.store.path(part)) as file:
            stored = self._stored.names
            wanted = {"time_ns": "timestamp", _TASK: "task_index"}
            wanted = {name: wanted.get(name, name) for name in names if name not in stored}
            read = [name for name in {**dict.fromkeys(names), **dict.fromkeys(wanted.values())} if name in stored]
            found, first = row_groups(pq.ParquetFile(file), begin, end, read or stored[:1])
            episodes = self._of_part[part]
            starts = np.cumsum([0, *(e.length for e in episodes)])
            numbers = np.arange(first, first + found.num_rows)
            which = np.minimum(np.searchsorted(starts, numbers, "right") - 1, len(episodes) - 1)
            frames = numbers - starts[which]
            columns = [self._column(name, found, episodes, which, frames) for name in names]
            return pa.table(columns, schema=pa.schema([self.schema.field(name) for name in names])), first

    def _column(
        self, name: str, found: pa.Table, episodes: Sequence[Listed], which: np.ndarray, frames: np.ndarray
    ) -> pa.Array | pa.ChunkedArray:
        """Of rows that are ``frames [n]`` of ``episodes[which]``, of which ``found`` is what is stored."""
        told = self.schema.field(name).type
        if name in found.column_names:
            return _as_fixed(found[name], told)
        if name == "episode_index":
            return pa.array(np.array([e.index for e in episodes])[which])
        if name == "frame_index":
            return pa.array(frames)
        if name == "timestamp":
            return pa.array(frames / float(self._fps))
        if name == "time_ns":
            if "timestamp" not in found.column_names:
                return pa.array(frame_times(frames, self._fps))
            return pa.array(np.round(found["timestamp"].to_numpy().astype(np.float64) * 1e9).astype(np.int64))
        if name == _TASK:
            return pa.array([self.tasks.get(k) for k in found["task_index"].to_pylist()], pa.string())
        if told == FRAME:
            pieces = [self._frames(name, e, frames[which == k]) for k, e in enumerate(episodes) if (which == k).any()]
            return pa.chunked_array(pieces, FRAME)
        return pa.array(np.ones(len(frames), bool))  # a column that says which rows are valid

    def _frames(self, camera: str, e: Listed, frames: np.ndarray) -> pa.Array:
        """References to frames of an episode's video; null where there is no such file."""
        name, begin = e.videos[camera]
        if name not in self._videos:
            if not self.store.exists(name):
                return pa.nulls(len(frames), FRAME)
            with refused(name), self.store.reading(name) as opened:
                self._videos[name] = read_video(opened, f"{self.uri}/{name}")  # type: ignore[arg-type]
            while len(self._videos) > _VIDEOS:
                self._videos.popitem(last=False)
        video = self._videos[name]
        first = int(np.abs(video.times - round(begin * 1e9)).argmin())
        if first + int(frames.max(initial=0)) >= len(video.pts):
            raise ValueError(f"{name} has {len(video.pts)} frames, episode {e.index} needs more")
        return video.frames(name, first + frames)

    @cached_property
    def _statistics(self) -> list[bytes]:
        """Of each part: of its rows, whatever the dataset says of them."""
        plain = [name for name, field in self.features.items() if field.type != FRAME]
        made = []
        for part in self.parts:
            each: dict[int, dict[str, statistics.Statistics]] = {}
            at = 0
            for e in self._of_part[part]:
                found, first = self.rows(part, at, at + e.length, plain)
                mine = found.slice(at - first, e.length)
                some = {name: statistics.of_column(mine[name], np.ones(mine.num_rows, bool)) for name in plain}
                each[e.index] = {name: s for name, s in some.items() if s is not None}
                at += e.length
            made.append(statistics.encode(each).to_pybytes())
        return made

    def part_statistics(self) -> Iterator[bytes]:
        return iter(self._statistics)

    @cached_property
    def statistics(self) -> dict[str, dict[str, Any]]:
        merged = statistics.merged(statistics.decode(data)[1] for data in self._statistics)
        return {name: s.summary() for name, s in merged.items()}

    def unreadable(self, part: str, error: Exception) -> OutputError:
        return OutputError(f"{self.uri}/{part} cannot be read ({error}); `robocache verify` says what is wrong")


def _is_range(text: object) -> bool:
    first, _, stop = str(text).partition(":")
    return first.isdigit() and stop.isdigit()


def _names(told: Any) -> list[str] | None:
    """The names of a feature's numbers: a list, or a list for each of some groups, of which one is all."""
    if isinstance(told, dict) and len(told) == 1:
        (told,) = told.values()
    return [str(name) for name in told] if isinstance(told, list) and told else None


def _fixed(kind: pa.DataType, shape: Sequence[int]) -> pa.DataType:
    """A column's type with lists of fixed lengths; a single number is none."""
    if not _listed(kind):
        return kind
    while _listed(kind):
        kind = kind.value_type
    for size in () if list(shape) == [1] else reversed(shape):
        kind = pa.list_(kind, int(size))
    return kind


def _listed(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _as_fixed(column: pa.ChunkedArray, told: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """``ValueError`` where rows are of other lengths than they should be."""
    if column.type == told:
        return column
    array: Any = column.combine_chunks()
    while _listed(array.type):
        array = array.flatten()
    sizes, kind = [], told
    while pa.types.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        kind = kind.value_type
    if len(array) != len(column) * int(np.prod(sizes)):
        raise ValueError(f"a column holds {len(array)} numbers in {len(column)} rows of shape {sizes or [1]}")
    for size in reversed(sizes):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array.cast(told)
