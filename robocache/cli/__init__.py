"""robocache init | run | plan | inspect | report | view | log | verify | doctor | completion | sample

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
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from robocache import __version__
from robocache.cli import terminal
from robocache.errors import ConfigError, RoboCacheError

DONE, FAILED, USAGE, REFUSED, STOPPED = 0, 1, 2, 3, 130

#: Each is a module of this package: ``add_arguments`` declares its options, ``run`` does it and returns whether all is
#: well.
COMMANDS = {
    "init": "write a config made from recordings, which runs as it is",
    "run": "make the dataset that a config describes, or go on with it",
    "plan": "say what a run would do: shards, rows, bytes, memory",
    "inspect": "show the streams of recordings, or the columns and coverage of an output",
    "report": "write a page of HTML that shows what is good about an output and what is not",
    "view": "write an episode for the Rerun viewer, what was recorded beside the rows",
    "log": "list the versions of an output: when, what changed, by which config",
    "verify": "prove that an output is whole: checksums, rows, no episode lost or twice",
    "doctor": "say what this machine has: extension, devices, readers, versions",
    "completion": "print what makes bash, zsh or fish complete this command line",
    "sample": "write logs of a simulated arm: gaps, duplicates, jitter, one damaged file",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code. ``SystemExit`` where the words are no command, and from ``--help``."""
    args = _parse(sys.argv[1:] if argv is None else argv)
    terminal.set_up(args.level)
    before = signal.signal(signal.SIGTERM, _interrupt)
    kept = "; what was committed is kept, run again to go on" if args.command == "run" else ""
    try:
        return DONE if import_module(f"robocache.cli.{args.command}").run(args) else FAILED
    except terminal.ReaderGoneError:
        return DONE
    except ConfigError as error:
        terminal.complain(*error.problems)
        return USAGE
    except RoboCacheError as error:
        terminal.complain(f"robocache: {error}")
        return REFUSED
    except KeyboardInterrupt:
        terminal.leave_line()
        terminal.complain(f"robocache: stopped{kept}")
        return STOPPED
    except OSError as error:
        terminal.complain(f"robocache: storage failed: {error}{kept}")
        return REFUSED
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        terminal.complain(f"{self.prog}: {message}; see {self.prog} --help")
        raise SystemExit(USAGE)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="robocache",
        description="Raw multi-rate robot logs in, one time-aligned, training-ready Arrow dataset out.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"robocache {__version__}")
    parser.set_defaults(level=logging.INFO)
    add_levels(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), None)
    if asked is not None and asked not in COMMANDS:
        parser.error(f"no command {asked!r}{_did_you_mean(asked, list(COMMANDS))}")
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.set_defaults(parser=command)
        add_levels(command)
        if name == asked:
            import_module(f"robocache.cli.{name}").add_arguments(command)
    args, left = parser.parse_known_args(_behind(asked, argv, parser))
    if args.command is None:
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    # Options may stand between words; argparse leaves the words behind them over.
    if left and hasattr(args, "words"):
        args.words += [word for word in left if not word.startswith("-")]
        left = [word for word in left if word.startswith("-")]
    if left:
        known = [option for action in args.parser._actions for option in action.option_strings]
        args.parser.error(f"cannot take {left[0]!r}{_did_you_mean(left[0], known)}")
    return args


def _behind(asked: str | None, argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The line with the options that stand in front of the command, and are none of ``parser``, behind it."""
    at = argv.index(asked) if asked is not None else 0
    own = [word for word in argv[:at] if word in parser._option_string_actions]
    return [*own, *argv[at : at + 1], *(word for word in argv[:at] if word not in own), *argv[at + 1 :]]


def add_levels(parser: argparse.ArgumentParser) -> None:
    """Anywhere in the line, and the last one counts."""
    for option, level, help in (
        ("verbose", logging.DEBUG, "log more, in Ray workers too"),
        ("quiet", logging.WARNING, "log warnings alone, and draw no bar"),
    ):
        parser.add_argument(
            f"-{option[0]}",
            f"--{option}",
            action="store_const",
            dest="level",
            const=level,
            default=argparse.SUPPRESS,
            help=help,
        )


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
