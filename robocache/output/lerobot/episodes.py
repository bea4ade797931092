"""Which rows of a version are in its tree, in which order, and what their tasks are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.output.dataset import Output
from robocache.output.lerobot.options import TreeSpec
from robocache.output.lerobot.reading import read_columns
from robocache.output.manifest import EpisodeRecord, PartRecord
from robocache.output.schema import marks
from robocache.types import frame_times

#: Shares in a record are rounded to six digits: of more rows than this, one could be invalid at a share of 1.
_TOLD_ROWS = 1_000_000


@dataclass(frozen=True)
class TreeEpisode:
    """An episode of the tree.

    id, number:  those of the output (its ``episode_index``, which may have gaps)
    part, at, rows: where its rows are: a part and its sha256, the first row, how many
    start_ns:    when the first row that is kept was
    kept:        runs of its rows that are in the tree, from and to, counted from its first
    tasks:       what was to be done, and in how many of the rows that are kept, one after another
    videos:      the files that its rows refer to, see :class:`EpisodeRecord`
    index, start: its number in the tree, and the number of its first row there
    """

    id: str
    number: int
    part: str
    sha256: str
    at: int
    rows: int
    start_ns: int
    split: str
    kept: tuple[tuple[int, int], ...]
    tasks: tuple[tuple[str, int], ...]
    share: float
    videos: Mapping[str, str]
    index: int = 0
    start: int = 0

    @property
    def length(self) -> int:
        return sum(stop - start for start, stop in self.kept)


@dataclass
class Survey:
    """episodes: of the tree, in its order; notes: what a person must know of those that are not as recorded"""

    episodes: list[TreeEpisode]
    notes: list[str] = field(default_factory=list)
    robot_type: str | None = None

    @property
    def tasks(self) -> dict[str, int]:
        """The number of each task, by when it comes first."""
        return {task: i for i, task in enumerate(dict.fromkeys(t for e in self.episodes for t, _ in e.tasks))}


def survey(output: Output, spec: TreeSpec) -> Survey:
    """``OutputError`` where a part cannot be read."""
    found, left_out, dropped, several, robot = [], [], 0, 0, None
    splits = {e.index: e.split for e in output.plan.episodes if e.split}
    for part, records in _by_part(output):
        columns = _Columns(output, part, spec)
        at = 0
        for record in records:
            runs, whole = _kept(columns, record, at, spec)
            if not runs:
                why = "no row of it is valid" if whole else "has an invalid row between valid ones"
                left_out.append((record.id, why))
            else:
                dropped += record.rows - sum(stop - start for start, stop in runs)
                told = record.metadata.get(spec.options.task_metadata)
                several += isinstance(told, list) and len(told) > 1 and spec.options.task_feature is None
                if robot is None and isinstance(record.metadata.get("robot_type"), str):
                    robot = record.metadata["robot_type"]
                for kept in [(run,) for run in runs] if spec.options.invalid == "split" else [runs]:
                    found.append(
                        TreeEpisode(
                            record.id,
                            record.index,
                            part.name,
                            part.sha256,
                            at,
                            record.rows,
                            record.start_ns + int(frame_times(np.array([kept[0][0]]), spec.fps)[0]),
                            splits.get(record.index, ""),
                            kept,
                            _tasks(columns, record, at, kept, spec),
                            part.bytes * record.rows / max(1, part.rows),
                            record.videos,
                        )
                    )
            at += record.rows
    notes = []
    if dropped:
        notes.append(f"LeRobot: {dropped} rows in which a required feature is not valid are not in the tree")
    if left_out:
        id, why = left_out[0]
        notes.append(
            f"LeRobot: {len(left_out)} episodes are not in the tree, the first {id}: {why}; see output.lerobot.invalid"
        )
    if several:
        notes.append(
            f"LeRobot: {several} episodes have several tasks, of which the first was taken for all of their rows; "
            "output.lerobot.task_feature takes them row by row"
        )
    order = {name: i for i, name in enumerate(spec.splits)}
    found.sort(key=lambda e: (order.get(e.split, len(order)), e.number, e.kept))
    starts = accumulate((e.length for e in found), initial=0)
    numbered = [replace(e, index=i, start=start) for i, (e, start) in enumerate(zip(found, starts, strict=False))]
    return Survey(numbered, notes, spec.options.robot_type or robot)


def _by_part(output: Output) -> Iterator[tuple[PartRecord, Sequence[EpisodeRecord]]]:
    for record in output.records():
        yield from record.by_part()


class _Columns:
    """Columns of a part, read when they are first asked for."""

    def __init__(self, output: Output, part: PartRecord, spec: TreeSpec):
        self._output, self._part, self._spec = output, part, spec
        self._invalid: np.ndarray | None = None
        self._texts: Any = None

    def invalid(self) -> np.ndarray:
        """bool ``[rows]``: where a required feature is not valid."""
        if self._invalid is None:
            table = read_columns(self._output, self._part.name, self._marks())
            good = [column.to_numpy() for column in table.columns]
            self._invalid = ~np.logical_and.reduce(good) if good else np.zeros(self._part.rows, bool)
        return self._invalid

    def texts(self) -> tuple[pa.ChunkedArray, np.ndarray]:
        """The texts of the task feature and which of them count."""
        if self._texts is None:
            name = self._spec.options.task_feature or ""
            table = read_columns(self._output, self._part.name, [name, marks(self._schema)[name]])
            self._texts = (table.column(0), table.column(1).to_numpy())
        return self._texts

    def _marks(self) -> list[str]:
        known = marks(self._schema)
        return [known[name] for name in self._spec.required if name in known]

    @property
    def _schema(self) -> pa.Schema:
        return self._output.schema


def _kept(
    columns: _Columns, record: EpisodeRecord, at: int, spec: TreeSpec
) -> tuple[tuple[tuple[int, int], ...], bool]:
    """The runs of an episode's rows that are in the tree; and, where there are none, whether no row is valid."""
    everything = ((0, record.rows),) if record.rows else ()
    shares = record.quality.get("valid", {})
    told = record.rows < _TOLD_ROWS and all(shares.get(name) == 1.0 for name in spec.required)
    if spec.options.invalid == "keep" or told:
        return everything, not everything
    good = ~columns.invalid()[at : at + record.rows]
    edges = np.flatnonzero(np.diff(good, prepend=False, append=False))
    runs = tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))
    if spec.options.invalid == "trim" and len(runs) > 1:
        return (), False
    return runs, True


def _tasks(
    columns: _Columns, record: EpisodeRecord, at: int, runs: Sequence[tuple[int, int]], spec: TreeSpec
) -> tuple[tuple[str, int], ...]:
    told = record.metadata.get(spec.options.task_metadata)
    if isinstance(told, list):
        told = next(iter(told), None)
    usual = told if isinstance(told, str) and told else spec.options.task
    length = sum(stop - start for start, stop in runs)
    if spec.options.task_feature is None:
        return ((usual, length),)
    texts, valid = columns.texts()
    out: list[list[Any]] = []
    for start, stop in runs:
        listed = texts.slice(at + start, stop - start).to_pylist()
        for text, counts in zip(listed, valid[at + start : at + stop], strict=True):
            task = text if counts and text else usual
            if out and out[-1][0] == task:
                out[-1][1] += 1
            else:
                out.append([task, 1])
    return tuple((task, count) for task, count in out)
