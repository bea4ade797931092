"""What ``robocache inspect`` shows of recordings: their streams, and how steady each one's clock is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.dataset import dataset
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from robocache.config.schema import did_you_mean
from robocache.engine.clean import clean
from robocache.errors import ConfigError, InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode
from robocache.output.store import Store
from robocache.output.tables import EPISODES, QUARANTINE
from robocache.types import EpisodeRef, StreamInfo

#: A step this many times the median is a gap.
GAP_FACTOR = 3


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
    out_of_order: samples recorded after one of a later stamp
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
    out_of_order: int = 0

    @property
    def rate_hz(self) -> float | None:
        """Samples a second going by the median step, which gaps do not move."""
        return None if self.step is None else 1e9 / self.step


@dataclass(frozen=True, slots=True)
class InspectedEpisode:
    """One recording: its streams with their statistics, or why it cannot be read.

    non_finite: where values were read, by source path of each stream of numbers: samples with NaN or infinity in them,
                which a run drops
    """

    ref: EpisodeRef
    streams: tuple[tuple[StreamInfo, StreamStatistics], ...] = ()
    non_finite: Mapping[str, int] | None = None
    failure: str = ""


def stream_statistics(times: np.ndarray) -> StreamStatistics:
    """Statistics of stamps ``times`` (int64 nanoseconds ``[n]``, in recorded order)."""
    if not len(times):
        return StreamStatistics(samples=0)
    late = times < np.maximum.accumulate(times)
    out_of_order = int(np.count_nonzero(late))
    steps = np.diff(np.sort(times) if out_of_order else times)
    steps = steps[steps > 0]
    first, last = int(times.min()), int(times.max())
    plain = StreamStatistics(
        samples=len(times),
        start=first,
        span=last - first,
        duplicates=len(times) - 1 - len(steps),
        out_of_order=out_of_order,
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


def inspect_recordings(spec: InputSpec, limit: int | None = None) -> tuple[int, Iterator[InspectedEpisode]]:
    """How many episodes there are, and the first ``limit`` of them, each read when it is asked for; of a single one
    the values too.

    Raises :class:`InputError` where the input matches nothing; an episode that cannot be read carries its failure.
    """
    refs = list_episodes(spec)
    return len(refs), (_inspect(ref, spec, values=len(refs) == 1) for ref in islice(refs, limit))


def inspect_recording(spec: InputSpec, id: str) -> InspectedEpisode:
    """The episode of that id, values included. ``ConfigError`` where there is none."""
    refs = {ref.id: ref for ref in list_episodes(spec)}
    return _inspect(refs[_known(id, list(refs))], spec, values=True)


def _known(id: str, ids: Sequence[str]) -> str:
    if id not in ids:
        close = did_you_mean(id, list(ids))
        raise ConfigError([f"--episode: {id!r} is none of {len(ids)} episodes; {close}the first is {ids[0]!r}"])
    return id


def _inspect(ref: EpisodeRef, spec: InputSpec, *, values: bool) -> InspectedEpisode:
    try:
        infos = list_streams(ref, spec)
    except InputError as error:
        return InspectedEpisode(ref, failure=str(error))
    known: dict[int, StreamStatistics] = {}  # the columns of a table share one array of times
    for info in infos:
        if id(info.times) not in known:
            known[id(info.times)] = stream_statistics(info.times)
    non_finite = _non_finite(ref, [path for info in infos for path in _numbers(info)], spec) if values else None
    return InspectedEpisode(ref, tuple((info, known[id(info.times)]) for info in infos), non_finite)


def _numbers(info: StreamInfo) -> list[str]:
    """Source paths of a stream's numbers: its fields', or its own where it has none, or only names of its columns."""
    fields = [(name, type) for name, type in info.fields if not name.startswith("[")]
    paths = [(f"{info.source}.{name}", type) for name, type in fields] or [(info.source, info.type)]
    # uint8[] is how messages hold images and clouds: a payload.
    return [path for path, type in paths if re.match(r"float|u?int|bool|null", type) and type != "uint8[]"]


def _non_finite(ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> dict[str, int]:
    """Read in one go; where that fails by halves, so that what cannot be read hides nothing else."""
    try:
        streams = read_episode(ref, sources, spec).streams
    except InputError:
        if len(sources) < 2:
            return {}
        half = len(sources) // 2
        return _non_finite(ref, sources[:half], spec) | _non_finite(ref, sources[half:], spec)
    return {source: clean(source, stream, None)[1].non_finite for source, stream in streams.items()}


def render_episode(episode: InspectedEpisode) -> RenderableType:
    """A heading, the streams' clocks, and what each stream contains, fields named as a source path would; where values
    were read, how many samples of which have NaN or infinity."""
    size = sum(file.size for file in episode.ref.files)
    heading = Text.assemble((episode.ref.id, "bold"), f"  {episode.ref.format}  {decimal(size)}")
    if episode.failure:
        return Group(heading, Text(f"cannot be read: {episode.failure}", style="red"))
    clocks = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    clocks.add_column("stream", overflow="fold", min_width=8)
    for name in ("samples", "span", "rate", "jitter", "p99", "gaps", "longest", "dups", "late"):
        clocks.add_column(name, justify="right", no_wrap=True)
    contents = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    contents.add_column("stream", overflow="fold", min_width=8)
    if episode.non_finite is not None:
        contents.add_column("NaN", overflow="fold", max_width=40)
    contents.add_column("contents")
    for info, found in episode.streams:
        clocks.add_row(Text(info.source), *_cells(found))
        values = [] if episode.non_finite is None else [_faulty(info, episode.non_finite)]
        contents.add_row(Text(info.source), *values, Text.assemble(info.type, (_fields(info), "dim")))
    return Group(heading, clocks, Text(), contents)


def _faulty(info: StreamInfo, non_finite: Mapping[str, int]) -> Text:
    """How many samples of a stream, or of which of its fields, are not finite; empty where none could be read."""
    counts = {path: non_finite[path] for path in _numbers(info) if path in non_finite}
    lines = [f"{n:,} {path.removeprefix(info.source).lstrip('.')}".strip() for path, n in counts.items() if n]
    return _marks([(len(lines), "\n".join(lines))])[0] if counts else Text()


def _fields(info: StreamInfo) -> str:
    """The fields behind a colon, those of one kind together: ``: x, y float64; count int32``."""
    kinds = groupby(info.fields, key=lambda field: field[1])
    same = [f"{', '.join(name for name, _ in group)}\N{NO-BREAK SPACE}{kind}" for kind, group in kinds]
    return f": {'; '.join(same)}" if same else ""


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
        (found.out_of_order, f"{found.out_of_order:,}"),
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
    return Store(uri).exists(EPISODES)


def render_output(uri: str) -> RenderableType:
    """Columns of an output and how much of each is valid, from its episode table and a part's schema."""
    store = Store(uri)
    episodes = pq.read_table(pa.BufferReader(store.read(EPISODES)))
    quarantined = store.read(QUARANTINE).splitlines()
    table = Table(title=f"{uri}: {episodes.num_rows} episodes, {len(quarantined)} quarantined", title_justify="left")
    table.add_column("column", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("valid", justify="right")
    parts = [p for p in pc.unique(episodes["part"]).to_pylist() if p]
    if not parts:
        return table
    data = dataset(
        [store.path(p) for p in parts],
        format="ipc" if parts[0].endswith(".arrow") else "parquet",
        filesystem=store.fs,
    )
    rows = data.count_rows()
    for field in data.schema:
        if not field.name.endswith(".valid"):
            share = ""
            if f"{field.name}.valid" in data.schema.names:
                valid = data.to_table([f"{field.name}.valid"]).column(0)
                share = f"{pc.sum(valid).as_py() / max(rows, 1):.1%}"
            table.add_row(field.name, str(field.type), share)
    table.caption = f"{rows:,} rows"
    return table


def render_output_episode(uri: str, id: str) -> RenderableType:
    """What a run found in one episode of an output and made of it, or why it is in the quarantine.

    ``ConfigError`` where the output has no such episode.
    """
    store = Store(uri)
    table = pq.read_table(pa.BufferReader(store.read(EPISODES)))
    reasons = {q["id"]: q["reason"] for q in map(json.loads, store.read(QUARANTINE).splitlines())}
    _known(id, [*table["id"].to_pylist(), *reasons])
    if id in reasons:
        return Group(Text(id, "bold"), Text(f"quarantined: {reasons[id]}", style="red"))
    (episode,) = table.filter(pc.equal(table["id"], id)).to_pylist()
    heading = f"  episode {episode['episode_index']}, {episode['rows']:,} rows, {episode['part']}"
    streams = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    streams.add_column("stream", overflow="fold", min_width=8)
    for name in ("samples", "gaps", "longest", "dups", "late", "NaN", "valid"):
        streams.add_column(name, justify="right", no_wrap=True)
    for s in episode["streams"]:
        counts = [s["duplicates"], s["out_of_order"], s["non_finite"]]
        faults = [
            (s["gaps"], f"{s['gaps']:,}"),
            (s["gaps"], _duration(s["longest_gap"])),
            *((n, f"{n:,}") for n in counts),
        ]
        streams.add_row(Text(s["source"]), f"{s['samples']:,}", *_marks(faults), f"{s['valid_share']:.1%}")
    return Group(Text.assemble((id, "bold"), heading), streams)
