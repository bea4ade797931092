"""The commit protocol of one output folder: who may write, what is already there, and what counts as written.

A run works in the folder of the next version, which nobody reads before it stands (``docs/architecture/
commit_protocol.md``). Parts appear whole or not at all, under names that their content fixes. A part counts once its
record is in the manifest of the version in the making: a crash between the two leaves a part without a record, and the
next run does that shard again, into the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import yaml

from robocache.errors import OutputError
from robocache.output import layout, tables
from robocache.output.dataset import Output
from robocache.output.layout import (
    CONFIG,
    DATA,
    HUGGING_FACE,
    LOCK,
    META,
    OLDER,
    PART_FOLDERS,
    PART_STATISTICS,
    VERSIONS,
)
from robocache.output.lock import Check, locked
from robocache.output.manifest import LocalLog, ObjectLog, ShardRecord, open_log, read_manifest
from robocache.output.plan import Changes, Plan
from robocache.output.store import Store
from robocache.output.version import Version, list_versions, refuse_former


@dataclass(frozen=True, slots=True)
class Committed:
    """What resuming and counting need of a record; the record itself stays in its manifest, ``log``, at ``place``."""

    log: LocalLog | ObjectLog
    place: int
    fingerprint: str
    parts: tuple[tuple[str, int], ...]
    rows: int
    episodes: int
    quarantined: int
    retry: bool

    @classmethod
    def of(cls, record: ShardRecord, log: LocalLog | ObjectLog, place: int) -> Committed:
        parts = tuple((p.name, p.bytes) for p in record.parts)
        counts = (record.rows, len(record.episodes), len(record.quarantined))
        return cls(log, place, record.fingerprint, parts, *counts, any(q.retry for q in record.quarantined))

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.parts)


class OutputWriter:
    """An output folder. Made by :meth:`begin`, this process alone may write it; made as it is, it changes nothing.

    standing:  the version that readers see; None where there is none yet
    number:    of the version that is made
    committed: its shards, by number, as far as they are done
    check:     called before anything is changed, raises once another run may write
    anew:      a version that cannot be read, or is of an earlier release, is as good as none
    """

    def __init__(self, store: Store, check: Check = lambda: None, *, anew: bool = False):
        self.store, self.check, self.anew = store, check, anew
        self.versions = list_versions(store)
        self.number = self.versions.newest + 1
        self.standing: Output | None = None
        try:
            if self.versions.newest:
                self.standing = Output(store, Version.read(store, self.versions.newest))
            else:
                refuse_former(store)
        except OutputError:
            if not anew:
                raise
        self.log = open_log(store, layout.manifest_file(self.number))
        self.committed: dict[int, Committed] = {}
        self._plan = self._unfinished()  # what is in the folder of the version in the making
        self._idle = False
        self._tables: Mapping[str, bytes] = {}

    @classmethod
    @contextlib.contextmanager
    def begin(cls, store: Store, *, anew: bool = False) -> Iterator[OutputWriter]:
        """Lock the folder. ``OutputError``: another live run holds it, it holds files that no run wrote, it cannot be
        read (without ``anew``) or written.
        """
        with locked(store, LOCK) as check:
            _refuse_strangers(store)
            yield cls(store, check, anew=anew)

    def write(self, name: str, data: Any) -> None:
        """As :meth:`Store.write`, while this run holds the output."""
        self.check()
        self.store.write(name, data)

    def known(self) -> Plan | None:
        """The plan of the version that stands."""
        try:
            return None if self.standing is None else self.standing.plan
        except OutputError:
            if not self.anew:
                raise
            return None

    def begun(self, identity: str) -> Plan | None:
        """The plan of the version in the making, where an earlier run has begun it for this config."""
        return self._plan if self._plan is not None and self._plan.identity == identity else None

    def _unfinished(self) -> Plan | None:
        with contextlib.suppress(FileNotFoundError, OutputError):
            if self.number not in self.versions.unfinished:
                return None
            return Plan.read(self.store, layout.plan_file(self.number))
        return None

    def changes(self, listed: Sequence[tuple[str, str]]) -> Changes:
        """What the listing (id and stamp of each episode) is to the version that stands."""
        known = self.known()
        quarantined = frozenset[str]()
        if known is not None and self.standing is not None and known.present().keys() - {id for id, _ in listed}:
            try:
                quarantined = frozenset(q.id for r in self.standing.records() for q in r.quarantined)
            except OutputError:
                if not self.anew:
                    raise
        return Changes.between(known, listed, quarantined)

    def settings(self, config: str) -> tuple[str, ...]:
        """What ``config`` says differently from that of the version that stands, a line a key."""
        return () if self.standing is None else _differences(self.standing.config, config)

    def done(self, identity: str, planned: Mapping[int, str]) -> set[int]:
        """Shards that need not be done, and are committed: of those planned (number and fingerprint) the ones that have
        a record of this config, in the version that stands (not ``anew``) or in the making, whose parts are there in
        full with their statistics, and no fault that may pass.
        """
        sizes = {name: size for folder in PART_FOLDERS for name, size in self.store.sizes(folder).items()}
        statistics = self.store.sizes(PART_STATISTICS)
        logs = [self.log] if self.begun(identity) is not None else []
        if self.standing is not None and not self.anew:
            logs.insert(0, self.standing.log)
        self.committed = {}
        for log in logs:
            for place, record in read_manifest(log):
                if record.identity == identity and planned.get(record.shard) == record.fingerprint:
                    self.committed[record.shard] = Committed.of(record, log, place)
        self.committed = {
            shard: c
            for shard, c in self.committed.items()
            if not c.retry
            and all(sizes.get(name) == size and layout.statistics_name(name) in statistics for name, size in c.parts)
        }
        return set(self.committed)

    def start(self, plan: Plan, config: str, format: str, *, todo: bool) -> None:
        """Sweep up what killed runs left and record the plan. config: resolved, to be kept in the output; format: that
        of its parts; todo: whether there are shards to be done.
        """
        self.check()
        for folder in (DATA, META):
            self.store.remove_drafts(folder)
        self.store.remove_drafts_of(HUGGING_FACE)
        self.write(CONFIG, config.encode())  # each run's: what is no part of the identity may be new in it
        wanted = layout.hugging_face(format)
        with contextlib.suppress(FileNotFoundError):
            if layout.is_hugging_face(there := self.store.read(HUGGING_FACE)) and there != wanted:
                self.store.remove(HUGGING_FACE)
        if not self.store.exists(HUGGING_FACE):  # one that is there may be a person's
            self.write(HUGGING_FACE, wanted)
        mine = self.begun(plan.identity) is not None
        for number in self.versions.unfinished:
            if number != self.number or not mine:
                self._drop(number)
        known = None if self.anew or self.standing is None else self.standing.version.plan
        self._idle = not (todo or mine) and known == plan.sha256()
        self._plan = plan
        if not self._idle:
            self.write(layout.plan_file(self.number), plan.encode())
            self.log.heal()

    def commit(self, records: Sequence[ShardRecord]) -> None:
        """Record shards whose parts are written: all of them at once, and safe when this returns."""
        self.check()
        lines = [f"{record.to_json()}\n".encode() for record in records]
        place = self.log.append(b"".join(lines))
        for record, line in zip(records, lines, strict=True):
            self.committed[record.shard] = Committed.of(record, self.log, place)
            place += len(line)

    def records(self) -> Iterator[ShardRecord]:
        """The records of the version in the making, in shard order, one at a time from the disk."""
        for line in self._lines():
            yield ShardRecord.from_json(line.decode())

    def stand(self, config: str, *, types: Mapping[str, Any], root: str, changes: Mapping[str, int]) -> Version:
        """Let the version stand where it differs from the one before; else that one goes on to. What it is made of is
        in :class:`Version`; ``changes`` lacks the parts that were written, which are counted here.
        """
        before = None if self.standing is None else self.standing.version
        if self._idle and before is not None:
            return before
        assert self._plan is not None
        plan, manifest = self._plan, self._write_manifest()
        known = None if before is None else (before.identity, before.plan, before.manifest)
        if before is not None and known == (plan.identity, plan.sha256(), manifest) and self._intact():
            self._drop(self.number)
            return before
        made = self._tables = tables.make(self.store, self.records, plan)
        shards = self.committed.values()
        names = {name for c in shards for name, _ in c.parts}
        had = set() if self.standing is None else self._parts_of(self.standing)
        version = Version(
            number=self.number,
            made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            identity=plan.identity,
            types=dict(types),
            root=root,
            plan=plan.sha256(),
            manifest=manifest,
            episodes=sum(c.episodes for c in shards),
            rows=sum(c.rows for c in shards),
            parts=len(names),
            size=sum(c.bytes for c in shards),
            quarantined=sum(c.quarantined for c in shards),
            changes={**changes, "parts": len(names - had)},
            settings=self.settings(config),
            tables={name: hashlib.sha256(data).hexdigest() for name, data in made.items()},
        )
        self.write(layout.config_file(self.number), config.encode())
        self.write(layout.version_file(self.number), version.encode())
        return version

    def _intact(self) -> bool:
        """Whether the manifest of the version that stands is the one that it was made with."""
        assert self.standing is not None
        with contextlib.suppress(OutputError):
            return self.standing.manifest_sha256() == self.standing.version.manifest
        return False

    def publish(self, version: Version, keep: int) -> None:
        """Make the tables of the newest version where those that are there are not its own, and put away what it does
        without: of the ``keep`` newest versions all stays, of those before what :class:`Version` says.
        """
        newest = Output(self.store, version)
        if any(newest.made(name) is None for name in version.tables):
            for name, data in (self._tables or tables.make(self.store, newest.records, newest.plan)).items():
                self.write(name, data)
        self._sweep(newest, keep)

    def _sweep(self, newest: Output, keep: int) -> None:
        self.check()
        kept = list_versions(self.store).kept[-keep:]
        files = [name for name in self.store.files(VERSIONS) if (layout.version_of(name) or (0, ""))[0] not in kept]
        gone = [name for name in files if layout.is_ours(name) and not name.endswith("/_version.json")]
        gone.sort(key=lambda name: not name.endswith("/_manifest.jsonl"))  # first what says that it is kept
        self.store.remove_all(gone)
        named = self._parts_of(newest)
        older: set[str] = set()
        for number in kept[:-1]:
            older |= self._parts_of(Output(self.store, Version.read(self.store, number)))
        right = layout.places(named, older)
        there = [name for folder in PART_FOLDERS for name in self.store.files(folder)]
        strays = [name for name in there if name not in right and layout.is_part(name)]
        for name in strays:
            if name in older:
                self.store.move(name, layout.older_name(name))
        self.store.remove_all([name for name in strays if name not in older])
        for folder in (OLDER, PART_STATISTICS):
            self.store.remove_all([n for n in self.store.files(folder) if n not in right and layout.is_ours(n)])
        self.store.remove_all([name for name in layout.FORMER if self.store.exists(name)])

    def _parts_of(self, output: Output) -> set[str]:
        try:
            return set(output.parts)
        except OutputError:
            if not self.anew:
                raise
            return set()

    def _drop(self, number: int) -> None:
        """The folder of a version that does not stand: its plan last, which says whose it was."""
        files = [name for name in self.store.files(layout.version_folder(number)) if layout.is_ours(name)]
        plan = layout.plan_file(number)
        self.check()
        self.store.remove_all([name for name in files if name != plan])
        self.store.remove_all([name for name in files if name == plan])

    def _lines(self) -> Iterator[bytes]:
        """Of both manifests, in shard order."""
        order = sorted(self.committed)
        logs = {id(c.log): c.log for c in self.committed.values()}
        places = {key: [self.committed[i].place for i in order if id(self.committed[i].log) == key] for key in logs}
        readers = {key: log.read(places[key]) for key, log in logs.items()}
        for i in order:
            yield next(readers[id(self.committed[i].log)])

    def _write_manifest(self) -> str:
        """Of all shards, in their order; its sha256."""
        self.check()
        places, end, digest = {}, 0, hashlib.sha256()

        def lines() -> Iterator[bytes]:
            nonlocal end
            for i, line in zip(sorted(self.committed), self._lines(), strict=True):
                places[i] = end
                end += len(line)
                digest.update(line)
                yield line

        self.log.rewrite(lines())
        self.committed = {i: replace(self.committed[i], log=self.log, place=place) for i, place in places.items()}
        return digest.hexdigest()


#: Sections and keys of a config that decide nothing of what is written.
_INCIDENTAL = (
    "compute", "cluster", "output.uri", "output.keep_versions", "output.report",
    "input.uri", "input.max_", "input.read_timeout",
)  # fmt: skip

#: libyaml takes a tenth of the time.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Items of a list that are shown one by one.
_SHOWN = 6


def _differences(before: str, now: str) -> tuple[str, ...]:
    """Which keys of one config say something else than another does."""
    try:
        one, other = (dict(_flat("", yaml.load(text, Loader=_LOADER))) for text in (before, now))
    except (yaml.YAMLError, AttributeError):
        return ()
    keys = [k for k in one | other if one.get(k) != other.get(k) and not k.startswith(_INCIDENTAL)]
    return tuple(_difference(k, one.get(k, "not there"), other.get(k, "not there")) for k in keys)


def _difference(key: str, was: Any, now: Any) -> str:
    """In words; of long lists, as the ids of a split are, what has come to them and what has gone."""
    if not isinstance(was, list) or not isinstance(now, list) or max(len(was), len(now)) <= _SHOWN:
        return f"{key} was {_short(was)} and is {_short(now)}"
    come, gone = ([v for v in one if v not in other] for one, other in ((now, set(was)), (was, set(now))))
    told = [f"{len(some)} {what}, as {some[0]!r}" for some, what in ((come, "more"), (gone, "fewer")) if some]
    return f"{key} has {' and '.join(told)}" if told else f"{key} has another order"


def _short(value: Any) -> str:
    long = isinstance(value, list) and len(value) > _SHOWN
    return f"a list of {len(value)}, as {value[0]!r}" if long else repr(value)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a config with their paths; a list of texts or numbers is one."""
    if isinstance(value, list) and not any(isinstance(inner, dict | list) for inner in value):
        yield path, value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for key, inner in items:
        here = f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}" if path else str(key)
        yield from _flat(here, inner)


def _refuse_strangers(store: Store) -> None:
    """A run removes what it finds in data/ and does not need, so nothing may be there but parts of earlier runs."""
    ours = store.exists(CONFIG) or bool(store.files(VERSIONS))
    for name in store.files(DATA):
        if not (ours and (layout.is_part(name) or layout.is_tree(name))):
            raise OutputError(
                f"{store.uri} holds {name}, which no run wrote; move it elsewhere or choose another output.uri"
            )
