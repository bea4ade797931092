"""Rows in which nothing moves: at the ends of an episode, or anywhere in it, by how far features are from a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from robocache.config.job import TrimSpec
from robocache.errors import InputError
from robocache.features.columns import flat_numbers
from robocache.types import Finding

Columns: TypeAlias = Mapping[str, tuple[pa.Array | pa.ChunkedArray, np.ndarray]]


def moving(spec: TrimSpec, columns: Columns) -> tuple[np.ndarray, Finding | None]:
    """Which rows are kept, bool ``[T]``, and what there is to tell of the others.

    A row has moved from another where a number of a feature differs by more than the feature's threshold; what is not
    valid or not finite has not. Of the rows before anything moves the last is kept, of those after all has come to rest
    the first. Within, with ``rows: all``, a row is kept that has moved from the last one kept, so that what creeps is
    not lost. ``InputError`` where nothing moves.
    """
    blocks = [_block(*columns[name]) for name, _ in spec.features]
    limits = [below for _, below in spec.features]
    count, names = len(blocks[0]), ", ".join(name for name, _ in spec.features)
    starts, stops = (_known(blocks, order) for order in (1, -1))
    away = np.flatnonzero(_apart(blocks, starts, limits))
    back = np.flatnonzero(_apart(blocks, stops, limits))
    if not len(away) or not len(back):
        raise InputError(f"timeline.trim: nothing moves in its {count:,} rows, by {names}")
    first, last = max(int(away[0]) - 1, 0), min(int(back[-1]) + 1, count - 1)
    keep = np.zeros(count, bool)
    keep[first : last + 1] = True
    if spec.rows == "all":
        keep &= _steps(blocks, limits, first, last)
    idle = count - int(keep.sum())
    if not idle:
        return keep, None
    within = idle - first - (count - 1 - last)
    where = f"{first:,} at the begin, {count - 1 - last:,} at the end" + (f", {within:,} within" if within else "")
    text = f"{names}: {idle:,} of {count:,} rows in which nothing moves were left out ({where})"
    return keep, Finding("idle", names, text, idle / count)


def _block(values: pa.Array | pa.ChunkedArray, valid: np.ndarray) -> np.ndarray:
    """float64 ``[T, D]``; what is not valid or not finite is as it was before, NaN where nothing was."""
    block = np.array(flat_numbers(values), np.float64).reshape(len(valid), -1)
    there = np.isfinite(block) & valid[:, None]
    rows = np.maximum.accumulate(np.where(there, np.arange(len(block))[:, None], 0), axis=0)
    block[~there] = np.nan
    return np.take_along_axis(block, rows, axis=0)


def _known(blocks: Sequence[np.ndarray], order: int) -> list[np.ndarray]:
    """Of each block, the first finite number of each column (``order`` -1: the last)."""
    out = []
    for block in blocks:
        there = np.isfinite(block)[::order]
        rows = there.argmax(axis=0)
        out.append(np.where(there.any(axis=0), block[::order][rows, np.arange(block.shape[1])], np.nan))
    return out


def _apart(blocks: Sequence[np.ndarray], where: Sequence[np.ndarray], limits: Sequence[float]) -> np.ndarray:
    """Which rows have moved from these numbers, bool ``[T]``."""
    far = [(np.abs(b - w) > limit).any(axis=1) for b, w, limit in zip(blocks, where, limits, strict=True)]
    return np.logical_or.reduce(far)


def _steps(blocks: Sequence[np.ndarray], limits: Sequence[float], first: int, last: int) -> np.ndarray:
    """Which rows have moved from the one that was kept before them."""
    keep = np.zeros(len(blocks[0]), bool)
    row = first
    while row <= last:
        keep[row] = True
        here, ahead, size = [block[row] for block in blocks], row + 1, 64
        while ahead <= last:  # ever larger pieces: where all moves, one row is looked at, where nothing does, many
            piece = slice(ahead, min(ahead + size, last + 1))
            gone = np.flatnonzero(_apart([block[piece] for block in blocks], here, limits))
            if len(gone):
                ahead += int(gone[0])
                break
            ahead, size = piece.stop, size * 4
        row = ahead
    return keep
