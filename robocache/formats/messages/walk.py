"""The reference of decoding: one program run over all messages of a window at once, in numpy.

The cursor that a decoder moves through a message is here a vector with one position a message, and stays a plain
number as long as all messages agree, which they mostly do. Strings and sequences of varying length before a field
need no other path: every length is read from the message and checked against its end, nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from robocache.errors import InputError
from robocache.formats.base import Match
from robocache.formats.messages.batch import gather
from robocache.formats.messages.blocks import Block, ByteOrder, Ragged, Spans, select_rows
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Key, dotted
from robocache.formats.messages.program import NumberSequence, Repeat, Run, Step, String, Whole, groups

#: One position or length a message, or one for all of them.
Vector: TypeAlias = "int | np.ndarray"

_LENGTH = np.dtype(np.uint32)
#: Elements of varying length that are gone through one by one; a small chunk can hold millions of empty strings.
MAX_VARYING = 100_000


def _common(values: np.ndarray) -> Vector:
    """One number where all agree."""
    first = values[0]
    return int(first) if (values == first).all() else values.astype(np.int64)


class Window(NamedTuple):
    """What is the same for all messages that are walked together."""

    buffer: np.ndarray
    order: ByteOrder
    packing: Packing
    where: str


class Walk:
    """A cursor over ``n`` messages.

    start: offset of each in the buffer; size: its bytes; at: the cursor; head: a copy of their beginnings
    picked: these are elements picked from a message each, met now here, now there: their sequences are never columns
    """

    def __init__(
        self,
        window: Window,
        start: np.ndarray,
        size: np.ndarray,
        at: Vector,
        head: np.ndarray | None = None,
        picked: bool = False,
    ) -> None:
        self._window, self._start, self._size, self._head, self.at = window, start, size, head, at
        self._picked = picked
        self._shortest = int(size.min())
        self.found: dict[Key, Block] = {}
        self.having: dict[Key, np.ndarray] = {}

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Run):
                self._run(step)
            elif isinstance(step, String):
                self._string(step)
            elif isinstance(step, NumberSequence):
                self._sequence(step)
            elif isinstance(step, Whole):
                self._whole(step)
            else:
                self._repeat(step)

    def _align(self, at: Vector, size: int) -> Vector:
        return at + (-at % size) if self._window.packing.aligned else at

    def _need(self, count: Vector, nbytes: int) -> None:
        """Check that ``count`` elements of ``nbytes`` follow in every message. Divides, so that nothing overflows."""
        if isinstance(self.at, int) and isinstance(count, int):
            if self.at + count * nbytes <= self._shortest:
                return
            short = self.at + count * nbytes > self._size
        else:
            left = self._size - self.at
            short = (left < 0) | (count > left // max(nbytes, 1))
        if np.any(short):
            raise InputError(
                f"{self._window.where}: message {int(np.argmax(short))} of this window ends in the middle of a field "
                f"({np.count_nonzero(short)} of {len(self._size)} do); the messages do not match their schema"
            )

    def _length(self) -> Vector:
        """The uint32 at the cursor."""
        self.at = self._align(self.at, 4)
        self._need(1, 4)
        words = self._numbers(_LENGTH, 0, 1)[:, 0]
        self.at = self.at + 4
        return _common(words)

    def _numbers(self, dtype: np.dtype, first: int, stop: int) -> np.ndarray:
        """Numbers ``[first, stop)`` counted from the cursor, ``[n, stop - first]``. Bounds have been checked."""
        if dtype.kind == "b":
            dtype = np.dtype(np.uint8)  # any byte but 0 is true, which a view as bool would not give
        skip, nbytes = first * dtype.itemsize, (stop - first) * dtype.itemsize
        if not nbytes:
            return np.empty((len(self._start), 0), dtype)
        if self._head is not None and isinstance(self.at, int) and self.at + skip + nbytes <= self._head.shape[1]:
            rows = self._head[:, self.at + skip : self.at + skip + nbytes]
        else:
            rows = gather(self._window.buffer, self._start + (self.at + skip), nbytes)
        return rows.view(dtype.newbyteorder(self._window.order))

    def _run(self, step: Run) -> None:
        item = step.dtype.itemsize
        self.at = self._align(self.at, item)
        self._need(step.count, item)
        for first, stop, takes in groups(step.takes, item):  # neighbouring takes are cut out together and become views
            rows = self._numbers(step.dtype, first, stop)
            for key, begin, end in takes:
                self.found[key] = rows[:, begin - first : end - first]
        self.at = self.at + step.count * item

    def _string(self, step: String) -> None:
        count = self._length()
        self._need(count, 1)
        if step.key is not None:
            # The terminating NUL belongs to CDR, not to the text; some writers leave an empty string without.
            size = np.maximum(count, 1) - 1 if self._window.packing.nul else count
            self._span(step.key, size)
        self.at = self.at + count

    def _span(self, key: Key, sizes: Vector) -> None:
        self.found[key] = Spans(self._start + self.at, np.broadcast_to(sizes, self._start.shape))

    def _whole(self, step: Whole) -> None:
        self.at = self._align(self.at, 4)  # of the length; arrays of structs and text only stand here
        begin = self._start + self.at
        self.run(step.steps)
        self.found[step.key] = Spans(begin, self._start + self.at - begin)

    def _sequence(self, step: NumberSequence) -> None:
        count = self._length()
        item = step.dtype.itemsize
        # An empty sequence is not padded to its elements' alignment.
        if isinstance(count, int):
            self.at = self._align(self.at, item) if count else self.at
        else:
            self.at = np.where(count > 0, self._align(self.at, item), self.at)
        self._need(count, item * step.width)
        if step.key is not None and step.dtype == np.uint8:
            self._span(step.key, count)
        elif step.key is not None and isinstance(count, int) and not self._picked:
            self.found[step.key] = self._numbers(step.dtype, 0, count)
        elif step.key is not None:
            counts = np.broadcast_to(np.asarray(count, np.int64), self._start.shape)
            self.found[step.key] = Ragged(self._start + self.at, counts, step.dtype)
        self.at = self.at + count * (item * step.width)

    def _repeat(self, step: Repeat) -> None:
        count: Vector = self._length() if step.count is None else step.count
        self._need(count, step.least)
        if None in step.picks and not self._same(count, step.key):
            raise InputError(
                f"{self._window.where}{dotted(step.key)}: its messages hold no element, so its columns are not known"
            )
        if step.stride is None:
            self._each(step, count)
        else:
            self._strided(step, count)

    def _same(self, count: Vector, key: Key) -> int:
        if isinstance(count, int):
            return count
        odd = int(np.argmax(count != count[0]))
        raise InputError(
            f"{self._window.where}{dotted(key)}: its length differs between messages ({count.min()} to {count.max()}, "
            f"first {count[0]}, then {count[odd]}), so it has no columns; name one element of it, as in [0] or "
            "[name=text]"
        )

    def _strided(self, step: Repeat, count: Vector) -> None:
        """Elements of one layout: those wanted are walked as if each were a message of its own."""
        assert step.stride is not None
        n = len(self._start)
        counts = np.broadcast_to(count, n)
        some = counts > 0
        begin = np.broadcast_to(np.where(some, self._align(self.at, step.align), self.at), n)
        gap = step.stride - step.size  # the last element is not padded
        self.at = _common(begin + counts * step.stride - gap * some)
        self._need(0, 1)
        base = self._start + begin
        for pick, steps in step.picks.items():
            if pick is None:
                positions = np.arange(self._same(count, step.key))
                starts = (base[:, None] + positions * step.stride).ravel()
                inner = self._at(starts, np.full(len(starts), step.size), 0, picked=False)
                inner.run(steps)
                for key, block in inner.found.items():
                    assert isinstance(block, np.ndarray)  # what is strided is numbers
                    self.found[key] = block.reshape(n, len(positions), *block.shape[1:])
                continue
            matching = _Picked(self, (*step.key, pick))
            for i in [pick] if isinstance(pick, int) else range(int(counts.max(initial=0))):
                rows = np.flatnonzero((counts > i) & ~matching.having)
                if len(rows):
                    inner = self._at(base[rows] + i * step.stride, np.full(len(rows), step.size), 0, picked=True)
                    inner.run(steps)
                    matching.take(inner, None if len(rows) == n else rows)
            matching.finish()

    def _each(self, step: Repeat, count: Vector) -> None:
        """Elements of varying layout, one after another, each in all messages at once."""
        counts = np.broadcast_to(count, self._start.shape)
        fewest, most = int(counts.min()), int(counts.max())
        if most > MAX_VARYING:
            raise InputError(
                f"{self._window.where}{dotted(step.key)}: {most} elements of varying length in one message, before or "
                f"at a field that is read; at most {MAX_VARYING} are gone through"
            )
        every: dict[Key, list[np.ndarray]] = {}
        picked = {pick: _Picked(self, (*step.key, pick)) for pick in step.picks if pick is not None}
        for i in range(most):
            rows = None if i < fewest else np.flatnonzero(counts > i)
            at, inner = self.at, None
            # The steps of a wanted element lead to its end as those of the body do.
            for pick, steps in step.picks.items():
                if pick is None or isinstance(pick, Match) or pick == i:
                    inner = self._inside(rows, at, picked=pick is not None)
                    inner.run(steps)
                    if pick is None:
                        for key, block in inner.found.items():
                            if not isinstance(block, np.ndarray):
                                raise InputError(
                                    f"{self._window.where}{dotted(key)}: differs in length between elements, so it "
                                    "has no columns; name one element"
                                )
                            every.setdefault(key, []).append(block)
                    else:
                        picked[pick].take(inner, rows)
            if inner is None:
                inner = self._inside(rows, at, picked=False)
                inner.run(step.body)
            if rows is None:
                self.at = inner.at
            else:
                self.at = np.array(np.broadcast_to(at, self._start.shape))
                self.at[rows] = inner.at
        for element in picked.values():
            element.finish()
        for key, blocks in every.items():
            try:
                self.found[key] = np.stack(blocks, axis=1)
            except ValueError:
                raise InputError(
                    f"{self._window.where}{dotted(key)}: its length differs between elements, so it has no columns"
                ) from None

    def _inside(self, rows: np.ndarray | None, at: Vector, *, picked: bool) -> Walk:
        """A walk over the messages ``rows`` (None: all) from where the cursor stands."""
        if rows is None:
            return Walk(self._window, self._start, self._size, at, self._head, picked)
        at = np.broadcast_to(at, self._start.shape)[rows]
        return self._at(self._start[rows], self._size[rows], at, picked=picked)

    def _at(self, start: np.ndarray, size: np.ndarray, at: Vector, *, picked: bool) -> Walk:
        return Walk(self._window, start, size, at, None, picked)

    @property
    def count(self) -> int:
        return len(self._start)

    def matches(self, key: Key, pick: Match) -> np.ndarray:
        """bool ``[n]``: whether the field that ``pick`` names, of the element ``key``, holds what it says."""
        block = self.found[(*key, *pick.field.split("."))]
        if isinstance(block, np.ndarray):
            return block[:, 0] == int(pick.text)
        assert isinstance(block, Spans)
        text = np.frombuffer(pick.text.encode(), np.uint8)
        found = np.asarray(block.size) == len(text)
        rows = np.flatnonzero(found)
        if len(text) and len(rows):
            found[rows] = (gather(self._window.buffer, block.start[rows], len(text)) == text).all(axis=1)
        return found


class _Picked:
    """One element of an array, picked by position or by a match: put together as it is met, now here, now there."""

    def __init__(self, walk: Walk, key: Key):
        self._walk, self._key = walk, key
        self._whole: Walk | None = None
        self._found: dict[Key, Block] = {}
        self._inner: dict[Key, np.ndarray] = {}
        self.having = np.zeros(walk.count, bool)

    def take(self, inner: Walk, rows: np.ndarray | None) -> None:
        """What ``inner`` found in the messages ``rows`` (None: all), where it is the element meant."""
        pick = self._key[-1]
        met = inner.matches(self._key, pick) if isinstance(pick, Match) else np.ones(inner.count, bool)
        met = met & ~(self.having if rows is None else self.having[rows])
        if rows is None and met.all():
            self.having, self._whole = met, inner
            return
        here = np.flatnonzero(met)
        there = here if rows is None else rows[here]
        self.having[there] = True
        for key, block in inner.found.items():
            self._found[key] = _scatter(self._found.get(key), select_rows(block, here), there, len(self.having), key)
        for key, mask in inner.having.items():
            known = self._inner.setdefault(key, np.zeros(len(self.having), bool))
            known[there] = mask[here]

    def finish(self) -> None:
        if self._whole is not None:
            self._walk.found |= self._whole.found
            self._walk.having |= self._whole.having
            return
        self._walk.found |= self._found
        self._walk.having |= self._inner
        self._walk.having[self._key] = self.having


def _scatter(before: Block | None, block: Block, rows: np.ndarray, n: int, key: Key) -> Block:
    """``block`` in the rows where it belongs, among what was there before (nothing: zeros, and nowhere)."""
    if isinstance(block, np.ndarray) and isinstance(before, np.ndarray | None):
        if before is None:
            before = np.zeros((n, *block.shape[1:]), block.dtype)
        if before.shape[1:] == block.shape[1:]:
            before[rows] = block
            return before
        raise InputError(f"{dotted(key)}: its length differs between messages, so it has no columns")
    if isinstance(block, np.ndarray) or isinstance(before, np.ndarray):
        raise InputError(f"{dotted(key)}: its length differs between messages, so it has no columns")
    if before is None:
        zeros = np.zeros(n, np.int64)
        before = Spans(zeros, zeros.copy()) if isinstance(block, Spans) else Ragged(zeros, zeros.copy(), block.dtype)
    before[0][rows], before[1][rows] = block[0], block[1]
    return before
