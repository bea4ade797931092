"""Clouds as ``robocache inspect`` shows them: their fields, how many points, where they are, what a config keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from robocache.cli.terminal import cell, grid, shown
from robocache.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from robocache.config.job import Job
    from robocache.formats import InputSpec
    from robocache.types import EpisodeRef, StreamInfo

#: Clouds of a stream that are decoded, spread over the recording.
LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class InspectedCloud:
    """The clouds of a stream.

    source:     path that a config would use
    clouds:     how many there are; looked_at: of how many the rest is told
    fields:     of every point, each with its type
    points:     of a cloud: the least, the median, the most
    not_finite: share of the points with a NaN or an infinity in their place, 0..1
    lower, upper: of the places that are finite; None where there are none
    within:     where a config is given, by feature the share of the points that its bounds hold
    failure:    why they cannot be read
    """

    source: str
    clouds: int
    looked_at: int = 0
    fields: tuple[str, ...] = ()
    points: tuple[int, int, int] = (0, 0, 0)
    not_finite: float = 0.0
    lower: tuple[float, float, float] | None = None
    upper: tuple[float, float, float] | None = None
    within: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""


def is_cloud(info: StreamInfo) -> bool:
    """Whether a stream, as a reader lists it, is one of clouds."""
    return info.type.endswith(("PointCloud2", " cloud"))


def inspect_clouds(
    ref: EpisodeRef, infos: Sequence[StreamInfo], spec: InputSpec, job: Job | None = None
) -> tuple[InspectedCloud, ...]:
    """The streams of clouds among ``infos``; ``job``: whose bounds to hold them against."""
    return tuple(_inspect(ref, info, spec, job) for info in infos if is_cloud(info))


def _inspect(ref: EpisodeRef, info: StreamInfo, spec: InputSpec, job: Job | None) -> InspectedCloud:
    from robocache.clouds import decode_cloud, known_fields
    from robocache.formats import read_episode

    count = len(info.times)
    chosen = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(np.int64))
    boxes = _boxes(info.source, job)
    sizes, finite, inside = [0] * len(chosen), 0, dict.fromkeys(boxes, 0)
    lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
    try:
        stream = read_episode(ref, [info.source], spec).streams[info.source]
        fields = tuple(map(str, known_fields(stream.about) or ())) if count else ()
        for k, row in enumerate(chosen.tolist()):
            places = decode_cloud(stream.values[row], stream.about).places()
            sizes[k] = len(places)
            places = places[np.isfinite(places).all(axis=1)]
            finite += len(places)
            lower = np.minimum(lower, places.min(axis=0, initial=np.inf))
            upper = np.maximum(upper, places.max(axis=0, initial=-np.inf))
            for name, (low, high) in boxes.items():
                inside[name] += int(np.count_nonzero(((places >= low) & (places < high)).all(axis=1)))
    except InputError as error:
        return InspectedCloud(info.source, count, failure=str(error))
    total, ordered = sum(sizes), sorted(sizes) or [0]
    return InspectedCloud(
        info.source,
        count,
        len(chosen),
        fields,
        (ordered[0], ordered[len(ordered) // 2], ordered[-1]),
        1 - finite / total if total else 0.0,
        _three(lower) if finite else None,
        _three(upper) if finite else None,
        {name: n / total for name, n in inside.items()} if total else {},
    )


def _boxes(source: str, job: Job | None) -> dict[str, np.ndarray]:
    """The bounds of the features that voxelize these clouds: ``[2, 3]``."""
    from robocache.features.voxelize import Voxelize

    return {
        feature.name: np.array(step.bounds)
        for feature in (job.features if job is not None else ())
        for step in feature.steps
        if isinstance(step, Voxelize) and feature.sources[0].source == source
    }


def _three(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def render_clouds(clouds: Sequence[InspectedCloud]) -> Table:
    """A row a stream: points a cloud, the box that they fill, and what is lost of them."""
    within = any(cloud.within for cloud in clouds)
    table = grid("clouds", "points", "x", "y", "z", "not finite", *(["within"] if within else []), folded="cloud")
    table.add_column("fields")
    for c in clouds:
        if c.failure:
            table.add_row(cell(c.source), f"{c.clouds:,}", cell(f"cannot be read: {c.failure}", "red"))
            continue
        low, middle, high = c.points
        spans = ["-"] * 3
        if c.lower is not None and c.upper is not None:
            spans = [f"{_short(a)} to {_short(b)}" for a, b in zip(c.lower, c.upper, strict=True)]
        lost = Text(f"{c.not_finite:.1%}" if c.not_finite else "-", style="" if c.not_finite else "dim")
        kept = "\n".join(f"{share:.1%} {shown(name)}" for name, share in c.within.items())
        several = f"{c.clouds:,}" if c.looked_at == c.clouds else f"{c.clouds:,} ({c.looked_at} looked at)"
        size = f"{middle:,}" if low == high else f"{low:,} to {high:,}"
        beside = [kept] if within else []
        table.add_row(cell(c.source), several, size, *spans, lost, *beside, shown(", ".join(c.fields)))
    return table


def _short(metres: float) -> str:
    """To the millimetre, without zeros behind."""
    return f"{metres:.3f}".rstrip("0").rstrip(".")
