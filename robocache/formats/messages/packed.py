"""Messages of a packed encoding, ROS 2's CDR or ROS 1's, decoded by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.batch import Messages, unpacked
from robocache.formats.messages.blocks import Decoded, Plan, Targets
from robocache.formats.messages.clocks import Clock, find_clock
from robocache.formats.messages.decode import Decoder
from robocache.formats.messages.definitions import Struct
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Columns, Key, list_fields
from robocache.formats.messages.signal import Signal
from robocache.formats.messages.topic import Collected, Request
from robocache.formats.messages.unpack import unpack_message
from robocache.formats.messages.values import Rows
from robocache.types import StreamType


class PackedTopic:
    """Messages of one packed type.

    requests: the sources below the topic; ``uri`` and the source, or the topic, begin error messages
    """

    def __init__(
        self, topic: str, root: Struct, requests: Sequence[Request], packing: Packing, *, reserve: int, uri: str
    ):
        self._root, self._packing, self._where, self._reserve = root, packing, f"{uri}: {topic}", reserve
        self._signals = [
            Signal(root, request, packing, reserve, f"{uri}: {request.source.path}") for request in requests
        ]
        self._whole = find_clock(root, Columns((), None, None, (((), root),)), "header", self._where)
        self._stamps = {clock.keys: Rows(reserve) for clock in self._clocks() if clock.keys}
        self._decoder: Decoder | None = None
        self._count = 0

    def _clocks(self) -> list[Clock]:
        # Without sources the topic is only looked at: its clock is all there is to read.
        return [signal.clock for signal in self._signals] or [self._whole]

    def types(self) -> dict[str, StreamType]:
        return {signal.key: signal.type() for signal in self._signals}

    def add(self, messages: Messages) -> None:
        try:
            self._add(messages)
        except InputError:  # nothing has been added, if it is that they are compressed by themselves
            here = messages.on_host()
            plain = unpacked(here, self._where) if self._packing.encapsulation else here
            if plain is here:
                raise
            self._add(plain)

    def _add(self, messages: Messages) -> None:
        self._settle(messages)
        clocks = {clock.keys: clock for clock in self._clocks() if clock.keys}
        if self._decoder is None:
            self._decoder = self._plan(clocks)
        count = len(messages.start)
        rows = {keys: self._stamp_rows(clock) for keys, clock in clocks.items()}
        times = {keys: some.room(count, (), np.dtype(np.int64)) for keys, some in rows.items()}
        tables = {}
        for signal in self._signals:
            if signal.table and (room := signal.room(count)) is not None:
                tables[signal.table] = room
        found = self._decoder.decode(messages, Targets(tables, times))
        if found is None:  # the device does not take them
            self._add(messages.on_host())
            return
        for keys, clock in clocks.items():
            target = rows[keys].extend(count, (), np.dtype(np.int64))
            stamps = found.times.get(keys)
            if stamps is None or stamps is not times[keys]:
                target[:] = self._stamps_of(clock, found, count) if stamps is None else stamps
        for signal in self._signals:
            signal.add(messages, found)
        self._count += count

    def _plan(self, clocks: Mapping[tuple[Key, ...], Clock]) -> Decoder:
        """A decoder of all that is known to be wanted."""
        settled = [signal for signal in self._signals if signal.settled]
        tables = [table for signal in settled if (table := signal.plan())]
        plan = Plan(
            tuple(dict.fromkeys(tables)),
            tuple((keys, clock.factors) for keys, clock in clocks.items()),
            frozenset(key for signal in settled for key in signal.told),
            frozenset(key for signal in settled for key in signal.needs(but=signal.table)),
        )
        keys = [key for found in clocks for key in found] + [key for signal in settled for key in signal.needs()]
        return Decoder(self._root, keys, self._packing, self._where, plan)

    def _stamp_rows(self, clock: Clock) -> Rows:
        rows = self._stamps.setdefault(clock.keys, Rows(self._reserve))
        if rows.array() is None and self._count:  # settled late: of the messages before nothing is known or used
            rows.extend(self._count, (), np.dtype(np.int64))[:] = 0
        return rows

    def _stamps_of(self, clock: Clock, found: Decoded, count: int) -> np.ndarray:
        """Zero where a message lacks the element that is stamped."""
        blocks = [found.blocks.get(key) for key in clock.keys]
        numbers = [block[:, 0] for block in blocks if isinstance(block, np.ndarray)]
        return clock.nanoseconds(numbers) if len(numbers) == len(blocks) else np.zeros(count, np.int64)

    def _settle(self, messages: Messages) -> None:
        """Whatever only a message can tell is settled by the first that does."""
        for signal in self._signals:
            while not signal.settled:
                for look in (messages.first, messages.on_host):  # the first tells, as a rule
                    some = look()
                    found = Decoder(self._root, signal.needs(), self._packing, self._where).decode(some)
                    assert found is not None
                    i = signal.first_with(found)
                    if i is not None:
                        break
                else:
                    break
                start = int(some.start[i])
                data = some.buffer[start : start + int(some.size[i])]
                signal.settle(unpack_message(self._root, data, self._packing, self._where))
                self._decoder = None

    def collected(self) -> dict[str, Collected]:
        found = {}
        for signal in self._signals:
            rows = self._stamps.get(signal.clock.keys) if signal.clock.keys else None
            found[signal.key] = signal.collected(None if rows is None else rows.array())
        return found

    def header_stamps(self) -> tuple[Clock, np.ndarray | None]:
        rows = self._stamps.get(self._whole.keys)
        return self._whole, None if rows is None else rows.array()

    def fields(self) -> tuple[tuple[str, str], ...]:
        return tuple(list_fields(self._root))
