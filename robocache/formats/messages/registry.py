"""Which messages can be read: a decoder for each pair of message and schema encoding, whatever the container."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robocache.errors import InputError
from robocache.formats.messages.batch import Schema
from robocache.formats.messages.definitions import parse_definition
from robocache.formats.messages.json_topic import JsonTopic
from robocache.formats.messages.packed import PackedTopic
from robocache.formats.messages.packing import CDR, ROS1, Packing
from robocache.formats.messages.topic import Request, Topic, UnknownTopic

#: A topic of these messages: (topic, schema, requests, reserve, uri).
Decoding = Callable[[str, "Schema | None", Sequence[Request], int, str], Topic]


def _packed(packing: Packing, ros1: bool) -> Decoding:
    def topic(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
        assert schema is not None
        root = parse_definition(schema.name, schema.data, f"{uri}: {topic}", ros1=ros1)
        return PackedTopic(topic, root, requests, packing, reserve=reserve, uri=uri)

    return topic


def _json(topic: str, schema: Schema | None, requests: Sequence[Request], reserve: int, uri: str) -> Topic:
    return JsonTopic(topic, schema.name if schema else "", requests, uri=uri)


#: By message encoding and schema encoding; ``*``: whatever the schema.
ENCODINGS: dict[tuple[str, str], Decoding] = {
    ("cdr", "ros2msg"): _packed(CDR, ros1=False),
    ("ros1", "ros1msg"): _packed(ROS1, ros1=True),
    ("json", "*"): _json,
}


def decode_topic(
    topic: str, encoding: str, schema: Schema | None, requests: Sequence[Request], *, reserve: int, uri: str
) -> Topic:
    """What collects the messages of a topic. Of an encoding that is not read only the times; ``InputError`` where more
    is asked for."""
    schema_encoding = schema.encoding if schema else ""
    decoding = ENCODINGS.get((encoding, schema_encoding)) or ENCODINGS.get((encoding, "*"))
    if decoding is not None:
        return decoding(topic, schema, requests, reserve, uri)
    if not requests:
        return UnknownTopic()
    raise InputError(f"{uri}: {topic}: {unreadable(encoding, schema)}")


def unreadable(encoding: str, schema: Schema | None) -> str:
    """What messages are that cannot be read, and what can be."""
    readable = [f"{message} with {kind}" if kind != "*" else message for message, kind in ENCODINGS]
    found = f"message encoding {encoding!r} with schema encoding {schema.encoding if schema else ''!r}"
    if schema is not None:
        found += f" (schema {schema.name!r})"
    return f"{found}; {', '.join(readable[:-1])}, and {readable[-1]}, can be read"
