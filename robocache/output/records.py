"""The manifest's records: what one finished shard says of its part, its episodes and its quarantine."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from robocache.types import StreamReport


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """An episode in the output. ``start_ns``: its first target time."""

    index: int
    id: str
    files: tuple[str, ...]
    rows: int
    start_ns: int
    streams: tuple[StreamReport, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuarantineRecord:
    """An episode that is not in the output, and why. ``retry``: the fault may pass, the next run tries it again."""

    index: int
    id: str
    files: tuple[str, ...]
    reason: str
    retry: bool = False


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A committed shard. ``part`` is empty where no episode of it could be used."""

    shard: int
    identity: str
    fingerprint: str
    part: str
    rows: int
    bytes: int
    sha256: str
    episodes: tuple[EpisodeRecord, ...]
    quarantined: tuple[QuarantineRecord, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> ShardRecord:
        data = json.loads(line)
        data["episodes"] = tuple(
            EpisodeRecord(**e | {"files": tuple(e["files"]), "streams": tuple(StreamReport(**s) for s in e["streams"])})
            for e in data["episodes"]
        )
        data["quarantined"] = tuple(QuarantineRecord(**q | {"files": tuple(q["files"])}) for q in data["quarantined"])
        return cls(**data)
