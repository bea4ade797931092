"""The rows of one episode in a tree, of those in its part, and their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.output import statistics
from robocache.output.lerobot.episodes import TreeEpisode
from robocache.output.lerobot.features import INDEX, TreeFeature, tree_schema
from robocache.output.lerobot.images import as_payloads
from robocache.output.lerobot.statistics import of_rows
from robocache.output.statistics import Statistics


def frame_seconds(length: int, fps: Fraction) -> np.ndarray:
    """float32 ``[length]``: ``frame_index / fps``, rounded once."""
    return (np.arange(length) * fps.denominator / fps.numerator).astype(np.float32)


def kept_rows(table: pa.Table, episode: TreeEpisode) -> pa.Table:
    """Of its rows in the part those that are in the tree."""
    if episode.kept == ((0, table.num_rows),):
        return table
    return pa.concat_tables([table.slice(start, stop - start) for start, stop in episode.kept])


def points_of(rows: int) -> int:
    """How many points a digest of so many rows has."""
    return int(np.clip(rows // statistics.ROWS_A_POINT, statistics.FEWEST, statistics.DIGEST))


def rows_of(
    table: pa.Table,
    episode: TreeEpisode,
    features: Sequence[TreeFeature],
    fps: Fraction,
    tasks: Mapping[str, int],
) -> pa.Table:
    """The episode as the tree has it. table: its rows that are kept; tasks: their numbers."""
    n = episode.length
    numbers = np.repeat([tasks[task] for task, _ in episode.tasks], [count for _, count in episode.tasks])
    own = {
        "timestamp": frame_seconds(n, fps),
        "frame_index": np.arange(n),
        "episode_index": np.full(n, episode.index),
        "index": np.arange(episode.start, episode.start + n),
        "task_index": numbers.astype(np.int64),
    }
    columns = [
        pa.array(own[f.name]) if f.name in INDEX else _stored(table.column(f.column), f, episode.id)
        for f in features
        if f.dtype != "video"
    ]
    return pa.Table.from_arrays(columns, schema=tree_schema(features))


def _stored(column: pa.ChunkedArray, feature: TreeFeature, id: str) -> pa.ChunkedArray | pa.Array:
    if feature.camera:
        return as_payloads(column, feature, f"{id}: {feature.name}")
    kind = feature.stored
    if column.type == kind:
        return column
    if not pa.types.is_list(kind):
        return column.cast(kind)
    sizes, array = [], column.combine_chunks()
    while pa.types.is_fixed_size_list(array.type):
        sizes.append(array.type.list_size)
        array = array.flatten()
    for size in reversed(sizes):
        array = pa.ListArray.from_arrays(pa.array(np.arange(0, len(array) + 1, size, dtype=np.int32)), array)
    return array


def statistics_of(
    rows: pa.Table, valid: Mapping[str, np.ndarray], features: Sequence[TreeFeature]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Statistics]]:
    """Of each feature with numbers: by LeRobot's names, and what merges. valid: of columns, which rows count."""
    points = points_of(rows.num_rows)
    told: dict[str, dict[str, np.ndarray]] = {}
    merging: dict[str, Statistics] = {}
    for feature in features:
        if feature.dtype == "string" or feature.camera:
            continue
        values = _numbers(rows.column(feature.name), feature)
        counts = valid.get(feature.name)
        if counts is not None and not counts.all():
            values = values[counts]
        told[feature.name], merging[feature.name] = of_rows(values, points)
    return told, merging


def _numbers(column: pa.ChunkedArray, feature: TreeFeature) -> np.ndarray:
    """``[n, *shape]``, of a scalar ``[n]``."""
    array: Any = column.combine_chunks()
    shape = () if feature.shape == (1,) else feature.shape
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
