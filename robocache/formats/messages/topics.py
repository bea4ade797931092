"""Collects the messages of one topic, window by window, into times and values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.base import Selector, select_columns
from robocache.formats.mcap.windows import Messages
from robocache.formats.messages.decode import Block, Decoder, to_arrow
from robocache.formats.messages.json_values import column, header_stamp, list_fields, lookup
from robocache.formats.messages.layout import Columns, Key, compile_program, resolve
from robocache.formats.messages.layout import list_fields as list_message_fields
from robocache.formats.messages.ros2msg import Struct, has_stamp
from robocache.types import Stream, Values

_MAX_RESERVE = 1 << 30  # bytes set aside for rows that the file promises but has not yet shown


class Topic(Protocol):
    """What is collected of one topic. ``add`` is given its messages in file order, ``values`` is asked at the end."""

    def add(self, messages: Messages) -> None: ...

    def stamps(self) -> np.ndarray | None:
        """Header stamps, int64 nanoseconds ``[n]``; None where the messages have none."""
        ...

    def values(self) -> dict[str, Values]:
        """By source."""
        ...

    def fields(self) -> tuple[tuple[str, str], ...]: ...


class Rows:
    """An array that grows at its end without copying while the rows stay within ``reserve``."""

    def __init__(self, reserve: int):
        self._reserve = reserve
        self._data: np.ndarray | None = None
        self._length = 0

    def extend(self, rows: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The next ``rows`` rows, to be filled. ``ValueError`` where the shape is not that of the rows before."""
        if self._data is None:
            row_bytes = max(1, dtype.itemsize * int(np.prod(shape)))
            self._data = np.empty((max(rows, min(self._reserve, _MAX_RESERVE // row_bytes)), *shape), dtype)
        elif self._data.shape[1:] != shape:
            raise ValueError(f"{list(self._data.shape[1:])} at first, then {list(shape)}")
        before, self._length = self._length, self._length + rows
        if self._length > len(self._data):
            grown = np.empty((max(self._length, 2 * len(self._data)), *shape), dtype)
            grown[:before] = self._data[:before]
            self._data = grown
        return self._data[before : self._length]

    def array(self) -> np.ndarray | None:
        """Rows so far; None where none was ever added."""
        return None if self._data is None else self._data[: self._length]


class CdrTopic:
    """ROS 2 messages, decoded by column.

    ``sources``: source -> (path below the topic, selector). ``stamped``: take the header stamps too. ``where`` and
    the source, or the topic, begin error messages.
    """

    def __init__(
        self,
        topic: str,
        root: Struct,
        sources: Mapping[str, tuple[str, Selector | None]],
        *,
        stamped: bool,
        reserve: int,
        where: str,
    ):
        self._root, self._where = root, where
        self._columns = {
            source: resolve(root, path, selector, _at(where, source)) for source, (path, selector) in sources.items()
        }
        self._stamped = stamped and has_stamp(root)
        keys = [piece.key for columns in self._columns.values() for piece in columns.pieces]
        stamp_keys = list(_STAMP) if self._stamped else []
        self._decoder = Decoder(compile_program(root, [*stamp_keys, *keys], where), _at(where, topic))
        self._rows = {source: Rows(reserve) for source in sources}
        self._payloads: dict[str, list[pa.Array]] = {source: [] for source in sources}
        self._stamps = Rows(reserve)

    def add(self, messages: Messages) -> None:
        found = self._decoder.decode(messages)
        count = len(messages.start)
        if self._stamped:
            seconds, nanoseconds = (_numbers(found[key])[:, 0] for key in _STAMP)
            stamps = self._stamps.extend(count, (), np.dtype(np.int64))
            np.multiply(seconds, 1_000_000_000, out=stamps, dtype=np.int64)
            stamps += nanoseconds
        for source, columns in self._columns.items():
            where = _at(self._where, source)
            if columns.dtype is None:
                offsets, sizes = found[columns.pieces[0].key]
                self._payloads[source].append(to_arrow(messages.buffer, offsets, sizes, text=columns.text, where=where))
            else:
                self._add_numbers(source, columns, found, where)

    def _add_numbers(self, source: str, columns: Columns, found: Mapping[Key, Block], where: str) -> None:
        blocks = []
        for piece in columns.pieces:
            block = _numbers(found[piece.key])[..., piece.start : piece.stop]
            blocks.append(block.reshape(*block.shape[: 1 + columns.outer], -1) if block.ndim > 2 else block)
        if columns.selector is not None:
            whole = np.concatenate(blocks, axis=-1, dtype=columns.dtype)
            blocks = [select_columns(whole, columns.selector, where=where)]
        lead = blocks[0].shape[:-1]
        width = sum(block.shape[-1] for block in blocks)
        shape = lead[1:] if columns.scalar else (*lead[1:], width)
        assert columns.dtype is not None
        try:
            target = self._rows[source].extend(lead[0], shape, columns.dtype).reshape(*lead, width)
        except ValueError as error:
            raise InputError(f"{where}: its length differs between messages: {error}; it has no columns") from None
        at = 0
        for block in blocks:
            _copy_columns(block, target[..., at : at + block.shape[-1]])
            at += block.shape[-1]

    def stamps(self) -> np.ndarray | None:
        return self._stamps.array()

    def values(self) -> dict[str, Values]:
        found: dict[str, Values] = {}
        for source, columns in self._columns.items():
            if columns.dtype is None:
                empty = pa.array([], pa.string() if columns.text else pa.large_binary())
                found[source] = _concatenate(self._payloads[source] or [empty], _at(self._where, source))
                continue
            rows = self._rows[source].array()
            if rows is None:
                row = (0,) * columns.outer + (() if columns.scalar else (columns.width or 0,))
                rows = np.empty((0, *row), columns.dtype)
            found[source] = rows
        return found

    def fields(self) -> tuple[tuple[str, str], ...]:
        return tuple(list_message_fields(self._root))


_STAMP: tuple[Key, Key] = (("header", "stamp", "sec"), ("header", "stamp", "nanosec"))


class JsonTopic:
    """JSON messages, decoded one by one."""

    def __init__(self, topic: str, sources: Mapping[str, tuple[str, Selector | None]], *, stamped: bool, where: str):
        self._topic, self._sources, self._stamped, self._where = topic, sources, stamped, where
        self._found: dict[str, list[Any]] = {source: [] for source in sources}
        self._stamps: list[int | None] = []
        self._first: Any = None

    def add(self, messages: Messages) -> None:
        for start, size in zip(messages.start.tolist(), messages.size.tolist(), strict=True):
            number = len(self._stamps)
            try:
                message = json.loads(bytes(messages.buffer[start : start + size]))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{_at(self._where, self._topic)}: message {number} is not JSON ({error})") from None
            self._first = message if not number else self._first
            self._stamps.append(header_stamp(message) if self._stamped else None)
            for source, (path, _) in self._sources.items():
                self._found[source].append(lookup(message, path, f"{_at(self._where, source)}: message {number}"))

    def stamps(self) -> np.ndarray | None:
        if not self._stamps or None in self._stamps:
            return None
        return np.array(self._stamps, np.int64)

    def values(self) -> dict[str, Values]:
        found: dict[str, Values] = {}
        for source, (_, selector) in self._sources.items():
            where = _at(self._where, source)
            values, names = column(self._found[source], where)
            if isinstance(values, np.ndarray):
                found[source] = select_columns(values, selector, where=where, names=names)
            elif selector is None:
                found[source] = values
            else:
                raise InputError(f"{where}: is text, which has no columns")
        return found

    def fields(self) -> tuple[tuple[str, str], ...]:
        return tuple(list_fields(self._first))


class UnknownTopic:
    """Messages of an encoding that is not read: only when they were logged."""

    def add(self, messages: Messages) -> None:
        pass

    def stamps(self) -> None:
        return None

    def values(self) -> dict[str, Values]:
        return {}

    def fields(self) -> tuple[tuple[str, str], ...]:
        return ()


class Collector:
    """All channels of one topic, with the times that its streams get."""

    def __init__(self, topic: Topic, reserve: int):
        self._topic = topic
        self._log_times = Rows(reserve)
        self._channels: set[int] = set()

    def add(self, channel: int, messages: Messages) -> None:
        self._topic.add(messages)
        self._log_times.extend(len(messages.start), (), np.dtype(np.int64))[:] = messages.log_times
        self._channels.add(channel)

    def times(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Stamps of the messages, and the order to bring them and their values to (None: as they are).

        A header that nobody filled in has stamp zero throughout: then the log times serve.
        """
        log_times = self._log_times.array()
        if log_times is None:
            return np.empty(0, np.int64), None
        stamps = self._topic.stamps()
        times = log_times if stamps is None or not stamps.any() else stamps
        order = np.argsort(log_times, kind="stable") if len(self._channels) > 1 else None
        return (times if order is None else times[order]), order

    def streams(self) -> dict[str, Stream]:
        times, order = self.times()
        return {
            source: Stream(times, values if order is None else _take(values, order))
            for source, values in self._topic.values().items()
        }

    def fields(self) -> tuple[tuple[str, str], ...]:
        return self._topic.fields()


def _copy_columns(source: np.ndarray, target: np.ndarray) -> None:
    """``target[...] = source``; rows of one dtype as one item each, which numpy copies twice as fast as short rows."""
    row = f"V{source.shape[-1] * source.itemsize}"
    if source.ndim == 2 and source.size and source.dtype == target.dtype and source.strides[1] == source.itemsize:
        source, target = source.view(row), target.view(row)
    target[...] = source


def _take(values: Values, order: np.ndarray) -> Values:
    return values[order] if isinstance(values, np.ndarray) else values.take(pa.array(order))


def _numbers(block: Block) -> np.ndarray:
    assert isinstance(block, np.ndarray)
    return block


def _at(where: str, source: str) -> str:
    return f"{where}: {source}"


def _concatenate(arrays: Sequence[pa.Array], where: str) -> pa.Array:
    try:
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: too much text for one stream ({error})") from None
