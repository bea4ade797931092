"""The tree is made and made anew unit by unit: consecutive episodes that fill a file of rows.

Which episodes are a unit depends on those before alone, so that what is added leaves all but the last one as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, OutputError
from robocache.output import parts, statistics
from robocache.output.dataset import Output
from robocache.output.lerobot.episodes import TreeEpisode
from robocache.output.lerobot.features import INDEX, TreeFeature
from robocache.output.lerobot.footage import Footage
from robocache.output.lerobot.images import frames_of, image_statistics
from robocache.output.lerobot.layout import digest_name, episodes_name, places, rows_name, video_name
from robocache.output.lerobot.options import TreeSpec
from robocache.output.lerobot.reading import read_episodes
from robocache.output.lerobot.reels import Reel
from robocache.output.lerobot.rows import kept_rows, points_of, rows_of, statistics_of
from robocache.output.lerobot.statistics import KEYS, arrow_type, plain
from robocache.output.lerobot.video import encode
from robocache.output.statistics import Statistics
from robocache.video import depth

#: Of how a unit's files are made; raised whenever the same rows would give other bytes.
LAYOUT = 3
#: Episodes a unit has at most: the files of a chunk in v2.1.
MOST = 1000


@dataclass(frozen=True)
class Unit:
    """number: its place; episodes: in order, of the tree"""

    number: int
    episodes: tuple[TreeEpisode, ...]


@dataclass
class Looked:
    """The cameras of an episode, by name: statistics as LeRobot has them and as they merge, and videos.

    anew:    why a recorded video was encoded anew
    outside: of images of depths the name, how many depths the codes have no room for, and how many there are
    """

    told: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    merging: dict[str, Statistics] = field(default_factory=dict)
    videos: dict[str, bytes] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)
    outside: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """What all units have in common. tasks: numbers by text"""

    spec: TreeSpec
    features: tuple[TreeFeature, ...]
    tasks: Mapping[str, int]

    def key(self, unit: Unit) -> str:
        """Hash of what decides the bytes of its files."""
        said = {
            "layout": LAYOUT,
            "version": self.spec.options.version,
            "fps": str(self.spec.fps),
            "codec": self.spec.codec,
            "schema": [[f.name, f.dtype, f.shape, f.names, f.pixels, f.told] for f in self.features],
            "depths": depth.ENCODING.encoder if any(f.depth for f in self.features) else None,
            "encoder": self.spec.encoding.encoder if self.spec.encoding and self.videos else None,
            "unit": unit.number,
            "episodes": [self._said(e) for e in unit.episodes],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _said(self, e: TreeEpisode) -> dict[str, Any]:
        """Of an episode; where its videos lie decides nothing."""
        said = dataclasses.asdict(e) | {"tasks": [[self.tasks[t], t, n] for t, n in e.tasks]}
        return {key: value for key, value in said.items() if key != "videos"}

    def build(
        self, output: Output, unit: Unit, pool: Executor, ahead: int, all_looked: Looked
    ) -> Iterator[tuple[str, Any]]:
        """Its files: names and bytes, :func:`digest_name` last. ``OutputError`` where a part, or a video that it refers
        to, cannot be read.

        pool: looks at images and encodes them, so many episodes ahead; all_looked: takes what there is to be told
        """
        v3, fps = self.spec.v3, self.spec.fps
        reels = {f.name: Reel(f.name, unit.number, fps) for f in self.videos}
        tables: list[pa.Table] = []
        told: list[dict[str, dict[str, np.ndarray]]] = []
        merging: list[dict[str, Statistics]] = []
        for episode, table, valid, looking in self._looking(output, unit, pool, ahead):
            looked = looking()
            all_looked.anew += looked.anew
            all_looked.outside += looked.outside
            rows = rows_of(table, episode, self.features, fps, self.tasks)
            numbers, mergeable = statistics_of(rows, valid, self.features)
            told.append(looked.told | numbers)
            merging.append(looked.merging | mergeable)
            if v3:
                tables.append(rows)
                for name, video in looked.videos.items():
                    yield from reels[name].add(video, episode.length)
            else:
                yield rows_name(False, unit.number, episode.index), self._encode([rows])
                for name, video in looked.videos.items():
                    yield video_name(False, name, unit.number, episode.index), video
        if v3:
            yield rows_name(True, unit.number, 0), self._encode(tables)
            for reel in reels.values():
                yield from reel.close()
        yield episodes_name(v3, unit.number), self._encode([self._episodes(unit, told, reels)])
        yield digest_name(unit.number), statistics.encode({0: statistics.merged(merging)})

    def _looking(
        self, output: Output, unit: Unit, pool: Executor, ahead: int
    ) -> Iterator[tuple[TreeEpisode, pa.Table, dict[str, np.ndarray], Callable[[], Looked]]]:
        """Each episode, its rows that are kept, which of them count by column, and what has looked at its cameras."""
        marks = {f.name: f.valid for f in self.features if f.valid}
        cameras = any(f.camera for f in self.features)
        waiting: deque[Any] = deque()
        for episode, table in read_episodes(output, unit.episodes, self._columns()):
            table = kept_rows(table, episode)
            valid = {name: table.column(mark).to_numpy() for name, mark in marks.items()}
            look = pool.submit(self._look_at, table, episode, valid).result if cameras else Looked
            waiting.append((episode, table, valid, look))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

    def _look_at(self, table: pa.Table, episode: TreeEpisode, valid: Mapping[str, np.ndarray]) -> Looked:
        """The statistics and the videos of an episode's cameras."""
        looked, footage = Looked(), Footage(episode.videos, self.spec.storage_options)
        for f in self.features:
            if f.camera:
                where, column = f"{episode.id}: {f.name}", table.column(f.column)
                points = points_of(table.num_rows)
                numbers = image_statistics(column, f, valid[f.name], points, where, footage)
                looked.told[f.name], looked.merging[f.name] = numbers
                if f.depth and not f.refers:
                    looked.outside.append((f.name, *depth.outside(column, f.shape)))
                if f.dtype == "video":
                    looked.videos[f.name] = self._video(column, f, where, footage, looked.anew)
        return looked

    def _video(self, column: pa.ChunkedArray, f: TreeFeature, where: str, footage: Footage, anew: list[str]) -> bytes:
        """Of an episode: the recorded one where it is one that the tree can have, else one that is encoded."""
        if f.refers:
            try:
                return footage.cut(column.combine_chunks(), self.spec.fps)
            except (ValueError, InputError) as error:
                anew.append(f"{where}: {error}")
        elif f.depth:
            frames = depth.frames(column, f.shape)
            return encode(frames, (f.shape[0], f.shape[1]), self.spec.fps, depth.ENCODING, where)
        if self.spec.encoding is None or f.depth:
            raise OutputError(
                f"{anew[-1]}: the recorded video does not fit; "
                + ("depths are not encoded anew" if f.depth else "output.lerobot.video: av1 or h264 encodes it anew")
            )
        frames = frames_of(column, f, where, footage)
        return encode(frames, (f.shape[0], f.shape[1]), self.spec.fps, self.spec.encoding, where)

    @property
    def videos(self) -> list[TreeFeature]:
        """The features that are videos."""
        return [f for f in self.features if f.dtype == "video"]

    def _columns(self) -> list[str]:
        taken = [f for f in self.features if f.name not in INDEX]
        return list(dict.fromkeys([f.column for f in taken] + [f.valid for f in taken if f.valid]))

    def _encode(self, tables: Sequence[pa.Table]) -> pa.Buffer:
        return parts.encode(tables, "parquet", self.spec.codec, plainly=True)

    def _episodes(
        self, unit: Unit, told: Sequence[Mapping[str, Mapping[str, np.ndarray]]], reels: Mapping[str, Reel]
    ) -> pa.Table:
        """A row an episode, as meta/episodes has it, and the columns ``robocache/``: what it is in the output."""
        episodes = unit.episodes
        chunk, file = places(unit.number)
        n = len(episodes)
        columns: dict[str, Any] = {
            "episode_index": pa.array([e.index for e in episodes]),
            "tasks": pa.array([list(dict.fromkeys(t for t, _ in e.tasks)) for e in episodes]),
            "length": pa.array([e.length for e in episodes]),
            "data/chunk_index": pa.array([chunk] * n),
            "data/file_index": pa.array([file] * n),
            "dataset_from_index": pa.array([e.start for e in episodes]),
            "dataset_to_index": pa.array([e.start + e.length for e in episodes]),
        }
        for name, reel in reels.items() if self.spec.v3 else ():
            begins = [before for _, before in reel.places]
            ends = [before + e.length for before, e in zip(begins, episodes, strict=True)]
            columns |= {
                f"videos/{name}/chunk_index": pa.array([unit.number] * n),
                f"videos/{name}/file_index": pa.array([file for file, _ in reel.places]),
                f"videos/{name}/from_timestamp": pa.array([float(k / self.spec.fps) for k in begins]),
                f"videos/{name}/to_timestamp": pa.array([float(k / self.spec.fps) for k in ends]),
            }
        for feature in self.features:
            if feature.name not in told[0]:
                continue
            plainly = [plain(feature, found[feature.name]) for found in told]
            for key in KEYS:
                values = [p[key] for p in plainly]
                columns[f"stats/{feature.name}/{key}"] = pa.array(values, arrow_type(feature, key))
        columns |= {
            "meta/episodes/chunk_index": pa.array([chunk] * n),
            "meta/episodes/file_index": pa.array([file] * n),
            "robocache/id": pa.array([e.id.encode("utf-8", "backslashreplace").decode() for e in episodes]),
            "robocache/episode_index": pa.array([e.number for e in episodes]),
            "robocache/start_ns": pa.array([e.start_ns for e in episodes]),
            "robocache/split": pa.array([e.split for e in episodes]),
        }
        return pa.table(columns)


def cut(episodes: Sequence[TreeEpisode], data_mb: int) -> list[Unit]:
    """Units of about so many MB (1e6 bytes) of the parts that their rows are in."""
    units: list[Unit] = []
    some: list[TreeEpisode] = []
    size = 0.0
    for e in episodes:
        share = e.share * e.length / max(1, e.rows)
        if some and (size + share > data_mb * 1_000_000 or len(some) == MOST):
            units.append(Unit(len(units), tuple(some)))
            some, size = [], 0.0
        some.append(e)
        size += share
    return [*units, Unit(len(units), tuple(some))] if some else units
