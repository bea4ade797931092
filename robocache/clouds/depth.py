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
