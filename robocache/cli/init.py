"""``robocache init``: a commented config made from the recordings themselves, which runs as it is."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from robocache.cli import terminal
from robocache.errors import ConfigError
from robocache.text import shown

if TYPE_CHECKING:
    from robocache.cli.propose import Proposal

_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from robocache.cli.inspect import add_reading

    parser.add_argument("uri", nargs="+", help="files, globs or folders of recordings")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the config there (default: print it)")
    parser.add_argument("--force", action="store_true", help="write it over a file that is there")
    parser.add_argument("--limit", type=int, help="recordings to look at (default: as many as 1 GB, 3 at least)")
    add_reading(parser)


def run(args: argparse.Namespace) -> bool:
    from robocache.cli.inspect import reading
    from robocache.cli.propose import propose

    path = None if args.output is None else Path(args.output)
    if path is not None and path.exists() and not args.force:
        raise ConfigError([f"{path}: is there already; name another file, or give --force"])
    found = propose(reading(args, tuple(args.uri)), args.limit)
    text = render(found, tuple(args.uri))
    if path is None:
        terminal.say(*text.splitlines())
    else:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError([f"{path}: cannot be written: {error.strerror or error}"]) from None
    features = found.features
    left = sum(bool(line.reason) for block in found.blocks for line in block.lines)
    more = f" of {found.of}" if found.of > found.looked else ""
    rate = found.timeline.get("rate_hz")
    clock = f"at {rate:g} Hz" if rate is not None else f"at the stamps of {found.timeline['reference']}"
    made = f"{_count(len(features), 'feature')} {clock}"
    terminal.complain(
        *(f"note: {note}" for note in found.told),
        f"{made} from {_count(found.looked, 'recording')}{more}"
        + (f"; {left} left out, each with its reason" if left else ""),
        f"next: robocache run {path or 'FILE'}",
    )
    return True


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def render(found: Proposal, uris: tuple[str, ...]) -> str:
    """The config as YAML, with what was found as comments."""
    lines = [
        *_comment(
            f"Made by `robocache init {' '.join(uris)}` from {_count(found.looked, 'recording')}"
            + (f" of {found.of}." if found.of > found.looked else ".")
            + " It runs as it is: `robocache run FILE`; `robocache plan FILE` says what that would make."
        ),
        "",
        *_section("input", found.input, found.reasons),
        "",
        "features:",
    ]
    for block in found.blocks:
        lines += _comment(block.heading, 2)
        for line in block.lines:
            text = f"{_flow(line.name)}: {_flow(line.mapping)}"
            if line.reason:
                short = f"  # {text}  # left out: {shown(line.reason)}"
                fits = len(short) <= 2 * _WIDTH
                lines += [short] if fits else [f"  # {text}", *_comment(f"left out: {line.reason}", 2, "#   ")]
            else:
                lines.append(f"  {text}" + (f"  # {shown(line.note)}" if line.note else ""))
    lines += ["", *_section("timeline", found.timeline, found.reasons), ""]
    return "\n".join([*lines, f"output: {{uri: {_flow(_output(found.input['uri']))}}}", ""])


def _section(name: str, mapping: Mapping[str, Any], reasons: Mapping[str, str]) -> Iterator[str]:
    yield f"{name}:"
    for key, value in mapping.items():
        if key in reasons:
            yield from _comment(reasons[key], 2)
        yield f"  {key}: {_flow(value)}"


def _comment(text: str, indent: int = 0, mark: str = "# ") -> list[str]:
    """Text as comments of few columns; what it holds is no line of the config, whoever made it."""
    margin = " " * indent
    return textwrap.wrap(
        shown(text), _WIDTH, initial_indent=margin + mark, subsequent_indent=margin + mark, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _flow(value: Any) -> str:
    """A value in one line of YAML, with nothing in it that OmegaConf would interpolate."""
    from robocache.config.reading import literal

    plain = literal(dict(value) if isinstance(value, Mapping) else value)
    text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _output(uri: str | list[str]) -> str:
    """A folder apart from the input."""
    from robocache.config.checks import overlaps

    inputs = [uri] if isinstance(uri, str) else uri
    here = os.path.basename(os.getcwd()) or "robocache"
    for folder in ("dataset", f"../{here}_dataset", f"../../{here}_dataset"):
        if not any(overlaps(one, folder) for one in inputs):
            return folder
    return os.path.join(os.path.expanduser("~"), f"{here}_dataset")
