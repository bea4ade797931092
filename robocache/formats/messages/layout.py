"""From source paths to a program: which bytes of a CDR message hold the fields asked for.

A program is a short list of steps in message order. Neighbouring numbers of one type are one run whatever structs
they belong to, because CDR aligns by type and nothing else, so an ``sensor_msgs/Imu`` is four steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from robocache.errors import InputError, MissingError
from robocache.formats.base import Selector, select_columns
from robocache.formats.messages.ros2msg import HEADER, STAMPS, Array, Number, Struct, Text, Type

#: Path of a leaf from the root: field names, element positions, and None for "every element of this array".
Key: TypeAlias = "tuple[str | int | None, ...]"
#: What is asked for below a type: an empty mapping at a leaf.
Wanted: TypeAlias = "dict[str | int | None, Wanted]"

_TOKEN = re.compile(r"\.(\w+)(?:\[(\d{1,9})\])?")
_MAX_SPREAD = 1024  # elements of a struct array that are laid side by side
_MAX_RUN = 1 << 28  # numbers; keeps every offset far from overflow


@dataclass(frozen=True, slots=True)
class Leaf:
    """An array or number, or a payload, of the message. ``width`` is None where only the message tells."""

    key: Key
    dtype: np.dtype | None
    width: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Numbers ``[start, stop)`` of a leaf (stop None: all) that are neighbouring columns of a source."""

    key: Key
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """How one source is put together.

    pieces:   side by side, in order; a payload is one piece
    dtype:    of the result; None for a payload (``text`` tells a string from bytes)
    width:    how many columns, None where only the data tells it
    outer:    leading axes of a row, one for each array of structs that the path spans
    scalar:   a row is one number, without a column axis
    selector: what is left to select once the widths are known
    """

    pieces: tuple[Piece, ...]
    dtype: np.dtype | None
    width: int | None
    outer: int = 0
    scalar: bool = False
    text: bool = False
    selector: Selector | None = None


def resolve(root: Struct, path: str, selector: Selector | None, where: str) -> Columns:
    """Find ``path`` (``.field.field[2].field``, empty: the whole message) below ``root``.

    ``InputError`` says which fields there are where it is not found.
    """
    key, target, selector = _walk(root, path, selector, where)
    outer = key.count(None)
    leaves = list(_leaves(target, key, "", where))
    if not leaves:
        raise InputError(f"{where}: {_describe(target)} holds no numbers")
    if leaves[0].dtype is None:  # a payload is always alone
        if outer or selector is not None:
            raise InputError(f"{where}: is {_describe(target)}, which has no columns; name one whole payload")
        return Columns((Piece(key),), None, None, text=isinstance(target, Text))
    widths = [leaf.width for leaf in leaves]
    width = None if None in widths else sum(w or 0 for w in widths)
    if selector is None or outer or width is None:
        scalar = isinstance(target, Number) and selector is None
        return Columns(tuple(Piece(leaf.key) for leaf in leaves), _dtype(leaves), width, outer, scalar, False, selector)
    # Every width is known: select columns now, so that no other is ever touched.
    columns = [(leaf, i) for leaf in leaves for i in range(leaf.width or 0)]
    names = [leaf.name if leaf.width == 1 else f"{leaf.name}.{i}" for leaf, i in columns]
    chosen = [columns[c] for c in select_columns(np.arange(width)[None], selector, where=where, names=names)[0]]
    pieces: list[Piece] = []
    for leaf, i in chosen:
        if pieces and (pieces[-1].key, pieces[-1].stop) == (leaf.key, i):
            pieces[-1] = Piece(leaf.key, pieces[-1].start, i + 1)
        else:
            pieces.append(Piece(leaf.key, i, i + 1))
    return Columns(tuple(pieces), _dtype([leaf for leaf, _ in chosen]), len(chosen))


def _dtype(leaves: Sequence[Leaf]) -> np.dtype:
    """The type that all share, else float64."""
    dtypes = {leaf.dtype for leaf in leaves}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    return dtype or np.dtype(np.float64)


def _walk(root: Struct, path: str, selector: Selector | None, where: str) -> tuple[Key, Type, Selector | None]:
    if _TOKEN.sub("", path):
        raise InputError(f"{where}: cannot read {path!r}; write .field.field[2].field")
    key: list[str | int | None] = []
    target: Type = root
    for name, position in _TOKEN.findall(path):
        if isinstance(target, Array) and isinstance(target.element, Struct):
            key.append(None)
            target = target.element
        fields = dict(target.fields) if isinstance(target, Struct) else {}
        if name not in fields:
            known = f"its fields are {', '.join(fields)}" if fields else "it has no fields"
            raise MissingError(f"{where}: no field {name!r} in {_describe(target)}; {known}")
        key.append(name)
        target = fields[name]
        if position:
            target = _element(target, int(position), key, where)
    if isinstance(target, Array) and isinstance(target.element, (Struct, Text)) and selector is not None:
        if len(selector) != 1 or not isinstance(selector[0], int) or selector[0] < 0:
            raise InputError(f"{where}: is {_describe(target)}; name one element by its position, as in [0]")
        target, selector = _element(target, selector[0], key, where), None
    if isinstance(target, Array) and isinstance(target.element, Struct):
        key.append(None)
        target = target.element
    return tuple(key), target, selector


def _element(target: Type, position: int, key: list[str | int | None], where: str) -> Type:
    if not isinstance(target, Array) or isinstance(target.element, Number):
        raise InputError(f"{where}: [{position}] of {_describe(target)}; only arrays of structs and strings have them")
    if target.length is not None and position >= target.length:
        raise InputError(f"{where}: [{position}] of {_describe(target)}")
    key.append(position)
    return target.element


def _leaves(target: Type, key: Key, name: str, where: str, nested: bool = False) -> Iterator[Leaf]:
    if isinstance(target, Number):
        yield Leaf(key, target.dtype, 1, name)
    elif isinstance(target, Array) and isinstance(target.element, Number):
        payload = target.length is None and target.element.dtype == np.uint8
        if payload and nested:
            raise InputError(f"{where}: holds {name} of type uint8[] beside numbers; name one of its fields")
        yield Leaf(key, None if payload else target.element.dtype, target.length, name)
    elif isinstance(target, Array) and isinstance(target.element, Struct):
        if target.length is None or target.length > _MAX_SPREAD:
            raise InputError(
                f"{where}: holds {name} of type {_describe(target)} beside numbers; name one of its fields"
            )
        for i in range(target.length):
            yield from _leaves(target.element, (*key, i), f"{name}.{i}", where, True)
    elif isinstance(target, Struct):
        for field_name, kind in target.fields:
            if not (isinstance(kind, Struct) and kind.name in (HEADER, *STAMPS)):
                yield from _leaves(kind, (*key, field_name), f"{name}.{field_name}".lstrip("."), where, True)
    elif isinstance(target, Text) and not nested:
        yield Leaf(key, None, None, name)
    else:
        raise InputError(f"{where}: holds {name or 'an array'} of type {_describe(target)}; name one of the others")


def _describe(target: Type) -> str:
    if isinstance(target, Number):
        return "bool" if target.dtype == bool else target.dtype.name
    if isinstance(target, Array):
        return f"{_describe(target.element)}[{'' if target.length is None else target.length}]"
    if isinstance(target, Text):
        return "wstring" if target.wide else "string"
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
            yield path, _describe(kind)
            continue
        flat = all(isinstance(member, Number) for _, member in kind.fields)
        if flat or kind.name not in (HEADER, *STAMPS):
            try:
                columns = resolve(kind, "", None, "")
            except InputError:  # it holds strings: only its fields can be read
                flat = False
            else:
                width = "" if columns.width is None else columns.width
                yield path, f"{_describe(Number(columns.dtype or np.dtype('u1')))}[{width}]"
        if not flat:
            yield from list_fields(kind, f"{path}.")


@dataclass(slots=True)
class Run:
    """``count`` numbers of one type. ``takes``: key of a leaf wanted, and its numbers ``[start, stop)`` of the run."""

    dtype: np.dtype
    count: int
    takes: list[tuple[Key, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class NumberSequence:
    """A length, then ``width`` numbers an element."""

    dtype: np.dtype
    width: int
    key: Key | None


@dataclass(slots=True)
class String:
    key: Key | None


@dataclass(slots=True)
class Repeat:
    """``count`` elements (None: a length comes first), each laid out as ``body``.

    picks:  steps for a wanted element, by its position, or by None for all of them
    stride: bytes from element to element where that is the same throughout, and ``size`` of the last one
    least:  bytes that an element takes at least
    """

    key: Key
    count: int | None
    body: list[Step]
    picks: dict[int | None, list[Step]]
    least: int
    stride: int | None
    size: int
    align: int


Step: TypeAlias = "Run | NumberSequence | String | Repeat"


def compile_program(root: Struct, keys: Sequence[Key], where: str) -> list[Step]:
    """Steps that lead over every key, and no further than the last."""
    wanted: Wanted = {}
    for key in keys:
        node = wanted
        for part in key:
            node = node.setdefault(part, {})
    steps: list[Step] = []
    _emit(root, wanted if keys else None, (), steps, where)
    while steps and not _takes(steps[-1]):
        steps.pop()
    if steps and isinstance(steps[-1], Run):
        steps[-1].count = max(stop for _, _, stop in steps[-1].takes)
    return steps


def _takes(step: Step) -> bool:
    if isinstance(step, Run):
        return bool(step.takes)
    return bool(step.picks) if isinstance(step, Repeat) else step.key is not None


def _emit(target: Type, wanted: Wanted | None, key: Key, steps: list[Step], where: str) -> None:
    """Append the steps of ``target``; ``wanted`` None: pass over it."""
    if isinstance(target, Struct):
        for name, kind in target.fields:
            _emit(kind, None if wanted is None else wanted.get(name), (*key, name), steps, where)
    elif isinstance(target, Number):
        _emit_run(target.dtype, 1, wanted is not None, key, steps, where)
    elif isinstance(target, Text):
        if target.wide:
            raise InputError(f"{where}: a wstring lies before the field, and its encoding differs between middlewares")
        steps.append(String(key if wanted is not None else None))
    elif isinstance(target.element, Number):
        if target.length is None:
            steps.append(NumberSequence(target.element.dtype, 1, key if wanted is not None else None))
        else:
            _emit_run(target.element.dtype, target.length, wanted is not None, key, steps, where)
    else:
        body: list[Step] = []
        _emit(target.element, None, (), body, where)
        only = body[0] if len(body) == 1 else None
        if isinstance(only, Run) and wanted is None and only.dtype is not None:  # plain numbers after all
            if target.length is None:
                steps.append(NumberSequence(only.dtype, only.count, None))
            else:
                _emit_run(only.dtype, only.count * target.length, False, key, steps, where)
            return
        picks: dict[int | None, list[Step]] = {}
        for part, below in (wanted or {}).items():
            assert not isinstance(part, str)
            picks[part] = []
            _emit(target.element, below, (*key, part), picks[part], where)
        steps.append(Repeat(key, target.length, body, picks, *_measure(body)))


def _emit_run(dtype: np.dtype, count: int, take: bool, key: Key, steps: list[Step], where: str) -> None:
    last = steps[-1] if steps else None
    if not isinstance(last, Run) or last.dtype != dtype:
        last = Run(dtype, 0)
        steps.append(last)
    if take:
        last.takes.append((key, last.count, last.count + count))
    last.count += count
    if last.count > _MAX_RUN:
        raise InputError(f"{where}: its type has fixed arrays of more than {_MAX_RUN} numbers; the schema is damaged")


def _measure(body: list[Step]) -> tuple[int, int | None, int, int]:
    """(least, stride, size, align) of an array's elements.

    Where the first member is aligned as strictly as any, every element begins at a multiple of that, so all are
    laid out alike; else, or with members of variable length, the stride is None and elements are stepped one by one.
    """
    least = size = 0
    for step in body:
        if isinstance(step, Run):
            least += step.count * step.dtype.itemsize
            size += -size % step.dtype.itemsize + step.count * step.dtype.itemsize
        else:
            least += 4 if not isinstance(step, Repeat) or step.count is None else step.count * step.least
    aligns = [step.dtype.itemsize for step in body if isinstance(step, Run)]
    if len(aligns) < len(body) or not size or aligns[0] != max(aligns):
        return max(least, 1), None, 0, 1
    return least, size + -size % aligns[0], size, aligns[0]
