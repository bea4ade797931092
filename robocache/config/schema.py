"""What a config file may hold, as OmegaConf structured configs.

:mod:`robocache.config.reading` reads a file's sections by them, :mod:`robocache.config.load` makes a job of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from robocache.config.job import ClusterSpec, ComputeSpec, OutputSpec


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
