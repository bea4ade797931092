"""One log of any length, made of copies of a short one that follow each other: written as fast as it compresses.

    python benchmarks/long_log.py SHORT.mcap LONG.mcap --gigabytes 5

The short log's messages begin with a ``std_msgs/Header``, as those of the sample logs do; its chunks are indexed.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
import zstandard
from mcap.reader import make_reader

MAGIC = b"\x89MCAP0\r\n"
_LOG_TIME, _PUBLISH_TIME, _SECONDS = 15, 23, 31 + 4  # in a message's record; the header's behind the encapsulation


def _record(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _add(data: np.ndarray, at: np.ndarray, dtype: str, number: int) -> None:
    """Add to the numbers that begin at these bytes."""
    where = at[:, None] + np.arange(np.dtype(dtype).itemsize)
    numbers = np.ascontiguousarray(data[where]).view(dtype)
    data[where] = (numbers + np.array(number, dtype)).view(np.uint8)


class _Chunk:
    """A chunk of the short log: its records, and by channel when its messages came and where they are."""

    def __init__(self, records: bytes, index: dict[int, np.ndarray]):
        self.records, self.index = np.frombuffer(records, np.uint8), index
        self.at = np.concatenate([entries[:, 1] for entries in index.values()]).astype(np.int64)

    def later(self, seconds: int) -> tuple[bytes, dict[int, np.ndarray]]:
        """All of it so much later."""
        data = self.records.copy()
        for offset in (_LOG_TIME, _PUBLISH_TIME):
            _add(data, self.at + offset, "<u8", seconds * 10**9)
        _add(data, self.at + _SECONDS, "<i4", seconds)
        shift = np.array([seconds * 10**9, 0], np.uint64)
        return data.tobytes(), {id: entries + shift for id, entries in self.index.items()}


def _chunks(path: Path) -> list[_Chunk]:
    data, found = path.read_bytes(), []
    summary = make_reader(path.open("rb")).get_summary()
    assert summary is not None
    for index in summary.chunk_indexes:
        end = index.chunk_start_offset + index.chunk_length
        records = zstandard.decompress(data[end - index.compressed_size : end], index.uncompressed_size)
        entries = {}
        for id, offset in index.message_index_offsets.items():
            (nbytes,) = struct.unpack_from("<I", data, offset + 11)  # record 9, channel 2
            entries[id] = np.frombuffer(data, "<u8", nbytes // 8, offset + 15).reshape(-1, 2)
        found.append(_Chunk(records, entries))
    return found


def lengthen(short: Path, long: Path, nbytes: float) -> None:
    """Write copies of a log behind each other until they take so many bytes."""
    chunks, codec = _chunks(short), zstandard.ZstdCompressor(level=1)
    summary = make_reader(short.open("rb")).get_summary()
    assert summary is not None and summary.statistics is not None
    first, last = summary.statistics.message_start_time, summary.statistics.message_end_time
    step = -(-(last - first) // 10**9) + 1
    kinds = b""
    for schema in summary.schemas.values():
        content = struct.pack("<H", schema.id) + _text(schema.name) + _text(schema.encoding)
        kinds += _record(3, content + struct.pack("<I", len(schema.data)) + schema.data)
    for channel in summary.channels.values():
        content = struct.pack("<HH", channel.id, channel.schema_id) + _text(channel.topic)
        kinds += _record(4, content + _text(channel.message_encoding) + struct.pack("<I", 0))
    indexes, counts, copies = [], dict.fromkeys(summary.channels, 0), 0
    with long.open("wb") as file:
        file.write(MAGIC + _record(1, _text("ros2") + _text("")) + kinds)
        while file.tell() < nbytes:
            for chunk in chunks:
                records, index = chunk.later(copies * step)
                packed = codec.compress(records)
                times = np.concatenate([entries[:, 0] for entries in index.values()])
                bounds = struct.pack("<QQ", times.min(), times.max())
                content = bounds + struct.pack("<QI", len(records), 0) + _text("zstd") + struct.pack("<Q", len(packed))
                start = file.tell()
                file.write(_record(6, content + packed))
                length, offsets = file.tell() - start, b""
                for id, entries in index.items():
                    counts[id] += len(entries)
                    offsets += struct.pack("<HQ", id, file.tell())
                    file.write(_record(7, struct.pack("<HI", id, entries.nbytes) + entries.astype("<u8").tobytes()))
                content = bounds + struct.pack("<QQI", start, length, len(offsets)) + offsets
                content += struct.pack("<Q", file.tell() - start - length) + _text("zstd")
                indexes.append(_record(8, content + struct.pack("<QQ", len(packed), len(records))))
            copies += 1
        file.write(_record(15, struct.pack("<I", 0)))
        begin = file.tell()
        told = b"".join(struct.pack("<HQ", id, count) for id, count in counts.items())
        numbers = (sum(counts.values()), len(summary.schemas), len(counts), 0, 0, len(indexes), first)
        content = struct.pack("<QHIIIIQQ", *numbers, last + (copies - 1) * step * 10**9)
        file.write(kinds + _record(11, content + struct.pack("<I", len(told)) + told) + b"".join(indexes))
        file.write(_record(2, struct.pack("<QQI", begin, 0, 0)) + MAGIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("short", type=Path)
    parser.add_argument("long", type=Path)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    args = parser.parse_args()
    lengthen(args.short, args.long, args.gigabytes * 1e9)


if __name__ == "__main__":
    main()
