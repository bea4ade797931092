"""Arrow columns to stream values, and rows of Parquet files: what CSV, Parquet and LeRobot share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robocache.errors import InputError
from robocache.formats.compression import refuse_bomb
from robocache.types import Values


class Column(NamedTuple):
    """Values of ``n`` rows, and bool ``[n, width]``, False where a number is missing (None: none is)."""

    values: Values
    present: np.ndarray | None = None


def read_column(column: pa.ChunkedArray, *, where: str) -> Column:
    """A column of ``n`` rows as stream values.

    Numbers and truth values keep their type ``[n]``; lists of one length, nested or not, become ``[n, *shape]``, lists
    whose lengths differ stay Arrow lists. What is null, and a list that is empty beside others, is NaN, or a zero that
    is not present. Binary, text and Hugging Face images (``struct<bytes, path>``) stay Arrow. ``InputError``,
    beginning with ``where``, for other types.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # the data outgrew one chunk's 32-bit offsets
        raise InputError(f"{where}: more than 2 GiB of payload in one column of one episode")
    array = _plain(array, where)
    if is_payload(array.type):
        return Column(_payloads(array, where))
    kind = stream_type(array.type, where=where)
    if is_payload(_innermost(kind)):
        return Column(array)
    found = _numbers(array, where)
    if found is None:
        return Column(array.cast(kind))
    values, present = found
    return Column(values, None if present is None else present.reshape(len(values), -1))


def stream_type(kind: pa.DataType, *, where: str) -> pa.DataType:
    """The type of a stream that :func:`read_column` makes of a column, as far as the schema tells: a list without a
    fixed length stays one. ``InputError`` for types that cannot be read."""
    if isinstance(kind, pa.BaseExtensionType):
        return stream_type(kind.storage_type, where=where)
    if pa.types.is_dictionary(kind):
        return stream_type(kind.value_type, where=where)
    if pa.types.is_struct(kind) and is_payload(kind):
        return kind.field("bytes").type
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(stream_type(kind.value_type, where=where), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(stream_type(kind.value_type, where=where))
    if is_payload(kind):
        return kind
    plain = _number_type(kind)
    if plain is None:
        raise InputError(f"{where}: values of type {kind} cannot be read as a stream")
    return plain


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


def _innermost(kind: pa.DataType) -> pa.DataType:
    while is_list(kind):
        kind = kind.value_type
    return kind


def _number_type(kind: pa.DataType) -> pa.DataType | None:
    """What one number of a column is read as: dates and times count their units, what is null throughout is NaN."""
    if pa.types.is_null(kind):
        return pa.float64()
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if pa.types.is_decimal(kind):
        return pa.float64()
    return kind if is_number(kind) else None


def is_list(kind: pa.DataType) -> bool:
    """True for lists of any kind."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain(array: pa.Array, where: str) -> pa.Array:
    """Strip what does not change the values: extension types and dictionary encoding."""
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage, where)
    if isinstance(array, pa.DictionaryArray):
        if is_payload(array.type.value_type):  # rows of one text that is long
            sizes = pc.binary_length(array.dictionary).take(array.indices)
            refuse_bomb(where, pc.sum(sizes).as_py() or 0, array.nbytes)
        return array.dictionary_decode()
    return array


def _payloads(array: pa.Array, where: str) -> pa.Array:
    if not pa.types.is_struct(array.type):
        return array
    payload = pc.struct_field(array, "bytes")
    if len(payload) and payload.null_count == len(payload):
        raise InputError(f"{where}: its images are in separate files, not in the table; embed them to read them")
    return payload


def _numbers(array: pa.Array, where: str) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Numbers of an array, lists as trailing axes, and which of them are there; None where lengths differ."""
    kind = array.type
    if is_list(kind):
        return _lists(array, where)
    plain = stream_type(kind, where=where)
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan), None
    if not is_number(kind):
        array = array.cast(plain) if pa.types.is_decimal(kind) else array.view(plain)
    if array.null_count == 0 or pa.types.is_floating(plain):
        return array.to_numpy(zero_copy_only=False), None
    missing = False if pa.types.is_boolean(plain) else 0
    return pc.fill_null(array, missing).to_numpy(zero_copy_only=False), _valid(array)


def _lists(array: pa.Array, where: str) -> tuple[np.ndarray, np.ndarray | None] | None:
    lengths = pc.list_value_length(array)
    sizes = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    width = array.type.list_size if pa.types.is_fixed_size_list(array.type) else int(sizes.max(initial=0))
    there = sizes == width if width else _valid(array)
    if width and not np.all(there | (sizes == 0)):
        return None
    items = array.flatten() if there.all() else array.filter(pa.array(there)).flatten()
    found = _numbers(_plain(items, where), where)
    if found is None:
        return None
    flat, known = found
    rows = flat.reshape(int(there.sum()), width, *flat.shape[1:])
    if there.all():
        return rows, None if known is None else known.reshape(len(rows), -1)
    fill = np.nan if rows.dtype.kind == "f" else 0
    values = np.full((len(array), *rows.shape[1:]), fill, rows.dtype)
    values[there] = rows
    if rows.dtype.kind == "f":
        return values, None
    present = np.zeros((len(array), rows[0].size if len(rows) else 0), bool)
    present[there] = True if known is None else known.reshape(len(rows), -1)
    return values, present


def _valid(array: pa.Array) -> np.ndarray:
    return array.is_valid().to_numpy(zero_copy_only=False)
