"""Tensors in, tensors out: alignment and fusion on compiled kernels, with a plain-torch twin of each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robocache.ops.modes import MODES, WIDTHS

if TYPE_CHECKING:
    from robocache.ops.align import StreamSpec, fuse_multimodal, resample_trajectories

# Imported when first used, so that the modes' names cost no torch.
_HOME = {
    "StreamSpec": "robocache.ops.align",
    "fuse_multimodal": "robocache.ops.align",
    "resample_trajectories": "robocache.ops.align",
}
__all__ = ["MODES", "WIDTHS", "StreamSpec", "fuse_multimodal", "resample_trajectories"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robocache.ops' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
