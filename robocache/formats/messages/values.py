"""Values of one source, window by window, until they are a stream's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from robocache import scratch
from robocache.errors import InputError
from robocache.types import Values

_MAX_RESERVE = 1 << 30  # bytes set aside for rows that the file promises but has not yet shown


class Rows:
    """An array that grows at its end without copying while the rows stay within ``reserve``."""

    def __init__(self, reserve: int):
        self._reserve = reserve
        self._data: np.ndarray | None = None
        self._length, self._begun = 0, False

    def room(self, rows: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Where the next ``rows`` rows will be. ``ValueError`` where the shape is not that of the rows before."""
        data = self._data
        if not self._begun:  # what nobody has filled may still become anything
            row_bytes = max(1, dtype.itemsize * math.prod(shape))
            length = max(rows, min(self._reserve, _MAX_RESERVE // row_bytes))
            if data is None or data.shape != (length, *shape) or data.dtype != dtype:
                data = scratch.room((length, *shape), dtype)
        assert data is not None
        if data.shape[1:] != shape:
            raise ValueError(f"{list(data.shape[1:])} at first, then {list(shape)}")
        after = self._length + rows
        if after > len(data):
            grown = scratch.room((max(after, 2 * len(data)), *shape), data.dtype)
            for some in scratch.blocks(data[: self._length]):
                grown[: self._length][some] = data[: self._length][some]
            data = grown
        self._data = data
        return data[self._length : after]

    def extend(self, rows: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The next ``rows`` rows, to be filled. ``ValueError`` where the shape is not that of the rows before."""
        found = self.room(rows, shape, dtype)
        self._length, self._begun = self._length + rows, True
        return found

    def array(self) -> np.ndarray | None:
        """Rows so far; None where none was ever added."""
        return self._data[: self._length] if self._begun and self._data is not None else None


class Numbers:
    """Rows of numbers, of one length while they agree, else as lists."""

    def __init__(self, dtype: np.dtype, reserve: int):
        self._dtype, self._rows = dtype, Rows(reserve)
        self._present: list[tuple[int, np.ndarray | None]] = []
        self._flat: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def room(self, rows: int, width: int | None, *, scalar: bool) -> np.ndarray | None:
        """Where the next ``rows`` rows will be, ``[rows, width]`` (None: as wide as those before), if that can be told.
        What is added from there is not copied."""
        before = self._rows.array()
        if self._counts or (before is None and width is None and not scalar):
            return None
        shape = () if scalar else (width,) if before is None or width is not None else before.shape[1:]
        if before is not None and before.shape[1:] != shape:
            return None
        room = self._rows.room(rows, shape, self._dtype)
        return room.reshape(rows, 1) if scalar else room

    def add(self, blocks: Sequence[np.ndarray], *, scalar: bool, where: str, present: np.ndarray | None = None) -> None:
        """Blocks ``[m, *outer, width]`` side by side; ``present``: bool ``[m, numbers]`` which of them are there."""
        lead = blocks[0].shape[:-1]
        width = sum(block.shape[-1] for block in blocks)
        shape = lead[1:] if scalar else (*lead[1:], width)
        before = self._rows.array()
        if self._counts or (before is not None and before.shape[1:] != shape):
            if len(lead) > 1:
                found = f"{list(shape)} after {list(before.shape[1:])}" if before is not None else list(shape)
                raise InputError(f"{where}: its length differs between messages ({found}), so it has no columns")
            whole = np.concatenate(blocks, axis=1, dtype=self._dtype)
            self.add_lists(whole.ravel(), np.full(len(whole), width, np.int64))
            return
        self._present.append((lead[0], present))
        target = self._rows.extend(lead[0], shape, self._dtype).reshape(*lead, width)
        at = 0
        for block in () if len(blocks) == 1 and same_place(blocks[0], target) else blocks:
            _copy_columns(block, target[..., at : at + block.shape[-1]])
            at += block.shape[-1]

    def add_lists(self, flat: np.ndarray, counts: np.ndarray) -> None:
        """Numbers of ``m`` messages one after another, ``counts`` of each."""
        before = self._rows.array()
        if before is not None and not self._counts:
            self._flat.append(before.ravel())
            self._counts.append(np.full(len(before), before.shape[1], np.int64))
        self._flat.append(flat.astype(self._dtype, copy=False))
        self._counts.append(counts)

    def result(self, empty: tuple[int, ...]) -> tuple[Values, np.ndarray | None]:
        """All rows, and which numbers of them are there (None: all). ``empty``: shape of a row where there are none.

        Messages without a number beside others of one length have a row of none.
        """
        if not self._counts:
            rows = self._rows.array()
            if rows is None:
                return np.empty((0, *empty), self._dtype), None
            if all(present is None for _, present in self._present):
                return rows, None
            width = int(np.prod(rows.shape[1:]))
            masks = [np.ones((m, width), bool) if there is None else there for m, there in self._present]
            return rows, np.concatenate(masks)
        flat, counts = np.concatenate(self._flat), np.concatenate(self._counts)
        lengths = np.unique(counts[counts > 0])
        if len(lengths) <= 1:
            width = int(lengths[0]) if len(lengths) else 0
            values = np.full((len(counts), width), np.nan if self._dtype.kind == "f" else 0, self._dtype)
            there = counts > 0
            values[there] = flat.reshape(-1, width) if width else flat[:, None]
            return values, None if there.all() or not width else np.repeat(there[:, None], width, axis=1)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat)), None


def same_place(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are one in memory."""
    if one.dtype != other.dtype or one.shape != other.shape or one.strides != other.strides:
        return False
    return one.__array_interface__["data"][0] == other.__array_interface__["data"][0]


def _copy_columns(source: np.ndarray, target: np.ndarray) -> None:
    """``target[...] = source``; rows of one dtype as one item each, which numpy copies twice as fast as short rows."""
    row = f"V{source.shape[-1] * source.itemsize}"
    if source.ndim == 2 and source.size and source.dtype == target.dtype and source.strides[1] == source.itemsize:
        source, target = source.view(row), target.view(row)
    target[...] = source


def concatenate(arrays: Sequence[pa.Array], empty: pa.Array, where: str) -> pa.Array:
    """Arrays of one type one behind the other; ``empty`` where there are none."""
    try:
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays) if arrays else empty
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: too much text for one stream ({error})") from None


def take(values: Values, rows: np.ndarray) -> Values:
    """Some rows of a stream's values."""
    return values[rows] if isinstance(values, np.ndarray) else values.take(pa.array(rows))
