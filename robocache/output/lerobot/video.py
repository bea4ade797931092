"""A camera's frames as the videos of a tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from robocache import video
from robocache.output.lerobot.images import refused
from robocache.video import Encoding

_REMEDY = "; output.lerobot.video: none leaves images as they are"


def video_info(codec: str, pixels: str, height: int, width: int, fps: Fraction) -> dict[str, Any]:
    """What info.json says of a video."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": codec,
        "video.pix_fmt": pixels,
        "video.is_depth_map": False,
        "video.fps": int(fps) if fps.denominator == 1 else float(fps),
        "video.channels": 3,
        "has_audio": False,
    }


def encode(frames: Iterable[Any], size: tuple[int, int], fps: Fraction, encoding: Encoding, where: str) -> bytes:
    """As :func:`robocache.video.encode`, but ``OutputError``."""
    with refused(where, _REMEDY):
        return video.encode(frames, size, fps, encoding)


def join(videos: Sequence[bytes], counts: Sequence[int], fps: Fraction, where: str) -> bytes:
    """As :func:`robocache.video.join`, but ``OutputError``."""
    with refused(where):
        return video.join(videos, counts, fps)
