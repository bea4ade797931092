"""Versions of an output: what says that one stands, and which there are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robocache.errors import OutputError
from robocache.output import layout
from robocache.output.documents import count, mapping, parsed, text
from robocache.output.store import Store

#: Of what this release writes and reads.
LAYOUT = 1
#: Bytes of a document that is read at once.
LARGEST = 64 << 20


@dataclass(frozen=True)
class Version:
    """A version that stands.

    made:     when, UTC, as ISO 8601 has it
    identity: hash of what decided the bytes of its parts
    types:    what was settled about its sources
    root:     what its episodes' ids are relative to
    changes:  episodes by what had become of them since the version before: new, changed, withdrawn, kept; and the
              parts that were written
    settings: keys of the config that differ from the version before
    plan, manifest: sha256 of the files of that name
    size:     bytes of its parts
    tables:   sha256 of the tables made of it, by name
    """

    number: int
    made: str
    identity: str
    types: Mapping[str, Any]
    root: str
    plan: str
    manifest: str
    episodes: int
    rows: int
    parts: int
    size: int
    quarantined: int
    changes: Mapping[str, int] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        return json.dumps({"layout": LAYOUT, **dataclasses.asdict(self)}, indent=1).encode()

    @classmethod
    def read(cls, store: Store, number: int) -> Version:
        """``FileNotFoundError`` where it does not stand; ``OutputError`` where it cannot be read."""
        name = layout.version_file(number)
        try:
            found = mapping(parsed(store.read(name, LARGEST)))
            if count(found.pop("layout"), "layout") > LAYOUT:
                raise OutputError(f"{store.uri}/{name} was written by a newer release; read it with that")
            version = cls(**found)
            if version.number != number:
                raise ValueError(f"it says that it is version {str(version.number)[:40]}")
            for key in ("made", "identity", "root", "plan", "manifest"):
                text(getattr(version, key), key)
            for key in ("episodes", "rows", "parts", "size", "quarantined"):
                count(getattr(version, key), key)
            for what, number_of in mapping(version.changes, "changes").items():
                count(number_of, text(what, "a change"))
            if foreign := mapping(version.tables, "tables").keys() - {
                layout.EPISODES,
                layout.QUARANTINE,
                layout.STATISTICS,
            }:
                raise ValueError(f"{min(foreign)!r} is none of its tables")
            mapping(version.types, "types")
            settings = tuple(text(setting, "a setting") for setting in version.settings)
            return dataclasses.replace(version, settings=settings)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{store.uri}/{name} cannot be read ({error}); run again with --overwrite") from error


@dataclass(frozen=True)
class Listed:
    """The versions of an output, by what is there of them. ``standing``: their numbers, ascending; ``kept``: those
    whose parts are there too; ``unfinished``: folders of versions that do not stand.
    """

    standing: tuple[int, ...]
    kept: tuple[int, ...]
    unfinished: tuple[int, ...]

    @property
    def newest(self) -> int:
        """0: none."""
        return self.standing[-1] if self.standing else 0


def list_versions(store: Store) -> Listed:
    """From the names of their files."""
    files: dict[int, set[str]] = {}
    for name in store.files(layout.VERSIONS):
        if (found := layout.version_of(name)) is not None:
            files.setdefault(found[0], set()).add(found[1])
    standing = tuple(sorted(n for n, names in files.items() if "_version.json" in names))
    kept = tuple(n for n in standing if "_manifest.jsonl" in files[n])
    return Listed(standing, kept, tuple(sorted(set(files) - set(standing))))


def refuse_former(store: Store) -> None:
    """``OutputError`` where a release before versions has written here and none since."""
    if any(store.exists(name) for name in layout.FORMER):
        raise OutputError(
            f"{store.uri} was written by an earlier release, which kept no versions; make it anew with --overwrite, or "
            "choose another output.uri"
        )
