"""The ``features`` section: sources, how each meets the timeline, and what is said of the whole column."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from robocache.config.job import Feature, FeatureSource
from robocache.config.reading import UNREADABLE, Problems, key_names, literal, read_section, resolved
from robocache.config.schema import EXPECTED, Column, SingleSource, Source, Sources
from robocache.config.steps import read_steps
from robocache.config.values import limit, parse_duration, parse_period, parsed
from robocache.formats.base import parse_source
from robocache.formats.base import selected_width as width_of
from robocache.ops.modes import WIDTHS
from robocache.output.schema import EPISODE_ID, INDEX_COLUMNS

#: Samples that a row of a window may hold.
MOST_SAMPLES = 100_000
#: What is written beside a feature's column.
_BESIDE = (
    (".valid", "marks where {} is valid"),
    (".stamps", "holds the stamps of {}"),
    (".start", "holds what differences of {} begin at"),
    (".count", "holds how many samples of {} there are"),
)


def features(found: Any, problems: Problems) -> tuple[Feature, ...]:
    if problems.under("features"):
        return ()
    if not isinstance(found, DictConfig) or not found:
        problems.wrong("features", found, f"write {EXPECTED['features']}")
        return ()
    made = []
    for name in found:
        if not isinstance(name, str) or not name.strip():
            problems.add(f"features.{name!r}", "name a feature with text, such as observation.state")
            continue
        path = f"features.{name}"
        if name in (*INDEX_COLUMNS, EPISODE_ID):
            problems.add(path, f"every dataset has its own column {name}; choose another name")
        for suffix, meaning in _BESIDE:
            base = name.removesuffix(suffix)
            if base != name and base in found:
                problems.add(path, f"this column {meaning.format(base)}; choose another name")
        made.append(_feature(name, resolved(found, name, path, problems), path, problems))
    return tuple(made)


def _feature(name: str, value: Any, path: str, problems: Problems) -> Feature:
    """A feature as a source, a list of sources, or a mapping of one or several with keys of its own."""
    column = Column()
    if isinstance(value, DictConfig) and "sources" in value:
        section = read_section(Sources, value, path, problems)
        column, value, path = section, resolved(value, "sources", f"{path}.sources", problems), f"{path}.sources"
        if not isinstance(value, ListConfig):
            problems.wrong(path, value, f"write {EXPECTED['sources']}")
            return Feature(name, ())
    if isinstance(value, ListConfig):
        if not value:
            problems.wrong(path, value, f"write {EXPECTED['source']}, or a list of sources")
        places = [f"{path}[{i}]" for i in range(len(value))]
        items = [(resolved(value, i, place, problems), place) for i, place in enumerate(places)]
        sources = tuple(_source(item, place, Source, problems)[0] for item, place in items if item is not UNREADABLE)
    elif value is UNREADABLE:
        sources = ()
    else:
        source, section = _source(value, path, SingleSource, problems)
        sources, column = (source,), section or column
    _check_window(sources, column, path, problems)
    steps = read_steps(column, len(sources), path.removesuffix(".sources"), problems)
    pose = _pose(column, path.removesuffix(".sources"), problems)
    return Feature(name, sources, dtype=column.dtype, role=column.role, steps=steps, pose=pose)


def _check_window(sources: tuple[FeatureSource, ...], column: Column, path: str, problems: Problems) -> None:
    """A window is a lone source's samples as they were recorded."""
    if not any(s.window for s in sources) or problems.under(path):
        return
    where = f"{path}.window" if len(sources) == 1 else path
    if len(sources) > 1:
        problems.add(where, f"a window is of one source, found {len(sources)}; give each a feature of its own")
    (source, *_) = sources
    if source.align != "auto":
        problems.wrong(where, source.window, f"takes every sample, and align: {source.align} makes one; leave one out")
    if source.static or source.max_gap != "auto" or source.snap != "auto":
        problems.wrong(where, source.window, "a window knows no static, max_gap and snap; leave these out")
    if source.repeats not in ("auto", "last"):
        problems.wrong(where, source.window, f"holds what was recorded; repeats: {source.repeats} makes other numbers")
    steps = [key for key in ("decode", "depth", "voxelize", "forward_kinematics", "convert") if getattr(column, key)]
    if steps or column.pose is not None:
        problems.wrong(where, source.window, f"holds what was recorded; leave out {', '.join(steps) or 'pose'}")


def _pose(column: Column, path: str, problems: Problems) -> FeatureSource | None:
    """What moves the feature's clouds, if anything."""
    if column.pose is None:
        return None
    path = f"{path}.pose"
    if column.voxelize is None:
        problems.add(path, "moves clouds, and there are none without voxelize; add that, or leave it out")
    source, _ = _source(column.pose, path, Source, problems)
    if source.align not in ("auto", "pose"):
        problems.wrong(f"{path}.align", source.align, "a pose is aligned as one; write pose, or leave it out")
    return source


def _source(found: Any, path: str, schema: type, problems: Problems) -> tuple[FeatureSource, Any]:
    """The source, and the section as it was read (None where there is none)."""
    if isinstance(found, str):
        found = OmegaConf.create({"source": literal(found)})
    elif not isinstance(found, DictConfig):
        problems.wrong(path, found, f"write {EXPECTED['source']}, or a mapping with the keys {key_names(schema)}")
        return FeatureSource(""), None
    cfg: Any = read_section(schema, found, path, problems)
    source = ""
    if not problems.under(f"{path}.source"):
        source = cfg.source
        width = selected_width(source, f"{path}.source", problems)
        wanted = WIDTHS.get(cfg.align, width)
        if width is not None and width != wanted:
            problems.wrong(f"{path}.align", cfg.align, f"it takes {wanted} columns and {source} selects {width}")
    align_known = not problems.under(f"{path}.align")
    if cfg.quaternion_order is not None and align_known and cfg.align not in (*WIDTHS, "auto"):
        right = f"align {cfg.align} knows no quaternions; align slerp or pose, or leave it out"
        problems.wrong(f"{path}.quaternion_order", cfg.quaternion_order, right)
    if cfg.period is not None and align_known and cfg.align not in ("angle", "mean", "linear", "cubic"):
        problems.wrong(f"{path}.period", cfg.period, f"align {cfg.align} knows no angles; align angle, or leave it out")
    if not problems.under(f"{path}.window") and not 0 <= cfg.window <= MOST_SAMPLES:
        problems.wrong(f"{path}.window", cfg.window, f"write a whole number from 1 to {MOST_SAMPLES:,}")
    if cfg.snap != "auto" and align_known and cfg.align not in ("previous", "next", "auto"):
        problems.wrong(f"{path}.snap", cfg.snap, f"align {cfg.align} does not snap; only previous and next do")
    return (
        FeatureSource(
            source=source,
            align=cfg.align,
            max_gap=limit(cfg.max_gap, f"{path}.max_gap", problems),
            offset=parsed(parse_duration, cfg.offset, f"{path}.offset", problems) or 0,
            optional=cfg.optional,
            static=cfg.static,
            stamp=cfg.stamp or "",
            snap=limit(cfg.snap, f"{path}.snap", problems) or 0,
            period=parsed(parse_period, cfg.period, f"{path}.period", problems),
            nonfinite=cfg.nonfinite,
            repeats=cfg.repeats,
            window=cfg.window,
            quaternion_order=cfg.quaternion_order or "xyzw",
        ),
        cfg,
    )


def selected_width(source: str, path: str, problems: Problems) -> int | None:
    """How many columns the source's selector picks; None where only the recording can tell."""
    try:
        name, selector = parse_source(source)
    except ValueError as error:
        problems.add(path, str(error))
        return None
    if not name.strip() and selector is None:  # a table's columns need no name before them
        problems.wrong(path, source, f"write {EXPECTED['source']}")
    return width_of(selector)
