"""The one place that says which Arrow columns an output has, and builds the table of an episode."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

#: Columns before the features: which episode, which row of it, seconds since its start, nanoseconds.
INDEX_COLUMNS = ("episode_index", "frame_index", "timestamp", "time_ns")


@dataclass(frozen=True, slots=True)
class FeatureType:
    """What one output column holds. ``about``: JSON values that are stored with it (names, units, sources).

    starts: how many numbers ``<feature>.start`` has, which holds what differences begin at, null elsewhere; 0: none
    """

    name: str
    arrow: pa.DataType
    about: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 0

    @property
    def metadata(self) -> dict[str, str]:
        """Of the Arrow field: each value as JSON."""
        return {key: json.dumps(value) for key, value in sorted(self.about.items())}


def arrow_schema(features: Sequence[FeatureType], stamped: Mapping[str, int] | None = None) -> pa.Schema:
    """``INDEX_COLUMNS``, then each feature with its ``<feature>.valid`` (and ``<feature>.start``).

    stamped: features with ``<feature>.stamps`` beside them, and how many stamps a row has
    """
    fields = [
        pa.field("episode_index", pa.int64(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("time_ns", pa.int64(), nullable=False),
    ]
    for feature in features:
        fields.append(pa.field(feature.name, feature.arrow, metadata=feature.metadata or None))
        fields.append(pa.field(f"{feature.name}.valid", pa.bool_(), nullable=False))
        if feature.starts:
            fields.append(pa.field(f"{feature.name}.start", pa.list_(pa.float64(), feature.starts)))
        if stamped and feature.name in stamped:
            fields.append(pa.field(f"{feature.name}.stamps", pa.list_(pa.int64(), stamped[feature.name])))
    return pa.schema(fields)


def episode_table(
    schema: pa.Schema,
    episode_index: int,
    times: np.ndarray,
    columns: Mapping[str, pa.Array | pa.ChunkedArray | np.ndarray],
) -> pa.Table:
    """The rows of one episode.

    times: int64 ``[T]``; columns: every column of the schema but ``INDEX_COLUMNS``
    """
    count = len(times)
    arrays: list[Any] = [
        pa.array(np.full(count, episode_index, np.int64)),
        pa.array(np.arange(count, dtype=np.int64)),
        pa.array((times - times[0]) / 1e9),
        pa.array(times),
        *(columns[name] for name in schema.names[len(INDEX_COLUMNS) :]),
    ]
    return pa.Table.from_arrays([a if not isinstance(a, np.ndarray) else pa.array(a) for a in arrays], schema=schema)
