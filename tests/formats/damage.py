"""Damage a file in many ways and insist that a reader answers with InputError or with an episode, nothing else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, list_episodes, list_streams, read_episode
from robocache.types import EpisodeRef


def damaged(content: bytes, tries: int, seed: int = 0) -> Iterator[bytes]:
    """Truncations, flipped bits (half of them near the ends, where formats keep their structure), zeroed runs."""
    rng = random.Random(seed)
    for _ in range(tries):
        data = bytearray(content)
        kind = rng.choice(["truncate", "flip", "flip", "flip", "zero", "swap"])
        if kind == "truncate":
            del data[rng.randrange(len(data)) :]
        elif kind == "flip":
            for _ in range(rng.choice([1, 3, 30, 300])):
                near = min(len(data), 4096)
                where = rng.choice([rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)])
                data[where] ^= 1 << rng.randrange(8)
        elif kind == "zero":
            start = rng.randrange(len(data))
            data[start : start + 512] = bytes(len(data[start : start + 512]))
        else:
            start, other = rng.randrange(len(data)), rng.randrange(len(data))
            data[start : start + 64] = data[other : other + len(data[start : start + 64])]
        yield bytes(data)


def outcomes(
    path: Path,
    sources: list[str],
    tries: int,
    *,
    root: Path | None = None,
    times: TableTimes | None = None,
    seed: int = 0,
    salvage: bool = False,
) -> Counter[str]:
    """How often a recording was read and how often refused while one file of it, ``path``, was damaged.

    Any other exception escapes and fails the test.
    """
    named, content, seen = str(root or path), path.read_bytes(), Counter[str]()
    spec = InputSpec((named,), times=times, salvage=salvage)
    for data in damaged(content, tries, seed):
        path.write_bytes(data)
        refs = list_episodes(spec)
        assert refs
        for ref in refs[:3]:
            seen[_outcome(ref, sources, spec)] += 1
    path.write_bytes(content)
    return seen


def _outcome(ref: EpisodeRef, sources: list[str], spec: InputSpec) -> str:
    """``read``, or ``refused`` with a message that names the recording."""
    try:
        list_streams(ref, spec)
        read_episode(ref, sources, spec)
    except InputError as error:
        return "refused" if spec.uri[0] in str(error) else f"does not name the file: {error}"
    return "read"
