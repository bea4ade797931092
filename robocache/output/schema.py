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
#: By option, behind them: the id of the episode.
EPISODE_ID = "episode_id"
#: In the metadata of a part's schema: what its columns' names have for a dot.
SEPARATOR = b"name_separator"


@dataclass(frozen=True, slots=True)
class FeatureType:
    """What one output column holds. ``about``: JSON values that are stored with it (names, units, sources).

    starts:  how many numbers ``<feature>.start`` has, which holds what differences begin at, null elsewhere; 0: none
    counted: whether ``<feature>.count`` says how many samples of its window each row has
    """

    name: str
    arrow: pa.DataType
    about: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 0
    counted: bool = False

    @property
    def metadata(self) -> dict[str, str]:
        """Of the Arrow field: each value as JSON."""
        return {key: json.dumps(value) for key, value in sorted(self.about.items())}


def arrow_schema(
    features: Sequence[FeatureType], stamped: Mapping[str, int] | None = None, *, episode_id: bool = False
) -> pa.Schema:
    """``INDEX_COLUMNS``, then each feature with its ``<feature>.valid`` (and ``<feature>.start``, ``.count``).

    stamped:    features with ``<feature>.stamps`` beside them, and how many stamps a row has
    episode_id: a column of that name, a dictionary of text, behind the index columns
    """
    fields = [
        pa.field("episode_index", pa.int64(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("time_ns", pa.int64(), nullable=False),
    ]
    if episode_id:
        fields.append(pa.field(EPISODE_ID, pa.dictionary(pa.int32(), pa.string()), nullable=False))
    for feature in features:
        fields.append(pa.field(feature.name, feature.arrow, metadata=feature.metadata or None))
        fields.append(pa.field(f"{feature.name}.valid", pa.bool_(), nullable=False))
        if feature.starts:
            fields.append(pa.field(f"{feature.name}.start", pa.list_(pa.float64(), feature.starts)))
        if feature.counted:
            fields.append(pa.field(f"{feature.name}.count", pa.int32(), nullable=False))
        if stamped and feature.name in stamped:
            fields.append(pa.field(f"{feature.name}.stamps", pa.list_(pa.int64(), stamped[feature.name])))
    return pa.schema(fields)


def marks(schema: pa.Schema) -> dict[str, str]:
    """Of each feature of a part its ``valid`` column, by the name of its own."""
    separator = (schema.metadata or {}).get(SEPARATOR, b".").decode()
    names = set(schema.names)
    return {name: mark for name in schema.names if (mark := f"{name}{separator}valid") in names}


def counts(schema: pa.Schema) -> dict[str, str]:
    """Of each feature that is a window its ``count`` column, by the name of its own."""
    return {name: count for name, mark in marks(schema).items() if (count := f"{mark[:-5]}count") in schema.names}


def episode_table(
    schema: pa.Schema,
    episode_index: int,
    id: str,
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
        *(columns[name] for name in schema.names[len(INDEX_COLUMNS) :] if name != EPISODE_ID),
    ]
    if EPISODE_ID in schema.names:
        text = pa.array([id.encode("utf-8", "backslashreplace").decode()])
        ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), text)
        arrays.insert(len(INDEX_COLUMNS), ids)
    return pa.Table.from_arrays([a if not isinstance(a, np.ndarray) else pa.array(a) for a in arrays], schema=schema)
