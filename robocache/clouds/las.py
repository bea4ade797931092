"""LAS, the files of laser surveys, as laspy reads them: places scaled to float64, everything else as recorded."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from robocache.clouds.columns import Cloud, Field
from robocache.errors import InputError

#: How a file begins.
MAGIC = b"LASF"
#: Bytes of the longest header, that of 1.4; least bytes of a record of variable length, and of an extended one.
_HEADER, _RECORD, _EXTENDED = 375, 54, 60


def las_fields(stream: Any) -> list[Field]:
    """The fields of an open file, of which only the header is read. ``InputError`` where it is damaged."""
    return _read(stream, lambda opened: _fields(opened.header.point_format))


def decode_las(data: bytes) -> Cloud:
    """The points of a file in their order. ``InputError`` where it is damaged."""
    return _read(io.BytesIO(data), lambda opened: _points(opened, len(data)))


def _read(stream: Any, ask: Any) -> Any:
    """What ``ask`` has of the file as laspy opens it, once the header's counts have been found possible."""
    import laspy

    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    _check_counts(stream.read(_HEADER), size)
    stream.seek(0)
    try:
        with laspy.open(stream, closefd=False, read_evlrs=False) as opened:  # their lengths are any
            return ask(opened)
    except (laspy.LaspyException, ValueError, OverflowError, KeyError, TypeError, struct.error) as error:
        raise InputError(f"the LAS file: {error}") from None


def _check_counts(head: bytes, size: int) -> None:
    """``InputError`` where a header counts more records than its file has room for: laspy would look for them all."""
    if len(head) < 227 or not head.startswith(MAGIC):
        raise InputError(f"{len(head)} bytes are no LAS file; its header alone takes 227")
    minor = head[25]
    header, first_point, records = struct.unpack_from("<HII", head, 94)
    if header < 227 or first_point < header or first_point > size or records * _RECORD > first_point - header:
        raise InputError(
            f"the header of the LAS file counts {records} records in {header} to {first_point} of its {size} bytes"
        )
    if minor >= 4 and len(head) == _HEADER:
        first, extended = struct.unpack_from("<QI", head, 235)
        if extended and (first < first_point or first + extended * _EXTENDED > size):
            raise InputError(
                f"the header of the LAS file counts {extended} extended records from byte {first} of {size}"
            )


def _points(opened: Any, size: int) -> Cloud:
    header = opened.header
    if header.are_points_compressed:
        raise InputError("the points are compressed (LAZ); decompress the file, as with laszip")
    if header.point_count * header.point_format.size > size - header.offset_to_point_data:
        raise InputError(
            f"{header.point_count} points of {header.point_format.size} bytes are promised, the file is shorter"
        )
    points, fields = opened.read(), _fields(header.point_format)
    return Cloud({f.name: np.asarray(points[f.name]).astype(f.dtype, copy=False) for f in fields})


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
