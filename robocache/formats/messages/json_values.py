"""Values of JSON messages: found by path, and brought into columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, MissingError

_TOKEN = re.compile(r"\.([^.\[\]]+)|\[(\d{1,9})\]")


def lookup(message: Any, path: str, where: str) -> Any:
    """What ``path`` (``.field.list[2].field``, empty: the whole message) leads to."""
    if _TOKEN.sub("", path):
        raise InputError(f"{where}: cannot read {path!r}; write .field.list[2].field")
    value = message
    for name, position in _TOKEN.findall(path):
        if name:
            if not isinstance(value, dict) or name not in value:
                known = f"its fields are {', '.join(value)}" if isinstance(value, dict) else f"it is {_kind(value)}"
                raise MissingError(f"{where}: no field {name!r}; {known}")
            value = value[name]
        else:
            if not isinstance(value, list) or int(position) >= len(value):
                size = f"it has {len(value)} elements" if isinstance(value, list) else f"it is {_kind(value)}"
                raise InputError(f"{where}: no element [{position}]; {size}")
            value = value[int(position)]
    return value


def header_stamp(message: Any) -> int | None:
    """Nanoseconds of ``header.stamp.{sec,nanosec}``; None where the message has none."""
    header = message.get("header") if isinstance(message, dict) else None
    stamp = header.get("stamp") if isinstance(header, dict) else None
    if not _is_stamp(stamp) or not all(type(part) is int for part in stamp.values()):
        return None
    stamp_ns = stamp["sec"] * 1_000_000_000 + stamp["nanosec"]
    return stamp_ns if abs(stamp_ns) < 1 << 63 else None


def column(found: Sequence[Any], where: str) -> tuple[np.ndarray | pa.Array, list[str] | None]:
    """One value a message as numbers ``[n, *shape]`` or strings, and the names of the columns of an object.

    Objects lay their numbers side by side in the order of the first message; null is NaN.
    """
    names = None
    if found and isinstance(found[0], dict):
        paths = list(_leaves(found[0], "", where))
        if not paths:
            raise InputError(f"{where}: is an object that holds no numbers")
        columns = [np.array(_numbers([lookup(value, path, where) for value in found], where)) for path in paths]
        flat = [part.reshape(len(found), -1) for part in columns]
        names = [
            path[1:] if part.ndim == 1 else f"{path[1:]}.{i}"
            for path, part in zip(paths, columns, strict=True)
            for i in range(1 if part.ndim == 1 else int(np.prod(part.shape[1:])))
        ]
        same = {part.dtype for part in flat}
        return np.concatenate(flat, axis=1, dtype=same.pop() if len(same) == 1 else np.float64), names
    if found and all(isinstance(value, str) for value in found):
        try:
            return pa.array(found, pa.string()), None
        except (pa.ArrowException, UnicodeError) as error:
            raise InputError(f"{where}: text that Arrow cannot hold ({error})") from None
    return _numbers(found, where), names


def list_fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Paths below an object with their element type and shape, as far as one message tells them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from list_fields(inner, f"{path}.{name}")
    elif path and isinstance(value, list) and value and isinstance(value[0], dict):
        yield from list_fields(value[0], f"{path}[0]")
    elif path and isinstance(value, str):
        yield path[1:], "string"
    elif path:
        try:
            array = _numbers([value], "")
        except InputError:
            return
        shape = f"[{','.join(map(str, array.shape[1:]))}]" if array.ndim > 1 else ""
        yield path[1:], f"{'bool' if array.dtype == bool else array.dtype.name}{shape}"


def _leaves(value: Any, path: str, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "header" and not _is_stamp(inner):
                yield from _leaves(inner, f"{path}.{name}", where)
    elif isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], (dict, str))):
        raise InputError(f"{where}: holds {path[1:]} which is {_kind(value)}; name one of the other fields")
    else:
        yield path


def _numbers(found: Sequence[Any], where: str) -> np.ndarray:
    try:
        array = np.array(found)
        if array.dtype == object:
            array = np.array(found, np.float64)  # null becomes NaN; anything else that is no number is refused
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: is not a number or an array of one size in every message ({error})") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where}: is {_kind(found[0])}, not a number, in some or all messages")
    return array


def _is_stamp(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and value.keys() == {"sec", "nanosec"}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
