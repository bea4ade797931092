"""The section ``input.segments``: how long logs are cut into episodes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from robocache.config.job import Range, SegmentSpec
from robocache.config.reading import Problems
from robocache.config.schema import EXPECTED, Segments
from robocache.config.values import duration_text, parse_duration, parsed
from robocache.formats.base import parse_source
from robocache.formats.times import iso_to_ns, text_to_ns

_PATH = "input.segments"
_TAKEN = ("recording", "id", "begin", "end")


def read_segments(cfg: Segments | None, problems: Problems) -> SegmentSpec:
    """The section as a job has it."""
    if cfg is None or problems.under(_PATH):
        return SegmentSpec()
    given = [key for key in ("topic", "gaps", "table", "ranges") if getattr(cfg, key) is not None]
    if len(given) > 1:
        problems.add(_PATH, f"found both {given[0]} and {given[1]}; write one of topic, gaps, table and ranges")
    if not given and not cfg.robots:
        problems.add(_PATH, "found nothing to cut by; write topic, gaps, table or ranges, or the robots of a log")
    if (cfg.longer is None) == ("gaps" in given):
        right = f"write {EXPECTED['longer']}" if "gaps" in given else "it belongs to gaps; leave it out"
        problems.add(f"{_PATH}.longer", right)
    if (cfg.value is not None or cfg.each) and "topic" not in given:
        problems.add(f"{_PATH}.{'value' if cfg.value is not None else 'each'}", "it belongs to a topic; leave it out")
    if cfg.value is not None and not isinstance(cfg.value, bool | int | float | str):
        problems.wrong(f"{_PATH}.value", cfg.value, "write a number, a truth value or a text")
    for key in ("topic", "gaps"):
        if (path := getattr(cfg, key)) is not None:
            try:
                parse_source(path)
            except ValueError as error:
                problems.add(f"{_PATH}.{key}", str(error))
    if len(set(cfg.robots)) < len(cfg.robots) or not all(name.strip("/ ") for name in cfg.robots):
        problems.wrong(f"{_PATH}.robots", list(cfg.robots), f"write {EXPECTED['robots']}")
    ranges: Sequence[Mapping[str, Any]] | None = None
    where = f"{_PATH}.ranges"
    if cfg.table is not None:
        ranges, where = _table(cfg.table, problems), f"{_PATH}.table: {cfg.table}"
    elif cfg.ranges is not None:
        ranges = _listed(cfg.ranges, problems)
    return SegmentSpec(
        topic=cfg.topic or "",
        value=cfg.value,
        each=cfg.each,
        gaps=cfg.gaps or "",
        longer=parsed(parse_duration, cfg.longer, f"{_PATH}.longer", problems) or 0,
        ranges=None if ranges is None else _ranges(ranges, cfg.unit, where, problems),
        robots=tuple(cfg.robots),
        min=parsed(parse_duration, cfg.min, f"{_PATH}.min", problems) or 0,
    )


def segments_mapping(spec: SegmentSpec) -> dict[str, Any] | None:
    """The section as a config has it, whatever table it came from."""
    mapping: dict[str, Any] = {key: value for key in ("topic", "gaps") if (value := getattr(spec, key))}
    if spec.value is not None:
        mapping["value"] = spec.value
    if spec.each:
        mapping["each"] = True
    if spec.longer:
        mapping["longer"] = duration_text(spec.longer)
    if spec.ranges is not None:
        mapping["ranges"] = [_range_mapping(one) for one in spec.ranges]
        mapping["unit"] = "ns"
    if spec.robots:
        mapping["robots"] = list(spec.robots)
    if spec.min:
        mapping["min"] = duration_text(spec.min)
    return mapping or None


def _range_mapping(one: Range) -> dict[str, Any]:
    own = {"recording": one.recording, "id": one.id}
    return {**{key: v for key, v in own.items() if v}, "begin": one.begin, "end": one.end, **dict(one.metadata)}


def _table(path: str, problems: Problems) -> list[dict[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [{str(key): _cell(text) for key, text in row.items()} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add(f"{_PATH}.table", f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return []
    if not rows or not {"begin", "end"} <= rows[0].keys():
        has = f"it has {', '.join(rows[0])}" if rows else "it has no row"
        problems.add(f"{_PATH}.table", f"{path}: needs the columns begin and end; {has}")
        return []
    return rows


def _cell(text: Any) -> Any:
    return text.strip() if isinstance(text, str) else text


def _listed(found: Any, problems: Problems) -> list[Mapping[str, Any]]:
    plain = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    if not isinstance(plain, list) or not all(isinstance(row, dict) for row in plain):
        problems.wrong(f"{_PATH}.ranges", plain, f"write {EXPECTED['ranges']}")
        return []
    return [{str(key): value for key, value in row.items()} for row in plain]


def _ranges(rows: Sequence[Mapping[str, Any]], unit: str, where: str, problems: Problems) -> tuple[Range, ...]:
    out = []
    for line, row in enumerate(rows, start=1):
        try:
            begin, end = (_time(row.get(key), unit) for key in ("begin", "end"))
        except ValueError as error:
            problems.add(where, f"row {line}: {error}; write times in {unit} or as ISO 8601, or set unit")
            continue
        if end <= begin:
            problems.add(where, f"row {line}: ends at {row.get('end')}, not after its begin, {row.get('begin')}")
        told = {name: value for name, value in row.items() if value not in (None, "")}
        metadata = tuple((name, _typed(value)) for name, value in told.items() if name not in _TAKEN)
        out.append(Range(str(told.get("recording", "")), str(told.get("id", "")), begin, end, metadata))
    return tuple(out)


def _time(value: Any, unit: str) -> int:
    """Nanoseconds, every digit of a decimal kept."""
    text = repr(value) if isinstance(value, float) else str(value if value is not None else "").strip()
    if not text:
        raise ValueError("has no begin or end")
    try:
        return text_to_ns(text, unit)
    except ValueError:
        pass
    try:
        return iso_to_ns(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time") from None


def _typed(value: Any) -> Any:
    """A cell as what it says: a truth value, a number, or text."""
    if not isinstance(value, str):
        return value
    words = {"true": True, "false": False}
    if value.lower() in words:
        return words[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
