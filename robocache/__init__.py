"""RoboCache: raw multi-rate robot logs in, one time-aligned, training-ready Arrow dataset out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when first used, so that `import robocache` costs neither torch nor pyarrow, and needs no Ray.
_HOME = {
    "run": "robocache.engine.run",
    "verify": "robocache.output.verify",
    "Output": "robocache.output.dataset",
    "Dataset": "robocache.output.torch",
    "fuse_multimodal": "robocache.ops",
    "resample_trajectories": "robocache.ops",
    "StreamSpec": "robocache.ops",
    "voxelize": "robocache.ops.voxelize",
    "integrate_tsdf": "robocache.ops.voxelize",
    "voxelize_chunked": "robocache.ops.voxelize_chunked",
    "estimate_voxel_memory": "robocache.ops.voxelize_chunked",
    "fuse_multimodal_chunked": "robocache.ops.chunked",
    "resample_trajectories_chunked": "robocache.ops.chunked",
    "estimate_memory": "robocache.ops.chunked",
    "estimate_chunk_size": "robocache.ops.chunked",
    "convert_rotation": "robocache.ops.rotations",
    "continuous_quaternions": "robocache.ops.rotations",
    "relative_pose": "robocache.ops.rotations",
    "compose_pose": "robocache.ops.rotations",
    "KinematicChain": "robocache.ops.kinematics",
    "to_delta": "robocache.ops.actions",
    "from_delta": "robocache.ops.actions",
    "chain_starts": "robocache.ops.actions",
    "normalize_gripper": "robocache.ops.actions",
    "unnormalize_gripper": "robocache.ops.actions",
    "binarize_gripper": "robocache.ops.actions",
    "normalize": "robocache.ops.normalize",
    "unnormalize": "robocache.ops.normalize",
    "Episode": "robocache.types",
    "Stream": "robocache.types",
    "AlignEpisodes": "robocache.engine.ray.data",
    "EpisodeDatasource": "robocache.engine.ray.data",
    "episode_rows": "robocache.engine.ray.data",
    "read_episodes": "robocache.engine.ray.data",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robocache' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
