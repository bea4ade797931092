"""Tensors in, tensors out: alignment and fusion on compiled kernels, with a plain-torch twin of each."""

from robocache.ops._library import MODES
from robocache.ops.align import StreamSpec, fuse_multimodal, resample_trajectories

__all__ = ["MODES", "StreamSpec", "fuse_multimodal", "resample_trajectories"]
