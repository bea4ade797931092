"""Names of the alignment modes and voxel reductions: what stands here is said nowhere else. Imports no torch."""

from __future__ import annotations

#: Names; their positions are the kernels' ``Mode`` (kernels/include/robocache/align/types.h).
MODES = ("linear", "cubic", "nearest", "previous", "next", "mean", "slerp", "pose", "angle")

#: Columns of the modes that take no other number of them.
WIDTHS = {"slerp": 4, "pose": 7}

#: Modes that a period belongs to: values on a circle. Without one a mean is an ordinary mean.
PERIODIC = ("angle", "mean")

#: Modes that gradients pass through: linear in the values.
DIFFERENTIABLE = ("linear", "nearest", "previous", "next", "mean")

#: Voxel reductions; their positions are the kernels' ``Reduction`` (kernels/include/robocache/voxel/types.h).
REDUCTIONS = ("occupancy", "count", "sum", "mean", "min", "max", "points")
