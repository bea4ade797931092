"""How to read recordings that do not say it themselves: where tables keep their time, and which files are one episode.

What is found is a suggestion: a config states it, with the reason beside it, so that a person can correct it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from robocache.errors import InputError, MissingError
from robocache.formats import InputSpec, TableTimes, list_episodes, list_streams, read_episode
from robocache.formats.base import TIME_UNITS
from robocache.formats.registry import READERS
from robocache.types import EpisodeRef, StreamInfo, as_rows

#: Assumed where nothing tells a rate.
ASSUMED_HZ = 10
#: What columns of time are called, the likelier first.
_LIKELY = (
    r"timestamps?", r"times?", r"stamps?", r"t", r"ts", r"(time|stamp|timestamp)[_ .]?\[?n?s(ec)?\]?",
    r".*(timestamp|stamp)s?", r"time[_ ].*", r".*[_ ]time", r"sim_time", r"clock",
)  # fmt: skip
_PAIRS = (("sec", "nanosec"), ("sec", "nsec"), ("secs", "nsecs"), ("seconds", "nanoseconds"))
#: Metadata that is a rate.
_RATES = re.compile(r"(control_|sample_|sampling_)?(fps|hz|freq|frequency|rate|rate_hz)")
#: Seconds since 1970 that recordings are of: 2001 to 2096.
_EPOCH = (1e9, 4e9)
#: What a table without a header is told to be, and the columns that it is taken for.
_NAMELESS = re.compile(r"its (\d+) columns have no names")
_TRAJECTORY = ("t", "x", "y", "z", "qx", "qy", "qz", "qw")
#: Rates of most recordings, and of any.
_USUAL_HZ = (5.0, 2_000.0)
_PLAUSIBLE_HZ = (0.2, 20_000.0)


@dataclass(frozen=True, slots=True)
class Guess:
    """How to read recordings, and why, a sentence for each key that is not as usual, by the key's name."""

    spec: InputSpec
    reasons: Mapping[str, str]


def guess(spec: InputSpec, refs: Sequence[EpisodeRef]) -> Guess:
    """``spec`` with what recordings of one format need to be read, of which these are examples: ``episode`` where
    several files are one recording, ``times`` where they keep none that says what it is, ``salvage`` where nothing can
    be read without. What ``spec`` states is left as it is."""
    reasons: dict[str, str] = {}
    if not spec.csv.names and (names := _names(refs)):
        named = replace(spec, csv=replace(spec.csv, names=names))
        if any(not ref.failure for ref in list_episodes(named)):
            trajectory = names == _TRAJECTORY
            reasons["csv"] = "ASSUMED: the columns have no names" + (", as in a TUM trajectory" if trajectory else "")
            spec, refs = named, list_episodes(named)
    if not any(not ref.failure for ref in refs) and any("input.salvage" in ref.failure for ref in refs):
        salvaged = replace(spec, salvage=True)
        if any(not ref.failure for ref in list_episodes(salvaged)):
            reasons["salvage"] = "they were cut off, or lack their index: what is whole of them is read"
            spec, refs = salvaged, list_episodes(salvaged)
    refs = [ref for ref in refs if not ref.failure]
    if not refs:
        return Guess(spec, reasons)
    reader = READERS[refs[0].format]
    if spec.episode == "file" and (reader.members or reader.splits) and not reader.own_time and len(refs) > 1:
        together = _together(spec, refs)
        if together:
            spec = replace(spec, episode="folder")
            reasons["episode"] = together
            refs = [ref for ref in list_episodes(spec) if not ref.failure]
    if spec.times is None and not reader.own_time:
        spec, reason = _times(spec, refs)
        if reason:
            reasons["times"] = reason
    return Guess(spec, reasons)


def _names(refs: Sequence[EpisodeRef]) -> tuple[str, ...]:
    """Of the columns of tables without a header, where none has one."""
    counts = {match and int(match[1]) for ref in refs for match in [_NAMELESS.search(ref.failure or _why(ref))]}
    (count,) = counts if len(counts) == 1 else (None,)
    if count is None or count < 2:
        return ()
    return _TRAJECTORY if count == len(_TRAJECTORY) else ("t", *(f"c{k}" for k in range(1, count)))


def _why(ref: EpisodeRef) -> str:
    """Why a table cannot be read."""
    if ref.format != "csv":
        return ""
    try:
        list_streams(ref, InputSpec((), times=TableTimes(rate_hz=1)))
    except InputError as error:
        return str(error)
    return ""


def _together(spec: InputSpec, refs: Sequence[EpisodeRef]) -> str:
    """Why the files of each folder are one episode; empty where they are not."""
    folders: dict[str, list[EpisodeRef]] = {}
    for ref in refs:
        folders.setdefault(ref.files[0].uri.rpartition("/")[0], []).append(ref)
    some = next(iter(folders.values()))
    if not READERS[refs[0].format].members:  # files that follow one another: their names have to tell when
        whole = [ref for ref in list_episodes(replace(spec, episode="folder")) if not ref.failure]
        if len(whole) == len(refs) or any(_fails(ref, spec) for ref in whole):
            return ""
        return "the files of a folder follow one another, their names tell when"
    names = [sorted(ref.files[0].uri.rpartition("/")[2] for ref in group) for group in folders.values()]
    if len(some) == 1 or any(other != names[0] for other in names):
        return ""
    columns = [frozenset(info.source for info in _columns(ref, spec)) for ref in some]
    alike = len(set(columns)) < len(columns)
    return "" if alike else "the files of a folder hold different columns: they are tables of one recording"


def _fails(ref: EpisodeRef, spec: InputSpec) -> bool:
    try:
        list_streams(ref, spec)
    except InputError:
        return True
    return False


def _columns(ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
    """What a recording without time has, as of any rate; nothing where it cannot be read."""
    try:
        return list_streams(ref, replace(spec, times=TableTimes(rate_hz=1)))
    except InputError:
        return []


def _times(spec: InputSpec, refs: Sequence[EpisodeRef]) -> tuple[InputSpec, str]:
    """With where the time is, and what tells so; unchanged where recordings tell it themselves or cannot be read."""
    for ref in refs:
        try:
            list_streams(ref, spec)
            return spec, ""
        except MissingError:
            break
        except InputError:
            continue
    else:
        return spec, ""
    for times, reason in _columns_of_time(ref, spec):
        found = replace(spec, times=times)
        if not _fails(ref, found):
            return found, reason
    rate, reason = _rate(ref, spec)
    return replace(spec, times=TableTimes(rate_hz=rate)), reason


def _columns_of_time(ref: EpisodeRef, spec: InputSpec) -> Iterator[tuple[TableTimes, str]]:
    """Likely columns with their units."""
    infos = _columns(ref, spec)
    tables = [info for info in infos if ref.tables and info.source in ref.tables]
    if tables:
        shared = set.intersection(*(({name for name, _ in info.fields}) for info in tables))
        kinds = {name: kind for name, kind in tables[0].fields if name in shared}
        names = {name: f"{tables[0].source}.{name}" for name in kinds}
    else:
        kinds = {info.source: info.type for info in infos if not info.fields}
        names = {name: name for name in kinds}
    for seconds, nanoseconds in _PAIRS:
        if seconds in kinds and nanoseconds in kinds:
            yield TableTimes(columns=(seconds, nanoseconds)), f"the columns {seconds} and {nanoseconds}"
    for column in _likely(list(kinds)):
        if kinds[column] in ("string", "large_string"):
            yield TableTimes(column), f"the column {column!r} holds times as text"
            continue
        if unit := _unit(_numbers(ref, names[column], spec)):
            reason = f"by its name and its numbers the time in {unit}; correct it if it is not"
            yield TableTimes(column, cast(Any, unit)), reason


def _likely(names: Sequence[str]) -> list[str]:
    last = {name: re.split(r"[/.]", name)[-1].strip().lower() for name in names}
    return [name for pattern in _LIKELY for name in names if re.fullmatch(pattern, last[name])]


def _numbers(ref: EpisodeRef, source: str, spec: InputSpec) -> np.ndarray | None:
    try:
        streams = read_episode(ref, [source], replace(spec, times=TableTimes(rate_hz=1))).streams
    except InputError:
        return None
    values = streams[source].values if source in streams else None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        return None
    flat = as_rows(values)
    return flat[:, 0] if flat.shape[1] == 1 and len(flat) > 1 else None


def _unit(values: np.ndarray | None) -> str:
    """The unit that numbers are times in; empty where they are none: they must rise, but for a clock that starts again
    now and then."""
    if values is None or not np.isfinite(values).all():
        return ""
    steps = np.diff(values.astype(np.float64))
    rising = steps[steps > 0]
    if len(rising) < 0.9 * len(steps) or np.count_nonzero(steps < 0) > 0.02 * len(steps) + 1:
        return ""
    middle, step = float(np.median(values)), float(np.median(rising))
    for unit, scale in TIME_UNITS.items():
        if _EPOCH[0] <= middle * scale / 1e9 < _EPOCH[1] and middle > _EPOCH[0]:
            return unit
    counts = bool(np.all(rising == 1))  # numbers of rows, not times
    rates = {unit: 1e9 / (step * TIME_UNITS[unit]) for unit in ("s", "ms", "us", "ns")}
    likely = [unit for low, high in (_USUAL_HZ, _PLAUSIBLE_HZ) for unit, hz in rates.items() if low <= hz <= high]
    return likely[0] if likely and not counts else ""


def _rate(ref: EpisodeRef, spec: InputSpec) -> tuple[float | int, str]:
    """The rate that the recording's metadata tells; else an assumed one."""
    try:
        metadata = read_episode(ref, [], replace(spec, times=TableTimes(rate_hz=1))).metadata
    except InputError:
        metadata = {}
    for name, rate in _told(metadata, 0):
        return rate, f"as its metadata tells ({name})"
    return ASSUMED_HZ, "ASSUMED: the recordings tell neither time nor rate; write theirs here"


def _told(metadata: Mapping[str, Any], depth: int) -> Iterator[tuple[str, float | int]]:
    """Rates in metadata, and in the JSON texts in it."""
    for name, value in metadata.items():
        if isinstance(value, str) and value.startswith("{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if isinstance(value, Mapping) and depth < 4:
            yield from _told(value, depth + 1)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and _RATES.fullmatch(str(name).lower()) and _PLAUSIBLE_HZ[0] <= value <= _PLAUSIBLE_HZ[1]:
            yield str(name), value
