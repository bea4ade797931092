"""A program as the compiled decoder takes it: a list of int64, and the arrays that it fills.

kernels/decode/program.h has the words of the list. Whatever a program may hold that is not worth their while (an
element picked of each of all elements, say) makes none, and the walk in numpy leads over those messages.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from robocache import scratch
from robocache.formats.base import Match
from robocache.formats.messages import native
from robocache.formats.messages.batch import Messages, Offloaded
from robocache.formats.messages.blocks import Decoded, Plan, Ragged, Spans, Targets
from robocache.formats.messages.offload import HEAD
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Key
from robocache.formats.messages.program import NumberSequence, Repeat, Run, Step, String, Whole, groups
from robocache.formats.messages.walk import MAX_VARYING

_RUN, _STRING, _SEQUENCE, _WHOLE, _REPEAT = range(1, 6)
_POSITION, _EVERY, _MATCH = range(3)
_NONE = -1
_SIGNED, _ADD, _SWAPPED = 1, 2, 4
_ROOM = 1 << 26  # bytes that columns may take in any case: a first message may claim more than all others hold


class _Unlike(Exception):
    """This is not for the compiled decoder."""


@dataclass(slots=True)
class _Slot:
    """An array that steps fill.

    takes:   keys, and which numbers of a row each is
    width:   numbers in a row; None: what ``measure`` gives
    axes:    measures of the axes between the message and the row
    target:  the table or time that it is
    """

    kind: Literal["numbers", "times", "spans", "ragged", "codes", "having"]
    takes: list[tuple[Key, int, int]]
    dtype: np.dtype = np.dtype(np.int64)  # noqa: RUF009
    width: int | None = None
    measure: int = _NONE
    axes: tuple[int, ...] = ()
    target: tuple[Key, ...] = ()


class Lowered:
    """A program ready to run."""

    def __init__(self, program: Sequence[Step], packing: Packing, plan: Plan):
        writer = _Writer(program, plan)
        code = np.array(writer.steps(program, (), picked=False), np.int64)
        self._slots, self._measures = tuple(writer.slots), writer.measures
        texts = bytes(writer.texts)
        self._program = (code, texts, MAX_VARYING, packing.encapsulation, packing.aligned, packing.nul)

    def decode(self, messages: Messages, targets: Targets) -> Decoded | None:
        """What it takes from every message (at least one); None where one is not as it should be, or they lie on a
        device and are not all laid out alike.
        """
        place, counts = self._measured(messages if messages.offloaded is None else messages.first())
        if counts is None:
            return None
        arrays = self._arrays(len(messages.start), counts, int(messages.size.sum()), targets)
        if arrays is None:
            return None
        if messages.offloaded is not None:
            return self._offloaded(messages.offloaded, place, counts, arrays)
        done = native.library.run(*place, self._program, counts, arrays)
        return None if done is None else self._found(arrays, *done)

    def _measured(self, messages: Messages) -> tuple[tuple[np.ndarray, ...], list[int] | None]:
        """Where messages lie, as the compiled decoder takes it, and how many elements the first has of all measured;
        None where it ends early.
        """
        place = (messages.buffer, native.plain(messages.start), native.plain(messages.size))
        return place, native.library.measure(*place, self._program, self._measures) if self._measures else []

    def decoder(self, channel: int, first: Messages, room: int, targets: Targets) -> ChunkDecoder | None:
        """What takes the messages of a channel chunk by chunk, up to ``room`` of them, laid out as ``first`` is; None
        where what is wanted of them lies in a chunk, or differs from message to message.
        """
        held = {key for slot in self._slots if slot.kind in ("numbers", "codes") for key, *_ in slot.takes}
        there = {key for slot in self._slots if slot.kind in ("spans", "ragged") for key, *_ in slot.takes}
        if not held >= there or any(slot.kind == "having" for slot in self._slots):
            return None
        _, counts = self._measured(first)
        arrays = None if counts is None else self._arrays(room, counts, room * int(first.size[0]), targets)
        if arrays is None:
            return None
        kept = [None if s.kind in ("spans", "ragged") else a for s, a in zip(self._slots, arrays, strict=True)]
        times = scratch.room((2, room), np.int64)
        return ChunkDecoder(self, native.library.open_channel(channel, self._program, counts, kept, times), kept, times)

    def of_chunks(
        self, arrays: Sequence[np.ndarray | None], count: int, order: int, texts: list[list[bytes]]
    ) -> tuple[np.ndarray, Decoded]:
        """What arrays hold of the first ``count`` messages, and a buffer in which their texts lie."""
        filled, firsts, buffer = [], [], bytearray()
        spans: dict[Key, np.ndarray] = {}
        for slot, array, some in zip(self._slots, arrays, texts, strict=True):
            if slot.kind == "codes":
                assert array is not None
                used = some[: int(array[:count].max()) + 1]
                sizes = np.fromiter(map(len, used), np.int64, len(used))
                spans[slot.takes[0][0]] = np.stack([len(buffer) + np.cumsum(sizes) - sizes, sizes])
                buffer += b"".join(used)
                firsts.append(list(range(len(used))))
            else:
                firsts.append([])
        for slot, array in zip(self._slots, arrays, strict=True):
            filled.append(spans.get(slot.takes[0][0], np.zeros((2, 0), np.int64)) if array is None else array[:count])
        return np.frombuffer(buffer, np.uint8), self._found(filled, order, [False] * self._measures, firsts)

    def _offloaded(
        self, where: Offloaded, place: tuple[np.ndarray, ...], counts: Sequence[int], arrays: list[np.ndarray]
    ) -> Decoded | None:
        """Fill the arrays of messages on a device, by a look at the first of them, which is at ``place``."""
        rows = self._arrays(1, counts, int(place[2].sum()), Targets({}, {}))
        laid = None if rows is None else native.library.lay_out(*place, self._program, counts, rows)
        known = {key for slot in self._slots if slot.kind == "numbers" for key, *_ in slot.takes}
        kept = (key for slot in self._slots if slot.kind == "ragged" for key, *_ in slot.takes)
        if rows is None or laid is None or not known.issuperset(kept):  # what stays on the device is of no use
            return None
        order, nbytes, same, copies, times, spans = laid
        swapped = (order == 1) != (sys.byteorder == "little")
        for offset, size, slot in zip(*[iter(spans)] * 3, strict=True):
            if self._slots[slot].kind == "spans":
                same += [offset, size]
            arrays[slot][0], arrays[slot][1] = offset, size
        if sum(same[1::2]) > HEAD:
            return None
        ends = np.cumsum([array.nbytes + 15 & ~15 for array in arrays])
        bases = [int(end) - (array.nbytes + 15 & ~15) for end, array in zip(ends, arrays, strict=True)]
        words = [nbytes, len(same) // 2, len(copies) // 5, len(times) // 5, *same]
        for source, size, item, slot, offset in zip(*[iter(copies)] * 5, strict=True):
            words += [source, size, item if swapped else 1, bases[slot] + offset, rows[slot].nbytes]
        for source, item, factor, flags, slot in zip(*[iter(times)] * 5, strict=True):
            words += [source, item, factor, flags | (_SWAPPED if swapped else 0), bases[slot]]
        out = where.unpacked.decode(where.first, where.count, np.array(words, np.int64), int(ends[-1]) if arrays else 0)
        if out is None:
            return None
        for slot, array, base in zip(self._slots, arrays, bases, strict=True):
            if slot.kind in ("numbers", "times"):
                array.reshape(-1).view(np.uint8)[:] = out[base : base + array.nbytes]
            elif slot.kind == "codes":
                array[:] = 0
        return self._found(arrays, order, [False] * self._measures, [[0]] * len(arrays))

    def _found(
        self, arrays: list[np.ndarray], order: int, differs: Sequence[int], firsts: Sequence[list[int]]
    ) -> Decoded:
        found = Decoded({}, {}, "<" if order else ">")
        for slot, array, first in zip(self._slots, arrays, firsts, strict=True):
            if slot.kind == "times":
                found.times[slot.target] = array
            elif slot.measure == _NONE and slot.target:
                found.tables[slot.target] = array
            for key, begin, end in slot.takes:
                if slot.kind == "having":
                    found.having[key] = array
                elif slot.kind == "spans":
                    found.blocks[key] = Spans(array[0], array[1])
                elif slot.kind == "codes":
                    begun, size, *_ = found.blocks[key]
                    found.blocks[key] = Spans(begun, size, first, array)
                elif slot.kind == "ragged":
                    found.blocks.setdefault(key, Ragged(array[0], array[1], slot.dtype))
                elif slot.measure == _NONE:
                    found.blocks[key] = array[..., begin:end]
                elif not differs[slot.measure]:
                    found.blocks[key] = array
        return found

    def _arrays(self, n: int, counts: Sequence[int], nbytes: int, targets: Targets) -> list[np.ndarray] | None:
        """One for each slot; None where they would be far larger than the messages, of ``nbytes`` together."""
        arrays, room = [], 2 * nbytes + _ROOM
        for slot in self._slots:
            shape: tuple[int, ...]
            dtype = slot.dtype if slot.kind != "ragged" else np.dtype(np.int64)
            if slot.kind == "numbers":
                width = counts[slot.measure] if slot.width is None else slot.width
                shape = (n, *(counts[axis] for axis in slot.axes), width)
                room -= slot.dtype.itemsize * math.prod(shape)
                if room < 0:
                    return None
            else:
                shape = (2, n) if slot.kind in ("spans", "ragged") else (n,)
            known = targets.times if slot.kind == "times" else targets.tables
            target = known.get(slot.target) if slot.target else None
            if target is None or target.shape != shape or target.dtype != dtype:
                target = scratch.room(shape, dtype)
            arrays.append(target)
        return arrays


class ChunkDecoder:
    """Takes the messages of a channel of an MCAP file, a chunk at a time; made by :meth:`Lowered.decoder`."""

    def __init__(self, lowered: Lowered, channel: Any, arrays: Sequence[np.ndarray | None], times: np.ndarray):
        self._lowered, self._channel, self._arrays, self._times = lowered, channel, arrays, times

    @staticmethod
    def take(chunk: np.ndarray, decoders: Sequence[ChunkDecoder], entries: Sequence[np.ndarray]) -> list[bool]:
        """Have each take its channel's messages, whose records begin at its ``entries`` of an unpacked chunk; which
        have. One that has not has taken nothing of the chunk, and takes no more.
        """
        return native.library.take_chunk(chunk, [decoder._channel for decoder in decoders], entries)

    def taken(self) -> tuple[Messages, Decoded] | None:
        """All messages that were taken, of which only their times and texts are there, and what they hold; None where
        there is none.
        """
        count, order, texts = native.library.taken(self._channel)
        if not count:
            return None
        buffer, found = self._lowered.of_chunks(self._arrays, count, order, texts)
        nowhere = np.zeros(count, np.int64)
        return Messages(buffer, nowhere, nowhere, *self._times[:, :count]), found


def lower(program: Sequence[Step], packing: Packing, plan: Plan) -> Lowered | None:
    """The program for the compiled decoder; None where it is missing or has no such steps."""
    if native.library is None:
        return None
    try:
        return Lowered(program, packing, plan)
    except (_Unlike, OverflowError):
        return None


def _leaves(steps: Sequence[Step]) -> Iterator[tuple[Key, np.dtype, int | None]]:
    """Numbers that a program takes: their keys, types and widths (None: a sequence)."""
    for step in steps:
        if isinstance(step, Run):
            yield from ((key, step.dtype, end - begin) for key, begin, end in step.takes)
        elif isinstance(step, NumberSequence):
            if step.key is not None:
                yield step.key, step.dtype, None
        elif isinstance(step, Whole):
            yield from _leaves(step.steps)
        elif isinstance(step, Repeat):
            for inside in step.picks.values():
                yield from _leaves(inside)


def _held(dtype: np.dtype) -> np.dtype:
    """What numbers are held as: any byte but 0 is true, which an array of bool would not bear."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


class _Writer:
    def __init__(self, program: Sequence[Step], plan: Plan) -> None:
        self.slots: list[_Slot] = []
        self.texts = bytearray()
        self.measures = 0
        self._places: dict[Key, tuple[int, int, np.dtype]] = {}
        self._plan = plan
        self._wanted = None if plan.plain is None else set(plan.plain)  # as blocks
        self._targets: dict[tuple[str, tuple[Key, ...]], int] = {}  # slots of tables and times, once there is one
        self._tables: dict[Key, tuple[tuple[Key, ...], int, int]] = {}  # the table of a leaf, its place, the width
        self._times: dict[Key, list[tuple[tuple[Key, ...], int]]] = {}  # times that it is a part of, factors
        self._sequences: dict[Key, tuple[Key, ...]] = {}
        leaves = {key: (dtype, width) for key, dtype, width in _leaves(program)}
        for keys in plan.tables:
            self._table(keys, [leaves[key] for key in keys])
        for keys, factors in plan.times:
            if all(leaves[key][0].kind in "iu" and leaves[key][1] == 1 for key in keys):
                for key, factor in zip(keys, factors, strict=True):
                    self._times.setdefault(key, []).append((keys, factor))

    def _table(self, keys: tuple[Key, ...], leaves: Sequence[tuple[np.dtype, int | None]]) -> None:
        """Leaves of one type that are in no table yet; of others no table is made."""
        dtypes, widths = {dtype for dtype, _ in leaves}, [width for _, width in leaves]
        if len(leaves) == 1 and widths[0] is None:
            self._sequences[keys[0]] = keys
        elif len(dtypes) == 1 and dtypes != {np.dtype(bool)} and not any(key in self._tables for key in keys):
            known = [width for width in widths if width is not None]
            if len(known) == len(widths):
                for place, key in enumerate(keys):
                    self._tables[key] = (keys, sum(known[:place]), sum(known))
                return
        if self._wanted is not None:
            self._wanted.update(keys)

    def _plain(self, key: Key) -> bool:
        """Whether it is wanted as a block."""
        if self._wanted is None or key in self._wanted:
            return True
        return key not in self._tables and key not in self._times

    def _slot(self, slot: _Slot) -> int:
        self.slots.append(slot)
        if slot.target:
            self._targets[slot.kind, slot.target] = len(self.slots) - 1
        return len(self.slots) - 1

    def _measure(self) -> int:
        self.measures += 1
        return self.measures - 1

    def _spans(self, key: Key | None, axes: tuple[int, ...], picked: bool) -> tuple[int, int]:
        """The slots of a text: where it is, and which it is."""
        if key is None:
            return _NONE, _NONE
        if axes:
            raise _Unlike
        self._places[key] = (len(self.slots), 0, np.dtype("V"))
        spans = self._slot(_Slot("spans", [(key, 0, 0)]))
        told = key in self._plan.told and not picked
        return spans, self._slot(_Slot("codes", [(key, 0, 0)])) if told else _NONE

    def steps(self, steps: Sequence[Step], axes: tuple[int, ...], *, picked: bool) -> list[int]:
        """axes: measures of the arrays of which every element is taken; picked: within an element that is picked."""
        code: list[int] = []
        for step in steps:
            if isinstance(step, Run):
                code += self._run(step, axes)
            elif isinstance(step, String):
                code += [_STRING, *self._spans(step.key, axes, picked)]
            elif isinstance(step, NumberSequence):
                code += self._sequence(step, axes, picked)
            elif isinstance(step, Whole):
                slots = self._spans(step.key, axes, picked)
                inside = self.steps(step.steps, axes, picked=picked)
                code += [_WHOLE, *slots, len(inside), *inside]
            else:
                code += self._repeat(step, axes, picked)
        return code

    def _run(self, step: Run, axes: tuple[int, ...]) -> list[int]:
        code: list[list[int]] = []
        dtype = _held(step.dtype)
        for key, begin, end in step.takes:
            if key in self._tables:
                slot, place = self._table_slot(key, dtype, end - begin, axes)
                last = code[-1] if code else [_NONE] * 6
                if last[1:3] == [begin, slot] and last[3] + (last[1] - last[0]) * dtype.itemsize == place:
                    last[1] = end  # neighbours in the message as in the table
                else:
                    code.append([begin, end, slot, place, 0, 0])
        for key, begin, _ in step.takes:
            for target, factor in self._times.get(key, ()):
                added = ("times", target) in self._targets  # to the part that came first in the message
                if not added:
                    self._slot(_Slot("times", [], target=target))
                flags = (dtype.kind == "i") * _SIGNED + added * _ADD
                code.append([begin, begin + 1, self._targets["times", target], 0, factor, flags])
        plain = [take for take in step.takes if take[0] not in self._tables and self._plain(take[0])]
        for first, stop, takes in groups(plain, dtype.itemsize):
            for key, begin, _ in takes:
                self._places[key] = (len(self.slots), (begin - first) * dtype.itemsize, dtype)
            cut = [(key, begin - first, end - first) for key, begin, end in takes]
            code.append([first, stop, self._slot(_Slot("numbers", cut, dtype, stop - first, axes=axes)), 0, 0, 0])
        return [_RUN, dtype.itemsize, step.count, len(code), *(word for group in code for word in group)]

    def _table_slot(self, key: Key, dtype: np.dtype, width: int, axes: tuple[int, ...]) -> tuple[int, int]:
        """The slot of a leaf's table, and the byte of a row that it begins at."""
        keys, place, total = self._tables[key]
        if ("numbers", keys) not in self._targets:
            self._slot(_Slot("numbers", [], dtype, total, axes=axes, target=keys))
        slot = self._targets["numbers", keys]
        if self._wanted is None or key in self._wanted:
            self.slots[slot].takes.append((key, place, place + width))
        self._places[key] = (slot, place * dtype.itemsize, dtype)
        return slot, place * dtype.itemsize

    def _sequence(self, step: NumberSequence, axes: tuple[int, ...], picked: bool) -> list[int]:
        spans = columns = measure = _NONE
        if step.key is not None and step.dtype == np.uint8:
            spans, _ = self._spans(step.key, axes, picked=True)
        elif step.key is not None:
            take = (step.key, 0, 0)
            if not picked:
                measure = self._measure()
                target = self._sequences.get(step.key, ())
                columns = self._slot(_Slot("numbers", [take], _held(step.dtype), None, measure, axes, target))
            if not axes:
                spans = self._slot(_Slot("ragged", [take], step.dtype))
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
            having = self._slot(_Slot("having", [((*step.key, pick), 0, 0)], np.dtype(bool)))
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
        place = self._places.get((*key, *pick.field.split(".")))
        if place is None:
            raise _Unlike
        slot, offset, dtype = place
        if dtype.kind == "V":
            text = pick.text.encode()
            self.texts += text
            return [slot, 0, 0, len(self.texts) - len(text), len(text)]
        number = int(pick.text)
        if dtype.kind not in "iu" or not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max:
            raise _Unlike
        return [slot, offset, dtype.itemsize, number - (1 << 64) if number >> 63 > 0 else number, 0]
