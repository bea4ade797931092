"""``robocache verify``: prove that an output is whole."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from robocache.cli import terminal
from robocache.output.layout import REPORT

if TYPE_CHECKING:
    from robocache.output.verify import Verification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="output folder")
    parser.add_argument(
        "--version", type=int, metavar="N", help="one of those that robocache log lists; else the newest"
    )
    parser.add_argument(
        "--max-unpacked-mb", type=int, metavar="N", help="rows of one episode that are held (128, or 64 x its part)"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(args: argparse.Namespace) -> bool:
    from robocache.output.verify import verify

    found = verify(args.uri, version=args.version, max_unpacked_mb=args.max_unpacked_mb)
    if args.json:
        terminal.document(found)
    else:
        terminal.say(*render(args.uri, found))
    return not found.problems


def render(uri: str, found: Verification) -> list[str]:
    """Each problem, then what there is, as lines for a person."""
    verdict = f"{len(found.problems)} problems" if found.problems else "whole"
    if found.passed_over:
        verdict += f"; {found.passed_over} files of the input were passed over, see {REPORT}"
    what = f"LeRobot {found.lerobot}" if found.lerobot else f"version {found.version}"
    return [
        *(f"PROBLEM {problem}" for problem in found.problems),
        *(f"note: {note}" for note in found.notes),
        f"{uri}, {what}: {found.episodes} episodes, {found.rows} rows, {found.parts} parts, "
        f"{found.bytes / 1e6:.1f} MB, {found.quarantined} quarantined: {verdict}",
    ]
