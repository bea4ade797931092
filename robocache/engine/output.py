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
from dataclasses import dataclass, replace
from pathlib import Path

from robocache.dataset.store import Store
from robocache.engine.job import Job
from robocache.engine.plan import Shard
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


@dataclass(frozen=True, slots=True)
class Committed:
    """What resuming and counting need of a record; the record itself stays in the manifest, at byte ``offset``."""

    offset: int
    identity: str
    fingerprint: str
    part: str
    rows: int
    bytes: int
    episodes: int
    quarantined: int
    retry: bool

    @classmethod
    def of(cls, record: ShardRecord, offset: int, like: str) -> Committed:
        """``like``: the identity that most records share, held once."""
        identity = like if record.identity == like else record.identity
        counts = (record.rows, record.bytes, len(record.episodes), len(record.quarantined))
        retry = any(q.retry for q in record.quarantined)
        return cls(offset, identity, record.fingerprint, record.part, *counts, retry)


def read_manifest(store: Store) -> Iterator[tuple[int, ShardRecord]]:
    """Each record with its place in the file. Of several of a shard the last one holds; a torn last line is none."""
    if not store.exists(MANIFEST):
        return
    offset = 0
    with store.fs.open(store.path(MANIFEST), "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # cut off by a crash
                return
            try:
                record = ShardRecord.from_json(line.decode())
            except (ValueError, TypeError, KeyError) as error:
                raise OutputError(
                    f"{store.uri}/{MANIFEST}: line {number} is not a shard record ({error}); "
                    "the manifest was changed by hand or the disk is damaged; run again with --overwrite"
                ) from error
            yield offset, record
            offset += len(line)


class Output:
    """An output folder that this process alone may write; use :meth:`begin`."""

    def __init__(self, job: Job, store: Store):
        self.job = job
        self.store = store
        self.committed: dict[int, Committed] = {}
        for offset, record in read_manifest(store):
            self.committed[record.shard] = Committed.of(record, offset, job.identity())

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
        prints = {shard.index: shard.fingerprint() for shard in shards}
        current = {i: c for i, c in self.committed.items() if prints.get(i) == c.fingerprint}
        if len(current) < len(self.committed):  # a stopped run must not leave the old input's records as if done
            self.committed = current
            self._write_manifest()
        names = {shard.part(self.job.output.format) for shard in shards}
        for name in self.store.files("data"):
            if name not in names:
                self.store.remove(name)

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
        """Record shards whose parts are written: all of them with one sync, on the disk when this returns."""
        lines = [f"{record.to_json()}\n".encode() for record in records]
        offset = self.store.append(MANIFEST, b"".join(lines))
        for record, line in zip(records, lines, strict=True):
            self.committed[record.shard] = Committed.of(record, offset, self.job.identity())
            offset += len(line)

    def records(self) -> Iterator[ShardRecord]:
        """The records that hold, in shard order, one at a time from the disk."""
        for line in self._lines():
            yield ShardRecord.from_json(line.decode())

    def compact(self) -> None:
        """Rewrite the manifest in shard order, one record each, and drop parts of shards that now have none."""
        self._write_manifest()
        kept = {c.part for c in self.committed.values()}
        for name in self.store.files("data"):
            if name not in kept:
                self.store.remove(name)

    def _lines(self) -> Iterator[bytes]:
        if not self.committed:
            return
        with self.store.fs.open(self.store.path(MANIFEST), "rb") as file:
            for i in sorted(self.committed):
                file.seek(self.committed[i].offset)
                yield file.readline()

    def _write_manifest(self) -> None:
        offsets, end = {}, 0

        def lines() -> Iterator[bytes]:
            nonlocal end
            for i, line in zip(sorted(self.committed), self._lines(), strict=True):
                offsets[i] = end
                end += len(line)
                yield line

        self.store.write_lines(MANIFEST, lines())
        self.committed = {i: replace(self.committed[i], offset=offset) for i, offset in offsets.items()}


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
