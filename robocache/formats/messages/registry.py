"""Which messages can be read: a decoder for each pair of message and schema encoding, whatever the container."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robocache.errors import InputError
from robocache.formats.messages.batch import Schema
from robocache.formats.messages.cdr import CdrTopic
from robocache.formats.messages.definitions import parse_definition
from robocache.formats.messages.flatbuffer import FlatbufferTopic
from robocache.formats.messages.idl import parse_idl
from robocache.formats.messages.json_topic import JsonTopic
from robocache.formats.messages.known import known_definition
from robocache.formats.messages.packed import PackedTopic
from robocache.formats.messages.packing import ROS1
from robocache.formats.messages.protobuf import ProtobufTopic
from robocache.formats.messages.topic import Request, Topic
from robocache.formats.messages.ulog_types import parse_formats

#: A topic of these messages: (topic, schema, requests, reserve, uri).
Decoding = Callable[[str, "Schema | None", Sequence[Request], int, str], Topic]


def _ros1(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
    assert schema is not None
    root = parse_definition(schema.name, schema.data, f"{uri}: {topic}", ros1=True)
    return PackedTopic(topic, root, requests, ROS1, reserve=reserve, uri=uri)


def _cdr(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
    assert schema is not None
    parse = parse_definition if schema.encoding == "ros2msg" else parse_idl
    root = parse(schema.name, schema.data, f"{uri}: {topic}")
    return CdrTopic(topic, root, requests, reserve=reserve, uri=uri)


def _protobuf(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
    assert schema is not None
    return ProtobufTopic(topic, schema, requests, reserve=reserve, uri=uri)


def _flatbuffer(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
    assert schema is not None
    return FlatbufferTopic(topic, schema, requests, reserve=reserve, uri=uri)


def _ulog(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
    assert schema is not None
    root = parse_formats(schema, f"{uri}: {topic}").root
    return PackedTopic(topic, root, requests, ROS1, reserve=reserve, uri=uri)


def _json(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
    return JsonTopic(topic, schema.name if schema else "", requests, uri=uri)


#: By message encoding and schema encoding; ``*``: whatever the schema.
ENCODINGS: dict[tuple[str, str], Decoding] = {
    ("cdr", "ros2msg"): _cdr,
    ("cdr", "ros2idl"): _cdr,
    ("cdr", "omgidl"): _cdr,
    ("ros1", "ros1msg"): _ros1,
    ("protobuf", "protobuf"): _protobuf,
    ("flatbuffer", "flatbuffer"): _flatbuffer,
    ("ulog", "ulog"): _ulog,
    ("json", "*"): _json,
}


def decode_topic(
    topic: str, encoding: str, schema: Schema | None, requests: Sequence[Request], *, reserve: int, uri: str
) -> Topic:
    """What collects the messages of a topic. ``InputError`` where they cannot be read."""
    schema = _completed(encoding, schema)
    if why := unreadable(encoding, schema):
        raise InputError(f"{uri}: {topic}: {why}")
    decoding = ENCODINGS.get((encoding, schema.encoding if schema else "")) or ENCODINGS[encoding, "*"]
    return decoding(topic, schema, requests, reserve, uri)


def _completed(encoding: str, schema: Schema | None) -> Schema | None:
    """A schema that names a well-known type without saying what it holds, with what that is."""
    if encoding != "cdr" or schema is None or schema.encoding not in ("", "ros2msg") or schema.data.strip():
        return schema
    definition = known_definition(schema.name)
    return Schema(schema.name, "ros2msg", definition) if definition else schema


#: What to do about messages that are not read, by message encoding and schema encoding.
_REMEDIES = {
    ("cdr", ""): "its type is none that is the same in every release of ROS 2: write the file again with its schemas, "
    "as with ros2 bag convert where its package is installed",
    ("cdr", "ros1msg"): "the file is at odds with itself, ROS 1 messages are encoded as ros1",
}


def unreadable(encoding: str, schema: Schema | None) -> str:
    """What messages are that cannot be read, what can be, and the remedy; empty where they can."""
    kind = schema.encoding if schema else ""
    name = f" (schema {schema.name!r})" if schema else ""
    if (encoding, kind) in ENCODINGS or (encoding, "*") in ENCODINGS:
        if schema is None or (encoding, kind) not in ENCODINGS or schema.data.strip() or schema.name.endswith("/Empty"):
            return ""
        return (
            f"its schema{name} is empty, so what its messages hold is not known; recorders write none where a "
            "definition is not installed: record or convert it where it is"
        )
    readable = [f"{message} with {kind}" if kind != "*" else message for message, kind in ENCODINGS]
    remedy = _REMEDIES.get((encoding, kind), "write them again as one of these")
    return (
        f"message encoding {encoding!r} with schema encoding {kind!r}{name} is not read; "
        f"{', '.join(readable[:-1])}, and {readable[-1]}, are; {remedy}"
    )
