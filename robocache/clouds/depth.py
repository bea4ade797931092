"""Images of depth: a point a pixel, by the camera's intrinsics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from robocache.clouds.columns import Cloud, Field

#: Of a camera without distortion, in pixels; ``scale``: metres of a depth of 1.
CAMERA = ("fx", "fy", "cx", "cy", "scale")
DEPTH_FIELDS = tuple(Field(axis, np.dtype(np.float32)) for axis in "xyz")


def decode_depth(image: np.ndarray, about: Mapping[str, Any]) -> Cloud:
    """The points of an image ``[H, W]`` or ``[H, W, 1]`` of depths along the optical axis, row by row, in the camera's
    frame: x right, y down, z ahead; ``about["camera"]`` has :data:`CAMERA`.

    A pixel without a reading (0, less, or not finite) is a point of NaN. Computed in float64, float32 in the end.
    """
    fx, fy, cx, cy, scale = (float(about["camera"][key]) for key in CAMERA)
    depth = image.reshape(image.shape[:2]).astype(np.float64) * scale
    depth[~(depth > 0) | np.isinf(depth)] = np.nan
    rows, columns = (np.arange(n, dtype=np.float64) for n in depth.shape)
    x, y = (columns - cx) / fx * depth, ((rows - cy) / fy)[:, None] * depth
    return Cloud({axis: part.astype(np.float32).ravel() for axis, part in zip("xyz", (x, y, depth), strict=True)})


#: The largest code of 12 bits.
_MOST_CODE = 4095


def log_codes(metres: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depths as codes of 12 bits whose steps grow with the depth, as the errors of depth cameras do: uint16.

    0 is no reading (0, less, or not finite); 1 to 4095 are ``near`` to ``far``, each 1 + ln(far / near) / 4094 times as
    deep as the one before, and what is outside takes the nearer of the two.
    """
    read = (metres > 0) & np.isfinite(metres)
    inside = np.clip(np.where(read, metres, near), near, far)
    codes = 1 + np.round(np.log(inside / near) / np.log(far / near) * (_MOST_CODE - 1))
    return np.where(read, codes, 0).astype(np.uint16)


def log_depths(codes: np.ndarray, near: float, far: float) -> np.ndarray:
    """The depths that codes stand for, in metres, float32; NaN of no reading. The reverse of :func:`log_codes`, to
    within half a step."""
    steps = (np.asarray(codes, np.float64) - 1) / (_MOST_CODE - 1)
    depth = near * np.exp(steps * np.log(far / near))
    return np.where(np.asarray(codes) == 0, np.nan, depth).astype(np.float32)
