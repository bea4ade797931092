"""A program as the compiled decoder takes it: a list of int64, and the arrays that it fills.

kernels/decode/program.h has the words of the list. Whatever a program may hold that is not worth their while (an
element picked of each of all elements, say) makes none, and the walk in numpy leads over those messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robocache.formats.base import Match
from robocache.formats.messages import native
from robocache.formats.messages.batch import Messages
from robocache.formats.messages.blocks import Decoded, Ragged, Spans
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Key
from robocache.formats.messages.program import NumberSequence, Repeat, Run, Step, String, Whole, groups
from robocache.formats.messages.walk import MAX_VARYING

_RUN, _STRING, _SEQUENCE, _WHOLE, _REPEAT = range(1, 6)
_POSITION, _EVERY, _MATCH = range(3)
_NONE = -1
_ROOM = 1 << 26  # bytes that columns may take in any case: a first message may claim more than all others hold


class _Unlike(Exception):
    """This is not for the compiled decoder."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """An array that a step fills.

    takes:   keys, and which numbers of a row each is
    width:   numbers in a row; None: what ``measure`` gives
    axes:    measures of the axes between the message and the row
    """

    kind: Literal["numbers", "spans", "ragged", "having"]
    takes: tuple[tuple[Key, int, int], ...]
    dtype: np.dtype = np.dtype(np.int64)  # noqa: RUF009
    width: int | None = None
    measure: int = _NONE
    axes: tuple[int, ...] = ()


class Lowered:
    """A program ready to run."""

    def __init__(self, program: Sequence[Step], packing: Packing):
        writer = _Writer()
        code = np.array(writer.steps(program, (), picked=False), np.int64)
        self._slots, self._measures = tuple(writer.slots), writer.measures
        texts = bytes(writer.texts)
        self._program = (code, texts, MAX_VARYING, packing.encapsulation, packing.aligned, packing.nul)

    def decode(self, messages: Messages) -> Decoded | None:
        """What it takes from every message (at least one); None where one is not as it should be."""
        place = (messages.buffer, messages.start, messages.size)
        counts = native.library.measure(*place, self._program, self._measures) if self._measures else []
        if counts is None:
            return None
        arrays = self._arrays(len(messages.start), counts, int(messages.size.sum()))
        done = None if arrays is None else native.library.run(*place, self._program, counts, arrays)
        if arrays is None or done is None:
            return None
        order, differs = done
        found = Decoded({}, {}, "<" if order else ">")
        for slot, array in zip(self._slots, arrays, strict=True):
            for key, begin, end in slot.takes:
                if slot.kind == "having":
                    found.having[key] = array
                elif slot.kind != "numbers":
                    spans = (
                        Spans(array[0], array[1]) if slot.kind == "spans" else Ragged(array[0], array[1], slot.dtype)
                    )
                    found.blocks.setdefault(key, spans)
                elif slot.measure == _NONE or not differs[slot.measure]:
                    found.blocks[key] = array if slot.measure != _NONE else array[..., begin:end]
        return found

    def _arrays(self, n: int, counts: Sequence[int], nbytes: int) -> list[np.ndarray] | None:
        """One for each slot; None where they would be far larger than the messages, of ``nbytes`` together."""
        arrays, room = [], 2 * nbytes + _ROOM
        for slot in self._slots:
            if slot.kind == "having":
                arrays.append(np.empty(n, bool))
            elif slot.kind != "numbers":
                arrays.append(np.empty((2, n), np.int64))
            else:
                width = counts[slot.measure] if slot.width is None else slot.width
                shape = (n, *(counts[axis] for axis in slot.axes), width)
                total = slot.dtype.itemsize
                for length in shape:
                    total *= length
                room -= total
                if room < 0:
                    return None
                arrays.append(np.empty(shape, slot.dtype))
        return arrays


def lower(program: Sequence[Step], packing: Packing) -> Lowered | None:
    """The program for the compiled decoder; None where it is missing or has no such steps."""
    if native.library is None:
        return None
    try:
        return Lowered(program, packing)
    except (_Unlike, OverflowError):
        return None


def _held(dtype: np.dtype) -> np.dtype:
    """What numbers are held as: any byte but 0 is true, which an array of bool would not bear."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


class _Writer:
    def __init__(self) -> None:
        self.slots: list[_Slot] = []
        self.texts = bytearray()
        self.measures = 0
        self._places: dict[Key, tuple[int, int, np.dtype]] = {}

    def _slot(self, slot: _Slot) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1

    def _measure(self) -> int:
        self.measures += 1
        return self.measures - 1

    def _spans(self, key: Key | None, axes: tuple[int, ...]) -> int:
        if key is None:
            return _NONE
        if axes:
            raise _Unlike
        self._places[key] = (len(self.slots), 0, np.dtype("V"))
        return self._slot(_Slot("spans", ((key, 0, 0),)))

    def steps(self, steps: Sequence[Step], axes: tuple[int, ...], *, picked: bool) -> list[int]:
        """axes: measures of the arrays of which every element is taken; picked: within an element that is picked."""
        code: list[int] = []
        for step in steps:
            if isinstance(step, Run):
                code += self._run(step, axes)
            elif isinstance(step, String):
                code += [_STRING, self._spans(step.key, axes)]
            elif isinstance(step, NumberSequence):
                code += self._sequence(step, axes, picked)
            elif isinstance(step, Whole):
                slot = self._spans(step.key, axes)
                inside = self.steps(step.steps, axes, picked=picked)
                code += [_WHOLE, slot, len(inside), *inside]
            else:
                code += self._repeat(step, axes, picked)
        return code

    def _run(self, step: Run, axes: tuple[int, ...]) -> list[int]:
        code: list[int] = []
        dtype = _held(step.dtype)
        together = groups(step)
        for first, stop, takes in together:
            for key, begin, _ in takes:
                self._places[key] = (len(self.slots), (begin - first) * dtype.itemsize, dtype)
            cut = tuple((key, begin - first, end - first) for key, begin, end in takes)
            code += [first, stop, self._slot(_Slot("numbers", cut, dtype, stop - first, axes=axes))]
        return [_RUN, dtype.itemsize, step.count, len(together), *code]

    def _sequence(self, step: NumberSequence, axes: tuple[int, ...], picked: bool) -> list[int]:
        spans = columns = measure = _NONE
        if step.key is not None and step.dtype == np.uint8:
            spans = self._spans(step.key, axes)
        elif step.key is not None:
            take = ((step.key, 0, 0),)
            if not picked:
                measure = self._measure()
                columns = self._slot(_Slot("numbers", take, _held(step.dtype), None, measure, axes))
            if not axes:
                spans = self._slot(_Slot("ragged", take, step.dtype))
        return [_SEQUENCE, step.dtype.itemsize, step.width, spans, columns, measure]

    def _repeat(self, step: Repeat, axes: tuple[int, ...], picked: bool) -> list[int]:
        body = self.steps(step.body, (), picked=False)
        measure = self._measure() if None in step.picks else _NONE
        picks: list[int] = []
        for pick, steps in step.picks.items():
            if pick is None:
                if picked:
                    raise _Unlike
                inside = self.steps(steps, (*axes, measure), picked=False)
                picks += [_EVERY, 0, _NONE, 0, 0, _NONE, 0, 0, 0, 0, len(inside), *inside]
                continue
            if axes:
                raise _Unlike
            having = self._slot(_Slot("having", (((*step.key, pick), 0, 0),)))
            first = len(self.slots)
            inside = self.steps(steps, (), picked=True)
            kind, position = (_MATCH, 0) if isinstance(pick, Match) else (_POSITION, pick)
            match = self._match((*step.key, pick), pick) if isinstance(pick, Match) else [_NONE, 0, 0, 0, 0]
            picks += [kind, position, having, first, len(self.slots), *match, len(inside), *inside]
        count, stride = (_NONE if number is None else number for number in (step.count, step.stride))
        head = [count, step.least, stride, step.size, step.align, measure, len(body), len(step.picks)]
        return [_REPEAT, *head, *body, *picks]

    def _match(self, key: Key, pick: Match) -> list[int]:
        """Slot, offset, bytes of the number (0: a text), and what is to be there: the number, or where the text is."""
        slot, offset, dtype = self._places[(*key, *pick.field.split("."))]
        if dtype.kind == "V":
            text = pick.text.encode()
            self.texts += text
            return [slot, 0, 0, len(self.texts) - len(text), len(text)]
        number = int(pick.text)
        if dtype.kind not in "iu" or not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max:
            raise _Unlike
        return [slot, offset, dtype.itemsize, number - (1 << 64) if number >> 63 > 0 else number, 0]
