"""Episodes of an output as a recording for the Rerun viewer: what was recorded beside the rows made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml

from robocache.config.job import Job
from robocache.config.load import job_from_mapping
from robocache.config.reading import known_episode
from robocache.engine.report import recorded
from robocache.errors import ConfigError, OutputError, RoboCacheError
from robocache.output.dataset import Output
from robocache.output.facts import labels
from robocache.output.lerobot.others import OthersTree
from robocache.output.pictures import Pictures
from robocache.output.rows import Column, Rows
from robocache.output.schema import marks
from robocache.types import Episode, as_rows

#: Numbers of a source or a feature that are drawn.
_NUMBERS = 64


def write_view(output: Output, path: str, episodes: Sequence[str] | None = None) -> list[str]:
    """An ``.rrd`` file of some episodes, of ids ``episodes``; None: the first. Returns a note for each whose recording
    cannot be read, and which is shown as rows alone.

    ``raw/<source>`` and ``fused/<feature>`` on one timeline, ``time``, in seconds from the episode's first row; where
    rows are not valid nothing is drawn. ``ConfigError``: no such episode, no Rerun; ``OutputError``.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ConfigError([f"robocache view needs the extra `view` (pip install 'robocache[view]'): {error}"]) from None
    table = output.episodes
    ids = table["id"].to_pylist()
    if not ids:
        raise OutputError(f"{output.uri} holds no episode")
    notes: list[str] = []
    others = isinstance(output, OthersTree)  # whose rows are what was recorded
    job = None if others else job_from_mapping(yaml.safe_load(output.config))
    for id in episodes or ids[:1]:
        known_episode(id, ids)
    chosen = list(dict.fromkeys(episodes or ids[:1]))
    several = len(chosen) > 1
    recording = rr.RecordingStream("robocache", recording_id=f"{output.identity}-{output.version.number}")
    recording.save(path)
    panes: list[Any] = []
    for place, id in enumerate(chosen):
        rows = Rows.of(output, table["episode_index"].to_numpy()[[ids.index(id)]])
        episode = None
        try:
            episode = None if job is None else recorded(output, job, id, payloads=True)
        except (RoboCacheError, OSError) as error:
            notes.append(f"{id} is shown as rows alone, since its recording cannot be read: {error}")
        panes.append(_episode(recording, output, job, rows, episode, f"episode_{place}" if several else "", id))
    recording.send_blueprint(_blueprint(panes))
    recording.flush()
    recording.disconnect()
    return notes


def _blueprint(panes: Sequence[Any]) -> Any:
    import rerun.blueprint as rrb

    return rrb.Blueprint(rrb.Tabs(*panes) if len(panes) > 1 else panes[0], collapse_panels=True)


def _episode(
    recording: Any, output: Output, job: Job | None, rows: Rows, episode: Episode | None, root: str, id: str
) -> Any:
    """Write one episode; what shows it: a line a feature, its sources to the left."""
    import rerun.blueprint as rrb

    times = rows.column("time_ns")
    start = int(times[0])
    told: dict[str, str] = {}
    for key, stream in (episode.streams if episode is not None else {}).items():
        at = f"{root}/raw/{_name(key)}".lstrip("/")
        if told_as := _stream(recording, at, stream.times - start, stream.values):
            told[key] = told_as
    sources = {job.output.column(f.name): [s.key for s in f.sources] for f in job.features} if job is not None else {}
    lines = []
    for name, mark in marks(output.schema).items():
        column = Column.of(output.schema.field(name))
        at = f"{root}/fused/{_name(name)}".lstrip("/")
        kind = _feature(recording, at, output, rows, times - start, column, mark)
        if not kind:
            continue
        view = {"numbers": rrb.TimeSeriesView, "images": rrb.Spatial2DView}[kind]
        beside = [key for key in sources.get(name, []) if told.get(key) == kind]
        raw = [f"/{root}/raw/{_name(key)}".replace("//", "/") for key in beside]
        left = [view(name=f"recorded: {', '.join(beside)}", contents=raw)] if raw else []
        lines.append(rrb.Horizontal(*left, view(name=name, contents=[f"/{at}"])))
    return rrb.Vertical(*lines, name=id)


def _stream(recording: Any, at: str, times: np.ndarray, values: Any) -> str:
    """Write what was recorded; what it is shown as: numbers, images or, empty, nothing."""
    order = np.argsort(times, kind="stable")
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "fiub" or not len(values):
            return ""
        flat = as_rows(values)
        if flat.shape[1] > _NUMBERS:
            return ""
        _numbers(recording, at, times[order], flat[order].astype(np.float64), [])
        return "numbers"
    return _images(recording, at, times[order], values.take(order).to_pylist())


def _feature(recording: Any, at: str, output: Output, rows: Rows, times: np.ndarray, column: Column, mark: str) -> str:
    """The same of a feature's rows."""
    import rerun as rr

    try:
        pictures = Pictures.of(column)
    except ValueError:
        pictures = None
    if pictures is None and (column.dtype is None or not 0 < column.width <= _NUMBERS):
        return ""
    found = rows.read_all([column, Column.of(output.schema.field(mark))])
    valid = found[mark][:, 0]
    if pictures is None:
        values = found[column.name].astype(np.float64)
        names = labels(output.schema.field(column.name), column.width)
        _numbers(recording, at, times[valid], values[valid], list(names) if column.width > 1 else [])
        return "numbers"
    if column.dtype is None:
        kept = np.flatnonzero(valid)
        return _images(recording, at, times[kept], found[column.name].take(kept).to_pylist())
    for row in np.flatnonzero(valid):
        recording.set_time("time", duration=times[row] / 1e9)
        (pixels,) = pictures.decoded(found[column.name][row : row + 1])
        recording.log(at, rr.Image(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
    return "images"


def _numbers(recording: Any, at: str, times: np.ndarray, values: np.ndarray, names: Sequence[str]) -> None:
    import rerun as rr

    if names:
        recording.log(at, rr.SeriesLines(names=list(names)), static=True)
    if len(times):
        columns = rr.Scalars.columns(scalars=values.ravel()).partition([values.shape[1]] * len(values))
        recording.send_columns(at, [rr.TimeColumn("time", duration=times / 1e9)], columns)


def _images(recording: Any, at: str, times: np.ndarray, values: Sequence[Any]) -> str:
    import rerun as rr

    written = False
    for time, data in zip(times.tolist(), _encoded(values), strict=True):
        if data:
            recording.set_time("time", duration=time / 1e9)
            recording.log(at, rr.EncodedImage(contents=data, media_type=_media(data)))
            written = True
    return "images" if written else ""


def _encoded(values: Sequence[Any]) -> Iterator[bytes]:
    """Of each value the bytes of a PNG or JPEG, or nothing."""
    for value in values:
        data: Any = value.get("bytes") if isinstance(value, dict) else value
        good = isinstance(data, bytes) and data.startswith((b"\x89PNG", b"\xff\xd8"))
        yield data if good else b""


def _media(data: bytes) -> str:
    return "image/png" if data.startswith(b"\x89") else "image/jpeg"


def _name(key: str) -> str:
    """A topic or feature as one part of an entity's path."""
    return re.sub(r"[^\w.-]", "_", key.strip("/")) or "_"
