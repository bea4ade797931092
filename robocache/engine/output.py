"""The commit protocol of one output folder: who may write, what is already there, and what counts as written.

    data/part-000000.parquet ...     appear whole or not at all, under names that the plan fixes
    meta/robocache/config.yaml       the resolved config; identity.json: its hash and the settled types of the sources
    meta/robocache/plan.jsonl        every input episode of this plan, a line each
    meta/robocache/manifest.jsonl    a line per committed shard, appended and synced after its part
    meta/robocache/{episodes.parquet, quarantine.jsonl, statistics.json, report.json}   made at the end of a run

A part counts once its record is in the manifest. A crash between the two leaves a part without a record: the next run
does that shard again, into the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from robocache.dataset.store import Store
from robocache.engine.job import Job
from robocache.engine.plan import Shard
from robocache.engine.process import ShardResult
from robocache.engine.records import ShardRecord
from robocache.engine.types import SourceType
from robocache.errors import OutputError

META = "meta/robocache"
IDENTITY = f"{META}/identity.json"
CONFIG = f"{META}/config.yaml"
PLAN = f"{META}/plan.jsonl"
MANIFEST = f"{META}/manifest.jsonl"
LOCK = f"{META}/run.lock"
_PART = re.compile(r"data/(part-\d{6,}\.\w+|\.part-\d{6,}\.\w+\.\d+\.tmp)")


def read_manifest(store: Store) -> dict[int, ShardRecord]:
    """Committed shards by index. Of several records of a shard the last one holds; a torn last line is no record."""
    if not store.exists(MANIFEST):
        return {}
    records: dict[int, ShardRecord] = {}
    lines = store.read(MANIFEST).split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline was cut off by a crash
        try:
            record = ShardRecord.from_json(line.decode())
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{store.uri}/{MANIFEST}: line {number} is not a shard record ({error}); "
                "the manifest was changed by hand or the disk is damaged; run again with --overwrite"
            ) from error
        records[record.shard] = record
    return records


class Output:
    """An output folder that this process alone may write; use :meth:`begin`."""

    def __init__(self, job: Job, store: Store):
        self.job = job
        self.store = store
        self.records = read_manifest(store)

    @classmethod
    @contextlib.contextmanager
    def begin(cls, job: Job, config_text: str, *, overwrite: bool = False) -> Iterator[Output]:
        """Lock the folder, refuse one that belongs to another config, sweep up what killed runs left.

        ``OutputError``: another live run holds it, it belongs to another config (without ``overwrite``), it holds
        files that no run wrote, or it cannot be written.
        """
        store = Store(job.output.uri, job.output.storage_options)
        with _locked(store):
            _refuse_strangers(store)
            if overwrite:  # the parts first: what is left of it by a crash still says whose it was
                for name in store.files("data") + [n for n in store.files(META) if n != LOCK]:
                    store.remove(name)
            _check_owner(store, job)
            for folder in ("data", META):
                store.remove_drafts(folder)
            output = cls(job, store)
            if not (store.exists(IDENTITY) and store.exists(CONFIG)):
                store.write(CONFIG, config_text.encode())
            _cut_torn_line(store)
            yield output

    def types(self) -> dict[str, SourceType] | None:
        """The source types that an earlier run settled, or None."""
        if not self.store.exists(IDENTITY):
            return None
        stored = json.loads(self.store.read(IDENTITY))["types"]
        return {s: SourceType(t["kind"], tuple(t["shape"]), t["seen_in"]) for s, t in stored.items()} or None

    def set_types(self, types: Mapping[str, SourceType]) -> None:
        """Settle them for this output; the folder belongs to this config from here on."""
        stored = {s: dataclasses.asdict(t) for s, t in types.items()}
        content = {"identity": self.job.identity(), "types": stored}
        self.store.write(IDENTITY, json.dumps(content, indent=1).encode())

    def set_plan(self, shards: Sequence[Shard]) -> None:
        """Record every input episode, and drop parts and records of shards that this plan does not have."""
        lines = [
            json.dumps({"index": index, "id": ref.id, "shard": shard.index})
            for shard in shards
            for index, ref in enumerate(shard.refs, shard.first_episode)
        ]
        self.store.write(PLAN, "".join(f"{line}\n" for line in lines).encode())
        by_index = {shard.index: shard for shard in shards}
        current = {
            i: r for i, r in self.records.items() if i in by_index and r.fingerprint == by_index[i].fingerprint()
        }
        if len(current) < len(self.records):  # an interrupted run must not leave the old input's records as if done
            self.records = current
            self._write_manifest()
        names = {shard.part(self.job.output.format) for shard in shards}
        for name in self.store.files("data"):
            if name not in names:
                self.store.remove(name)

    def done(self, shard: Shard) -> bool:
        """True where a record matches the shard's input, its part is there in full, and no fault may have passed."""
        record = self.records.get(shard.index)
        if record is None or record.identity != self.job.identity() or record.fingerprint != shard.fingerprint():
            return False
        if any(q.retry for q in record.quarantined):
            return False
        return not record.part or self.store.size(record.part) == record.bytes

    def commit(self, result: ShardResult) -> None:
        """Part first, then record: durable in that order."""
        record = result.record
        if result.part is not None:
            self.store.write(record.part, result.part)
        self.store.append(MANIFEST, f"{record.to_json()}\n".encode())
        self.records[record.shard] = record

    def compact(self) -> None:
        """Rewrite the manifest in shard order, one record each, and drop parts of shards that now have none."""
        self._write_manifest()
        kept = {r.part for r in self.records.values()}
        for name in self.store.files("data"):
            if name not in kept:
                self.store.remove(name)

    def _write_manifest(self) -> None:
        ordered = [self.records[i] for i in sorted(self.records)]
        self.store.write(MANIFEST, "".join(f"{r.to_json()}\n" for r in ordered).encode())


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


def _cut_torn_line(store: Store) -> None:
    """A crash during an append leaves a piece of a line; the next append must not continue it."""
    if store.exists(MANIFEST):
        text = store.read(MANIFEST)
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            store.write(MANIFEST, whole)


@contextlib.contextmanager
def _locked(store: Store) -> Iterator[None]:
    """One live run an output. The kernel frees the lock when its holder dies, however it dies."""
    if not store.local:
        raise OutputError(f"{store.uri}: writing to this kind of storage is not supported; use a local path")
    path = Path(store.path(LOCK))
    with store._explained(LOCK):
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with store._explained(LOCK):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise OutputError(
                f"{store.uri} is being written by another run ({holder}); wait for it to end or stop it"
            ) from None
        try:
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # its last holder removed the file between our open and our lock
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
