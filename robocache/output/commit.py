"""The commit protocol of one output folder: who may write, what is already there, and what counts as written.

Parts appear whole or not at all, under names that the plan fixes (:mod:`robocache.output.layout` has all names). A part
counts once its record is in the manifest. A crash between the two leaves a part without a record: the next run does
that shard again, into the same bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from robocache.errors import OutputError
from robocache.output import layout
from robocache.output.layout import CONFIG, DATA, HUGGING_FACE, IDENTITY, LOCK, META, PART_STATISTICS, PLAN
from robocache.output.lock import Check, locked
from robocache.output.manifest import ShardRecord, open_log, read_manifest
from robocache.output.store import Store


@dataclass(frozen=True, slots=True)
class Planned:
    """A shard of the plan: the name of its part, a hash of what it reads, and the ids of its episodes, whose indexes
    count up from ``first_episode``."""

    index: int
    part: str
    fingerprint: str
    first_episode: int
    episodes: tuple[str, ...]


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


class OutputWriter:
    """An output folder. Made by :meth:`begin`, this process alone may write it; made as it is, it changes nothing.

    identity: hash of what decides the bytes of the parts
    check:    called before anything is changed, raises once another run may write
    """

    def __init__(self, store: Store, identity: str, check: Check = lambda: None):
        self.store, self.identity = store, identity
        self.check = check
        self.log = open_log(store)
        self.committed: dict[int, Committed] = {}
        for place, record in read_manifest(self.log):
            self.committed[record.shard] = Committed.of(record, place, identity)

    @classmethod
    @contextlib.contextmanager
    def begin(
        cls, store: Store, identity: str, config: str, *, format: str, overwrite: bool = False
    ) -> Iterator[OutputWriter]:
        """Lock the folder, refuse one that belongs to another config, sweep up what killed runs left.

        config: the resolved config, to be kept in the output; format: that of its parts

        ``OutputError``: another live run holds it, it belongs to another config (without ``overwrite``), it holds
        files that no run wrote, or it cannot be written.
        """
        with locked(store, LOCK) as check:
            _refuse_strangers(store)
            if overwrite:  # the parts first: what is left of it by a crash still says whose it was
                store.remove_all(store.files(DATA))
                store.remove_all([name for name in store.files(META) if name != LOCK])
            _check_owner(store, identity, config)
            for folder in (DATA, META):
                store.remove_drafts(folder)
            output = cls(store, identity, check)
            output.write(CONFIG, config.encode())  # each run's: what is no part of the identity may be new in it
            store.remove_drafts_of(HUGGING_FACE)
            if not store.exists(HUGGING_FACE):  # one that is there may be a person's
                output.write(HUGGING_FACE, layout.hugging_face(format))
            output.log.heal()
            yield output

    def write(self, name: str, data: Any) -> None:
        """As :meth:`Store.write`, while this run holds the output."""
        self.check()
        self.store.write(name, data)

    def settled(self) -> dict[str, Any]:
        """What an earlier run settled about its sources, as :meth:`settle` was given it; empty where none has."""
        return json.loads(self.store.read(IDENTITY))["types"] if self.store.exists(IDENTITY) else {}

    def settle(self, types: Mapping[str, Any]) -> None:
        """Record what is settled, as JSON; the folder belongs to this config from here on."""
        self.write(IDENTITY, json.dumps({"identity": self.identity, "types": types}, indent=1).encode())

    def set_plan(self, shards: Iterable[Planned]) -> None:
        """Record every input episode, and drop parts and records of shards that this plan does not have."""
        lines: list[str] = []
        planned: dict[int, Planned] = {}
        for shard in shards:
            planned[shard.index] = shard
            lines += (
                json.dumps({"index": index, "id": id, "shard": shard.index})
                for index, id in enumerate(shard.episodes, shard.first_episode)
            )
        self.write(PLAN, "".join(f"{line}\n" for line in lines).encode())
        current = {i: c for i, c in self.committed.items() if i in planned and planned[i].fingerprint == c.fingerprint}
        if len(current) < len(self.committed):  # a stopped run must not leave the old input's records as if done
            self.committed = current
            self._write_manifest()
        self._keep_parts({shard.part for shard in planned.values()})

    def done(self, shards: Iterable[Planned]) -> set[int]:
        """Those whose record matches their input, whose part and its statistics are there in full, and no fault that
        may pass."""
        sizes, statistics = self.store.sizes(DATA), self.store.sizes(PART_STATISTICS)
        return {
            shard.index
            for shard in shards
            if (c := self.committed.get(shard.index)) is not None
            and (c.identity, c.fingerprint, c.retry) == (self.identity, shard.fingerprint, False)
            and (not c.part or (sizes.get(c.part) == c.bytes and layout.statistics_name(c.part) in statistics))
        }

    def commit(self, records: Sequence[ShardRecord]) -> None:
        """Record shards whose parts are written: all of them at once, and safe when this returns."""
        self.check()
        lines = [f"{record.to_json()}\n".encode() for record in records]
        place = self.log.append(b"".join(lines))
        for record, line in zip(records, lines, strict=True):
            self.committed[record.shard] = Committed.of(record, place, self.identity)
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
        """And their statistics; all others go."""
        self.check()
        names = names | {layout.statistics_name(name) for name in names if name}
        self.store.remove_all(
            [name for folder in (DATA, PART_STATISTICS) for name in self.store.files(folder) if name not in names]
        )

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


def _check_owner(store: Store, identity: str, config: str) -> None:
    if store.exists(IDENTITY):
        try:
            owner = json.loads(store.read(IDENTITY))["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{store.uri}/{IDENTITY} cannot be read ({error}); run again with --overwrite") from error
        if owner != identity:
            raise OutputError(
                f"{store.uri} belongs to another config (see {store.uri}/{CONFIG}){_difference(store, config)}; choose "
                "another output.uri, or replace it with --overwrite"
            )


#: Sections of a config that decide nothing of what is written.
_INCIDENTAL = ("compute", "cluster", "output.uri")


def _difference(store: Store, config: str) -> str:
    """Which keys of the stored config say something else than ``config`` does, for a message."""
    try:
        before, now = (dict(_flat("", yaml.safe_load(text))) for text in (store.read(CONFIG), config))
    except (OSError, yaml.YAMLError, AttributeError):
        return ""
    keys = [k for k in before | now if before.get(k) != now.get(k) and not k.startswith(_INCIDENTAL)]
    told = [f"{k} was {before.get(k, 'not there')!r} and is {now.get(k, 'not there')!r}" for k in keys[:5]]
    return f": {', '.join(told)}{' and more' if len(keys) > 5 else ''}" if told else ""


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a config with their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for key, inner in items:
        here = f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}" if path else str(key)
        yield from _flat(here, inner)


def _refuse_strangers(store: Store) -> None:
    """A run removes what it finds in data/ and does not need, so nothing may be there but parts of earlier runs."""
    ours = store.exists(CONFIG) or store.exists(IDENTITY)
    for name in store.files(DATA):
        if not (ours and layout.is_part(name)):
            raise OutputError(
                f"{store.uri} holds {name}, which no run wrote; move it elsewhere or choose another output.uri"
            )
