"""``robocache sample``: logs to try it with."""

from __future__ import annotations

import argparse

from robocache.cli import terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> bool:
    from robocache.sample import write_samples

    paths = write_samples(args.folder, episodes=args.episodes, seconds=args.seconds, seed=args.seed)
    size = sum(p.stat().st_size for p in paths)
    terminal.say(f"{len(paths)} logs, {size / 1e6:.1f} MB, in {args.folder}; the last one is damaged on purpose")
    return True
