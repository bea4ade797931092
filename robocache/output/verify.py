"""Prove that an output is what its manifest says: every part whole, every input episode in exactly one place."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import RoboCacheError
from robocache.output import layout, statistics
from robocache.output.dataset import Output
from robocache.output.layout import DATA, EPISODES, LOCK, META, PART_STATISTICS, PLAN, QUARANTINE, STATISTICS
from robocache.output.manifest import ShardRecord
from robocache.output.statistics import Statistics
from robocache.output.store import Store
from robocache.output.tables import EPISODE_SCHEMA, episode_tables, quarantine_lines


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong with it (nothing: the output is whole). ``passed_over``: files of the input
    that the last run could not take for recordings, as its report has them.
    """

    episodes: int
    rows: int
    parts: int
    bytes: int
    quarantined: int
    problems: tuple[str, ...]
    passed_over: int = 0


class _DamageError(Exception):
    """What is wrong with a part."""


def verify(uri: str, storage_options: Mapping[str, Any] | None = None) -> Verification:
    """Check an output folder against its own plan and manifest: checksums, sizes, row counts, that each part holds
    the rows of its episodes in order, that each planned episode is in the output or in the quarantine, once, that the
    tables made from the manifest say what it says, and that there is no file that does not belong. ``OutputError``
    where ``uri`` is no output at all.
    """
    output = Output.open(uri, storage_options)
    store = output.store
    found: Counter[str] = Counter()
    places: Counter[tuple[int, str]] = Counter()
    problems: list[str] = []
    known: set[str] = set()
    try:
        identity = output.identity
        plan = {e["index"]: e["id"] for e in map(json.loads, store.read(PLAN).splitlines())}
        records = output.records
        next(records(), None)
    except (ValueError, KeyError, TypeError, RoboCacheError) as error:
        return Verification(0, 0, 0, 0, 0, (f"{META} cannot be read: {error}",))

    total: dict[str, Statistics] = {}
    damaged = False
    for record in records():
        if record.identity != identity:
            problems.append(f"shard {record.shard}: its record belongs to config {record.identity}, not {identity}")
        if record.part:
            try:
                total = statistics.merged([total, _check_part(store, record)])
            except _DamageError as error:
                problems.append(f"{record.part}: {error}")
                damaged = True
        places.update((e.index, e.id) for e in record.episodes)
        places.update((q.index, q.id) for q in record.quarantined)
        known.add(record.part)
        found.update(
            episodes=len(record.episodes),
            rows=record.rows,
            parts=int(bool(record.part)),
            bytes=record.bytes,
            quarantined=len(record.quarantined),
        )
    problems.extend(_coverage_problems(plan, places))
    problems.extend(_episode_problems(store, records()))
    problems.extend(_quarantine_problems(store, records()))
    if not damaged:  # else there is nothing to compare them with
        problems.extend(_statistics_problems(store, {name: s.summary() for name, s in total.items()}))
    known |= {layout.statistics_name(part) for part in known if part}
    problems += [
        f"{name}: no record of this file"
        for folder in (DATA, PART_STATISTICS)
        for name in store.files(folder)
        if name not in known and not name.endswith(".tmp")
    ]
    problems += [
        f"{name}: left behind by a killed run; run the job again" for name in store.files(META) if name.endswith(".tmp")
    ]
    if store.exists(LOCK):
        problems.append(f"{LOCK}: a run is writing here, or was killed; let it end or run the job again")
    return Verification(
        found["episodes"],
        found["rows"],
        found["parts"],
        found["bytes"],
        found["quarantined"],
        tuple(problems),
        _passed_over(output),
    )


def _passed_over(output: Output) -> int:
    try:
        return len(output.report["passed_over"])
    except (OSError, ValueError, KeyError, TypeError, RoboCacheError):  # a run that has not ended yet has no report
        return 0


def _coverage_problems(plan: Mapping[int, str], places: Counter[tuple[int, str]]) -> Iterator[str]:
    for index, id in plan.items():
        count = places.pop((index, id), 0)
        if count == 0:
            yield f"episode {index} ({id}): lost, neither in the output nor in the quarantine"
        elif count > 1:
            yield f"episode {index} ({id}): recorded {count} times"
    for index, id in places:
        yield f"episode {index} ({id}): in the manifest but not in the plan"


def _check_part(store: Store, record: ShardRecord) -> dict[str, Statistics]:
    """The statistics of its episodes together. ``_DamageError`` where it, or they, are not what its record says."""
    data = _checked(store, record.part, record.sha256, record.bytes)
    beside = _checked(store, layout.statistics_name(record.part), record.statistics)
    try:
        if layout.part_format(record.part) == "arrow":
            table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        else:
            table = pq.ParquetFile(pa.BufferReader(data)).read()
        episodes, frames = (table.column(c).to_numpy() for c in ("episode_index", "frame_index"))
        each, together = statistics.decode(beside)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamageError(f"cannot be decoded ({error})") from error
    wanted_episodes = np.concatenate([np.full(e.rows, e.index) for e in record.episodes])
    wanted_frames = np.concatenate([np.arange(e.rows) for e in record.episodes])
    if len(episodes) != record.rows or not np.array_equal(episodes, wanted_episodes):
        whose = [e.index for e in record.episodes]
        raise _DamageError(f"its {len(episodes)} rows are not those of episodes {whose}")
    if not np.array_equal(frames, wanted_frames):
        raise _DamageError("frame_index does not count up from 0 in every episode")
    at = 0
    for e in record.episodes:
        if not _same(each.get(e.index, {}), _statistics_of(table.slice(at, e.rows))):
            raise _DamageError(f"the statistics of episode {e.index} are not those of its rows")
        at += e.rows
    if not _same(together, statistics.merged(each.values())):
        raise _DamageError("its statistics are not what those of its episodes add up to")
    return together


def _checked(store: Store, name: str, sha256: str, size: int | None = None) -> bytes:
    try:
        data = store.read(name)
    except OSError as error:
        raise _DamageError(f"cannot be read ({error})") from error
    if size is not None and len(data) != size:
        raise _DamageError(f"{len(data)} bytes, the manifest says {size}")
    if hashlib.sha256(data).hexdigest() != sha256:
        of = "its" if size is not None else "its statistics'"
        raise _DamageError(f"{of} sha256 is not the manifest's: changed or damaged; delete it and run again")
    return data


def _statistics_of(rows: pa.Table) -> dict[str, Statistics]:
    """Of each column that has a validity column."""
    found = {}
    for name in rows.column_names:
        if f"{name}.valid" in rows.column_names:
            s = statistics.of_column(rows[name], rows[f"{name}.valid"].to_numpy())
            if s is not None:
                found[name] = s
    return found


def _same(found: Mapping[str, Statistics], wanted: Mapping[str, Statistics]) -> bool:
    return found.keys() == wanted.keys() and all(found[name].agrees(s) for name, s in wanted.items())


def _episode_problems(store: Store, records: Iterable[ShardRecord]) -> Iterator[str]:
    try:
        table = pq.ParquetFile(pa.BufferReader(store.read(EPISODES))).read()
    except (OSError, ValueError) as error:
        yield f"{EPISODES}: cannot be read ({error}); run the job again"
        return
    if not table.schema.equals(EPISODE_SCHEMA):
        yield f"{EPISODES}: its columns are not {', '.join(EPISODE_SCHEMA.names)}; run the job again"
        return
    has = table["episode_index"].to_numpy()
    if table["episode_index"].null_count or (np.diff(has) <= 0).any():
        yield f"{EPISODES}: its rows are not in the order of the episodes, each once; run the job again"
        return
    groups: list[np.ndarray] = []
    wrong: list[int] = []
    for group in episode_tables(records):
        wanted = group["episode_index"].to_numpy()
        groups.append(wanted)
        there = np.isin(wanted, has)
        expected, rows = group.filter(there), table.take(np.searchsorted(has, wanted[there]))
        if not rows.equals(expected):
            pairs = zip(rows.to_pylist(), expected.to_pylist(), strict=True)
            wrong += [e["episode_index"] for row, e in pairs if row != e]
    wanted = np.concatenate(groups) if groups else has[:0]
    for text, episodes in (
        ("no rows of episodes {}", np.setdiff1d(wanted, has)),
        ("rows of episodes {}, which the manifest does not have", np.setdiff1d(has, wanted)),
        ("the rows of episodes {} do not say what the manifest says", wrong),
    ):
        if len(episodes):
            more = f" and {len(episodes) - 10} more" if len(episodes) > 10 else ""
            yield f"{EPISODES}: {text.format(', '.join(map(str, episodes[:10])) + more)}; run the job again"


def _quarantine_problems(store: Store, records: Iterable[ShardRecord]) -> Iterator[str]:
    try:
        found = store.read(QUARANTINE)
    except OSError as error:
        yield f"{QUARANTINE}: cannot be read ({error}); run the job again"
        return
    if found != quarantine_lines(q for r in records for q in r.quarantined):
        yield f"{QUARANTINE}: its lines are not the manifest's quarantined episodes; run the job again"


def _statistics_problems(store: Store, wanted: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    try:
        found = json.loads(store.read(STATISTICS))
        columns = list(found.items())
    except (OSError, ValueError, AttributeError) as error:
        yield f"{STATISTICS}: cannot be read ({error}); run the job again"
        return
    if found.keys() != wanted.keys():
        yield f"{STATISTICS}: columns {list(found)}, the parts have {list(wanted)}; run the job again"
        return
    for name, column in columns:
        if not _agree(column, wanted[name]):
            yield f"{STATISTICS}: {name} is not what the parts' statistics add up to; run the job again"


def _agree(found: Any, wanted: Mapping[str, Any]) -> bool:
    """Same counts, and the same numbers but for their last bits, which are not the same on every machine."""
    if not isinstance(found, dict) or found.keys() != wanted.keys() or found["count"] != wanted["count"]:
        return False
    try:
        has, right = (np.array([s[key] for key in wanted if key != "count"], np.float64) for s in (found, wanted))
    except (TypeError, ValueError):
        return False
    scale = np.nanmax(np.abs(right), axis=0, initial=0.0)
    return has.shape == right.shape and np.allclose(has, right, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)
