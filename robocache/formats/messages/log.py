"""Logs of messages, whatever their container: topics are found, their messages decoded, their streams put together.

A container says what it holds as a :class:`Part` for each of its files, and hands over messages window by window; its
reader is a :class:`LogReader` that opens them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from robocache import scratch
from robocache.errors import InputError, MissingError
from robocache.formats.base import InputSpec, Reader, parse_source
from robocache.formats.kept import Kept
from robocache.formats.messages.batch import Messages, Schema
from robocache.formats.messages.chunks import Chunks
from robocache.formats.messages.paths import parse_path
from robocache.formats.messages.registry import decode_topic
from robocache.formats.messages.topic import Collector, Looked, Request, info
from robocache.formats.segments import around
from robocache.types import Episode, EpisodeRef, FileStamp, Segment, Source, Stream, StreamInfo, StreamType


class Within(NamedTuple):
    """What is wanted of a log, by its own time: from the first to the last nanosecond. ``nearest``: and of each channel
    what comes before and after that."""

    first: int
    last: int
    nearest: bool


#: How far stamps are expected to be from when messages were logged.
_SLACK = 1_000_000_000

#: The messages of a window, by channel id, in file order.
Window = dict[int, Messages]


def few(count: int) -> list[int]:
    """The first, one in the middle and the last of ``count`` places, for a look."""
    return sorted({0, count // 2, count - 1}) if count else []


Piece = TypeVar("Piece")


def needed(pieces: Sequence[Piece], times: Sequence[tuple[int, int]], within: Within) -> list[Piece]:
    """Of pieces of a file, with the times of their first and last message, those that may hold what is wanted."""
    first, last, beyond = within
    inside = [k for k, (low, high) in enumerate(times) if high >= first and low <= last]
    before = [k for k, (_, high) in enumerate(times) if high < first]
    after = [k for k, (low, _) in enumerate(times) if low > last]
    nearest = [max(before, key=lambda k: times[k][1])] if before and beyond else []
    nearest += [min(after, key=lambda k: times[k][0])] if after and beyond else []
    return [pieces[k] for k in sorted([*inside, *nearest])]


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic of one sender: ``encoding`` of its messages, ``schema`` that tells their type."""

    id: int
    topic: str
    encoding: str
    schema: Schema | None


class Part(ABC):
    """One file of a log, open.

    uri:      begins error messages
    channels: by id
    room:     no more messages than this can be in it
    notes:    what a person must know of how it was read, a sentence each: what a damaged file has lost
    """

    uri: str
    channels: Mapping[int, Channel]
    room: int
    notes: tuple[str, ...] = ()

    @property
    def topics(self) -> dict[str, list[Channel]]:
        """Channels by topic, in file order."""
        found: dict[str, list[Channel]] = {}
        for channel in self.channels.values():
            found.setdefault(channel.topic, []).append(channel)
        return found

    def promised(self, channel: int) -> int:
        """How many messages of a channel the file counts; 0 where it does not."""
        return 0

    @abstractmethod
    def messages(
        self,
        channels: Collection[int],
        *,
        scan: bool = False,
        within: Within | None = None,
        taker: Chunks | None = None,
    ) -> Iterator[Window]:
        """Every message of ``channels``. ``scan``: by going through the whole file, as an index has not led to all.
        ``within``: those of that time; others may be among them. ``taker``: may be given some of the messages instead.
        """

    @abstractmethod
    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        """Messages of ``channels`` from few places of the file, for a look."""

    def metadata(self) -> dict[str, Any]:
        """What the file says of the episode; JSON."""
        return {}


class LogReader(Reader):
    """Files of messages, one episode each, or the files that a recording was split into.

    Messages: see :mod:`robocache.formats.messages.registry`. Times are those of the messages' own headers, of a field,
    or of the log, as ``stamp`` of the source or of ``spec`` says. Streams come in the order of the files; channels of
    one topic are merged by log time.

    remedy: what mends a damaged file
    """

    own_time: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    remedy: ClassVar[str]

    @abstractmethod
    def open(self, file: FileStamp, spec: InputSpec) -> AbstractContextManager[Part]:
        """A file, after a look at what it says of itself."""

    @contextmanager
    def _open(self, files: Sequence[FileStamp], spec: InputSpec) -> Iterator[_Recording]:
        with ExitStack() as stack:
            yield _Recording(tuple(stack.enter_context(self.open(file, spec)) for file in files), self.remedy)

    @contextmanager
    def _known(self, files: Sequence[FileStamp], spec: InputSpec) -> Iterator[_Recording]:
        """The same where only the channels are asked for: files that have just been listed are not opened again."""
        with ExitStack() as stack:
            parts = []
            for file in files:
                channels = _LISTED.get(_key(file, spec))
                known = None if channels is None else _Listed(file.uri, channels)
                parts.append(known or stack.enter_context(self.open(file, spec)))
            yield _Recording(tuple(parts), self.remedy)

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode, after a look at what each file says of itself."""
        for file in files:
            self.look(file, spec)
        return [EpisodeRef(id, self.name, tuple(files), nbytes=sum(file.size for file in files))]

    def look(self, file: FileStamp, spec: InputSpec) -> None:
        """At what a file says of itself, as far as listing goes: ``InputError`` where it is none of this format."""
        with self.open(file, spec) as part:
            _LISTED.put(_key(file, spec), _same(tuple(part.channels.values())), _LISTED_BYTES)

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every topic, with the times that reading it gives; of one whose messages cannot be read the log times."""
        with self._open(ref.files, spec) as recording:
            collectors = _collect(recording, dict.fromkeys(recording.topics, ()))
            return [
                info(topic, _type(channels[0]), collectors[topic], spec.stamp)
                for topic, channels in recording.topics.items()
            ]

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the channels' schemas, and where these leave a width open from the first message that tells, of one
        place for each topic."""
        with self._known(ref.files, spec) if not look else self._open(ref.files, spec) as recording:
            requests = _requests(sources, recording, spec)
            collectors = recording.collectors(requests)
            types = {key: kind for found in collectors.values() for key, kind in found.topic.types().items()}
            if look:
                types |= _look(recording, requests, types)
        return {source.key: types[source.key] for source in sources if source.key in types}

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """The sources that the recording has a topic for; ``MissingError`` where a topic has no such field."""
        with self._open(ref.files, spec) as recording:
            requests = _requests(sources, recording, spec)
            if ref.segment is None:
                streams = _streams(_collect(recording, requests))
            else:
                streams = _part(recording, requests, ref.segment)
            metadata: dict[str, Any] = {}
            for part in recording.parts:
                metadata |= part.metadata()
            notes = tuple(note for part in recording.parts for note in part.notes)
        return Episode(ref.id, {s.key: streams[s.key] for s in sources if s.key in streams}, metadata, notes)


#: The channels of files that were listed, which are looked at again soon; those of a dataset's logs are the same.
_LISTED = Kept(64 << 20)
_LISTED_BYTES = 512


def _key(file: FileStamp, spec: InputSpec) -> tuple:
    return file, spec.salvage, spec.verify_checksums


@lru_cache(1024)
def _same(channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
    """The first of equals, so that they are kept once."""
    return channels


class _Listed(Part):
    """A file of which only the channels are asked for."""

    room = 0

    def __init__(self, uri: str, channels: Sequence[Channel]):
        self.uri, self.channels = uri, {channel.id: channel for channel in channels}

    def messages(self, channels: Collection[int], **_: Any) -> Iterator[Window]:
        raise NotImplementedError

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        raise NotImplementedError


@dataclass(frozen=True)
class _Recording:
    """The open files of an episode, with what each says of itself."""

    parts: tuple[Part, ...]
    remedy: str

    @property
    def uri(self) -> str:
        return self.parts[0].uri

    @property
    def topics(self) -> dict[str, list[Channel]]:
        """Channels of all files by topic, in the order of the files."""
        found: dict[str, list[Channel]] = {}
        for part in self.parts:
            for topic, channels in part.topics.items():
                found.setdefault(topic, []).extend(channels)
        return found

    def topic_of(self, name: str) -> str | None:
        """The topic that a source begins with; the longest where a topic's own name holds a dot."""
        topics = [topic for topic in self.topics if name == topic or name.startswith(f"{topic}.")]
        return max(topics, key=len, default=None)

    def promised(self, topic: str) -> int:
        """How many messages of a topic the files count."""
        return sum(part.promised(channel.id) for part in self.parts for channel in part.topics.get(topic, ()))

    def collectors(self, requests: Mapping[str, Sequence[Request]]) -> dict[str, Collector]:
        """By topic, each with its sources. ``InputError`` where channels of one topic hold different messages."""
        room = sum(part.room for part in self.parts)  # a count is only a hint
        topics = self.topics
        collectors = {}
        for topic, wanted in requests.items():
            first, *others = topics[topic]
            for other in others:
                if not _same_messages(first, other):
                    where, kinds = f"{self.uri}: {topic}", f"{_type(first)} and {_type(other)}"
                    raise InputError(f"{where}: its channels have schemas {kinds}, which do not mix")
            reserve = min(self.promised(topic), room)
            decode = partial(decode_topic, topic, first.encoding, first.schema, wanted, reserve=reserve, uri=self.uri)
            # Without sources a topic is only looked at, and what cannot be read of it hides no other.
            decoder = decode() if wanted else Looked(decode)
            published = any(request.stamp == "publish" for request in wanted)
            collectors[topic] = Collector(decoder, reserve, published=published)
        return collectors


def _requests(sources: Sequence[Source], recording: _Recording, spec: InputSpec) -> dict[str, list[Request]]:
    """The sources that the recording has a topic for, by topic."""
    requests: dict[str, list[Request]] = {}
    for source in sources:
        try:
            name, selector = parse_source(source.path)
        except ValueError as error:
            raise InputError(f"{recording.uri}: {error}") from None
        topic = recording.topic_of(name)
        if topic is not None:
            path = parse_path(name[len(topic) :], selector, f"{recording.uri}: {source.path}")
            requests.setdefault(topic, []).append(Request(source, path, source.stamp or spec.stamp))
    return requests


def _collect(recording: _Recording, requests: Mapping[str, Sequence[Request]]) -> dict[str, Collector]:
    """Read the topics asked for in one pass over the files; in another one over all of them where an index does not
    lead to every message that the files count. ``InputError`` where they are not there either."""
    if not requests:
        return {}
    found = _read_all(recording, requests, scan=False)
    if _lacking(recording, found):
        found = _read_all(recording, requests, scan=True)
    for topic, promised in _lacking(recording, found).items():
        raise InputError(
            f"{recording.uri}: {topic}: its statistics count {promised} messages, {found[topic].count} are there; the "
            f"file is damaged, try {recording.remedy}"
        )
    return found


def _streams(collectors: Mapping[str, Collector]) -> dict[str, Stream]:
    return {key: stream for found in collectors.values() for key, stream in found.streams().items()}


def _part(recording: _Recording, requests: Mapping[str, Sequence[Request]], segment: Segment) -> dict[str, Stream]:
    """Read the topics asked for as far as a segment needs them. An index goes by when messages were logged, a segment
    by their stamps: how far these are apart is seen in what was read, and more is read until that is far enough."""
    first, last = around(segment)
    slack, nearest = _SLACK, False
    while requests:
        within = Within(first - slack, last + slack, nearest)
        streams = _streams(_read_all(recording, requests, scan=False, within=within))
        lag = max((stream.lag for stream in streams.values()), default=0)
        whole = all(_reaches(stream.times, segment) for stream in streams.values())
        if 2 * lag <= slack and (whole or nearest):
            return streams
        slack, nearest = slack if 2 * lag <= slack else max(4 * slack, 2 * lag), True
    return {}


def _reaches(times: np.ndarray, segment: Segment) -> bool:
    """Whether samples from before a segment and from behind it are among these."""
    return bool((times < segment.begin).any() and (times >= segment.end).any())


def _read_all(
    recording: _Recording, requests: Mapping[str, Sequence[Request]], *, scan: bool, within: Within | None = None
) -> dict[str, Collector]:
    collectors = recording.collectors(requests)
    for number, part in enumerate(recording.parts):
        topics = part.topics
        by_channel = {c.id: found for topic, found in collectors.items() for c in topics.get(topic, ())}
        if not by_channel:
            continue
        taker = Chunks(by_channel, number)
        for window in part.messages(by_channel.keys(), scan=scan, within=within, taker=taker):
            for channel, messages in window.items():
                taker.add(channel, messages)
            scratch.tidy()
        taker.finish()
    return collectors


def _lacking(recording: _Recording, collectors: Mapping[str, Collector]) -> dict[str, int]:
    """Topics of which fewer messages were found than the files count, and how many these are."""
    promised = {topic: recording.promised(topic) for topic in collectors}
    return {topic: count for topic, count in promised.items() if collectors[topic].count < count}


def _look(
    recording: _Recording, requests: Mapping[str, Sequence[Request]], types: Mapping[str, StreamType]
) -> dict[str, StreamType]:
    """Types that only messages tell."""
    found: dict[str, StreamType] = {}
    for topic, asked in requests.items():
        wanted = [request for request in asked if types[request.source.key].open or request.picks]
        if not wanted:
            continue
        lack: MissingError | None = None
        # What the first message has not, another publisher's may have: somewhere else they are looked for, too.
        for windows in _glimpses(recording, topic):
            try:
                told = _look_into(recording, windows, topic, wanted)
            except MissingError as error:
                lack = lack or error
                continue
            if told:
                found |= told
                break
        else:
            if lack is not None:
                raise lack
    return found


def _glimpses(recording: _Recording, topic: str) -> Iterator[Iterator[Window]]:
    for part in recording.parts:
        if channels := {channel.id for channel in part.topics.get(topic, ())}:
            yield from part.glimpses(channels)


def _look_into(
    recording: _Recording, windows: Iterator[Window], topic: str, wanted: Sequence[Request]
) -> dict[str, StreamType]:
    """Types of sources by the first message that tells. ``MissingError``: none does."""
    for window in windows:
        if not window:
            continue
        for few in (1, None):  # the first message tells, as a rule
            (collector,) = recording.collectors({topic: wanted}).values()
            for channel, messages in window.items():
                collector.add((0, channel), messages if few is None else messages.first())
            try:
                streams = collector.streams()
            except MissingError:
                if few is None:
                    raise
                continue
            if few is None or all(len(stream.times) for stream in streams.values()):
                return {key: stream.type for key, stream in streams.items() if len(stream.times)}
    return {}


def _same_messages(one: Channel, other: Channel) -> bool:
    """Whether two channels hold messages of one type, however their schemas are commented and their names written."""
    if one.encoding != other.encoding or (one.schema is None) != (other.schema is None):
        return False
    if one.schema is None or other.schema is None or one.schema == other.schema:
        return True
    return one.schema.encoding == other.schema.encoding and one.schema.plain() == other.schema.plain()


def _type(channel: Channel) -> str:
    return channel.schema.name if channel.schema else channel.encoding
