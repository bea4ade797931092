"""Episodes in memory, and what the engine makes of them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from robocache.config.job import Feature, FeatureSource, Job, OutputSpec, QualitySpec, TimelineSpec
from robocache.engine import source_types
from robocache.engine.align import AlignedEpisode, Aligner
from robocache.engine.source_types import SourceTypes, resolve
from robocache.formats import InputSpec
from robocache.types import Episode, EpisodeRef, Stream

MS = 1_000_000
FIFTY = TimelineSpec(rate=Fraction(50))
USUAL = QualitySpec()
Features = dict[str, list[FeatureSource] | Feature]


def stream(times_ms, values=None, **more) -> Stream:
    times = np.round(np.asarray(times_ms) * MS).astype(np.int64)
    return Stream(times, np.asarray(times_ms, float) if values is None else values, **more)


def make(features: Features, timeline: TimelineSpec = FIFTY, quality: QualitySpec = USUAL) -> Job:
    made = tuple(f if isinstance(f, Feature) else Feature(name, tuple(f)) for name, f in features.items())
    return Job(InputSpec(("logs",)), made, timeline, OutputSpec("out"), quality=quality)


def settle(monkeypatch, job: Job, *episodes: Episode | Exception) -> SourceTypes:
    """Types as :func:`resolve` settles them from these episodes."""
    listed = {f"e{i}": e for i, e in enumerate(episodes)}

    def describe(ref, sources, spec, *, look):
        found = listed[ref.id]
        if isinstance(found, Exception):
            raise found
        return {key: s.type for key, s in found.streams.items() if key in {source.key for source in sources}}

    monkeypatch.setattr(source_types, "describe_episode", describe)
    return resolve(job, [EpisodeRef(id, "test", ()) for id in listed])


def aligned(
    monkeypatch,
    features: Features,
    streams: dict[str, Stream],
    timeline: TimelineSpec = FIFTY,
    first: dict[str, Stream] | None = None,
    quality: QualitySpec = USUAL,
) -> AlignedEpisode:
    """An episode as the engine aligns it; ``first``: the streams of the episode that settled the types."""
    job = make(features, timeline, quality)
    aligner = Aligner(job, settle(monkeypatch, job, Episode("first", first or streams)))
    found = aligner.align({7: Episode("e", streams)})[7]
    if isinstance(found, Exception):
        raise found
    return found


def align(monkeypatch, features, streams, timeline=FIFTY, first=None):
    """The table of :func:`aligned`, and its reports by source."""
    found = aligned(monkeypatch, features, streams, timeline, first)
    return found.table, {r.source: r for r in found.reports}


def texts(found: AlignedEpisode, code: str) -> list[str]:
    """What an episode's findings of one kind say."""
    return [f["text"] for f in found.quality["findings"] if f["code"] == code]
