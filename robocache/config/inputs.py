"""The section ``input``: which recordings, and where those that carry no time of their own keep it."""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from robocache.config.reading import UNREADABLE, Problems, did_you_mean, key_names, read_section, resolved
from robocache.config.schema import EXPECTED, Csv, Input, TimeKeys
from robocache.config.values import at_least, parse_rate, parsed
from robocache.formats.base import CsvSpec, InputSpec, TableTimes
from robocache.formats.clouds import CloudFiles
from robocache.formats.registry import READERS

#: What is hard to write or to see in YAML.
_SEPARATORS = {"tab": "\t", "\\t": "\t"}


def read_input(cfg: Input, problems: Problems) -> InputSpec:
    """The section as the readers take it."""
    uris: tuple[str, ...] = ()
    if not problems.under("input.uri"):
        uris = (cfg.uri,) if isinstance(cfg.uri, str) else tuple(cfg.uri)
        if not uris or not all(uri.strip() for uri in uris):
            problems.wrong("input.uri", cfg.uri, f"write {EXPECTED['uri']}, or a list of them")
    formats = ["auto", *READERS]
    if cfg.format not in formats and not problems.under("input.format"):
        guess = did_you_mean(cfg.format, formats)
        problems.wrong("input.format", cfg.format, f"{guess}write one of {', '.join(formats)}")
    if cfg.episode not in ("file", "folder"):
        try:
            grouped = "episode" in re.compile(cfg.episode).groupindex
        except re.error as error:
            problems.wrong("input.episode", cfg.episode, f"not a regular expression: {error}")
        else:
            if not grouped:
                guess = did_you_mean(cfg.episode, ["file", "folder"])
                problems.wrong("input.episode", cfg.episode, f"{guess}write {EXPECTED['episode']}")
    if not problems.under("input.stamp") and not cfg.stamp.strip():
        problems.wrong("input.stamp", cfg.stamp, f"write {EXPECTED['stamp']}")
    return InputSpec(
        uri=uris,
        format=cfg.format,
        storage_options=cfg.storage_options,
        times=_times(cfg, problems),
        episode=cfg.episode,
        stamp=cfg.stamp,
        verify_checksums=cfg.verify_checksums,
        salvage=cfg.salvage,
        select=_select(cfg, problems),
        csv=_csv(cfg, problems),
        fingerprint=cfg.fingerprint,
        max_unpacked=cfg.max_unpacked_mb << 20,
    )


def _select(cfg: Input, problems: Problems) -> tuple[str, ...]:
    if problems.under("input.select"):
        return ()
    given = cfg.select.split(",") if isinstance(cfg.select, str) else cfg.select
    items = tuple(str(item).strip() for item in given if cfg.select)
    if not all(items):
        problems.wrong("input.select", cfg.select, f"write {EXPECTED['select']}")
    return items


def _csv(cfg: Input, problems: Problems) -> CsvSpec:
    found = cfg.csv
    if found is None or problems.under("input.csv"):
        return CsvSpec()
    if cfg.format not in ("auto", "csv"):
        problems.add("input.csv", f"is for CSV files, not for {cfg.format}; leave it out")
    at_least(problems, "input.csv.skip_rows", found.skip_rows, 0)
    separator = _SEPARATORS.get(found.separator or "", found.separator)
    if separator is not None and separator != "whitespace" and (len(separator) != 1 or not separator.isascii()):
        problems.wrong("input.csv.separator", found.separator, f"write {EXPECTED['separator']}")
    if separator == "," and found.decimal == ",":
        problems.add("input.csv.decimal", "found a comma, which is the separator too; write another for one of them")
    for key in ("comment", "encoding"):
        if (value := getattr(found, key)) is not None and not value.strip():
            problems.wrong(f"input.csv.{key}", value, f"write {EXPECTED[key]}")
    try:
        codecs.lookup((found.encoding or "").strip() or "utf-8")
    except LookupError:
        problems.wrong("input.csv.encoding", found.encoding, f"write {EXPECTED['encoding']}")
    twice = next((name for name in found.names if found.names.count(name) > 1), None)
    if twice is not None or not all(name.strip() for name in found.names):
        problems.wrong("input.csv.names", list(found.names), "write a name for each column, no two alike")
    return CsvSpec(
        separator, found.decimal, found.comment, found.skip_rows, tuple(found.names), found.encoding,
        tuple(found.null_words), found.units_row,
    )  # fmt: skip


def csv_mapping(csv: CsvSpec) -> dict[str, Any]:
    """The dialect as a config has it: what is not left to the file."""
    usual, mapping = CsvSpec(), {}
    for key in (field.name for field in dataclasses.fields(Csv)):
        value = getattr(csv, key)
        if value != getattr(usual, key):
            mapping[key] = list(value) if isinstance(value, tuple) else value
    return mapping


def _times(cfg: Input, problems: Problems) -> TableTimes | None:
    if cfg.times is None or problems.under("input.times"):
        return None
    reader = READERS.get(cfg.format)
    if reader is not None and reader.own_time:
        problems.add("input.times", f"{cfg.format} carries its own time; leave it out")
    tables: dict[str, TableTimes] = {}
    if cfg.times.tables is not None:
        tables = _tables(cfg.times.tables, problems)
    times = _one(cfg.times, "input.times", problems, tables)
    sequences = [name for name, known in READERS.items() if isinstance(known, CloudFiles)]
    if cfg.times.file is not None and cfg.format not in ("auto", *sequences):
        problems.add("input.times.file", f"is for sequences of files ({', '.join(sequences)}); leave it out")
    if cfg.times.files is not None and cfg.times.file is None:
        problems.add("input.times.files", "is a column of the table input.times.file; name that too")
    return dataclasses.replace(times, file=cfg.times.file or "", files=cfg.times.files or "")


def _tables(found: Any, problems: Problems) -> dict[str, TableTimes]:
    path = "input.times.tables"
    if not isinstance(found, DictConfig) or not found:
        problems.wrong(path, found, "write a mapping from tables' names to their time, each as input.times")
        return {}
    tables = {}
    for name in found:
        where = f"{path}.{name!s}"
        value = resolved(found, name, where, problems)
        if value is UNREADABLE:
            continue
        if not isinstance(value, DictConfig):
            problems.wrong(where, value, f"write a mapping with the keys {key_names(TimeKeys)}")
            continue
        tables[str(name)] = _one(read_section(TimeKeys, value, where, problems), where, problems, {})
    return tables


def _one(cfg: TimeKeys, path: str, problems: Problems, tables: Mapping[str, TableTimes]) -> TableTimes:
    """One of the ways to tell time; with ``tables`` it may be none, for the others state their unit themselves."""
    given = [key for key in ("column", "columns", "rate_hz") if getattr(cfg, key) is not None]
    if not problems.under(path):
        if len(given) > 1 or not (given or tables or getattr(cfg, "file", None)):
            both = f"both {given[0]} and {given[1]}" if given else "neither column nor rate_hz"
            right = "write a time column and its unit, or two columns, or else a fixed rate_hz"
            problems.add(path, f"found {both}; {right}")
        elif cfg.unit is not None and given != ["column"]:
            what = given[0] if given else "tables"
            problems.add(f"{path}.unit", f"a unit belongs to a time column, not to {what}; leave it out")
        elif cfg.columns is not None and len(cfg.columns) != 2:
            problems.wrong(f"{path}.columns", list(cfg.columns), "write two: of seconds, and of nanoseconds")
    columns = (cfg.columns[0], cfg.columns[1]) if cfg.columns is not None and len(cfg.columns) == 2 else None
    rate = parsed(parse_rate, cfg.rate_hz, f"{path}.rate_hz", problems)
    return TableTimes(cfg.column, cfg.unit or "s", rate, columns, tables=tables)


def times_mapping(times: TableTimes) -> dict[str, Any]:
    """Times as a config has them."""
    mapping: dict[str, Any] = {}
    if times.columns is not None:
        mapping["columns"] = list(times.columns)
    elif times.column is not None:
        mapping |= {"column": times.column, "unit": times.unit}
    elif times.rate_hz is not None:
        mapping["rate_hz"] = str(times.rate_hz)
    mapping |= {key: value for key in ("file", "files") if (value := getattr(times, key))}
    if times.tables:
        mapping["tables"] = {name: times_mapping(inner) for name, inner in times.tables.items()}
    return mapping
