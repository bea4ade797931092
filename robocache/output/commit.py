"""The commit protocol of one output folder: who may write, what is already there, and what counts as written.

    data/part-000000.parquet ...     appear whole or not at all, under names that the plan fixes
    meta/robocache/config.yaml       the last run's resolved config
    meta/robocache/identity.json     hash of what of it decides the bytes, and the settled types of the sources
    meta/robocache/plan.jsonl        every input episode of this plan, a line each
    meta/robocache/manifest.jsonl    a line per committed shard, added and safe after its part; on S3 also manifest/,
                                     see robocache.output.manifest
    meta/robocache/run.lock          while a run writes, see robocache.output.lock
    meta/robocache/{episodes.parquet, quarantine.jsonl, statistics.json, report.json}   made at the end of a run

A part counts once its record is in the manifest. A crash between the two leaves a part without a record: the next run
does that shard again, into the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robocache.config.job import Job
from robocache.engine.shards import Shard
from robocache.errors import OutputError
from robocache.output.lock import Check, locked
from robocache.output.manifest import LocalLog, ObjectLog, open_log
from robocache.output.records import ShardRecord
from robocache.output.store import Store

META = "meta/robocache"
IDENTITY = f"{META}/identity.json"
CONFIG = f"{META}/config.yaml"
PLAN = f"{META}/plan.jsonl"
MANIFEST = f"{META}/manifest.jsonl"
LOCK = f"{META}/run.lock"
_PART = re.compile(r"data/(part-\d{6,}\.\w+|\.part-\d{6,}\.\w+\.\d+\.tmp)")


@dataclass(frozen=True, slots=True)
class Committed:
    """What resuming and counting need of a record; the record itself stays in the manifest, at ``place``."""

    place: int
    identity: str
    fingerprint: str
    part: str
    rows: int
    bytes: int
    episodes: int
    quarantined: int
    retry: bool

    @classmethod
    def of(cls, record: ShardRecord, place: int, like: str) -> Committed:
        """``like``: the identity that most records share, held once."""
        identity = like if record.identity == like else record.identity
        counts = (record.rows, record.bytes, len(record.episodes), len(record.quarantined))
        retry = any(q.retry for q in record.quarantined)
        return cls(place, identity, record.fingerprint, record.part, *counts, retry)


def read_manifest(log: LocalLog | ObjectLog) -> Iterator[tuple[int, ShardRecord]]:
    """Each record with its place in the manifest. Of several of a shard the last one holds."""
    for number, (place, line) in enumerate(log.scan(), 1):
        try:
            record = ShardRecord.from_json(line.decode())
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{log.store.uri}/{MANIFEST}: line {number} is not a shard record ({error}); "
                "the manifest was changed by hand or the disk is damaged; run again with --overwrite"
            ) from error
        yield place, record


class Output:
    """An output folder. Made by :meth:`begin`, this process alone may write it; made as it is, it is only to be read.

    check: called before anything is changed, raises once another run may write
    """

    def __init__(self, job: Job, store: Store, check: Check = lambda: None):
        self.job = job
        self.store = store
        self.check = check
        self.log = open_log(store, MANIFEST)
        self.committed: dict[int, Committed] = {}
        for place, record in read_manifest(self.log):
            self.committed[record.shard] = Committed.of(record, place, job.identity())

    @classmethod
    @contextlib.contextmanager
    def begin(cls, job: Job, config_text: str, *, overwrite: bool = False) -> Iterator[Output]:
        """Lock the folder, refuse one that belongs to another config, sweep up what killed runs left.

        ``OutputError``: another live run holds it, it belongs to another config (without ``overwrite``), it holds
        files that no run wrote, or it cannot be written.
        """
        store = Store(job.output.uri, job.output.storage_options)
        with locked(store, LOCK) as check:
            _refuse_strangers(store)
            if overwrite:  # the parts first: what is left of it by a crash still says whose it was
                store.remove_all(store.files("data"))
                store.remove_all([name for name in store.files(META) if name != LOCK])
            _check_owner(store, job)
            for folder in ("data", META):
                store.remove_drafts(folder)
            output = cls(job, store, check)
            output.write(CONFIG, config_text.encode())  # each run's: what is no part of the identity may be new in it
            output.log.heal()
            yield output

    def write(self, name: str, data: Any) -> None:
        """As :meth:`Store.write`, while this run holds the output."""
        self.check()
        self.store.write(name, data)

    def settled(self) -> dict[str, Any]:
        """What an earlier run settled about its sources, as :meth:`settle` was given it; empty where none has."""
        if not self.store.exists(IDENTITY):
            return {}
        return json.loads(self.store.read(IDENTITY))["types"]

    def settle(self, types: Mapping[str, Any]) -> None:
        """Record what is settled; the folder belongs to this config from here on."""
        content = {"identity": self.job.identity(), "types": types}
        self.write(IDENTITY, json.dumps(content, indent=1).encode())

    def set_plan(self, shards: Sequence[Shard]) -> None:
        """Record every input episode, and drop parts and records of shards that this plan does not have."""
        lines = [
            json.dumps({"index": index, "id": ref.id, "shard": shard.index})
            for shard in shards
            for index, ref in enumerate(shard.refs, shard.first_episode)
        ]
        self.write(PLAN, "".join(f"{line}\n" for line in lines).encode())
        prints = {shard.index: shard.fingerprint() for shard in shards}
        current = {i: c for i, c in self.committed.items() if prints.get(i) == c.fingerprint}
        if len(current) < len(self.committed):  # a stopped run must not leave the old input's records as if done
            self.committed = current
            self._write_manifest()
        self._keep_parts({shard.part(self.job.output.format) for shard in shards})

    def done(self, shards: Sequence[Shard]) -> set[int]:
        """Those whose record matches their input, whose part is there in full, and no fault that may pass."""
        identity, sizes = self.job.identity(), self.store.sizes("data")
        return {
            shard.index
            for shard in shards
            if (c := self.committed.get(shard.index)) is not None
            and (c.identity, c.fingerprint, c.retry) == (identity, shard.fingerprint(), False)
            and (not c.part or sizes.get(c.part) == c.bytes)
        }

    def commit(self, records: Sequence[ShardRecord]) -> None:
        """Record shards whose parts are written: all of them at once, and safe when this returns."""
        self.check()
        lines = [f"{record.to_json()}\n".encode() for record in records]
        place = self.log.append(b"".join(lines))
        for record, line in zip(records, lines, strict=True):
            self.committed[record.shard] = Committed.of(record, place, self.job.identity())
            place += len(line)

    def records(self) -> Iterator[ShardRecord]:
        """The records that hold, in shard order, one at a time from the disk."""
        for line in self._lines():
            yield ShardRecord.from_json(line.decode())

    def compact(self) -> None:
        """Rewrite the manifest in shard order, one record each, and drop parts of shards that now have none."""
        self._write_manifest()
        self._keep_parts({c.part for c in self.committed.values()})

    def _keep_parts(self, names: set[str]) -> None:
        self.check()
        self.store.remove_all([name for name in self.store.files("data") if name not in names])

    def _lines(self) -> Iterator[bytes]:
        return self.log.read(self.committed[i].place for i in sorted(self.committed))

    def _write_manifest(self) -> None:
        self.check()
        places, end = {}, 0

        def lines() -> Iterator[bytes]:
            nonlocal end
            for i, line in zip(sorted(self.committed), self._lines(), strict=True):
                places[i] = end
                end += len(line)
                yield line

        self.log.rewrite(lines())
        self.committed = {i: replace(self.committed[i], place=place) for i, place in places.items()}


def _check_owner(store: Store, job: Job) -> None:
    if store.exists(IDENTITY):
        try:
            owner = json.loads(store.read(IDENTITY))["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{store.uri}/{IDENTITY} cannot be read ({error}); run again with --overwrite") from error
        if owner != job.identity():
            raise OutputError(
                f"{store.uri} belongs to another config (see {store.uri}/{CONFIG}); choose another output.uri, or "
                "replace it with --overwrite"
            )


def _refuse_strangers(store: Store) -> None:
    """A run removes what it finds in data/ and does not need, so nothing may be there but parts of earlier runs."""
    ours = store.exists(CONFIG) or store.exists(IDENTITY)
    for name in store.files("data"):
        if not (ours and _PART.fullmatch(name)):
            raise OutputError(
                f"{store.uri} holds {name}, which no run wrote; move it elsewhere or choose another output.uri"
            )
