"""The MCAP reader: see :class:`robocache.formats.base.Reader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from robocache.errors import InputError
from robocache.formats.base import InputSpec, Selector, open_file, parse_source
from robocache.formats.mcap.container import Channel, Summary, read_summary
from robocache.formats.mcap.windows import read_messages
from robocache.formats.messages.ros2msg import parse_ros2msg
from robocache.formats.messages.topics import CdrTopic, Collector, JsonTopic, Topic, UnknownTopic
from robocache.types import Episode, EpisodeRef, FileStamp, StreamInfo


class McapReader:
    """MCAP files, one episode each. Only the chunks that hold the topics asked for are read.

    Messages: ROS 2 CDR with ``ros2msg`` schemas, and JSON. Times are those of the messages' own headers or of the
    log, as ``spec.stamp`` says. Streams come in the order of the file; channels of one topic are merged by log time.
    """

    name: ClassVar[str] = "mcap"
    suffixes: ClassVar[tuple[str, ...]] = (".mcap",)

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
            collected = _collect(opened, summary, {topic: {} for topic in topics}, spec)
        return [
            StreamInfo(topic, _type(channels[0]), collected[topic].fields(), collected[topic].times()[0])
            for topic, channels in topics.items()
        ]

    def read(self, ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> Episode:
        """The sources that the file has a topic for. A topic without such a field is an ``InputError``."""
        file = _only(ref.files)
        with open_file(file, spec) as opened:
            summary = read_summary(opened, file.uri, verify=spec.verify_checksums)
            wanted: dict[str, dict[str, tuple[str, Selector | None]]] = {}
            for source in sources:
                try:
                    name, selector = parse_source(source)
                except ValueError as error:
                    raise InputError(f"{file.uri}: {error}") from None
                topic = _topic_of(name, summary)
                if topic is not None:
                    wanted.setdefault(topic, {})[source] = (name[len(topic) :], selector)
            collected = _collect(opened, summary, wanted, spec)
        streams = {source: stream for topic in collected.values() for source, stream in topic.streams().items()}
        return Episode(ref.id, {source: streams[source] for source in sources if source in streams})


def _only(files: Sequence[FileStamp]) -> FileStamp:
    if len(files) != 1:
        raise InputError(f"{files[0].uri}: grouped with {len(files) - 1} more files; one MCAP file is one episode")
    return files[0]


def _topic_of(name: str, summary: Summary) -> str | None:
    """The topic that a source begins with; the longest where a topic's own name holds a dot."""
    topics = [topic for topic in summary.topics() if name == topic or name.startswith(f"{topic}.")]
    return max(topics, key=len, default=None)


def _collect(
    opened, summary: Summary, wanted: Mapping[str, Mapping[str, tuple[str, Selector | None]]], spec: InputSpec
) -> dict[str, Collector]:
    """Read the wanted topics, each with its sources, in one pass over the file."""
    channels_of = summary.topics()
    collectors: dict[str, Collector] = {}
    by_channel: dict[int, Collector] = {}
    # A count is only a hint, and no more messages can be there than their indexes, or the file, have room for.
    room = sum(chunk.index_length for chunk in summary.chunks) // 16 if summary.chunks else summary.data_end // 31
    for topic, sources in wanted.items():
        channels = channels_of[topic]
        reserve = min(sum(summary.message_counts.get(channel.id, 0) for channel in channels), room)
        collectors[topic] = Collector(_decoder(channels, sources, spec, reserve, summary.uri), reserve)
        by_channel.update({channel.id: collectors[topic] for channel in channels})
    if by_channel:
        for window in read_messages(opened, summary, by_channel.keys(), verify=spec.verify_checksums):
            for channel_id, messages in window.items():
                by_channel[channel_id].add(channel_id, messages)
    return collectors


def _decoder(
    channels: Sequence[Channel],
    sources: Mapping[str, tuple[str, Selector | None]],
    spec: InputSpec,
    reserve: int,
    uri: str,
) -> Topic:
    first, where = channels[0], f"{uri}: {channels[0].topic}"
    for other in channels[1:]:
        if (other.encoding, other.schema) != (first.encoding, first.schema):
            raise InputError(f"{where}: its channels have schemas {_type(first)} and {_type(other)}, which do not mix")
    schema, stamped = first.schema, spec.stamp == "header"
    if first.encoding == "json":
        return JsonTopic(first.topic, sources, stamped=stamped, where=uri)
    if first.encoding == "cdr" and schema is not None and schema.encoding == "ros2msg":
        root = parse_ros2msg(schema.name, schema.data, where)
        return CdrTopic(first.topic, root, sources, stamped=stamped, reserve=reserve, where=uri)
    if not sources:
        return UnknownTopic()
    encoding = f"message encoding {first.encoding!r} with schema encoding {schema.encoding if schema else ''!r}"
    raise InputError(f"{where}: {encoding}; cdr with ros2msg, and json, can be read")


def _type(channel: Channel) -> str:
    return channel.schema.name if channel.schema else channel.encoding
