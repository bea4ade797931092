"""Clouds written by hand: as PointCloud2 messages, as PCD and LAS files."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from message_kit import header, make

from robocache.clouds import MESSAGE

CLOUD2, POINT_FIELD = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/PointField"
#: ``PointField.datatype`` of NumPy's types.
DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
#: x, y, z, intensity and a counter, unaligned, with two bytes that mean nothing.
LAYOUT = [("x", 0, "f4"), ("y", 4, "f4"), ("z", 8, "f4"), ("intensity", 13, "u2"), ("t", 15, "f8")]
STEP = 25


def points(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {axis: random.uniform(-1, 1, count).astype(np.float32) for axis in "xyz"}
    return found | {"intensity": random.integers(0, 60_000, count).astype(np.uint16), "t": random.random(count)}


def packed(columns: dict[str, np.ndarray], rows: int, pad: int, big: bool) -> bytes:
    """Rows of points one after the other, ``pad`` bytes behind each row, value by value."""
    count = len(columns["x"])
    data, each = bytearray(), count // rows
    for i in range(count):
        point = bytearray(STEP)
        for name, offset, kind in LAYOUT:
            code = {"f4": "f", "u2": "H", "f8": "d"}[kind]
            struct.pack_into((">" if big else "<") + code, point, offset, columns[name][i])
        data += point
        if (i + 1) % each == 0:
            data += b"\xee" * pad
    return bytes(data)


def layout(columns: dict[str, np.ndarray], rows: int = 1, pad: int = 0, big: bool = False) -> dict[str, Any]:
    """What a message says of itself."""
    each = len(columns["x"]) // rows
    return {
        "height": rows,
        "width": each,
        "point_step": STEP,
        "row_step": each * STEP + pad,
        "is_bigendian": big,
        "data": packed(columns, rows, pad, big),
    }


def fields() -> list[dict[str, Any]]:
    return [{"name": n, "offset": at, "datatype": DATATYPES[kind], "count": 1} for n, at, kind in LAYOUT]


def payload(message: dict[str, Any]) -> pa.StructScalar:
    """A sample of a stream of clouds."""
    return pa.array([message], MESSAGE)[0]


def message(ns: int, columns: dict[str, np.ndarray], **how: Any) -> Any:
    """A ROS message."""
    said = layout(columns, **how)
    stated = [make(POINT_FIELD, f["name"], f["offset"], f["datatype"], f["count"]) for f in fields()]
    data = np.frombuffer(said["data"], np.uint8)
    return make(
        CLOUD2,
        header(ns, "lidar"),
        said["height"],
        said["width"],
        stated,
        said["is_bigendian"],
        said["point_step"],
        said["row_step"],
        data,
        True,
    )


def pcd(columns: dict[str, np.ndarray], encoding: str = "binary") -> bytes:
    """A PCD file."""
    count = len(columns["x"])
    kinds = {"f": "F", "i": "I", "u": "U"}
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(columns)}",
        f"SIZE {' '.join(str(c.dtype.itemsize) for c in columns.values())}",
        f"TYPE {' '.join(kinds[c.dtype.kind] for c in columns.values())}",
        f"COUNT {' '.join('1' for _ in columns)}",
        f"WIDTH {count}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {count}",
        f"DATA {encoding}",
    ]
    head = "\n".join(lines).encode() + b"\n"
    if encoding == "ascii":
        rows = zip(*(c.tolist() for c in columns.values()), strict=True)
        return head + "".join(" ".join(map(repr, row)) + "\n" for row in rows).encode()
    if encoding == "binary":
        return head + b"".join(b"".join(c[i : i + 1].tobytes() for c in columns.values()) for i in range(count))
    plain = b"".join(c.tobytes() for c in columns.values())
    pieces = [plain[i : i + 32] for i in range(0, len(plain), 32)]
    literal = b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)  # LZF that says everything itself
    return head + struct.pack("<II", len(literal), len(plain)) + literal


def las(xyz: np.ndarray, intensity: np.ndarray, *, scale: float = 0.001, offset: float = 0.0) -> bytes:
    """A LAS 1.2 file of point format 0."""
    whole = np.round((xyz - offset) / scale).astype("<i4")
    head = bytearray(227)
    head[:4] = b"LASF"
    head[24:26] = bytes([1, 2])
    struct.pack_into("<HII", head, 94, 227, 227, 0)
    struct.pack_into("<BHI", head, 104, 0, 20, len(xyz))
    struct.pack_into("<3d3d", head, 131, *[scale] * 3, *[offset] * 3)
    top, low = xyz.max(axis=0), xyz.min(axis=0)
    struct.pack_into("<6d", head, 179, top[0], low[0], top[1], low[1], top[2], low[2])
    rows = np.zeros(len(xyz), [("xyz", "<i4", 3), ("i", "<u2"), ("rest", "u1", 6)])
    rows["xyz"], rows["i"] = whole, intensity
    return bytes(head) + rows.tobytes()
