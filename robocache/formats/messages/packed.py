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
from robocache.formats.messages.lowered import ChunkDecoder
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Columns, Key, list_fields
from robocache.formats.messages.signal import Signal
from robocache.formats.messages.topic import Collected, Request
from robocache.formats.messages.unpack import unpack_message
from robocache.formats.messages.values import Rows, same_place
from robocache.types import StreamType

_TIME = np.dtype(np.int64)
_MOST_AT_ONCE = 1 << 30  # bytes of messages for which columns are set aside before they are seen


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
        clocks = self._header_clocks()
        if self._decoder is None:
            self._decoder = self._plan(clocks)
        found = self._decoder.decode(messages, self._targets(clocks, len(messages.start)))
        if found is None:  # the device does not take them
            self._add(messages.on_host())
            return
        self.keep(messages, found)

    def _header_clocks(self) -> dict[tuple[Key, ...], Clock]:
        return {clock.keys: clock for clock in self._clocks() if clock.keys}

    def _targets(self, clocks: Mapping[tuple[Key, ...], Clock], count: int) -> Targets:
        """Where the rows of the next messages will be."""
        times = {keys: self._stamp_rows(clock).room(count, (), _TIME) for keys, clock in clocks.items()}
        rooms = {signal.table: signal.room(count) for signal in self._signals if signal.table}
        return Targets({table: room for table, room in rooms.items() if room is not None}, times)

    def decoder(self, channel: int, first: Messages, room: int) -> ChunkDecoder | None:
        """What takes the messages of a channel that follow, ``room`` at most, laid out as ``first`` is; None where they
        are not to be taken so. Nothing else is added until :meth:`keep` is given what it has taken.
        """
        numbers = self._signals and all(s.settled and s.columns.dtype is not None for s in self._signals)
        if not numbers or self._decoder is None or room * int(first.size[0]) > _MOST_AT_ONCE:
            return None
        return self._decoder.decoder(channel, first, room, self._targets(self._header_clocks(), room))

    def keep(self, messages: Messages, found: Decoded) -> None:
        """Append what was found in messages."""
        count = len(messages.start)
        for keys, clock in self._header_clocks().items():
            target = self._stamp_rows(clock).extend(count, (), _TIME)
            stamps = found.times.get(keys)
            if stamps is None or not same_place(stamps, target):
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
            rows.extend(self._count, (), _TIME)[:] = 0
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
