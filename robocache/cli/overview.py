"""Many recordings as one: which streams they have, how many have each, and between which values it varies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.text import Text

from robocache.cli.terminal import cell, grid, heading, shown
from robocache.engine.clean import GAP_FACTOR

if TYPE_CHECKING:
    from robocache.cli.inspect import InspectedEpisode, InspectedStream

_SHOWN = 10
#: What the columns say.
LEGEND = f"rate: by the median step; gaps: steps of more than {GAP_FACTOR} medians; late: came behind a later stamp"


@dataclass(frozen=True, slots=True)
class StreamOverview:
    """One stream in all recordings that have it.

    type, fields: as most of them have it; types: in how many of them it is of which type
    recordings:   how many have it
    samples, rate_hz: the least and the most in one recording; rate_hz None where none has two stamps
    gaps, duplicates, late: in all of them together; faulty: recordings that have one of these
    failure:      why its values cannot be read, in the first where they cannot
    """

    source: str
    type: str
    fields: tuple[tuple[str, str], ...]
    types: dict[str, int]
    recordings: int
    samples: tuple[int, int]
    rate_hz: tuple[float, float] | None
    gaps: int
    duplicates: int
    late: int
    faulty: int
    failure: str = ""


def overview(episodes: Sequence[InspectedEpisode]) -> tuple[StreamOverview, ...]:
    """Of every stream that a recording has, in the order in which they are met."""
    found: dict[str, list[InspectedStream]] = {}
    for episode in episodes:
        for stream in episode.streams:
            found.setdefault(stream.source, []).append(stream)
    return tuple(_overview(source, streams) for source, streams in found.items())


def _overview(source: str, streams: Sequence[InspectedStream]) -> StreamOverview:
    types = Counter(stream.type for stream in streams)
    usual = next(stream for stream in streams if stream.type == types.most_common(1)[0][0])
    clocks = [stream.clock for stream in streams]
    rates = [clock.rate_hz for clock in clocks if clock.rate_hz is not None]
    samples = [clock.samples for clock in clocks]
    return StreamOverview(
        source,
        usual.type,
        usual.fields,
        dict(types),
        len(streams),
        (min(samples), max(samples)),
        (min(rates), max(rates)) if rates else None,
        sum(clock.gaps for clock in clocks),
        sum(clock.duplicates for clock in clocks),
        sum(clock.late for clock in clocks),
        sum(bool(clock.gaps or clock.duplicates or clock.late) for clock in clocks),
        next((stream.failure for stream in streams if stream.failure), ""),
    )


def render_overview(episodes: Sequence[InspectedEpisode], of_episodes: int) -> RenderableType:
    """The recordings, those that cannot be read with the reason, and their streams."""
    size = sum(episode.bytes for episode in episodes)
    formats = ", ".join(sorted({episode.format for episode in episodes if episode.format}))
    more = "" if of_episodes == len(episodes) else f" of {of_episodes:,}"
    parts: list[RenderableType] = [heading(f"{len(episodes):,}{more} recordings", f"  {formats}  {decimal(size)}")]
    table = grid("length", "size", folded="recording")
    good = [episode for episode in episodes if not episode.failure]
    for episode in good[:_SHOWN]:
        spans = [(s.clock.start, s.clock.start + s.clock.span) for s in episode.streams if s.clock.samples]
        seconds = (max(stop for _, stop in spans) - min(start for start, _ in spans)) / 1e9 if spans else 0.0
        table.add_row(cell(episode.id), f"{seconds:,.2f} s", decimal(episode.bytes))
    if len(good) > _SHOWN:
        table.add_row(Text(f"... and {len(good) - _SHOWN:,} more", style="dim"), "", "")
    parts += [table] if good else []
    failed = [episode for episode in episodes if episode.failure]
    for episode in failed[:_SHOWN]:
        parts += [heading(episode.id), cell(f"cannot be read: {episode.failure}", "red")]
    if len(failed) > _SHOWN:
        parts.append(Text(f"... and {len(failed) - _SHOWN:,} more that cannot be read", style="red"))
    return Group(*parts, Text(), *_streams(overview(episodes), len(good)))


def _streams(found: Sequence[StreamOverview], recordings: int) -> list[RenderableType]:
    clocks = grid("in", "samples", "rate", "gaps", "dups", "late", folded="stream")
    contents = grid(folded="stream")
    contents.add_column("contents")
    for s in found:
        few = "yellow" if s.recordings < recordings else ""
        rate = "-" if s.rate_hz is None else f"{_span(*(f'{hz:.2f}' for hz in s.rate_hz))} Hz"
        faults = (
            Text(f"{n:,}", style="yellow") if n else Text("-", style="dim") for n in (s.gaps, s.duplicates, s.late)
        )
        samples = _span(*(f"{n:,}" for n in s.samples))
        clocks.add_row(cell(s.source), Text(f"{s.recordings:,}", style=few), samples, rate, *faults)
        types = [s.type] if len(s.types) == 1 else [f"{type} in {n:,}" for type, n in s.types.items()]
        contents.add_row(cell(s.source), contents_of(", ".join(types), s.fields, s.failure))
    return [clocks, Text(LEGEND, style="dim"), Text(), contents]


def contents_of(type: str, fields: Sequence[tuple[str, str]], failure: str) -> Text:
    """What a stream holds, fields of one kind together: ``sensor: x, y float64; count int32``."""
    same: list[tuple[str, list[str]]] = []
    for name, kind in fields:
        if same and same[-1][0] == kind:
            same[-1][1].append(name)
        else:
            same.append((kind, [name]))
    told = "; ".join(f"{', '.join(names)}\N{NO-BREAK SPACE}{kind}" for kind, names in same)
    text = Text.assemble(shown(type), (shown(f": {told}") if told else "", "dim"))
    return text.append(f"; {shown(failure)}", "yellow") if failure else text


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
