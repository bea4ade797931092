"""Encoding of a part: tables of whole episodes to the bytes of one Parquet or Arrow IPC file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

_DICTIONARY = "DICTIONARY"
#: An episode is a row group (Parquet) or a record batch (Arrow); a larger one is cut at about this many bytes.
GROUP_BYTES = 64 << 20


def encode(schema: pa.Schema, episodes: Sequence[pa.Table], format: str, compression: str) -> pa.Buffer:
    """One file. Depends on nothing but its arguments: the same rows give the same bytes on every run."""
    codec = None if compression == "none" else compression
    sink = pa.BufferOutputStream()
    if format == "arrow":
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            for group in groups(episodes):
                writer.write_table(group)
        return sink.getvalue()
    encodings = {_leaf(field): _encoding(field, codec) for field in schema}
    with pq.ParquetWriter(
        sink,
        schema,
        compression=codec or "none",
        use_dictionary=[leaf for leaf, encoding in encodings.items() if encoding == _DICTIONARY],
        column_encoding={leaf: encoding for leaf, encoding in encodings.items() if encoding != _DICTIONARY},
        write_page_index=True,
        write_page_checksum=True,
    ) as writer:
        for group in groups(episodes):
            writer.write_table(group, row_group_size=group.num_rows)
    return sink.getvalue()


def groups(episodes: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Each episode, or its pieces where it is larger than ``GROUP_BYTES``, as one contiguous table."""
    for table in episodes:
        rows = max(1, GROUP_BYTES * table.num_rows // max(1, table.nbytes))
        for at in range(0, table.num_rows, rows):
            yield table.slice(at, rows).combine_chunks()


def _element(type: pa.DataType) -> pa.DataType:
    """What the innermost list holds; the type itself where it is no list."""
    return _element(type.value_type) if pa.types.is_fixed_size_list(type) else type


def _encoding(field: pa.Field, codec: str | None) -> str:
    kind = _element(field.type)
    if field.name in ("frame_index", "time_ns"):
        return "DELTA_BINARY_PACKED"  # steps that are all the same, or nearly
    if pa.types.is_floating(kind):
        # Bytes of one significance side by side: noisy numbers get smaller by an eighth, and zstd is done sooner.
        return "BYTE_STREAM_SPLIT" if codec else "PLAIN"
    if pa.types.is_integer(kind) and kind.bit_width > 16 and field.name != "episode_index":
        return "PLAIN"
    return _DICTIONARY  # where there are too many values for one, Parquet stops using it


def _leaf(field: pa.Field) -> str:
    """The field's column as Parquet names it."""
    path, type = field.name, field.type
    while pa.types.is_fixed_size_list(type):
        path, type = f"{path}.list.element", type.value_type
    return path
