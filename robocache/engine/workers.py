"""What a mode of running gives to who runs: workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from robocache.engine.process import Processor
from robocache.engine.shards import Shard
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store
from robocache.stages import Spent

#: Processes every shard of the queue, emptying it, and has their records committed, many at once where many are ready;
#: says what that has taken.
Execute: TypeAlias = Callable[[Processor, Store, deque[Shard], Callable[[Sequence[ShardRecord]], None], Spent], None]


def _nothing(nbytes: int) -> None:
    pass


@dataclass(frozen=True)
class Workers:
    """execute: does the work
    expect:  is told how many bytes there will be to read, as soon as that is known: what takes long may begin
    """

    execute: Execute
    expect: Callable[[int], None] = _nothing
