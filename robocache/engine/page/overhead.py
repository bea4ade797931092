"""Clouds and voxels seen from above, small: where their points are, not what they hold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.clouds import decode_cloud
from robocache.types import StreamType

#: Cells across a cloud that has no grid of its own, and pixels that a picture has at least.
_CELLS, _PIXELS = 120, 160
#: From few to many points above a place: the page's tile, then its blue.
_FEW, _MANY = np.array([214, 234, 246.0]), np.array([0, 62, 110.0])
_EMPTY = np.array([243, 245, 247.0])


def is_cloud(field: pa.Field) -> bool:
    """Whether rows of a column hold points or voxels."""
    about = _about(field)
    return isinstance(about.get("voxels"), dict) or about.get("kind") == "cloud"


def overhead(field: pa.Field, row: pa.Scalar) -> np.ndarray | None:
    """uint8 ``[height, width, 3]``, y upwards, x to the right, darker where more is above a place; None where there is
    nothing. ``InputError`` where a cloud is damaged.
    """
    about = _about(field)
    if not row.is_valid:
        return None
    if isinstance(about.get("voxels"), dict):
        counts = _of_voxels(row, tuple(about["voxels"]["shape"]))
    else:
        payload: Any = row
        if pa.types.is_fixed_size_list(row.type):  # an image of depths
            kind = StreamType(field.type, about)
            payload = np.array(row.as_py()).reshape(kind.shape)
        counts = _of_points(decode_cloud(payload, about).places())
    if not counts.any():
        return None
    shade = (np.log1p(counts) / np.log1p(counts.max()))[..., None]
    image = np.where(counts[..., None] > 0, _FEW + (_MANY - _FEW) * shade, _EMPTY).astype(np.uint8)
    image = image.transpose(1, 0, 2)[::-1]
    times = max(1, -(-_PIXELS // max(image.shape[:2])))
    return np.ascontiguousarray(image.repeat(times, axis=0).repeat(times, axis=1))


def _about(field: pa.Field) -> dict[str, Any]:
    return {key.decode(): json.loads(value) for key, value in (field.metadata or {}).items()}


def _of_voxels(row: pa.Scalar, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels above each place ``[X, Y]`` that hold something."""
    if isinstance(row, pa.StructScalar):
        counts = np.zeros(shape[:2], np.int64)
        places = row["coordinates"].values.flatten().to_numpy().reshape(-1, 3)
        np.add.at(counts, (places[:, 0], places[:, 1]), 1)
        return counts
    values: Any = row.values
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    dense = np.nan_to_num(values.to_numpy(zero_copy_only=False).astype(np.float64).reshape(*shape, -1))
    return (dense != 0).any(axis=-1).sum(axis=-1)


def _of_points(places: np.ndarray) -> np.ndarray:
    """Points above each place, over the box that holds all but a few."""
    there = places[np.isfinite(places).all(axis=1), :2]
    if not len(there):
        return np.zeros((1, 1), np.int64)
    low, high = np.quantile(there, [0.005, 0.995], axis=0)
    cell = max(float((high - low).max()) / _CELLS, 1e-9)
    numbers = np.floor((there - low) / cell).astype(np.int64)
    shape = np.maximum(np.ceil((high - low) / cell).astype(np.int64), 1)
    inside = ((numbers >= 0) & (numbers < shape)).all(axis=1)
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, tuple(numbers[inside].T), 1)
    return counts
