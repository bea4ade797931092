"""What a program finds in the messages of a window, and what is made of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.messages import native
from robocache.formats.messages.batch import gather
from robocache.formats.messages.paths import Key


class Spans(NamedTuple):
    """Where something of each message lies in the buffer: offsets and sizes in bytes, int64 ``[n]``.

    first, which: where it is known, the first message with each distinct content, and which of these each message has
    """

    start: np.ndarray
    size: np.ndarray
    first: list[int] | None = None
    which: np.ndarray | None = None


class Ragged(NamedTuple):
    """Where the numbers of each message lie, as many as it has: offsets in the buffer and counts, int64 ``[n]``."""

    start: np.ndarray
    counts: np.ndarray
    dtype: np.dtype


#: Numbers ``[n, *elements, width]``, or where things of any size are.
Block: TypeAlias = "np.ndarray | Spans | Ragged"

ByteOrder: TypeAlias = Literal["<", ">"]


@dataclass(slots=True)
class Decoded:
    """What a program found in ``n`` messages: blocks by key, and for the key of an element that not all of them have,
    bool ``[n]`` which do.

    tables: ``[n, width]`` by the keys of the leaves that lie side by side in it
    times:  int64 nanoseconds ``[n]`` by the keys of their parts
    said:   by key what all messages say, once somebody has asked: distinct values, and how often each occurs
    """

    blocks: dict[Key, Block]
    having: dict[Key, np.ndarray]
    order: ByteOrder
    tables: dict[tuple[Key, ...], np.ndarray] = field(default_factory=dict)
    times: dict[tuple[Key, ...], np.ndarray] = field(default_factory=dict)
    said: dict[Key, tuple[list[Any], list[int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """How what a program takes is wanted. The compiled decoder follows it; the walk in numpy gives blocks of all.

    tables: leaves of one type side by side, or one sequence
    times:  parts of a time, and how many nanoseconds one of each is
    told:   texts, and arrays of text, of which the distinct contents are wanted
    plain:  what is wanted as blocks; None: everything
    """

    tables: tuple[tuple[Key, ...], ...] = ()
    times: tuple[tuple[tuple[Key, ...], tuple[int, ...]], ...] = ()
    told: frozenset[Key] = frozenset()
    plain: frozenset[Key] | None = None


class Targets(NamedTuple):
    """Where tables and times may be put, by their keys: arrays that are rows of what is collected."""

    tables: Mapping[tuple[Key, ...], np.ndarray]
    times: Mapping[tuple[Key, ...], np.ndarray]


def select_rows(block: Block, rows: np.ndarray | None) -> Block:
    """Those of some messages (None: all)."""
    if rows is None:
        return block
    if isinstance(block, np.ndarray):
        return block[rows]
    if isinstance(block, Spans):
        return Spans(block.start[rows], np.asarray(block.size)[rows])
    return Ragged(block.start[rows], block.counts[rows], block.dtype)


def to_arrow(buffer: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, *, text: bool, where: str) -> pa.Array:
    """Payloads copied out of the buffer: strings, or large binary."""
    kind, dtype = (pa.string(), np.int32) if text else (pa.large_binary(), np.int64)
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    if text and bounds[-1] > np.iinfo(np.int32).max:
        raise InputError(f"{where}: {bounds[-1]} bytes of text in one chunk, Arrow strings hold 2 GiB")
    data = native.concatenate(buffer, offsets, sizes, int(bounds[-1]))
    if data is None:
        data = np.empty(bounds[-1], np.uint8)
        for source, start, stop in zip(offsets.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            data[start:stop] = buffer[source : source + stop - start]
    array = pa.Array.from_buffers(kind, len(sizes), [None, pa.py_buffer(bounds.astype(dtype)), pa.py_buffer(data)])
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: text that is not UTF-8 ({error}); the message is damaged") from None
    return array


def ragged_numbers(buffer: np.ndarray, block: Ragged, order: ByteOrder) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all messages one after another, and how many each has."""
    ends = np.cumsum(block.counts)
    dtype = np.dtype(np.uint8) if block.dtype.kind == "b" else block.dtype
    total, item = int(ends[-1]) if len(ends) else 0, dtype.itemsize
    swapped = item if (order == "<") != (sys.byteorder == "little") else 1
    whole = native.concatenate(buffer, block.start, block.counts * item, total * item, swapped)
    if whole is not None:
        return _as_told(whole.view(dtype), block)
    flat = np.empty(total, dtype)
    for count in np.unique(block.counts):
        if count:
            rows = np.flatnonzero(block.counts == count)
            numbers = gather(buffer, block.start[rows], int(count) * dtype.itemsize).view(dtype.newbyteorder(order))
            flat[(ends[rows] - count)[:, None] + np.arange(count)] = numbers
    return _as_told(flat, block)


def _as_told(flat: np.ndarray, block: Ragged) -> tuple[np.ndarray, np.ndarray]:
    return flat != 0 if block.dtype.kind == "b" else flat.astype(block.dtype, copy=False), block.counts


def span_bytes(buffer: np.ndarray, spans: Spans) -> tuple[list[bytes], np.ndarray]:
    """The distinct contents of spans, in the order in which they occur, and which of them each message has: int64
    ``[n]``."""
    start, size = spans.start, np.asarray(spans.size)
    if not len(start):
        return [], np.empty(0, np.int64)
    first, which = spans.first, spans.which
    if first is None or which is None:
        first, which = native.distinct(buffer, start, size) or _distinct(buffer, start, size)
    return [buffer[start[i] : start[i] + size[i]].tobytes() for i in first], which


def _distinct(buffer: np.ndarray, start: np.ndarray, size: np.ndarray) -> tuple[list[int], np.ndarray]:
    """See :func:`robocache.formats.messages.native.distinct`."""
    which, codes = np.empty(len(start), np.int64), 0
    for length in np.unique(size):
        rows = np.flatnonzero(size == length)
        texts = gather(buffer, start[rows], int(length))
        if not length or (texts == texts[:1]).all():
            which[rows] = codes
            codes += 1
            continue
        distinct, inverse = np.unique(texts.view(f"V{length}")[:, 0], return_inverse=True)
        which[rows] = codes + inverse
        codes += len(distinct)
    _, first = np.unique(which, return_index=True)
    place = np.empty(codes, np.int64)
    place[np.argsort(first)] = np.arange(codes)
    return np.sort(first).tolist(), place[which]
