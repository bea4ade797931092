"""What lies in an output's folder, read as if anybody might have put it there: each lack is a ``ValueError``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robocache.parquet import read_arrow, read_parquet

#: What a file of rows, which may be far smaller, is unpacked to at most, and so many times its own size.
UNPACKED, RATIO = 4 << 30, 64
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


def unpacked(file: pq.ParquetFile, size: int, columns: Iterable[str] | None = None) -> pa.Table:
    """All rows of a Parquet file of ``size`` bytes, or of some columns; refused once they are far more than those."""
    return read_parquet(file, None if columns is None else list(columns), partial(_refuse, size), piece=_refuse_group)


def unpacked_arrow(data: pa.Buffer) -> pa.Table:
    """All rows of an Arrow file, likewise."""
    return read_arrow(data, partial(_refuse, data.size), _refuse_group)


def _refuse_group(rows: int, size: int) -> None:
    if rows > 1 and size > MOST_GROUP:
        raise ValueError(f"{rows} rows of it are kept together and unpack to {size} bytes, a run keeps some 64 MB so")


def _refuse(size: int, held: int) -> None:
    if held > (most := max(UNPACKED, RATIO * size)):
        raise ValueError(f"its {size} bytes unpack to {held} or more, at most {most} are taken from them")
