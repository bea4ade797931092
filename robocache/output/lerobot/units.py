"""The tree is made and made anew unit by unit: consecutive episodes that fill a file of rows.

Which episodes are a unit depends on those before alone, so that what is added leaves all but the last one as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.output import parts, statistics
from robocache.output.dataset import Output
from robocache.output.lerobot.episodes import TreeEpisode
from robocache.output.lerobot.features import INDEX, TreeFeature
from robocache.output.lerobot.images import frames_of, image_statistics
from robocache.output.lerobot.layout import digest_name, episodes_name, places, rows_name, video_name
from robocache.output.lerobot.options import TreeSpec
from robocache.output.lerobot.reading import read_episodes
from robocache.output.lerobot.rows import kept_rows, points_of, rows_of, statistics_of
from robocache.output.lerobot.statistics import KEYS, arrow_type, plain
from robocache.output.lerobot.video import encode, join
from robocache.output.statistics import Statistics
from robocache.video import Encoding

#: Of how a unit's files are made; raised whenever the same rows would give other bytes.
LAYOUT = 1
#: Episodes a unit has at most: the files of a chunk in v2.1.
MOST = 1000


@dataclass(frozen=True)
class Unit:
    """number: its place; episodes: in order, of the tree"""

    number: int
    episodes: tuple[TreeEpisode, ...]


@dataclass(frozen=True)
class Tree:
    """What all units have in common. tasks: numbers by text"""

    spec: TreeSpec
    features: tuple[TreeFeature, ...]
    tasks: Mapping[str, int]

    def names(self, unit: Unit) -> list[str]:
        """Of the files that the unit consists of."""
        v3 = self.spec.v3
        rows = dict.fromkeys(rows_name(v3, unit.number, e.index) for e in unit.episodes)
        rows |= dict.fromkeys(video_name(v3, f.name, unit.number, e.index) for f in self.videos for e in unit.episodes)
        return [*rows, episodes_name(self.spec.v3, unit.number), digest_name(unit.number)]

    def key(self, unit: Unit) -> str:
        """Hash of what decides the bytes of its files."""
        said = {
            "layout": LAYOUT,
            "version": self.spec.options.version,
            "fps": str(self.spec.fps),
            "codec": self.spec.codec,
            "schema": [[f.name, f.dtype, f.shape, f.names, f.pixels, f.told] for f in self.features],
            "encoders": {f.name: Encoding(self.spec.options.video).encoder for f in self.videos},
            "unit": unit.number,
            "episodes": [
                {**dataclasses.asdict(e), "tasks": [[self.tasks[t], t, n] for t, n in e.tasks]} for e in unit.episodes
            ],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def build(self, output: Output, unit: Unit) -> Iterator[tuple[str, Any]]:
        """Its files: names and bytes. ``OutputError`` where a part cannot be read."""
        marks = {f.name: f.valid for f in self.features if f.valid}
        tables: list[pa.Table] = []
        told: list[dict[str, dict[str, np.ndarray]]] = []
        merging: list[dict[str, Statistics]] = []
        videos: dict[str, list[bytes]] = {f.name: [] for f in self.videos}
        for episode, table in read_episodes(output, unit.episodes, self._columns()):
            table = kept_rows(table, episode)
            valid = {name: table.column(mark).to_numpy() for name, mark in marks.items()}
            found, mergeable = self._look_at(table, episode, valid, videos)
            rows = rows_of(table, episode, self.features, self.spec.fps, self.tasks)
            numbers, mergeable_too = statistics_of(rows, valid, self.features)
            found, mergeable = found | numbers, mergeable | mergeable_too
            told.append(found)
            merging.append(mergeable)
            if self.spec.v3:
                tables.append(rows)
            else:
                yield rows_name(False, unit.number, episode.index), self._encode([rows])
                for name in videos:
                    yield video_name(False, name, unit.number, episode.index), videos[name].pop()
        if self.spec.v3:
            yield rows_name(True, unit.number, 0), self._encode(tables)
            for name, some in videos.items():
                counts = [e.length for e in unit.episodes]
                yield video_name(True, name, unit.number, 0), join(some, counts, self.spec.fps, name)
        yield episodes_name(self.spec.v3, unit.number), self._encode([self._episodes(unit, told)])
        yield digest_name(unit.number), statistics.encode({0: statistics.merged(merging)})

    def _look_at(
        self,
        table: pa.Table,
        episode: TreeEpisode,
        valid: Mapping[str, np.ndarray],
        videos: Mapping[str, list[bytes]],
    ) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Statistics]]:
        """The statistics of an episode's cameras; videos of them are added to ``videos``."""
        found, merging = {}, {}
        for f in self.features:
            if f.camera:
                where, column = f"{episode.id}: {f.name}", table.column(f.column)
                found[f.name], merging[f.name] = image_statistics(
                    column, f, valid[f.name], points_of(table.num_rows), where
                )
                if f.name in videos:
                    frames = frames_of(column, f, where)
                    size, encoding = (f.shape[0], f.shape[1]), Encoding(self.spec.options.video)
                    videos[f.name].append(encode(frames, size, self.spec.fps, encoding, where))
        return found, merging

    @property
    def videos(self) -> list[TreeFeature]:
        """The features that are videos."""
        return [f for f in self.features if f.dtype == "video"]

    def _columns(self) -> list[str]:
        taken = [f for f in self.features if f.name not in INDEX]
        return list(dict.fromkeys([f.column for f in taken] + [f.valid for f in taken if f.valid]))

    def _encode(self, tables: Sequence[pa.Table]) -> pa.Buffer:
        return parts.encode(tables, "parquet", self.spec.codec)

    def _episodes(self, unit: Unit, told: Sequence[Mapping[str, Mapping[str, np.ndarray]]]) -> pa.Table:
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
        for feature in self.videos if self.spec.v3 else ():
            befores = [e.start - episodes[0].start for e in episodes]
            columns |= {
                f"videos/{feature.name}/chunk_index": pa.array([chunk] * n),
                f"videos/{feature.name}/file_index": pa.array([file] * n),
                f"videos/{feature.name}/from_timestamp": pa.array([float(k / self.spec.fps) for k in befores]),
                f"videos/{feature.name}/to_timestamp": pa.array(
                    [float((k + e.length) / self.spec.fps) for k, e in zip(befores, episodes, strict=True)]
                ),
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
