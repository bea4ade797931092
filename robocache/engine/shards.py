"""Cut the input into shards: the same listing, config and earlier version give the same shards, whoever runs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robocache.output.plan import Plan, PlannedEpisode
from robocache.types import EpisodeRef


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work and of retry: episodes, in order of their numbers, whose rows make parts of their own.

    indexes: ``episode_index`` of each; refs: where they are
    """

    index: int
    indexes: tuple[int, ...]
    refs: tuple[EpisodeRef, ...]

    def episodes(self) -> Iterator[tuple[int, EpisodeRef]]:
        """Each with its number."""
        return zip(self.indexes, self.refs, strict=True)

    def unblamed(self, blamed: Container[int]) -> list[EpisodeRef]:
        """Those of its episodes whose number is not ``blamed``."""
        return [ref for index, ref in self.episodes() if index not in blamed]

    def fingerprint(self) -> str:
        """Hash of what it reads: number, id and stamp of its episodes."""
        content = [(index, ref.id, stamp(ref)) for index, ref in self.episodes()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def stamp(ref: EpisodeRef) -> str:
    """Hash of what an episode is read from: its key, and name, size and version of its files, wherever they lie; or its
    content, wherever that stands in which file.
    """
    deciding = ref.files[:1] if ref.context else ref.files
    files = [(file.uri.rpartition("/")[2], file.size, file.version) for file in deciding]
    if ref.content:
        files = []
    failure = ref.failure
    for file in ref.files:
        failure = failure.replace(file.uri, file.uri.rpartition("/")[2])
    content: list[Any] = [ref.format, files, ref.content or ref.key, failure, ref.tables, ref.context, ref.take]
    if ref.segment is not None or ref.prefix:  # others have the stamp that they had before there were segments
        segment = ref.segment
        content += [ref.prefix, segment and [segment.begin, segment.end, segment.metadata]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def plan_shards(refs: Sequence[EpisodeRef], shard_mb: float) -> list[Shard]:
    """Of a dataset that is made at once: episodes in their order, numbered from 0."""
    return _cut(list(enumerate(refs)), shard_mb, 0)


def lay_out(
    refs: Sequence[EpisodeRef],
    shard_mb: float,
    *,
    identity: str,
    known: Plan | None = None,
    begun: Plan | None = None,
    anew: bool = False,
    splits: Mapping[str, str] | None = None,
) -> tuple[Plan, list[Shard]]:
    """What a run is to do with a listing in natural order of its ids. Numbers are given once, new ones are the next. A
    shard keeps its episodes, less those that are gone; new ones make new shards, a new one once the last holds
    ``shard_mb`` MB (1e6 bytes) of input.

    known: the plan of the version that stands; begun: of one that a run which died has begun, after ``known``
    anew:  all shards are cut anew; splits: by id
    """
    before = {e.id: replace(e, shard=None) if anew else e for e in (known.episodes if known else ())}
    before |= {e.id: e for e in (begun.episodes if begun else ())}
    following = max((e.index for e in before.values()), default=-1) + 1
    members: dict[int, list[tuple[int, EpisodeRef]]] = {}
    fresh: list[tuple[int, EpisodeRef]] = []
    for ref in refs:
        was = before.get(ref.id)
        index = following if was is None else was.index
        following += was is None
        shard = None if was is None else was.shard
        (fresh if shard is None else members.setdefault(shard, [])).append((index, ref))
    shards = [Shard(i, *_columns(sorted(some, key=_first))) for i, some in sorted(members.items())]
    first = max((e.shard for e in before.values() if e.shard is not None), default=-1) + 1
    shards += _cut(sorted(fresh, key=_first), shard_mb, first)
    splits = splits or {}
    planned = [
        PlannedEpisode(index, ref.id, shard.index, stamp(ref), splits.get(ref.id, ""))
        for shard in shards
        for index, ref in shard.episodes()
    ]
    there = {e.id for e in planned}
    planned += [PlannedEpisode(e.index, e.id) for e in (known.episodes if known else ()) if e.id not in there]
    return Plan(identity, tuple(sorted(planned, key=lambda e: e.index))), shards


def _cut(episodes: Sequence[tuple[int, EpisodeRef]], shard_mb: float, first: int) -> list[Shard]:
    """Shards numbered from ``first``."""
    shards: list[Shard] = []
    begin, size = 0, 0
    for place, (_, ref) in enumerate(episodes):
        size += ref.nbytes
        if size >= shard_mb * 1_000_000 or place == len(episodes) - 1:
            shards.append(Shard(first + len(shards), *_columns(episodes[begin : place + 1])))
            begin, size = place + 1, 0
    return shards


def _columns(episodes: Sequence[tuple[int, EpisodeRef]]) -> tuple[tuple[int, ...], tuple[EpisodeRef, ...]]:
    return tuple(index for index, _ in episodes), tuple(ref for _, ref in episodes)


def _first(episode: tuple[int, EpisodeRef]) -> int:
    return episode[0]
