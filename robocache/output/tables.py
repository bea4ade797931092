"""What is made of the manifest once all shards are in it: episode table, quarantine list, statistics, report."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import OutputError
from robocache.output import layout, statistics
from robocache.output.commit import OutputWriter
from robocache.output.layout import EPISODES, QUARANTINE, REPORT, STATISTICS
from robocache.output.manifest import QuarantineRecord, ShardRecord
from robocache.output.statistics import Statistics
from robocache.types import Gathered, PassedOver

_GROUP = 4096
#: Parts whose statistics are read at the same time.
_PARTS = 64

#: Files passed over that a report names.
_PASSED_OVER = 1000

EPISODE_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("id", pa.string()),
        ("files", pa.list_(pa.string())),
        ("part", pa.string()),
        ("rows", pa.int64()),
        ("start_ns", pa.int64()),
        ("metadata", pa.string()),
        ("quality", pa.string()),
        (
            "streams",
            pa.list_(
                pa.struct(
                    [
                        ("source", pa.string()),
                        ("samples", pa.int64()),
                        ("late", pa.int64()),
                        ("late_by", pa.int64()),
                        ("duplicates", pa.int64()),
                        ("non_finite", pa.int64()),
                        ("dropped", pa.int64()),
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
    """The end of a run.

    skipped_shards: committed by an earlier run and left as they were
    kept:           mean share of the recordings that their timelines kept
    findings:       what a person must know of the episodes, the worst kinds first
    notes:          what a person must know of the run: of the columns, of files passed over
    passed_over:    the files of the input that no reader takes, the first thousand of them
    """

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
    kept: float = 1.0
    findings: tuple[Gathered, ...] = ()
    notes: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()


def finish(
    output: OutputWriter,
    *,
    bytes_in: int,
    skipped: int,
    seconds: float,
    max_failed: int,
    kept: float,
    findings: Sequence[Gathered],
    notes: Sequence[str],
    passed_over: Sequence[PassedOver],
) -> Summary:
    """Write the tables of ``meta/robocache`` from the records, in shard order.

    skipped: shards that an earlier run committed; max_failed: how many quarantined episodes still count as success;
    kept, findings, notes, passed_over: see :class:`Summary`
    """
    shards = output.committed.values()
    output.write(EPISODES, _episodes(output.records()))
    quarantined = tuple(q for r in output.records() for q in r.quarantined)
    output.write(QUARANTINE, quarantine_lines(quarantined))
    total: dict[str, Statistics] = {}
    for found in _part_statistics(output):
        total = statistics.merged([total, found])
    output.write(STATISTICS, json.dumps({name: s.summary() for name, s in total.items()}, indent=1).encode())
    result = Summary(
        output.store.uri,
        sum(c.episodes for c in shards),
        sum(c.rows for c in shards),
        sum(bool(c.part) for c in shards),
        bytes_in,
        sum(c.bytes for c in shards),
        len(shards),
        skipped,
        seconds,
        quarantined,
        len(quarantined) <= max_failed,
        kept,
        tuple(findings),
        tuple(notes),
        tuple(passed_over[:_PASSED_OVER]),
    )
    report = {key: value for key, value in dataclasses.asdict(result).items() if key != "quarantined"}
    report |= {
        "quarantined": len(quarantined),
        "identity": output.identity,
        "versions": {"python": platform.python_version(), "torch": version("torch"), "pyarrow": pa.__version__},
    }
    output.write(REPORT, json.dumps(report, indent=1).encode())
    return result


def quarantine_lines(quarantined: Iterable[QuarantineRecord]) -> bytes:
    """What ``QUARANTINE`` holds."""
    return "".join(f"{json.dumps(dataclasses.asdict(q))}\n" for q in quarantined).encode()


def _part_statistics(output: OutputWriter) -> Iterator[dict[str, Statistics]]:
    """Of each part, in shard order, many at a time."""
    names = (layout.statistics_name(c.part) for _, c in sorted(output.committed.items()) if c.part)
    while group := list(islice(names, _PARTS)):
        for name, data in zip(group, output.store.read_many(group), strict=True):
            try:
                yield statistics.decode(data)[1]
            except (OSError, ValueError) as error:
                raise OutputError(
                    f"{output.store.uri}/{name}: cannot be read back ({error}); delete it and run again, "
                    "`robocache verify` says what else is damaged"
                ) from error


def _episodes(records: Iterable[ShardRecord]) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, EPISODE_SCHEMA, compression="zstd") as writer:
        for table in episode_tables(records):
            writer.write_table(table)
    return sink.getvalue()


def episode_tables(records: Iterable[ShardRecord]) -> Iterator[pa.Table]:
    """The episode table, a few thousand episodes at a time: their Python form is never all in memory."""
    rows = (
        {
            "episode_index": e.index,
            "id": _utf8(e.id),
            "files": [_utf8(file) for file in e.files],
            "part": r.part,
            "rows": e.rows,
            "start_ns": e.start_ns,
            "metadata": json.dumps(e.metadata),
            "quality": json.dumps(e.quality),
            "streams": [{**s, "source": _utf8(s["source"])} for s in e.streams],
        }
        for r in records
        for e in r.episodes
    )
    while group := list(islice(rows, _GROUP)):
        yield pa.Table.from_pylist(group, schema=EPISODE_SCHEMA)


def _utf8(text: str) -> str:
    """Escaped where it is no text: a file name that is not UTF-8, half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()
