"""Who is tried again and who is probed, played through without a cluster; and who is blamed, in real processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
import ray_kit
from engine_kit import job, write_shards

from robocache.engine import retry
from robocache.engine.attempts import PROBES, Attempts, Task
from robocache.engine.shards import Shard, plan_shards
from robocache.engine.source_types import resolve
from robocache.formats import list_episodes
from robocache.types import EpisodeRef

#: What a worker's end may be.
SURVIVED, DIED, NODE_LOST = range(3)


def shards(count: int, episodes: int) -> deque[Shard]:
    refs = [EpisodeRef(f"e{i}", "parquet", (), nbytes=1_000_000) for i in range(count * episodes)]
    return deque(plan_shards(refs, episodes))


def play(
    attempts: Attempts, end: Callable[[Task], int], deadly: frozenset[int] = frozenset()
) -> tuple[dict[int, set[int]], int]:
    """One worker: which shards end, with whom blamed, and how many probes that takes. ``deadly``: what probes find."""
    ended: dict[int, set[int]] = {}
    probes = 0
    while len(attempts):
        task = attempts.next()
        assert task is not None
        probes += task.suspect
        how = end(task)
        if how == DIED:
            attempts.crashed(task)
        elif how == NODE_LOST:
            attempts.put_back(task)
        elif task.suspect:
            attempts.probed(task, dict.fromkeys(deadly & remaining(task), "it kills"))
        else:
            assert task.shard.index not in ended
            ended[task.shard.index] = set(task.blamed)
    return ended, probes


def remaining(task: Task) -> set[int]:
    first = task.shard.indexes[0]
    return set(range(first, first + len(task.shard.refs))) - set(task.blamed)


@pytest.mark.parametrize("deadly", [set(), {4}, {4, 5}, {3, 4, 5}, {0, 8}])
def test_the_deadly_are_blamed_and_no_one_else(deadly):
    attempts = Attempts(shards(3, 3), max_attempts=3)
    ended, probes = play(
        attempts,
        lambda task: DIED if not task.suspect and remaining(task) & deadly else SURVIVED,
        frozenset(deadly),
    )
    assert ended == {i: deadly & set(range(3 * i, 3 * i + 3)) for i in range(3)}
    assert attempts.hopeless == []
    assert probes == len({index // 3 for index in deadly})


@pytest.mark.parametrize("deaths", [1, 2, 3, 4, 5, 12])
def test_deaths_that_pass_blame_nobody(deaths):
    """Of the workers of one shard in a row, then of those of its probe."""
    left = iter([DIED] * deaths)
    ended, probes = play(Attempts(shards(1, 4), 3), lambda _: next(left, SURVIVED))
    assert ended == {0: set()}
    assert probes == max(0, deaths - 2)


def test_lost_nodes_are_nobodys_fault():
    left = iter([NODE_LOST, DIED, NODE_LOST, DIED] + [NODE_LOST] * 20)
    assert play(Attempts(shards(1, 4), 3), lambda _: next(left, SURVIVED)) == ({0: set()}, 0)


@pytest.mark.parametrize("in_probe", [False, True])
def test_a_shard_that_kills_though_no_episode_does_is_given_up_and_holds_up_no_other(in_probe):
    attempts = Attempts(shards(3, 4), 2)
    ended, probes = play(
        attempts, lambda task: DIED if task.shard.index == 1 and (in_probe or not task.suspect) else SURVIVED
    )
    assert set(ended) == {0, 2}
    assert [task.shard.index for task in attempts.hopeless] == [1]
    assert probes == (PROBES if in_probe else 1)


def test_faults_that_pass_come_back_after_a_while(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_S", 60.0)
    attempts = Attempts(shards(1, 1), 2)
    task = attempts.next()
    assert task is not None
    assert not attempts.last(task)
    assert attempts.failed(task, OSError(5, "the disk hiccups"))
    assert attempts.next() is None
    assert len(attempts) == 1
    assert attempts.last(task)


@pytest.mark.parametrize("episodes", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_a_probe_tells_who_kills_and_how(tmp_path, episodes):
    """One kills only in company, one by a segmentation fault, one by an exit."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from robocache.engine.probe import deadly_episodes

    made = job(write_shards(tmp_path / "logs", episodes), tmp_path / "out")
    refs = list_episodes(made.input)
    ways = {
        "log_001.parquet": "exit in company",
        "log_002.parquet": "segfault",
        "log_003.parquet": "exit",
        "log_004.parquet": "segfault",
    }
    processor = ray_kit.Mortal(made, resolve(made, refs), ways=ways)
    (shard,) = plan_shards(refs, 100)
    found = {
        2: "its process ended 1 times by signal SIGSEGV while processing it alone",
        3: "its process ended 1 times by exit code 3 while processing it alone",
    }
    known = episodes - 1
    assert deadly_episodes(processor, shard, {known: "known"}, 1) == {i: why for i, why in found.items() if i != known}
