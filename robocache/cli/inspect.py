"""``robocache inspect``: the streams of recordings and how steady each one's clock is, or an output's columns and what
its episodes were made of. What is found is plain dataclasses; they are drawn as tables, or printed as JSON.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from robocache.cli import terminal
from robocache.cli.clouds import InspectedCloud, inspect_clouds, render_clouds
from robocache.cli.overview import LEGEND, StreamOverview, contents_of, overview, render_overview
from robocache.cli.terminal import cell, grid, heading
from robocache.cli.values import Values, read_values, render_values
from robocache.engine.clean import GAP_FACTOR, order_of, repeated
from robocache.errors import InputError

if TYPE_CHECKING:
    from robocache.config.job import Job
    from robocache.formats import InputSpec, Listing
    from robocache.types import EpisodeRef, PassedOver, StreamInfo


#: Recordings that are looked at where nobody says how many: as many as hold this much, and these at least.
_MOST_BYTES, _LEAST = 1_000_000_000, 5
_LEGEND = f"jitter: standard deviation of the steps; p99: 99 % of them exceed the median by no more; {LEGEND}"


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """The clock of one stream. Steps are between consecutive distinct stamps in time order, in nanoseconds.

    samples:      stamps, repeated ones included
    start, span:  first stamp and how long after it the last one is (0 where there are none)
    step:         median step; None below two distinct stamps, as is all that follows from it
    step_std:     standard deviation of the steps, gaps included
    step_p99:     how far the 99th percentile of the steps lies above their median
    gaps:         steps longer than ``GAP_FACTOR`` times the median
    longest_gap:  the longest of these, 0 where there are none
    duplicates:   samples that repeat a stamp (of which the last one counts)
    late:         samples recorded after one of a later stamp; late_by: by how much at most
    """

    samples: int
    start: int = 0
    span: int = 0
    step: float | None = None
    step_std: float | None = None
    step_p99: float | None = None
    gaps: int = 0
    longest_gap: int = 0
    duplicates: int = 0
    late: int = 0
    late_by: int = 0

    @property
    def rate_hz(self) -> float | None:
        """Samples a second going by the median step, which gaps do not move."""
        return None if self.step is None else 1e9 / self.step


@dataclass(frozen=True, slots=True)
class InspectedStream:
    """One stream: what a config may name of it (see :class:`robocache.types.StreamInfo`), and its clock.

    failure: why its values cannot be read; empty where they can
    values:  by source path of its numbers; None where none were read
    """

    source: str
    type: str
    fields: tuple[tuple[str, str], ...]
    clock: StreamStatistics
    failure: str = ""
    values: Mapping[str, Values] | None = None


@dataclass(frozen=True, slots=True)
class InspectedEpisode:
    """One recording: its streams, or why it cannot be read. ``clouds``: what they hold, where values were read."""

    id: str
    format: str
    bytes: int
    streams: tuple[InspectedStream, ...] = ()
    failure: str = ""
    clouds: tuple[InspectedCloud, ...] = ()


@dataclass(frozen=True, slots=True)
class InspectedRecordings:
    """``episodes`` of the ``of_episodes`` that there are, and their ``streams`` together; ``passed_over``: files that
    no reader takes.
    """

    of_episodes: int
    streams: tuple[StreamOverview, ...]
    episodes: tuple[InspectedEpisode, ...]
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True, slots=True)
class InspectedColumn:
    """A column of an output. ``valid``: the share of its rows that is, None where it has no such mark."""

    name: str
    type: str
    valid: float | None


@dataclass(frozen=True, slots=True)
class InspectedOutput:
    """An output as a whole."""

    uri: str
    episodes: int
    quarantined: int
    rows: int
    columns: tuple[InspectedColumn, ...]


@dataclass(frozen=True, slots=True)
class InspectedOutputEpisode:
    """An episode of an output, as its episode table has it (``streams``: what was found in each), or why it is not
    there.
    """

    id: str
    quarantined: str = ""
    episode_index: int | None = None
    rows: int = 0
    part: str = ""
    streams: tuple[Mapping[str, Any], ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="file, glob or folder of recordings; or an output folder")
    parser.add_argument("--limit", type=int, help="recordings to look at (default: as many as 1 GB, 5 at least)")
    parser.add_argument("--episode", metavar="ID", help="show this one, and how many of its samples hold NaN")
    add_reading(parser)
    bounds = "tell how many points of a cloud are within its bounds; its input says how recordings are read"
    parser.add_argument("--config", metavar="PATH", help=bounds)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How recordings are read, as far as it is said on the command line; see :func:`reading`."""
    by = "tables: each file is an episode (default), or each folder"
    parser.add_argument("--episode-by", choices=("file", "folder"), default="file", help=by)
    parser.add_argument("--format", default="auto", help="reader, where the suffix does not tell")
    parser.add_argument("--time-column", metavar="PATH", help="time column of tables, e.g. timestamp")
    parser.add_argument("--time-unit", choices=("ns", "us", "ms", "s"), default="s", help="its unit (default: s)")
    parser.add_argument("--rate-hz", type=float, help="rate of tables without time")
    parser.add_argument("--stamp", choices=("header", "log"), default="header", help="which time messages have")


def reading(args: argparse.Namespace, uris: tuple[str, ...]) -> InputSpec:
    """The input that a command line names."""
    from robocache.formats import InputSpec, TableTimes

    times = None
    if args.time_column or args.rate_hz:
        times = TableTimes(args.time_column, args.time_unit, args.rate_hz)
    return InputSpec(uris, format=args.format, episode=args.episode_by, times=times, stamp=args.stamp)


def run(args: argparse.Namespace) -> bool:
    if is_output(args.uri):
        if args.episode is None:
            output = inspect_output(args.uri)
            terminal.document(output) if args.json else terminal.show(render_output(output))
        else:
            episode = inspect_output_episode(args.uri, args.episode)
            terminal.document(episode) if args.json else terminal.show(render_output_episode(episode))
        return True
    return _run_recordings(args)


def _run_recordings(args: argparse.Namespace) -> bool:
    from robocache.formats import describe_passed

    spec, job = reading(args, (args.uri,)), None
    if args.config is not None:
        from robocache.config.load import load_job

        job = load_job(args.config)
        spec = replace(job.input, uri=(args.uri,))
    if args.episode is not None:
        count, passed, episodes = 1, [], iter([inspect_recording(spec, args.episode, job)])
    else:
        listing, episodes = inspect_recordings(spec, args.limit, job)
        count, passed = len(listing.episodes), listing.passed_over
    seen = list(episodes)
    if args.json:
        terminal.document(InspectedRecordings(count, overview(seen), tuple(seen), tuple(passed)))
        return not any(episode.failure for episode in seen)
    terminal.show(render_episode(seen[0]) if len(seen) == 1 else render_overview(seen, count))
    if count > len(seen):
        terminal.say(f"... and {count - len(seen)} more; --limit {count} looks at all")
    if passed:
        terminal.say(describe_passed(passed))
    return not any(episode.failure for episode in seen)


def stream_statistics(times: np.ndarray) -> StreamStatistics:
    """Statistics of stamps ``times`` (int64 nanoseconds ``[n]``, in recorded order)."""
    if not len(times):
        return StreamStatistics(samples=0)
    order = order_of(times)
    times = order.sorted
    steps = np.diff(times)
    steps = steps[steps > 0]
    first, last = int(times[0]), int(times[-1])
    plain = StreamStatistics(
        samples=len(times),
        start=first,
        span=last - first,
        duplicates=repeated(times),
        late=int(np.count_nonzero(order.late)),
        late_by=max(order.late_by, default=0),
    )
    if not len(steps):
        return plain
    median, p99 = np.percentile(steps, [50, 99])
    gaps = steps[steps > GAP_FACTOR * median]
    return replace(
        plain,
        step=float(median),
        step_std=float(steps.std()),
        step_p99=float(p99 - median),
        gaps=len(gaps),
        longest_gap=int(gaps.max(initial=0)),
    )


def inspect_recordings(
    spec: InputSpec, limit: int | None = None, job: Job | None = None
) -> tuple[Listing, Iterator[InspectedEpisode]]:
    """What there is, and the first ``limit`` of them, each read when it is asked for; of a single one the values too.
    ``job``: whose bounds its clouds are held against.

    Raises :class:`InputError` where the input matches nothing; an episode that cannot be read carries its failure.
    """
    from robocache.formats import list_input

    listing = list_input(spec)
    refs = listing.episodes
    if limit is None:
        limit = max(_LEAST, sum(total <= _MOST_BYTES for total in accumulate(ref.nbytes for ref in refs)))
    return listing, (inspect_episode(ref, spec, job, values=len(refs) == 1) for ref in islice(refs, limit))


def inspect_recording(spec: InputSpec, id: str, job: Job | None = None) -> InspectedEpisode:
    """The episode of that id, values included. ``ConfigError`` where there is none."""
    from robocache.config.reading import known_episode
    from robocache.formats import list_episodes

    refs = {ref.id: ref for ref in list_episodes(spec)}
    return inspect_episode(refs[known_episode(id, list(refs))], spec, job, values=True)


def inspect_episode(ref: EpisodeRef, spec: InputSpec, job: Job | None = None, *, values: bool) -> InspectedEpisode:
    from robocache.formats import list_streams

    size = sum(file.size for file in ref.files)
    try:
        infos = list_streams(ref, spec)
    except InputError as error:
        return InspectedEpisode(ref.id, ref.format, size, failure=str(error))
    clocks: dict[int, StreamStatistics] = {}  # the columns of a table share one array of times
    for info in infos:
        if id(info.times) not in clocks:
            clocks[id(info.times)] = stream_statistics(info.times)
    found = read_values(ref, [path for info in infos for path in _numbers(info)], spec) if values else None
    streams = []
    for info in infos:
        own = None if found is None else {path: found[path] for path in _numbers(info) if path in found}
        clock = clocks[id(info.times)]
        streams.append(InspectedStream(info.source, info.type, info.fields, clock, info.failure, own))
    clouds = inspect_clouds(ref, infos, spec, job) if values else ()
    return InspectedEpisode(ref.id, ref.format, size, tuple(streams), clouds=clouds)


def _numbers(info: StreamInfo) -> list[str]:
    """Source paths of a stream's numbers: its fields', or its own where it has none, or only names of its columns."""
    if info.failure:
        return []
    fields = [(name, type) for name, type in info.fields if not name.startswith("[")]
    paths = [(f"{info.source}.{name}", type) for name, type in fields] or [(info.source, info.type)]
    # uint8[] is how messages hold images and clouds: a payload.
    return [path for path, type in paths if re.match(r"float|u?int|bool|null", type) and type != "uint8[]"]


def render_episode(episode: InspectedEpisode) -> RenderableType:
    """A heading, the streams' clocks, and what each stream contains, fields named as a source path would; where values
    were read, their range."""
    title = heading(episode.id, f"  {episode.format}  {decimal(episode.bytes)}")
    if episode.failure:
        return Group(title, cell(f"cannot be read: {episode.failure}", "red"))
    clocks = grid("samples", "span", "rate", "jitter", "p99", "gaps", "longest", "dups", "late", folded="stream")
    contents = grid(folded="stream")
    contents.add_column("contents")
    values: dict[str, Values] = {}
    for stream in episode.streams:
        clocks.add_row(cell(stream.source), *_cells(stream.clock))
        contents.add_row(cell(stream.source), contents_of(stream.type, stream.fields, stream.failure))
        values |= stream.values or {}
    parts: list[RenderableType] = [title, clocks, Text(_LEGEND, style="dim"), Text(), contents]
    if values:
        parts += [Text(), render_values(values)]
    if episode.clouds:
        parts += [Text(), render_clouds(episode.clouds)]
    return Group(*parts)


def _cells(found: StreamStatistics) -> list[Text]:
    clock = [
        f"{found.samples:,}",
        _duration(found.span),
        "-" if found.rate_hz is None else f"{found.rate_hz:.2f} Hz",
        _duration(found.step_std),
        _duration(found.step_p99),
    ]
    faults = [
        (found.gaps, f"{found.gaps:,}"),
        (found.longest_gap, _duration(found.longest_gap)),
        (found.duplicates, f"{found.duplicates:,}"),
        (found.late, f"{found.late:,}"),
    ]
    return [*map(Text, clock), *_marks(faults)]


def _marks(faults: Sequence[tuple[int, str]]) -> list[Text]:
    """Faults by their count and text; a dash where there is none."""
    return [Text(text, style="yellow") if count else Text("-", style="dim") for count, text in faults]


def _duration(nanoseconds: float | None) -> str:
    if nanoseconds is None:
        return "-"
    units = (("s", 1e9), ("ms", 1e6), ("us", 1e3))
    unit, scale = next(((u, s) for u, s in units if nanoseconds >= s), ("ns", 1.0))
    return f"{nanoseconds / scale:.4g} {unit}"


def is_output(uri: str) -> bool:
    """True for a folder that ``robocache run`` wrote."""
    from robocache.output.store import Store
    from robocache.output.version import list_versions

    return bool(list_versions(Store(uri)).newest)


def inspect_output(uri: str) -> InspectedOutput:
    """Columns of an output and how much of each is valid, from its episode table and its parts. ``OutputError``."""
    from robocache.output.dataset import Output
    from robocache.output.schema import marks

    output = Output.open(uri)
    types, mark_of = {field.name: str(field.type) for field in output.schema}, marks(output.schema)
    valid: Counter[str] = Counter()
    rows = 0
    for part in output.parts:
        table = output.table(part, list(mark_of.values()))
        rows += table.num_rows
        for column in table.column_names:
            valid[column] += sum(chunk.true_count for chunk in table[column].chunks)
    columns = tuple(
        InspectedColumn(name, type, valid[mark_of[name]] / max(rows, 1) if name in mark_of else None)
        for name, type in types.items()
        if name not in mark_of.values()
    )
    return InspectedOutput(uri, output.episodes.num_rows, len(output.quarantine), rows, columns)


def render_output(output: InspectedOutput) -> RenderableType:
    """Its columns as a table."""
    title = cell(f"{output.uri}: {output.episodes} episodes, {output.quarantined} quarantined")
    table = Table(title=title, title_justify="left")
    table.add_column("column", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("valid", justify="right")
    for column in output.columns:
        table.add_row(cell(column.name), cell(column.type), "" if column.valid is None else f"{column.valid:.1%}")
    if output.columns:
        table.caption = f"{output.rows:,} rows"
    return table


def inspect_output_episode(uri: str, id: str) -> InspectedOutputEpisode:
    """What a run found in one episode of an output and made of it, or why it is in the quarantine.

    ``ConfigError`` where the output has no such episode, ``OutputError`` where it is damaged.
    """
    from robocache.config.reading import known_episode
    from robocache.output.dataset import Output

    output = Output.open(uri)
    episodes, reasons = output.episodes, {q.id: q.reason for q in output.quarantine}
    ids = episodes["id"].to_pylist()
    known_episode(id, [*ids, *reasons])
    if id in reasons:
        return InspectedOutputEpisode(id, quarantined=reasons[id])
    (row,) = episodes.slice(ids.index(id), 1).to_pylist()
    kept = {key: row[key] for key in ("episode_index", "rows", "part")}
    return InspectedOutputEpisode(id, streams=tuple(row["streams"]), **kept)


def render_output_episode(episode: InspectedOutputEpisode) -> RenderableType:
    """A heading, and what was found in each stream."""
    if episode.quarantined:
        return Group(heading(episode.id), cell(f"quarantined: {episode.quarantined}", "red"))
    title = heading(episode.id, f"  episode {episode.episode_index}, {episode.rows:,} rows, {episode.part}")
    streams = grid("samples", "gaps", "longest", "dups", "late", "NaN", "valid", folded="stream")
    for s in episode.streams:
        counts = [s["duplicates"], s["late"], s["non_finite"]]
        faults = [
            (s["gaps"], f"{s['gaps']:,}"),
            (s["gaps"], _duration(s["longest_gap"])),
            *((n, f"{n:,}") for n in counts),
        ]
        streams.add_row(cell(s["source"]), f"{s['samples']:,}", *_marks(faults), f"{s['valid_share']:.1%}")
    return Group(title, streams)
