"""LAS, the files of laser surveys, as laspy reads them: places scaled to float64, everything else as recorded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from robocache.clouds.columns import Cloud, Field
from robocache.errors import InputError

#: How a file begins.
MAGIC = b"LASF"


def las_fields(stream: Any) -> list[Field]:
    """The fields of an open file, of which only the header is read. ``InputError`` where it is damaged."""
    import laspy

    try:
        with laspy.open(stream, closefd=False) as opened:
            return _fields(opened.header.point_format)
    except (laspy.LaspyException, ValueError, OverflowError, KeyError, TypeError) as error:
        raise InputError(f"the header of the LAS file: {error}") from None


def decode_las(data: bytes) -> Cloud:
    """The points of a file in their order. ``InputError`` where it is damaged."""
    import laspy

    try:
        with laspy.open(io.BytesIO(data)) as opened:
            header = opened.header
            size = header.point_format.size
            if opened.header.are_points_compressed:
                raise InputError("the points are compressed (LAZ); decompress the file, as with laszip")
            if header.point_count * size > len(data) - header.offset_to_point_data:
                raise InputError(f"{header.point_count} points of {size} bytes are promised, the file is shorter")
            points = opened.read()
            fields = _fields(header.point_format)
            return Cloud({f.name: np.asarray(points[f.name]).astype(f.dtype, copy=False) for f in fields})
    except (laspy.LaspyException, ValueError, OverflowError, KeyError, TypeError) as error:
        raise InputError(f"the LAS file: {error}") from None


def _fields(point_format: Any) -> list[Field]:
    """Of the point format, with x, y, z in metres instead of their whole numbers."""
    found = [Field(axis, np.dtype(np.float64)) for axis in "xyz"]
    for dimension in point_format.dimensions:
        if dimension.name not in ("X", "Y", "Z"):
            dtype = np.dtype(dimension.dtype).base if dimension.dtype is not None else _bits(dimension.num_bits)
            scaled = dimension.scales is not None
            found.append(Field(dimension.name, np.dtype(np.float64) if scaled else dtype, dimension.num_elements))
    return found


def _bits(bits: int) -> np.dtype:
    return np.dtype(np.uint8 if bits <= 8 else np.uint16)
