"""The MCAP reader: see :class:`robocache.formats.base.Reader`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, ClassVar

from robocache.errors import InputError, MissingError
from robocache.formats.base import InputSpec, Reader, open_file, parse_source
from robocache.formats.mcap.container import MAGIC, Channel, Summary, loose_messages, read_metadata, read_summary
from robocache.formats.mcap.windows import read_messages
from robocache.formats.messages.paths import parse_path
from robocache.formats.messages.registry import decode_topic
from robocache.formats.messages.topic import Collector, Looked, Request, info
from robocache.types import Episode, EpisodeRef, FileStamp, Source, StreamInfo, StreamType


class McapReader(Reader):
    """MCAP files, one episode each, or the files that a recording was split into. Only the chunks that hold the topics
    asked for are read.

    Messages: see :mod:`robocache.formats.messages.registry`. Times are those of the messages' own headers, of a field,
    or of the log, as ``stamp`` of the source or of ``spec`` says. Streams come in the order of the files; channels of
    one topic are merged by log time.
    """

    name: ClassVar[str] = "mcap"
    suffixes: ClassVar[tuple[str, ...]] = (".mcap",)
    magic: ClassVar[bytes] = MAGIC
    own_time: ClassVar[bool] = True
    splits: ClassVar[bool] = True

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode, after a look at each file's first bytes, footer and summary."""
        with _open(files, spec):
            return [EpisodeRef(id, self.name, tuple(files), nbytes=sum(file.size for file in files))]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every topic, with the times that reading it gives; of one whose messages cannot be read the log times."""
        with _open(ref.files, spec) as recording:
            collectors = _collect(recording, dict.fromkeys(recording.topics, ()), spec)
            return [
                info(topic, _type(channels[0]), collectors[topic], spec.stamp)
                for topic, channels in recording.topics.items()
            ]

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the channels' schemas, and where these leave a width open from the first message that tells, of one
        chunk for each topic."""
        with _open(ref.files, spec) as recording:
            requests = _requests(sources, recording, spec)
            collectors = recording.collectors(requests)
            types = {key: kind for found in collectors.values() for key, kind in found.topic.types().items()}
            if look:
                types |= _look(recording, requests, types, spec)
        return {source.key: types[source.key] for source in sources if source.key in types}

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """The sources that the recording has a topic for; ``MissingError`` where a topic has no such field.

        Metadata: that of the files' Metadata records, by their names.
        """
        with _open(ref.files, spec) as recording:
            collectors = _collect(recording, _requests(sources, recording, spec), spec)
            metadata: dict[str, Any] = {}
            for opened, summary in recording.parts:
                metadata |= read_metadata(opened, summary)
        streams = {key: stream for found in collectors.values() for key, stream in found.streams().items()}
        return Episode(ref.id, {s.key: streams[s.key] for s in sources if s.key in streams}, metadata)


@dataclass(frozen=True)
class _Recording:
    """The open files of an episode, with what each says of itself."""

    parts: tuple[tuple[BinaryIO, Summary], ...]

    @property
    def uri(self) -> str:
        return self.parts[0][1].uri

    @property
    def topics(self) -> dict[str, list[Channel]]:
        """Channels of all files by topic, in the order of the files."""
        found: dict[str, list[Channel]] = {}
        for _, summary in self.parts:
            for topic, channels in summary.topics().items():
                found.setdefault(topic, []).extend(channels)
        return found

    def topic_of(self, name: str) -> str | None:
        """The topic that a source begins with; the longest where a topic's own name holds a dot."""
        topics = [topic for topic in self.topics if name == topic or name.startswith(f"{topic}.")]
        return max(topics, key=len, default=None)

    def promised(self, topic: str) -> int:
        """How many messages of a topic the statistics of the files count."""
        return sum(
            (summary.message_counts or {}).get(channel.id, 0)
            for _, summary in self.parts
            for channel in summary.topics().get(topic, ())
        )

    def collectors(self, requests: Mapping[str, Sequence[Request]]) -> dict[str, Collector]:
        """By topic, each with its sources. ``InputError`` where channels of one topic hold different messages."""
        # A count is only a hint, and no more messages can be there than their indexes, or the file, have room for.
        room = sum(
            sum(chunk.index_length for chunk in summary.chunks) // 16 if summary.chunks else summary.data_end // 31
            for _, summary in self.parts
        )
        collectors = {}
        for topic, wanted in requests.items():
            first, *others = self.topics[topic]
            for other in others:
                if not _same_messages(first, other):
                    where, kinds = f"{self.uri}: {topic}", f"{_type(first)} and {_type(other)}"
                    raise InputError(f"{where}: its channels have schemas {kinds}, which do not mix")
            reserve = min(self.promised(topic), room)
            decode = partial(decode_topic, topic, first.encoding, first.schema, wanted, reserve=reserve, uri=self.uri)
            # Without sources a topic is only looked at, and what cannot be read of it hides no other.
            decoder = decode() if wanted else Looked(decode)
            collectors[topic] = Collector(decoder, reserve)
        return collectors


@contextmanager
def _open(files: Sequence[FileStamp], spec: InputSpec) -> Iterator[_Recording]:
    with ExitStack() as stack:
        parts = []
        for file in files:
            opened = stack.enter_context(open_file(file, spec))
            parts.append((opened, read_summary(opened, file.uri, verify=spec.verify_checksums)))
        yield _Recording(tuple(parts))


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


def _collect(recording: _Recording, requests: Mapping[str, Sequence[Request]], spec: InputSpec) -> dict[str, Collector]:
    """Read the topics asked for in one pass over the files; in another one over all of them where the index of chunks
    does not lead to every message that the statistics count. ``InputError`` where they are not there either."""
    if not requests:
        return {}
    unsure = any(
        summary.chunks and summary.message_counts is None and loose_messages(opened, summary)
        for opened, summary in recording.parts
    )
    found = _read_all(recording, requests, spec, scan=unsure)
    if not unsure and _lacking(recording, found):
        found = _read_all(recording, requests, spec, scan=True)
    for topic, promised in _lacking(recording, found).items():
        raise InputError(
            f"{recording.uri}: {topic}: its statistics count {promised} messages, {found[topic].count} are there; the "
            "file is damaged, try `mcap recover`"
        )
    return found


def _read_all(
    recording: _Recording, requests: Mapping[str, Sequence[Request]], spec: InputSpec, *, scan: bool
) -> dict[str, Collector]:
    collectors = recording.collectors(requests)
    for part, (opened, summary) in enumerate(recording.parts):
        channels_of = summary.topics()
        by_channel = {c.id: found for topic, found in collectors.items() for c in channels_of.get(topic, ())}
        if not by_channel:
            continue
        for window in read_messages(opened, summary, by_channel.keys(), verify=spec.verify_checksums, scan=scan):
            for channel, messages in window.items():
                by_channel[channel].add((part, channel), messages)
    return collectors


def _lacking(recording: _Recording, collectors: Mapping[str, Collector]) -> dict[str, int]:
    """Topics of which fewer messages were found than the statistics count, and how many these are."""
    promised = {topic: recording.promised(topic) for topic in collectors}
    return {topic: count for topic, count in promised.items() if collectors[topic].count < count}


def _look(
    recording: _Recording,
    requests: Mapping[str, Sequence[Request]],
    types: Mapping[str, StreamType],
    spec: InputSpec,
) -> dict[str, StreamType]:
    """Types that only messages tell."""
    found: dict[str, StreamType] = {}
    for topic, asked in requests.items():
        wanted = [request for request in asked if types[request.source.key].open or request.picks]
        if not wanted:
            continue
        lack: MissingError | None = None
        for opened, part in recording.parts:
            channels = {channel.id for channel in part.topics().get(topic, ())}
            chunks = [c for c in part.chunks if not c.index_offsets or channels & c.index_offsets.keys()]
            # What the first message has not, another publisher's may have: somewhere else they are looked for, too.
            for i in sorted({0, len(chunks) // 2, max(len(chunks) - 1, 0)}) if channels else ():
                one = replace(part, chunks=tuple(chunks[i : i + 1]))  # without any: whatever lies outside of chunks
                try:
                    told = _look_into(recording, opened, one, topic, wanted, channels, spec)
                except MissingError as error:
                    lack = lack or error
                    continue
                if told:
                    found |= told
                    break
            else:
                continue
            break
        else:
            if lack is not None:
                raise lack
    return found


def _look_into(
    recording: _Recording,
    opened: BinaryIO,
    part: Summary,
    topic: str,
    wanted: Sequence[Request],
    channels: Collection[int],
    spec: InputSpec,
) -> dict[str, StreamType]:
    """Types of sources by the first message of a chunk that tells. ``MissingError``: none does."""
    for window in read_messages(opened, part, channels, verify=spec.verify_checksums):
        if not window:
            continue
        for few in (1, None):  # the first message tells, as a rule
            (collector,) = recording.collectors({topic: wanted}).values()
            for channel, messages in window.items():
                collector.add((0, channel), messages if few is None else messages.first(few))
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
