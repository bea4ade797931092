"""What is made of the records of a version: episode table, quarantine list, statistics; and what a run tells."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import OutputError
from robocache.output import layout, statistics
from robocache.output.layout import EPISODES, QUARANTINE, STATISTICS
from robocache.output.manifest import QuarantineRecord, ShardRecord
from robocache.output.plan import Plan
from robocache.output.statistics import Statistics
from robocache.output.store import Store
from robocache.types import Gathered, PassedOver

_GROUP = 4096
#: Parts whose statistics are read at the same time.
_PARTS = 64

#: Files passed over that a report names.
PASSED_OVER = 1000

EPISODE_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("id", pa.string()),
        ("split", pa.string()),
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
    version:        the newest; is_new: whether this run has made it
    changes:        episodes by what has become of them since the version before: new, changed, withdrawn, kept
    workers:        threads of this process, or processes of a cluster
    stages:         seconds that they spent at each stage, all together, see :mod:`robocache.stages`
    peak_bytes:     the most memory that a process of theirs has held, 0 where that is not known
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
    version: int = 0
    is_new: bool = True
    changes: Mapping[str, int] = field(default_factory=dict)
    workers: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0

    @property
    def bound_by(self) -> str:
        """The stage that took most of the time; empty where nothing was done."""
        return max(self.stages, key=lambda stage: self.stages[stage], default="")


def make(
    store: Store,
    records: Callable[[], Iterator[ShardRecord]],
    plan: Plan,
    names: Sequence[str] = (EPISODES, QUARANTINE, STATISTICS),
) -> dict[str, bytes]:
    """The tables of a version, by name. ``OutputError`` where the statistics of a part cannot be read."""
    made: dict[str, bytes] = {}
    if EPISODES in names:
        made[EPISODES] = _encoded(episodes_of(records(), plan))
    if QUARANTINE in names:
        made[QUARANTINE] = quarantine_lines(q for r in records() for q in r.quarantined)
    if STATISTICS in names:
        total: dict[str, Statistics] = {}
        for found in _part_statistics(store, records()):
            total = statistics.merged([total, found])
        made[STATISTICS] = json.dumps({name: s.summary() for name, s in total.items()}, indent=1).encode()
    return made


def report(summary: Summary, identity: str) -> bytes:
    """What ``REPORT`` holds."""
    content = {key: value for key, value in dataclasses.asdict(summary).items() if key != "quarantined"}
    content |= {
        "quarantined": len(summary.quarantined),
        "identity": identity,
        "versions": {"python": platform.python_version(), "torch": version("torch"), "pyarrow": pa.__version__},
    }
    return json.dumps(content, indent=1).encode()


def quarantine_lines(quarantined: Iterable[QuarantineRecord]) -> bytes:
    """What ``QUARANTINE`` holds."""
    return "".join(f"{json.dumps(dataclasses.asdict(q))}\n" for q in quarantined).encode()


def _part_statistics(store: Store, records: Iterable[ShardRecord]) -> Iterator[dict[str, Statistics]]:
    """Of each part, in shard order, many at a time."""
    names = (layout.statistics_name(part.name) for record in records for part in record.parts)
    while group := list(islice(names, _PARTS)):
        try:
            read = store.read_many(group)
        except FileNotFoundError as error:
            raise OutputError(f"{store.uri}: the statistics of a part are gone ({error}); run again") from error
        for name, data in zip(group, read, strict=True):
            try:
                yield statistics.together(data)
            except (OSError, ValueError) as error:
                raise OutputError(
                    f"{store.uri}/{name}: cannot be read back ({error}); delete it and run again, "
                    "`robocache verify` says what else is damaged"
                ) from error


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, EPISODE_SCHEMA, compression="zstd") as writer:
        for at in range(0, table.num_rows, _GROUP):
            writer.write_table(table.slice(at, _GROUP))
    return sink.getvalue().to_pybytes()


def episodes_of(records: Iterable[ShardRecord], plan: Plan) -> pa.Table:
    """The episode table, in order of ``episode_index``; the Python form of its rows is never all in memory."""
    splits = {e.index: e.split for e in plan.episodes if e.split}
    rows = (
        {
            "episode_index": e.index,
            "id": _utf8(e.id),
            "split": splits.get(e.index),
            "files": [_utf8(file) for file in e.files],
            "part": part.name,
            "rows": e.rows,
            "start_ns": e.start_ns,
            "metadata": json.dumps(e.metadata),
            "quality": json.dumps(e.quality),
            "streams": [{**s, "source": _utf8(s["source"])} for s in e.streams],
        }
        for r in records
        for part, episodes in r.by_part()
        for e in episodes
    )
    tables = [EPISODE_SCHEMA.empty_table()]
    while group := list(islice(rows, _GROUP)):
        tables.append(pa.Table.from_pylist(group, schema=EPISODE_SCHEMA))
    table = pa.concat_tables(tables).combine_chunks()
    index = table["episode_index"].to_numpy()
    return table if (np.diff(index) > 0).all() else table.take(np.argsort(index, kind="stable"))


def _utf8(text: str) -> str:
    """Escaped where it is no text: a file name that is not UTF-8, half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()
