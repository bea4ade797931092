"""Images of depths as LeRobot's videos have them: codes of 12 bits, finer where they are near, which H.265 keeps.

The mapping is LeRobot's own (from 0.6 on), so that its reader gives the depths back; what is no reading, or nearer than
``NEAR``, is 0 there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.video.encode import Encoding
from robocache.video.read import pyav

#: Metres of the codes 0 and 4095, and what is added before the logarithm.
NEAR, FAR, SHIFT, MOST = 0.01, 10.0, 3.5, 4095
ENCODING = Encoding("h265", pixels="gray12le", lossless=True)
#: Encodings of images that are depths, as ROS has them: millimetres of whole numbers, metres of fractions.
IMAGES = ("16UC1", "32FC1")
_NAMES = {"near": "video.depth_min", "far": "video.depth_max", "shift": "video.shift", "log": "video.use_log"}


def depth_info(unit: str) -> dict[str, Any]:
    """What info.json says of the codes; unit: of the depths that were recorded, ``mm`` or ``m``."""
    told = dict(zip(_NAMES.values(), (NEAR, FAR, SHIFT, True), strict=True))
    return {"is_depth_map": True, "video.is_depth_map": True, "video.channels": 1, "depth_unit": unit, **told}


def told_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """What another dataset's info.json says of its depths; nothing where they are none."""
    if not (info.get("is_depth_map") or info.get("video.is_depth_map")):
        return {}
    kept = (*_NAMES.values(), "depth_unit")
    return depth_info("mm") | {key: info[key] for key in kept if key in info}


def codes(depths: np.ndarray) -> np.ndarray:
    """uint16: of depths in millimetres (whole numbers) or metres (fractions)."""
    metres = depths.astype(np.float64) if depths.dtype.kind == "f" else depths * 0.001
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (np.log(metres + SHIFT) - np.log(NEAR + SHIFT)) / (np.log(FAR + SHIFT) - np.log(NEAR + SHIFT))
    return np.rint(np.clip(np.where(np.isnan(share), 0.0, share), 0.0, 1.0) * MOST).astype(np.uint16)


def depths(found: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """The depths of codes, in the unit that info.json tells."""
    near, far, shift, log = (info[name] for name in _NAMES.values())
    low, high = (np.log(near + shift), np.log(far + shift)) if log else (near, far)
    metres = found * ((high - low) / MOST) + low
    metres = np.exp(metres) - shift if log else metres
    return metres * (1.0 if info["depth_unit"] == "m" else 1000.0)


def images(column: pa.ChunkedArray | pa.Array, shape: tuple[int, ...]) -> np.ndarray:
    """The depths of all rows, ``[n, height, width]``."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    while pa.types.is_fixed_size_list(flat.type):
        flat = flat.flatten()
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), *shape[:2])


def frames(column: pa.ChunkedArray, shape: tuple[int, ...]) -> Iterator[Any]:
    """A frame of codes for each row, one at a time."""
    for image in images(column, shape):
        yield pyav().VideoFrame.from_ndarray(codes(image), format=ENCODING.pixels)


def outside(column: pa.ChunkedArray, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many depths are read, but not within ``NEAR`` to ``FAR``; and how many are read."""
    found = images(column, shape)
    metres = found.astype(np.float64) if found.dtype.kind == "f" else found * 0.001
    read = (metres > 0) & np.isfinite(metres)
    return int((read & ((metres < NEAR) | (metres > FAR))).sum()), int(read.sum())
