"""What lies in an output's folder, read as if anybody might have put it there: each lack is a ``ValueError``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from robocache.parquet import arrow_batches, read_parquet

#: What a file of rows, which may be far smaller, is unpacked to at most, or else so many times its own size: to be held
#: all at once, and to be looked at piece by piece.
UNPACKED, LOOKED_AT, RATIO = 128 << 20, 4 << 30, 64
#: What its rows that are kept together, a row group or a record batch, unpack to: a run cuts them at 64 MB or so.
MOST_GROUP = 256 << 20


def parsed(data: bytes | str) -> Any:
    """JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("its lists are nested hundreds deep") from None


def mapping(value: Any, what: str = "it") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no mapping")
    return value


def text(value: Any, what: str) -> str:
    """Text that any encoding can hold."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {str(value)[:40]!r}, which is no text")
    value.encode()  # UnicodeEncodeError is a ValueError
    return value


def count(value: Any, what: str) -> int:
    """A whole number from 0 on that arrays can have for a length."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 48:
        raise ValueError(f"{what} is {str(value)[:40]!r}, which is no count")
    return value


def unpacked(
    file: pq.ParquetFile, size: int, columns: Iterable[str] | None = None, *, most: int | None = None
) -> pa.Table:
    """All rows of a Parquet file of ``size`` bytes, or of some columns; refused where they take far more than those."""
    return read_parquet(file, None if columns is None else list(columns), _limit(size, most), piece=_limit_group(size))


def unpacked_arrow(data: pa.Buffer, *, most: int | None = None) -> pa.Table:
    """All rows of an Arrow file, likewise."""
    schema, batches = arrow_batches(data, _limit(data.size, most), _limit_group(data.size))
    return pa.Table.from_batches(list(batches), schema)


def pieces(file: IO[bytes], size: int, format: str, rows: int) -> Iterator[pa.Table]:
    """All rows of a part of ``size`` bytes, one row group or record batch at a time: far more than can be held."""
    limit = _limit(size, LOOKED_AT)
    if format == "arrow":
        _, batches = arrow_batches(file, limit, _limit_group(size))
        yield from (pa.Table.from_batches([batch]) for batch in batches)
        return
    opened, before = pq.ParquetFile(file), 0
    if opened.metadata.num_rows != rows:
        raise ValueError(f"it has {opened.metadata.num_rows} rows, the manifest says {rows}")
    for group in range(opened.num_row_groups):
        few = partial(_limit_group(size), opened.metadata.row_group(group).num_rows)
        table = read_parquet(opened, None, few, [group], piece=_limit_group(size))
        limit(before := before + table.nbytes)
        yield table


def most_held(size: int, most: int | None) -> int:
    """How many bytes of rows are held that came out of ``size`` bytes: ``most``, or in proportion to them."""
    return max(UNPACKED if most is None else most, RATIO * size)


def _limit(size: int, most: int | None) -> Callable[[int], None]:
    allowed = most_held(size, most)

    def refuse(held: int) -> None:
        if held > allowed:
            raise ValueError(f"its {size} bytes unpack to {held} or more, at most {allowed} are taken from them")

    return refuse


def _limit_group(size: int) -> Callable[[int, int], None]:
    def refuse(rows: int, held: int) -> None:
        if held > MOST_GROUP and (rows > 1 or held > RATIO * size):
            raise ValueError(f"{rows} rows of it are kept together and unpack to {held} bytes, a run keeps 64 MB so")

    return refuse
