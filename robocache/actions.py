"""The robot's own commands from a dataset of converted actions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.errors import OutputError
from robocache.features.columns import flat_numbers, number_array
from robocache.features.convert import absolute
from robocache.output.dataset import Output
from robocache.types import StreamType, array_type


def invert(dataset: Output | pa.Table | str, features: Sequence[str] | None = None) -> pa.Table:
    """Undo ``convert`` by what the dataset says of its columns, and by nothing else.

    dataset:  an output, its URI, or its rows (in order, of whole episodes) with the schema that they were written with
    features: which; None: all that were converted

    returns ``episode_index``, ``frame_index`` and a column ``[D]`` float64 a feature, NaN where the dataset does not
    tell, with the names that the columns had. What ``forward_kinematics`` made stays what it is: poses.
    ``OutputError``: no such feature, or a column that it needs is missing.
    """
    if not isinstance(dataset, pa.Table):  # part by part: each holds whole episodes, and may be as large as memory
        output = dataset if isinstance(dataset, Output) else Output.open(dataset)
        wanted = _wanted({field.name: _about(field) for field in output.schema}, features)
        made = [invert(output.table(part, _needed(output.schema, wanted)), wanted) for part in output.parts]
        return pa.concat_tables(made) if made else pa.table({})
    table = dataset
    known = {field.name: _about(field) for field in table.schema}
    wanted = _wanted(known, features)
    episodes = table["episode_index"].to_numpy()
    edges = np.flatnonzero(np.diff(episodes)) + 1
    offsets = np.array([0, *edges, len(episodes)], np.int64) if len(episodes) else np.zeros(1, np.int64)
    out: dict[str, Any] = {name: table[name] for name in ("episode_index", "frame_index")}
    fields = [table.schema.field(name) for name in out]
    for name in wanted:
        rows = _absolute(table, known, name, offsets)
        kind = array_type(rows.dtype, rows.shape[1:])
        told = known[name].get("convert", known[name])
        fields.append(pa.field(name, kind, metadata={"names": json.dumps(told.get("names", []))}))
        out[name] = number_array(rows, kind)
    return pa.table(list(out.values()), schema=pa.schema(fields))


def _absolute(table: pa.Table, known: Mapping[str, Any], name: str, offsets: np.ndarray) -> np.ndarray:
    about = known[name].get("convert", {})
    state = None
    if about.get("state"):
        if about["state"] not in known:
            raise OutputError(f"{name} is seen from {about['state']}, which is not among the columns")
        state = _absolute(table, known, about["state"], offsets)
    starts = _numbers(table, f"{name}.start", known) if about.get("delta") == "step" else None
    values = _numbers(table, name, known)
    valid = table[f"{name}.valid"].to_numpy(zero_copy_only=False)
    if about.get("delta") != "chunk":  # whose first action is there although the chunk is cut off by the episode's end
        values[~valid] = np.nan
    return absolute(values, about, state=state, starts=starts, offsets=offsets)


def _numbers(table: pa.Table, name: str, known: Mapping[str, Any]) -> np.ndarray:
    """A column of numbers ``[N, ...]``, float64, null as NaN."""
    if name not in known:
        raise OutputError(f"the column {name} is missing, without which steps cannot be put one after another")
    column = table[name].combine_chunks()
    flat = np.array(flat_numbers(column), np.float64).reshape(len(table), *(StreamType(column.type).shape or (1,)))
    flat[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return flat


def _wanted(known: Mapping[str, Any], features: Sequence[str] | None) -> list[str]:
    if features is None:
        return [name for name, about in known.items() if "convert" in about]
    for name in features:
        if name not in known:
            raise OutputError(f"no column is called {name!r}; there are {', '.join(known)}")
    return list(features)


def _needed(schema: pa.Schema, wanted: Sequence[str]) -> list[str]:
    """The columns that the features are undone by."""
    states = [_about(schema.field(name)).get("convert", {}).get("state", "") for name in wanted]
    names = {"episode_index", "frame_index"}
    names |= {f"{name}{suffix}" for name in (*wanted, *states) for suffix in ("", ".valid", ".start")}
    return [name for name in schema.names if name in names]


def _about(field: pa.Field) -> dict[str, Any]:
    found = {}
    for key, value in (field.metadata or {}).items():
        try:
            found[key.decode()] = json.loads(value)
        except ValueError:  # written by others
            continue
    return found
