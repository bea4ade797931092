"""Points as records: fields at places in rows of equal length, taken apart without a copy of what is not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robocache.clouds.columns import Cloud, Field
from robocache.errors import InputError


class Placed(NamedTuple):
    """A field at a byte of the record."""

    field: Field
    offset: int


#: Names of bytes that are there for the alignment alone.
PADDING = ("_", "")


def real_fields(placed: Sequence[Placed]) -> list[Placed]:
    """The fields that hold something. ``InputError`` where two have one name."""
    found = [item for item in placed if item.field.name not in PADDING]
    names = [item.field.name for item in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two fields of the cloud are called {twice!r}")
    return found


def read_records(
    data: np.ndarray, placed: Sequence[Placed], *, rows: int, columns: int, step: int, row_step: int, big: bool = False
) -> Cloud:
    """``rows x columns`` points from uint8 ``data``, which the caller has found long enough.

    step: bytes from point to point; row_step: from row to row; big: numbers are big-endian
    ``InputError`` where a field does not lie within a point.
    """
    found: dict[str, np.ndarray] = {}
    for field, offset in real_fields(placed):
        item = field.dtype.newbyteorder(">" if big else "<")
        if offset < 0 or offset + item.itemsize * field.count > step:
            raise InputError(f"field {field} at byte {offset} does not fit in points of {step} bytes")
        if not rows * columns:
            column = np.empty((0, field.count), field.dtype)
        else:
            view: np.ndarray = np.ndarray(
                (rows, columns, field.count), item, data, offset, (row_step, step, item.itemsize)
            )
            column = view.reshape(-1, field.count).astype(field.dtype)
        found[field.name] = column[:, 0] if field.count == 1 else column
    return Cloud(found)
