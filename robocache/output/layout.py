"""The names and places of everything in an output: the one module that knows them.

    data/part-000012-9c1f03ab52d7.parquet   rows: the number of its first episode, a hash of its content (.arrow for
                                            output.format: arrow)
                                            With output.format: lerobot they lie in meta/robocache/_parts/, and data/,
                                            videos/ and meta/ hold LeRobot's tree, see robocache.output.lerobot
    .huggingface.yaml                       tells Hugging Face datasets which of the files are rows
    meta/robocache/_versions/_000003/       a version, see docs/architecture/commit_protocol.md
    meta/robocache/_statistics/             statistics of each episode, a file a part
    meta/robocache/_older/                  parts that only older versions need
    meta/robocache/_run.lock                while a run writes, see robocache.output.lock
    meta/robocache/_in_flight.log           what a run in local mode is at, see robocache.engine.journal
    meta/robocache/_episodes.pq             made from the newest version as a run ends: a row an episode (Parquet),
    meta/robocache/_quarantine.jsonl        a line an episode that could not be used, with the reason,
    meta/robocache/_statistics.json         and what the columns hold
    meta/robocache/_config.yaml             the last run's resolved config
    meta/robocache/_report.json             how the last run went
    meta/robocache/_report.html             with output.report: the version that it made, as a page for a person

Readers that are given the output's folder find the rows alone: pyarrow, pandas and Spark pass over names that begin
with an underscore or a dot, Ray and patterns such as ``**/*.parquet`` over other suffixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from robocache.storage import OUTPUT_META

DATA = "data"
META = OUTPUT_META
VERSIONS = f"{META}/_versions"
OLDER = f"{META}/_older"
PART_STATISTICS = f"{META}/_statistics"
CONFIG = f"{META}/_config.yaml"
EPISODES = f"{META}/_episodes.pq"
QUARANTINE = f"{META}/_quarantine.jsonl"
STATISTICS = f"{META}/_statistics.json"
#: What is made of the records of a version.
TABLES = frozenset({EPISODES, QUARANTINE, STATISTICS})
REPORT = f"{META}/_report.json"
PAGE = f"{META}/_report.html"
LOCK = f"{META}/_run.lock"
IN_FLIGHT = f"{META}/_in_flight.log"
HUGGING_FACE = ".huggingface.yaml"

#: What releases before versions kept beside the tables; an output with one of these and no version is theirs.
FORMER = (f"{META}/_identity.json", f"{META}/_plan.jsonl", f"{META}/_manifest.jsonl")

#: What parts are called, by ``output.format``: folder, prefix and suffix. Where other files have the folder of the
#: rows, readers that are given the output's folder must not take parts for them.
_PARTS = {
    "parquet": (f"{DATA}/", ".parquet"),
    "arrow": (f"{DATA}/", ".arrow"),
    "lerobot": (f"{META}/_parts/_", ".pq"),
}
#: What the names of parts begin with that lie beside a tree.
TREE_PARTS = f"{META}/_parts/"
#: Where parts may lie.
PART_FOLDERS = tuple(dict.fromkeys(place.rpartition("/")[0] for place, _ in _PARTS.values()))
_PART = re.compile(rf"({DATA}/\.?|{META}/_parts/\.?_)part-\d{{6,}}(-[0-9a-f]{{12}})?\.\w+(\.\d+\.tmp)?")
#: LeRobot's files of rows, of any of its versions.
_TREE = re.compile(rf"{DATA}/chunk-\d{{3,}}/(file-\d{{3,}}|episode_\d{{6,}})\.parquet")
_OWN = (
    re.compile(rf"{OLDER}/\.?_part-\d{{6,}}(-[0-9a-f]{{12}})?(\.\w+)?\.old"),
    re.compile(rf"{PART_STATISTICS}/\.?_part-\d{{6,}}(-[0-9a-f]{{12}})?\.pq"),
    re.compile(
        rf"{VERSIONS}/_\d{{6,}}/(_version\.json|_plan\.jsonl|_manifest\.jsonl|_manifest/\d+\.jsonl|_config\.yaml)"
    ),
    re.compile(r"(.*/)?\.[^/]+\.\d+\.tmp"),
)
_VERSION = re.compile(rf"{VERSIONS}/_(\d{{6,}})/(.+)")


def part_name(first_episode: int, sha256: str, format: str) -> str:
    """Of the part whose first rows are of that episode."""
    place, suffix = _PARTS[format]
    return f"{place}part-{first_episode:06d}-{sha256[:12]}{suffix}"


def _base(part: str) -> str:
    """A part's name without its folder."""
    return part.rpartition("/")[2].removeprefix("_")


def first_episode(part: str) -> int:
    """The number of the episode that the part of that name begins with."""
    return int(_base(part).split("-")[1])


def statistics_name(part: str) -> str:
    """Of the file that holds the statistics of the part of that name."""
    return f"{PART_STATISTICS}/_{_base(part).rpartition('.')[0]}.pq"


def older_name(part: str) -> str:
    """Where the part of that name lies once the newest version does without it."""
    return f"{OLDER}/_{_base(part)}.old"


def ways(part: str) -> tuple[str, str, str]:
    """Where to look for it, one after the other: it may be moved between two looks, either way."""
    return part, older_name(part), part


def places(newest: Iterable[str], kept: Iterable[str]) -> set[str]:
    """Where the parts of the newest version and of others that are kept lie, and the statistics of all of them."""
    newest, kept = set(newest), set(kept)
    return newest | {older_name(p) for p in kept - newest} | {statistics_name(p) for p in newest | kept}


def part_format(name: str) -> Literal["parquet", "arrow"]:
    """What a part is encoded as, by its name."""
    return "arrow" if name.endswith(_PARTS["arrow"][1]) else "parquet"


def is_part(name: str) -> bool:
    """True for the name of a part, or of the draft of one."""
    return _PART.fullmatch(name) is not None


def is_ours(name: str) -> bool:
    """True for the name of a file that runs write where they also remove: a part, what is beside it, of a version, a
    draft. Whatever else lies there is a person's.
    """
    return is_part(name) or any(own.fullmatch(name) for own in _OWN)


def is_tree(name: str) -> bool:
    """True for the name of a file of rows of LeRobot's."""
    return _TREE.fullmatch(name) is not None


def version_folder(number: int) -> str:
    return f"{VERSIONS}/_{number:06d}"


def version_file(number: int) -> str:
    """What makes a version stand."""
    return f"{version_folder(number)}/_version.json"


def plan_file(number: int) -> str:
    return f"{version_folder(number)}/_plan.jsonl"


def manifest_file(number: int) -> str:
    return f"{version_folder(number)}/_manifest.jsonl"


def config_file(number: int) -> str:
    return f"{version_folder(number)}/_config.yaml"


def version_of(name: str) -> tuple[int, str] | None:
    """The number of the version that a file belongs to, and its name within; None for any other file."""
    match = _VERSION.fullmatch(name)
    return None if match is None else (int(match[1]), match[2])


def hugging_face(format: str) -> bytes:
    """What ``HUGGING_FACE`` holds."""
    rows = f"{DATA}/*/*.parquet" if format == "lerobot" else f"{DATA}/*{_PARTS[format][1]}"
    return f"configs:\n- config_name: default\n  data_files: {rows}\n".encode()


def is_hugging_face(data: bytes) -> bool:
    """Whether a run has written it, of whichever format."""
    return data in map(hugging_face, _PARTS)
