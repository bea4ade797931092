"""``robocache log``: the versions of an output."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robocache.cli import terminal

if TYPE_CHECKING:
    from robocache.output.version import Version


@dataclass(frozen=True, slots=True)
class Logged:
    """``kept``: whether it can be opened."""

    version: Version
    kept: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="output folder")
    parser.add_argument("--json", action="store_true", help="print the versions as JSON")


def run(args: argparse.Namespace) -> bool:
    found = log(args.uri)
    if args.json:
        terminal.document(found)
    else:
        terminal.say(*(line for one in found for line in render(one)))
    return True


def log(uri: str) -> list[Logged]:
    """The newest first. ``OutputError`` where there is none."""
    from robocache.output.dataset import Output
    from robocache.output.version import Version, list_versions

    store = Output.open(uri).store
    there = list_versions(store)
    return [Logged(Version.read(store, n), n in there.kept) for n in reversed(there.standing)]


def render(one: Logged) -> list[str]:
    """A version as lines for a person."""
    from robocache.output.plan import told

    v, c = one.version, one.version.changes
    lines = [
        f"version {v.number}  {v.made}{'' if one.kept else '  (no longer kept)'}",
        f"  {v.episodes} episodes, {v.rows:,} rows, {v.parts} parts; {v.quarantined} quarantined",
        f"  {told(c)}; {c.get('parts', 0)} parts written; config {v.identity}",
    ]
    return [*lines, *(f"  {line}" for line in v.settings)]
