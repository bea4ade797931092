"""``robocache report``: a dataset as one page of HTML for a person to see, and as pictures of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from robocache.cli import terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="output folder, or a LeRobot dataset that anybody made")
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help="where it goes (report.html)")
    parser.add_argument(
        "--png", metavar="FOLDER", help="the page as pictures too, 1280 and 400 pixels wide (by a Chromium on the PATH)"
    )
    parser.add_argument(
        "--episode", action="append", metavar="ID", help="one to show row by row (else the first, and the worst)"
    )
    parser.add_argument(
        "--version", type=int, metavar="N", help="one of those that robocache log lists; else the newest"
    )


def run(args: argparse.Namespace) -> bool:
    from robocache.engine.report import make
    from robocache.output.lerobot.others import open_dataset

    made = make(open_dataset(args.uri, version=args.version), args.episode)
    Path(args.out).write_text(made, encoding="utf-8")
    terminal.say(f"{args.out}: {len(made) / 1e6:.2f} MB, open it in a browser")
    if args.png:
        from robocache.engine.page.shots import shots

        Path(args.png).mkdir(parents=True, exist_ok=True)
        for width, shot in shots(Path(args.out)).items():
            path = Path(args.png) / f"report_{width}.png"
            path.write_bytes(shot.png)
            terminal.say(f"{path}: {len(shot.png) / 1e6:.2f} MB")
    return True
