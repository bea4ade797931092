"""robocache run | plan | inspect | verify | doctor | sample

Exit codes: 0 done; 1 it ran, but more episodes are in the quarantine than max_failed_episodes allows, or verify found
a problem, or inspect a recording that cannot be read; 2 the command line or the config is wrong; 3 the input or the
output refused (nothing matches, another config, another run, no space, no permission, failing storage); 130 stopped by
SIGINT or SIGTERM, what was committed is kept.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from robocache.errors import ConfigError, RoboCacheError

DONE, FAILED, USAGE, REFUSED, STOPPED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return args.command(args)
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return USAGE
    except RoboCacheError as error:
        print(f"robocache: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("robocache: stopped; what was committed is kept, run again to go on", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # `robocache inspect ... | head`
        sys.stderr.close()
        return DONE
    except OSError as error:
        print(f"robocache: storage failed: {error}; what was committed is kept, run again to go on", file=sys.stderr)
        return REFUSED


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robocache",
        description="Raw multi-rate robot logs in, one time-aligned, training-ready Arrow dataset out.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more, in Ray workers too")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(command=function)
        return command

    run = add("run", _run, "make the dataset that a config describes, or go on with it")
    run.add_argument("--overwrite", action="store_true", help="replace what is in output.uri")
    plan = add("plan", _plan, "say what a run would do: shards, rows, bytes, memory")
    for command in (run, plan):
        command.add_argument("config", help="YAML file")
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. timeline.rate_hz=100")
    inspect = add("inspect", _inspect, "show the streams of recordings, or the columns and coverage of an output")
    inspect.add_argument("uri", help="file, glob or folder of recordings; or an output folder")
    inspect.add_argument("--limit", type=int, default=5, help="recordings to show (default: 5)")
    inspect.add_argument("--episode", metavar="ID", help="show this one, and how many of its samples hold NaN")
    by = "tables: each file is an episode (default), or each folder"
    inspect.add_argument("--episode-by", choices=("file", "folder"), default="file", help=by)
    inspect.add_argument("--format", default="auto", help="reader, where the suffix does not tell")
    inspect.add_argument("--time-column", metavar="PATH", help="time column of tables, e.g. timestamp")
    inspect.add_argument("--time-unit", choices=("ns", "us", "ms", "s"), default="s", help="its unit (default: s)")
    inspect.add_argument("--rate-hz", type=float, help="rate of tables without time")
    inspect.add_argument("--stamp", choices=("header", "log"), default="header", help="which time messages have")
    verify = add("verify", _verify, "prove that an output is whole: checksums, rows, no episode lost or twice")
    verify.add_argument("uri", help="output folder")
    add("doctor", _doctor, "say what this machine has: extension, devices, readers, versions")
    sample = add("sample", _sample, "write logs of a simulated arm: gaps, duplicates, jitter, one damaged file")
    sample.add_argument("folder")
    sample.add_argument("--episodes", type=int, default=8)
    sample.add_argument("--seconds", type=float, default=20.0)
    sample.add_argument("--seed", type=int, default=0)
    return parser


def _run(args: argparse.Namespace) -> int:
    from robocache.api import run
    from robocache.cli.progress import display, render_summary

    with display() as progress:
        summary = run(args.config, args.overrides, overwrite=args.overwrite, progress=progress)
    print(render_summary(summary))
    return DONE if summary.within_limit else FAILED


def _plan(args: argparse.Namespace) -> int:
    from robocache.cli.plan import preview
    from robocache.config.load import load_job

    print(preview(load_job(args.config, args.overrides)))
    return DONE


def _inspect(args: argparse.Namespace) -> int:
    from rich.console import Console

    from robocache.cli import inspect as inspecting
    from robocache.formats import InputSpec, TableTimes

    console = Console(width=None if sys.stdout.isatty() else 160)  # of a pipe rich takes 80, which breaks names
    if inspecting.is_output(args.uri):
        one = args.episode is not None
        console.print(
            inspecting.render_output_episode(args.uri, args.episode) if one else inspecting.render_output(args.uri)
        )
        return DONE
    times = None
    if args.time_column or args.rate_hz:
        times = TableTimes(args.time_column, args.time_unit, args.rate_hz)
    spec = InputSpec((args.uri,), format=args.format, episode=args.episode_by, times=times, stamp=args.stamp)
    if args.episode is not None:
        count, episodes = 1, iter([inspecting.inspect_recording(spec, args.episode)])
    else:
        count, episodes = inspecting.inspect_recordings(spec, args.limit)
    failed = False
    for episode in episodes:
        console.print(inspecting.render_episode(episode))
        failed |= bool(episode.failure)
    if args.episode is None and count > args.limit:
        console.print(f"... and {count - args.limit} more; --limit shows them")
    return FAILED if failed else DONE


def _verify(args: argparse.Namespace) -> int:
    from robocache.output.verify import verify

    found = verify(args.uri)
    for problem in found.problems:
        print(f"PROBLEM {problem}")
    print(
        f"{args.uri}: {found.episodes} episodes, {found.rows} rows, {found.parts} parts, {found.bytes / 1e6:.1f} MB, "
        f"{found.quarantined} quarantined: {'whole' if not found.problems else f'{len(found.problems)} problems'}"
    )
    return FAILED if found.problems else DONE


def _doctor(args: argparse.Namespace) -> int:
    from rich.console import Console

    from robocache.cli import doctor

    Console().print(doctor.render(doctor.report()))
    return DONE


def _sample(args: argparse.Namespace) -> int:
    from robocache.sample import write_samples

    paths = write_samples(args.folder, episodes=args.episodes, seconds=args.seconds, seed=args.seed)
    size = sum(p.stat().st_size for p in paths)
    print(f"{len(paths)} logs, {size / 1e6:.1f} MB, in {args.folder}; the last one is damaged on purpose")
    return DONE
