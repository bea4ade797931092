"""Encoding of a part: tables of whole episodes to the bytes of one Parquet or Arrow IPC file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robocache.output.schema import SEPARATOR

_DICTIONARY = "DICTIONARY"
#: An episode is a row group (Parquet) or a record batch (Arrow); a larger one is cut at about this many bytes.
GROUP_BYTES = 64 << 20
#: About how many bytes of a column are a page, what a reader reads at once.
PAGE_BYTES = 1 << 20


def encode(
    episodes: Sequence[pa.Table],
    format: str,
    compression: str,
    *,
    separator: str = ".",
    byte_stream_split: bool = False,
    group_rows: int = 0,
    plainly: bool = False,
) -> pa.Buffer:
    """One file of tables of one schema. Depends on nothing but its arguments: the same rows give the same bytes on
    every run.

    separator: what names have for a dot; byte_stream_split: of floats, where they are compressed;
    group_rows: at most so many make a row group, 0: what ``GROUP_BYTES`` hold
    plainly: in two thirds of the time: pages end less exactly, and of numbers in lists no least and largest are told
    """
    codec = None if compression == "none" else compression
    sink = pa.BufferOutputStream()
    episodes = _named(_unified(episodes), separator)
    schema = episodes[0].schema
    if format == "arrow":
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            for group in groups(episodes, group_rows):
                writer.write_table(group)
        return sink.getvalue()
    encodings = {_leaf(field): _encoding(field, byte_stream_split and codec is not None) for field in schema}
    repeated = {f"{field.name}.bytes": _DICTIONARY for field in schema if _repeats(episodes, field)}
    encodings |= repeated
    with pq.ParquetWriter(
        sink,
        schema,
        compression=codec or "none",
        use_dictionary=[leaf for leaf, encoding in encodings.items() if encoding == _DICTIONARY],
        column_encoding={leaf: encoding for leaf, encoding in encodings.items() if encoding != _DICTIONARY},
        dictionary_pagesize_limit=GROUP_BYTES if repeated else PAGE_BYTES,
        write_batch_size=_batch_rows(episodes, 8192 if plainly else 1024),
        write_statistics=[f.name for f in schema if not pa.types.is_nested(f.type)] if plainly else True,
        write_page_index=True,
        write_page_checksum=True,
    ) as writer:
        for group in groups(episodes, group_rows):
            writer.write_table(group, row_group_size=group.num_rows)
    return sink.getvalue()


def _unified(episodes: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """With one dictionary for all, which is what an Arrow file can hold."""
    if not any(pa.types.is_dictionary(field.type) for field in episodes[0].schema):
        return episodes
    whole, at, out = pa.concat_tables(episodes).unify_dictionaries(), 0, []
    for table in episodes:
        out.append(whole.slice(at, table.num_rows))
        at += table.num_rows
    return out


def _named(episodes: Sequence[pa.Table], separator: str) -> Sequence[pa.Table]:
    """With names as the file is to have them."""
    if separator == ".":
        return episodes
    names = [name.replace(".", separator) for name in episodes[0].schema.names]
    metadata = {**(episodes[0].schema.metadata or {}), SEPARATOR: separator.encode()}
    return [table.rename_columns(names).replace_schema_metadata(metadata) for table in episodes]


def _batch_rows(episodes: Sequence[pa.Table], most: int) -> int:
    """Rows between two looks at whether a page is full, so that one of images is not a thousand of them."""
    row = max(table.nbytes / max(1, table.num_rows) for table in episodes)
    return min(most, math.ceil(PAGE_BYTES / max(1.0, row)))  # that many fill it


def groups(episodes: Sequence[pa.Table], most: int = 0) -> Iterator[pa.Table]:
    """Each episode, or its pieces where it is larger than ``GROUP_BYTES`` or has over ``most`` rows (0: no limit), as
    one contiguous table.
    """
    for table in episodes:
        rows = max(1, GROUP_BYTES * table.num_rows // max(1, table.nbytes))
        rows = min(rows, most) if most else rows
        for at in range(0, table.num_rows, rows):
            yield table.slice(at, rows).combine_chunks()


def _element(type: pa.DataType) -> pa.DataType:
    """What the innermost list holds; the type itself where it is no list."""
    return _element(type.value_type) if pa.types.is_fixed_size_list(type) else type


def _encoding(field: pa.Field, byte_stream_split: bool) -> str:
    kind = _element(field.type)
    if field.name in ("frame_index", "time_ns"):
        return "DELTA_BINARY_PACKED"  # steps that are all the same, or nearly
    if pa.types.is_floating(kind):
        # Bytes of one significance side by side: noisy numbers get smaller by an eighth, and zstd is done sooner.
        return "BYTE_STREAM_SPLIT" if byte_stream_split else "PLAIN"
    if pa.types.is_integer(kind) and kind.bit_width > 16 and field.name != "episode_index":
        return "PLAIN"
    return _DICTIONARY  # where there are too many values for one, Parquet stops using it


def _repeats(episodes: Sequence[pa.Table], field: pa.Field) -> bool:
    """Whether it is payloads of which neighbours are the same: a frame that several rows have is then stored once."""
    if not pa.types.is_struct(field.type) or "bytes" not in {f.name for f in field.type}:
        return False
    for table in episodes:
        for chunk in table.column(field.name).chunks:
            data = chunk.field("bytes")
            sizes = pc.binary_length(data).to_numpy(zero_copy_only=False)
            for k in np.flatnonzero(sizes[1:] == sizes[:-1]).tolist():
                if sizes[k] and data[k].as_buffer() == data[k + 1].as_buffer():
                    return True
    return False


def _leaf(field: pa.Field) -> str:
    """The field's column as Parquet names it."""
    path, type = field.name, field.type
    while pa.types.is_fixed_size_list(type):
        path, type = f"{path}.list.element", type.value_type
    return path
