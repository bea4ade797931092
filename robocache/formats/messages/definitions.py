"""Message definitions of ROS 2 (``ros2msg`` schemas) and ROS 1 (``ros1msg``) as a tree of types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from robocache.errors import InputError


@dataclass(frozen=True, slots=True)
class Number:
    """One number. ``dtype`` is native; the byte order is the message's."""

    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Text:
    """A string; ``wide``: of wide characters, which the messages are rid of before they are decoded."""

    wide: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """``length`` elements, or as many as the message says (None: a sequence)."""

    element: Type
    length: int | None


@dataclass(frozen=True, slots=True)
class Struct:
    name: str
    fields: tuple[tuple[str, Type], ...]

    def __hash__(self) -> int:
        return hash(self.name)  # all that is in it would take longer than what is looked up by it


Type: TypeAlias = "Number | Text | Array | Struct"

HEADER = "std_msgs/Header"
STAMPS = ("builtin_interfaces/Time", "builtin_interfaces/Duration")

_NUMBERS = {
    name: Number(np.dtype(dtype))
    for name, dtype in {
        "bool": "?", "byte": "u1", "char": "u1", "float32": "f4", "float64": "f8", "int8": "i1", "uint8": "u1",
        "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8",
    }.items()
}  # fmt: skip
_BUILTIN = {
    **dict.fromkeys(STAMPS, "int32 sec\nuint32 nanosec"),
    HEADER: "builtin_interfaces/Time stamp\nstring frame_id",
}
#: ROS 1 has times as types of its own, and counts messages in their headers.
_BUILTIN_ROS1 = {
    STAMPS[0]: "uint32 sec\nuint32 nanosec",
    STAMPS[1]: "int32 sec\nint32 nanosec",
    HEADER: "uint32 seq\ntime stamp\nstring frame_id",
}
_ALIASES = {"Header": HEADER, "time": STAMPS[0], "duration": STAMPS[1]}
#: Of a message, those of the types within it included. The largest known have some hundreds.
MAX_FIELDS = 20_000
_MAX_FIXED = 1 << 24  # elements of a fixed array; more is a damaged schema, and keeps offsets far from overflow
_FIELD = re.compile(
    r"(?P<type>[A-Za-z][\w/]*)(?:<=\d+)?(?P<array>\[(?:<=)?(?P<length>\d*)\])?\s+(?P<name>[A-Za-z]\w*)\s*(?P<rest>.*)"
)


def parse_definition(name: str, data: bytes, where: str, *, ros1: bool = False) -> Struct:
    """The root type of a concatenated ``.msg`` definition. ``InputError`` names the line that cannot be read."""
    try:
        return _parsed(name, data, ros1)
    except InputError as error:
        raise InputError(f"{where}: schema {name!r}{error}") from None


@lru_cache(maxsize=256)  # the logs of a dataset have the same few types
def _parsed(name: str, data: bytes, ros1: bool) -> Struct:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f" is not UTF-8 text ({error})") from None
    root, *others = re.split(r"^={3,}[ \t]*\r?$", text, flags=re.MULTILINE)
    definitions = dict(_BUILTIN_ROS1 if ros1 else _BUILTIN)
    for section in others:
        title, _, body = section.strip().partition("\n")
        if not title.startswith("MSG:"):
            raise InputError(f" has a section {title[:80]!r}, expected 'MSG: package/Type'")
        definitions[_plain(title[4:].strip())] = body
    definitions[_plain(name)] = root
    return _Parser(definitions, ros1).struct(_plain(name))


def _plain(name: str) -> str:
    """``sensor_msgs/msg/Imu`` and ``sensor_msgs/Imu`` are one type."""
    return name.replace("/msg/", "/")


class _Parser:
    def __init__(self, definitions: dict[str, str], ros1: bool):
        self._definitions, self._ros1 = definitions, ros1
        self._done: dict[str, Struct] = {}
        self._sizes: dict[str, int] = {}
        self._open: list[str] = []

    def struct(self, name: str) -> Struct:
        if name in self._done:
            return self._done[name]
        if name in self._open:
            raise InputError(f": {name} contains itself")
        if name not in self._definitions:
            raise InputError(f": no definition of {name}, it has {', '.join(sorted(self._definitions))}")
        if len(self._open) > 64:
            raise InputError(": types nested more than 64 deep")
        self._open.append(name)
        fields: dict[str, Type] = {}
        for line in self._definitions[name].splitlines():
            line = line.partition("#")[0].strip()
            if not line:
                continue
            match = _FIELD.fullmatch(line)
            if match is None:
                raise InputError(f": {name} has the line {line[:80]!r}, expected 'type name'")
            if match["rest"].startswith("="):
                continue  # a constant takes no space in a message; any other rest is a default value
            if match["name"] in fields:
                raise InputError(f": {name} has two fields named {match['name']}")
            fields[match["name"]] = self._array(match, name)
        self._open.pop()
        members = tuple(fields.items())
        if not members and not self._ros1:
            # IDL has no empty struct: rosidl gives it this member, and it takes its byte in the message.
            members = (("structure_needs_at_least_one_member", _NUMBERS["uint8"]),)
        # Thirty types of two fields each, one within the other, are a thousand million fields in 2 kB.
        self._sizes[name] = sum(self._size(kind) for _, kind in members)
        if self._sizes[name] > MAX_FIELDS:
            raise InputError(f": {name} has {self._sizes[name]} fields, more than {MAX_FIELDS}")
        self._done[name] = Struct(name, members)
        return self._done[name]

    def _size(self, kind: Type) -> int:
        """Its fields and those of all types below it."""
        kind = kind.element if isinstance(kind, Array) else kind
        return 1 + self._sizes[kind.name] if isinstance(kind, Struct) else 1

    def _array(self, match: re.Match[str], parent: str) -> Type:
        element = self._type(match["type"], parent)
        if match["array"] is None:
            return element
        if "<=" in match["array"] or not match["length"]:
            return Array(element, None)
        length = int(match["length"][:12])
        if length > _MAX_FIXED:
            raise InputError(f": {parent}.{match['name']} has {length} elements; the schema is damaged")
        return Array(element, length)

    def _type(self, name: str, parent: str) -> Type:
        if self._ros1 and name == "byte":
            return _NUMBERS["int8"]
        if name in _NUMBERS:
            return _NUMBERS[name]
        if name in ("string", "wstring"):
            return Text(wide=name == "wstring")
        name = _plain(_ALIASES.get(name, name))
        if "/" not in name:  # a type of the same package
            name = f"{parent.rpartition('/')[0]}/{name}"
        return self.struct(name)
