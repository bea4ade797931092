"""From a source path to what it means of a message: its leaves, the columns they make, the names they go by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from robocache.errors import InputError, MissingError
from robocache.formats.base import Match, Selector, parse_item, positions, shown
from robocache.formats.messages.definitions import HEADER, STAMPS, Array, Number, Struct, Text, Type
from robocache.formats.messages.images import image_data

#: Path of a leaf from the root: field names, element positions, the element that matches, and None for every element.
Key: TypeAlias = "tuple[str | int | Match | None, ...]"

_TOKEN = re.compile(r"\.(?P<name>[^.\[\]]+)(?:\[(?P<pick>(?:\"[^\"]*\"|'[^']*'|[^\[\]\"'])*)\])?")
_MAX_SPREAD = 1024  # elements of a struct array that are laid side by side
#: Arrays of text that name the columns of the arrays beside and below them.
NAMES = ("name", "names", "joint_names", "joint_name")
#: What of a ``PointCloud2`` is different from message to message, the points last; its fields are not.
CLOUD = ("height", "width", "point_step", "row_step", "is_bigendian", "data")
#: A field by which an element of an array is known wherever it stands.
IDENTITY = "child_frame_id"


class Token(NamedTuple):
    """A field on a path, and the element picked of it where it is an array."""

    name: str
    pick: int | Match | None = None

    def __str__(self) -> str:
        return f".{self.name}" + ("" if self.pick is None else f"[{self.pick}]")


class Path(NamedTuple):
    """What is behind the topic in a source: fields, and columns of the last one."""

    tokens: tuple[Token, ...] = ()
    selector: Selector | None = None

    def __str__(self) -> str:
        return "".join(map(str, self.tokens))


def parse_path(text: str, selector: Selector | None, where: str) -> Path:
    """``.field.field[2].field[name=text]`` (empty: the whole message)."""
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        item = parse_item(match["pick"].strip()) if match and match["pick"] is not None else None
        if match is None or isinstance(item, str | slice):
            raise InputError(f"{where}: cannot read {text!r}; write .field.field[2].field or [name=text]")
        tokens.append(Token(match["name"], item))
        at = match.end()
    return Path(tuple(tokens), selector)


@dataclass(frozen=True, slots=True)
class Leaf:
    """An array or number, or a payload, of the message. ``width`` is None where only the message tells; ``bad`` says
    why it cannot be laid beside others."""

    key: Key
    dtype: np.dtype | None
    width: int | None
    name: str
    bad: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Numbers ``[start, stop)`` of a leaf (stop None: all) that are neighbouring columns of a source."""

    key: Key
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """How one source is put together.

    pieces:   side by side, in order; what is no number is one piece
    dtype:    of the numbers; None for text, bytes and lists of text (``kind`` tells which)
    width:    how many columns, None where only the data tells it
    structs:  the messages on the way to it, from the whole one inwards, with their keys
    outer:    leading axes of a row, one for each array of structs that the path spans
    scalar:   a row is one number, without a column axis
    selector: what is left to select once the widths are known
    names:    of the columns, where the type tells them
    named_by: key of the array of text that names them in each message
    kind:     ``text``, ``bytes``, ``texts``; ``cloud``: the pieces are :data:`CLOUD`; ``frames``: raw images, which the
              message beside them says how to read; ``quaternion`` or ``pose``; else empty
    """

    pieces: tuple[Piece, ...]
    dtype: np.dtype | None
    width: int | None
    structs: tuple[tuple[Key, Struct], ...]
    outer: int = 0
    scalar: bool = False
    selector: Selector | None = None
    names: tuple[str, ...] = ()
    named_by: Key | None = None
    kind: str = ""

    @property
    def picks(self) -> list[Key]:
        """Keys of the elements of arrays that the path picks: messages without them are no samples."""
        key = self.pieces[0].key
        return [key[: i + 1] for i, part in enumerate(key) if isinstance(part, int | Match)]


class _Place(NamedTuple):
    """Where a path has led."""

    key: Key
    target: Type
    selector: Selector | None
    structs: tuple[tuple[Key, Struct], ...]


def resolve(root: Struct, path: Path, where: str) -> Columns:
    """Find ``path`` below ``root``. ``InputError`` says which fields there are where it is not found."""
    known = root, path.tokens, repr(path.selector)  # a slice is no key
    found = _RESOLVED.get(known)
    if found is None:
        found = _resolve(root, path, where)
        if len(_RESOLVED) >= 1024:
            _RESOLVED.clear()
        _RESOLVED[known] = found
    return found


#: The logs of a dataset are asked for the same of the same types.
_RESOLVED: dict[tuple[Struct, tuple[Token, ...], str], Columns] = {}


def _resolve(root: Struct, path: Path, where: str) -> Columns:
    place = follow(root, path, where)
    key, target, selector = place.key, place.target, place.selector
    outer = key.count(None)
    if isinstance(target, Array) and isinstance(target.element, Text) and not outer:
        if selector is not None:
            raise InputError(f"{where}: is {describe(target)}; name one element by its position, as in [0]")
        return Columns((Piece(key),), None, None, place.structs, kind="texts")
    if selector is None and not outer and (raw := image_data(target)) is not None:  # a whole message is its image
        return Columns((Piece((*key, "data")),), None, None, place.structs, kind="frames" if raw else "bytes")
    if isinstance(target, Struct) and _is_cloud(target):
        if selector is not None or outer:
            raise InputError(f"{where}: is {describe(target)}, which is taken as a whole; leave out the selector")
        return Columns(tuple(Piece((*key, name)) for name in CLOUD), None, None, place.structs, kind="cloud")
    leaves = list(_leaves(target, key, ""))
    if selector is not None and isinstance(target, Struct) and all(isinstance(item, str) for item in selector):
        leaves = _asked(leaves, selector, where)  # whatever else is there is no hindrance then
    good = [leaf for leaf in leaves if not leaf.bad]
    if not leaves:
        raise InputError(f"{where}: {describe(target)} holds no numbers")
    if len(good) < len(leaves):
        raise InputError(f"{where}: holds {next(leaf.bad for leaf in leaves if leaf.bad)}; name one of the others")
    if good[0].dtype is None:  # a payload is always alone
        if outer or selector is not None:
            raise InputError(f"{where}: is {describe(target)}, which has no columns; name one whole payload")
        kind = "text" if isinstance(target, Text) else "bytes"
        return Columns((Piece(key),), None, None, place.structs, kind=kind)
    widths = [leaf.width for leaf in good]
    width = None if None in widths else sum(w or 0 for w in widths)
    found = Columns(tuple(Piece(leaf.key) for leaf in good), _dtype(good), width, place.structs, outer)
    named_by = _named_by(place) if isinstance(target, Array) else None
    if named_by is not None or width is None or (selector is not None and outer):
        return replace(found, selector=selector, named_by=named_by)
    names = tuple(name for leaf in good for name in _column_names(leaf))
    if selector is None:
        scalar = isinstance(target, Number)
        if scalar or any(leaf.width != 1 for leaf in good):
            return replace(found, scalar=scalar)
        return replace(found, names=names, kind=kind_of_names(names, describe(target)))
    # Every width is known: select columns now, so that no other is ever touched.
    columns = [(leaf, i) for leaf in good for i in range(leaf.width or 0)]
    chosen = [columns[c] for c in _chosen(selector, names, where)]
    pieces: list[Piece] = []
    for leaf, i in chosen:
        if pieces and (pieces[-1].key, pieces[-1].stop) == (leaf.key, i):
            pieces[-1] = Piece(leaf.key, pieces[-1].start, i + 1)
        else:
            pieces.append(Piece(leaf.key, i, i + 1))
    told_names = tuple(_column_names(leaf)[i] for leaf, i in chosen) if isinstance(target, Struct) else ()
    return Columns(tuple(pieces), _dtype([leaf for leaf, _ in chosen]), len(chosen), place.structs, names=told_names)


def _is_cloud(target: Struct) -> bool:
    """Whether it is a ``PointCloud2``, which means something as a whole alone."""
    return target.name.rpartition("/")[2] == "PointCloud2" and set(CLOUD) < {name for name, _ in target.fields}


def _asked(leaves: Sequence[Leaf], selector: Selector, where: str) -> list[Leaf]:
    """Those that a selector by name needs: it may name a leaf, a struct around it, or one number of a fixed array."""
    asked: list[Leaf] = []
    for item in map(str, selector):
        found = [
            leaf
            for leaf in leaves
            if leaf.name == item or leaf.name.startswith(f"{item}.") or item.startswith(f"{leaf.name}.")
        ]
        if not found:
            known = [name for leaf in leaves if not leaf.bad for name in _column_names(leaf) or [leaf.name]]
            raise MissingError(f"{where}: no column {item!r}; its columns are {shown(known)}")
        asked += [leaf for leaf in found if leaf not in asked]
    return [leaf for leaf in leaves if leaf in asked]


def _chosen(selector: Selector, names: Sequence[str], where: str) -> list[int]:
    """Positions of the columns selected; a name may also be that of a struct, which stands for all below it."""
    chosen: list[int] = []
    for item in selector:
        below = [i for i, name in enumerate(names) if isinstance(item, str) and name.startswith(f"{item}.")]
        chosen += below or positions((item,), len(names), where=where, names=names)
    return chosen


def _column_names(leaf: Leaf) -> list[str]:
    return [leaf.name] if leaf.width == 1 else [f"{leaf.name}.{i}" for i in range(leaf.width or 0)]


def _dtype(leaves: Sequence[Leaf]) -> np.dtype:
    """The type that all share, else float64."""
    dtypes = {leaf.dtype for leaf in leaves}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    return dtype or np.dtype(np.float64)


_QUATERNION = ("x", "y", "z", "w")


def kind_of_names(names: Sequence[str], called: str) -> str:
    """What numbers of known meaning are: by the names of their columns, and what they are called."""
    short = tuple(name.rpartition(".")[2] for name in names)
    if short == _QUATERNION and any(word in called.lower() for word in ("quaternion", "orientation", "rotation")):
        return "quaternion"
    return "pose" if short == ("x", "y", "z", *_QUATERNION) else ""


def follow(root: Struct, path: Path, where: str) -> _Place:
    """Where a path leads; every element of an array of structs that nothing is picked of."""
    key: list[Any] = []
    target: Type = root
    structs: list[tuple[Key, Struct]] = [((), root)]

    def enter(kind: Type) -> Type:
        if isinstance(kind, Struct):
            structs.append((tuple(key), kind))
        return kind

    tokens = list(path.tokens)
    selector = path.selector
    for at, (name, pick) in enumerate(tokens):
        if isinstance(target, Array) and isinstance(target.element, Struct):
            key.append(None)
            target = enter(target.element)
        fields = dict(target.fields) if isinstance(target, Struct) else {}
        if name not in fields:
            known = f"its fields are {', '.join(fields)}" if fields else "it has no fields"
            raise MissingError(f"{where}: no field {name!r} in {describe(target)}; {known}")
        key.append(name)
        target = fields[name]
        last = at == len(tokens) - 1
        if last and pick is None and selector is not None and _picks(target):
            if len(selector) != 1 or not (isinstance(selector[0], Match) or _position(selector[0])):
                raise InputError(
                    f"{where}: is {describe(target)}; name one element by its position, as in [0], or by a field of "
                    "it, as in [name=text]"
                )
            chosen = selector[0]
            assert isinstance(chosen, int | Match)
            pick, selector = chosen, None
        if pick is not None:
            target = _element(target, pick, key, where)
        enter(target)
    if isinstance(target, Array) and isinstance(target.element, Struct):
        key.append(None)
        target = enter(target.element)
    return _Place(tuple(key), target, selector, tuple(structs))


def _position(item: object) -> bool:
    return isinstance(item, int) and item >= 0


def _picks(target: Type) -> bool:
    return isinstance(target, Array) and isinstance(target.element, Struct | Text)


def _element(target: Type, pick: int | Match, key: list[Any], where: str) -> Type:
    if not isinstance(target, Array) or isinstance(target.element, Number):
        raise InputError(f"{where}: [{pick}] of {describe(target)}; only arrays of structs and strings have them")
    if isinstance(pick, int) and (pick < 0 or (target.length is not None and pick >= target.length)):
        raise InputError(f"{where}: [{pick}] of {describe(target)}")
    if isinstance(pick, Match):
        kind: Type = target.element
        for name in pick.field.split("."):
            fields = dict(kind.fields) if isinstance(kind, Struct) else {}
            if name not in fields:
                known = f"its fields are {', '.join(fields)}" if fields else "it has no fields"
                raise MissingError(f"{where}: no field {name!r} in {describe(kind)} to match; {known}")
            kind = fields[name]
        if not isinstance(kind, Text | Number):
            raise InputError(f"{where}: [{pick}]: {pick.field} is {describe(kind)}; text or a whole number can match")
        if isinstance(kind, Number):
            try:
                int(pick.text)
            except ValueError:
                raise InputError(f"{where}: [{pick}]: {pick.field} is {describe(kind)}, a whole number") from None
    key.append(pick)
    return target.element


def unsettled(root: Struct, path: Path, where: str) -> int | None:
    """Which token picks, by position, an element that has an identity of its own: such as a transform, whose place in
    the array says nothing of its frame. None: none does."""
    tokens = path.tokens
    for at, (_, pick) in enumerate(tokens):
        last = at == len(tokens) - 1
        chosen = path.selector[0] if last and pick is None and path.selector and len(path.selector) == 1 else pick
        if _position(chosen):
            target = follow_field(root, tokens[: at + 1], where)
            element = target.element if isinstance(target, Array) else None
            kind = dict(element.fields).get(IDENTITY) if isinstance(element, Struct) else None
            if isinstance(kind, Text):
                return at
    return None


def follow_field(root: Struct, tokens: Sequence[Token], where: str) -> Type:
    """The type of the field that tokens lead to, whatever is picked of it."""
    target: Type = root
    for name, _ in tokens:
        while isinstance(target, Array):
            target = target.element
        fields = dict(target.fields) if isinstance(target, Struct) else {}
        if name not in fields:
            raise MissingError(f"{where}: no field {name!r} in {describe(target)}; its fields are {', '.join(fields)}")
        target = fields[name]
    return target


def settle(path: Path, at: int, message: Any) -> Path | None:
    """``path`` with the element that token ``at`` picks by position named by its identity, as ``message`` (decoded)
    has it. None where the message does not hold it."""
    value = message
    for token in path.tokens[:at]:
        value = choose(value.get(token.name), token.pick)
        if not isinstance(value, dict):
            return None
    token = path.tokens[at]
    position = token.pick if token.pick is not None else (path.selector or (None,))[0]
    element = choose(value.get(token.name), position)
    if not isinstance(element, dict):
        return None
    named = token._replace(pick=Match(IDENTITY, element[IDENTITY]))
    selector = path.selector if token.pick is not None else None
    return Path((*path.tokens[:at], named, *path.tokens[at + 1 :]), selector)


def choose(value: Any, pick: Any) -> Any:
    """The element of a decoded array that is picked, None where there is none; ``value`` where nothing is."""
    if pick is None:
        return value
    if not isinstance(value, list):
        return None
    if isinstance(pick, int):
        return value[pick] if 0 <= pick < len(value) else None
    return next((item for item in value if matches(item, pick)), None)


def reach(message: Any, key: Key) -> Any:
    """What a key leads to in a decoded message (of every element: the first); None where it has no such element."""
    for part in key:
        if message is None:
            return None
        message = message.get(part) if isinstance(part, str) else choose(message, 0 if part is None else part)
    return message


def matches(element: Any, pick: Match) -> bool:
    """Whether a decoded element is the one meant."""
    for name in pick.field.split("."):
        if not isinstance(element, dict) or name not in element:
            return False
        element = element[name]
    return str(element) == pick.text


def _named_by(place: _Place) -> Key | None:
    """The array of text that names the columns of an array of numbers: beside it, or in a message around it."""
    for depth, (key, struct) in enumerate(reversed(place.structs)):
        if None in key:
            continue
        texts = [n for n, kind in struct.fields if isinstance(kind, Array) and kind.element == Text()]
        known = [name for name in NAMES if name in texts]
        if known or (depth == 0 and len(texts) == 1):
            return (*key, (known or texts)[0])
    return None


def _leaves(target: Type, key: Key, name: str, nested: bool = False) -> Iterator[Leaf]:
    if isinstance(target, Number):
        yield Leaf(key, target.dtype, 1, name)
    elif isinstance(target, Array) and isinstance(target.element, Number):
        payload = target.length is None and target.element.dtype == np.uint8
        bad = f"{name} of type uint8[] beside numbers" if payload and nested else ""
        yield Leaf(key, None if payload else target.element.dtype, target.length, name, bad)
    elif isinstance(target, Array) and isinstance(target.element, Struct):
        if target.length is None or target.length > _MAX_SPREAD:
            yield Leaf(key, None, None, name, f"{name} of type {describe(target)} beside numbers")
        else:
            for i in range(target.length):
                yield from _leaves(target.element, (*key, i), f"{name}.{i}", True)
    elif isinstance(target, Struct):
        for field_name, kind in target.fields:
            if not (isinstance(kind, Struct) and kind.name in (HEADER, *STAMPS)):
                yield from _leaves(kind, (*key, field_name), f"{name}.{field_name}".lstrip("."), True)
    elif isinstance(target, Text) and not nested:
        yield Leaf(key, None, None, name)
    else:
        yield Leaf(key, None, None, name, f"{name or 'an array'} of type {describe(target)}")


def describe(target: Type) -> str:
    """A type as definitions write it."""
    if isinstance(target, Number):
        return "bool" if target.dtype == bool else target.dtype.name
    if isinstance(target, Array):
        return f"{describe(target.element)}[{'' if target.length is None else target.length}]"
    if isinstance(target, Text):
        return "string"
    return target.name


def dotted(key: Key) -> str:
    """A key as one would write it in a source: ``.a[0].b``."""
    return "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in key if part is not None)


def list_fields(target: Type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Paths below ``target`` that can be read, with their element type and shape, as ``inspect`` shows them."""
    if not isinstance(target, Struct):
        return
    for name, kind in target.fields:
        path = f"{prefix}{name}"
        if isinstance(kind, Array) and isinstance(kind.element, Struct):
            path, kind = f"{path}[0]", kind.element
        if not isinstance(kind, Struct):
            yield path, describe(kind)
            continue
        flat = all(isinstance(member, Number) for _, member in kind.fields)
        if flat or kind.name not in (HEADER, *STAMPS):
            try:
                columns = resolve(kind, Path(), "")
            except InputError:  # it holds strings: only its fields can be read
                flat = False
            else:
                width = "" if columns.width is None else columns.width
                yield path, f"{describe(Number(columns.dtype or np.dtype('u1')))}[{width}]"
                mixed = len({str(member.dtype) for _, member in kind.fields if isinstance(member, Number)}) > 1
                flat = flat and (kind.name in STAMPS or not mixed)  # side by side they are of no type of their own
        if not flat:
            yield from list_fields(kind, f"{path}.")
