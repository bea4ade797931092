"""Message definitions in OMG IDL: of ROS 2 (``ros2idl``, files one after another) and of DDS (``omgidl``)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.definitions import MAX_FIELDS, Array, Number, Struct, Text, Type

_DEEPEST = 32
_MOST_ELEMENTS = 1 << 24
_NUMBERS = {
    name: Number(np.dtype(dtype))
    for name, dtype in {
        "boolean": "?", "octet": "u1", "char": "u1", "wchar": "u2", "float": "f4", "double": "f8", "int8": "i1",
        "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8",
        "short": "i2", "long": "i4", "long long": "i8", "unsigned short": "u2", "unsigned long": "u4",
        "unsigned long long": "u8",
    }.items()
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<skip>\s+|//[^\n]*|/\*.*?\*/|(?m:^[ \t]*#[^\n]*))"
    r"|(?P<text>L?\"(?:[^\"\\]|\\.)*\"|L?'(?:[^'\\]|\\.)*')"
    r"|(?P<number>0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?[fFlLuU]*)"
    r"|(?P<name>(?:::)?[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*)"
    r"|(?P<mark>::|<<|>>|[-+*/%@{}()\[\]<>;:,=|&^~.])",
    re.DOTALL,
)
_SECTION = re.compile(r"^={3,}[ \t]*\r?\n(?:IDL:[^\n]*\n)?", re.MULTILINE)


class Member(NamedTuple):
    """What the wire needs to know of a struct's field beside its type: its id, and whether a message may lack it."""

    id: int
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Record(Struct):
    """A struct or union of IDL. A member that may be lacking, as a union's cases are, is a sequence of one or none.

    extension: ``final``, ``appendable`` or ``mutable``; empty: it does not say
    members:   of each of ``fields``
    cases:     of a union, whose first field is the discriminator, the labels of the other fields (None: the default)
    """

    extension: str = ""
    members: tuple[Member, ...] = ()
    cases: tuple[frozenset[int | None], ...] = field(default=())

    __hash__ = Struct.__hash__


def parse_idl(name: str, data: bytes, where: str) -> Record:
    """The root type of definitions. ``InputError`` names the line that cannot be read."""
    try:
        return _parsed(name, data)
    except InputError as error:
        raise InputError(f"{where}: schema {name!r}{error}") from None
    except RecursionError:
        raise InputError(f"{where}: schema {name!r} is nested too deep") from None


@lru_cache(maxsize=256)  # the logs of a dataset have the same few types
def _parsed(name: str, data: bytes) -> Record:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f" is not UTF-8 text ({error})") from None
    types = _all_types([section for section in _SECTION.split(text) if section.strip()])
    scoped = name.replace("/", "::").lstrip(":")
    found = types.get(scoped) or types.get(scoped.replace("::", "::msg::", 1))
    if not isinstance(found, Record):
        known = [name for name, kind in types.items() if isinstance(kind, Record)]
        raise InputError(f": no struct of that name, it has {', '.join(known[:20]) or 'none'}")
    return found


class _LaterError(InputError):
    """What a definition needs has not been defined yet."""


def _all_types(files: list[str]) -> dict[str, Type]:
    """Of files that may stand in any order: one that needs another is read once that has been."""
    found = _Found()
    while files:
        left, fault = [], None
        for text in files:
            try:
                _Parser(text, found).read()
            except _LaterError as error:
                left.append(text)
                fault = fault or error
        if fault is not None and len(left) == len(files):
            raise fault
        files = left
    return found.types


@dataclass
class _Found:
    types: dict[str, Type] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise InputError(f": line {text.count(chr(10), 0, at) + 1}: cannot read {text[at : at + 40]!r}")
        if match.lastgroup != "skip":
            found.append(_Token(str(match.lastgroup), match[0], at))
        at = match.end()
    return found


def _public(scoped: str) -> str:
    """A type as it is called elsewhere: ``sensor_msgs::msg::Imu`` is ``sensor_msgs/Imu``."""
    return scoped.replace("::msg::", "::").replace("::", "/")


class _Parser:
    def __init__(self, text: str, found: _Found):
        self._text, self._tokens, self._at = text, _tokens(text), 0
        self._types, self._constants, self._sizes = found.types, found.constants, found.sizes
        self._scope: list[str] = []

    def read(self) -> None:
        while self._at < len(self._tokens):
            self._definition()

    # Tokens

    def _peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _next(self) -> _Token:
        if self._at >= len(self._tokens):
            raise InputError(": ends in the middle of a definition")
        self._at += 1
        return self._tokens[self._at - 1]

    def _fault(self, what: str) -> InputError:
        at = self._tokens[min(self._at, len(self._tokens) - 1)].at if self._tokens else 0
        return InputError(f": line {self._text.count(chr(10), 0, at) + 1}: {what}")

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise self._fault(f"found {self._peek()[:40]!r}, expected {mark!r}")
        self._at += 1

    def _take(self, mark: str) -> bool:
        if self._peek() == mark:
            self._at += 1
            return True
        return False

    def _name(self) -> str:
        token = self._next()
        if token.kind != "name":
            self._at -= 1
            raise self._fault(f"found {token.text[:40]!r}, expected a name")
        return token.text

    def _annotations(self) -> dict[str, str]:
        """Those that stand here: names and what is in their parentheses."""
        found = {}
        while self._take("@"):
            name, inside = self._name(), []
            if self._take("("):
                depth = 1
                while depth:
                    text = self._next().text
                    depth += (text == "(") - (text == ")")
                    inside.append(text)
                inside.pop()
            found[name] = " ".join(inside)
        return found

    # Definitions

    def _definition(self) -> None:
        marks = self._annotations()
        word = self._name()
        if word == "module":
            self._scope.append(self._name())
            if len(self._scope) > _DEEPEST:
                raise self._fault(f"modules nested more than {_DEEPEST} deep")
            self._expect("{")
            while not self._take("}"):
                self._definition()
            self._scope.pop()
        elif word in _KINDS:
            _KINDS[word](self, marks)
        else:
            raise self._fault(f"{word!r} is none of module, {', '.join(_KINDS)}")
        self._take(";")

    def _full(self, name: str) -> str:
        return "::".join([*self._scope, name])

    def _struct(self, marks: dict[str, str]) -> None:
        name = self._name()
        if self._peek() == ";":
            return  # declared before it is defined
        full, fields = self._full(name), list[tuple[str, Type]]()
        members: list[Member] = []
        if self._take(":"):
            base = self._lookup(self._name())
            if not isinstance(base, Record):
                raise self._fault(f"{name} extends what is no struct")
            fields, members = [*base.fields], [*base.members]
        self._expect("{")
        while not self._take("}"):
            said = self._annotations()
            kind = self._type()
            while True:
                field_name, whole = self._declarator(kind)
                if any(field_name == known for known, _ in fields):
                    raise self._fault(f"{full} has two fields named {field_name}")
                id = members[-1].id + 1 if members else 0
                if "id" in said:
                    id = self._literal(said["id"])
                elif "hashid" in said or marks.get("autoid", "").endswith("HASH"):
                    text = said.get("hashid", "").strip('"') or field_name
                    id = int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4], "little")
                    id &= 0x0FFFFFFF
                optional = "optional" in said and said["optional"].lower() != "false"
                fields.append((field_name, Array(whole, None) if optional else whole))
                members.append(Member(id, optional))
                if not self._take(","):
                    break
            self._expect(";")
        if not fields:  # IDL has no empty struct: rosidl gives it this member, and it takes its byte
            fields, members = [("structure_needs_at_least_one_member", _NUMBERS["uint8"])], [Member(0)]
        self._keep(full, Record(_public(full), tuple(fields), _extension(marks), tuple(members)))

    def _union(self, marks: dict[str, str]) -> None:
        name = self._name()
        if self._peek() == ";":
            return
        full = self._full(name)
        if self._name() != "switch":
            raise self._fault(f"{name}: expected 'switch'")
        self._expect("(")
        self._annotations()
        kind = self._type()
        if not isinstance(kind, Number) or kind.dtype.kind not in "iub":
            raise self._fault(f"{name}: its discriminator is no whole number")
        self._expect(")")
        self._expect("{")
        fields: list[tuple[str, Type]] = [("discriminator", kind)]
        cases: list[frozenset[int | None]] = [frozenset()]
        while not self._take("}"):
            labels: set[int | None] = set()
            while self._peek() in ("case", "default"):
                labels.add(None if self._next().text == "default" else self._value({":"}))
                self._expect(":")
            self._annotations()
            case, whole = self._declarator(self._type())
            self._expect(";")
            fields.append((case, Array(whole, None)))
            cases.append(frozenset(labels))
        members = tuple(Member(k, optional=k > 0) for k in range(len(fields)))
        self._keep(full, Record(_public(full), tuple(fields), _extension(marks), members, tuple(cases)))

    def _enum(self, marks: dict[str, str]) -> None:
        self._bits(marks, 32, lambda place: place, "i")

    def _bitmask(self, marks: dict[str, str]) -> None:
        self._bits(marks, 32, lambda place: 1 << place, "u")

    def _bits(self, marks: dict[str, str], usual: int, value: Callable[[int], int], sign: str) -> None:
        name = self._name()
        bound = self._literal(marks["bit_bound"]) if "bit_bound" in marks else usual
        self._expect("{")
        place = 0
        while not self._take("}"):
            said = self._annotations()
            for key in ("value", "position"):
                place = self._literal(said[key]) if key in said else place
            label = self._name()
            if not 0 <= place < 1 << 31:
                raise self._fault(f"{name}: {label} is {place}")
            self._constants[self._full(label)] = value(min(place, 63))
            place += 1
            self._take(",")
        size = next((n for n in (1, 2, 4, 8) if bound <= 8 * n), 8)
        self._keep(self._full(name), Number(np.dtype(f"{sign}{size}")))

    def _typedef(self, marks: dict[str, str]) -> None:
        kind = self._type()
        while True:
            name, whole = self._declarator(kind)
            self._keep(self._full(name), whole)
            if not self._take(","):
                break
        self._expect(";")

    def _const(self, marks: dict[str, str]) -> None:
        self._type()
        name = self._name()
        self._expect("=")
        at = self._at
        try:
            self._constants[self._full(name)] = self._value({";"})
        except InputError:  # of text, or a fraction, which nothing is bounded by
            self._at = at
            while self._peek() not in (";", ""):
                self._at += 1
        self._expect(";")

    def _keep(self, full: str, kind: Type) -> None:
        """A name that has a type; no type holds more than can be read."""
        fields = 1
        if isinstance(kind, Record):
            fields = sum(self._size(inner) for _, inner in kind.fields)
            self._sizes[kind.name] = fields
        if fields > MAX_FIELDS:
            raise self._fault(f"{full} has {fields} fields, more than {MAX_FIELDS}")
        self._types[full] = kind

    def _size(self, kind: Type) -> int:
        while isinstance(kind, Array):
            kind = kind.element
        return 1 + self._sizes.get(kind.name, 0) if isinstance(kind, Struct) else 1

    # Types

    def _declarator(self, kind: Type) -> tuple[str, Type]:
        """A name, and what it is of the type before it: an array has its lengths behind the name."""
        name, lengths = self._name().lstrip("_"), []
        while self._take("["):
            lengths.append(self._value({"]"}))
            self._expect("]")
        for length in reversed(lengths):
            if not 0 < length <= _MOST_ELEMENTS:
                raise self._fault(f"{name} has {length} elements; the schema is damaged")
            kind = _flat(Array(kind, length))
        if _depth(kind) > _DEEPEST:
            raise self._fault(f"{name} is nested more than {_DEEPEST} deep")
        return name, kind

    def _type(self) -> Type:
        self._annotations()
        word = self._name()
        if word in ("sequence", "string", "wstring"):
            element: Type | None = None
            if word == "sequence":
                self._expect("<")
                element = self._type()
                if self._take(","):
                    self._value({">"})
                self._expect(">")
            elif self._take("<"):
                self._value({">"})
                self._expect(">")
            return Text(wide=word == "wstring") if element is None else Array(element, None)
        if word in ("unsigned", "long"):
            while self._peek() in ("short", "long", "double"):
                word += f" {self._name()}"
        if word in _NUMBERS:
            return _NUMBERS[word]
        if word in ("map", "any", "fixed", "long double"):
            raise self._fault(f"{word} is not read")
        return self._lookup(word)

    def _lookup(self, name: str) -> Type:
        found = self._scoped(name, self._types)
        if found is None:
            raise _LaterError(str(self._fault(f"no definition of {name} before its use")))
        return found

    def _scoped(self, name: str, table: dict[str, Any]) -> Any:
        if name.startswith("::"):
            return table.get(name[2:])
        for depth in range(len(self._scope), -1, -1):
            full = "::".join([*self._scope[:depth], name])
            if full in table:
                return table[full]
        return None

    def _value(self, ends: set[str]) -> int:
        """A whole number up to one of ``ends``: literals and constants, added and multiplied."""
        total, factor, sign, operand = 0, 1, 1, False
        while self._peek() not in ends:
            token = self._next()
            if token.text == "-" and not operand:
                sign = -sign
            elif token.text in ("+", "-") and operand:
                total, factor, sign, operand = total + factor, 1, 1 if token.text == "+" else -1, False
            elif token.text == "*" and operand:
                operand = False
            elif operand or token.kind not in ("number", "name"):
                self._at -= 1
                raise self._fault(f"found {token.text[:40]!r} in a whole number")
            else:
                factor, sign, operand = factor * sign * self._literal(token.text), 1, True
        if not operand or abs(total) > 1 << 62 or abs(factor) > 1 << 62:
            raise self._fault("expected a whole number")
        return total + factor

    def _literal(self, text: str) -> int:
        text = text.removeprefix("value = ").strip()
        if text in ("TRUE", "FALSE"):
            return int(text == "TRUE")
        try:
            return int(text.rstrip("uUlL")[:20], 0)
        except ValueError:
            found = self._scoped(text, self._constants)
            if found is None:
                raise _LaterError(str(self._fault(f"{text[:40]!r} is no whole number"))) from None
            return int(found)


_KINDS: dict[str, Callable[[_Parser, dict[str, str]], None]] = {
    "struct": _Parser._struct, "union": _Parser._union, "enum": _Parser._enum, "bitmask": _Parser._bitmask,
    "typedef": _Parser._typedef, "const": _Parser._const,
}  # fmt: skip


def _extension(marks: dict[str, str]) -> str:
    for word in ("final", "appendable", "mutable"):
        if word in marks or marks.get("extensibility", "").lower().endswith(word):
            return word
    return ""


def _flat(array: Array) -> Array:
    """An array of arrays of fixed length as one: they lie so."""
    inner = array.element
    if isinstance(inner, Array) and inner.length is not None and array.length is not None:
        length = array.length * inner.length
        if length > _MOST_ELEMENTS:
            raise InputError(f": an array of {length} elements; the schema is damaged")
        return replace(inner, length=length)
    return array


def _depth(kind: Type) -> int:
    if isinstance(kind, Array):
        return 1 + _depth(kind.element)
    if isinstance(kind, Struct):
        return 1 + max((_depth(inner) for _, inner in kind.fields), default=0)
    return 0
