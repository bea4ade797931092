"""What is collected of one topic, whatever its encoding and container: values, times, and what was noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.batch import Messages
from robocache.formats.messages.clocks import Clock, exchange_zeros
from robocache.formats.messages.paths import Path
from robocache.formats.messages.values import Rows, take
from robocache.types import Source, Stream, StreamInfo, StreamType, Values


@dataclass(frozen=True, slots=True)
class Request:
    """A source as a topic is asked for it: ``stamp`` is its clock, never empty."""

    source: Source
    path: Path
    stamp: str

    @property
    def picks(self) -> bool:
        """Whether it selects something whose meaning a message may tell: a place in an array, or names."""
        return self.path.selector is not None or any(isinstance(token.pick, int) for token in self.path.tokens)


@dataclass(slots=True)
class Collected:
    """What a topic has of one source.

    values, present: as a stream has them, of the messages that are samples
    stamps:  int64 ``[n]`` of all messages (zero: none); None: the clock is the container's
    kept:    bool ``[n]`` which messages are samples; None: all
    """

    values: Values
    clock: Clock
    stamps: np.ndarray | None = None
    kept: np.ndarray | None = None
    present: np.ndarray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Topic(Protocol):
    """Messages of one encoding. ``add`` is given them in file order, ``collected`` is asked at the end."""

    def types(self) -> dict[str, StreamType]:
        """By key, as far as the schema tells."""
        ...

    def add(self, messages: Messages) -> None: ...

    def collected(self) -> dict[str, Collected]:
        """By key."""
        ...

    def header_stamps(self) -> tuple[Clock, np.ndarray | None]:
        """The clock that ``stamp: header`` gives a source of the whole message, and its stamps of all messages."""
        ...

    def fields(self) -> tuple[tuple[str, str], ...]: ...


class UnknownTopic:
    """Messages of an encoding that is not read: only when they were logged."""

    def types(self) -> dict[str, StreamType]:
        return {}

    def add(self, messages: Messages) -> None:
        pass

    def collected(self) -> dict[str, Collected]:
        return {}

    def header_stamps(self) -> tuple[Clock, np.ndarray | None]:
        return Clock(), None

    def fields(self) -> tuple[tuple[str, str], ...]:
        return ()


class Looked:
    """A topic that is looked at and not asked for anything: where its messages cannot be read, it tells why, and when
    they were logged.
    """

    def __init__(self, decode: Callable[[], Topic]):
        self.failure = ""
        try:
            self._topic = decode()
        except InputError as error:
            self._give_up(error)

    def _give_up(self, error: InputError) -> None:
        self._topic, self.failure = UnknownTopic(), str(error)

    def types(self) -> dict[str, StreamType]:
        return {}

    def add(self, messages: Messages) -> None:
        try:
            self._topic.add(messages)
        except InputError as error:
            self._give_up(error)

    def collected(self) -> dict[str, Collected]:
        return {}

    def header_stamps(self) -> tuple[Clock, np.ndarray | None]:
        return self._topic.header_stamps()

    def fields(self) -> tuple[tuple[str, str], ...]:
        return self._topic.fields()


class Collector:
    """All channels of one topic, with the times that its streams get. ``published``: whether those of their publishers
    are asked for.
    """

    def __init__(self, topic: Topic, reserve: int, *, published: bool = True):
        self.topic, self._published, self._reserve = topic, published, reserve
        self._log_times, self._publish_times = Rows(reserve), Rows(reserve)
        self._channels: set[tuple[int, int]] = set()

    def add(self, channel: tuple[int, int], messages: Messages) -> None:
        """Messages of a channel of a file, in file order."""
        self.topic.add(messages)
        self.came(channel, messages)

    def came(self, channel: tuple[int, int], messages: Messages) -> None:
        """When messages came that the topic has."""
        count = len(messages.start)
        self._log_times.extend(count, (), np.dtype(np.int64))[:] = messages.log_times
        if self._published:
            publish = messages.log_times if messages.publish_times is None else messages.publish_times
            self._publish_times.extend(count, (), np.dtype(np.int64))[:] = publish
        self._channels.add(channel)

    @property
    def room(self) -> int:
        """How many messages more have been promised."""
        return max(0, self._reserve - self.count)

    @property
    def count(self) -> int:
        """Messages so far."""
        return len(self._all(self._log_times))

    def _all(self, rows: Rows) -> np.ndarray:
        found = rows.array()
        return np.empty(0, np.int64) if found is None else found

    def _times(self, clock: Clock, stamps: np.ndarray | None, kept: np.ndarray | None) -> tuple[np.ndarray, str]:
        """Times of the messages ``kept`` (None: all) by a clock, and what was exchanged."""
        arrived = self._all(self._publish_times if clock.kind == "publish" else self._log_times)
        log_times = arrived if kept is None else arrived[kept]
        if clock.kind == "publish":
            return log_times, ""
        if stamps is None:
            return log_times, clock.note if len(log_times) else ""
        return exchange_zeros(stamps if kept is None else stamps[kept], log_times, clock.kind)

    def _order(self) -> np.ndarray | None:
        """The order in which messages of several channels came; None: as they are."""
        return np.argsort(self._all(self._log_times), kind="stable") if len(self._channels) > 1 else None

    def header_times(self) -> np.ndarray:
        """Of all messages, for people to read."""
        times, _ = self._times(*self.topic.header_stamps(), None)
        order = self._order()
        return times if order is None else times[order]

    def log_times(self) -> np.ndarray:
        """Of all messages in the order they came."""
        order = self._order()
        return self._all(self._log_times) if order is None else self._all(self._log_times)[order]

    def streams(self) -> dict[str, Stream]:
        """Of every source, in the order in which the messages came."""
        order = self._order()
        shared: dict[tuple[Clock, int], tuple[np.ndarray, str]] = {}
        streams = {}
        for key, found in self.topic.collected().items():
            known = (found.clock, id(found.stamps))
            if found.kept is not None or known not in shared:
                times, note = self._times(found.clock, found.stamps, found.kept)
            if found.kept is None:  # the sources of a topic share one array, as a rule
                times, note = shared.setdefault(known, (times, note))
            log_times, values, present = self._all(self._log_times), found.values, found.present
            rows = order
            if found.kept is not None:
                log_times = log_times[found.kept]
                if order is not None:  # the order of those that are left
                    place = np.cumsum(found.kept) - 1
                    rows = place[order[found.kept[order]]]
            if rows is not None:
                times, log_times, values = times[rows], log_times[rows], take(values, rows)
                present = None if present is None else present[rows]
            notes = (note, *found.notes) if note else found.notes
            streams[key] = Stream(times, values, found.about, present, log_times, notes)
        return streams


def info(source: str, type: str, collector: Collector, stamp: str) -> StreamInfo:
    """A topic as ``inspect`` shows it."""
    times = collector.header_times() if stamp == "header" else collector.log_times()
    failure = collector.topic.failure if isinstance(collector.topic, Looked) else ""
    return StreamInfo(source, type, collector.topic.fields(), times, failure.partition(f"{source}: ")[2] or failure)
