"""Write an MCAP log from columns: every message of a topic is one row of a byte matrix, no per-message Python.

Container layout: https://mcap.dev/spec. Written as recorders write it: chunks of about 1 MiB, each followed by its
message indexes, then a summary with statistics and chunk indexes, CRCs everywhere the format has room for one.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa

MAGIC = b"\x89MCAP0\r\n"
CHUNK_BYTES = 1 << 20

HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, SUMMARY_OFFSET, DATA_END = 0x0B, 0x0E, 0x0F

_INDEX_ENTRY = np.dtype([("log_time", "<u8"), ("offset", "<u8")])

Compression = Literal["zstd", "lz4", "none"]


@dataclass(frozen=True, slots=True)
class TopicLog:
    """All messages of one topic, in the order the topic delivered them.

    schema:        message type, e.g. ``sensor_msgs/msg/Imu``, and ``definition`` its ros2msg text
    payloads:      uint8 ``[n, k]``, one CDR payload a row
    log_times:     int64 nanoseconds ``[n]``, >= 0; the file is in their order
    publish_times: int64 nanoseconds ``[n]``, >= 0
    """

    name: str
    schema: str
    definition: str
    payloads: np.ndarray
    log_times: np.ndarray
    publish_times: np.ndarray


def write_mcap(path: str | os.PathLike[str], topics: Sequence[TopicLog], *, compression: Compression = "zstd") -> None:
    """Write one ROS 2 log. Messages are interleaved by log time; equal times keep topic, then row order.

    ``ValueError`` for another compression; ``OSError`` passes through.
    """
    if compression not in ("zstd", "lz4", "none"):
        raise ValueError(f"compression must be zstd, lz4 or none, got {compression!r}")
    if not sum(len(topic.log_times) for topic in topics):
        raise ValueError("no messages: a log needs at least one")
    schemas, channels = _declarations(topics)
    log_times, channel_ids, starts, body = _interleave(b"".join(schemas + channels), topics)
    chunks = _chunks(starts, len(body))
    with open(path, "wb") as file:
        out = _Output(file)
        out.write(MAGIC, _record(HEADER, _string("ros2"), _string("robocache")))
        indexes = [
            _write_chunk(out, compression, body[lo:hi], log_times[a:b], channel_ids[a:b], starts[a:b] - lo)
            for a, b, lo, hi in chunks
        ]
        out.write(_record(DATA_END, struct.pack("<I", out.crc)))

        groups = [
            (SCHEMA, schemas),
            (CHANNEL, channels),
            (STATISTICS, [_statistics(log_times, topics, len(schemas), len(chunks))]),
            (CHUNK_INDEX, indexes),
        ]
        _write_summary(out, groups)


class _Output:
    """A file that knows its position and the CRC of what it was given."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.position, self.crc = file, 0, 0

    def write(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            self.file.write(part)
            self.position += len(part)
            self.crc = zlib.crc32(part, self.crc)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _uint_map(pairs: Iterable[tuple[int, int]]) -> bytes:
    data = b"".join(struct.pack("<HQ", key, value) for key, value in pairs)
    return struct.pack("<I", len(data)) + data


def _record(opcode: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack("<BQ", opcode, len(content)) + content


def _declarations(topics: Sequence[TopicLog]) -> tuple[list[bytes], list[bytes]]:
    """Schema and channel records; ids count from 1, topics of one type share its schema."""
    definitions = {topic.schema: topic.definition for topic in topics}
    ids = {name: number for number, name in enumerate(definitions, 1)}
    schemas = [
        _record(SCHEMA, struct.pack("<H", ids[name]), _string(name), _string("ros2msg"), _string(text))
        for name, text in definitions.items()
    ]
    channels = [
        _record(
            CHANNEL,
            struct.pack("<HH", number, ids[topic.schema]),
            _string(topic.name),
            _string("cdr"),
            struct.pack("<I", 0),
        )
        for number, topic in enumerate(topics, 1)
    ]
    return schemas, channels


def _message_records(number: int, topic: TopicLog) -> np.ndarray:
    """The message records of one topic, uint8 ``[n, 31 + k]``."""
    count, size = topic.payloads.shape
    layout = [("opcode", "u1"), ("length", "<u8"), ("channel", "<u2"), ("sequence", "<u4")]
    layout += [("log_time", "<u8"), ("publish_time", "<u8")]
    head = np.zeros(count, np.dtype(layout))
    head["opcode"] = MESSAGE
    head["length"] = head.dtype.itemsize - 9 + size
    head["channel"] = number
    head["sequence"] = np.arange(count)
    head["log_time"] = topic.log_times
    head["publish_time"] = topic.publish_times
    records = np.empty((count, head.dtype.itemsize + size), np.uint8)
    records[:, : head.dtype.itemsize] = head.view(np.uint8).reshape(count, head.dtype.itemsize)
    records[:, head.dtype.itemsize :] = topic.payloads
    return records


def _interleave(
    declarations: bytes, topics: Sequence[TopicLog]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, memoryview]:
    """All records in file order, the declarations first.

    Returns, for each message, its log time int64 ``[n]``, channel id ``[n]`` and first byte ``[n]``, and the body.
    """
    matrices = [_message_records(number, topic) for number, topic in enumerate(topics, 1)]
    log_times = np.concatenate([topic.log_times for topic in topics])
    channel_ids = np.repeat(np.arange(1, len(topics) + 1), [len(m) for m in matrices])
    order = np.argsort(log_times, kind="stable")

    # Arrow's take gathers records of unequal length with one memcpy each; row 0 is the declarations.
    sizes = np.concatenate([[len(declarations)], *(np.full(len(m), m.shape[1]) for m in matrices)])
    records = np.concatenate([np.frombuffer(declarations, np.uint8), *(m.reshape(-1) for m in matrices)])
    buffers = [None, pa.py_buffer(np.concatenate([[0], np.cumsum(sizes)])), pa.py_buffer(records)]
    unordered = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), buffers)
    body = unordered.take(pa.array(np.concatenate([[0], order + 1])))
    offsets = np.frombuffer(body.buffers()[1], np.int64, len(body) + 1)
    return log_times[order], channel_ids[order], offsets[1:-1], memoryview(body.buffers()[2])[: offsets[-1]]


def _chunks(starts: np.ndarray, total: int) -> list[tuple[int, int, int, int]]:
    """The chunks as row range and byte range: a new one whenever another CHUNK_BYTES have begun.

    The first reaches back to byte 0, where the declarations are.
    """
    rows = np.flatnonzero(np.diff(starts // CHUNK_BYTES, prepend=-1))
    rows[0] = 0
    edges = np.concatenate([[0], starts[rows[1:]], [total]]).tolist()
    rows_end = [*rows[1:].tolist(), len(starts)]
    return list(zip(rows.tolist(), rows_end, edges[:-1], edges[1:], strict=True))


def _write_chunk(
    out: _Output,
    compression: Compression,
    plain: memoryview,
    log_times: np.ndarray,
    channel_ids: np.ndarray,
    offsets: np.ndarray,
) -> bytes:
    """Write one chunk and its message indexes; returns its chunk index record. ``offsets`` count from its begin."""
    packed = plain if compression == "none" else pa.Codec(compression).compress(plain, asbytes=True)
    name = _string("" if compression == "none" else compression)
    times = struct.pack("<QQ", int(log_times.min()), int(log_times.max()))
    head = times + struct.pack("<QI", len(plain), zlib.crc32(plain)) + name + struct.pack("<Q", len(packed))
    start = out.position
    out.write(struct.pack("<BQ", CHUNK, len(head) + len(packed)), head, packed)

    end = out.position
    index_offsets = []
    for channel in np.unique(channel_ids).tolist():
        rows = np.flatnonzero(channel_ids == channel)
        entries = np.empty(len(rows), _INDEX_ENTRY)
        entries["log_time"] = log_times[rows]
        entries["offset"] = offsets[rows]
        index_offsets.append((channel, out.position))
        out.write(_record(MESSAGE_INDEX, struct.pack("<HI", channel, entries.nbytes), entries.tobytes()))
    return _record(
        CHUNK_INDEX,
        times,
        struct.pack("<QQ", start, end - start),
        _uint_map(index_offsets),
        struct.pack("<Q", out.position - end),
        name,
        struct.pack("<QQ", len(packed), len(plain)),
    )


def _statistics(log_times: np.ndarray, topics: Sequence[TopicLog], schemas: int, chunks: int) -> bytes:
    counts = [(number, len(topic.log_times)) for number, topic in enumerate(topics, 1)]
    return _record(
        STATISTICS,
        struct.pack("<QHIIII", len(log_times), schemas, len(topics), 0, 0, chunks),
        struct.pack("<QQ", int(log_times.min()), int(log_times.max())),
        _uint_map(counts),
    )


def _write_summary(out: _Output, groups: Sequence[tuple[int, Sequence[bytes]]]) -> None:
    """The summary, the offsets of its groups, the footer and the closing magic."""
    summary_start = out.position
    out.crc = 0  # the summary's CRC begins here
    offsets = []
    for opcode, records in groups:
        start = out.position
        out.write(*records)
        offsets.append(_record(SUMMARY_OFFSET, struct.pack("<BQQ", opcode, start, out.position - start)))
    offsets_start = out.position
    out.write(*offsets, struct.pack("<BQQQ", FOOTER, 20, summary_start, offsets_start))
    out.write(struct.pack("<I", out.crc), MAGIC)
