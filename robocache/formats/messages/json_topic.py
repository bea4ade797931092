"""JSON messages, decoded one by one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, MissingError
from robocache.formats.base import Match, positions
from robocache.formats.messages.batch import Messages
from robocache.formats.messages.clocks import Clock, split_unit, unit_of
from robocache.formats.messages.images import IMAGES, from_json
from robocache.formats.messages.json_values import (
    Absent,
    Exact,
    column,
    enclosing,
    field_stamp,
    list_fields,
    lookup,
    named_by,
    numbers,
    only_texts,
    places_of,
    stamp_of,
)
from robocache.formats.messages.names import ByName
from robocache.formats.messages.paths import IDENTITY, NAMES, Path, Token, kind_of_names, parse_path, settle
from robocache.formats.messages.topic import Collected, Request
from robocache.types import StreamType, Values, as_rows


class JsonTopic:
    """JSON messages of a topic; arguments as those of :class:`robocache.formats.messages.packed.PackedTopic`."""

    def __init__(self, topic: str, type_name: str, requests: Sequence[Request], *, uri: str):
        self._topic, self._uri = topic, uri
        self._signals = [_Signal(request, type_name, f"{uri}: {request.source.path}") for request in requests]
        self._exact = any(signal.exact for signal in self._signals)
        self._stamps: list[int] = []
        self._first: Any = None

    def types(self) -> dict[str, StreamType]:
        return {signal.key: signal.type() for signal in self._signals}

    def add(self, messages: Messages) -> None:
        for start, size in zip(messages.start.tolist(), messages.size.tolist(), strict=True):
            number = len(self._stamps)
            try:
                text = bytes(messages.buffer[start : start + size])
                message = json.loads(text, parse_float=Exact if self._exact else None)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self._uri}: {self._topic}: message {number} is not JSON ({error})") from None
            self._first = message if not number else self._first
            self._stamps.append(stamp_of(message) or 0)
            for signal in self._signals:
                signal.add(message, number)

    def collected(self) -> dict[str, Collected]:
        return {signal.key: signal.collected() for signal in self._signals}

    def header_stamps(self) -> tuple[Clock, np.ndarray | None]:
        stamps = np.array(self._stamps, np.int64)
        return Clock(kind="header"), stamps if stamps.any() else None

    def fields(self) -> tuple[tuple[str, str], ...]:
        return tuple(list_fields(self._first))


class _Signal:
    """One source: what of each message it is, and what has been collected of it."""

    def __init__(self, request: Request, type_name: str, where: str):
        self.key, self._where, self._stamp = request.source.key, where, request.stamp
        self._path, self._names = request.path, request.source.names
        whole = not request.path.tokens and request.path.selector is None
        self._image = IMAGES.get(re.split("[./]", type_name)[-1]) if whole else None
        self._found: list[Any] = []
        self._spoken: list[tuple[str, ...] | None] = []
        self._kept: list[bool] = []
        self._absent: Counter[str] = Counter()
        self._stamps: list[int] = []
        self._stamped = 0
        self._settled = self._nameless = False
        self._clock_path: Path | None = None
        self._unit = ""
        if self._stamp not in ("header", "log", "publish"):
            field, given = split_unit(self._stamp)
            self._clock_path = parse_path(f".{field.lstrip('.')}", None, f"{where}: stamp")
            self._unit = unit_of(field, type_name, given)

    @property
    def exact(self) -> bool:
        """Whether its times may need every digit of a number."""
        return self._clock_path is not None

    def type(self) -> StreamType:
        """JSON tells nothing before a message is read: numbers, as many as there are."""
        return StreamType(pa.list_(pa.float64(), len(self._names) or -1))

    def add(self, message: Any, number: int) -> None:
        if not self._settled:
            self._settle(message)
        self._stamps.append(self._time(message, number))
        value = lookup(message, self._path.tokens)
        absent = isinstance(value, Absent)
        self._kept.append(not absent)
        if isinstance(value, Absent):
            self._absent[value.reason] += 1
            return
        self._found.append(value)
        numeric = isinstance(value, list) and not any(isinstance(item, str | dict | list) for item in value)
        names = named_by(message, self._path.tokens, NAMES) if numeric else None
        if len(self._found) == 1 and names is not None and len(names) != len(value):
            self._nameless = True  # text about something else
        self._spoken.append(None if self._nameless else names)

    def _settle(self, message: Any) -> None:
        """A place in an array of things that have an identity of their own is that of the first message's."""
        tokens, selector = self._path.tokens, self._path.selector
        whole = lookup(message, tokens)
        structs = isinstance(whole, list) and bool(whole) and isinstance(whole[0], dict)
        if tokens and structs and selector and len(selector) == 1 and isinstance(selector[0], int | Match):
            self._path = Path((*tokens[:-1], Token(tokens[-1].name, selector[0])), None)
        for at, token in enumerate(self._path.tokens):
            if isinstance(token.pick, int):
                element = lookup(message, self._path.tokens[: at + 1])
                if isinstance(element, Absent):
                    return
                if isinstance(element, dict) and isinstance(element.get(IDENTITY), str):
                    self._path = settle(self._path, at, message) or self._path
        self._settled = not isinstance(whole, Absent)

    def _time(self, message: Any, number: int) -> int:
        """Nanoseconds, 0 where the message has no stamp."""
        if self._clock_path is not None:
            value = lookup(message, self._clock_path.tokens)
            where = f"{self._where}: message {number}: stamp {self._clock_path}"
            return 0 if isinstance(value, Absent) else field_stamp(value, self._unit, where)
        if self._stamp != "header":
            return 0
        around = list(enclosing(message, self._path.tokens))
        for item in (*(item for item, picked in around if picked), message):
            stamp = stamp_of(item)
            if stamp is not None:
                self._stamped += 1
                return stamp
        return 0

    def collected(self) -> Collected:
        kept = None if all(self._kept) else np.array(self._kept, bool)
        if self._kept and not any(self._kept):
            raise MissingError(f"{self._where}: {next(iter(self._absent))}, as in all of {len(self._kept):,} messages")
        notes = [f"{n:,} of {len(self._kept):,} messages have {reason}" for reason, n in self._absent.items()][:5]
        values, present, about, more, taken = self._values()
        notes += more
        if taken is not None:
            kept = np.array(self._kept, bool) if kept is None else kept
            kept[np.flatnonzero(kept)] = taken
        if places := places_of(self._path.tokens):
            about["element"] = ", ".join(places)
        clock, stamps = self._clock()
        return Collected(values, clock, stamps, kept, present, about, tuple(notes))

    def _clock(self) -> tuple[Clock, np.ndarray | None]:
        if self._stamp in ("log", "publish"):
            return Clock(kind=self._stamp), None
        if self._stamp == "header":
            if not self._stamped and self._kept:
                return Clock(
                    kind="log", note="its messages have no header stamp: log time; input.stamp can name a field"
                ), None
            return Clock(kind="header"), np.array(self._stamps, np.int64)
        return Clock(kind=str(self._clock_path).lstrip(".")), np.array(self._stamps, np.int64)

    def _values(self) -> tuple[Values, np.ndarray | None, dict[str, Any], list[str], np.ndarray | None]:
        """Values, which are present, what they are, notes, and which of the messages are samples after all."""
        if self._image is not None:
            images, told = from_json(self._found, self._image, self._where)
            return images, None, told, [], None
        named = next((names for names in self._spoken if names), None)
        selector = self._path.selector
        if named is not None:
            order = self._names or (tuple(map(str, selector or ())) if only_texts(selector or ()) else None)
            if order is None:
                every = tuple(range(len(named)))
                at = every if selector is None else positions(selector, len(named), where=self._where, names=named)
                order = tuple(named[i] for i in at)
            return self._by_name(order)
        values, names = column(self._found, self._where)
        if not isinstance(values, np.ndarray):
            if selector is not None:
                what = "text" if pa.types.is_string(values.type) else "a list whose length differs between messages"
                raise InputError(f"{self._where}: is {what}, which has no columns")
            return values, None, {}, [], None
        if selector is not None:
            flat = as_rows(values)
            picked = positions(selector, flat.shape[1], where=self._where, names=names)
            values, names = flat[:, picked], None if names is None else [names[i] for i in picked]
        about: dict[str, Any] = {"names": names} if names else {}
        if names and (kind := kind_of_names(names, self._path.tokens[-1].name if self._path.tokens else "")):
            about["kind"] = kind
        return values, None, about, [], None

    def _by_name(self, names: Sequence[str]):
        by_name = ByName(names)
        flat = numbers([item for value in self._found for item in value], self._where) if self._found else np.empty(0)
        counts = np.array([len(value) for value in self._found], np.int64)
        spoken = list(dict.fromkeys(spoken or () for spoken in self._spoken))
        which = np.array([spoken.index(texts or ()) for texts in self._spoken], np.int64)
        values, present, taken = by_name.arrange(flat, counts, spoken, which)
        if reason := by_name.missing():
            raise MissingError(f"{self._where}: {reason}")
        return values, present, {"names": list(names)}, by_name.notes(chosen=self._path.selector is not None), taken
