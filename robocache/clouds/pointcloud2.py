"""``sensor_msgs/PointCloud2``: points as records whose layout the message itself states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.clouds.columns import Cloud, Field
from robocache.clouds.records import Placed, read_records
from robocache.errors import InputError

#: A message as a sample of a stream; ``fields`` are the same throughout and stand in the stream's ``about``.
MESSAGE = pa.struct(
    [
        ("height", pa.uint32()),
        ("width", pa.uint32()),
        ("point_step", pa.uint32()),
        ("row_step", pa.uint32()),
        ("is_bigendian", pa.bool_()),
        ("data", pa.large_binary()),
    ]
)
#: ``PointField.datatype``.
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


def message_fields(about: Mapping[str, Any]) -> list[Placed]:
    """The fields that a stream's ``about`` states. ``InputError`` where it states none, or a type that is unknown."""
    if "fields" not in about:
        raise InputError("the fields of the cloud are not the same in all messages, so they cannot be read as one")
    found = []
    for stated in about["fields"]:
        dtype = _DTYPES.get(stated["datatype"])
        if dtype is None:
            raise InputError(f"field {stated['name']!r} of the cloud has the unknown datatype {stated['datatype']}")
        # Some drivers leave the count at 0 and mean the one number that is there.
        found.append(Placed(Field(stated["name"], np.dtype(dtype), stated["count"] or 1), stated["offset"]))
    return found


def decode_message(message: pa.StructScalar, about: Mapping[str, Any]) -> Cloud:
    """The points of one message, row by row. ``InputError`` where it states more than it holds."""
    height, width, step, row_step = (message[key].as_py() for key in ("height", "width", "point_step", "row_step"))
    data = np.frombuffer(message["data"].as_buffer(), np.uint8)
    if height == 1:
        row_step = width * step  # drivers that have but one row do not always state its length
    if row_step < width * step:
        raise InputError(f"rows of {row_step} bytes cannot hold {width} points of {step}")
    needed = row_step * (height - 1) + width * step if height and width else 0
    if len(data) < needed:
        raise InputError(f"{height} x {width} points of {step} bytes take {needed} bytes, the message has {len(data)}")
    return read_records(
        data,
        message_fields(about),
        rows=height,
        columns=width,
        step=step,
        row_step=row_step,
        big=message["is_bigendian"].as_py(),
    )
