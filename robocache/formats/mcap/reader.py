"""The MCAP reader: see :class:`robocache.formats.base.Reader`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from robocache.errors import InputError, MissingError
from robocache.formats.base import InputSpec, Reader, open_file, parse_source
from robocache.formats.mcap.container import MAGIC, Channel, Summary, loose_messages, read_metadata, read_summary
from robocache.formats.mcap.windows import read_messages
from robocache.formats.messages.paths import parse_path
from robocache.formats.messages.registry import decode_topic
from robocache.formats.messages.topic import Collector, Request, info
from robocache.types import Episode, EpisodeRef, FileStamp, Source, StreamInfo, StreamType


class McapReader(Reader):
    """MCAP files, one episode each. Only the chunks that hold the topics asked for are read.

    Messages: see :mod:`robocache.formats.messages.registry`. Times are those of the messages' own headers, of a field,
    or of the log, as ``stamp`` of the source or of ``spec`` says. Streams come in the order of the file; channels of
    one topic are merged by log time.
    """

    name: ClassVar[str] = "mcap"
    suffixes: ClassVar[tuple[str, ...]] = (".mcap",)
    magic: ClassVar[bytes] = MAGIC
    own_time: ClassVar[bool] = True

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode, after a look at the file's first bytes, footer and summary."""
        file = _only(files)
        with open_file(file, spec) as opened:
            read_summary(opened, file.uri, verify=spec.verify_checksums)
        return [EpisodeRef(id, self.name, (file,), nbytes=file.size)]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every topic, with the times that reading it gives."""
        file = _only(ref.files)
        with open_file(file, spec) as opened:
            summary = read_summary(opened, file.uri, verify=spec.verify_checksums)
            topics = summary.topics()
            collectors = _collect(opened, summary, {topic: [] for topic in topics}, spec)
        return [info(topic, _type(channels[0]), collectors[topic], spec.stamp) for topic, channels in topics.items()]

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the channels' schemas, and where these leave a width open from the first message that tells, of one
        chunk for each topic."""
        file = _only(ref.files)
        with open_file(file, spec) as opened:
            summary = read_summary(opened, file.uri, verify=spec.verify_checksums)
            requests = _requests(sources, summary, spec, file.uri)
            collectors = _collectors(summary, requests)
            types = {key: kind for found in collectors.values() for key, kind in found.topic.types().items()}
            if look:
                types |= self._look(opened, summary, requests, types, spec)
        return {source.key: types[source.key] for source in sources if source.key in types}

    @staticmethod
    def _look(
        opened,
        summary: Summary,
        requests: Mapping[str, Sequence[Request]],
        types: Mapping[str, StreamType],
        spec: InputSpec,
    ) -> dict[str, StreamType]:
        found: dict[str, StreamType] = {}
        for topic, asked in requests.items():
            wanted = [request for request in asked if types[request.source.key].open or request.picks]
            channels = {channel.id for channel in summary.topics()[topic]}
            chunks = [c for c in summary.chunks if not c.index_offsets or channels & c.index_offsets.keys()]
            if not wanted:
                continue
            lack: MissingError | None = None
            # What the first message has not, another publisher's may have: somewhere else they are looked for, too.
            for i in sorted({0, len(chunks) // 2, max(len(chunks) - 1, 0)}):
                one = replace(summary, chunks=tuple(chunks[i : i + 1]))  # without any: whatever lies outside of chunks
                try:
                    found |= _look_into(opened, one, topic, wanted, channels, spec)
                except MissingError as error:
                    lack = lack or error
                else:
                    break
            else:
                assert lack is not None
                raise lack
        return found

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """The sources that the file has a topic for; ``MissingError`` where a topic has no such field.

        Metadata: that of the file's Metadata records, by their names.
        """
        file = _only(ref.files)
        with open_file(file, spec) as opened:
            summary = read_summary(opened, file.uri, verify=spec.verify_checksums)
            collectors = _collect(opened, summary, _requests(sources, summary, spec, file.uri), spec)
            metadata = read_metadata(opened, summary)
        streams = {key: stream for found in collectors.values() for key, stream in found.streams().items()}
        found = {source.key: streams[source.key] for source in sources if source.key in streams}
        return Episode(ref.id, found, metadata)


def _look_into(
    opened, summary: Summary, topic: str, wanted: Sequence[Request], channels: Collection[int], spec: InputSpec
) -> dict[str, StreamType]:
    """Types of sources by the first message of a chunk that tells. ``MissingError``: none does."""
    for window in read_messages(opened, summary, channels, verify=spec.verify_checksums):
        if not window:
            continue
        for few in (1, None):  # the first message tells, as a rule
            (collector,) = _collectors(summary, {topic: wanted}).values()
            for channel, messages in window.items():
                collector.add(channel, messages if few is None else messages.first(few))
            try:
                streams = collector.streams()
            except MissingError:
                if few is None:
                    raise
                continue
            if few is None or all(len(stream.times) for stream in streams.values()):
                return {key: stream.type for key, stream in streams.items() if len(stream.times)}
    return {}


def _only(files: Sequence[FileStamp]) -> FileStamp:
    if len(files) != 1:
        raise InputError(f"{files[0].uri}: grouped with {len(files) - 1} more files; one MCAP file is one episode")
    return files[0]


def _requests(sources: Sequence[Source], summary: Summary, spec: InputSpec, uri: str) -> dict[str, list[Request]]:
    """The sources that the file has a topic for, by topic."""
    requests: dict[str, list[Request]] = {}
    for source in sources:
        try:
            name, selector = parse_source(source.path)
        except ValueError as error:
            raise InputError(f"{uri}: {error}") from None
        topic = _topic_of(name, summary)
        if topic is not None:
            path = parse_path(name[len(topic) :], selector, f"{uri}: {source.path}")
            requests.setdefault(topic, []).append(Request(source, path, source.stamp or spec.stamp))
    return requests


def _topic_of(name: str, summary: Summary) -> str | None:
    """The topic that a source begins with; the longest where a topic's own name holds a dot."""
    topics = [topic for topic in summary.topics() if name == topic or name.startswith(f"{topic}.")]
    return max(topics, key=len, default=None)


def _collectors(summary: Summary, requests: Mapping[str, Sequence[Request]]) -> dict[str, Collector]:
    """By topic, each with its sources."""
    channels_of = summary.topics()
    # A count is only a hint, and no more messages can be there than their indexes, or the file, have room for.
    room = sum(chunk.index_length for chunk in summary.chunks) // 16 if summary.chunks else summary.data_end // 31
    collectors = {}
    for topic, wanted in requests.items():
        channels = channels_of[topic]
        first = channels[0]
        for other in channels[1:]:
            if (other.encoding, other.schema) != (first.encoding, first.schema):
                where, kinds = f"{summary.uri}: {topic}", f"{_type(first)} and {_type(other)}"
                raise InputError(f"{where}: its channels have schemas {kinds}, which do not mix")
        reserve = min(_promised(summary, channels) or 0, room)
        decoder = decode_topic(topic, first.encoding, first.schema, wanted, reserve=reserve, uri=summary.uri)
        collectors[topic] = Collector(decoder, reserve)
    return collectors


def _collect(
    opened, summary: Summary, requests: Mapping[str, Sequence[Request]], spec: InputSpec
) -> dict[str, Collector]:
    """Read the topics asked for in one pass over the file; in another one over all of it where the index of chunks does
    not lead to every message that the statistics count. ``InputError`` where they are not there either."""
    if not requests:
        return {}
    unsure = bool(summary.chunks) and summary.message_counts is None and loose_messages(opened, summary)
    found = _read_all(opened, summary, requests, spec, scan=unsure)
    if summary.chunks and not unsure and _lacking(found, summary):
        found = _read_all(opened, summary, requests, spec, scan=True)
    if lack := next(iter(_lacking(found, summary).items()), None):
        topic, (promised, count) = lack
        raise InputError(
            f"{summary.uri}: {topic}: its statistics count {promised} messages, {count} are there; the file is "
            "damaged, try `mcap recover`"
        )
    return found


def _read_all(
    opened, summary: Summary, requests: Mapping[str, Sequence[Request]], spec: InputSpec, *, scan: bool
) -> dict[str, Collector]:
    collectors = _collectors(summary, requests)
    channels_of = summary.topics()
    by_channel = {channel.id: found for topic, found in collectors.items() for channel in channels_of[topic]}
    for window in read_messages(opened, summary, by_channel.keys(), verify=spec.verify_checksums, scan=scan):
        for channel_id, messages in window.items():
            by_channel[channel_id].add(channel_id, messages)
    return collectors


def _lacking(collectors: Mapping[str, Collector], summary: Summary) -> dict[str, tuple[int, int]]:
    """Topics of which fewer messages were found than the statistics count: how many, and how many there are."""
    channels_of = summary.topics()
    counts = {topic: (_promised(summary, channels_of[topic]) or 0, found.count) for topic, found in collectors.items()}
    return {topic: pair for topic, pair in counts.items() if pair[1] < pair[0]}


def _promised(summary: Summary, channels: Sequence[Channel]) -> int | None:
    """How many messages the statistics count; None where there are none."""
    if summary.message_counts is None:
        return None
    return sum(summary.message_counts.get(channel.id, 0) for channel in channels)


def _type(channel: Channel) -> str:
    return channel.schema.name if channel.schema else channel.encoding
