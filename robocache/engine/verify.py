"""Prove that an output is what its manifest says: every part whole, every input episode in exactly one place."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.dataset.manifest_log import open_log
from robocache.dataset.store import Store
from robocache.engine.output import IDENTITY, LOCK, MANIFEST, META, PLAN, read_manifest
from robocache.engine.records import ShardRecord
from robocache.errors import OutputError, RoboCacheError


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong with it (nothing: the output is whole)."""

    episodes: int
    rows: int
    parts: int
    bytes: int
    quarantined: int
    problems: tuple[str, ...]


def verify(uri: str, storage_options: Mapping[str, Any] | None = None) -> Verification:
    """Check an output folder against its own plan and manifest: checksums, sizes, row counts, that each part holds
    the rows of its episodes in order, that each planned episode is in the output or in the quarantine, once, and that
    there is no file that does not belong. ``OutputError`` where ``uri`` is no output at all.
    """
    store = Store(uri, storage_options)
    if not store.exists(IDENTITY) or not store.exists(PLAN):
        raise OutputError(f"{uri} holds no {META}/identity.json and plan.jsonl: it is not an output of robocache run")
    found: Counter[str] = Counter()
    places: Counter[tuple[int, str]] = Counter()
    problems: list[str] = []
    known: set[str] = set()
    try:
        identity = json.loads(store.read(IDENTITY))["identity"]
        plan = {e["index"]: e["id"] for e in map(json.loads, store.read(PLAN).splitlines())}
        log = open_log(store, MANIFEST)
        holds = {record.shard: place for place, record in read_manifest(log)}
    except (ValueError, KeyError, TypeError, RoboCacheError) as error:
        return Verification(0, 0, 0, 0, 0, (f"{META} cannot be read: {error}",))
    for line in log.read(holds.values()):
        record = ShardRecord.from_json(line.decode())
        if record.identity != identity:
            problems.append(f"shard {record.shard}: its record belongs to config {record.identity}, not {identity}")
        problems.extend(_part_problems(store, record))
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
    problems += [f"{name}: no record of this file" for name in store.files("data") if name not in known]
    problems += [
        f"{name}: left behind by a killed run; run the job again" for name in store.files(META) if name.endswith(".tmp")
    ]
    if store.exists(LOCK):
        problems.append(f"{LOCK}: a run is writing here, or was killed; let it end or run the job again")
    return Verification(
        found["episodes"], found["rows"], found["parts"], found["bytes"], found["quarantined"], tuple(problems)
    )


def _coverage_problems(plan: Mapping[int, str], places: Counter[tuple[int, str]]) -> Iterator[str]:
    for index, id in plan.items():
        count = places.pop((index, id), 0)
        if count == 0:
            yield f"episode {index} ({id}): lost, neither in the output nor in the quarantine"
        elif count > 1:
            yield f"episode {index} ({id}): recorded {count} times"
    for index, id in places:
        yield f"episode {index} ({id}): in the manifest but not in the plan"


def _part_problems(store: Store, record: ShardRecord) -> Iterator[str]:
    if not record.part:
        return
    try:
        data = store.read(record.part)
    except OSError as error:
        yield f"{record.part}: cannot be read ({error})"
        return
    if len(data) != record.bytes:
        yield f"{record.part}: {len(data)} bytes, the manifest says {record.bytes}"
        return
    if hashlib.sha256(data).hexdigest() != record.sha256:
        yield f"{record.part}: its sha256 is not the manifest's: the file was changed or damaged"
        return
    try:
        columns = ["episode_index", "frame_index"]
        if record.part.endswith(".arrow"):
            table = pa.ipc.open_file(pa.py_buffer(data)).read_all().select(columns)
        else:
            table = pq.read_table(pa.BufferReader(data), columns=columns)
    except (OSError, ValueError, KeyError) as error:
        yield f"{record.part}: cannot be decoded ({error})"
        return
    episodes, frames = (table.column(c).to_numpy() for c in columns)
    wanted_episodes = np.concatenate([np.full(e.rows, e.index) for e in record.episodes])
    wanted_frames = np.concatenate([np.arange(e.rows) for e in record.episodes])
    if len(episodes) != record.rows or not np.array_equal(episodes, wanted_episodes):
        yield f"{record.part}: its {len(episodes)} rows are not those of episodes {[e.index for e in record.episodes]}"
    elif not np.array_equal(frames, wanted_frames):
        yield f"{record.part}: frame_index does not count up from 0 in every episode"
