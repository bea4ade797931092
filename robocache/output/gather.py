"""Rows of a store picked by their numbers, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.output.rows import Column, Store, arrow_of


def gather(store: Store, columns: Sequence[Column], rows: np.ndarray, runs: np.ndarray) -> dict[str, Any]:
    """Of each column the rows of windows, in any order and number: an array ``[B, K, width]``, or Arrow's ``[B * K]``.

    rows: int64 ``[B, K]``; runs: bool ``[B]``, windows whose rows follow each other, which are copied as a whole
    """
    count, length = rows.shape
    numbers = [c for c in columns if c.dtype is not None]
    out: dict[str, Any] = {c.name: np.empty((count, length, c.width), c.dtype) for c in numbers}
    single = np.ones(count, bool)
    if length > 1 and numbers and runs.any():
        single = ~_copy_runs(store, numbers, rows, runs, out)
    places = (np.flatnonzero(single)[:, None] * length + np.arange(length)).ravel()
    flat = rows.ravel()
    for number, mine in _by_segment(store, flat[places]):
        segment = store.segment(number)
        found = segment.places(flat[places[mine]])
        for c in numbers:
            _records(out[c.name], 1)[places[mine]] = segment.tables[c.name].records(1)[found[c.name]]
    if len(numbers) < len(columns):
        out |= _payloads(store, [c for c in columns if c.dtype is None], flat)
    return out


def _copy_runs(
    store: Store, columns: Sequence[Column], rows: np.ndarray, runs: np.ndarray, out: dict[str, np.ndarray]
) -> np.ndarray:
    """Copy what windows of rows that follow each other have in one piece: bool ``[B]``, which do."""
    length, done = rows.shape[1], np.zeros(len(rows), bool)
    windows = np.flatnonzero(runs)
    for number, mine in _by_segment(store, rows[windows, 0]):
        segment, at = store.segment(number), windows[mine]
        inside = np.ones(len(at), bool) if number + 1 == len(store.starts) else rows[at, -1] < store.starts[number + 1]
        at = at[inside]
        first, last = segment.places(rows[at, 0]), segment.places(rows[at, -1])
        # The pieces of a long episode lie apart in an Arrow file, all columns in the same pieces.
        together = np.ones(len(at), bool)
        for c in columns:
            table = segment.tables[c.name]
            together &= (last[c.name] - first[c.name]) * table.every == (length - 1) * table.width
        at = at[together]
        for c in columns:
            table = segment.tables[c.name]
            _records(out[c.name], length)[at] = table.records(length)[first[c.name][together]]
        done[at] = True
    return done


def _records(values: np.ndarray, rows: int) -> np.ndarray:
    """``[B, K, width]`` as records of so many rows."""
    return values.reshape(-1).view(np.dtype((np.void, rows * values.shape[2] * values.itemsize)))


def _by_segment(store: Store, rows: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Segments, and where in ``rows [n]`` theirs are."""
    if not len(rows):
        return
    which = np.searchsorted(store.starts, rows, "right") - 1
    if which.min() == which.max():
        yield int(which[0]), slice(None)
        return
    order = np.argsort(which, kind="stable")
    firsts = np.flatnonzero(np.diff(which[order], prepend=-1))
    for first, last in pairwise([*firsts.tolist(), len(rows)]):
        yield int(which[order[first]]), order[first:last]


def _payloads(store: Store, columns: Sequence[Column], rows: np.ndarray) -> dict[str, pa.ChunkedArray]:
    picked: dict[str, list[pa.Array]] = {c.name: [] for c in columns}
    order = []
    for number, mine in _by_segment(store, rows):
        segment = store.segment(number)
        order.append(np.arange(len(rows))[mine])
        for name, places in segment.places(rows[mine]).items():
            if name in picked:
                picked[name] += segment.tables[name].take(arrow_of(places)).chunks
    back = np.empty(len(rows), np.int64)
    back[np.concatenate(order)] = np.arange(len(rows))
    return {name: pa.chunked_array(chunks).take(arrow_of(back)) for name, chunks in picked.items()}
