"""An episode made ready for alignment: types checked, streams repaired, the timeline made. Computes nothing else, and
needs no torch, so that a plan knows the rows of an episode without aligning it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from robocache import scratch
from robocache.config.job import Feature, FeatureSource, Job
from robocache.engine.clean import Cleaned, Columns, clean
from robocache.engine.source_types import COMPUTING, WINDOW, SourceTypes, describe_type, mode_in, pose_mode
from robocache.engine.timeline import Clock, Timeline, make_timeline
from robocache.engine.units import check_units
from robocache.errors import InputError, TooLargeError
from robocache.features import feature_type
from robocache.output.schema import FeatureType, arrow_schema
from robocache.types import Episode, Finding, Stream, StreamType, numpy_type

_MB = 2**20
#: ``repeats: auto`` of modes in which every sample counts.
REPEATS = {"mean": "all", WINDOW: "every"}
#: The rows of an episode may take this much, whatever ``compute.max_memory_mb`` is.
ALWAYS_MB = 64


@dataclass(frozen=True)
class Request:
    """A source of a feature as this episode has it.

    kind, mode: what it is and how it is aligned, settled for the dataset
    cleaned:    the stream after its repairs; None where the episode lacks it, which it may
    """

    feature: Feature
    source: FeatureSource
    kind: StreamType
    mode: str
    cleaned: Cleaned | None

    @property
    def absent(self) -> bool:
        """Whether the episode has no sample of it, which only an optional source may lack."""
        return self.cleaned is None or not self.cleaned.groups

    def column_name(self, group: Columns, column: int) -> str:
        """What a column of a group of the stream's is called."""
        at = column if group.columns is None else int(group.columns[column])
        names = self.kind.about.get("names") or ()
        return str(names[at]) if at < len(names) else f"column {at}"

    @property
    def of_clouds(self) -> bool:
        """Whether it is the pose that moves the feature's clouds, and not a source of it."""
        return self.source is self.feature.pose

    @property
    def files(self) -> Mapping[str, str]:
        """URIs of the files that its samples refer to, by the paths that stand in them."""
        return self.cleaned.stream.about.get("files", {}) if self.cleaned is not None else {}

    @property
    def computed(self) -> bool:
        """Whether new numbers are made of it; else samples are picked."""
        return self.mode in COMPUTING and not self.source.static


@dataclass(frozen=True)
class Prepared:
    """An episode ready for alignment. ``findings``: what a person must know of its streams."""

    requests: tuple[Request, ...]
    timeline: Timeline
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Preparer:
    """Makes episodes of a job ready; the same for every episode, can be pickled.

    types: from :func:`robocache.engine.source_types.resolve`
    """

    job: Job
    types: SourceTypes

    @cached_property
    def features(self) -> list[FeatureType]:
        """The output's columns; none where no recording could be opened."""
        if not self.types.types:
            return []
        out = []
        for feature in self.job.features:
            kinds = [self.types.types[s.key] for s in feature.sources]
            sources = [s.source for s in feature.sources]
            about: dict[str, Any] = {"sources": sources}
            if feature.pose is not None:
                frame = self.types.types[feature.pose.key].about.get("frame")
                about |= {"pose": feature.pose.source, "frame": frame}
            out.append(feature_type(feature.name, kinds, feature.dtype, about, feature.steps, feature.window))
        return out

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the output's tables."""
        stamped = {f.name: 2 * len(f.sources) for f in self.job.features} if self.job.timeline.provenance else None
        return arrow_schema(self.features, stamped, episode_id=self.job.output.episode_id)

    def prepare(self, episode: Episode) -> Prepared:
        """``InputError`` where the episode cannot be used: a required source is missing or has no usable sample, its
        clock starts again, a stream is not of the settled type, or the streams do not overlap. ``TooLargeError`` where
        its rows would take more memory than the job allows.
        """
        with scratch.beyond(self.job.compute.most_held):
            return self._prepare(episode)

    def _prepare(self, episode: Episode) -> Prepared:
        findings = [Finding("lost", "", note) for note in episode.notes]
        requests = self._requests(episode, findings)
        clocks = {self._label(r.source): self._clock(r) for r in requests if r.cleaned and not r.source.static}
        reference = self._reference(episode, clocks)
        offset = self.job.reference.offset if self.job.reference is not None else 0
        each = self.row_bytes(requests)
        segment = episode.segment
        within = None if segment is None else (segment.begin, segment.end)
        fits = lambda rows: self._fits(rows, each)  # noqa: E731
        timeline = make_timeline(self.job.timeline, clocks, reference, offset, fits, within)
        findings += check_units(clocks, timeline, self.job.timeline.rate is not None)
        return Prepared(tuple(requests), timeline, tuple(findings))

    def row_bytes(self, requests: Sequence[Request]) -> float:
        """Of a row of the output: the width of its numbers, and of the rest what a sample takes on average."""
        total = 0.0
        samples = {r.feature.name: r.cleaned.stream.values for r in requests if r.cleaned}
        for field in self.schema:
            kind, count = field.type, 1
            while pa.types.is_fixed_size_list(kind):
                kind, count = kind.value_type, count * kind.list_size
            try:
                total += count * kind.bit_width / 8
            except ValueError:  # text, payloads
                values = samples.get(field.name, ())
                total += values.nbytes / len(values) if len(values) else 0
        return total

    def _fits(self, rows: int, each: float) -> None:
        """``TooLargeError`` where so many rows of so many bytes take more memory than the job allows."""
        held, limit = 2 * rows * each, max(self.job.compute.max_memory_mb, ALWAYS_MB) * _MB
        if held > limit:
            raise TooLargeError(
                f"{rows:,} rows of {each:,.0f} bytes take {held / _MB:,.0f} MB with the part that is made of them, and "
                f"compute.max_memory_mb is {self.job.compute.max_memory_mb:,}; raise it to "
                f"{math.ceil(held / _MB):,}, or take fewer rows (timeline.rate_hz) or features"
            )

    def check_type(self, key: str, stream: Stream) -> Stream:
        """The stream with its columns in the settled order. ``InputError`` where it has samples and is not of the type
        settled for its source.
        """
        expected, found = self.types.types[key], stream.type
        if not len(stream.times):
            return stream
        names, own = list(expected.about.get("names", ())), list(stream.about.get("names", ()))
        if names and own and names != own and isinstance(stream.values, np.ndarray) and stream.values.ndim == 2:
            lacking = [name for name in names if name not in own]
            if lacking or len(own) != stream.values.shape[1]:
                raise InputError(
                    f"{key} has the columns {', '.join(own)} here, the dataset's are {', '.join(names)} (as in "
                    f"{self.types.seen_in[key]}); select columns by name, or give this kind of robot its own dataset"
                )
            order = np.array([own.index(name) for name in names])
            about = {**stream.about, "names": names}
            present = None if stream.present is None else stream.present[:, order]
            stream = replace(stream, values=stream.values[:, order], about=about, present=present)
            found = stream.type
        element, wanted = stream.about.get("element"), expected.about.get("element")
        if element and wanted and element != wanted:
            raise InputError(
                f"{key} is that of {element} here and that of {wanted} in {self.types.seen_in[key]}; choose the "
                "element by its name, as in [child_frame_id=...]"
            )
        if _same_kind(found, expected):
            # Of one dtype in every recording, so that the same numbers give the same rows wherever they were stored.
            if isinstance(stream.values, np.ndarray) and found.arrow != expected.arrow:
                stream = replace(stream, values=stream.values.astype(numpy_type(expected.element)))
            return stream
        raise InputError(
            f"{key} holds {describe_type(found)} here and {describe_type(expected)} in {self.types.seen_in[key]}, as "
            "in most recordings, which fixed the dataset's columns; give this kind of robot a dataset of its own"
        )

    def _requests(self, episode: Episode, findings: list[Finding]) -> list[Request]:
        cleaned: dict[tuple[str, bool, str, str, bool], Cleaned] = {}
        out = []
        for feature in self.job.features:
            for s in feature.streams:
                kind, of_clouds = self.types.types[s.key], s is feature.pose
                mode = pose_mode(self.job, feature) if of_clouds else mode_in(self.job, feature, s, kind)
                stream = episode.streams.get(s.key)
                if stream is None:
                    if not s.optional:
                        raise InputError(f"no {s.source} in it; set optional: true to keep episodes without it")
                    if self.types.seen_in[s.key]:  # else the run says so once
                        text = f"{s.source} is not in it, and need not be; its columns hold nothing and are not valid"
                        findings.append(Finding("absent", s.key, text))
                    out.append(Request(feature, s, kind, mode, None))
                    continue
                if s.static and episode.segment is not None:
                    stream = _until(stream, episode.segment.end)
                repeats = REPEATS.get(mode, "last") if s.repeats == "auto" else s.repeats
                nonfinite = "keep" if feature.picks and not of_clouds else s.nonfinite
                options = (s.key, mode in COMPUTING and not s.static, nonfinite, repeats, s.static)
                if options not in cleaned:
                    first = not any(key[0] == s.key for key in cleaned)
                    checked = self.check_type(s.key, stream)
                    cleaned[options] = self._clean(*options[:4], checked, findings, said=not first)
                    scratch.tidy()
                out.append(Request(feature, s, kind, mode, cleaned[options]))
                if not cleaned[options].groups and len(stream.times) and not s.optional:
                    raise InputError(
                        f"{s.source}: none of its {len(stream.times)} samples can be used, each holds a number that is "
                        "not finite; leave out the columns that are never finite, or set nonfinite: keep"
                    )
                if not len(stream.times) and not s.optional:
                    raise InputError(f"{s.source} has no sample; set optional: true to keep episodes without it")
        return out

    def _clean(
        self,
        key: str,
        computed: bool,
        nonfinite: str,
        repeats: str,
        stream: Stream,
        findings: list[Finding],
        said: bool,
    ) -> Cleaned:
        spec = self.job.quality
        limit = spec.max_late if spec.on_restart != "sort" else None
        found = clean(key, stream, computed=computed, nonfinite=nonfinite, repeats=repeats, max_late=limit)
        if not said:
            findings += [Finding("clock", key, f"{key}: {note}") for note in (*stream.notes, *found.notes)]
            names = [str(name) for name in stream.about.get("names") or range(len(found.absent))]
            missing = [name for name, none in zip(names, found.missing, strict=True) if none]
            never = [name for name, none in zip(names, found.absent, strict=True) if none and name not in missing]
            if missing and found.groups:
                shown = f"{', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}"
                text = f"{key}: no message carries {shown}; every row of this episode is invalid"
                findings.append(Finding("missing_names", key, text, len(missing)))
            if never and found.groups:
                shown = f"{', '.join(never[:8])}{' ...' if len(never) > 8 else ''}"
                text = f"{key}: column {shown} never holds a finite number; it is NaN in every row"
                findings.append(Finding("never_finite", key, text, len(never)))
        return found

    def _label(self, s: FeatureSource) -> str:
        return s.key if not s.offset else f"{s.key} ({s.offset:+d} ns)"

    def _clock(self, r: Request) -> Clock:
        assert r.cleaned is not None
        times, offset = r.cleaned.times, r.source.offset
        starts, ends = r.mode != "next", r.mode != "previous"
        return Clock(times + offset if offset else times, starts, ends, r.cleaned.together.step)

    def _reference(self, episode: Episode, clocks: dict[str, Clock]) -> np.ndarray | None:
        """The stamps of the timeline's reference; it bounds the timeline as every other source does."""
        s = self.job.reference
        if s is None:
            return None
        stream = episode.streams.get(s.key)
        if stream is None:
            raise InputError(f"no {s.source} in it, which is timeline.reference")
        limit = self.job.quality.max_late if self.job.quality.on_restart != "sort" else None
        times = clean(s.key, replace(stream, present=None), computed=False, nonfinite="keep", max_late=limit).times
        clocks[self._label(s)] = Clock(times + s.offset)
        return times


def _until(stream: Stream, end: int) -> Stream:
    """Without the samples from ``end`` on; the first of them where there are no others."""
    before = np.flatnonzero(stream.times < end)
    return stream.take(before if len(before) else np.argsort(stream.times, kind="stable")[:1])


def _same_kind(found: StreamType, expected: StreamType) -> bool:
    """Whether one column can hold both: the same shape, and numbers that the settled type has room for."""
    if found.arrow == expected.arrow:
        return True
    if found.shape != expected.shape:
        return False
    a, b = found.element, expected.element
    for test in (pa.types.is_floating, pa.types.is_integer):
        if test(a) and test(b):
            return True
    if pa.types.is_floating(b) and (pa.types.is_integer(a) or pa.types.is_boolean(a)):
        return True
    text = (pa.types.is_string, pa.types.is_large_string)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(any(t(a) for t in kinds) and any(t(b) for t in kinds) for kinds in (text, binary))
