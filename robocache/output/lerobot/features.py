"""The columns of a part as LeRobot's features."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from robocache.errors import OutputError
from robocache.output.lerobot.options import TreeSpec
from robocache.output.lerobot.video import video_info
from robocache.output.schema import counts, marks
from robocache.video import FRAME, PACKET, depth

#: Columns of every tree, behind the features, and their dtypes.
INDEX = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_MOST_AXES = 5
_IMAGE = ("height", "width", "channels")
#: How the pixels of raw images lie, by ``encoding`` of their column: FFmpeg's names.
_PIXELS = {"rgb8": "rgb24", "bgr8": "bgr24", "mono8": "gray", "rgba8": "rgba", "bgra8": "bgra"}
_STORED_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class TreeFeature:
    """One feature of the tree.

    column: where its values are in a part; valid: the column that says which of them count, empty: all
    dtype:  LeRobot's word, of a number, ``string``, ``image`` or ``video``
    stored: its type in the tree's files of rows
    pixels: of an image that is recorded raw, FFmpeg's name of how its pixels lie; empty: it is encoded
    refers: whether rows hold references to frames of videos, :data:`robocache.video.FRAME`
    depth:  what info.json says of depths; empty: the pixels are none
    told:   what else info.json says of it
    """

    name: str
    column: str
    valid: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    stored: pa.DataType
    pixels: str = ""
    refers: bool = False
    depth: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def camera(self) -> bool:
        """Whether it is images, as such or as a video."""
        return self.dtype in ("image", "video")

    @property
    def info(self) -> dict[str, Any]:
        """Its entry in info.json."""
        names = None if self.names is None else [*self.names]
        return {"dtype": self.dtype, "shape": list(self.shape), "names": names, **self.told}

    @property
    def hugging_face(self) -> dict[str, Any]:
        """Its entry in the metadata of a file's schema, by which Hugging Face datasets knows it."""
        if self.dtype == "image":
            return {"_type": "Image"}
        value = {"dtype": self.dtype, "_type": "Value"}
        if self.shape == (1,):
            return value
        if len(self.shape) == 1:
            return {"feature": value, "length": self.shape[0], "_type": "Sequence"}
        return {"shape": list(self.shape), "dtype": self.dtype, "_type": f"Array{len(self.shape)}D"}


@dataclass(frozen=True)
class Shown:
    """The first image of a column; of a video also its codec, and FFmpeg's name of how its pixels lie"""

    height: int
    width: int
    codec: str = ""
    pixels: str = ""


#: Looks at the first image of a column.
Look = Callable[[str], Shown]


def tree_features(schema: pa.Schema, spec: TreeSpec, look: Look) -> tuple[TreeFeature, ...]:
    """The features of a tree whose parts have that schema, in their order, with those that every tree has.

    ``OutputError`` for a column that LeRobot has no word for.
    """
    found, counted = [], counts(schema)
    for name, mark in marks(schema).items():
        if name != spec.options.task_feature:
            found.append(_feature(schema.field(name), mark, spec, look))
        if name in counted:
            count = schema.field(counted[name])
            found.append(TreeFeature(count.name, count.name, "", str(count.type), (1,), None, count.type))
        if spec.options.invalid == "keep" and name != spec.options.task_feature:
            found.append(TreeFeature(mark, mark, "", "bool", (1,), None, pa.bool_()))
    own = [TreeFeature(n, n, "", dtype, (1,), None, getattr(pa, dtype)()) for n, dtype in INDEX.items()]
    return (*found, *own)


def tree_schema(features: Sequence[TreeFeature]) -> pa.Schema:
    """Of the tree's files of rows."""
    rows = [f for f in features if f.dtype != "video"]
    told = {"info": {"features": {f.name: f.hugging_face for f in rows}}}
    return pa.schema([(f.name, f.stored) for f in rows], metadata={"huggingface": json.dumps(told)})


def unfit(column: pa.Field) -> str:
    """Why a column cannot be a feature of LeRobot's; empty where it can."""
    kind, axes = column.type, 0
    while pa.types.is_fixed_size_list(kind):
        kind, axes = kind.value_type, axes + 1
    if axes > _MOST_AXES:
        return f"has {axes} axes, LeRobot knows up to {_MOST_AXES}"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return ""
    if not axes and (pa.types.is_string(kind) or _payload(kind) or kind == FRAME):
        told = json.loads((column.metadata or {}).get(b"kind", b"null"))
        if told == "cloud":
            return "holds clouds, which LeRobot has no feature for; voxelize them"
        return "holds a video a frame a message; add decode: true" if told == "video" and kind != FRAME else ""
    if kind == PACKET:
        return "is encoded already; leave encode out, output.lerobot.video says what cameras become"
    return f"holds {kind}, which LeRobot has no feature for"


def _payload(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and [f.name for f in kind] == ["bytes", "path"]


def _camera(column: pa.Field, mark: str, pixels: str, size: tuple[int, int], spec: TreeSpec) -> TreeFeature:
    shape = (*size, 3)
    if (encoding := spec.encoding) is None:
        return TreeFeature(column.name, column.name, mark, "image", shape, _IMAGE, _STORED_IMAGE, pixels)
    told = {"info": video_info(encoding.codec, encoding.pixels, *size, spec.fps)}
    return TreeFeature(column.name, column.name, mark, "video", shape, _IMAGE, _STORED_IMAGE, pixels, told=told)


def _video(column: pa.Field, mark: str, shown: Shown, spec: TreeSpec) -> TreeFeature:
    """Of references: the video that they are to, or what it is encoded as."""
    told = json.loads((column.metadata or {}).get(b"depth", b"{}"))
    shape = (shown.height, shown.width, 1 if told else 3)
    info = {"info": video_info(shown.codec, shown.pixels, shown.height, shown.width, spec.fps) | told}
    name = column.name
    return TreeFeature(name, name, mark, "video", shape, _IMAGE, FRAME, refers=True, depth=told, told=info)


def _depths(column: pa.Field, mark: str, size: tuple[int, int], unit: str, spec: TreeSpec) -> TreeFeature:
    """Of images of depths."""
    told = depth.depth_info(unit)
    info = {"info": video_info("hevc", depth.ENCODING.pixels, *size, spec.fps) | told}
    name = column.name
    return TreeFeature(name, name, mark, "video", (*size, 1), _IMAGE, column.type, depth=told, told=info)


def _feature(column: pa.Field, mark: str, spec: TreeSpec, look: Look) -> TreeFeature:
    if why := unfit(column):
        raise OutputError(f"{column.name}: {why}; leave it out, or write parquet or arrow")
    kind, shape = column.type, []
    if kind == FRAME:
        return _video(column, mark, look(column.name), spec)
    if _payload(kind):
        shown = look(column.name)
        return _camera(column, mark, "", (shown.height, shown.width), spec)
    if pa.types.is_string(kind):
        return TreeFeature(column.name, column.name, mark, "string", (1,), None, kind)
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    about = {
        key: json.loads((column.metadata or {}).get(key.encode(), b"null")) for key in ("kind", "encoding", "names")
    }
    if about["kind"] == "image" and about["encoding"] in _PIXELS and kind == pa.uint8() and len(shape) == 3:
        return _camera(column, mark, _PIXELS[about["encoding"]], (shape[0], shape[1]), spec)
    single = about["kind"] == "image" and (len(shape) == 2 or shape[2:] == [1])
    if single and about["encoding"] in depth.IMAGES and spec.encoding is not None:
        return _depths(column, mark, (shape[0], shape[1]), "m" if pa.types.is_floating(kind) else "mm", spec)
    stored = kind
    if len(shape) > 1:  # as Hugging Face's arrays are stored
        for _ in shape:
            stored = pa.list_(stored)
    elif shape:
        stored = pa.list_(stored, shape[0])
    names = about["names"]
    told = tuple(map(str, names)) if names and shape in ([], [len(names)]) and len(names) == (shape or [1])[0] else None
    dtype = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return TreeFeature(column.name, column.name, mark, dtype, tuple(shape or [1]), told, stored)
