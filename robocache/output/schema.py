"""The one place that says which Arrow columns an output has, and builds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

#: Columns before the features: which episode, which row of it, seconds since its start, nanoseconds.
INDEX_COLUMNS = ("episode_index", "frame_index", "timestamp", "time_ns")


@dataclass(frozen=True, slots=True)
class FeatureType:
    """What one output column holds: numbers of ``shape`` (kind ``float``), encoded ``bytes``, or ``text``."""

    name: str
    kind: str
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in one row of it."""
        return int(np.prod(self.shape, dtype=np.int64)) if self.kind == "float" else 0

    @property
    def arrow(self) -> pa.DataType:
        if self.kind == "bytes":
            return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        if self.kind == "text":
            return pa.string()
        if self.shape in ((), (1,)):
            return pa.float32()
        inner: pa.DataType = pa.float32()
        for size in reversed(self.shape):
            inner = pa.list_(inner, size)
        return inner

    def array(self, values: np.ndarray | pa.Array) -> pa.Array:
        """The column: from float32 ``[T, width]``, or payloads ``[T]`` with nulls where there is none."""
        if not isinstance(values, np.ndarray):
            if self.kind == "text":
                return values.cast(pa.string())
            paths = pa.nulls(len(values), pa.string())
            return pa.StructArray.from_arrays([values.cast(pa.binary()), paths], ["bytes", "path"])
        array = pa.array(np.ascontiguousarray(values).reshape(-1), pa.float32(), from_pandas=False)
        if self.shape in ((), (1,)):
            return array
        for size in reversed(self.shape):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        return array


def arrow_schema(features: Sequence[FeatureType]) -> pa.Schema:
    """``INDEX_COLUMNS``, then each feature with its ``<feature>.valid``."""
    fields = [
        pa.field("episode_index", pa.int64(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp", pa.float32(), nullable=False),
        pa.field("time_ns", pa.int64(), nullable=False),
    ]
    for feature in features:
        fields.append(pa.field(feature.name, feature.arrow))
        fields.append(pa.field(f"{feature.name}.valid", pa.bool_(), nullable=False))
    return pa.schema(fields)


def episode_table(
    features: Sequence[FeatureType],
    episode_index: int,
    times: np.ndarray,
    columns: Mapping[str, tuple[np.ndarray | pa.Array, np.ndarray]],
) -> pa.Table:
    """The rows of one episode.

    times: int64 ``[T]``; columns: a feature's values (see :meth:`FeatureType.array`) and its bool ``[T]`` validity
    """
    count = len(times)
    arrays: list[Any] = [
        pa.array(np.full(count, episode_index, np.int64)),
        pa.array(np.arange(count, dtype=np.int64)),
        pa.array(((times - times[0]) / 1e9).astype(np.float32)),
        pa.array(times),
    ]
    for feature in features:
        values, valid = columns[feature.name]
        arrays += [feature.array(values), pa.array(valid)]
    return pa.Table.from_arrays(arrays, schema=arrow_schema(features))
