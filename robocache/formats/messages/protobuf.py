"""Protobuf messages by the descriptors that a log embeds: brought, many at once, into the packing that is decoded.

A protobuf message says of each field which it is, so no two fields lie at a fixed place (see
:mod:`robocache.formats.messages.repack`). What a topic's messages have in common is the struct of their descriptor,
packed field after field: fields that a message leaves out are zero or empty, as protobuf has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.batch import Messages, Schema
from robocache.formats.messages.definitions import MAX_FIELDS, STAMPS, Array, Number, Struct, Text, Type
from robocache.formats.messages.packed import PackedTopic
from robocache.formats.messages.packing import PLAIN
from robocache.formats.messages.repack import Parts, Take, repack
from robocache.formats.messages.topic import Request

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STAMPS = {".google.protobuf.Timestamp": STAMPS[0], ".google.protobuf.Duration": STAMPS[1]}
_DEEPEST = 32
_MOST_PARTS = 1 << 16  # values of one message, the elements of its lists counted


class Scalar(NamedTuple):
    """A number's type: what it becomes, and how the wire has it (``zigzag``: signed numbers of a varint)."""

    dtype: np.dtype
    wire: int
    zigzag: bool = False


_SCALARS = {
    1: Scalar(np.dtype("<f8"), _FIXED64), 2: Scalar(np.dtype("<f4"), _FIXED32), 3: Scalar(np.dtype("<i8"), _VARINT),
    4: Scalar(np.dtype("<u8"), _VARINT), 5: Scalar(np.dtype("<i4"), _VARINT), 6: Scalar(np.dtype("<u8"), _FIXED64),
    7: Scalar(np.dtype("<u4"), _FIXED32), 8: Scalar(np.dtype("?"), _VARINT), 13: Scalar(np.dtype("<u4"), _VARINT),
    14: Scalar(np.dtype("<i4"), _VARINT), 15: Scalar(np.dtype("<i4"), _FIXED32), 16: Scalar(np.dtype("<i8"), _FIXED64),
    17: Scalar(np.dtype("<i4"), _VARINT, True), 18: Scalar(np.dtype("<i8"), _VARINT, True),
}  # fmt: skip
_STRING, _GROUP, _MESSAGE, _OCTETS = 9, 10, 11, 12


@dataclass(frozen=True, slots=True)
class Field:
    """kind: a scalar, ``text``, ``bytes``, or the message inside"""

    name: str
    number: int
    repeated: bool
    kind: Scalar | str | Form


@dataclass(frozen=True, slots=True)
class Form:
    """A message type: its fields in the order of their numbers."""

    name: str
    fields: tuple[Field, ...]

    @property
    def struct(self) -> Struct:
        return Struct(_STAMPS.get(f".{self.name}", self.name.replace(".", "/")), tuple(map(_member, self.fields)))


def _member(field: Field) -> tuple[str, Type]:
    kind: Type
    if isinstance(field.kind, Form):
        kind = field.kind.struct
    elif isinstance(field.kind, Scalar):
        kind = Number(field.kind.dtype.newbyteorder("="))
    else:
        kind = Text() if field.kind == "text" else Array(Number(np.dtype(np.uint8)), None)
    return field.name, Array(kind, None) if field.repeated else kind


class Wire(NamedTuple):
    """One field of a message: number and wire type; where its value is; the value of a varint."""

    number: int
    wire: int
    start: int
    end: int
    value: int


def wires(data: bytes, start: int, end: int, where: str) -> Iterator[Wire]:
    """The fields of a message, in the order in which they lie. ``InputError`` where it ends in the middle of one."""
    at = start
    while at < end:
        key, at = _varint(data, at, end, where)
        begin, value, wire = at, 0, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end, where)
        elif wire == _BYTES:
            size, begin = _varint(data, at, end, where)
            at = begin + size
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise InputError(f"{where}: a field of wire type {wire}; the message does not match its schema")
        if at > end:
            raise InputError(f"{where}: ends in the middle of a field; the message does not match its schema")
        yield Wire(key >> 3, wire, begin, at, value)


def _varint(data: bytes, at: int, end: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise InputError(f"{where}: a number that does not end; the message does not match its schema")


def parse_descriptors(schema: Schema, where: str) -> Form:
    """The type that a schema names, of the descriptors (a FileDescriptorSet) in it. ``InputError``: it has none."""
    types: dict[str, tuple[bytes, ...]] = {}
    for file in _all(schema.data, 1, where):
        package = b"".join(_all(file, 2, where)).decode("utf-8", "replace")
        _collect(file, 4, f".{package}" if package else "", types, where)
    name = f".{schema.name.lstrip('.')}"
    if name not in types:
        raise InputError(
            f"{where}: its descriptors have no type {name[1:]!r}, they have {', '.join(sorted(types)[:20])}"
        )
    return _Forms(types, where).form(name)


def _all(data: bytes, number: int, where: str) -> list[bytes]:
    """The values of a field of bytes."""
    found = [wire for wire in wires(data, 0, len(data), f"{where}: descriptor") if wire.number == number]
    return [data[wire.start : wire.end] for wire in found if wire.wire == _BYTES]


def _collect(data: bytes, number: int, prefix: str, types: dict[str, tuple[bytes, ...]], where: str) -> None:
    """Types and those within them, by their full names: the fields of each."""
    for message in _all(data, number, where):
        name = f"{prefix}.{b''.join(_all(message, 1, where)).decode('utf-8', 'replace')}"
        if name.count(".") > _DEEPEST:
            raise InputError(f"{where}: types within types more than {_DEEPEST} deep; the schema is damaged")
        types[name] = tuple(_all(message, 2, where))
        _collect(message, 3, name, types, where)


class _Forms:
    def __init__(self, types: dict[str, tuple[bytes, ...]], where: str):
        self._types, self._where = types, where
        self._open: list[str] = []
        self._count = 0

    def form(self, name: str) -> Form:
        """A field that leads back to a type around it, as in a tree, is left out."""
        self._open.append(name)
        fields = [self._field(data) for data in self._types[name]]
        self._open.pop()
        known = sorted((field for field in fields if field is not None), key=lambda field: field.number)
        return Form(name[1:], tuple(known))

    def _field(self, data: bytes) -> Field | None:
        self._count += 1
        if self._count > MAX_FIELDS or len(self._open) > _DEEPEST:
            raise InputError(f"{self._where}: its type has more than {MAX_FIELDS} fields, or {_DEEPEST} levels")
        texts, numbers = {}, {}
        for wire in wires(data, 0, len(data), f"{self._where}: descriptor"):
            texts[wire.number] = data[wire.start : wire.end].decode("utf-8", "replace")
            numbers[wire.number] = wire.value
        kind: Scalar | str | Form
        if numbers.get(5) == _MESSAGE:
            inner = texts.get(6, "")
            if inner in self._open:
                return None
            if inner not in self._types:
                raise InputError(f"{self._where}: its descriptors lack the type {inner!r}")
            kind = self.form(inner)
        elif numbers.get(5) in (_STRING, _OCTETS):
            kind = "text" if numbers[5] == _STRING else "bytes"
        elif (scalar := _SCALARS.get(numbers.get(5, 0))) is not None:
            kind = scalar
        else:
            raise InputError(f"{self._where}: field {texts.get(1)!r} is of type {numbers.get(5)}, which is not read")
        return Field(texts.get(1, ""), numbers.get(3, 0), numbers.get(4) == 3, kind)


class _Parts(Parts):
    """One message taken apart."""

    def __init__(self, form: Form, where: str, data: bytes):
        super().__init__()
        self._data, self._where, self._parts = data, where, 0
        self._struct(form, 0, len(data), 0, True)

    def _struct(self, form: Form, start: int, end: int, depth: int, there: bool) -> None:
        found: dict[int, list[Wire]] = {}
        if there:
            if depth > _DEEPEST:
                raise InputError(f"{self._where}: nested more than {_DEEPEST} deep")
            for wire in wires(self._data, start, end, self._where):
                found.setdefault(wire.number, []).append(wire)
                self._parts += 1
        for field in form.fields:
            some = found.get(field.number, [])
            if self._parts > _MOST_PARTS:
                raise InputError(f"{self._where}: more than {_MOST_PARTS} values in one message")
            if isinstance(field.kind, Scalar):
                self._numbers(field, field.kind, some)
                continue
            if field.repeated:
                self.out += struct.pack("<I", len(some))
            for wire in some if field.repeated else some[-1:]:
                if wire.wire != _BYTES:
                    raise self._other(field, wire)
                if isinstance(field.kind, Form):
                    self._struct(field.kind, wire.start, wire.end, depth + 1, True)
                else:
                    self.out += struct.pack("<I", wire.end - wire.start)
                    self.copy(wire.start, wire.end)
            if not some and not field.repeated:
                if isinstance(field.kind, Form):
                    self._struct(field.kind, 0, 0, depth + 1, False)
                else:
                    self.out += struct.pack("<I", 0)

    def _other(self, field: Field, wire: Wire) -> InputError:
        return InputError(
            f"{self._where}: field {field.name!r} has wire type {wire.wire}; the message does not match its schema"
        )

    def _numbers(self, field: Field, scalar: Scalar, some: Sequence[Wire]) -> None:
        values: list[tuple[int, int]] = []
        for wire in some:
            if wire.wire == scalar.wire:
                values.append((wire.start, wire.end))
            elif wire.wire == _BYTES and field.repeated:  # packed
                if len(some) == 1 and scalar.wire != _VARINT and (wire.end - wire.start) % scalar.dtype.itemsize == 0:
                    self.out += struct.pack("<I", (wire.end - wire.start) // scalar.dtype.itemsize)
                    self.copy(wire.start, wire.end)  # side by side, as they are wanted
                    return
                values += self._unpacked(scalar, wire)
            else:
                raise self._other(field, wire)
        if field.repeated:
            self.out += struct.pack("<I", len(values))
        elif not values:
            self.out += bytes(scalar.dtype.itemsize)
        for start, end in values if field.repeated else values[-1:]:
            self._number(start, end, scalar)

    def _unpacked(self, scalar: Scalar, wire: Wire) -> list[tuple[int, int]]:
        if scalar.wire != _VARINT:
            size = scalar.dtype.itemsize
            if (wire.end - wire.start) % size:
                raise InputError(f"{self._where}: {wire.end - wire.start} bytes of numbers of {size}; it is damaged")
            return [(at, at + size) for at in range(wire.start, wire.end, size)]
        found, at = [], wire.start
        while at < wire.end:
            _, after = _varint(self._data, at, wire.end, self._where)
            found.append((at, after))
            at = after
        self._parts += len(found)
        return found

    def _number(self, start: int, end: int, scalar: Scalar) -> None:
        if scalar.wire == _VARINT:
            self.takes.append(Take(start, end, len(self.out), partial(_numbers_of, scalar=scalar), ends=True))
            self.out += bytes(scalar.dtype.itemsize)
        else:
            self.copy(start, end)


def _numbers_of(piece: np.ndarray, scalar: Scalar) -> np.ndarray:
    """Varints of one length as bytes of their type: ``[n, itemsize]``."""
    value = np.zeros(len(piece), np.uint64)
    for k in range(min(piece.shape[1], 10)):
        value |= (piece[:, k] & 0x7F).astype(np.uint64) << np.uint64(7 * k)
    if scalar.zigzag:
        value = (value >> np.uint64(1)) ^ (np.uint64(0) - (value & np.uint64(1)))
    kept = (value != 0).astype(np.uint8) if scalar.dtype.kind == "b" else value
    size = scalar.dtype.itemsize
    return np.ascontiguousarray(kept).astype("<u8").view(np.uint8).reshape(len(piece), 8)[:, :size]


class ProtobufTopic(PackedTopic):
    """Protobuf messages; arguments as those of its base, with the schema in place of the struct."""

    def __init__(self, topic: str, schema: Schema, requests: Sequence[Request], *, reserve: int, uri: str):
        self._name = f"{uri}: {topic}"
        self._form = parse_descriptors(schema, f"{self._name}: schema {schema.name!r}")
        super().__init__(topic, self._form.struct, requests, PLAIN, reserve=reserve, uri=uri)

    def add(self, messages: Messages) -> None:
        if len(messages.start):
            super().add(repack(messages, partial(_Parts, self._form, self._name)))

    def decoder(self, channel: int, first: Messages, room: int) -> None:
        """None: they are laid out as in the file."""
