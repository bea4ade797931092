"""A camera's frames as the videos of a tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from robocache import video
from robocache.errors import InputError, OutputError
from robocache.video import Encoding


def video_info(encoding: Encoding, height: int, width: int, fps: Fraction) -> dict[str, Any]:
    """What info.json says of a video."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": encoding.codec,
        "video.pix_fmt": encoding.pixels,
        "video.is_depth_map": False,
        "video.fps": int(fps) if fps.denominator == 1 else float(fps),
        "video.channels": 3,
        "has_audio": False,
    }


def encode(frames: Iterable[Any], size: tuple[int, int], fps: Fraction, encoding: Encoding, where: str) -> bytes:
    """As :func:`robocache.video.encode`, but ``OutputError``."""
    with _refused(where):
        return video.encode(frames, size, fps, encoding)


def join(videos: Sequence[bytes], counts: Sequence[int], fps: Fraction, where: str) -> bytes:
    """As :func:`robocache.video.join`, but ``OutputError``."""
    with _refused(where):
        return video.join(videos, counts, fps)


@contextmanager
def _refused(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, InputError) as error:
        raise OutputError(f"{where}: {error}; output.lerobot.video: none leaves images as they are") from error
