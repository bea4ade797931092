"""The plan of a version: every episode that the output has ever known, its number, and the shard that it is in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from robocache.errors import OutputError
from robocache.output.documents import count, mapping, parsed, text
from robocache.output.store import Store


@dataclass(frozen=True, slots=True)
class PlannedEpisode:
    """``shard`` is None where it was withdrawn; ``stamp``: of what it is read from; ``split``: which it belongs to."""

    index: int
    id: str
    shard: int | None = None
    stamp: str = ""
    split: str = ""

    @classmethod
    def of(cls, found: Any) -> PlannedEpisode:
        """``ValueError`` or ``TypeError`` where it is none."""
        planned = cls(**mapping(found))
        count(planned.index, "index")
        if planned.shard is not None:
            count(planned.shard, "shard")
        for key in ("id", "stamp", "split"):
            text(getattr(planned, key), key)
        return planned

    def to_json(self) -> str:
        line: dict[str, object] = {"index": self.index, "id": self.id}
        if self.shard is not None:
            line |= {"shard": self.shard, "stamp": self.stamp, **({"split": self.split} if self.split else {})}
        return json.dumps(line)


@dataclass(frozen=True)
class Plan:
    """``identity``: of the config that it was made for; ``episodes``: in order of their numbers."""

    identity: str
    episodes: tuple[PlannedEpisode, ...] = ()

    def present(self) -> dict[str, PlannedEpisode]:
        """Those that were not withdrawn, by id."""
        return {e.id: e for e in self.episodes if e.shard is not None}

    def encode(self) -> bytes:
        """As a file: a line with the identity, then one an episode."""
        lines = [json.dumps({"identity": self.identity}), *(e.to_json() for e in self.episodes)]
        return "".join(f"{line}\n" for line in lines).encode()

    def sha256(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def read(cls, store: Store, name: str) -> Plan:
        """``FileNotFoundError`` where there is none, ``OutputError`` where it cannot be read."""
        try:
            lines = (line for _, line in store.lines(name))
            head = mapping(parsed(next(lines, b"")))
            return cls(text(head["identity"], "identity"), tuple(PlannedEpisode.of(parsed(line)) for line in lines))
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{store.uri}/{name} cannot be read ({error}); run again with --overwrite") from error


def told(counts: Mapping[str, int]) -> str:
    """Counts of episodes by what has become of them, as :meth:`Changes.counts` has them, in words."""
    return ", ".join(f"{counts[what]} {what}" for what in ("new", "changed", "withdrawn", "kept") if what in counts)


@dataclass(frozen=True)
class Changes:
    """What a listing is to the version that stands, as ids in order of their numbers.

    vanished: committed rows whose recording the listing lacks; withdrawn: these, and recordings of the quarantine that
    are gone; kept: how many are as they were
    """

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    kept: int = 0

    @classmethod
    def between(
        cls, plan: Plan | None, listed: Iterable[tuple[str, str]], quarantined: frozenset[str] = frozenset()
    ) -> Changes:
        """listed: id and stamp of each episode that is there; quarantined: ids of those without rows."""
        before = {} if plan is None else plan.present()
        new, changed, kept = [], [], 0
        for id, stamp in listed:
            known = before.pop(id, None)
            if known is None:
                new.append(id)
            elif known.stamp != stamp:
                changed.append(id)
            else:
                kept += 1
        gone = tuple(before)
        return cls(tuple(new), tuple(changed), gone, tuple(id for id in gone if id not in quarantined), kept)

    def counts(self) -> dict[str, int]:
        return {
            "new": len(self.new),
            "changed": len(self.changed),
            "withdrawn": len(self.withdrawn),
            "kept": self.kept,
        }
