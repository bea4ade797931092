"""What a program finds in the messages of a window, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.messages.batch import gather
from robocache.formats.messages.paths import Key


class Spans(NamedTuple):
    """Where something of each message lies in the buffer: offsets and sizes in bytes, int64 ``[n]``."""

    start: np.ndarray
    size: np.ndarray


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
    bool ``[n]`` which do."""

    blocks: dict[Key, Block]
    having: dict[Key, np.ndarray]
    order: ByteOrder


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
    flat = np.empty(int(ends[-1]) if len(ends) else 0, dtype)
    for count in np.unique(block.counts):
        if count:
            rows = np.flatnonzero(block.counts == count)
            numbers = gather(buffer, block.start[rows], int(count) * dtype.itemsize).view(dtype.newbyteorder(order))
            flat[(ends[rows] - count)[:, None] + np.arange(count)] = numbers
    return flat.astype(block.dtype, copy=False) if block.dtype.kind != "b" else flat != 0, block.counts


def span_bytes(buffer: np.ndarray, spans: Spans) -> tuple[list[bytes], np.ndarray]:
    """The distinct contents of spans, and which of them each message has: int64 ``[n]``."""
    start, size = spans.start, np.asarray(spans.size)
    if not len(start):
        return [], np.empty(0, np.int64)
    known: dict[bytes, int] = {}
    which = np.empty(len(start), np.int64)
    for length in np.unique(size):
        rows = np.flatnonzero(size == length)
        texts = gather(buffer, start[rows], int(length))
        same = (texts == texts[:1]).all()
        if same or not length:
            which[rows] = known.setdefault(texts[0].tobytes(), len(known))
            continue
        distinct, inverse = np.unique(texts.view(f"V{length}")[:, 0], return_inverse=True)
        codes = [known.setdefault(text.tobytes(), len(known)) for text in distinct]
        which[rows] = np.array(codes)[inverse]
    return list(known), which
