"""Columns that lie on a device, and windows that are gathered there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robocache.ops.windows import WindowSteps, episode_bounds, gather_windows
from robocache.output.rows import Column, Rows
from robocache.output.torch.keys import Key

#: Numbers that are normalised at once when they are brought to the device.
_PIECE = 1 << 24


class Resident:
    """All rows of the columns of ``keys``, each as a batch is to have it: what a row alone decides, as normalising and
    filling, is done once, so that a batch is bytes moved, by one launch whatever its size.

    keys: those that are :attr:`Key.resident`; fill: as of the dataset
    """

    def __init__(self, rows: Rows, keys: Mapping[str, Key], fill: float | None, device: torch.device):
        self.device, self._keys = device, dict(keys)
        marks = {key.mark: Column(key.mark, (), np.dtype(bool)) for key in keys.values() if key.mark}
        columns = {key.column.name: key.column for key in keys.values()} | marks
        read = rows.read_all(list(columns.values()))
        held = {name: torch.from_numpy(read.pop(name)).to(device) for name in columns}
        self._bounds = episode_bounds(torch.from_numpy(rows.ends)).to(device)
        self._windows: list[WindowSteps] = []
        self._tables: list[Tensor] = []
        self._of: list[int] = []
        self._fills: list[float | None] = []
        #: By key the number of its window; its table, and that of its marks behind it, in order of the keys.
        self._places: dict[str, int] = {}
        numbers: dict[bytes, int] = {}
        for name, key in keys.items():
            steps = np.zeros(1, np.int64) if key.window is None else key.window.steps
            place = self._places[name] = numbers.setdefault(steps.tobytes(), len(numbers))
            if place == len(self._windows):
                self._windows.append(WindowSteps(steps.tolist(), device))
            filled = fill if key.fillable else None
            valid = held[key.mark] if key.mark else None
            self._add(_finished(held[key.column.name], key, valid, filled).view(-1, *key.column.shape), place, filled)
            if valid is not None:
                self._add(valid[:, 0], place, 0.0)

    def _add(self, table: Tensor, place: int, fill: float | None) -> None:
        self._tables.append(table)
        self._of.append(place)
        self._fills.append(fill)

    @property
    def nbytes(self) -> int:
        """On the device."""
        return sum(table.nbytes for table in self._tables) + self._bounds.nbytes

    def gather(self, rows: np.ndarray) -> dict[str, Any]:
        """What a batch of windows around ``rows``, int64 ``[B]``, has of the keys. Nothing is waited for."""
        own = torch.from_numpy(rows)
        if self.device.type == "cuda":
            own = own.pin_memory()
        return self.around(own.to(self.device, non_blocking=True))

    def around(self, own: Tensor) -> dict[str, Any]:
        """As :meth:`gather`, of rows that are on the device."""
        values, outside = gather_windows(self._tables, self._windows, self._of, own, self._bounds, fills=self._fills)
        out: dict[str, Any] = {}
        each = iter(values)
        for name, key in self._keys.items():
            parts = {name: next(each)}
            if key.mark:
                parts[f"{name}.valid"] = next(each)
            if key.window is None:
                parts = {part: found[:, 0] for part, found in parts.items()}
            else:
                parts[f"{name}_is_pad"] = outside[self._places[name]]
            out |= parts
        return out


def _finished(table: Tensor, key: Key, valid: Tensor | None, fill: float | None) -> Tensor:
    """``table [N, width]`` as a batch is to have its rows, in its own memory."""
    if key.normal is None and fill is None:
        return table
    step = max(1, _PIECE // max(1, table.shape[1]))
    for at in range(0, len(table), step):
        part = table[at : at + step]
        made = part if key.normal is None else key.normal(part)
        if fill is not None and valid is not None:
            made = made.masked_fill(~valid[at : at + step] | made.isnan(), fill)
        part.copy_(made)
    return table
