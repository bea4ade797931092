"""The local mode's threads: the loop that feeds them costs nothing, and a stop does not wait for ever."""

from __future__ import annotations

import threading
import time
from collections import deque

import pytest
from engine_kit import job, write_shards

from robocache.config.load import to_job
from robocache.engine import local
from robocache.engine.listing import listing
from robocache.engine.process import Processor
from robocache.engine.shards import Shard, plan_shards
from robocache.output.manifest import ShardRecord
from robocache.output.store import Store


@pytest.fixture
def made(tmp_path) -> tuple[Processor, Store, deque[Shard]]:
    """Ten shards, for two threads."""
    spec = job(write_shards(tmp_path / "logs", 1), tmp_path / "out")
    (tmp_path / "out/meta/robocache").mkdir(parents=True)
    listed = listing(spec)
    shard = plan_shards(listed.episodes, 1)[0]
    shards = deque(Shard(i, (i,), shard.refs[:1]) for i in range(10))
    return Processor(spec, listed.types), Store(spec.output.uri), shards


def record(shard: Shard) -> ShardRecord:
    return ShardRecord(shard.index, "", shard.fingerprint(), (), (), ())


def test_waiting_for_the_threads_takes_no_time_from_them(made, monkeypatch):
    """Shards that only sleep: whatever the process computes meanwhile, the loop does."""
    processor, store, shards = made

    def sleep(processor, store, shard, **_):
        time.sleep(0.1)
        return record(shard)

    monkeypatch.setattr(local, "run_shard", sleep)
    committed = []
    began, computed = time.monotonic(), time.process_time()
    local.execute(processor, store, shards, committed.extend)
    took, computed = time.monotonic() - began, time.process_time() - computed
    assert sorted(r.shard for r in committed) == list(range(10))
    assert took >= 0.5  # two at a time
    assert computed < 0.2 * took


def test_what_is_in_flight_is_committed_and_a_read_that_never_returns_is_left(made, monkeypatch):
    processor, store, shards = made
    hang, quick = threading.Event(), threading.Event()

    def read(processor, store, shard, **_):
        if shard.index == 0:
            hang.wait(60)
        elif shard.index == 2:
            quick.wait(60)
        return record(shard)

    committed = []

    def commit(records):
        committed.extend(records)
        if not quick.is_set():
            quick.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(local, "run_shard", read)
    monkeypatch.setattr(local, "STOP_S", 0.5)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        local.execute(processor, store, shards, commit)
    assert time.monotonic() - began < 5
    hang.set()
    done = {r.shard for r in committed}
    assert {1, 2} <= done and 0 not in done
    assert len(done) < 6  # the rest was not begun


def test_a_card_is_taken_where_it_pays(tmp_path):
    def made(threads: int, **feature: object) -> bool:
        features = {"a": "/a"} | ({"cloud": {"source": "/c", **feature}} if feature else {})
        mapping = {"input": {"uri": str(tmp_path)}, "output": {"uri": "/nowhere"}, "features": features}
        return local.card_pays(to_job({**mapping, "timeline": {"rate_hz": 10}, "compute": {"threads": threads}}))

    assert made(4)
    assert not made(16)
    assert made(16, voxelize={"size": 0.1, "bounds": [[0, 0, 0], [1, 1, 1]]})
