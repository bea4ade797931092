"""Who is tried again, who is probed and who is blamed, played through without a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from robocache.data import EpisodeRef
from robocache.engine import retry
from robocache.engine.attempts import Attempts, Task
from robocache.engine.plan import Shard, plan_shards


def shards(count: int, episodes: int) -> deque[Shard]:
    refs = [EpisodeRef(f"e{i}", "parquet", (), nbytes=1_000_000) for i in range(count * episodes)]
    return deque(plan_shards(refs, episodes))


def play(attempts: Attempts, kills: Callable[[Task], bool]) -> tuple[dict[int, set[int]], int]:
    """One worker: which shards end, with whom blamed, and how many workers that cost."""
    ended: dict[int, set[int]] = {}
    deaths = 0
    while len(attempts):
        task = attempts.next()
        assert task is not None
        if kills(task):
            deaths += 1
            attempts.crashed(task)
        elif task.whole is not None:
            attempts.probed(task)
        else:
            assert task.shard.index not in ended
            ended[task.shard.index] = set(task.blamed)
    return ended, deaths


def episodes(task: Task) -> set[int]:
    first = task.shard.first_episode
    return set(range(first, first + len(task.shard.refs))) - set(task.blamed)


@pytest.mark.parametrize("deadly", [set(), {4}, {4, 5}, {3, 4, 5}, {0, 8}])
def test_the_deadly_are_blamed_and_no_one_else(deadly):
    attempts = Attempts(shards(3, 3), max_attempts=3)
    ended, _ = play(attempts, lambda task: bool(episodes(task) & deadly))
    assert ended == {i: deadly & set(range(3 * i, 3 * i + 3)) for i in range(3)}
    assert attempts.hopeless == []


def test_deaths_that_pass_blame_nobody():
    left = [5]

    def kills(task: Task) -> bool:
        left[0] -= 1
        return left[0] >= 0

    assert play(Attempts(shards(1, 4), 3), kills) == ({0: set()}, 5)


def test_a_shard_that_only_kills_as_a_whole_is_given_up_and_holds_up_no_other():
    attempts = Attempts(shards(3, 4), 2)
    ended, deaths = play(attempts, lambda task: task.shard.index == 1 and len(episodes(task)) > 1)
    assert set(ended) == {0, 2}
    assert [task.shard.index for task in attempts.hopeless] == [1]
    assert deaths == 4


def test_faults_that_pass_come_back_after_a_while(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_S", 60.0)
    attempts = Attempts(shards(1, 1), 2)
    task = attempts.next()
    assert task is not None
    assert not attempts.last(task)
    attempts.failed(task)
    assert attempts.next() is None
    assert len(attempts) == 1
    assert attempts.last(task)
