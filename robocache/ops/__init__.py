"""Tensors in, tensors out: alignment and voxels on compiled kernels, with a plain-torch twin of each.

``voxelize`` is a module here and the function in it: ``robocache.voxelize``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robocache.ops.modes import MODES, REDUCTIONS, WIDTHS

if TYPE_CHECKING:
    from robocache.ops.align import StreamSpec, fuse_multimodal, limit_l2_fetch, resample_trajectories
    from robocache.ops.voxelize import DenseVoxels, SparseVoxels, TsdfVolume, integrate_tsdf

# Imported when first used, so that the modes' names cost no torch.
_HOME = {
    "StreamSpec": "robocache.ops.align",
    "fuse_multimodal": "robocache.ops.align",
    "limit_l2_fetch": "robocache.ops.align",
    "resample_trajectories": "robocache.ops.align",
    "DenseVoxels": "robocache.ops.voxelize",
    "SparseVoxels": "robocache.ops.voxelize",
    "TsdfVolume": "robocache.ops.voxelize",
    "integrate_tsdf": "robocache.ops.voxelize",
}
__all__ = [
    "MODES",
    "REDUCTIONS",
    "WIDTHS",
    "DenseVoxels",
    "SparseVoxels",
    "StreamSpec",
    "TsdfVolume",
    "fuse_multimodal",
    "integrate_tsdf",
    "limit_l2_fetch",
    "resample_trajectories",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robocache.ops' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
