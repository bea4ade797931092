"""What the values of a source are, as messages say it beside them: an image's encoding and size, a cloud's fields, the
frame that numbers are in. It belongs to a stream as long as all of its messages agree."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from robocache.formats.base import shown
from robocache.formats.messages.batch import Messages
from robocache.formats.messages.blocks import Block, Decoded, Spans, select_rows, span_bytes
from robocache.formats.messages.clocks import Clock
from robocache.formats.messages.definitions import Array, Number, Struct, Text, Type
from robocache.formats.messages.images import codec_of
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Columns, Key
from robocache.formats.messages.unpack import unpack_value

_RAW, _COMPRESSED = ("encoding", "height", "width", "step", "is_bigendian"), ("format",)
_CLOUD = ("fields", "height", "width", "point_step", "point_stride", "row_step", "is_bigendian", "is_dense")
#: The fields that say what ``data`` of a message is, by the type's name without its package, and what kind it is.
_KINDS = {
    "Image": ("image", _RAW),
    "RawImage": ("image", _RAW),
    "CompressedImage": ("image", _COMPRESSED),
    "CompressedVideo": ("video", _COMPRESSED),
    "PointCloud2": ("cloud", _CLOUD),
    "PointCloud": ("cloud", _CLOUD),
}


class Contents:
    """Collects it, window by window."""

    def __init__(self, root: Struct, columns: Columns, clock: Clock, packing: Packing, where: str):
        self._packing, self._where, self._columns = packing, where, columns
        key, struct = columns.structs[-1]
        fields = dict(struct.fields)
        self._kind: str = ""
        names: tuple[str, ...] = ()
        if columns.kind == "cloud":
            self._kind, names = "cloud", ("fields",)
        elif columns.kind in ("bytes", "frames") and columns.pieces[0].key == (*key, "data"):
            self._kind, names = _KINDS.get(struct.name.rpartition("/")[2], ("", ()))
        self._types: dict[str, tuple[Key, Type]] = {
            name: ((*key, name), fields[name]) for name in names if name in fields and _plain(fields[name])
        }
        if clock.frame is not None:
            self._types["frame"] = (clock.frame, Text())
        self._seen: dict[str, Counter[Any]] = {name: Counter() for name in self._types}

    @property
    def keys(self) -> list[Key]:
        """Leaves, and whole arrays, that it needs."""
        return [key for key, _ in self._types.values()]

    def add(self, messages: Messages, found: Decoded, rows: np.ndarray | None) -> None:
        """What these messages (None: all) say."""
        for name, (key, kind) in self._types.items():
            block = found.blocks.get(key)
            if block is None:
                continue
            if rows is not None:
                values, counts = self._distinct(messages, select_rows(block, rows), kind, found)
            elif key in found.said:
                values, counts = found.said[key]
            else:
                values, counts = found.said[key] = self._distinct(messages, block, kind, found)
            self._seen[name].update(dict(zip(values, counts, strict=True)))

    def _distinct(self, messages: Messages, block: Block, kind: Type, found: Decoded) -> tuple[list[Any], list[int]]:
        """Values as JSON text would have them, hashable, and how often each occurs."""
        if isinstance(block, Spans):
            texts, which = span_bytes(messages.buffer, block)
            counts = np.bincount(which, minlength=len(texts)).tolist() if len(texts) > 1 else [len(which)]
            if not texts:
                return [], []
            if isinstance(kind, Text):
                return [text.decode("utf-8", "replace") for text in texts], counts
            unpacked = [unpack_value(kind, text, found.order, self._packing, self._where) for text in texts]
            return [tuple(tuple(item.items()) for item in value) for value in unpacked], counts
        if isinstance(block, np.ndarray) and isinstance(kind, Number):
            values, numbers = np.unique(block[:, 0], return_counts=True)
            plain = [bool(v) if kind.dtype.kind == "b" else v.item() for v in values]
            return plain, numbers.tolist()
        return [], []

    def about(self) -> dict[str, Any]:
        """What all messages agree on; JSON."""
        found: dict[str, Any] = {"kind": self._kind} if self._kind else {}
        if self._columns.kind in ("quaternion", "pose"):
            found["kind"] = self._columns.kind
        for name, seen in self._seen.items():
            if len(seen) != 1:
                continue
            (value,) = seen
            if isinstance(value, tuple):
                value = [dict(item) for item in value]
            if name == "format":
                found["encoding"] = codec_of(value)
            if value != "":
                found[name] = value
        return found

    def notes(self) -> list[str]:
        """What they do not agree on."""
        return [
            f"{name} is not the same throughout: {shown([str(value) for value in seen], 6)}"
            for name, seen in self._seen.items()
            if len(seen) > 1 and name in ("frame", "encoding", "format")
        ]


def _plain(kind: Type) -> bool:
    """A number, text, or an array of structs of these: what a message says in few words."""
    if isinstance(kind, Array) and isinstance(kind.element, Struct):
        return all(isinstance(inner, Number | Text) for _, inner in kind.element.fields)
    return isinstance(kind, Number | Text)
