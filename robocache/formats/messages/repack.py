"""Messages whose fields do not lie at fixed places, brought many at once into a packing that is decoded by column.

Messages of a topic are alike: those that have the same fields, in the same order and of the same lengths, have one
shape. The first of a shape is taken apart; the others are the same bytes but for the values, which are copied as
columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from robocache.formats.messages.batch import Messages, gather

#: What a value's bytes ``[n, bytes]`` become.
Convert: TypeAlias = Callable[[np.ndarray], np.ndarray]


class Take(NamedTuple):
    """A value of a message: its bytes ``[start, end)``, and where what they become goes. ``ends``: it is as long as the
    highest bits of its bytes say."""

    start: int
    end: int
    target: int
    convert: Convert | None = None
    ends: bool = False


@dataclass(slots=True)
class Parts:
    """What one message becomes: its bytes, and those of them that are values. All else of the message is its shape."""

    out: bytearray = field(default_factory=bytearray)
    takes: list[Take] = field(default_factory=list)

    def copy(self, start: int, end: int, swapped: int = 1) -> None:
        """Bytes as they are; numbers of ``swapped`` bytes in the other byte order."""
        convert = _SWAPS.get(swapped)
        last = self.takes[-1] if self.takes else None
        beside = last is not None and last.end == start and last.target + start - last.start == len(self.out)
        if last is not None and beside and last.convert is convert and not last.ends:
            self.takes[-1] = last._replace(end=end)
            self.out += bytes(end - start)
            return
        self.takes.append(Take(start, end, len(self.out), convert))
        self.out += bytes(end - start)

    def align(self, size: int, origin: int = 0) -> None:
        """Up to a multiple of ``size`` behind ``origin``."""
        self.out += bytes(-(len(self.out) - origin) % size)


def _swap(item: int, piece: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(piece).view(f"<u{item}").byteswap().view(np.uint8)


_SWAPS: dict[int, Convert] = {item: partial(_swap, item) for item in (2, 4, 8)}


class _Shape:
    def __init__(self, data: bytes, parts: Parts):
        self._takes, self._first = parts.takes, np.frombuffer(bytes(parts.out), np.uint8)
        fixed, ends = np.ones(len(data), bool), np.zeros(len(data), bool)
        for take in parts.takes:
            fixed[take.start : take.end] = False
            ends[take.start : take.end] |= take.ends
        self._fixed, self._ends = np.flatnonzero(fixed), np.flatnonzero(ends)

    def like(self, rows: np.ndarray) -> np.ndarray:
        """bool ``[n]``: which messages (uint8 ``[n, bytes]``) have this shape."""
        same = (rows[:, self._fixed] == rows[0, self._fixed]).all(axis=1)
        ends = rows[:, self._ends] & 0x80
        return same & (ends == ends[0]).all(axis=1)

    def packed(self, rows: np.ndarray) -> np.ndarray:
        """What messages of this shape become: uint8 ``[n, bytes]``."""
        out = np.empty((len(rows), len(self._first)), np.uint8)
        if len(self._takes) != 1 or self._takes[0].end - self._takes[0].start < len(self._first):
            out[:] = self._first
        for take in self._takes:
            piece = rows[:, take.start : take.end]
            piece = piece if take.convert is None else take.convert(piece)
            out[:, take.target : take.target + piece.shape[1]] = piece
        return out


def repack(messages: Messages, parse: Callable[[bytes], Parts]) -> Messages:
    """What the messages become, as ``parse`` takes one of them apart; it refuses one that is damaged."""
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    for size in np.unique(messages.size):
        left = np.flatnonzero(messages.size == size)
        while len(left):
            rows = gather(messages.buffer, messages.start[left], int(size))
            data = rows[0].tobytes()
            shape = _Shape(data, parse(data))
            same = shape.like(rows)
            pieces.append((left[same], shape.packed(rows if same.all() else rows[same])))
            left = left[~same]
    sizes = np.zeros(len(messages.start), np.int64)
    for which, packed in pieces:
        sizes[which] = packed.shape[1]
    starts = np.cumsum(sizes) - sizes
    if len(pieces) == 1:
        return replace(messages, buffer=pieces[0][1].reshape(-1), start=starts, size=sizes)
    buffer = np.zeros(int(sizes.sum()), np.uint8)
    for which, packed in pieces:
        if width := packed.shape[1]:
            places = np.ndarray(len(buffer) - width + 1, f"V{width}", buffer, strides=1)
            places[starts[which]] = np.ascontiguousarray(packed).view(f"V{width}")[:, 0]
    return replace(messages, buffer=buffer, start=starts, size=sizes)
