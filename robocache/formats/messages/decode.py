"""Columnar CDR: one program run over all messages of a window at once.

The cursor that a CDR decoder moves through a message is here a vector with one position a message, and stays a plain
number as long as all messages agree, which they mostly do. Strings and sequences of varying length before a field
need no other path: every length is read from the message and checked against its end, nothing is assumed.

Format: OMG CDR 2 (PLAIN_CDR, either byte order) with alignment counted from the end of the 4-byte encapsulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.mcap.windows import Messages, gather
from robocache.formats.messages.layout import Key, NumberSequence, Repeat, Run, Step, String, dotted

#: One position or length a message, or one for all of them.
Vector: TypeAlias = "int | np.ndarray"
#: Numbers ``[n, *elements, width]``, or where payloads are: their offsets in the buffer and their sizes, int64 ``[n]``.
Block: TypeAlias = "np.ndarray | tuple[np.ndarray, np.ndarray]"

ByteOrder: TypeAlias = Literal["<", ">"]

_ENCAPSULATION = 4
_HEAD = 1024  # bytes of a message that are copied out in one go at most
_LENGTH = np.dtype(np.uint32)
_NEAR = 128  # bytes between two wanted spans of a run that are cheaper to copy along than to gather apart


class Decoder:
    """A program with what its last window taught: how far into a message it reaches."""

    def __init__(self, program: Sequence[Step], where: str):
        self._program, self._where, self._reach = program, where, _HEAD

    def decode(self, messages: Messages) -> dict[Key, Block]:
        """What the program takes from every message (at least one). ``InputError`` where a message ends early."""
        if not self._program:
            return {}
        shortest = int(messages.size.min())
        if shortest < _ENCAPSULATION:
            raise InputError(f"{self._where}: a message of {shortest} bytes, the CDR encapsulation alone takes 4")
        # One copy of each message's beginning; what lies at one position in all of them is then a view.
        head = gather(messages.buffer, messages.start, min(shortest, _ENCAPSULATION + self._reach))
        kinds = head[:, :2].view(">u2")[:, 0]
        kind = int(kinds[0])
        if kind > 1 or (kinds != kind).any():
            raise InputError(
                f"{self._where}: CDR encapsulation {', '.join(f'{found:#06x}' for found in np.unique(kinds))}; "
                "plain CDR of one byte order (0x0000 or 0x0001) can be read"
            )
        start, size = messages.start + _ENCAPSULATION, messages.size - _ENCAPSULATION
        walk = _Walk(messages.buffer, start, size, 0, "<" if kind else ">", self._where, head[:, _ENCAPSULATION:])
        walk.run(self._program)
        self._reach = min(_HEAD, int(np.max(walk.at)))
        return walk.found


def to_arrow(buffer: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, *, text: bool, where: str) -> pa.Array:
    """Payloads copied out of the buffer: strings, or large binary."""
    kind, dtype = (pa.string(), np.int32) if text else (pa.large_binary(), np.int64)
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    if text and bounds[-1] > np.iinfo(np.int32).max:
        raise InputError(f"{where}: {bounds[-1]} bytes of text in one chunk, Arrow strings hold 2 GiB")
    data = np.empty(bounds[-1], np.uint8)
    for source, start, stop in zip(offsets.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        data[start:stop] = buffer[source : source + stop - start]
    array = pa.Array.from_buffers(kind, len(sizes), [None, pa.py_buffer(bounds.astype(dtype)), pa.py_buffer(data)])
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: text that is not UTF-8 ({error}); the message is damaged") from None
    return array


def _common(values: np.ndarray) -> Vector:
    """One number where all agree."""
    first = values[0]
    return int(first) if (values == first).all() else values.astype(np.int64)


def _align(at: Vector, size: int) -> Vector:
    return at + (-at % size)


class _Walk:
    """A cursor over ``n`` messages. ``start``: offset of each in the buffer; ``size``: its bytes; ``at``: cursor."""

    def __init__(
        self,
        buffer: np.ndarray,
        start: np.ndarray,
        size: np.ndarray,
        at: Vector,
        order: ByteOrder,
        where: str,
        head: np.ndarray | None = None,
    ) -> None:
        self._buffer, self._start, self._size, self._order, self._where = buffer, start, size, order, where
        self._shortest = int(size.min())
        self._head = head
        self.at = at
        self.found: dict[Key, Block] = {}

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Run):
                self._run(step)
            elif isinstance(step, String):
                self._string(step)
            elif isinstance(step, NumberSequence):
                self._sequence(step)
            else:
                self._repeat(step)

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
                f"{self._where}: message {int(np.argmax(short))} of this window ends in the middle of a field "
                f"({np.count_nonzero(short)} of {len(self._size)} do); the messages do not match their schema"
            )

    def _length(self) -> Vector:
        """The uint32 at the cursor."""
        self.at = _align(self.at, 4)
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
            rows = gather(self._buffer, self._start + (self.at + skip), nbytes)
        return rows.view(dtype.newbyteorder(self._order))

    def _run(self, step: Run) -> None:
        item = step.dtype.itemsize
        self.at = _align(self.at, item)
        self._need(step.count, item)
        pending = step.takes
        while pending:  # neighbouring takes are cut out together and become views
            first, stop = pending[0][1:]
            together = 0
            for _, begin, end in pending:
                if begin - stop > _NEAR // item:
                    break
                stop, together = max(stop, end), together + 1
            rows = self._numbers(step.dtype, first, stop)
            for key, begin, end in pending[:together]:
                self.found[key] = rows[:, begin - first : end - first]
            pending = pending[together:]
        self.at = self.at + step.count * item

    def _string(self, step: String) -> None:
        count = self._length()
        self._need(count, 1)
        if step.key is not None:
            # The terminating NUL belongs to CDR, not to the text; some writers leave an empty string without.
            self._payload(step.key, np.maximum(count, 1) - 1)
        self.at = self.at + count

    def _payload(self, key: Key, sizes: Vector) -> None:
        self.found[key] = (self._start + self.at, np.broadcast_to(sizes, self._start.shape))

    def _sequence(self, step: NumberSequence) -> None:
        count = self._length()
        item = step.dtype.itemsize
        # An empty sequence is not padded to its elements' alignment.
        if isinstance(count, int):
            self.at = _align(self.at, item) if count else self.at
        else:
            self.at = np.where(count > 0, _align(self.at, item), self.at)
        self._need(count, item * step.width)
        if step.key is not None and step.dtype == np.uint8:
            self._payload(step.key, count)
        elif step.key is not None:
            self.found[step.key] = self._numbers(step.dtype, 0, self._same(count, step.key))
        self.at = self.at + count * (item * step.width)

    def _same(self, count: Vector, key: Key) -> int:
        if isinstance(count, int):
            return count
        odd = int(np.argmax(count != count[0]))
        raise InputError(
            f"{self._where}{dotted(key)}: its length differs between messages ({count.min()} to {count.max()}, "
            f"first {count[0]}, then {count[odd]}), so it has no columns; name a field, or one element, of fixed size"
        )

    def _repeat(self, step: Repeat) -> None:
        count: Vector = self._length() if step.count is None else step.count
        self._need(count, step.least)
        last = max((pick for pick in step.picks if pick is not None), default=-1)
        if np.any(last >= count):
            fewest = int(np.min(count))
            raise InputError(
                f"{self._where}{dotted(step.key)}: element [{last}] asked for, a message has only {fewest}"
            )
        if None in step.picks and not self._same(count, step.key):
            raise InputError(
                f"{self._where}{dotted(step.key)}: its messages hold no element, so its columns are not known"
            )
        if step.stride is None:
            self._each(step, count)
        else:
            self._strided(step, count)

    def _strided(self, step: Repeat, count: Vector) -> None:
        """Elements of one layout: those wanted are walked as if each were a message of its own."""
        assert step.stride is not None
        n = len(self._start)
        some = np.asarray(count) > 0
        begin = np.broadcast_to(np.where(some, _align(self.at, step.align), self.at), n)
        gap = step.stride - step.size  # the last element is not padded
        self.at = _common(np.broadcast_to(begin + np.asarray(count) * step.stride - gap * some, n))
        self._need(0, 1)
        for pick, steps in step.picks.items():
            positions = np.array([pick]) if pick is not None else np.arange(self._same(count, step.key))
            starts = ((self._start + begin)[:, None] + positions * step.stride).ravel()
            inner = self._at(starts, np.full(len(starts), step.size), 0)
            inner.run(steps)
            for key, block in inner.found.items():
                if pick is None and isinstance(block, np.ndarray):
                    block = block.reshape(n, len(positions), *block.shape[1:])
                self.found[key] = block

    def _each(self, step: Repeat, count: Vector) -> None:
        """Elements of varying layout, one after another, each in all messages at once."""
        fewest, most = (count, count) if isinstance(count, int) else (int(count.min()), int(count.max()))
        every: dict[Key, list[np.ndarray]] = {}
        for i in range(fewest):
            at = self.at
            # The steps of a wanted element lead to its end as those of the body do.
            wanted = [(pick, step.picks[pick]) for pick in (None, i) if pick in step.picks]
            for pick, steps in wanted or [(i, step.body)]:
                inner = self._at(self._start, self._size, at, self._head)
                inner.run(steps)
                self.at = inner.at
                for key, block in inner.found.items():
                    if pick is None and isinstance(block, np.ndarray):
                        every.setdefault(key, []).append(block)
                    else:
                        self.found[key] = block
        for key, blocks in every.items():
            self.found[key] = np.stack(blocks, axis=1)
        for i in range(fewest, most):  # only some messages still have one; nothing in it can be wanted
            some = np.flatnonzero(count > i)
            at = np.array(np.broadcast_to(self.at, self._start.shape))
            inner = self._at(self._start[some], self._size[some], at[some])
            inner.run(step.body)
            at[some] = inner.at
            self.at = at

    def _at(self, start: np.ndarray, size: np.ndarray, at: Vector, head: np.ndarray | None = None) -> _Walk:
        return _Walk(self._buffer, start, size, at, self._order, self._where, head)
