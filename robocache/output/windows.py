"""Which episodes a training run takes, and which rows a window around each of their rows has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from robocache.output.dataset import Output
from robocache.output.rows import Rows, numpy_of

#: What tells the episodes of a dataset to take: numbers or ids, or a function of a row of the episode table.
Choice = Iterable[int | str] | Callable[[Mapping[str, Any]], bool]


def chosen_episodes(output: Output, choice: Choice | None, split: str | None) -> np.ndarray:
    """Numbers of the episodes, int64 ``[E]``, rising. ``ValueError`` for one that is not there, or if none is left."""
    table = output.episodes
    index, taken = numpy_of(table["episode_index"]), np.ones(table.num_rows, bool)
    if split is not None:
        there = sorted({name for name in table["split"].to_pylist() if name is not None})
        if split not in there:
            raise ValueError(
                f"{output.uri}: no episode is in a split {split!r}; there are {', '.join(there) or 'none'}"
            )
        taken &= np.array([name == split for name in table["split"].to_pylist()], bool)
    if callable(choice):
        for place in np.flatnonzero(taken):
            (row,) = table.slice(int(place), 1).to_pylist()
            told = {name: json.loads(row[name] or "{}") for name in ("metadata", "quality")}
            taken[place] = bool(choice({**row, **told}))
    elif choice is not None:
        ids = dict(zip(table["id"].to_pylist(), index.tolist(), strict=True))
        wanted = set()
        for one in choice:
            number = ids.get(one) if isinstance(one, str) else int(one)
            if number is None or number not in index:
                raise ValueError(f"{output.uri}: there is no episode {one!r} in version {output.version.number}")
            wanted.add(number)
        taken &= np.isin(index, list(wanted))
    if not taken.any():
        raise ValueError(f"{output.uri}: no episode is left to take")
    return index[taken]


def grid_steps(key: str, seconds: Iterable[float], rate: Fraction, tolerance_s: float) -> np.ndarray:
    """Rows from the row of a window to those at these times from it: int64 ``[K]``. ``ValueError`` for a time that is
    further than ``tolerance_s`` from every row of a timeline of that rate.
    """
    wanted = np.asarray([*seconds], np.float64)
    steps = np.round(wanted * float(rate)).astype(np.int64)
    off = np.abs(steps / float(rate) - wanted)
    if off.size and off.max() > tolerance_s:
        worst = int(off.argmax())
        raise ValueError(
            f"delta_timestamps[{key!r}]: {wanted[worst]:g} s is no row of a timeline of {rate} Hz; the nearest is "
            f"{steps[worst] / float(rate):g} s (tolerance_s is {tolerance_s:g})"
        )
    return steps


@dataclass(frozen=True)
class Window:
    """Rows around a row: ``steps`` int64 ``[K]``, how many rows away; or nanoseconds away where ``times`` are given.

    times: int64 ``[N]`` of all rows, rising also from episode to episode, see :func:`rising_times`; the row is then the
    nearest of its episode.
    """

    steps: np.ndarray
    times: np.ndarray | None = None

    @property
    def run(self) -> bool:
        """Whether its rows follow each other."""
        return self.times is None and bool((np.diff(self.steps) == 1).all())

    def around(self, rows: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the windows of ``rows [B]``, int64 ``[B, K]``, and bool ``[B, K]``, which of them stand for rows
        that the episode does not have: there it is the episode's first or last. ``ends``: of the episodes' rows.
        """
        episode = np.searchsorted(ends, rows, "right") - 1
        first, last = ends[episode][:, None], ends[episode + 1][:, None] - 1
        if self.times is None:
            wanted = rows[:, None] + self.steps
            return np.clip(wanted, first, last), (wanted < first) | (wanted > last)
        target = self.times[rows][:, None] + self.steps
        after = np.clip(np.searchsorted(self.times, target), first, last)
        before = np.maximum(after - 1, first)
        nearest = np.where(self.times[after] - target < target - self.times[before], after, before)
        return nearest, (target < self.times[first]) | (target > self.times[last])


def rising_times(rows: Rows, times: np.ndarray, apart: int) -> np.ndarray:
    """``time_ns`` of all rows, moved so that they rise over all episodes and are at least ``apart`` from one to the
    next: int64 ``[N]``.
    """
    out = times.astype(np.int64, copy=True)
    at = 0
    for first, last in zip(rows.ends[:-1], rows.ends[1:], strict=True):
        out[first:last] += at - out[first]
        at = int(out[last - 1]) + apart
    return out


def whole_windows(rows: Rows, windows: Iterable[tuple[Window, np.ndarray]]) -> np.ndarray:
    """The rows whose windows hold nothing invalid, padding aside: int64 ``[n]``. windows: each with ``valid [N]``."""
    kept = np.ones(rows.total, bool)
    for window, valid in windows:
        for first, last in zip(rows.ends[:-1], rows.ends[1:], strict=True):
            mine = np.arange(first, last)
            for k in range(len(window.steps)):
                at, padded = Window(window.steps[k : k + 1], window.times).around(mine, rows.ends)
                kept[first:last] &= (valid[at] | padded)[:, 0]
    return np.flatnonzero(kept)
