"""Frames as a video, with exact times, looked at again before it counts."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from robocache.video.cut import check_times
from robocache.video.read import pyav

#: By codec FFmpeg's encoder and what it is told beside ``g`` and ``crf``: one thread each and no reordered frames, so
#: that the bytes do not depend on the machine and every frame's time is its number.
CODECS = {
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}),
    "h264": ("libx264", {"bf": "0", "threads": "1"}),
    "h265": ("libx265", {"x265-params": "bframes=0:pools=none:frame-threads=1:log-level=none"}),
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How frames are encoded; the defaults are LeRobot's.

    codec:  of :data:`CODECS`
    g:      frames from one key frame to the next
    crf:    quality, the lower the better
    pixels: FFmpeg's name of how the encoded pixels lie
    lossless: nothing is lost of frames whose pixels lie so already; of h265 alone
    """

    codec: str = "av1"
    g: int = 2
    crf: int = 30
    pixels: str = "yuv420p"
    lossless: bool = False

    @property
    def encoder(self) -> tuple[str, dict[str, str]]:
        """FFmpeg's name of the encoder and its options."""
        name, options = CODECS[self.codec]
        if self.lossless:
            return name, {"g": str(self.g), "x265-params": f"{options['x265-params']}:lossless=1"}
        return name, {"g": str(self.g), "crf": str(self.crf), **options}


@contextmanager
def plain_priority() -> Iterator[None]:
    """Around what may open an encoder. SVT-AV1 gives its threads, and the one that opens it, the priority of real time
    where it may, as root, so in most containers: from then on nobody else would get a core from this process.
    """
    if not hasattr(os, "sched_setscheduler") or os.sched_getscheduler(0) != os.SCHED_OTHER:  # somebody wants it so
        yield
        return
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            for task in os.listdir("/proc/self/task"):
                with suppress(OSError):  # it has just ended
                    os.sched_setscheduler(int(task), os.SCHED_OTHER, os.sched_param(0))


def encode(frames: Iterable[Any], size: tuple[int, int], fps: Fraction, encoding: Encoding) -> bytes:
    """An MP4 of frames of FFmpeg's, the k-th at ``k / fps``; black where there is None.

    size: height and width. ``ValueError`` where they are odd, an image has others, the encoder refuses, or what was
    written is not what was to be.
    """
    av = pyav()
    os.environ.setdefault("SVT_LOG", "1")  # errors alone: it writes to the terminal by itself
    name, options = encoding.encoder
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"images of {width} x {height}; a video has even sides")
    sink, count = io.BytesIO(), 0
    try:
        with av.open(sink, "w", format="mp4") as container:
            stream = container.add_stream(name, rate=fps, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, encoding.pixels
            stream.codec_context.time_base = 1 / fps
            for found in frames:
                frame = found if encoding.lossless else _plain(found, height, width)
                frame.pts, frame.time_base = count, 1 / fps
                with plain_priority():
                    packets = stream.encode(frame)
                container.mux(packets)
                count += 1
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise ValueError(f"cannot be encoded by {name} ({error})") from error
    data = sink.getvalue()
    check_times(data, count, fps)
    return data


def _plain(found: Any, height: int, width: int) -> Any:
    """The frame for an encoder. By way of RGB, as readers of images see it: JPEG's own range of colours is another."""
    if found is None:
        rgb = np.zeros((height, width, 3), np.uint8)
    elif (found.height, found.width) == (height, width):
        rgb = found.to_ndarray(format="rgb24")
    else:
        raise ValueError(
            f"an image of {found.width} x {found.height} among those of {width} x {height}; a video has one size"
        )
    return pyav().VideoFrame.from_ndarray(rgb, format="rgb24")


def png(image: np.ndarray) -> bytes:
    """Of uint8 ``[height, width, 3]``."""
    av = pyav()
    context = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt, context.time_base = *image.shape[:2], "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
