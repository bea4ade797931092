"""What a config file may hold, as OmegaConf structured configs, and reading it with every problem collected.

:mod:`robocache.config.load` turns the result into a job; nothing else uses this.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import MISSING, DictConfig, ListConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from robocache.config.job import ClusterSpec, ComputeSpec, OutputSpec
from robocache.errors import ConfigError


@dataclass
class TimeKeys:
    """Where a table keeps its time."""

    column: str | None = None
    unit: Literal["ns", "us", "ms", "s"] | None = None
    rate_hz: int | float | str | None = None
    columns: list[str] | None = None


@dataclass
class Times(TimeKeys):
    tables: Any = None  # a mapping from a table's name to where it keeps its time
    file: str | None = None
    files: str | None = None


@dataclass
class Csv:
    """The dialect of CSV files, as far as it is not to be found in them."""

    separator: str | None = None
    decimal: Literal[".", ","] | None = None
    comment: str | None = None
    skip_rows: int = 0
    names: list[str] = field(default_factory=list)
    encoding: str | None = None
    null_words: list[str] = field(default_factory=list)
    units_row: bool | None = None


@dataclass
class Segments:
    """How long logs are cut into episodes."""

    topic: str | None = None
    value: Any = None
    each: bool = False
    gaps: str | None = None
    longer: str | None = None
    table: str | None = None
    ranges: Any = None  # a list of mappings, as the rows of a table
    unit: Literal["ns", "us", "ms", "s"] = "s"
    robots: list[str] = field(default_factory=list)
    min: str | None = None


@dataclass
class Input:
    uri: str | list[str]
    format: str = "auto"
    storage_options: dict[str, Any] = field(default_factory=dict)
    times: Times | None = None
    csv: Csv | None = None
    segments: Segments | None = None
    episode: str = "file"
    stamp: str = "header"
    select: str | list[str | int] = ""
    verify_checksums: bool = True
    salvage: bool = False
    max_failed_episodes: int = 0
    max_vanished: int = 0
    read_timeout: float = 3600.0
    max_unpacked_mb: int = 128
    fingerprint: Literal["version", "content"] = "version"
    on_restart: Literal["quarantine", "split", "sort"] = "quarantine"


@dataclass
class Source:
    source: str
    align: Literal["auto", "linear", "cubic", "nearest", "previous", "next", "mean", "slerp", "pose", "angle"] = "auto"
    max_gap: str = "auto"
    offset: str | None = None
    optional: bool = False
    static: bool = False
    stamp: str | None = None
    snap: str = "auto"
    period: int | float | str | None = None
    nonfinite: Literal["drop", "keep"] = "drop"
    repeats: Literal["auto", "last", "mean", "spread"] = "auto"
    window: int = 0
    quaternion_order: Literal["xyzw", "wxyz"] | None = None


@dataclass
class Depth:
    """The camera that an image of depths was taken by."""

    fx: float
    fy: float
    cx: float
    cy: float
    scale: float | None = None


@dataclass
class Voxelize:
    """The grid that a feature's clouds are brought into, and what its voxels hold."""

    size: Any  # a number, or three
    bounds: Any  # two corners of three numbers
    reduce: Literal["occupancy", "count", "sum", "mean", "min", "max", "points", "tsdf"] = "occupancy"
    layout: Literal["dense", "sparse"] = "dense"
    features: list[str] = field(default_factory=list)
    max_points: int | None = None
    truncation: float | None = None


@dataclass
class ForwardKinematics:
    """The robot whose joints a feature's sources are, and where on it the feature shall be."""

    urdf: str
    tip: str | list[str]
    base: str | None = None
    form: Literal["pose", "matrix", "rot6d"] = "pose"
    joints: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)


@dataclass
class Gripper:
    """A column that becomes 0 where it reads ``closed`` and 1 where it reads ``open``."""

    column: str
    closed: float
    open: float


@dataclass
class Convert:
    """What a feature's numbers become for a learner."""

    delta: Literal["step", "chunk", "state"] | None = None
    chunk: int | None = None
    state: str | None = None
    absolute: list[str | int] = field(default_factory=list)
    rotation: str | None = None
    rotation_from: str = "quaternion_xyzw"
    continuous: bool = False
    gripper: Any = None  # a Gripper, or a list of them


@dataclass
class Decode:
    """Encoded images and videos become pixels."""

    resize: list[int] = field(default_factory=list)


@dataclass
class DepthCodes:
    """The range of depths that become 12 bits, in metres, and how many metres a depth of 1 is."""

    near: float
    far: float
    scale: float | None = None


@dataclass
class Encode:
    """Pixels become a video, or images of PNG."""

    codec: Literal["h264", "h265", "av1", "png"]
    crf: int | None = None
    g: int | None = None
    depth: DepthCodes | None = None


@dataclass
class Column:
    """What is said of a whole feature, beside its sources: its type, its role, and the steps that make it."""

    dtype: Literal[
        "auto", "bool", "float16", "float32", "float64",
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    ] = "auto"  # fmt: skip
    role: Literal["observation", "action"] = "observation"
    decode: Any = None  # true, or a Decode
    encode: Encode | None = None
    depth: Depth | None = None
    voxelize: Voxelize | None = None
    forward_kinematics: ForwardKinematics | None = None
    convert: Convert | None = None
    pose: Any = None  # a source path, or a Source


@dataclass
class SingleSource(Column, Source):
    """A feature of one source: the keys of both."""


@dataclass
class Sources(Column):
    """A feature of several sources, with keys of its own."""

    sources: Any = None


@dataclass
class Trim:
    """Rows in which nothing moves, by features and their thresholds."""

    features: dict[str, float]
    rows: Literal["ends", "all"] = "ends"


@dataclass
class Timeline:
    rate_hz: int | float | str | None = None
    reference: str | None = None
    range: Literal["intersection", "union"] = "intersection"
    causal: bool = False
    provenance: bool = False
    trim: Trim | None = None


@dataclass
class Quality:
    on_fail: Literal["warn", "quarantine"] = "warn"
    min_kept: float = 0.5
    min_valid: float = 0.5
    max_dropped: float = 0.1
    max_late: str = "1s"


@dataclass
class Config:
    """The whole file. A section that needs no translation has the job's own dataclass as its schema."""

    input: Input
    features: Any  # a mapping from name to a source path, a Source, or a list of either
    timeline: Timeline
    output: OutputSpec
    compute: ComputeSpec
    cluster: ClusterSpec
    quality: Quality
    splits: Any = None  # see robocache.config.splits


#: What to write, where the type alone does not say.
EXPECTED = {
    "separator": "one character, such as ';', or tab, or whitespace",
    "comment": "what comments begin with, such as '%'",
    "names": "a list of the columns' names, such as [t, x, y]",
    "encoding": "an encoding as Python names it, such as latin-1, cp1252 or utf-16",
    "null_words": "a list of cells that hold no value, such as ['-', '-999']",
    "file": "the name of a table beside the files, such as times.csv",
    "topic": "a source path, such as /episode.active",
    "gaps": "a source path, such as /joint_states.position",
    "longer": "a duration with its unit (ns, us, ms or s), such as 2s",
    "min": "a duration with its unit (ns, us, ms or s), such as 1s",
    "table": "the path of a CSV file with the columns begin and end, such as ranges.csv",
    "ranges": "a list of mappings, such as [{begin: 10.0, end: 20.0, task: pick}]",
    "robots": "what the topics of each robot begin with, such as [/left, /right]",
    "files": "the column of the files' names, such as file",
    "uri": "a path or URI, such as logs/*.mcap or s3://bucket/run-1",
    "features": "a mapping from each feature's name to its source or sources",
    "source": "a source path, such as /joint_states.position",
    "reference": "a source path, such as /camera/image",
    "column": "the name of the time column, such as timestamp",
    "rate_hz": "a rate above 0 and up to 1e9 Hz, such as 50 or '30000/1001'",
    "max_gap": "a duration with its unit (ns, us, ms or s), such as 50ms, or auto, or none",
    "snap": "a duration with its unit (ns, us, ms or s), such as 2ms, or auto, or none",
    "max_late": "a duration with its unit (ns, us, ms or s), such as 1s",
    "stamp": "header, log, publish, or the path of a field of the message that holds its time",
    "period": "rad, deg, or the number that one turn is",
    "sources": "a list of sources",
    "fx": "the focal length in pixels along x, such as 525.0",
    "fy": "the focal length in pixels along y, such as 525.0",
    "cx": "the principal point in pixels along x, such as 319.5",
    "cy": "the principal point in pixels along y, such as 239.5",
    "urdf": "the path of the robot's URDF, such as robots/panda.urdf",
    "tip": "a link of the robot, such as panda_hand, or a list of them",
    "resize": "height and width, such as [240, 320]",
    "codec": "h264, h265, av1 or png",
    "near": "the least depth in metres, such as 0.3",
    "far": "the largest depth in metres, such as 10",
    "state": "the name of a feature, such as observation.ee_pose",
    "absolute": "a list of columns, by name or number, such as [gripper]",
    "rotation": "a representation, such as rot6d, axis_angle or euler_xyz",
    "rotation_from": "a representation, such as quaternion_xyzw",
    "closed": "the gripper's reading where it is closed, such as 0.0",
    "open": "the gripper's reading where it is open, such as 0.08",
    "size": "the edge of a voxel, such as 0.1, or three of them, such as [0.1, 0.1, 0.2]",
    "bounds": "the lower and the upper corner, such as [[-10, -10, -1], [10, 10, 3]]",
    "offset": "a duration with its unit (ns, us, ms or s), such as -3ms",
    "select": "lists that the files name, episodes or ranges, such as train, demo_3 or 0:50",
    "episode": "file, folder, or a regular expression with a group (?P<episode>...)",
}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}

Section = TypeVar("Section")

#: Stands for a value that could not be read; the problem has been reported.
UNREADABLE = object()


class Problems:
    """What is wrong, each with its path. Later checks ask whether a value can be relied on, so as not to echo."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, path: str, text: str) -> None:
        self._found.append((path, text))

    def wrong(self, path: str, value: Any, right: str) -> None:
        """``path`` holds ``value``; ``right`` says what would do."""
        self.add(path, f"found {_describe(value)}; {right}")

    def under(self, *paths: str) -> bool:
        """True where one of ``paths``, or anything in it or around it, has a problem."""
        return any(_within(found, path) or _within(path, found) for found, _ in self._found for path in paths)

    def lines(self) -> list[str]:
        return [f"{path}: {text}" for path, text in self._found]


def read_section(schema: type[Section], found: Any, path: str, problems: Problems) -> Section:
    """``found`` as an instance of the dataclass ``schema``; what does not fit is reported and keeps its default.

    A required value that is missing or wrong is None. Types are checked and converted by OmegaConf.
    """
    if found is None:  # a section with nothing in it
        found = OmegaConf.create({})
    elif not isinstance(found, DictConfig):
        problems.wrong(path, found, f"write a mapping with the keys {key_names(schema)}")
        return _instance(schema, {})
    hints = _hints(schema)
    keys = list(found)
    for key in keys:
        if key not in hints:
            guess = did_you_mean(str(key), list(hints))
            problems.add(_join(path, key), f"unknown key; {guess}the keys here are {key_names(schema)}")
    values: dict[str, Any] = {}
    for key, hint in hints.items():
        where = _join(path, key)
        inner: Any = next((h for h in _alternatives(hint) if dataclasses.is_dataclass(h)), None)
        if key in keys:
            value = resolved(found, key, where, problems)
        elif inner is not None and key in _required(schema):
            value = None  # read as an empty section, so that all it lacks is named
        else:
            if key in _required(schema):
                problems.add(where, f"missing; write {_expected(key, hint)}")
            continue
        if inner is not None and value is not UNREADABLE and (value is not None or key in _required(schema)):
            value = read_section(inner, value, where, problems)
        elif inner is None and hint is not Any and value is not UNREADABLE:
            value = _converted(schema, key, hint, value, where, problems)
        if value is not UNREADABLE:
            values[key] = value
    return _instance(schema, values)


#: The types of a schema's keys, worked out once: a config asks for them at each of its sources.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


@functools.cache
def _alone(schema: type, key: str) -> type:
    """A schema of this key and no other: OmegaConf makes a node for every key of a schema to check one value."""
    return dataclasses.make_dataclass(key, [(key, _hints(schema)[key], field(default=MISSING))])


def _instance(schema: type[Section], values: dict[str, Any]) -> Section:
    hints = _hints(schema)
    for key in _required(schema):
        values.setdefault(key, _instance(hints[key], {}) if dataclasses.is_dataclass(hints[key]) else None)
    return schema(**values)


def _required(schema: Any) -> list[str]:
    fields = dataclasses.fields(schema)
    return [f.name for f in fields if f.default is NO_DEFAULT and f.default_factory is NO_DEFAULT]


def resolved(found: DictConfig | ListConfig, key: Any, path: str, problems: Problems) -> Any:
    """``found[key]`` with its interpolation resolved, or ``UNREADABLE`` once that has been reported."""
    try:
        return found[key]
    except MissingMandatoryValue:
        problems.add(path, f"missing; replace ??? by {EXPECTED.get(key, 'a value')}")
    except OmegaConfBaseException as error:
        problems.add(path, reason(error))
    return UNREADABLE


def _converted(schema: type, key: str, hint: Any, value: Any, path: str, problems: Problems) -> Any:
    """``value`` as OmegaConf's type checks have it for this key, or ``UNREADABLE`` once its problem is reported.

    An environment variable is text, so its conversions from text are wanted; those from a number to text or to a
    truth value would hide a mistake.
    """
    kinds = _alternatives(hint)
    number = isinstance(value, int | float)
    hidden = (number and str in kinds and float not in kinds) or (
        number and bool in kinds and not isinstance(value, bool)
    )
    try:
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        if not hidden:
            node = OmegaConf.structured(_alone(schema, key))
            OmegaConf.update(node, key, literal(value))
            return value if isinstance(value, list | dict) or str in kinds else node[key]
    except (MissingMandatoryValue, InterpolationResolutionError) as error:  # inside a list or a mapping
        problems.add(path, reason(error))
        return UNREADABLE
    except OmegaConfBaseException:
        pass
    guess = did_you_mean(value, _choices(hint)) if isinstance(value, str) else ""
    problems.wrong(path, value, f"{guess}{'it may be' if guess else 'write'} {_expected(key, hint)}")
    return UNREADABLE


def literal(value: Any) -> Any:
    """``value`` with its texts escaped, so that OmegaConf reads back what is there rather than an interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [literal(item) for item in value]
    return {key: literal(item) for key, item in value.items()} if isinstance(value, dict) else value


def reason(error: Exception) -> str:
    """An OmegaConf or YAML error in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem or error.context} (line {mark.line + 1}, column {mark.column + 1})"
    line = str(error).splitlines()[0]
    return re.sub(r"^\w+ raised while resolving interpolation: (\"?)(.*)\1$", r"\2", line)


def did_you_mean(name: str, known: list[str]) -> str:
    """``did you mean 'x'? `` where one of ``known`` is close to ``name``; else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def known_episode(id: str, ids: list[str]) -> str:
    """``id``. ``ConfigError`` where it is none of ``ids``."""
    if id not in ids:
        close = did_you_mean(id, ids)
        raise ConfigError([f"--episode: {id!r} is none of {len(ids)} episodes; {close}the first is {ids[0]!r}"])
    return id


def key_names(schema: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(schema))


def _expected(key: str, hint: Any) -> str:
    if choices := _choices(hint):
        return _either(choices)
    return EXPECTED.get(key) or _either([_WORDS[typing.get_origin(h) or h] for h in _alternatives(hint)])


def _choices(hint: Any) -> list[str]:
    """The names of a closed set."""
    return [str(c) for h in _alternatives(hint) if typing.get_origin(h) is Literal for c in typing.get_args(h)]


def _alternatives(hint: Any) -> list[Any]:
    """The types that ``hint`` allows, other than None."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [h for h in (typing.get_args(hint) if union else (hint,)) if h is not type(None)]


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith((outer + ".", outer + "["))


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, DictConfig | dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, ListConfig | list):
        return "a list" if value else "an empty list"
    return repr(value)
