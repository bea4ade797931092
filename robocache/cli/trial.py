"""Trying features on recordings as a run would, so that a config that is suggested runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from robocache.config.job import Feature, Job
from robocache.config.load import job_from_mapping
from robocache.config.reading import literal
from robocache.engine.prepare import Prepared, Preparer
from robocache.engine.source_types import resolve
from robocache.engine.takes import split_takes, take
from robocache.errors import ConfigError, InputError, TooLargeError
from robocache.formats import InputSpec, describe_episode, read_episode
from robocache.types import Episode, EpisodeRef, Stream, StreamType


def described(ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> tuple[dict[str, StreamType], dict[str, str]]:
    """The types of sources that the recording has, and why others cannot be had."""
    return _each(sources, lambda some: describe_episode(ref, some, spec, look=True))


def streams_of(ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> tuple[dict[str, Stream], dict[str, str]]:
    """The streams of sources that the recording has, and why others cannot be read."""
    return _each(sources, lambda some: dict(read_episode(ref, some, spec).streams))


def _each(
    sources: Sequence[str], ask: Callable[[Sequence[str]], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Answers in one go; where that fails by halves, so that what cannot be had hides nothing else."""
    if not sources:
        return {}, {}
    try:
        return ask(sources), {}
    except InputError as error:
        if len(sources) == 1:
            return {}, {sources[0]: str(error)}
    half = len(sources) // 2
    (a, b), (c, d) = _each(sources[:half], ask), _each(sources[half:], ask)
    return a | c, b | d


class Trial:
    """Recordings that features are tried on; of those of up to ``most`` bytes the values too, which are read once."""

    def __init__(self, spec: InputSpec, input: Mapping[str, Any], refs: Sequence[EpisodeRef], most: int):
        self._spec, self._input, self._refs, self._most = spec, input, refs, most
        self._read: dict[str, Episode] = {}
        self._features: dict[str, Feature] = {}

    def refused(self, features: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Why a run would refuse features, by their names."""
        if not features:
            return {}
        try:
            self._prepare(features, self._anchored(features), "sort")
        except ConfigError as error:
            reason = error.problems[0]
        except InputError as error:
            reason = str(error)
        else:
            return {}
        if len(features) == 1:
            (name,) = features
            return {name: reason.removeprefix(f"features.{name}[0].").removeprefix(f"features.{name}: ")}
        names = list(features)
        half = len(names) // 2
        parts = ({name: features[name] for name in some} for some in (names[:half], names[half:]))
        refused = [self.refused(part) for part in parts]
        return refused[0] | refused[1]

    def kept(
        self, features: Mapping[str, Mapping[str, Any]], timeline: Mapping[str, Any], on_restart: str
    ) -> tuple[float, str] | None:
        """The share of the recordings that a timeline keeps at least, and what cuts it; None where no values are read.

        ``MemoryError`` where the rows do not fit, ``InputError`` where there are none.
        """
        try:
            found = self._prepare(features, timeline, on_restart)
        except TooLargeError as error:
            raise MemoryError(str(error)) from None
        if not found:
            return None
        worst = min((p.timeline for p in found), key=lambda t: t.kept)
        return worst.kept, " and ".join(source for source in worst.cut_by if source)

    def _anchored(self, features: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """A timeline that every feature bears: the stamps of one that moves, over all of the recording."""
        moving = [str(m["source"]) for m in features.values() if not m.get("static")]
        return {"reference": (moving or [str(next(iter(features.values()))["source"])])[0], "range": "union"}

    def _prepare(
        self, features: Mapping[str, Mapping[str, Any]], timeline: Mapping[str, Any], on_restart: str
    ) -> list[Prepared]:
        job = self._job(features, timeline, on_restart)
        types = resolve(job, self._refs)
        if not types.types:
            raise InputError("no recording of it can be opened")
        preparer, out = Preparer(job, types), []
        for whole in self._refs:
            if whole.nbytes > self._most:
                continue
            episode = self._episode(whole, job)
            for ref in split_takes(job, types, [whole]) if on_restart == "split" else [whole]:
                one = episode if ref.take is None else take(episode, ref.take, job.quality.max_late)
                out.append(preparer.prepare(one))
        return out

    def _episode(self, ref: EpisodeRef, job: Job) -> Episode:
        known = self._read.get(ref.id)
        wanted = [source for source in job.sources if known is None or source.key not in known.streams]
        if known is None or wanted:
            read = read_episode(ref, wanted, job.input)
            streams = {**(known.streams if known else {}), **read.streams}
            known = self._read[ref.id] = Episode(ref.id, streams, read.metadata, read.notes)
        keys = {source.key for source in job.sources}
        return Episode(ref.id, {k: s for k, s in known.streams.items() if k in keys}, known.metadata, known.notes)

    def _job(self, features: Mapping[str, Mapping[str, Any]], timeline: Mapping[str, Any], on_restart: str) -> Job:
        """The job of a config that has these features; the features themselves are parsed once."""
        new = {name: dict(m) for name, m in features.items() if name not in self._features}
        first = next(iter(features))
        config = {
            "input": {**self._input, "on_restart": on_restart},
            "features": new or {first: dict(features[first])},
            "timeline": dict(timeline),
            "output": {"uri": "/nowhere/robocache"},
        }
        job = job_from_mapping(literal(config))
        self._features |= {feature.name: feature for feature in job.features}
        return replace(job, features=tuple(self._features[name] for name in features))
