"""``robocache run``: do the job of a config, show how far it is, and sum up."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from rich.filesize import decimal

from robocache.cli import terminal
from robocache.output.layout import QUARANTINE, REPORT

if TYPE_CHECKING:
    from robocache.output.tables import Summary

_SHOWN_REASONS = 10
_SHOWN_FINDINGS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_permissions(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what it would do, as robocache plan does")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_permissions(parser: argparse.ArgumentParser) -> None:
    """What a run may only do when it is told to."""
    help = "make the dataset anew where its config differs; the old one goes when the new one stands"
    parser.add_argument("--overwrite", action="store_true", help=help)
    help = "withdraw the episodes whose recordings are gone from the input"
    parser.add_argument("--prune", action="store_true", help=help)


def add_config(parser: argparse.ArgumentParser) -> None:
    """A config and its overrides; see :func:`config_of`."""
    parser.usage = f"{parser.prog} [OPTIONS] CONFIG [KEY=VALUE ...]"
    help = "YAML file, and what to change in it, e.g. timeline.rate_hz=100"
    parser.add_argument("words", nargs="+", metavar="CONFIG", help=help)


def config_of(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The config's path and the overrides, which may stand in any place."""
    paths = [word for word in args.words if "=" not in word]
    if len(paths) > 1:
        args.parser.error(f"two configs: {paths[0]!r} and {paths[1]!r}; write an override as KEY=VALUE")
    path = paths[0] if paths else args.words[0]
    overrides = list(args.words)
    overrides.remove(path)
    return path, overrides


def run(args: argparse.Namespace) -> bool:
    if args.dry_run:
        from robocache.cli import plan

        return plan.run(args)
    from robocache.cli.progress import display

    path, overrides = config_of(args)
    with display(quiet=args.level > logging.INFO) as progress:  # before what takes a second to import
        from robocache.config.load import load_job
        from robocache.engine import early

        job = load_job(path, overrides)
        try:
            early.start(job)
            from robocache.engine.run import run  # imports torch

            summary = run(job, overwrite=args.overwrite, prune=args.prune, progress=progress)
        finally:
            early.close()
    if args.json:
        terminal.document(summary)
    else:
        terminal.say(*render(summary))
    return summary.within_limit


#: What a run is bound by that spends most of its time at a stage, and what would help.
_BOUND = {
    "read": "the input's storage",
    "write": "the output's storage",
    "wait": "too few episodes for so many workers",
}


def _spent(s: Summary) -> str:
    """Where the workers' time went, and what would have to be faster."""
    total = sum(s.stages.values()) or 1.0
    shares = ", ".join(
        f"{stage} {seconds / total:.0%}" for stage, seconds in s.stages.items() if seconds > 0.005 * total
    )
    peak = f", at most {decimal(s.peak_bytes)} of memory a process" if s.peak_bytes else ""
    workers = "1 worker" if s.workers == 1 else f"{s.workers} workers"
    bound = _BOUND.get(s.bound_by, f"the cores ({s.bound_by})")
    if s.shards == s.skipped_shards:
        return f"{workers}{peak}: nothing was to be done"
    if s.bound_by == "wait" and s.shards < s.episodes + len(s.quarantined):
        bound = "too few shards for so many workers; a smaller output.shard_mb makes more"
    return f"{workers}{peak}: {shares}; bound by {bound}"


def render(s: Summary) -> list[str]:
    """The end of a run, as lines for a person."""
    from robocache.output.plan import told

    total = s.episodes + len(s.quarantined)
    lines = [
        f"{s.uri}: {s.rows:,} rows of {s.episodes} episodes in {s.parts} parts, {decimal(s.bytes_out)} "
        f"from {decimal(s.bytes_in)} of input, {s.seconds:.2f} s",
    ]
    if s.version > 1 or not s.is_new:
        lines.append(f"version {s.version}" + (f": {told(s.changes)}" if s.is_new else " stands: nothing has changed"))
    if s.stages:
        lines.append(_spent(s))
    if s.skipped_shards:
        lines.append(f"{s.skipped_shards} of {s.shards} shards were there already, of this config and input")
    lines += [f"note: {note}" for note in s.notes]
    if s.episodes:
        lines.append(f"quality: {s.kept:.1%} of the time recorded is in rows" + (", and:" if s.findings else ""))
        lines += [f"  {'! ' if f.failed else ''}{f.line}" for f in s.findings[:_SHOWN_FINDINGS]]
        if (more := len(s.findings) - _SHOWN_FINDINGS) > 0:
            lines.append(f"  ... and {more} more in {s.uri}/{REPORT}")
    if s.quarantined:
        allowed = "" if s.within_limit else ", more than max_failed_episodes allows"
        lines.append(f"quarantined: {len(s.quarantined)} of {total} episodes{allowed}")
        lines += [f"  {q.id}: {q.reason}" for q in s.quarantined[:_SHOWN_REASONS]]
        if (more := len(s.quarantined) - _SHOWN_REASONS) > 0:
            lines.append(f"  ... and {more} more in {s.uri}/{QUARANTINE}")
    return lines
