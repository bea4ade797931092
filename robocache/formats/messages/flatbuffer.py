"""Flatbuffers by the binary schema (``.bfbs``) that a log embeds: brought, many at once, into the packing that is
decoded (:mod:`robocache.formats.messages.repack`). A field that a message leaves out has its default, or is zero or
empty."""

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
from robocache.formats.messages.repack import Parts, repack
from robocache.formats.messages.topic import Request

#: Numbers by their number in the schema of schemas; a union's kind is one of them.
_NUMBERS = {1: "<u1", 2: "?", 3: "<i1", 4: "<u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<u4", 9: "<i8", 10: "<u8",
            11: "<f4", 12: "<f8"}  # fmt: skip
_STRING, _VECTOR, _OBJECT, _UNION, _ARRAY = 13, 14, 15, 16, 17
_STAMPS = {"foxglove.Time": STAMPS[0], "foxglove.Duration": STAMPS[1]}
_DEEPEST = 32
_MOST = 1 << 16  # values of one message that are gone through one by one


class _Kind(NamedTuple):
    """base, element: of the schema of schemas; length: of an array"""

    base: int
    element: int = 0
    form: Form | None = None
    length: int = 0


class _Field(NamedTuple):
    """place: in a table that of its offset, in a struct its own; default: as it is packed"""

    name: str
    place: int
    kind: _Kind
    default: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """A table, or (``fixed``) a struct of ``size`` bytes."""

    name: str
    fixed: bool
    size: int
    fields: tuple[_Field, ...]

    @property
    def struct(self) -> Struct:
        name = _STAMPS.get(self.name, self.name.replace(".", "/"))
        return Struct(name, tuple((field.name, _member(field.kind)) for field in self.fields))


def _member(kind: _Kind) -> Type:
    if kind.base in (_VECTOR, _ARRAY):
        return Array(_member(kind._replace(base=kind.element)), kind.length if kind.base == _ARRAY else None)
    if kind.base == _STRING:
        return Text()
    return kind.form.struct if kind.form else Number(np.dtype(_NUMBERS[kind.base]).newbyteorder("="))


class _View:
    """Bytes that are a flatbuffer; all offsets in it are checked."""

    def __init__(self, data: bytes, where: str):
        self.data, self.where = data, where

    def fault(self, what: str) -> InputError:
        return InputError(f"{self.where}: {what}; it is damaged, or does not match its schema")

    def number(self, layout: str, at: int) -> int:
        self.within(at, struct.calcsize(layout))
        return int(struct.unpack_from(f"<{layout}", self.data, at)[0])

    def within(self, at: int, nbytes: int) -> None:
        if at < 0 or nbytes > len(self.data) - at:
            raise self.fault(f"{nbytes} bytes at {at} of {len(self.data)}")

    def follow(self, at: int) -> int:
        return at + self.number("I", at)

    def field(self, table: int, place: int) -> int:
        """Where a field of a table is; 0: it is left out."""
        known = table - self.number("i", table)
        if place + 2 > self.number("H", known):
            return 0
        offset = self.number("H", known + place)
        return table + offset if offset else 0

    def vector(self, at: int, nbytes: int) -> tuple[int, int]:
        """Where the elements of the vector that is pointed to here begin, and how many there are."""
        begin = self.follow(at)
        count = self.number("I", begin)
        self.within(begin + 4, count * nbytes)
        return begin + 4, count

    def tables(self, table: int, place: int) -> Iterator[int]:
        if at := self.field(table, place):
            begin, count = self.vector(at, 4)
            yield from (self.follow(begin + 4 * k) for k in range(count))

    def text(self, table: int, place: int) -> str:
        at = self.field(table, place)
        begin, count = self.vector(at, 1) if at else (0, 0)
        return self.data[begin : begin + count].decode("utf-8", "replace")


def parse_schema(schema: Schema, where: str) -> Form:
    """The type that a schema names. ``InputError``: it has none, or one that is not read."""
    view = _View(schema.data, where)
    objects = list(view.tables(view.follow(0), 4))
    names = [view.text(table, 4) for table in objects]
    if schema.name not in names:
        raise InputError(f"{where}: its schema has no type {schema.name!r}, it has {', '.join(sorted(names)[:20])}")
    return _Forms(view, objects).form(names.index(schema.name))


class _Forms:
    def __init__(self, view: _View, objects: Sequence[int]):
        self._view, self._objects = view, objects
        self._open: list[int] = []
        self._count = 0

    def form(self, index: int) -> Form:
        view = self._view
        if not 0 <= index < len(self._objects):
            raise view.fault(f"a type of number {index}")
        table = self._objects[index]
        self._open.append(index)
        if len(self._open) > _DEEPEST:
            raise view.fault(f"types nested more than {_DEEPEST} deep")
        fixed = view.field(table, 8)
        is_fixed = bool(fixed and view.number("B", fixed))
        size = view.field(table, 12)
        found = [(self._number(field, 8, "H"), self._field(field)) for field in view.tables(table, 6)]
        self._open.pop()
        known = tuple(field for _, field in sorted(found, key=lambda f: f[0]) if field is not None)
        return Form(view.text(table, 4), is_fixed, view.number("i", size) if size else 0, known)

    def _number(self, table: int, place: int, layout: str, usual: int = 0) -> int:
        at = self._view.field(table, place)
        return self._view.number(layout, at) if at else usual

    def _field(self, table: int) -> _Field | None:
        """None: what is left out: a union, and what leads back to a type around it, as in a tree."""
        view = self._view
        self._count += 1
        if self._count > MAX_FIELDS:
            raise view.fault(f"more than {MAX_FIELDS} fields")
        at = view.field(table, 6)
        if not at:
            raise view.fault("a field without a type")
        told = view.follow(at)
        base, element, index = (self._number(told, *what) for what in ((4, "b"), (6, "b"), (8, "i", -1)))
        name, inner = view.text(table, 4), element if base in (_VECTOR, _ARRAY) else base
        form = None
        if inner == _UNION or (inner == _OBJECT and index in self._open):
            return None
        if inner == _OBJECT:
            form = self.form(index)
        elif inner not in _NUMBERS and inner != _STRING:
            raise view.fault(f"field {name!r} is of type {base}, {element}, which is not read")
        default = b""
        if base in _NUMBERS:
            kind = np.dtype(_NUMBERS[base])
            layout, place = ("d", 14) if kind.kind == "f" else ("q", 12)
            where = view.field(table, place)
            value = np.zeros((), f"<{'f' if layout == 'd' else 'i'}8")
            if where:
                view.within(where, 8)
                value = np.frombuffer(view.data, value.dtype, 1, where)[0]
            with np.errstate(all="ignore"):
                default = value.astype(kind).tobytes()
        return _Field(
            name, self._number(table, 10, "H"), _Kind(base, element, form, self._number(told, 10, "H")), default
        )


class _Parts(Parts):
    """One message taken apart."""

    def __init__(self, form: Form, where: str, data: bytes):
        super().__init__()
        self._view, self._values = _View(data, where), 0
        self._form(form, self._view.follow(0), 0)

    def _form(self, form: Form, table: int, depth: int) -> None:
        """table: 0: there is none"""
        self._values += 1
        if depth > _DEEPEST or self._values > _MOST:
            raise self._view.fault(f"more than {_DEEPEST} levels, or {_MOST} values")
        if form.fixed and table:
            self._view.within(table, form.size)
        for field in form.fields:
            at = table and (table + field.place if form.fixed else self._view.field(table, field.place))
            self._value(field, at, form.fixed, depth)

    def _value(self, field: _Field, at: int, fixed: bool, depth: int) -> None:
        view, kind = self._view, field.kind
        if kind.base in _NUMBERS:
            if not at:
                self.out += field.default
            else:
                self._numbers(at, len(field.default))
        elif kind.base == _OBJECT:
            assert kind.form is not None
            self._form(kind.form, at if not at or kind.form.fixed else view.follow(at), depth + 1)
        elif kind.base == _ARRAY:
            self._elements(kind, at, kind.length, depth)
        elif not at:
            self.out += bytes(4)
        else:
            begin, count = view.vector(at, self._size(kind))
            self.out += struct.pack("<I", count)
            if kind.base == _STRING:
                self.copy(begin, begin + count)
            else:
                self._elements(kind, begin, count, depth)

    def _numbers(self, at: int, nbytes: int) -> None:
        self._view.within(at, nbytes)
        self.copy(at, at + nbytes)

    @staticmethod
    def _size(kind: _Kind) -> int:
        """Of an element."""
        if kind.base == _STRING:
            return 1
        if kind.element in _NUMBERS:
            return np.dtype(_NUMBERS[kind.element]).itemsize
        return kind.form.size if kind.form and kind.form.fixed else 4

    def _elements(self, kind: _Kind, at: int, count: int, depth: int) -> None:
        size = self._size(kind)
        if kind.element in _NUMBERS:
            if at:
                self._numbers(at, count * size)
            else:
                self.out += bytes(count * size)
            return
        if count > _MOST:
            raise self._view.fault(f"{count} elements")
        for k in range(count):
            place = at and at + k * size
            if kind.form is None:
                begin, length = self._view.vector(place, 1)
                self.out += struct.pack("<I", length)
                self.copy(begin, begin + length)
            else:
                self._form(kind.form, place if kind.form.fixed else self._view.follow(place), depth + 1)


class FlatbufferTopic(PackedTopic):
    """Flatbuffers; arguments as those of its base, with the schema in place of the struct."""

    def __init__(self, topic: str, schema: Schema, requests: Sequence[Request], *, reserve: int, uri: str):
        self._name = f"{uri}: {topic}"
        self._form = parse_schema(schema, f"{self._name}: schema {schema.name!r}")
        super().__init__(topic, self._form.struct, requests, PLAIN, reserve=reserve, uri=uri)

    def add(self, messages: Messages) -> None:
        if len(messages.start):
            super().add(repack(messages, partial(_Parts, self._form, self._name)))

    def decoder(self, channel: int, first: Messages, room: int) -> None:
        """None: they are laid out as in the file."""
