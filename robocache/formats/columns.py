"""Arrow columns to stream values: what CSV, Parquet and LeRobot share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robocache.errors import InputError
from robocache.types import Values


def column_values(column: pa.ChunkedArray, *, where: str) -> Values:
    """A column of ``n`` rows as stream values.

    Numbers keep their dtype ``[n]``; lists of one length, nested or not, become ``[n, *shape]``. Nulls become NaN
    (integers and booleans with nulls become float64). Binary, text and Hugging Face images (``struct<bytes, path>``)
    stay payloads. ``InputError``, beginning with ``where``, for lists of differing length and for other types.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # the data outgrew one chunk's 32-bit offsets
        raise InputError(f"{where}: more than 2 GiB of payload in one column of one episode")
    array = _plain(array)
    kind = array.type
    if is_payload(kind):
        return _payloads(array, where)
    return _numbers(array, where)


def is_payload(kind: pa.DataType) -> bool:
    """True for the Arrow types that become opaque payloads."""
    types = pa.types
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """True for the Arrow types of one number a row, and for a column without any value."""
    types = pa.types
    return any(test(kind) for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_null))


def type_name(kind: pa.DataType) -> str:
    """How ``robocache inspect`` shows a column's type: ``float32[26]``, ``image``, ``string``."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_struct(kind) and is_payload(kind):
        return "image"
    shape = ""
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        shape += f"[{kind.list_size}]" if pa.types.is_fixed_size_list(kind) else "[]"
        kind = kind.value_type
    return f"{ {'double': 'float64', 'float': 'float32', 'halffloat': 'float16'}.get(str(kind), kind) }{shape}"


def _plain(array: pa.Array) -> pa.Array:
    """Strip what does not change the values: extension types and dictionary encoding."""
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    if isinstance(array, pa.DictionaryArray):
        return array.dictionary_decode()
    return array


def _payloads(array: pa.Array, where: str) -> pa.Array:
    if not pa.types.is_struct(array.type):
        return array
    payload = pc.struct_field(array, "bytes")
    if len(payload) and payload.null_count == len(payload):
        raise InputError(f"{where}: its images are in separate files, not in the table; embed them to read them")
    return payload


def _numbers(array: pa.Array, where: str) -> np.ndarray:
    """Numbers of an array, lists as trailing axes."""
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if is_number(kind):
        if array.null_count == 0:
            return array.to_numpy(zero_copy_only=False)
        wide = array if pa.types.is_floating(kind) else array.cast(pa.float64(), safe=False)
        return wide.to_numpy(zero_copy_only=False)
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind) and array.null_count == 0:
        return array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_numpy()
    if pa.types.is_fixed_size_list(kind):
        width = kind.list_size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        width = _common_length(array, where)
    else:
        raise InputError(f"{where}: values of type {kind} cannot be read as a stream")
    flat = _numbers(_plain(array.flatten()), where)  # the rows that are there
    rows = flat.reshape(len(array) - array.null_count, width, *flat.shape[1:])
    if array.null_count == 0:
        return rows
    values = np.full((len(array), *rows.shape[1:]), np.nan, np.result_type(rows.dtype, np.float32))
    values[array.is_valid().to_numpy(zero_copy_only=False)] = rows
    return values


def _common_length(array: pa.Array, where: str) -> int:
    """The one length of a variable-length list column."""
    lengths = pc.list_value_length(array)
    if lengths.null_count == len(lengths):
        return 0
    width = lengths.drop_null()[0].as_py()
    row = pc.index(pc.not_equal(lengths, width), True).as_py()
    if row >= 0:
        raise InputError(
            f"{where}: rows must have one length, row {row + 1} has {lengths[row].as_py()} values, others {width}"
        )
    return width


def episode_indices(file: pq.ParquetFile) -> list[int]:
    """The distinct values of the integer column ``episode_index``, sorted; empty where there is no such column."""
    schema = file.schema_arrow
    at = schema.get_field_index("episode_index")
    if at < 0 or not pa.types.is_integer(schema.field(at).type):
        return []
    return sorted(_episode_column(file).unique().drop_null().to_pylist())


def _episode_column(file: pq.ParquetFile) -> pa.ChunkedArray:
    # Read rather than taken from the statistics: it is as small, and pyarrow aborts the process on damaged statistics.
    return file.read(columns=["episode_index"]).column("episode_index")


def read_rows(file: pq.ParquetFile, columns: Sequence[str], episode: int | None) -> pa.Table:
    """Those columns of a Parquet file; with ``episode``, only the rows whose ``episode_index`` it is.

    Row groups without a row of the episode are not read.
    """
    if episode is None:
        return file.read(columns=list(columns)).select(list(columns))
    rows = np.flatnonzero(_episode_column(file).to_numpy() == episode)
    lengths = np.array([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)], np.int64)
    ends = np.cumsum(lengths)
    groups, nth = np.unique(np.searchsorted(ends, rows, side="right"), return_inverse=True)
    table = file.read_row_groups(groups.tolist(), columns=list(columns)).select(list(columns))
    if not len(rows):
        return table
    skipped = (ends - lengths)[groups] - (np.cumsum(lengths[groups]) - lengths[groups])  # rows of groups left out
    rows = rows - skipped[nth]
    if rows[-1] - rows[0] + 1 == len(rows):  # one run, as a rule: a slice costs nothing
        return table.slice(int(rows[0]), len(rows))
    return table.take(pa.array(rows))
