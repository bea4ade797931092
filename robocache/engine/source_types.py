"""What each source and feature is, settled once for the whole dataset: from the first episodes that tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from robocache.config.job import Feature, Job
from robocache.engine.retry import with_retries
from robocache.errors import ConfigError, InputError, MissingError
from robocache.formats import read_episode
from robocache.ops.modes import WIDTHS
from robocache.output.schema import FeatureType
from robocache.types import EpisodeRef, Stream

_SELECTING = ("nearest", "previous", "next")


@dataclass(frozen=True, slots=True)
class SourceType:
    """``kind``: float, bytes or text; ``shape`` of one sample; ``seen_in``: the episode that told."""

    kind: str
    shape: tuple[int, ...]
    seen_in: str

    @property
    def width(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def source_type(stream: Stream, episode_id: str) -> SourceType:
    """The type of a stream as it was read."""
    if isinstance(stream.values, np.ndarray):
        return SourceType("float", tuple(stream.values.shape[1:]), episode_id)
    text = pa.types.is_string(stream.values.type) or pa.types.is_large_string(stream.values.type)
    return SourceType("text" if text else "bytes", (), episode_id)


def resolve(job: Job, refs: Sequence[EpisodeRef]) -> dict[str, SourceType]:
    """Read episodes until every source is known; empty where none of them can be read.

    ``ConfigError`` where a source, or the time that the config names, is in no episode that can be opened, or a source
    cannot be aligned as the config says; ``OSError`` where no episode can be read and the storage is why.
    """
    types: dict[str, SourceType] = {}
    empty: dict[str, SourceType] = {}  # a stream without samples need not know its width: second best
    tried: list[str] = []
    missing = ""
    storage: OSError | None = None
    for ref in refs:
        if ref.failure:
            continue
        try:
            read = partial(read_episode, ref, job.sources, job.input)
            episode = with_retries(job.cluster.max_attempts, f"episode {ref.id}", read)
        except MissingError as error:
            missing = missing or str(error)
            continue
        except InputError:
            continue  # processing its shard will quarantine it
        except OSError as error:
            storage = error
            continue
        tried.append(ref.id)
        for source, stream in episode.streams.items():
            (types if len(stream.times) else empty).setdefault(source, source_type(stream, ref.id))
        if len(types) == len(job.sources):
            break
    if not tried:
        if missing:
            raise ConfigError([f"no episode has all that the config names; the first: {missing}"])
        if storage is not None:
            raise storage
        return {}
    types = empty | types
    problems = []
    for feature in job.features:
        for k, s in enumerate(feature.sources):
            where = f"features.{feature.name}[{k}]"
            found = types.get(s.source)
            if found is None:
                problems.append(
                    f"{where}.source: {s.source} is in none of {len(tried)} episodes (first: {tried[0]}); "
                    "`robocache inspect` lists what they have"
                )
            elif found.kind != "float" and s.align not in _SELECTING:
                problems.append(
                    f"{where}.align: {s.align} cannot combine the {found.kind} of {s.source}; "
                    f"use one of {', '.join(_SELECTING)}"
                )
            elif found.kind != "float" and len(feature.sources) > 1:
                problems.append(f"{where}.source: {s.source} holds {found.kind}; it needs a feature of its own")
            elif found.width != WIDTHS.get(s.align, found.width):
                problems.append(
                    f"{where}.align: {s.align} takes {WIDTHS[s.align]} columns, {s.source} has {found.width}"
                )
        widths = [types[s.source] for s in feature.sources if s.source in types]
        if len(widths) == len(feature.sources) and not any(t.kind != "float" or t.width for t in widths):
            seen = ", ".join(f"{list(t.shape)} in {t.seen_in}" for t in widths)
            sources = ", ".join(s.source for s in feature.sources)
            problems.append(f"features.{feature.name}: {sources} has no columns ({seen}); leave the feature out")
    reference = job.timeline.reference
    if reference is not None and reference not in types:
        problems.append(f"timeline.reference: {reference} is in none of {len(tried)} episodes (first: {tried[0]})")
    if problems:
        raise ConfigError(problems)
    return types


def feature_types(features: Sequence[Feature], types: Mapping[str, SourceType]) -> list[FeatureType]:
    """Output columns: a lone source keeps its shape, several lie side by side."""
    columns = []
    for feature in features:
        found = [types[s.source] for s in feature.sources]
        if len(found) == 1:
            columns.append(FeatureType(feature.name, found[0].kind, found[0].shape))
        else:
            columns.append(FeatureType(feature.name, "float", (sum(t.width for t in found),)))
    return columns
