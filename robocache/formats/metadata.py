"""What holds for a whole episode, its metadata, as sources: ``metadata.task``, ``metadata.robot.name``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.types import Source, Stream, Values

_PREFIX = "metadata."


def metadata_sources(sources: Sequence[Source], found: Collection[str]) -> list[Source]:
    """Those that name metadata, and are nothing else in the recording."""
    return [source for source in sources if source.path.startswith(_PREFIX) and source.key not in found]


def metadata_streams(sources: Sequence[Source], metadata: Mapping[str, Any], start: int) -> dict[str, Stream]:
    """A stream of one sample, at ``start`` (int64 nanoseconds), for each source that the metadata has.

    Numbers, truth values, text, and lists of one kind of these; of several tasks the list. Anything else is left out.
    """
    streams = {}
    for source in sources:
        values = _values(_lookup(metadata, source.path.removeprefix(_PREFIX)))
        if values is not None:
            streams[source.key] = Stream(np.full(1, start, np.int64), values)
    return streams


def _lookup(item: Any, path: str) -> Any:
    """By the longest name that is there: names may hold dots."""
    if not isinstance(item, Mapping):
        return None
    if path in item:
        return item[path]
    for name in sorted((str(name) for name in item if path.startswith(f"{name}.")), key=len, reverse=True):
        found = _lookup(item[name], path[len(name) + 1 :])
        if found is not None:
            return found
    return None


def _values(value: Any) -> Values | None:
    if isinstance(value, str):
        return pa.array([value], pa.string())
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return pa.array([value], pa.list_(pa.string()))
    try:
        array = np.array([value])
    except ValueError:  # lists of differing length
        return None
    return array if array.dtype.kind in "biuf" else None
