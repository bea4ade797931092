"""The names and places of everything in an output: the one module that knows them.

    data/part-000000.parquet            the rows: one file a shard (.arrow for output.format: arrow)
    .huggingface.yaml                   tells Hugging Face datasets which of the files are rows
    meta/robocache/_config.yaml         the last run's resolved config
    meta/robocache/_identity.json       hash of what of it decides the bytes, and what is settled about the sources
    meta/robocache/_plan.jsonl          every input episode of this plan, a line each
    meta/robocache/_manifest.jsonl      a line per committed shard; on S3 also _manifest/, see robocache.output.manifest
    meta/robocache/_statistics/         statistics of each episode, a file a part
    meta/robocache/_run.lock            while a run writes, see robocache.output.lock
    meta/robocache/_in_flight.log       what a run in local mode is at, see robocache.engine.journal
    meta/robocache/_episodes.pq         made from the manifest at the end of a run: a row an episode (Parquet),
    meta/robocache/_quarantine.jsonl    a line an episode that could not be used, with the reason,
    meta/robocache/_statistics.json     what the columns hold,
    meta/robocache/_report.json         and how the run went

Readers that are given the output's folder find the rows alone: pyarrow, pandas and Spark pass over names that begin
with an underscore or a dot, Ray and patterns such as ``**/*.parquet`` over other suffixes.
"""

from __future__ import annotations

import re

from robocache.storage import OUTPUT_META

DATA = "data"
META = OUTPUT_META
CONFIG = f"{META}/_config.yaml"
IDENTITY = f"{META}/_identity.json"
PLAN = f"{META}/_plan.jsonl"
MANIFEST = f"{META}/_manifest.jsonl"
LOCK = f"{META}/_run.lock"
IN_FLIGHT = f"{META}/_in_flight.log"
EPISODES = f"{META}/_episodes.pq"
QUARANTINE = f"{META}/_quarantine.jsonl"
STATISTICS = f"{META}/_statistics.json"
REPORT = f"{META}/_report.json"
PART_STATISTICS = f"{META}/_statistics"
HUGGING_FACE = ".huggingface.yaml"

#: Of parts, by ``output.format``.
SUFFIXES = {"parquet": ".parquet", "arrow": ".arrow"}
_PART = re.compile(rf"{DATA}/(part-\d{{6,}}\.\w+|\.part-\d{{6,}}\.\w+\.\d+\.tmp)")


def part_name(shard: int, format: str) -> str:
    """Of the shard's part, the same on every run."""
    return f"{DATA}/part-{shard:06d}{SUFFIXES[format]}"


def statistics_name(part: str) -> str:
    """Of the file that holds the statistics of the part of that name."""
    return f"{PART_STATISTICS}/_{part.removeprefix(f'{DATA}/').rpartition('.')[0]}.pq"


def part_format(name: str) -> str:
    """The ``output.format`` of a part, by its name."""
    return "arrow" if name.endswith(SUFFIXES["arrow"]) else "parquet"


def is_part(name: str) -> bool:
    """True for the name of a part, or of the draft of one."""
    return _PART.fullmatch(name) is not None


def hugging_face(format: str) -> bytes:
    """What ``HUGGING_FACE`` holds."""
    return f"configs:\n- config_name: default\n  data_files: {DATA}/*{SUFFIXES[format]}\n".encode()
