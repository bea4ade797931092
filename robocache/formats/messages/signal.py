"""One source of a topic of packed messages: what of each message it is, and what has been collected of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.clouds import MESSAGE
from robocache.errors import MissingError
from robocache.formats.base import Match, positions, shown
from robocache.formats.messages.batch import Messages
from robocache.formats.messages.blocks import (
    Block,
    Decoded,
    Ragged,
    Spans,
    ragged_numbers,
    select_rows,
    span_bytes,
    to_arrow,
)
from robocache.formats.messages.clocks import find_clock
from robocache.formats.messages.contents import Contents
from robocache.formats.messages.definitions import Array, Struct, Text
from robocache.formats.messages.images import LAYOUT, frames
from robocache.formats.messages.names import ByName
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Key, Path, dotted, reach, resolve, settle, unsettled
from robocache.formats.messages.topic import Collected, Request
from robocache.formats.messages.unpack import unpack_value
from robocache.formats.messages.values import Numbers, concatenate
from robocache.types import StreamType, array_type, as_rows, numpy_type

_TEXTS = Array(Text(), None)
_ARROW = {
    "text": pa.string(),
    "bytes": pa.large_binary(),
    "texts": pa.list_(pa.string()),
    "cloud": MESSAGE,
    "frames": pa.list_(pa.list_(pa.list_(pa.uint8()))),  # of what size, and which numbers, only a message tells
}


class Signal:
    """``where`` begins error messages: the file and the source."""

    def __init__(self, root: Struct, request: Request, packing: Packing, reserve: int, where: str):
        self._root, self._request, self._packing, self._where, self._reserve = root, request, packing, where, reserve
        self.key = request.source.key
        self._kept: list[tuple[int, np.ndarray | None]] = []
        self._fewer = False  # some messages are no samples
        self._lost: Counter[str] = Counter()
        self._elements: Counter[str] = Counter()
        self._payloads: list[pa.Array] = []
        self._by_name: ByName | None = None
        self._last_names: tuple[tuple[bytes, str], tuple[str, ...]] = ((b"", ""), ())
        self.table: tuple[Key, ...] = ()
        self._lead(request.path)

    def _lead(self, path: Path) -> None:
        """Take this as the path."""
        self._path = path
        self._open = unsettled(self._root, path, self._where)
        self.columns = resolve(self._root, path, self._where)
        self.clock = find_clock(self._root, self.columns, self._request.stamp, self._where)
        self._contents = Contents(self._root, self.columns, self.clock, self._packing, self._where)
        self._numbers = Numbers(self.columns.dtype or np.dtype(np.uint8), self._reserve)
        selector, names = self.columns.selector or (), self._request.source.names
        if self.columns.named_by is not None and names:
            self._by_name = ByName(names)
        elif self.columns.named_by is not None and selector and all(isinstance(item, str) for item in selector):
            self._by_name = ByName([str(item) for item in selector])

    @property
    def settled(self) -> bool:
        """Whether messages are known to be of which frame, and in which order their columns go."""
        return self._open is None and (self.columns.named_by is None or self._by_name is not None)

    def first_with(self, found: Decoded) -> int | None:
        """The first message that has what it takes to settle this: an element, or numbers in it."""
        columns = self.columns
        block = found.blocks.get(columns.pieces[0].key)
        masks = [found.having[key] for key in columns.picks if key in found.having]
        if block is None:
            return None
        if isinstance(block, np.ndarray):
            masks.append(np.full(len(block), block.size > 0 or self._open is not None))
        else:
            masks.append((block[1] > 0) | (self._open is not None))
        good = np.logical_and.reduce(masks)
        return int(np.argmax(good)) if good.any() else None

    def settle(self, message: Mapping[str, Any]) -> None:
        """By a message (decoded) that :meth:`first_with` has found: which frame a place in an array is, or names."""
        if self._open is not None:
            path = settle(self._path, self._open, message)
            assert path is not None
            self._lead(path)
            return
        names = reach(message, self.columns.named_by or ())
        numbers = reach(message, self.columns.pieces[0].key)
        if not names or len(names) != len(numbers):  # a driver that names nothing, or text about something else
            self.columns = replace(self.columns, named_by=None)
            return
        selector = self.columns.selector
        if selector is not None:
            names = [names[i] for i in positions(selector, len(names), where=self._where, names=names)]
        self._by_name = ByName(names)

    def needs(self, but: Collection[Key] = ()) -> list[Key]:
        """All that it needs of a message, ``but`` these numbers of it."""
        return [*(piece.key for piece in self.columns.pieces if piece.key not in but), *self.told]

    def plan(self) -> tuple[Key, ...]:
        """The leaves that lie side by side in a row, where a row is just these; else nothing."""
        columns = self.columns
        whole = all(piece.start == 0 and piece.stop is None for piece in columns.pieces)
        chosen = columns.selector is not None and columns.named_by is None
        plain = self.settled and columns.dtype is not None and not columns.outer
        self.table = tuple(piece.key for piece in columns.pieces) if plain and whole and not chosen else ()
        return self.table

    @property
    def told(self) -> list[Key]:
        """Texts of which the distinct contents are wanted."""
        return [*self._contents.keys, *([] if self.columns.named_by is None else [self.columns.named_by])]

    def room(self, count: int) -> np.ndarray | None:
        """Where the rows of the next messages will be, if it can be told: ``[count, width]``."""
        width = len(self._by_name.names) if self._by_name is not None else self.columns.width
        return self._numbers.room(count, width, scalar=self.columns.scalar)

    def type(self) -> StreamType:
        """As far as is known."""
        columns, about = self.columns, self._about()
        if columns.dtype is None:
            return StreamType(_ARROW[columns.kind], about)
        # What can be had of a sequence, only messages tell; columns that the dataset has settled stay what they are.
        settled = self._by_name is not None and bool(self._request.source.names)
        width = len(self._request.source.names) if settled else columns.width if columns.named_by is None else None
        kind = array_type(columns.dtype)
        if not columns.scalar:
            kind = pa.list_(kind, -1 if width is None else width)
        for _ in range(columns.outer):
            kind = pa.list_(kind)
        return StreamType(kind, about)

    def _about(self) -> dict[str, Any]:
        about = self._contents.about()
        if names := self._by_name.names if self._by_name else self.columns.names:
            about["names"] = list(names)
        if picked := [str(part) for part in self.columns.pieces[0].key if isinstance(part, Match)]:
            about["element"] = ", ".join(picked)
        return about

    def add(self, messages: Messages, found: Decoded) -> None:
        """Messages of a window, in file order."""
        count = len(messages.start)
        if not self.settled:
            self._kept.append((count, np.zeros(count, bool)))
            self._fewer = True
            self._lost[dotted(self.columns.pieces[0].key)] += count
            return
        kept = self._having(found, count)
        if kept is None or kept.any():
            rows = None if kept is None else np.flatnonzero(kept)
            taken = self._take(messages.buffer, found, rows)
            if taken is not None:
                rows = np.flatnonzero(taken) if rows is None else rows[taken]
                kept = np.zeros(count, bool)
                kept[rows] = True
            self._contents.add(messages, found, rows)
        self._kept.append((count, kept))
        self._fewer |= kept is not None

    def _having(self, found: Decoded, count: int) -> np.ndarray | None:
        """bool ``[n]``: the messages that have every element on the path; None: all."""
        kept: np.ndarray | None = None
        for key in self.columns.picks:
            mask = found.having.get(key)
            if mask is None or mask.all():
                continue
            before = np.ones(count, bool) if kept is None else kept
            if lost := int(np.count_nonzero(before & ~mask)):
                self._lost[dotted(key)] += lost
            kept = before & mask
        return kept

    def _take(self, buffer: np.ndarray, found: Decoded, rows: np.ndarray | None) -> np.ndarray | None:
        """Append the values of these messages (None: all); bool ``[rows]`` where some are no samples after all."""
        columns = self.columns
        table = found.tables.get(self.table)
        if table is not None:
            self._numbers.add([table if rows is None else table[rows]], scalar=columns.scalar, where=self._where)
            return None
        blocks = [select_rows(found.blocks[piece.key], rows) for piece in columns.pieces]
        if columns.dtype is None:
            self._payloads.append(self._payload(buffer, blocks, found))
            return None
        if self._by_name is not None and columns.named_by is not None:
            return self._take_by_name(buffer, blocks[0], select_rows(found.blocks[columns.named_by], rows), found)
        if isinstance(blocks[0], Ragged) and columns.width is None:
            flat, counts = ragged_numbers(buffer, blocks[0], found.order)
            if len(counts) and (counts != counts[0]).any():
                self._take_lists(flat, counts)
                return None
            blocks = [flat.reshape(len(counts), int(counts[0]) if len(counts) else 0)]
        self._take_blocks(blocks)
        return None

    def _take_blocks(self, blocks: Sequence[Block]) -> None:
        columns = self.columns
        picked = []
        for piece, block in zip(columns.pieces, blocks, strict=True):
            assert isinstance(block, np.ndarray)
            part = block[..., piece.start : piece.stop]
            picked.append(part.reshape(*part.shape[: 1 + columns.outer], -1) if part.ndim > 2 else part)
        if columns.selector is not None:
            whole = np.concatenate(picked, axis=-1, dtype=columns.dtype)
            flat = as_rows(whole)
            if not flat.shape[1]:  # empty arrays: in other messages there may be more
                self._take_lists(flat.ravel(), np.zeros(len(flat), np.int64))
                return
            picked = [flat[:, positions(columns.selector, flat.shape[1], where=self._where)]]
        self._numbers.add(picked, scalar=columns.scalar, where=self._where)

    def _take_lists(self, flat: np.ndarray, counts: np.ndarray) -> None:
        selector = self.columns.selector
        if selector is not None:
            starts, pieces = np.cumsum(counts) - counts, [flat[:0]] * len(counts)
            for count in np.unique(counts[counts > 0]):
                rows = np.flatnonzero(counts == count)
                at = np.array(positions(selector, int(count), where=self._where), np.int64)
                for row, values in zip(rows, flat[starts[rows][:, None] + at], strict=True):
                    pieces[row] = values
            flat = np.concatenate([flat[:0], *pieces])
            counts = np.array([len(values) for values in pieces], np.int64)
        self._numbers.add_lists(flat, counts)

    def _take_by_name(self, buffer: np.ndarray, block: Block, names: Block, found: Decoded) -> np.ndarray | None:
        assert self._by_name is not None and isinstance(names, Spans)
        texts, which = span_bytes(buffer, names)
        spoken = [self._names(text, found) for text in texts]
        if (
            isinstance(block, np.ndarray)
            and block.ndim == 2
            and self._by_name.straight(spoken, block.shape[1], len(which))
        ):
            self._numbers.add([block], scalar=False, where=self._where)
            return None
        inner: tuple[int, ...] = ()
        if isinstance(block, Ragged):
            flat, counts = ragged_numbers(buffer, block, found.order)
        else:  # of every element of an array of messages where there are inner axes: trajectory points
            assert isinstance(block, np.ndarray)
            inner = block.shape[1:-1]
            flat = block.astype(block.dtype.newbyteorder("="), copy=False).reshape(-1)
            counts = np.full(len(which) * int(np.prod(inner)), block.shape[-1], np.int64)
        repeats = int(np.prod(inner))
        named = self._by_name.arrange(flat, counts, spoken, np.repeat(which, repeats) if inner else which)
        rows = len(named.values) // max(repeats, 1)
        values = named.values.reshape(rows, *inner, len(self._by_name.names))
        present = None if named.present is None else named.present.reshape(rows, -1)
        if rows:
            self._numbers.add([values], scalar=False, where=self._where, present=present)
        return None if named.kept is None else named.kept.reshape(len(which), -1)[:, 0]

    def _names(self, text: bytes, found: Decoded) -> tuple[str, ...]:
        """An array of text as it is packed; the last one is remembered, which all messages have, as a rule."""
        known = (text, found.order)
        if self._last_names[0] != known:
            self._last_names = known, tuple(unpack_value(_TEXTS, text, found.order, self._packing, self._where))
        return self._last_names[1]

    def _payload(self, buffer: np.ndarray, blocks: Sequence[Block], found: Decoded) -> pa.Array:
        block = blocks[-1]  # the only one but of a cloud, whose numbers are few beside its points
        assert isinstance(block, Spans)
        if self.columns.kind == "cloud":
            plain = zip(blocks[:-1], MESSAGE, strict=False)
            numbers = [pa.array(np.asarray(b)[:, 0].astype(numpy_type(f.type))) for b, f in plain]
            points = to_arrow(buffer, block.start, block.size, text=False, where=self._where)
            return pa.StructArray.from_arrays([*numbers, points], fields=list(MESSAGE))
        if self.columns.kind != "texts":
            return to_arrow(buffer, block.start, block.size, text=self.columns.kind == "text", where=self._where)
        texts, which = span_bytes(buffer, block)
        spoken = [unpack_value(_TEXTS, text, found.order, self._packing, self._where) for text in texts]
        return pa.array(spoken, pa.list_(pa.string())).take(pa.array(which))

    def collected(self, stamps: np.ndarray | None) -> Collected:
        """All that there was. ``MissingError`` where there are messages, and none has what the path names."""
        total = sum(count for count, _ in self._kept)
        masks = [np.ones(count, bool) if mask is None else mask for count, mask in self._kept if self._fewer]
        kept = np.concatenate(masks) if masks else None
        if self._by_name is not None and (reason := self._by_name.missing()):
            raise MissingError(f"{self._where}: {reason}")
        if not self.settled and self._open is None:  # its arrays are empty throughout
            return Collected(np.empty((total, 0), self.columns.dtype), self.clock, stamps, about=self._about())
        if kept is not None and len(kept) and not kept.any():
            raise MissingError(f"{self._where}: none of {len(kept):,} messages has {shown(list(self._lost))}")
        notes = [f"{count:,} of {total:,} messages have no {what}" for what, count in self._lost.items()]
        if self._by_name is not None:
            notes += self._by_name.notes(chosen=self.columns.selector is not None)
        notes += self._contents.notes()
        present, about = None, self._about()
        if self.columns.kind == "frames":
            payloads = concatenate(self._payloads, pa.array([], pa.large_binary()), self._where)
            values: Any = frames(payloads, about, self._where) if len(payloads) else payloads
            about = {name: value for name, value in about.items() if name not in LAYOUT}
        elif self.columns.dtype is None:
            values = concatenate(self._payloads, pa.nulls(0, _ARROW[self.columns.kind]), self._where)
        else:
            width = len(self._by_name.names) if self._by_name else self.columns.width or 0
            empty = (0,) * self.columns.outer + (() if self.columns.scalar else (width,))
            values, present = self._numbers.result(empty)
        return Collected(values, self.clock, stamps, kept, present, about, tuple(notes))
