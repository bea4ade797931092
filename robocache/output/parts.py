"""Encoding of a part: tables of whole episodes to the bytes of one Parquet or Arrow IPC file, and back."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from robocache.output import statistics
from robocache.output.statistics import Statistics

#: Key in the file's metadata that holds the part's statistics.
STATISTICS_KEY = b"robocache.statistics"
#: Whole episodes share a row group up to this many rows; a longer episode has its own, cut at this many.
ROW_GROUP_ROWS = 65536


def encode(
    schema: pa.Schema, episodes: Sequence[pa.Table], stats: dict[str, Statistics], format: str, compression: str
) -> pa.Buffer:
    """One file. Depends on nothing but its arguments: the same rows give the same bytes on every run."""
    codec = None if compression == "none" else compression
    metadata = {STATISTICS_KEY: base64.b64encode(statistics.to_bytes(stats))}
    sink = pa.BufferOutputStream()
    if format == "arrow":
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with pa.ipc.new_file(sink, schema.with_metadata(metadata), options=options) as writer:
            for group in row_groups(episodes):
                writer.write_table(group, max_chunksize=ROW_GROUP_ROWS)
        return sink.getvalue()
    plain = [f.name for f in schema if not pa.types.is_floating(f.type) and not pa.types.is_nested(f.type)]
    # Bytes of one significance side by side: noisy floats get smaller by an eighth, and zstd is done sooner.
    split = [_leaf(f) for f in schema if codec and pa.types.is_floating(_element(f.type))]
    with pq.ParquetWriter(
        sink,
        schema,
        compression=codec or "none",
        use_dictionary=plain,
        use_byte_stream_split=split,
        write_page_checksum=True,
    ) as writer:
        for group in row_groups(episodes):
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(metadata)
    return sink.getvalue()


def _element(type: pa.DataType) -> pa.DataType:
    """What the innermost list holds; the type itself where it is no list."""
    return _element(type.value_type) if pa.types.is_fixed_size_list(type) else type


def _leaf(field: pa.Field) -> str:
    """The field's column as Parquet names it."""
    path, type = field.name, field.type
    while pa.types.is_fixed_size_list(type):
        path, type = f"{path}.list.element", type.value_type
    return path


def row_groups(episodes: Sequence[pa.Table]) -> list[pa.Table]:
    """Whole episodes together while they fit ROW_GROUP_ROWS, each group as one contiguous table."""
    groups: list[list[pa.Table]] = []
    rows = 0
    for table in episodes:
        rows += table.num_rows
        if not groups or rows > ROW_GROUP_ROWS:
            groups.append([])
            rows = table.num_rows
        groups[-1].append(table)
    return [pa.concat_tables(group).combine_chunks() for group in groups]


def footer_size(tail: bytes, format: str) -> int:
    """How many bytes from a part's end :func:`read_statistics` needs, as its last ten bytes say."""
    trailer = len(b"ARROW1") if format == "arrow" else len(b"PAR1")
    return int.from_bytes(tail[-trailer - 4 : -trailer], "little") + 4 + trailer


def read_statistics(footer: bytes, format: str) -> dict[str, Statistics]:
    """The statistics that :func:`encode` put into a part, of which the end is enough (see :func:`footer_size`)."""
    file = pa.BufferReader(footer)
    metadata = pa.ipc.open_file(file).schema.metadata if format == "arrow" else pq.read_metadata(file).metadata
    return statistics.from_bytes(base64.b64decode(metadata[STATISTICS_KEY]))
