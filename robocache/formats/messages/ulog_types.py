"""Message formats of ULog as a tree of types: ``uint64_t timestamp;float[4] q;esc_report[8] esc;``"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.batch import Schema
from robocache.formats.messages.definitions import MAX_FIELDS, Array, Number, Struct, Type

_NUMBERS = {
    "float": "f4", "double": "f8", "bool": "?", "char": "u1", "int8_t": "i1", "uint8_t": "u1", "int16_t": "i2",
    "uint16_t": "u2", "int32_t": "i4", "uint32_t": "u4", "int64_t": "i8", "uint64_t": "u8",
}  # fmt: skip
_FIELD = re.compile(r"(?P<type>[\w/]+)(?:\[(?P<length>\d{1,9})\])? (?P<name>\w+)")
_DEEPEST = 16
_PADDING = "_padding"


class Layout(NamedTuple):
    """root: the message's type; stamp: the byte of its ``timestamp``, None where it has none"""

    root: Struct
    stamp: int | None


def parse_formats(schema: Schema, where: str) -> Layout:
    """The type that a schema names, of the formats (a line each) in it. ``InputError`` names what cannot be read."""
    formats: dict[str, str] = {}
    for line in schema.data.decode("utf-8", "replace").splitlines():
        name, _, members = line.partition(":")
        formats[name] = members
    parser = _Parser(formats, where)
    root = parser.struct(schema.name, 0)
    fields = list(root.fields)
    while fields and fields[-1][0].startswith(_PADDING):  # what pads the end is not written
        fields.pop()
    at, stamp = 0, None
    for name, kind in fields:
        if name == "timestamp" and kind == Number(np.dtype(np.uint64)):
            stamp = at
        at += _size(kind)
    return Layout(Struct(f"px4_msgs/{root.name}", tuple(fields)), stamp)


def _size(kind: Type) -> int:
    if isinstance(kind, Number):
        return kind.dtype.itemsize
    if isinstance(kind, Array):
        return (kind.length or 0) * _size(kind.element)
    return sum(_size(inner) for _, inner in kind.fields) if isinstance(kind, Struct) else 0


class _Parser:
    def __init__(self, formats: dict[str, str], where: str):
        self._formats, self._where, self._count = formats, where, 0

    def struct(self, name: str, depth: int) -> Struct:
        if name not in self._formats or depth > _DEEPEST:
            what = "no format of" if name not in self._formats else f"more than {_DEEPEST} types within each other, at"
            raise InputError(f"{self._where}: the file has {what} {name!r}")
        fields: dict[str, Type] = {}
        for text in filter(None, (item.strip() for item in self._formats[name].split(";"))):
            match = _FIELD.fullmatch(text)
            self._count += 1
            if match is None or self._count > MAX_FIELDS:
                raise InputError(f"{self._where}: {name} has the field {text[:80]!r}; 'type name' is right")
            kind: Type
            if match["type"] in _NUMBERS:
                kind = Number(np.dtype(_NUMBERS[match["type"]]))
            else:
                kind = self.struct(match["type"], depth + 1)
            fields[match["name"]] = kind if match["length"] is None else Array(kind, int(match["length"]))
        return Struct(name, tuple(fields.items()))
