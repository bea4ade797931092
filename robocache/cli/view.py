"""``robocache view``: episodes as a recording for the Rerun viewer, what was recorded beside the rows."""

from __future__ import annotations

import argparse
import os

from robocache.cli import terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="output folder")
    parser.add_argument("-o", "--out", default="view.rrd", metavar="FILE", help="where it goes (view.rrd)")
    parser.add_argument("--episode", action="append", metavar="ID", help="one to show (else the first)")
    parser.add_argument("--version", type=int, metavar="N", help="one that robocache log lists; else the newest")


def run(args: argparse.Namespace) -> bool:
    from robocache.engine.view import write_view
    from robocache.output.lerobot.others import open_dataset

    notes = write_view(open_dataset(args.uri, version=args.version), args.out, args.episode)
    terminal.say(*(f"note: {note}" for note in notes))
    terminal.say(f"{args.out}: {os.path.getsize(args.out) / 1e6:.2f} MB; open it with `rerun {args.out}`")
    return True
