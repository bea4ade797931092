"""What an output knows of its episodes, streams and features, gathered for a person to see. No row is read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.errors import OutputError
from robocache.output import statistics
from robocache.output.dataset import Output
from robocache.output.manifest import QuarantineRecord
from robocache.output.statistics import Moments, Statistics

#: An episode is an outlier where a number spreads so many times as wide as in most, or lies so many spreads away.
FACTOR = 10.0
#: Fewer episodes do not say what most are like.
ENOUGH = 4
#: What a number that spreads about so many times as wide as in most may be. One that spreads less than in most is told
#: for these alone: many a joint rests.
_UNITS = {
    180 / np.pi: "degrees where others have radians?",
    np.pi / 180: "radians where others have degrees?",
    1000.0: "mm (or ms, g) where others have m (s, kg)?",
    0.001: "m (or s, kg) where others have mm (ms, g)?",
}
#: How near a factor must be, as a difference of logarithms.
_NEAR = 0.5


@dataclass(frozen=True)
class StreamFacts:
    """A source in the episodes that have it: ``episodes`` places ``[n]`` in the episode table; of each of them
    ``samples``, ``late``, ``late_by`` (ns), ``duplicates``, ``non_finite``, ``dropped``, ``gaps``, ``longest_gap`` (ns)
    int64 ``[n]`` and ``valid_share`` float64 ``[n]``, in ``found``.
    """

    source: str
    episodes: np.ndarray
    found: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FeatureFacts:
    """A column of numbers. labels: a name for each of its D numbers; moments: of each episode; total: of all."""

    name: str
    labels: tuple[str, ...]
    moments: Moments
    total: Statistics


@dataclass(frozen=True)
class Outlier:
    """An episode in which a feature is unlike that of most. ``factor``: by how much, to rank them."""

    episode: int
    feature: str
    text: str
    factor: float


@dataclass(frozen=True)
class Facts:
    """Of one version; 0 is a dataset that no run has made, of which ``made`` says what it is.

    ids, rows, splits: of each of E episodes; numbers: their ``episode_index`` ``[E]``
    rate:     of the timeline; None: it has the stamps of a source
    valid:    by feature the share of valid rows, float64 ``[E]``, NaN where that is not known
    kept:     share of the recordings that the timelines kept, ``[E]``
    findings: (id, quality record) of each episode
    report:   how the run that made it went; empty where the last run made another version
    """

    uri: str
    version: int
    made: str
    rate: Fraction | None
    size: int
    numbers: np.ndarray
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    rows: np.ndarray
    kept: np.ndarray
    valid: Mapping[str, np.ndarray]
    quality: tuple[Mapping[str, Any], ...]
    streams: tuple[StreamFacts, ...]
    features: tuple[FeatureFacts, ...]
    quarantine: tuple[QuarantineRecord, ...]
    report: Mapping[str, Any]

    @classmethod
    def of(cls, output: Output) -> Facts:
        """``OutputError`` where something of it cannot be read."""
        table = output.episodes
        quality = tuple(json.loads(text or "{}") for text in table["quality"].to_pylist())
        names = dict.fromkeys(name for q in quality for name in q.get("valid", ()))
        valid = {n: np.array([q.get("valid", {}).get(n, np.nan) for q in quality], np.float64) for n in names}
        try:
            report = output.report
        except (OutputError, FileNotFoundError):  # a run is at work, or none has ended well
            report = {}
        return cls(
            output.uri,
            output.version.number,
            output.version.made,
            output.rate,
            output.version.size,
            table["episode_index"].to_numpy(),
            tuple(table["id"].to_pylist()),
            tuple(name or "" for name in table["split"].to_pylist()),
            table["rows"].to_numpy(),
            np.array([q.get("kept", np.nan) for q in quality], np.float64),
            valid,
            quality,
            _streams(table),
            _features(output),
            output.quarantine,
            report if report.get("version") == output.version.number else {},
        )

    @property
    def seconds(self) -> np.ndarray:
        """How long each episode is, ``[E]``; NaN where there is no rate."""
        return self.rows / float(self.rate) if self.rate is not None else np.full(len(self.rows), np.nan)


def _streams(table: pa.Table) -> tuple[StreamFacts, ...]:
    column = table["streams"].combine_chunks()
    place = np.repeat(np.arange(table.num_rows), column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    flat = column.flatten()
    sources = flat.field("source").to_numpy(zero_copy_only=False)
    out = []
    for source in dict.fromkeys(sources.tolist()):
        mine = sources == source
        fields = {f.name: flat.field(f.name).to_numpy(zero_copy_only=False)[mine] for f in flat.type}
        del fields["source"]
        out.append(StreamFacts(source, place[mine], fields))
    return tuple(out)


def _features(output: Output) -> tuple[FeatureFacts, ...]:
    each: dict[str, list[Moments]] = {}
    total: dict[str, Statistics] = {}
    try:
        for data in output.part_statistics():
            found, together = statistics.moments(data)
            total = statistics.merged([total, together])
            for name, moments in found.items():
                each.setdefault(name, []).append(moments)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{output.uri}: the statistics of a part cannot be read ({error}); `robocache verify` says what is damaged"
        ) from error
    out = []
    for name in output.schema.names:
        if name in each:
            merged = Moments(*(np.concatenate([getattr(m, f) for m in each[name]]) for f in Moments.__annotations__))
            out.append(FeatureFacts(name, labels(output.schema.field(name), merged.mean.shape[1]), merged, total[name]))
    return tuple(out)


def labels(field: pa.Field, count: int) -> tuple[str, ...]:
    """What each number of a column is called, as far as its schema says; else which it is."""
    try:
        names = json.loads((field.metadata or {}).get(b"names", b"[]"))
    except ValueError:  # written by others
        names = []
    return tuple(map(str, names)) if isinstance(names, list) and len(names) == count else tuple(map(str, range(count)))


def outliers(feature: FeatureFacts) -> list[Outlier]:
    """Episodes whose numbers spread, or lie, unlike those of most."""
    m = feature.moments
    if len(m.episodes) < ENOUGH:
        return []
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that no episode has, or that never move
        typical = np.nanmedian(np.where(m.std > 0, m.std, np.nan), axis=0)
        centre = np.nanmedian(m.mean, axis=0)
        around = np.nanmedian(np.abs(m.mean - centre), axis=0) * 1.4826
        wide = m.std / typical
        away = np.abs(m.mean - centre) / np.fmax(typical, around)
    out = []
    for row in np.flatnonzero(np.nanmax(np.fmax(wide, away), axis=1, initial=0) > 1):
        if found := _unlike(feature, wide[row], away[row]):
            out.append(Outlier(int(m.episodes[row]), feature.name, *found))
    narrow = np.median(np.where(wide > 0, wide, 1.0), axis=1)
    for row in np.flatnonzero(narrow < 1 / FACTOR):
        if hint := _unit(float(narrow[row])):
            text = f"spreads {1 / narrow[row]:.0f} times less than in most episodes: {hint}"
            out.append(Outlier(int(m.episodes[row]), feature.name, text, float(1 / narrow[row])))
    return out


def _unlike(feature: FeatureFacts, wide: np.ndarray, away: np.ndarray) -> tuple[str, float] | None:
    spread, moved = np.flatnonzero(wide > FACTOR), np.flatnonzero(away > FACTOR)
    if len(spread):
        factor = float(np.median(wide[spread]))
        told = f"spreads {factor:.3g} times as wide as in most episodes{_hinted(factor)}"
        return f"{_named(feature, spread)} {told}", factor
    if len(moved):
        worst = int(moved[np.argmax(away[moved])])
        return f"{_named(feature, moved)} lies {away[worst]:.3g} spreads away from where it is in most", float(
            away[worst]
        )
    return None


def _hinted(factor: float) -> str:
    hint = _unit(factor)
    return f": {hint}" if hint else ""


def _unit(factor: float) -> str:
    return next((hint for unit, hint in _UNITS.items() if abs(np.log(factor / unit)) < _NEAR), "")


def _named(feature: FeatureFacts, numbers: Sequence[int] | np.ndarray) -> str:
    if len(numbers) == len(feature.labels):
        return "each of its numbers" if len(numbers) > 1 else "it"
    shown = ", ".join(feature.labels[k] for k in numbers[:6])
    return f"{shown} and {len(numbers) - 6} more" if len(numbers) > 6 else shown
