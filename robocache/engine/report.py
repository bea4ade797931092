"""An output as one page of HTML, gathered from what it holds and from the recordings it was made of."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from robocache.config.job import Job
from robocache.config.load import job_from_mapping
from robocache.config.reading import known_episode
from robocache.engine.page import Fused, Picture, Recorded, Trace, page
from robocache.engine.page.overhead import is_cloud, overhead
from robocache.engine.quality import gather
from robocache.engine.source_types import SourceTypes
from robocache.errors import InputError, RoboCacheError
from robocache.formats import list_input, read_episode
from robocache.output.dataset import Output
from robocache.output.facts import Facts, labels
from robocache.output.lerobot.doctor import examine
from robocache.output.lerobot.footage import Footage
from robocache.output.lerobot.others import OthersTree
from robocache.output.pictures import Pictures
from robocache.output.rows import Column, Rows, dense
from robocache.output.schema import marks
from robocache.types import Episode, as_rows
from robocache.video import png

#: Numbers of a feature that a sample episode shows, images of a camera, and how wide an image is.
_NUMBERS, _IMAGES, _PIXELS = 6, 4, 240


def make(output: Output, episodes: Sequence[str] | None = None) -> str:
    """The page. episodes: ids of those to show row by row; None: the first, and the one with the least valid rows.
    ``OutputError``; ``ConfigError``: no such episode.
    """
    facts = Facts.of(output)
    lines = [(g.line, bool(g.failed)) for g in gather(zip(facts.ids, facts.quality, strict=True)).lines()]
    if isinstance(output, OthersTree):
        looked = examine(output.store)
        lines += [*((problem, True) for problem in looked.problems), *((note, False) for note in looked.notes)]
    notes: list[str] = []
    shown = [_shown(output, facts, number, notes) for number in _chosen(facts, episodes)]
    pictured = _chosen(facts, episodes)[:1] if episodes is not None else _filmed(output, facts)
    pictures = [p for number in pictured for p in _pictures(output, facts, number, notes)]
    return page(facts, lines, shown, pictures, list(dict.fromkeys(notes)))


def _chosen(facts: Facts, ids: Sequence[str] | None) -> list[int]:
    """Places of the episodes to show."""
    if ids is not None:
        return [facts.ids.index(known_episode(id, list(facts.ids))) for id in ids]
    if not facts.ids:
        return []
    least = np.min(
        [np.nan_to_num(share, nan=1.0) for share in facts.valid.values()] or [np.ones(len(facts.ids))], axis=0
    )
    return sorted({0, int(np.argmin(least))})


def _filmed(output: Output, facts: Facts) -> list[int]:
    """The place of the first episode, or of the first whose videos are there."""
    filmed = output.filmed if isinstance(output, OthersTree) else frozenset()
    there = [k for k, number in enumerate(facts.numbers.tolist()) if number in filmed]
    return (there or [*range(len(facts.ids))])[:1]


def _shown(output: Output, facts: Facts, place: int, notes: list[str]) -> Fused:
    """One episode, as it was recorded, where it is still there, and as rows."""
    rows = Rows.of(output, facts.numbers[place : place + 1])
    times = rows.column("time_ns")
    episode, failure, job = None, "", None
    if isinstance(output, OthersTree):  # its rows are what was recorded
        streams = [Recorded("timestamp", times, np.zeros(len(times)))]
        return Fused(
            facts.ids[place], float(np.ptp(times)) / 1e9, streams, list(_traces(output, rows, times, None, None))
        )
    try:
        job = job_from_mapping(yaml.safe_load(output.config))
        episode = recorded(output, job, facts.ids[place])
    except (RoboCacheError, OSError) as error:
        failure = f"It is shown as rows alone, since its recording cannot be read: {error}"
    streams = [] if episode is None else list(_streams(episode, times))
    traces = list(_traces(output, rows, times, job, episode))
    return Fused(facts.ids[place], float(np.ptp(times)) / 1e9, streams, traces, failure)


def recorded(output: Output, job: Job, id: str, *, payloads: bool = False) -> Episode:
    """The recording of an episode, of its sources those that are numbers, or all. ``InputError``: it is gone."""
    table = output.episodes
    files = table["files"][table["id"].to_pylist().index(id)].as_py()
    known = frozenset(table["id"].to_pylist())
    spec = replace(job.input, uri=tuple(files))
    refs = {ref.id: ref for ref in list_input(spec, output.version.root, known).episodes}
    if id not in refs:
        raise InputError(f"no {id} in {', '.join(files)}")
    types = SourceTypes.from_json(output.version.types)
    there = [s for s in types.wanted(job.sources) if s.key in types.types]
    return read_episode(refs[id], [s for s in there if payloads or types.types[s.key].numeric], job.input)


def _streams(episode: Episode, times: np.ndarray) -> Iterator[Recorded]:
    for key, stream in episode.streams.items():
        if len(stream.times) > 1:
            stamps = np.sort(stream.times)
            last = np.searchsorted(stamps, times, "right") - 1
            yield Recorded(key, stamps, np.where(last >= 0, times - stamps[last], -1))


def _traces(output: Output, rows: Rows, times: np.ndarray, job: Job | None, episode: Episode | None) -> Iterator[Trace]:
    """Some numbers of each feature, with what was recorded of them where the feature only lays its sources abreast."""
    features = {job.output.column(f.name): f for f in job.features} if job is not None else {}
    start, span = int(times[0]), max(int(np.ptp(times)), 1)
    for name, mark in marks(output.schema).items():
        column = Column.of(output.schema.field(name))
        if column.dtype is None or column.width > 256:
            continue
        found = rows.read_all([column, Column.of(output.schema.field(mark))])
        values = np.where(found[mark], found[name].astype(np.float64), np.nan)
        names = labels(output.schema.field(name), column.width)
        raw = _abreast(features.get(name), episode, column.width)
        for d in range(min(column.width, _NUMBERS)):
            at, points = raw[d] if raw else (np.zeros(0), np.zeros(0))
            label = names[d] if column.width > 1 else ""
            yield Trace(name, label, values[:, d], (at - start) / span, points.astype(np.float64))


def _abreast(feature: Any, episode: Episode | None, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stamps and recorded values of each number of a feature; none where they are not the sources' own."""
    if feature is None or episode is None or feature.steps:
        return []
    out: list[tuple[np.ndarray, np.ndarray]] = []
    for source in feature.sources:
        stream = episode.streams.get(source.key)
        if stream is None or not isinstance(stream.values, np.ndarray) or source.static:
            return []
        flat = as_rows(stream.values)
        out += [(stream.times + source.offset, flat[:, k]) for k in range(flat.shape[1])]
    return out if len(out) == width else []


def _pictures(output: Output, facts: Facts, place: int, notes: list[str]) -> Iterator[Picture]:
    """Some images of each camera of an episode, and clouds from above, small."""
    rows = Rows.of(output, facts.numbers[place : place + 1])
    columns = [Column.of(output.schema.field(name)) for name in marks(output.schema)]
    files = output.videos if any(column.refers for column in columns) else {}  # all records tell them
    footage = Footage(files, output.store.options)
    for column in columns:
        name, field = column.name, output.schema.field(column.name)
        cloud, shown = is_cloud(field), False
        try:
            pictures = None if cloud else Pictures.of(column, footage)
        except ValueError:
            continue
        for row in np.unique(np.linspace(0, rows.total - 1, _IMAGES).astype(np.int64)).tolist():
            try:
                found = _row(rows, row, name)
                image = overhead(field, found[0]) if pictures is None else _small(pictures, column, found)
            except RoboCacheError as error:
                notes.append(f"{name} is not shown: {error}")
                break
            if image is None:
                continue
            shown = True
            told = f"{name}, row {row} of {facts.ids[place]}" + (", from above" if cloud else "")
            yield Picture(told, f"data:image/png;base64,{b64encode(png(image)).decode()}")
        else:
            if not shown:
                notes.append(f"{name} is not shown: {facts.ids[place]} has nothing of it in the rows looked at")


def _row(rows: Rows, row: int, name: str) -> pa.ChunkedArray:
    """One row of an episode, of which little else is read."""
    at = int(rows.offset[0]) + row
    table, first = rows.output.rows(rows.parts[int(rows.part[0])], at, at + 1, [name])
    return table[name].slice(at - first, 1)


def _small(pictures: Pictures, column: Column, found: pa.ChunkedArray) -> np.ndarray | None:
    if found.null_count:
        return None
    (image,) = pictures.decoded(dense(found, column) if column.dtype is not None else found)
    every = max(1, -(-image.shape[2] // _PIXELS))
    return np.ascontiguousarray(image.transpose(1, 2, 0)[::every, ::every])
