"""The grid of voxels: a box and how it is cut. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

#: Voxels of a batch together: linear numbers stay well within int64.
MOST_CELLS = 2**62


class Grid(NamedTuple):
    """A box cut into voxels. ``shape``: how many along x, y and z; the last ones may reach beyond ``upper``."""

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    size: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def cells(self) -> int:
        return math.prod(self.shape)

    @property
    def box(self) -> list[float]:
        """As the operators take it: lower corner, upper corner, size."""
        return [*self.lower, *self.upper, *self.size]

    @classmethod
    def of(cls, voxel_size: float | Sequence[float], bounds: Sequence[Sequence[float]]) -> Grid:
        """As many voxels as cover the bounds; a bound within a millionth of a voxel of an edge lies on it.

        ``ValueError`` where the numbers make no grid.
        """
        size = _three("voxel_size", [voxel_size] * 3 if isinstance(voxel_size, int | float) else voxel_size)
        if len(bounds) != 2:
            raise ValueError(f"bounds must be ((x0, y0, z0), (x1, y1, z1)), got {bounds}")
        lower, upper = _three("bounds[0]", bounds[0]), _three("bounds[1]", bounds[1])
        if not all(s > 0 and math.isfinite(1 / s) for s in size):
            raise ValueError(f"voxel_size must be above 0, got {voxel_size}")
        if not all(a < b for a, b in zip(lower, upper, strict=True)):
            raise ValueError(f"bounds must rise along every axis, got {lower} to {upper}")
        counts = []
        for a, b, s in zip(lower, upper, size, strict=True):
            ratio = (b - a) / s
            nearest = round(ratio) if ratio < 2**31 else 2**31
            counts.append(max(1, nearest if abs(ratio - nearest) < 1e-6 else math.ceil(min(ratio, 2**31))))
        shape = (counts[0], counts[1], counts[2])
        if max(shape) >= 2**31 - 1 or math.prod(shape) > MOST_CELLS:
            raise ValueError(f"{shape[0]} x {shape[1]} x {shape[2]} voxels: use a larger voxel_size or closer bounds")
        return cls(lower, upper, size, shape)


def _three(name: str, values: Any) -> tuple[float, float, float]:
    try:
        x, y, z = (float(v) for v in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be three numbers, got {values!r}") from None
    if not all(map(math.isfinite, (x, y, z))):
        raise ValueError(f"{name} must be finite, got {values!r}")
    return x, y, z
