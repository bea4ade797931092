"""What another library reads from a log of messages, number by number, beside what the readers give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from robocache.formats import InputSpec, list_episodes, list_streams, read_episode
from robocache.types import Stream

#: Where a list is cut off for a comparison: clouds and grids are long, and one wrong number is seen early.
MOST = 4096


def reached(message: Any, path: str, first: Any) -> Any:
    """What a path as ``list_streams`` gives it leads to in a message of rosbags'; None where an element is not there.

    ``[0]`` of transforms is the one that stands there in the ``first`` message, wherever it stands in the others."""
    for part in path.replace("[0]", ".0").split("."):
        if part.isdigit():
            child = first[0].child_frame_id if len(first) and hasattr(first[0], "child_frame_id") else None
            same = [item for item in message if child is None or item.child_frame_id == child]
            if not same:
                return None
            message, first = same[0], first[0]
        else:
            message, first = getattr(message, part), getattr(first, part)
    return message


def flat(value: Any) -> list[float] | str | bytes | None:
    """Numbers of a value side by side, as a source has them; None where it holds something else beside."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype == np.uint8 else [float(x) for x in value.ravel()]
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return [float(value)]
    if isinstance(value, list):
        return None
    if hasattr(value, "nanosec"):
        return [float(value.sec), float(value.nanosec)]
    if hasattr(value, "__dataclass_fields__"):
        members = [
            getattr(value, field.name) for field in fields(value) if not (field.name.isupper() or "__" in field.name)
        ]
        parts = [flat(member) for member in members if not hasattr(member, "nanosec")]
        lists = [part for part in parts if isinstance(part, list)]
        return [x for part in lists for x in part] if len(lists) == len(parts) else None
    return None


def plain(stream: Stream, row: int) -> list[float] | str | bytes:
    """One sample of a stream, as :func:`flat` has it."""
    value: Any = stream.values[row]
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    return value if isinstance(value, str | bytes) else [float(x) for x in np.asarray(value).ravel()]


def compare(path: Path, spec: InputSpec | None = None, store: Stores = Stores.LATEST) -> Iterator[tuple[str, int]]:
    """Every field of every topic of a recording against rosbags: (source, samples) of each that was compared.

    Fails at the first number, text or byte that differs; times are those of arrival.
    """
    spec = spec or InputSpec((str(path),), stamp="log")
    (ref,) = list_episodes(spec)
    infos = {info.source: info for info in list_streams(ref, spec)}
    with AnyReader([path], default_typestore=get_typestore(store)) as bag:
        told: dict[str, list[tuple[int, Any]]] = {}
        for connection, arrived, raw in bag.messages():
            try:
                message = bag.deserialize(raw, connection.msgtype)
            except Exception:  # a type that rosbags does not know either
                message = None
            told.setdefault(connection.topic, []).append((arrived, message))
    assert {topic for topic, info in infos.items() if len(info.times)} == set(told)
    for topic in told:
        info = infos[topic]
        wanted = sorted(told[topic], key=lambda pair: pair[0])
        assert len(info.times) == len(wanted)
        np.testing.assert_array_equal(np.sort(info.times), [arrived for arrived, _ in wanted])
        if info.failure or any(message is None for _, message in wanted):
            continue
        for name, _ in info.fields:
            source = f"{topic}.{name}"
            values = [(arrived, flat(reached(message, name, wanted[0][1]))) for arrived, message in wanted]
            values = [(arrived, value) for arrived, value in values if value is not None]
            if not values:
                continue
            stream = read_episode(ref, [source], spec).streams[source]
            assert len(stream.times) == len(values), source
            order = np.argsort(stream.times, kind="stable")
            for row, (_, value) in zip(order, values, strict=True):
                found = plain(stream, int(row))
                if isinstance(found, bytes) and isinstance(value, list):  # of an array of octets it gives a list
                    found = [float(x) for x in found]
                assert type(found) is type(value), source
                if isinstance(value, list) and isinstance(found, list):
                    np.testing.assert_array_equal(found[:MOST], value[:MOST], err_msg=source)
                else:
                    assert found == value, source
            yield source, len(values)
