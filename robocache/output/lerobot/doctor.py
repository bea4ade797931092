"""A LeRobot tree that anybody made, looked at: whether its files are there and say the same of its episodes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.output.lerobot import layout
from robocache.output.lerobot.features import INDEX
from robocache.output.lerobot.listing import Listed, listed_episodes, tasks_of
from robocache.output.store import Store
from robocache.video import times

#: LeRobot's own tolerance of a stamp, in seconds.
TOLERANCE_S = 1e-4
#: Of statistics, as a share of the largest number.
STATISTICS = 1e-4
#: A share of rows that repeat the row before in every feature is told from here on.
HELD = 0.05


@dataclass
class Examined:
    """problems: what a trainer would stumble over; notes: what is worth knowing"""

    version: str = ""
    episodes: int = 0
    rows: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def examine(store: Store) -> Examined:
    """All of its rows are read; of videos the times of frames (with the extra ``video``), no pixels."""
    found = Examined()
    try:
        info = json.loads(store.read(layout.INFO))
        found.version, fps = str(info["codebase_version"]), float(info["fps"])
        features = dict(info["features"])
        listed, tasks = list(listed_episodes(store, info)), tasks_of(store, found.version)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{layout.INFO} and the tables beside it cannot be read"
        found.problems.append(f"{what} ({type(error).__name__}: {error})")
        return found
    sizes = {name: n for folder in layout.FOLDERS for name, n in store.sizes(folder).items()}
    found.files, found.bytes, found.episodes = len(sizes), sum(sizes.values()), len(listed)
    _totals(info, listed, tasks, found)
    walk = _Walk(store, fps, features, tasks)
    for e in listed:
        walk.episode(e)
    found.rows = walk.count
    if info.get("total_frames", walk.count) != walk.count:
        found.problems.append(f"{layout.INFO}: total_frames {info['total_frames']}, the files hold {walk.count}")
    if walk.held > HELD * max(1, walk.count):
        share, why = walk.held / walk.count, "held samples, or a robot that stands still"
        found.notes.append(f"{share:.1%} of the rows repeat the row before in every feature: {why}")
    if walk.late:
        found.notes.append(
            f"{_named(walk.late)}: so long that float32 rounds stamps by more than {TOLERANCE_S:g} s, LeRobot's "
            "tolerance for frames of videos; cut it, or raise tolerance_s"
        )
    found.problems += [f"{_named(episodes)}: {what}" for what, episodes in walk.faults.items()]
    found.problems += _videos(store, listed, sizes, fps)
    return found


def _named(episodes: Sequence[int]) -> str:
    """The first of them."""
    more = f" and {len(episodes) - 5} more" if len(episodes) > 5 else ""
    return f"episode{'s' if len(episodes) > 1 else ''} {', '.join(map(str, episodes[:5]))}{more}"


def _totals(info: Mapping[str, Any], listed: Sequence[Listed], tasks: Mapping[int, str], found: Examined) -> None:
    for key, count in (("total_episodes", len(listed)), ("total_tasks", len(tasks))):
        if info.get(key, count) != count:
            found.problems.append(f"{layout.INFO}: {key} {info[key]}, the tables have {count}")
    if [e.index for e in listed] != list(range(len(listed))):
        found.problems.append("the episodes are not numbered from 0 without gaps, each once")
    for name, text in (info.get("splits") or {}).items():
        first, _, stop = str(text).partition(":")
        if not (first.isdigit() and stop.isdigit() and int(stop) <= len(listed)):
            found.notes.append(f"{layout.INFO}: split {name} is {text!r}, there are {len(listed)} episodes")


class _Walk:
    """Looks at one episode after another. faults: episodes by what is wrong with them"""

    def __init__(self, store: Store, fps: float, features: Mapping[str, Any], tasks: Mapping[int, str]):
        self.store, self.fps, self.features, self.tasks = store, fps, features, tasks
        self.count = self.held = 0
        self.faults: dict[str, list[int]] = {}
        #: Episodes whose stamps, rounded to float32, are further from their frames' than LeRobot's tolerance.
        self.late: list[int] = []
        self._file, self._rows = "", pa.table({})

    def fault(self, what: str, e: Listed) -> None:
        self.faults.setdefault(what, []).append(e.index)

    def episode(self, e: Listed) -> None:
        rows = self._of(e)
        if rows is None:
            return
        if rows.num_rows != e.length:
            self.fault("its length is not the number of its rows", e)
        told = {name: f for name, f in self.features.items() if f.get("dtype") != "video"}
        if lacking := [name for name in told if name not in rows.column_names]:
            self.fault(f"its file has no column {', '.join(lacking)}, which info.json promises", e)
        self._clock(e, rows)
        self.count += rows.num_rows
        still, numbers = np.ones(max(0, rows.num_rows - 1), bool), 0
        for name, feature in told.items():
            if name not in lacking and feature.get("dtype") not in ("image", "string") and rows.num_rows:
                values = _numbers(rows.column(name))
                if values is None:
                    self.fault(f"{name} has rows of several lengths, or empty ones", e)
                    continue
                self._column(e, name, feature, values)
                if name not in INDEX:
                    numbers += 1
                    still &= (values[1:] == values[:-1]).all(axis=1)
        self.held += int(still.sum()) if numbers else 0

    def _of(self, e: Listed) -> pa.Table | None:
        """The episode's rows; None, once that is told, where they cannot be read."""
        try:
            if self._file != e.file:
                self._rows = pq.ParquetFile(pa.BufferReader(self.store.read(e.file))).read()
                self._file = e.file
        except FileNotFoundError:
            self.fault("its file of rows is not there", e)
            return None
        except (OSError, ValueError) as error:
            self.fault(f"its file of rows cannot be read ({error})", e)
            return None
        if "episode_index" not in self._rows.column_names:
            return self._rows
        return self._rows.filter(pa.array(self._rows["episode_index"].to_numpy() == e.index))

    def _clock(self, e: Listed, rows: pa.Table) -> None:
        n, begin = rows.num_rows, self.count if e.start is None else e.start
        for name, first in (("frame_index", 0), ("index", begin)):
            if name in rows.column_names and rows[name].to_pylist() != list(range(first, first + n)):
                self.fault(f"{name} does not count up as it should", e)
        if "timestamp" in rows.column_names and n:
            stamps = rows["timestamp"].to_numpy()
            right = np.arange(n) / self.fps
            # As the column can hold it: after half an hour the steps of float32 are wider than the tolerance.
            off = np.abs(stamps - right.astype(stamps.dtype)).max()
            if not off <= TOLERANCE_S:
                self.fault(f"timestamp is not frame_index / {self.fps:g}, to {TOLERANCE_S:g} s", e)
            elif e.videos and np.abs(stamps.astype(np.float64) - right).max() > TOLERANCE_S:
                self.late.append(e.index)
        if "task_index" in rows.column_names and not set(rows["task_index"].to_pylist()) <= self.tasks.keys():
            self.fault("task_index has numbers that the table of tasks lacks", e)

    def _column(self, e: Listed, name: str, feature: Mapping[str, Any], values: np.ndarray) -> None:
        shape = feature.get("shape")
        if not isinstance(shape, list) or values.shape[1] != int(np.prod(shape)):
            self.fault(f"{name} has {values.shape[1]} numbers a row, info.json says {shape}", e)
            return
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            self.fault(f"{name} holds numbers that are not finite", e)
            return
        wide = values.astype(np.float64).reshape(-1, shape[-1])
        scale = STATISTICS * max(1.0, float(np.abs(wide).max()))
        right = {"min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0)}
        for key, wanted in right.items():
            told = np.asarray(e.stats.get(name, {}).get(key, wanted), np.float64).reshape(-1)
            if told.size == values.shape[1] != wanted.size:
                return  # of each number, not along the last axis
            if told.shape != wanted.shape or (np.abs(told - wanted) > scale).any():
                self.fault(f"the statistics of {name} are not those of its rows ({key})", e)
                return


def _numbers(column: pa.ChunkedArray) -> np.ndarray | None:
    """``[n, width]``; None where the rows are of several lengths, or there is a null."""
    array, n = column.combine_chunks(), len(column)
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        array = array.flatten()
    if array.null_count or len(array) % n or not len(array):
        return None
    return array.to_numpy(zero_copy_only=False).reshape(n, -1)


def _videos(store: Store, listed: Sequence[Listed], sizes: Mapping[str, int], fps: float) -> Iterator[str]:
    """What is wrong: each frame that a row stands for is to be there, at its time."""
    of_file: dict[str, list[tuple[Listed, float]]] = {}
    missing: Counter[str] = Counter()
    for e in listed:
        for camera, (name, begin) in e.videos.items():
            missing[camera] += name not in sizes
            if name in sizes:
                of_file.setdefault(name, []).append((e, begin))
    yield from (f"{c}: the videos of {n} of {len(listed)} episodes are not there" for c, n in missing.items() if n)
    for name, some in of_file.items():
        try:
            have = np.array([float(t) for t in times(store.read(name))])
        except Exception as error:  # FFmpeg's errors are many, and PyAV may not be installed
            yield f"{name}: cannot be looked into ({error})"
            continue
        for e, begin in some:
            wanted = begin + np.arange(e.length) / fps
            after = np.searchsorted(have, wanted)
            later, earlier = np.append(have, np.inf)[after], np.append(have, -np.inf)[after - 1]
            off = float(np.minimum(np.abs(later - wanted), np.abs(earlier - wanted)).max(initial=0.0))
            if off > TOLERANCE_S:
                yield f"{name}: a frame of episode {e.index} is missing or elsewhere: the nearest is {off:.3g} s off"
