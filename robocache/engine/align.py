"""Episodes on their timelines: all their sources aligned in one call, columns assembled, what was found told.

The kernels compute new numbers; what is selected rather than computed with (text, images, whole numbers, everything
aligned by nearest, previous or next) is a row number to them, so that it reaches the output exactly as recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from robocache import scratch
from robocache.config.job import COLUMNS, Feature, FeatureSource, Job
from robocache.config.values import period_name
from robocache.engine import quality
from robocache.engine.angles import TURNS, Turn, find_turns, turn_of_angle, unwrap
from robocache.engine.clean import Columns, selectable, with_gaps
from robocache.engine.idle import moving
from robocache.engine.lookback import past_mean, used_stamps
from robocache.engine.poses import poses_of
from robocache.engine.prepare import Prepared, Preparer, Request
from robocache.engine.rounding import JOINTS, rounding
from robocache.engine.source_types import COMPUTING, SourceTypes
from robocache.engine.timeline import Timeline
from robocache.engine.windows import gathered
from robocache.errors import InputError
from robocache.features import Aligned, Compute, abreast, assemble, stepped
from robocache.features.columns import flat_numbers
from robocache.features.convert import absolute
from robocache.ops import StreamSpec
from robocache.ops.chunked import fuse_multimodal_chunked
from robocache.output.schema import FeatureType, episode_table
from robocache.stages import Stages
from robocache.types import Episode, Finding, StreamReport, StreamType, as_rows, numpy_type

#: ``max_gap: auto`` is this many median steps of the stream.
GAP_STEPS = 10
#: ``snap: auto`` is the timeline's period divided by this.
SNAP_SHARE = 10

#: See :attr:`Aligner.batch_bytes`: on a CPU, on a GPU.
_BATCH_BYTES = (2 << 20, 256 << 20)

FeatureColumns: TypeAlias = Mapping[str, tuple["pa.Array | pa.ChunkedArray", np.ndarray]]


@dataclass
class AlignedEpisode:
    """An episode on its timeline.

    table:   its rows, see :func:`robocache.output.schema.episode_table`
    columns: the features' values and bool ``[T]`` validity in it, as they were made
    reports: of each stream
    quality: what a person must know of it, see :mod:`robocache.engine.quality`
    videos:  URIs of the files that its rows refer to, by the paths that stand in them
    """

    table: pa.Table
    columns: FeatureColumns
    reports: list[StreamReport]
    quality: dict[str, Any]
    metadata: Mapping[str, Any]
    start_ns: int
    videos: Mapping[str, str]


@dataclass
class _Part:
    """A group of columns of a source on the timeline.

    turns:  by column of the group, what was undone before and is done again after
    wide:   in float64
    spec:   what the kernels are asked for, values ``[n, k]`` and times ``[n]``; None: nothing
    values: ``[T, k]``, or ``[T, 1]`` row numbers where samples are picked; valid: bool ``[T]``
    """

    group: Columns
    turns: Mapping[int, Turn] = field(default_factory=dict)
    wide: bool = False
    spec: StreamSpec | None = None
    values: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    valid: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def asked(self) -> tuple:
        """What parts of several episodes have in common that one call can align."""
        assert self.spec is not None
        s = self.spec
        return (s.values.shape[1], s.values.dtype, s.mode, s.max_gap, s.offset)


@dataclass(frozen=True)
class Begun:
    """An episode that is ready for the kernels, and of each of its requests the parts that they are to align."""

    index: int
    id: str
    metadata: Mapping[str, Any]
    prepared: Prepared
    parts: Sequence[Sequence[_Part]]
    findings: list[Finding]


@dataclass(frozen=True)
class Aligner:
    """Brings episodes of a job to their timelines; the same for every episode, can be pickled.

    types: from :func:`robocache.engine.source_types.resolve`; device: a torch device
    """

    job: Job
    types: SourceTypes
    device: str = "cpu"

    @cached_property
    def preparer(self) -> Preparer:
        """What comes before the kernels."""
        return Preparer(self.job, self.types)

    @property
    def batch_bytes(self) -> int:
        """From how many bytes of samples on episodes are to be aligned together.

        A call costs what some hundred kilobytes do on a CPU; on a GPU each also waits for the device. All are held.
        """
        limit = self.job.compute.max_memory_mb * 2**20 // 4
        return min(limit, _BATCH_BYTES[torch.device(self.device).type != "cpu"])

    def align(
        self, episodes: MutableMapping[int, Episode], stages: Stages | None = None
    ) -> dict[int, AlignedEpisode | Exception]:
        """Every source of each episode, by its number, on its timeline, the features side by side; or what was raised.

        The episodes are aligned together, and taken out of the mapping. One that fails costs no other anything.
        ``InputError`` where one cannot be used: see :meth:`Preparer.prepare`, and where ``quality.on_fail`` says so.
        """
        with scratch.beyond(self.job.compute.most_held):
            return self._align(episodes, stages or Stages())

    def _align(self, episodes: MutableMapping[int, Episode], stages: Stages) -> dict[int, AlignedEpisode | Exception]:
        order = list(episodes)
        begun: dict[int, Begun] = {}
        made: dict[int, AlignedEpisode | Exception] = {}
        for index in order:
            try:
                with stages.time("clean"):
                    begun[index] = self.begin(index, episodes.pop(index))
            except Exception as error:
                made[index] = error
        with stages.time("align"):
            made |= self._fused(begun)
            for index in [index for index in begun if index not in made]:
                try:
                    made[index] = self._finish(begun.pop(index))
                except Exception as error:
                    made[index] = error
        return {index: made[index] for index in order}

    def begin(self, index: int, episode: Episode) -> Begun:
        """Its streams cleaned, its timeline made, and what the kernels are asked for."""
        prepared = self.preparer.prepare(episode)
        findings = list(prepared.findings)
        parts = [self._parts(r, prepared.timeline, findings) for r in prepared.requests]
        return Begun(index, episode.id, episode.metadata, prepared, parts, findings)

    def _fused(self, begun: Mapping[int, Begun]) -> dict[int, Exception]:
        """Have the kernels align the episodes, and say which of them they could not."""
        asked = [(_asking(b), b.prepared.timeline.times) for b in begun.values()]
        try:
            self._fuse(asked)
        except Exception as error:
            if len(begun) == 1:
                return dict.fromkeys(begun, error)
        else:
            return {}
        failed: dict[int, Exception] = {}
        for index, b in begun.items():  # each alone, so that only the one that fails is said to
            failed |= self._fused({index: b})
        return failed

    def _finish(self, b: Begun) -> AlignedEpisode:
        """The features of an episode side by side, after the kernels."""
        timeline, requests, findings = b.prepared.timeline, b.prepared.requests, b.findings
        aligned = [
            self._poses(r, requests) if r.of_clouds else self._aligned(r, some, timeline, findings)
            for r, some in zip(requests, b.parts, strict=True)
        ]
        columns, beside = self._columns(requests, aligned, findings)
        shares = {name: float(valid.mean()) for name, (_, valid) in columns.items()}
        reports = _reports(requests, aligned)
        absent = {r.feature.name for r in requests if r.absent}
        held = {name: share for name, share in shares.items() if name not in absent}
        findings += quality.check_episode(self.job.quality, timeline, reports, held)
        stamps = timeline.stamps
        if self.job.timeline.trim is not None:
            kept, told = moving(self.job.timeline.trim, columns)
            if told is not None:
                findings.append(told)
                stamps = stamps[kept]
                columns = {name: (_rows(values, kept), valid[kept]) for name, (values, valid) in columns.items()}
                beside = {name: _rows(values, kept) for name, values in beside.items()}
        failed = [f.text for f in findings if f.failed]
        if failed and self.job.quality.on_fail == "quarantine":
            raise InputError(f"quality: {'; '.join(failed)}")
        return AlignedEpisode(
            episode_table(self.preparer.schema, b.index, b.id, stamps, beside),
            columns,
            reports,
            quality.record(timeline, shares, findings),
            b.metadata,
            int(stamps[0]),
            {path: uri for r in requests if not r.feature.steps for path, uri in r.files.items()},
        )

    def _parts(self, r: Request, timeline: Timeline, findings: list[Finding]) -> list[_Part]:
        """The groups of a source's columns and what the kernels are asked for each."""
        if r.cleaned is None or r.source.static or r.of_clouds or r.source.window:
            return []
        column = self.preparer.features[self.job.features.index(r.feature)]
        findings += rounding(r, column)
        parts = [self._part(r, group, column, timeline, findings) for group in r.cleaned.groups]
        scratch.tidy()
        return parts

    def _part(
        self, r: Request, group: Columns, column: FeatureType, timeline: Timeline, findings: list[Finding]
    ) -> _Part:
        s, mode, offset = r.source, r.mode, r.source.offset
        values = group.values
        turns: Mapping[int, Turn] = {}
        if values is None:
            values = scratch.numbered(len(group.times))[:, None]
        elif r.kind.width <= JOINTS and mode in ("linear", "cubic", "mean", "angle"):
            values, turns, mode = _unwound(r, group, findings)
        part = _Part(group, turns)
        if self._looks_back(r):
            part.values, part.valid = past_mean(group.times + offset, values, timeline.times)
            return part
        max_gap = _max_gap(s, mode, group.step)
        if mode in ("previous", "next"):
            snap = s.snap
            if snap == "auto":
                snap = 0 if self.job.timeline.causal else timeline.period // SNAP_SHARE
            offset += -snap if mode == "previous" else snap
            max_gap = None if max_gap is None else max_gap + snap
        kind = StreamType(column.arrow).element
        exact = bool(turns) or bool(r.feature.steps) or kind not in (pa.float32(), pa.float16())
        part.wide = group.values is None or exact
        part.spec = StreamSpec(_tensor(values), _tensor(group.times), mode, max_gap=max_gap, offset=offset)
        return part

    def _looks_back(self, r: Request) -> bool:
        """Whether it is the mean of what came since the row before, which the kernels' bins about a row are not."""
        return self._causal(r) and r.mode == "mean" and r.computed

    def _causal(self, r: Request) -> bool:
        return self.job.timeline.causal and r.feature.role != "action"

    def _fuse(self, batch: Sequence[tuple[Sequence[_Part], np.ndarray]]) -> None:
        """Align parts of episodes to each episode's targets: in one call all those of which the same is asked, in
        float32 and in float64 apart.
        """
        alike: dict[tuple, list[tuple[list[_Part], np.ndarray]]] = {}
        for parts, targets in batch:
            for wide in (False, True):
                some = [part for part in parts if part.wide == wide]
                if some:
                    alike.setdefault((wide, *(part.asked for part in some)), []).append((some, targets))
        for (wide, *_), episodes in alike.items():
            self._call(episodes, torch.float64 if wide else torch.float32)

    def _call(self, episodes: Sequence[tuple[Sequence[_Part], np.ndarray]], dtype: torch.dtype) -> None:
        """Align parts of which the same is asked, a row of the batch for each episode."""
        streams = []
        for column in zip(*(parts for parts, _ in episodes), strict=True):
            specs = [part.spec for part in column if part.spec is not None]
            values, times = _joined([s.values for s in specs]), _joined([s.times for s in specs])
            offsets = _offsets([len(s.times) for s in specs])
            streams.append(specs[0]._replace(values=values, times=times, offsets=offsets))
        bounds = _offsets([len(targets) for _, targets in episodes])
        waits = any(scratch.on_disk(x.numpy()) for s in streams for x in (s.values, s.times))
        fused, valid = fuse_multimodal_chunked(
            streams,
            _joined([torch.from_numpy(targets) for _, targets in episodes]),
            target_offsets=bounds,
            out_dtype=dtype,
            max_memory_mb=self.job.compute.max_memory_mb / (COLUMNS if waits else 1),
            device=self.device,
            validate=False,  # clean() has sorted them
        )
        numbers, ok = fused.numpy(), valid.numpy()
        for (parts, _), (first, last) in zip(episodes, pairwise(bounds.tolist()), strict=True):
            at = 0
            for m, part in enumerate(parts):
                width = 1 if part.group.values is None else part.group.values.shape[1]
                part.values, part.valid = numbers[first:last, at : at + width], ok[first:last, m]
                part.spec = None
                at += width

    def _aligned(self, r: Request, parts: Sequence[_Part], timeline: Timeline, findings: list[Finding]) -> Aligned:
        """The parts of a source together, on the timeline."""
        if r.source.window:
            return gathered(r, timeline, past=self._causal(r), findings=findings)
        count, cleaned = len(timeline.times), r.cleaned
        stamps = None
        if self.job.timeline.provenance:
            past = self._looks_back(r)
            rows = parts[0].values[:, 0].astype(np.int64) if len(parts) == 1 and not r.computed else None
            stamps = used_stamps(r, timeline.times, past=past, rows=rows)
        if cleaned is None or not cleaned.groups:
            return _nothing(r, count, stamps)
        absent = cleaned.absent if cleaned.absent.any() else None
        finite = r.source.nonfinite == "drop"
        recorded = selectable(cleaned.stream.values)
        if r.source.static:
            rows = np.full(count, max(group.recorded(len(group.times) - 1) for group in cleaned.groups))
            return Aligned(recorded, np.ones(count, bool), rows, absent, finite, stamps, cleaned.stream.about)
        whole = len(parts) == 1 and parts[0].group.columns is None
        if whole and not r.computed:
            rows = parts[0].group.recorded(parts[0].values[:, 0].astype(np.int64))
            return Aligned(recorded, parts[0].valid, rows, absent, finite, stamps, cleaned.stream.about)
        blocks = [_finished(part, r, recorded) for part in parts]
        block = blocks[0] if whole else _side_by_side(parts, blocks, r.kind.width)
        valid = np.logical_and.reduce([part.valid for part in parts]) & (not cleaned.missing.any())
        return Aligned(block, valid, None, absent, finite, stamps, cleaned.stream.about)

    def _poses(self, r: Request, requests: Sequence[Request]) -> Aligned:
        """The pose of a feature's clouds, at each of them."""
        clouds = next(c for c in requests if c.feature is r.feature and not c.of_clouds)
        if clouds.cleaned is None:
            return Aligned(np.empty((0, r.kind.width)), np.zeros(0, bool))

        def fuse(r: Request, values: np.ndarray, times: np.ndarray, targets: np.ndarray) -> tuple[Any, Any]:
            part = _Part(Columns(None, times, np.arange(len(times)), values), wide=True)
            gap = _max_gap(r.source, r.mode, part.group.step)
            part.spec = StreamSpec(_tensor(values), _tensor(times), r.mode, max_gap=gap, offset=r.source.offset)
            self._fuse([([part], targets)])
            return part.values, part.valid

        return poses_of(r, clouds, fuse)

    def _columns(
        self, requests: Sequence[Request], aligned: Sequence[Aligned], findings: list[Finding]
    ) -> tuple[FeatureColumns, dict[str, Any]]:
        """The features' columns with their validity; and all that the table holds, by name."""
        columns: dict[str, tuple[pa.Array | pa.ChunkedArray, np.ndarray]] = {}
        beside: dict[str, Any] = {}
        compute = Compute(self.device, self.job.compute.max_memory_mb)
        pairs = list(zip(self.job.features, self.preparer.features, strict=True))
        for feature, kind in sorted(pairs, key=lambda pair: bool(pair[0].beside)):  # what others need comes first
            mine = [(r, a) for r, a in zip(requests, aligned, strict=True) if r.feature is feature]
            sources = [a for r, a in mine if not r.of_clouds]
            if poses := [np.asarray(a.values) for r, a in mine if r.of_clouds]:
                sources = [replace(sources[0], poses=poses[0])]
            about = abreast([self.types.types[s.key] for s in feature.sources]).about if feature.steps else {}
            made, notes = stepped(feature.steps, sources, compute, about, self._beside(feature, columns))
            findings += [replace(f, subject=feature.name, text=f"{feature.name}: {f.text}") for f in notes]
            values, valid, unfit = assemble(kind, made)
            scratch.tidy()
            columns[feature.name] = (values, valid)
            beside |= {feature.name: values, f"{feature.name}.valid": valid}
            if unfit:
                text = (
                    f"{feature.name}: {unfit} rows hold a number that {StreamType(kind.arrow).element} cannot and are "
                    "invalid; set a wider dtype"
                )
                findings.append(Finding("overflow", feature.name, text, unfit / len(valid)))
            if kind.starts:
                beside[f"{feature.name}.start"] = _nullable(made[0].starts, kind.starts, len(valid))
            if kind.counted:
                beside[f"{feature.name}.count"] = made[0].counts
            if self.job.timeline.provenance:
                stamps = np.concatenate([s.stamps for s in sources if s.stamps is not None], axis=1)
                flat = pa.array(stamps.reshape(-1), mask=stamps.reshape(-1) < 0)
                beside[f"{feature.name}.stamps"] = pa.FixedSizeListArray.from_arrays(flat, stamps.shape[1])
        return {f.name: columns[f.name] for f in self.job.features}, beside

    def _beside(self, feature: Feature, columns: FeatureColumns) -> np.ndarray | None:
        """What the feature's steps need of another: its column as it is written, absolute, NaN where not valid."""
        if not feature.beside:
            return None
        (kind,) = (f for f in self.preparer.features if f.name == feature.beside)
        values, valid = columns[feature.beside]
        rows = np.array(flat_numbers(values), np.float64).reshape(len(valid), -1)
        rows[~valid] = np.nan
        return absolute(rows, kind.about.get("convert", {}))


def _rows(values: Any, kept: np.ndarray) -> Any:
    """Those rows of a column."""
    return values[kept] if isinstance(values, np.ndarray) else values.filter(pa.array(kept))


def _nullable(starts: np.ndarray | None, width: int, count: int) -> pa.Array:
    """Rows of numbers, null where they are NaN."""
    rows = np.full((count, width), np.nan) if starts is None else starts
    none = np.isnan(rows).any(axis=1)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width, mask=pa.array(none))


def _max_gap(source: FeatureSource, mode: str, step: float | None) -> int | None:
    """The limit of a source with this median step in nanoseconds, auto as what it stands for; None: there is none."""
    if source.max_gap != "auto":
        return source.max_gap
    return GAP_STEPS * int(step) if mode in COMPUTING and step is not None else None


def _unwound(r: Request, group: Columns, findings: list[Finding]) -> tuple[np.ndarray, dict[int, Turn], str]:
    """Values whose turns are undone, the turns by column of the group, and the mode that is left to do."""
    s, values = r.source, group.values
    assert values is not None
    columns = range(values.shape[1])
    if r.mode == "angle":
        turns = {column: turn_of_angle(values[:, column], s.period, s.source) for column in columns}
    elif s.period is not None:
        turns = {column: Turn(s.period, -s.period / 2) for column in columns}
    else:
        turns = find_turns(values, group.extremes)
        for column, found in turns.items():
            text = (
                f"{s.source}: {r.column_name(group, column)} jumps by {TURNS[found.period]} {found.wraps} times, so "
                f"it was aligned as an angle; write align: angle, period: {period_name(found.period)} to say so"
            )
            findings.append(Finding("wraps", s.source, text, found.wraps))
    if not turns or (r.mode == "angle" and all(t.plain for t in turns.values())):
        return values, {}, r.mode  # the kernels' own angle takes radians
    unwound = scratch.filled(values, np.float64)
    unwound = unwound.copy() if unwound is values else unwound
    for column, turn in turns.items():
        unwound[:, column] = unwrap(unwound[:, column], turn.period)
    return unwound, turns, "linear" if r.mode == "angle" else r.mode


def _finished(part: _Part, r: Request, recorded: Any) -> np.ndarray:
    """The numbers of a part: turned again, or picked."""
    if not r.computed:
        rows = part.group.recorded(part.values[:, 0].astype(np.int64))
        picked = as_rows(recorded)[rows]
        return picked if part.group.columns is None else picked[:, part.group.columns]
    for column, turn in part.turns.items():
        part.values[:, column] = turn.wrap(part.values[:, column])
    return part.values


def _side_by_side(parts: Sequence[_Part], blocks: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Blocks of columns at their places; NaN, or 0 of integers, where a column has no number at all."""
    dtype = np.result_type(*blocks)
    out = np.full((len(blocks[0]), width), np.nan if dtype.kind == "f" else 0, dtype)
    for part, block in zip(parts, blocks, strict=True):
        out[:, part.group.columns if part.group.columns is not None else slice(None)] = block
    return out


def _nothing(r: Request, count: int, stamps: np.ndarray | None) -> Aligned:
    """A source that the episode does not have, or of which no sample can be used."""
    none = np.zeros(count, bool)
    if r.feature.picks and r.kind.numeric:
        nowhere = np.empty((0, *r.kind.shape), numpy_type(r.kind.element))
        return Aligned(nowhere, none, np.full(count, -1), stamps=stamps)
    if not (r.kind.numeric or pa.types.is_boolean(r.kind.element)):
        return Aligned(pa.array([], r.kind.arrow), none, np.full(count, -1), stamps=stamps)
    dtype = np.dtype(np.float64) if r.computed else numpy_type(r.kind.element)
    block = np.full((count, r.kind.width), np.nan if dtype.kind == "f" else 0, dtype)
    return Aligned(block, none, stamps=stamps)


def _reports(requests: Sequence[Request], aligned: Sequence[Aligned]) -> list[StreamReport]:
    """One for each stream: the gaps that its first use counts, the share of rows of its least valid use."""
    out: dict[str, StreamReport] = {}
    for r, a in zip(requests, aligned, strict=True):
        if r.cleaned is None:
            continue
        share, key = float(a.valid.mean()) if len(a.valid) else 0.0, r.source.key
        if key in out:
            out[key] = replace(out[key], valid_share=min(out[key].valid_share, share))
            continue
        limit = r.source.max_gap if isinstance(r.source.max_gap, int) else None
        report = r.cleaned.report if r.source.static else with_gaps(r.cleaned, limit)
        scratch.tidy()
        out[key] = replace(report, valid_share=share)
    return list(out.values())


def _asking(b: Begun) -> list[_Part]:
    """The parts of an episode that the kernels are asked for."""
    return [part for some in b.parts for part in some if part.spec is not None]


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(values, requirements="W"))  # torch warns of read-only memory


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _offsets(lengths: Sequence[int]) -> torch.Tensor:
    """int64 ``[B + 1]``, as Arrow's lists have them."""
    return torch.tensor([0, *accumulate(lengths)])
