"""Target times of an episode: integer nanoseconds throughout, so that no rate drifts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robocache.config.job import TimelineSpec
from robocache.errors import InputError
from robocache.types import rate_times

NANOSECONDS = 1_000_000_000
#: A fixed rate may give this many rows, or ROWS_PER_SAMPLE for each sample; beyond that a stamp is damaged.
PLAUSIBLE_ROWS, ROWS_PER_SAMPLE = 1_000_000, 1_000


def target_times(spec: TimelineSpec, stamps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The timeline of an episode, int64 ``[T]``, T >= 1.

    stamps: sorted int64 stamps of each source on the common clock (its offset added). Empty ones have no say.
    ``InputError`` where the streams leave no target: none has a sample, or they do not overlap.
    """
    spans = {source: (int(t[0]), int(t[-1])) for source, t in stamps.items() if len(t)}
    if not spans:
        raise InputError(f"no source has a sample ({', '.join(stamps)})")
    pick = (max, min) if spec.range == "intersection" else (min, max)
    start = pick[0](first for first, _ in spans.values())
    stop = pick[1](last for _, last in spans.values())
    if start > stop:
        late = max(spans, key=lambda s: spans[s][0])
        early = min(spans, key=lambda s: spans[s][1])
        gap = (spans[late][0] - spans[early][1]) / NANOSECONDS
        raise InputError(
            f"the streams do not overlap: {late} begins {gap:.3f} s after {early} ends; "
            "set an offset if their clocks differ, or timeline.range: union"
        )
    if spec.reference is not None:
        own = stamps[spec.reference]
        targets = own[(own >= start) & (own <= stop)]
        if not len(targets):
            raise InputError(f"reference {spec.reference} has no stamp in the range of the other streams")
        return targets
    assert spec.rate is not None  # the config has one of the two
    count = int((stop - start) * spec.rate / NANOSECONDS) + 2
    samples = sum(len(t) for t in stamps.values())
    if count > max(PLAUSIBLE_ROWS, ROWS_PER_SAMPLE * samples):
        raise InputError(
            f"{samples} samples over {(stop - start) / NANOSECONDS:,.0f} s would make {count:,} rows at "
            f"{float(spec.rate):g} Hz; a stamp is damaged, or the unit of time is wrong"
        )
    targets = start + rate_times(count, spec.rate)
    return targets[targets <= stop]
