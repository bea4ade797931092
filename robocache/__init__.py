"""RoboCache: raw multi-rate robot logs in, one time-aligned, training-ready Arrow dataset out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors
    from robocache.engine.ray.data import AlignEpisodes, EpisodeDatasource, episode_rows, read_episodes
    from robocache.engine.run import run
    from robocache.ops import StreamSpec, fuse_multimodal, resample_trajectories
    from robocache.ops.actions import (
        binarize_gripper,
        chain_starts,
        from_delta,
        normalize_gripper,
        to_delta,
        unnormalize_gripper,
    )
    from robocache.ops.chunked import (
        estimate_chunk_size,
        estimate_memory,
        fuse_multimodal_chunked,
        resample_trajectories_chunked,
    )
    from robocache.ops.kinematics import KinematicChain
    from robocache.ops.normalize import normalize, unnormalize
    from robocache.ops.rotations import compose_pose, continuous_quaternions, convert_rotation, relative_pose
    from robocache.ops.voxelize import integrate_tsdf, voxelize
    from robocache.ops.voxelize_chunked import estimate_voxel_memory, voxelize_chunked
    from robocache.output.dataset import Output
    from robocache.output.torch import Dataset
    from robocache.output.verify import verify
    from robocache.types import Episode, Stream

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
__all__ = [
    "AlignEpisodes",
    "Dataset",
    "Episode",
    "EpisodeDatasource",
    "KinematicChain",
    "Output",
    "Stream",
    "StreamSpec",
    "__version__",
    "binarize_gripper",
    "chain_starts",
    "compose_pose",
    "continuous_quaternions",
    "convert_rotation",
    "episode_rows",
    "estimate_chunk_size",
    "estimate_memory",
    "estimate_voxel_memory",
    "from_delta",
    "fuse_multimodal",
    "fuse_multimodal_chunked",
    "integrate_tsdf",
    "normalize",
    "normalize_gripper",
    "read_episodes",
    "relative_pose",
    "resample_trajectories",
    "resample_trajectories_chunked",
    "run",
    "to_delta",
    "unnormalize",
    "unnormalize_gripper",
    "verify",
    "voxelize",
    "voxelize_chunked",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robocache' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
