"""Cut the input into shards: the same listing and config give the same shards, whoever runs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from robocache.output.commit import Planned
from robocache.output.layout import part_name
from robocache.types import EpisodeRef


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work and of retry: episodes ``first_episode ...`` of the listing, which make one part."""

    index: int
    first_episode: int
    refs: tuple[EpisodeRef, ...]

    def part(self, format: str) -> str:
        """Name of its part below the output, the same on every run."""
        return part_name(self.index, format)

    def planned(self, format: str) -> Planned:
        """As the output's plan has it."""
        ids = tuple(ref.id for ref in self.refs)
        return Planned(self.index, self.part(format), self.fingerprint(), self.first_episode, ids)

    def fingerprint(self) -> str:
        """Hash of what it reads: episodes, and path, size and version of their files."""
        content = [
            self.first_episode,
            [
                (
                    r.id,
                    r.format,
                    [(f.uri, f.size, f.version) for f in r.files],
                    r.key,
                    r.nbytes,
                    r.failure,
                    r.tables,
                    r.take,
                )
                for r in self.refs
            ],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def plan_shards(refs: Sequence[EpisodeRef], shard_mb: float) -> list[Shard]:
    """Consecutive episodes, a new shard once the last holds ``shard_mb`` MB (1e6 bytes) of input."""
    shards: list[Shard] = []
    begin, size = 0, 0
    for index, ref in enumerate(refs):
        size += ref.nbytes
        if size >= shard_mb * 1_000_000 or index == len(refs) - 1:
            shards.append(Shard(len(shards), begin, tuple(refs[begin : index + 1])))
            begin, size = index + 1, 0
    return shards
