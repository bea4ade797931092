"""From keys to a program: which bytes of a packed message hold the leaves asked for.

A program is a short list of steps in message order. Neighbouring numbers of one type are one run whatever structs
they belong to, because packing aligns by type and nothing else, so a ``sensor_msgs/Imu`` is four steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from robocache.errors import InputError
from robocache.formats.base import Match
from robocache.formats.messages.definitions import Number, Struct, Text, Type
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Key

#: What is asked for below a type; ``_HERE`` among it where a key ends.
Wanted: TypeAlias = "dict[str | int | Match | None, Wanted]"

#: Key of a leaf wanted, and its numbers ``[start, stop)`` of a run.
Take: TypeAlias = "tuple[Key, int, int]"

_HERE = ""
_MAX_RUN = 1 << 28  # numbers; keeps every offset far from overflow
_NEAR = 128  # bytes between two wanted spans of a run that are cheaper to copy along than to gather apart


@dataclass(slots=True)
class Run:
    """``count`` numbers of one type, and those of them that are wanted."""

    dtype: np.dtype
    count: int
    takes: list[Take] = field(default_factory=list)


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
class Whole:
    """An array wanted as it is packed, length and all: ``steps`` lead over it."""

    key: Key
    steps: list[Step]


@dataclass(slots=True)
class Repeat:
    """``count`` elements (None: a length comes first), each laid out as ``body``.

    picks:  steps for a wanted element: by its position, by a match (the field's key is among them), or by None for all
    stride: bytes from element to element where that is the same throughout, and ``size`` of the last one
    least:  bytes that an element takes at least
    """

    key: Key
    count: int | None
    body: list[Step]
    picks: dict[int | Match | None, list[Step]]
    least: int
    stride: int | None
    size: int
    align: int


Step: TypeAlias = "Run | NumberSequence | String | Whole | Repeat"


def compile_program(root: Struct, keys: Sequence[Key], packing: Packing, where: str) -> list[Step]:
    """Steps that lead over every key, and no further than the last."""
    wanted: Wanted = {}
    for key in keys:
        node = wanted
        for part in key:
            node = node.setdefault(part, {})
            if isinstance(part, Match):  # the field that is to match is read too
                below = node
                for name in part.field.split("."):
                    below = below.setdefault(name, {})
        node[_HERE] = {}
    steps: list[Step] = []
    _Compiler(packing, where).emit(root, wanted if keys else None, (), steps)
    while steps and not _takes(steps[-1]):
        steps.pop()
    if steps and isinstance(steps[-1], Run):
        steps[-1].count = max(stop for _, _, stop in steps[-1].takes)
    return steps


def groups(takes: Sequence[Take], item: int) -> list[tuple[int, int, list[Take]]]:
    """Takes of a run, neighbours together: numbers ``[first, stop)``, of ``item`` bytes, that hold some, and these."""
    found: list[tuple[int, int, list[Take]]] = []
    for take in takes:
        _, begin, end = take
        if found and begin - found[-1][1] <= _NEAR // item:
            first, stop, together = found[-1]
            found[-1] = (first, max(stop, end), [*together, take])
        else:
            found.append((begin, end, [take]))
    return found


def _takes(step: Step) -> bool:
    if isinstance(step, Run):
        return bool(step.takes)
    return bool(step.picks) if isinstance(step, Repeat) else step.key is not None


class _Compiler:
    def __init__(self, packing: Packing, where: str):
        self._packing, self._where = packing, where

    def emit(self, target: Type, wanted: Wanted | None, key: Key, steps: list[Step]) -> None:
        """Append the steps of ``target``; ``wanted`` None: pass over it."""
        if isinstance(target, Struct):
            for name, kind in target.fields:
                self.emit(kind, None if wanted is None else wanted.get(name), (*key, name), steps)
        elif isinstance(target, Number):
            self._run(target.dtype, 1, wanted is not None, key, steps)
        elif isinstance(target, Text):
            steps.append(String(key if wanted is not None else None))
        elif isinstance(target.element, Number):
            if target.length is None:
                steps.append(NumberSequence(target.element.dtype, 1, key if wanted is not None else None))
            else:
                self._run(target.element.dtype, target.length, wanted is not None, key, steps)
        elif wanted is not None and _HERE in wanted:
            inside: list[Step] = []
            below = {part: node for part, node in wanted.items() if part != _HERE}
            self._repeat(target.element, target.length, below or None, key, inside)
            steps.append(Whole(key, inside))
        else:
            self._repeat(target.element, target.length, wanted, key, steps)

    def _repeat(self, element: Type, length: int | None, wanted: Wanted | None, key: Key, steps: list[Step]) -> None:
        body: list[Step] = []
        self.emit(element, None, (), body)
        only = body[0] if len(body) == 1 else None
        if isinstance(only, Run) and wanted is None:  # plain numbers after all
            if length is None:
                steps.append(NumberSequence(only.dtype, only.count, None))
            else:
                self._run(only.dtype, only.count * length, False, key, steps)
            return
        picks: dict[int | Match | None, list[Step]] = {}
        for part, below in (wanted or {}).items():
            assert not isinstance(part, str)
            picks[part] = []
            self.emit(element, below, (*key, part), picks[part])
        steps.append(Repeat(key, length, body, picks, *self._measure(body)))

    def _run(self, dtype: np.dtype, count: int, take: bool, key: Key, steps: list[Step]) -> None:
        last = steps[-1] if steps else None
        if not isinstance(last, Run) or last.dtype != dtype:
            last = Run(dtype, 0)
            steps.append(last)
        if take:
            last.takes.append((key, last.count, last.count + count))
        last.count += count
        if last.count > _MAX_RUN:
            reason = f"its type has fixed arrays of more than {_MAX_RUN} numbers; the schema is damaged"
            raise InputError(f"{self._where}: {reason}")

    def _measure(self, body: list[Step]) -> tuple[int, int | None, int, int]:
        """(least, stride, size, align) of an array's elements.

        Where the first member is aligned as strictly as any, every element begins at a multiple of that, so all are
        laid out alike; else, or with members of variable length, the stride is None and elements are stepped one by
        one.
        """
        least = size = 0
        for step in body:
            if isinstance(step, Run):
                item = step.dtype.itemsize
                least += step.count * item
                size += (-size % item if self._packing.aligned else 0) + step.count * item
            else:
                least += 4 if not isinstance(step, Repeat) or step.count is None else step.count * step.least
        runs = [step.dtype.itemsize for step in body if isinstance(step, Run)]
        if len(runs) < len(body) or not size:
            return max(least, 1), None, 0, 1
        if not self._packing.aligned:
            return least, size, size, 1
        if runs[0] != max(runs):
            return max(least, 1), None, 0, 1
        return least, size + -size % runs[0], size, runs[0]
