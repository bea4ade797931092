"""Ray metrics of a run; docs/deployment/README.md lists them, and those that the workers have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ray.util.metrics import Counter

from robocache.output.manifest import ShardRecord


def counting(commit: Callable[[Sequence[ShardRecord]], None]) -> Callable[[Sequence[ShardRecord]], None]:
    """``commit``, which then counts what it committed.

    Here in the driver, and not where the work is done: a worker may die between counting and the commit, and its shard
    be done again.
    """
    counters = {n: Counter(f"robocache_{n}", f"{n} committed") for n in ("rows", "bytes", "shards", "quarantined")}

    def commit_and_count(records: Sequence[ShardRecord]) -> None:
        commit(records)
        counts = {
            "rows": sum(r.rows for r in records),
            "bytes": sum(part.bytes for r in records for part in r.parts),
            "shards": len(records),
            "quarantined": sum(len(r.quarantined) for r in records),
        }
        for name, count in counts.items():
            if count:  # Ray's counters refuse 0
                counters[name].inc(count)

    return commit_and_count
