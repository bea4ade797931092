"""What is made of the manifest once all shards are in it: episode table, quarantine list, statistics, report."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from robocache.data import EpisodeRef
from robocache.dataset import parts
from robocache.dataset.statistics import Statistics
from robocache.dataset.store import Store
from robocache.engine.job import Job
from robocache.engine.output import META, Output
from robocache.engine.records import QuarantineRecord, ShardRecord
from robocache.errors import OutputError

EPISODES = f"{META}/episodes.parquet"
QUARANTINE = f"{META}/quarantine.jsonl"
STATISTICS = f"{META}/statistics.json"
REPORT = f"{META}/report.json"

_EPISODE_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("id", pa.string()),
        ("files", pa.list_(pa.string())),
        ("part", pa.string()),
        ("rows", pa.int64()),
        ("start_ns", pa.int64()),
        ("metadata", pa.string()),
        (
            "streams",
            pa.list_(
                pa.struct(
                    [
                        ("source", pa.string()),
                        ("samples", pa.int64()),
                        ("out_of_order", pa.int64()),
                        ("duplicates", pa.int64()),
                        ("non_finite", pa.int64()),
                        ("gaps", pa.int64()),
                        ("longest_gap", pa.int64()),
                        ("valid_share", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)


@dataclass(frozen=True)
class Summary:
    """The end of a run. ``skipped_shards``: committed by an earlier run and left as they were."""

    uri: str
    episodes: int
    rows: int
    parts: int
    bytes_in: int
    bytes_out: int
    shards: int
    skipped_shards: int
    seconds: float
    quarantined: tuple[QuarantineRecord, ...]
    within_limit: bool


def finish(job: Job, output: Output, refs: Sequence[EpisodeRef], skipped: int, seconds: float) -> Summary:
    """Write the tables of ``meta/robocache`` from the records, in shard order."""
    records = [output.records[i] for i in sorted(output.records)]
    store = output.store
    store.write(EPISODES, _episodes(records))
    quarantined = tuple(q for r in records for q in r.quarantined)
    store.write(QUARANTINE, "".join(f"{json.dumps(dataclasses.asdict(q))}\n" for q in quarantined).encode())
    statistics: dict[str, list[Statistics]] = {}
    for record in records:
        if record.part:
            for name, s in _part_statistics(store, record.part, job.output.format).items():
                statistics.setdefault(name, []).append(s)
    merged = {name: Statistics.merge(several).summary() for name, several in statistics.items()}
    store.write(STATISTICS, json.dumps(merged, indent=1).encode())
    result = Summary(
        output.store.uri,
        sum(len(r.episodes) for r in records),
        sum(r.rows for r in records),
        sum(bool(r.part) for r in records),
        sum(ref.nbytes for ref in refs),
        sum(r.bytes for r in records),
        len(records),
        skipped,
        seconds,
        quarantined,
        len(quarantined) <= job.max_failed_episodes,
    )
    report = {key: value for key, value in dataclasses.asdict(result).items() if key != "quarantined"}
    report |= {
        "quarantined": len(quarantined),
        "identity": job.identity(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__},
    }
    store.write(REPORT, json.dumps(report, indent=1).encode())
    return result


def _part_statistics(store: Store, part: str, format: str) -> dict[str, Statistics]:
    try:
        with store.fs.open(store.path(part), "rb") as file:
            return parts.read_statistics(pa.PythonFile(file, "r"), format)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{store.uri}/{part}: cannot be read back ({error}); delete it and run again, `robocache verify` says what "
            "else is damaged"
        ) from error


def _episodes(records: Sequence[ShardRecord]) -> pa.Buffer:
    rows = [
        {
            "episode_index": e.index,
            "id": e.id,
            "files": list(e.files),
            "part": r.part,
            "rows": e.rows,
            "start_ns": e.start_ns,
            "metadata": json.dumps(e.metadata),
            "streams": [dataclasses.asdict(s) for s in e.streams],
        }
        for r in records
        for e in r.episodes
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_EPISODE_SCHEMA), sink, compression="zstd")
    return sink.getvalue()
