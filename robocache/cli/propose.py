"""A config made from recordings: each stream that can be a feature as one, aligned as what it is asks for, the others
with the reason; and a timeline. What it suggests is tried on recordings before it is told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any

from robocache.cli.candidates import Candidate, feature_name, of_columns, of_message, of_records
from robocache.cli.guess import Guess, guess
from robocache.cli.inspect import InspectedEpisode, InspectedStream, inspect_episode
from robocache.cli.overview import StreamOverview, overview
from robocache.cli.suit import Suited, suit
from robocache.cli.trial import Trial, described, streams_of
from robocache.errors import ConfigError, InputError
from robocache.formats import InputSpec, describe_passed, list_input
from robocache.formats.registry import READERS
from robocache.output.lerobot.features import INDEX
from robocache.types import EpisodeRef, Stream, StreamType

#: Recordings that are looked at where nobody says how many: as many as hold this much, and these at least.
_MOST_BYTES, _LEAST = 1_000_000_000, 3
#: The values of recordings up to this size are tried; of larger ones the types alone.
_TRIED_BYTES = 1_000_000_000
#: Recordings are of one kind that share at least this much of their streams.
_ALIKE = 0.5
#: Without cameras the rate is that of the fastest stream, up to this.
_MOST_HZ = 50
#: Streams are of one time that begin and end within so many lengths of the recording.
_NEAR = 20
#: A range that keeps less of the recordings is not suggested.
_WORTH = 0.5


#: Types of messages that may be one thing as a whole; what they are is asked of the recording.
_WHOLES = (
    "Image", "RawImage", "CompressedImage", "CompressedVideo", "PointCloud2", "PointCloud",
    "Pose", "Quaternion", "Transform",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """A feature as a config has it: ``mapping`` of its keys, ``note`` behind it. ``reason``: why it is left out."""

    name: str
    mapping: Mapping[str, Any]
    note: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Streams of one clock, and what becomes of them."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Proposal:
    """A config's sections as mappings, with the reasons for keys by their names.

    told: what a person must know, a sentence each
    """

    input: dict[str, Any]
    blocks: tuple[Block, ...]
    timeline: dict[str, Any]
    reasons: dict[str, str]
    told: tuple[str, ...] = ()
    looked: int = 0
    of: int = 0

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Those that are not left out."""
        return {line.name: dict(line.mapping) for block in self.blocks for line in block.lines if not line.reason}


def propose(spec: InputSpec, limit: int | None = None) -> Proposal:
    """The config that recordings suggest. ``InputError`` where nothing matches, or nothing of it can be read;
    ``ConfigError`` where no stream of it can be a feature."""
    found = list_input(spec)
    reasons: dict[str, str] = {}
    told = [describe_passed(found.passed_over)] if found.passed_over else []
    spec, refs, others = _one_format(spec, found.episodes)
    if others:
        reasons["format"] = f"there are {others} too; robocache init --format NAME suggests a config for these"
        told.append(reasons["format"])
    known: Guess = guess(spec, refs)
    reasons |= known.reasons
    if known.spec != spec:
        spec, refs = known.spec, list_input(known.spec).episodes
    if limit is None:
        limit = max(_LEAST, sum(total <= _MOST_BYTES for total in accumulate(ref.nbytes for ref in refs)))
    looked = list(islice(((ref, inspect_episode(ref, spec, values=False)) for ref in refs), limit))
    spec, looked = _stamped(spec, looked, reasons)
    good = [(ref, seen) for ref, seen in looked if not seen.failure]
    failures = [seen for _, seen in looked if seen.failure]
    if not good:
        raise InputError(f"none of {len(failures)} recordings can be read; the first: {failures[0].failure}")
    kind, unlike = _kind(good)
    mapping = _input_mapping(spec)
    outside = [ref for ref in unlike if not {f.uri for f in ref.files} & {f.uri for r, _ in kind for f in r.files}]
    if outside:
        mapping["uri"] = _files([ref for ref, _ in kind])
        reasons["uri"] = f"{len(unlike)} other recordings have other streams, as {unlike[0].id}: a dataset of their own"
        told.append(reasons["uri"])
    failed = [seen.id for seen in failures if not outside] + [ref.id for ref in unlike if ref not in outside]
    if failed:
        mapping["max_failed_episodes"] = len(failed)
        why = next((f"{seen.id} cannot be read: {seen.failure}" for seen in failures), "")
        reasons["max_failed_episodes"] = why or f"{failed[0]} has other streams than most"
        told.append(reasons["max_failed_episodes"])
    return _with_features(spec, mapping, kind, reasons, told, len(looked), len(refs))


def _stamped(
    spec: InputSpec, looked: list[tuple[EpisodeRef, InspectedEpisode]], reasons: dict[str, str]
) -> tuple[InputSpec, list[tuple[EpisodeRef, InspectedEpisode]]]:
    """By the time of the log where the messages' own stamps do not move."""
    logs = [ref for ref, seen in looked if not seen.failure and READERS[ref.format].own_time]
    if spec.stamp != "header" or not logs or not _stands(seen for _, seen in looked):
        return spec, looked
    by_log = replace(spec, stamp="log")
    again = [(ref, inspect_episode(ref, by_log, values=False)) for ref, _ in looked]
    if _stands(seen for _, seen in again):
        return spec, looked
    reasons["stamp"] = "the messages' own stamps repeat themselves"
    return by_log, again


def _stands(episodes: Iterable[InspectedEpisode]) -> bool:
    clocks = [s.clock for seen in episodes for s in seen.streams if s.clock.samples > 1]
    return sum(clock.duplicates for clock in clocks) > 0.5 * sum(clock.samples for clock in clocks)


def _one_format(spec: InputSpec, refs: Sequence[EpisodeRef]) -> tuple[InputSpec, list[EpisodeRef], str]:
    """The recordings of the format that most have, the input as these alone, and what else there is."""
    counts = Counter(ref.format for ref in refs if ref.format and not ref.failure) or Counter(
        ref.format for ref in refs if ref.format
    )
    if len(counts) < 2:
        return spec, list(refs), ""
    format = counts.most_common(1)[0][0]
    mine = [ref for ref in refs if ref.format == format]
    one = replace(spec, format=format)
    try:
        if {ref.id for ref in list_input(one).episodes} != {ref.id for ref in mine}:
            one = replace(spec, uri=tuple(_files(mine)))
    except InputError:
        one = replace(spec, uri=tuple(_files(mine)))
    others = ", ".join(f"{n} of {name}" for name, n in counts.most_common() if name != format)
    return one, mine, others


def _files(refs: Sequence[EpisodeRef]) -> list[str]:
    """URIs of these and no other recordings."""
    found = (file.uri.removesuffix(f"/{READERS[ref.format].marker}") for ref in refs for file in _own(ref))
    return list(dict.fromkeys(found))


def _own(ref: EpisodeRef) -> Sequence[Any]:
    return ref.files[:1] if READERS[ref.format].marker else ref.files


def _kind(
    good: Sequence[tuple[EpisodeRef, InspectedEpisode]],
) -> tuple[list[tuple[EpisodeRef, InspectedEpisode]], list[EpisodeRef]]:
    """The recordings that have much the same streams as the others of the largest such group, and those that have
    not."""
    groups: list[tuple[frozenset[str], list[tuple[EpisodeRef, InspectedEpisode]]]] = []
    for ref, seen in good:
        mine = frozenset(s.source for s in seen.streams)
        for names, group in groups:
            if len(mine & names) >= _ALIKE * len(mine | names):
                group.append((ref, seen))
                break
        else:
            groups.append((mine, [(ref, seen)]))
    readable = lambda group: sum(not s.failure for s in group[0][1].streams)  # noqa: E731
    largest = max((group for _, group in groups), key=lambda group: (min(readable(group), 1), len(group)))
    return largest, [ref for _, group in groups if group is not largest for ref, _ in group]


def _input_mapping(spec: InputSpec) -> dict[str, Any]:
    """What is not as usual of the input."""
    from robocache.config.inputs import csv_mapping, times_mapping

    mapping: dict[str, Any] = {"uri": spec.uri[0] if len(spec.uri) == 1 else list(spec.uri)}
    usual = InputSpec(())
    for key in ("format", "episode", "stamp", "salvage"):
        if (value := getattr(spec, key)) != getattr(usual, key):
            mapping[key] = value
    if spec.times is not None:
        mapping["times"] = times_mapping(spec.times)
    if csv := csv_mapping(spec.csv):
        mapping["csv"] = csv
    if spec.select:
        mapping["select"] = list(spec.select)
    return mapping


def _with_features(
    spec: InputSpec,
    mapping: dict[str, Any],
    kind: Sequence[tuple[EpisodeRef, InspectedEpisode]],
    reasons: dict[str, str],
    told: list[str],
    looked: int,
    of: int,
) -> Proposal:
    tried = _examples(kind)
    streams = overview([seen for _, seen in kind])
    clocks = {s.source: s for _, seen in reversed(kind) for s in seen.streams}
    pauses = dict.fromkeys(clocks, 0)
    for _, seen in kind:
        pauses |= {s.source: max(pauses[s.source], s.clock.longest_gap) for s in seen.streams}
    of_message_kind = READERS[kind[0][0].format].own_time and kind[0][0].format != "lerobot"
    groups = list(_grouped(spec, streams, tried, messages=of_message_kind))
    paths = [c.source for _, found in groups for c in found if not c.reason]
    types: dict[str, StreamType] = {}
    failures: dict[str, str] = {}
    values: dict[str, Stream] = {}
    for ref in tried:
        more, failed = described(ref, [path for path in paths if path not in types], spec)
        types |= more
        failures |= failed
        if apart := [c for _, found in groups for c in found if c.parts and c.source in failed]:
            groups = [(about, [x for c in found for x in (c.parts if c in apart else (c,))]) for about, found in groups]
            paths = [c.source for _, found in groups for c in found if not c.reason]
            singles, failed = described(ref, [x.source for c in apart for x in c.parts], spec)
            types, more, failures = types | singles, more | singles, failures | failed
        if ref.nbytes <= _TRIED_BYTES:
            read, failed = streams_of(ref, [path for path in more if path not in values], spec)
            values |= read
            failures |= failed
    astray = _astray(clocks)
    lone = all(clock.clock.samples <= 1 for clock in clocks.values())
    blocks: list[Block] = []
    taken: list[str] = []
    moves = False  # where every stream has a single sample, one of them has to bound the timeline
    for about, found in groups:
        lines = []
        for candidate in found:
            reason = candidate.reason or failures.get(candidate.source, "") or astray.get(about[0].source, "")
            if not reason and candidate.source not in types:
                reason = "no message of it tells what it is"
            source_type = types.get(candidate.source)
            if reason or source_type is None:
                suited = Suited({"source": candidate.source}, reason=reason)
            else:
                stream = about[0]
                optional = stream.recordings < len(kind)
                suited = suit(
                    candidate, source_type, clocks[stream.source].clock, values.get(candidate.source),
                    kind=stream.type, static=stream.samples[1] <= 1 and (moves or not lone), optional=optional,
                )  # fmt: skip
                moves = moves or not suited.mapping.get("static")
            name = feature_name("action" if suited.command else "observation", candidate.words, taken)
            taken.append(name)
            lines.append(Line(name, suited.mapping, suited.note, suited.reason))
        blocks.append(Block(_heading(about, clocks, pauses, len(kind)), tuple(lines)))
    trial = Trial(spec, mapping, tried, _TRIED_BYTES)
    blocks = _tried(blocks, trial)
    proposal = Proposal(mapping, tuple(blocks), {"rate_hz": 1}, reasons, tuple(told), looked, of)
    if not proposal.features:
        left = next((line.reason for block in blocks for line in block.lines if line.reason), "it has none")
        raise ConfigError([f"no stream of {kind[0][0].id} can be a feature; the first: {left}"])
    restarts = any(s.clock.late_by > 1_000_000_000 for _, seen in kind for s in seen.streams)
    return _with_timeline(proposal, trial, _rate(clocks, types, proposal), restarts)


def _astray(clocks: Mapping[str, InspectedStream]) -> dict[str, str]:
    """Streams whose stamps are of another time than those of the stream with the most samples, and how far off."""
    usual = max((s.clock for s in clocks.values()), key=lambda clock: clock.samples)
    if usual.samples < 2:
        return {}
    first, last = usual.start - _NEAR * usual.span, usual.start + (1 + _NEAR) * usual.span
    out = {}
    for name, s in clocks.items():
        clock = s.clock
        if clock.samples > 1 and (clock.start > last or clock.start + clock.span < first or clock.span > last - first):
            start, days = (clock.start - usual.start) / 1e9, clock.span / 1e9
            out[name] = f"its stamps begin {start:,.0f} s after those of the others and span {days:,.0f} s"
    return out


def _examples(kind: Sequence[tuple[EpisodeRef, InspectedEpisode]]) -> list[EpisodeRef]:
    """A recording, and few others that have streams that it lacks."""
    out: list[EpisodeRef] = []
    seen: set[str] = set()
    for ref, episode in kind:
        mine = {s.source for s in episode.streams if s.clock.samples}
        if not out or not mine <= seen:
            out.append(ref)
            seen |= mine
        if len(out) == 3:
            break
    return out


def _grouped(
    spec: InputSpec, streams: Sequence[StreamOverview], tried: Sequence[EpisodeRef], *, messages: bool
) -> Iterator[tuple[list[StreamOverview], list[Candidate]]]:
    """Streams that belong under one heading, and what of them may be features."""
    if messages:
        wholes: dict[str, StreamType] = {}
        asked = [s.source for s in streams if not s.failure and re.split(r"[/.]", s.type)[-1] in _WHOLES]
        for ref in tried:
            wholes |= described(ref, [source for source in asked if source not in wholes], spec)[0]
        for s in streams:
            if s.failure or not s.samples[1]:
                yield [s], [Candidate(s.source, (s.source,), s.failure or "it has no message")]
            elif s.source in wholes and wholes[s.source].about.get("kind"):
                (whole,) = of_columns([(s.source, "")])
                yield [s], [whole]
            else:
                yield [s], of_message(s.source, s.fields)
        return
    tables = [s for s in streams if s.fields and s.type in ("csv", "parquet", "arrow")]
    for s in tables:
        yield [s], of_columns(s.fields, s.source)
    rest = [s for s in streams if s not in tables]
    if not rest:
        return
    columns = [(s.source, s.type) for s in rest if not s.failure and s.source not in INDEX and not _records(s)]
    members = READERS[tried[0].format].members
    found = of_columns(columns) if members else [c for column in columns for c in of_columns([column])]
    by_source = {s.source: s for s in rest}
    plain = [s for s in rest if s.samples[1] > 1] or rest
    yield plain, [c for c in found if c.source not in by_source or by_source[c.source] in plain]
    for s in rest:
        if s not in plain and not s.failure and not _records(s):
            yield [s], [c for c in found if c.source == s.source]
    for s in rest:
        if s.failure:
            yield [s], [Candidate(s.source, (s.source,), s.failure)]
        elif s.source in INDEX:
            yield [s], [Candidate(s.source, (s.source,), "every dataset has its own")]
        elif _records(s):
            yield [s], of_records(s.source, s.fields)


def _records(s: StreamOverview) -> bool:
    return s.type == "record"


def _heading(
    about: Sequence[StreamOverview], clocks: Mapping[str, InspectedStream], pauses: Mapping[str, int], recordings: int
) -> str:
    """What streams are and how their clock goes, in words; ``pauses``: the longest of each."""
    first = about[0]
    clock = clocks[first.source].clock
    what = first.source if len(about) == 1 else f"{len(about)} streams of one clock"
    parts = [f"{what} ({first.type})" if len(about) == 1 and first.type else what]
    counts = first.samples
    shown = f"{counts[0]:,}" if counts[0] == counts[1] else f"{counts[0]:,} to {counts[1]:,}"
    parts.append(f"{shown} sample{'s' if counts != (1, 1) else ''}")
    if clock.rate_hz is not None and clock.step_std is not None:
        parts.append(f"{clock.rate_hz:.4g} Hz, jitter {_duration(clock.step_std)}")
    if first.gaps:
        parts.append(
            f"{first.gaps:,} gap{'s' if first.gaps != 1 else ''} (the longest {_duration(pauses[first.source])})"
        )
    if first.duplicates:
        parts.append(f"{first.duplicates:,} repeat a stamp")
    if first.late:
        parts.append(f"{first.late:,} came late")
    if first.recordings < recordings:
        parts.append(f"in {first.recordings} of {recordings} recordings")
    return ", ".join(parts)


def _duration(ns: float) -> str:
    units = (("s", 1e9), ("ms", 1e6), ("us", 1e3))
    unit, scale = next(((u, s) for u, s in units if ns >= s), ("ns", 1.0))
    return f"{ns / scale:.3g} {unit}"


def _tried(blocks: Sequence[Block], trial: Trial) -> list[Block]:
    """The same, with what a run refuses left out for its reason."""
    lines = {line.name: line for block in blocks for line in block.lines if not line.reason}
    refused = trial.refused({name: line.mapping for name, line in lines.items()})
    return [
        replace(block, lines=tuple(replace(x, reason=refused.get(x.name, x.reason)) for x in block.lines))
        for block in blocks
    ]


def _rate(
    clocks: Mapping[str, InspectedStream], types: Mapping[str, StreamType], proposal: Proposal
) -> tuple[float | int, str]:
    """A rate for the timeline, and why: that of the fastest camera, without one of the fastest stream."""
    rates: dict[str, float] = {}
    cameras: dict[str, float] = {}
    for name, s in clocks.items():
        used = [path for path in _moving(proposal) if path.startswith(name) or name in path]
        if not used or s.clock.rate_hz is None:
            continue
        # Of messages that come in bursts the median step tells too much.
        rates[name] = min(s.clock.rate_hz, 1.5e9 * (s.clock.samples - 1) / s.clock.span)
        if any(types[path].about.get("kind") == "image" for path in used if path in types):
            cameras[name] = rates[name]
    some = cameras or rates
    if not some:
        return 10, "no stream moves in time"
    fastest = max(some, key=lambda source: some[source])
    hz = _round(some[fastest])
    if cameras:
        return hz, f"that of the camera {fastest}"
    if hz > _MOST_HZ:
        return _MOST_HZ, f"the fastest stream, {fastest}, has {hz:g} Hz; align: mean would use all of its samples"
    return hz, f"that of the fastest stream, {fastest}"


def _moving(proposal: Proposal) -> list[str]:
    """Sources of the features that change with time."""
    return [str(m["source"]) for m in proposal.features.values() if not m.get("static")]


def _round(hz: float) -> float | int:
    """The rate that a clock with jitter is meant to have: a whole number within 1 %, else three digits."""
    if hz >= 1 and abs(hz - round(hz)) <= 0.01 * hz:
        return round(hz)
    return float(f"{hz:.3g}")


def _with_timeline(proposal: Proposal, trial: Trial, rate: tuple[float | int, str], restarts: bool) -> Proposal:
    """With a timeline that the recordings tried bear, and what becomes of clocks that start again."""
    hz, why = rate
    first = _moving(proposal)[0]
    on_restart = {"split": "a clock starts again within a recording: each run of it is an episode"}
    on_restart["sort"] = "stamps go back by seconds; the samples are put in their order"
    timelines: list[tuple[dict[str, Any], str, str]] = [
        ({"rate_hz": hz, "range": "intersection"}, why, ""),
        ({"rate_hz": hz, "range": "union"}, why, "the streams have no time in common"),
        ({"reference": first, "range": "union"}, "", "the stamps are none that a rate fits"),
    ]
    error: Exception | None = None
    for restart in on_restart if restarts else ("quarantine",):
        for timeline, rated, ranged in timelines:
            try:
                timeline, rated, kept = _fitting(trial, proposal.features, timeline, rated, restart)
            except InputError as problem:
                error = problem
                continue
            if kept is not None and kept[0] < _WORTH and timeline["range"] == "intersection":
                timelines[1] = (timelines[1][0], why, f"intersection would keep {kept[0]:.0%}: {kept[1]} cuts it")
                continue
            reasons = {**proposal.reasons, "rate_hz": rated, "range": ranged, "reference": ranged}
            input = dict(proposal.input)
            if restarts:
                input["on_restart"], reasons["on_restart"] = restart, on_restart[restart]
            known = {key: text for key, text in reasons.items() if text}
            return replace(proposal, input=input, timeline=timeline, reasons=known)
    raise ConfigError([f"no timeline fits the recordings: {error}"])


def _fitting(
    trial: Trial, features: Mapping[str, Mapping[str, Any]], timeline: dict[str, Any], why: str, restart: str
) -> tuple[dict[str, Any], str, tuple[float, str] | None]:
    """The timeline, with a lower rate where its rows would not fit into memory."""
    for _ in range(24):
        try:
            return timeline, why, trial.kept(features, timeline, restart)
        except MemoryError as error:
            if "rate_hz" not in timeline:
                raise InputError(str(error)) from None
            timeline = timeline | {"rate_hz": float(f"{timeline['rate_hz'] / 2:.3g}")}
            why = f"halved until the rows fit into memory ({error})"
    raise InputError("no rate makes rows that fit into memory")
