"""What a column's type loses of what the sensor measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from robocache import scratch
from robocache.engine.clean import Columns
from robocache.engine.prepare import Request
from robocache.features.cast import rounded_columns, way_of
from robocache.formats.messages import native
from robocache.output.schema import FeatureType
from robocache.types import Finding, StreamType, as_rows, numpy_type

#: Sources wider than this are matrices and images: no set of joints that may turn, and not looked at for rounding.
JOINTS = 64


def rounding(r: Request, column: FeatureType) -> list[Finding]:
    """Where the column's type loses what the sensor measured."""
    kind, cleaned = StreamType(column.arrow).element, r.cleaned
    assert cleaned is not None
    recorded = cleaned.stream.values
    if not pa.types.is_floating(kind) or not isinstance(recorded, np.ndarray) or r.kind.width > JOINTS:
        return []
    dtype, out = numpy_type(kind), []
    for group in cleaned.groups:
        values = group.values
        if values is None or values.dtype != recorded.dtype or len(values) != len(recorded):
            values = as_rows(recorded)
            if group.rows is not None and len(group.rows) != len(values):
                values = scratch.picked(values, group.rows)
            values = values if group.columns is None else values[:, group.columns]
            group = replace(group, values=values)
        lost = _lost(group, values, dtype)
        if len(lost):
            names = ", ".join(r.column_name(group, int(c)) for c in lost[:4])
            text = (
                f"{column.name}: {dtype} rounds {names} of {r.source.source} more coarsely than it was measured; set "
                "dtype: float64"
            )
            out.append(Finding("rounded", column.name, text, len(lost)))
    return out


def _lost(group: Columns, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return rounded_columns(values, dtype, lambda: group.extremes, lambda: _ways(values))


def _ways(values: np.ndarray) -> np.ndarray:
    """As :func:`robocache.features.cast.way_of`, of a column on the disk some rows at a time."""
    total = np.zeros(values.shape[1])
    for some in scratch.blocks(values):
        rows = values[max(some.start - 1, 0) : some.stop]  # with the last of those before
        found = native.ways(rows)
        total += way_of(rows) if found is None else found
    return total
