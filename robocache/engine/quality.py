"""What a person must know of an episode although its rows were made, and of a run: findings, thresholds, summary lines.

A finding has a code, the source or feature that it is about, and a sentence that says what was found and what would
change it. Those of all episodes are gathered by code and subject, so that a run of ten thousand recordings says each
thing once, with the number of episodes and the worst of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from robocache.config.job import QualitySpec
from robocache.engine.timeline import NANOSECONDS, Timeline
from robocache.types import Finding, Gathered, StreamReport

#: The kinds of findings, in the order in which a summary tells them.
CODES = {
    "lost": "a damaged recording was read as far as it goes (`input.salvage`)",
    "kept": "the timeline leaves out much of the recording",
    "valid": "a feature has few valid rows",
    "idle": "rows in which nothing moves were left out (`timeline.trim`)",
    "absent": "an optional source is not in a recording",
    "missing_names": "a recording lacks a joint, or another of the dataset's columns",
    "never_finite": "a column never holds a finite number",
    "dropped": "many samples cannot be used",
    "non_finite": "samples hold a NaN or an infinity",
    "late": "samples were recorded late",
    "duplicates": "samples repeat a stamp",
    "gap": "a stream pauses for long",
    "clock": "stamps were exchanged, continued or of a doubtful unit; messages not taken, or brought to an order",
    "wraps": "a column jumps by a whole turn",
    "rounded": "the column's type rounds what was measured",
    "overflow": "numbers do not fit the column's type",
    "points": "points of clouds are in no voxel",
}
#: From this share on the timeline is said to keep the recording.
_WHOLE = 0.95
#: A pause of all streams that is at least this long and this share of the recording is told.
_PAUSE_S, _PAUSE_SHARE = 10.0, 0.1


def check_episode(
    spec: QualitySpec, timeline: Timeline, reports: Sequence[StreamReport], valid: Mapping[str, float]
) -> list[Finding]:
    """What the timeline, the streams and the columns of an episode have to tell; ``failed`` where a threshold is not
    held. ``valid``: shares of the rows, by feature, of those whose sources are all there.
    """
    out = []
    if timeline.kept < _WHOLE:
        cut = [
            f"{source} {does} {lost / NANOSECONDS:.1f} s {when}"
            for source, lost, does, when in zip(
                timeline.cut_by, timeline.lost, ("begins", "ends"), ("late", "early"), strict=True
            )
            if source
        ]
        text = (
            f"the timeline keeps {timeline.kept:.1%} of the recording: {', '.join(cut)}; static: true, align: previous "
            "or timeline.range: union would keep more"
        )
        out.append(Finding("kept", "", text, 1 - timeline.kept, timeline.kept < spec.min_kept))
    for name, share in valid.items():
        if share < spec.min_valid:
            out.append(Finding("valid", name, f"{name}: {share:.1%} of the rows are valid", 1 - share, True))
    span = (int(timeline.times[-1]) - int(timeline.times[0])) / NANOSECONDS
    for r, name in _alike(reports):
        if r.dropped > spec.max_dropped * r.samples:
            text = f"{name}: {r.dropped} of {r.samples} samples cannot be used"
            out.append(Finding("dropped", name, text, r.dropped / r.samples, True))
        if r.non_finite:
            text = f"{name}: {r.non_finite} of {r.samples} samples hold a NaN or an infinity and were left out"
            out.append(Finding("non_finite", name, text, r.non_finite / r.samples))
        if r.late:
            text = f"{name}: {r.late} of {r.samples} samples came late, by up to {_duration(r.late_by)}"
            out.append(Finding("late", name, text, r.late_by / NANOSECONDS))
        if r.duplicates:
            text = f"{name}: {r.duplicates} of {r.samples} samples repeat the stamp of the one before"
            out.append(Finding("duplicates", name, text, r.duplicates / r.samples))
        pause = r.longest_gap / NANOSECONDS
        if pause > _PAUSE_S and pause > _PAUSE_SHARE * span:
            text = f"{name}: has a gap of {_duration(r.longest_gap)}; rows in it hold nothing measured"
            out.append(Finding("gap", name, text, pause))
    return out


def _alike(reports: Sequence[StreamReport]) -> Iterator[tuple[StreamReport, str]]:
    """Streams with samples; fields of one message, of which the same is to be said, as one with all their names."""
    together: dict[tuple[Any, ...], list[StreamReport]] = {}
    for r in reports:
        if r.samples:
            said = (r.samples, r.late, r.late_by, r.duplicates, r.non_finite, r.dropped, r.longest_gap)
            together.setdefault((r.source.split(".")[0], *said), []).append(r)
    for same in together.values():
        names = [r.source for r in same]
        yield same[0], names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def record(timeline: Timeline, valid: Mapping[str, float], findings: Sequence[Finding]) -> dict[str, Any]:
    """The quality record of an episode, as JSON values: it stands in the manifest and the episode table."""
    return {
        "kept": round(timeline.kept, 6),
        "lost_ns": list(timeline.lost),
        "cut_by": list(timeline.cut_by),
        "valid": {name: round(share, 6) for name, share in valid.items()},
        "findings": [asdict(f) for f in findings],
    }


#: The code of what a reader has done to a stream, which may be several things.
_NOTES = "clock"


class Gathering:
    """Findings of the episodes of a run, by code and subject, notes by what they say but for the numbers; grows with
    the kinds of findings, not with the run."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], tuple[int, int, float, str, str]] = {}
        self._episodes = 0
        self._kept = 0.0

    def add(self, episode: str, quality: Mapping[str, Any]) -> None:
        """An episode's quality record."""
        self._episodes += 1
        self._kept += float(quality.get("kept", 1.0))
        for f in quality.get("findings", ()):
            note = re.sub(r"[0-9][0-9.,]*", "", str(f["text"])) if f["code"] == _NOTES else ""
            key = (str(f["code"]), str(f["subject"]), note)
            count, failed, share, worst, text = self._found.get(key, (0, 0, -1.0, "", ""))
            if float(f["share"]) > share:
                share, worst, text = float(f["share"]), episode, str(f["text"])
            self._found[key] = (count + 1, failed + bool(f["failed"]), share, worst, text)

    @property
    def kept(self) -> float:
        """Mean share of the recordings that their timelines kept."""
        return self._kept / self._episodes if self._episodes else 1.0

    def lines(self) -> list[Gathered]:
        """In the order of ``CODES``, those that break a threshold first."""
        order = list(CODES)
        all_ = [
            Gathered(code, subject, count, worst, text, failed)
            for (code, subject, _), (count, failed, _, worst, text) in self._found.items()
        ]
        return sorted(
            all_, key=lambda g: (not g.failed, order.index(g.code) if g.code in order else len(order), g.subject)
        )


def gather(records: Iterable[tuple[str, Mapping[str, Any]]]) -> Gathering:
    """Of episodes given as (id, quality record)."""
    out = Gathering()
    for episode, quality in records:
        out.add(episode, quality)
    return out


def _duration(ns: int) -> str:
    if ns < 1_000_000:
        return f"{ns / 1000:.3g} us"
    if ns < NANOSECONDS:
        return f"{ns / 1e6:.3g} ms"
    seconds = ns / NANOSECONDS
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 3600:.2f} h"
