"""Values of JSON messages: found by path, and brought into columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, MissingError
from robocache.formats.base import Match
from robocache.formats.messages.paths import Token, choose
from robocache.formats.times import iso_to_ns, seconds_of, text_to_ns


class Exact(float):
    """A number with the text that it was read from, which may have more digits than a float."""

    text: str

    def __new__(cls, text: str) -> Exact:
        self = super().__new__(cls, text)
        self.text = text
        return self


class Absent(NamedTuple):
    """Why a message does not have a value."""

    reason: str
    field: bool  # no such field; else no such element


def lookup(message: Any, tokens: Sequence[Token]) -> Any:
    """What a path leads to, or :class:`Absent`."""
    value = message
    for name, pick in tokens:
        if not isinstance(value, dict) or name not in value:
            known = f"its fields are {', '.join(value)}" if isinstance(value, dict) else f"it is {kind_of(value)}"
            return Absent(f"no field {name!r}; {known}", True)
        value = value[name]
        if pick is not None:
            size = f"it has {len(value)} elements" if isinstance(value, list) else f"it is {kind_of(value)}"
            value = choose(value, pick)
            if value is None:
                return Absent(f"no element [{pick}] of {name}; {size}", False)
    return value


def enclosing(message: Any, tokens: Sequence[Token]) -> Iterator[tuple[Any, bool]]:
    """The objects around a value, the innermost first, and whether each is an element picked of an array."""
    found = [(message, False)]
    for name, pick in tokens:
        message = choose(message.get(name), pick) if isinstance(message, dict) else None
        found.append((message, pick is not None))
    yield from reversed(found)


def stamp_of(item: Any) -> int | None:
    """Nanoseconds of an object's own stamp: ``header.stamp``, ``timestamp`` or ``stamp``, of seconds and nanoseconds
    or as ISO text; None where it has none."""
    if not isinstance(item, dict):
        return None
    header = item.get("header")
    places = [header.get("stamp")] if isinstance(header, dict) else []
    for value in (*places, item.get("timestamp"), item.get("stamp")):
        if (found := seconds_of(value)) is not None:
            return found
        if isinstance(value, str) and "T" in value:
            try:
                return iso_to_ns(value)
            except ValueError:
                continue
    return None


def field_stamp(value: Any, unit: str, where: str) -> int:
    """Nanoseconds of a field that is a time: seconds and nanoseconds, a number in ``unit``, or ISO text."""
    found = seconds_of(value)
    if found is not None:
        return found
    text = value.text if isinstance(value, Exact) else str(value) if type(value) in (int, str) else ""
    try:
        return text_to_ns(text, unit) if unit else iso_to_ns(str(value))
    except ValueError:
        pass
    try:
        return iso_to_ns(text)
    except ValueError:
        right = "seconds and nanoseconds, ISO 8601 text, or a number with its unit, as in 'stamp: field:us'"
        raise InputError(f"{where} is {kind_of(value)} ({str(value)[:40]}); {right} is a time") from None


def column(found: Sequence[Any], where: str) -> tuple[np.ndarray | pa.Array, list[str] | None]:
    """One value a message as numbers ``[n, *shape]``, text, or lists of numbers whose lengths differ; and the names of
    the columns of an object.

    Objects lay their numbers side by side in the order of the first message; null is NaN.
    """
    if found and isinstance(found[0], dict):
        return _objects(found, where)
    if found and all(isinstance(value, str) for value in found):
        try:
            return pa.array(found, pa.string()), None
        except (pa.ArrowException, UnicodeError) as error:
            raise InputError(f"{where}: text that Arrow cannot hold ({error})") from None
    if found and all(isinstance(value, list) and value and isinstance(value[0], str) for value in found):
        return pa.array(found, pa.list_(pa.string())), None
    if found and all(_plain_list(value) for value in found) and len({len(value) for value in found}) > 1:
        flat = numbers([item for value in found for item in value], where)
        bounds = np.concatenate([[0], np.cumsum([len(value) for value in found])])
        return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(flat)), None
    return numbers(found, where), None


def _plain_list(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(item, dict | list | str) for item in value)


def _objects(found: Sequence[Any], where: str) -> tuple[np.ndarray, list[str]]:
    paths = list(_leaves(found[0], (), where))
    if not paths:
        raise InputError(f"{where}: is an object that holds no numbers")
    columns = []
    for path in paths:
        values = [lookup(value, [Token(name) for name in path]) for value in found]
        absent = next((value for value in values if isinstance(value, Absent)), None)
        if absent is not None:
            raise MissingError(f"{where}: some messages lack a field of others: {absent.reason}")
        columns.append(numbers(values, where))
    flat = [part.reshape(len(found), -1) for part in columns]
    names = [
        ".".join(path) if part.ndim == 1 else f"{'.'.join(path)}.{i}"
        for path, part in zip(paths, columns, strict=True)
        for i in range(1 if part.ndim == 1 else int(np.prod(part.shape[1:])))
    ]
    same = {part.dtype for part in flat}
    return np.concatenate(flat, axis=1, dtype=same.pop() if len(same) == 1 else np.float64), names


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
            array = numbers([value], "")
        except InputError:
            return
        shape = f"[{','.join(map(str, array.shape[1:]))}]" if array.ndim > 1 else ""
        yield path[1:], f"{'bool' if array.dtype == bool else array.dtype.name}{shape}"


def _leaves(value: Any, path: tuple[str, ...], where: str) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "header" and seconds_of(inner) is None:
                yield from _leaves(inner, (*path, name), where)
    elif isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], dict | str)):
        raise InputError(f"{where}: holds {'.'.join(path)} which is {kind_of(value)}; name one of the other fields")
    else:
        yield path


def numbers(found: Sequence[Any], where: str) -> np.ndarray:
    """Numbers or truth values ``[n, *shape]``; null is NaN. ``InputError``: they are none, or differ in shape."""
    try:
        array = np.array(found)
        if array.dtype == object:
            array = np.array(found, np.float64)  # null becomes NaN; anything else that is no number is refused
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: is not a number or an array of one size in every message ({error})") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where}: is {kind_of(found[0])}, not a number, in some or all messages")
    return array


def named_by(message: Any, tokens: Sequence[Token], names: Sequence[str]) -> tuple[str, ...] | None:
    """The names that a message gives to the numbers of a list: of a list of text beside or around it."""
    for item, _ in list(enclosing(message, tokens))[1:]:
        if isinstance(item, Mapping):
            for name in names:
                texts = item.get(name)
                if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
                    return tuple(texts)
    return None


def only_texts(items: Sequence[Any]) -> bool:
    """Whether a selector picks by name throughout."""
    return bool(items) and all(isinstance(item, str) for item in items)


def places_of(tokens: Sequence[Token]) -> list[str]:
    """The elements that a path names by a field, as a note has them."""
    return [str(token.pick) for token in tokens if isinstance(token.pick, Match)]


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
