"""RoboCache: raw multi-rate robot logs in, one time-aligned, training-ready Arrow dataset out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when first used, so that `import robocache` costs neither torch nor pyarrow.
_HOME = {
    "run": "robocache.api",
    "verify": "robocache.api",
    "fuse_multimodal": "robocache.ops",
    "resample_trajectories": "robocache.ops",
    "StreamSpec": "robocache.ops",
    "fuse_multimodal_chunked": "robocache.ops.chunked",
    "resample_trajectories_chunked": "robocache.ops.chunked",
    "estimate_memory": "robocache.ops.chunked",
    "estimate_chunk_size": "robocache.ops.chunked",
    "Episode": "robocache.types",
    "Stream": "robocache.types",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robocache' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
