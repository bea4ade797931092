"""A camera's frames as a video: encoded with exact times, and looked at again before it counts."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from robocache.errors import OutputError
from robocache.output.lerobot.images import pyav

#: By ``output.lerobot.video``: FFmpeg's encoder and its options, LeRobot's own. One thread each and no reordered
#: frames, so that the bytes do not depend on the machine and every frame's time is its number.
ENCODERS = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "lp=1"}),
    "h264": ("libx264", {"g": "2", "crf": "30", "bf": "0", "threads": "1"}),
}
PIXELS = "yuv420p"


def video_info(codec: str, height: int, width: int, fps: Fraction) -> dict[str, Any]:
    """What info.json says of a video."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": codec,
        "video.pix_fmt": PIXELS,
        "video.is_depth_map": False,
        "video.fps": int(fps) if fps.denominator == 1 else float(fps),
        "video.channels": 3,
        "has_audio": False,
    }


def encode(frames: Iterable[Any], size: tuple[int, int], fps: Fraction, codec: str, where: str) -> bytes:
    """An MP4 of frames of FFmpeg's, the k-th at ``k / fps``; black where there is None.

    size: height and width. ``OutputError`` where an image has another, or what was written is not what was to be.
    """
    av = pyav()
    os.environ.setdefault("SVT_LOG", "1")  # errors alone: it writes to the terminal by itself
    name, options = ENCODERS[codec]
    height, width = size
    if height % 2 or width % 2:
        raise OutputError(
            f"{where}: images of {width} x {height}; a video has even sides, write output.lerobot.video none"
        )
    sink, count = io.BytesIO(), 0
    try:
        with av.open(sink, "w", format="mp4") as container:
            stream = container.add_stream(name, rate=fps, options=dict(options))
            stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
            stream.codec_context.time_base = 1 / fps
            for found in frames:
                frame = _plain(found, height, width, where)
                frame.pts, frame.time_base = count, 1 / fps
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise OutputError(f"{where}: cannot be encoded by {name} ({error})") from error
    data = sink.getvalue()
    check(data, count, fps, where)
    return data


def _plain(found: Any, height: int, width: int, where: str) -> Any:
    """The frame for an encoder. By way of RGB, as readers of images see it: JPEG's own range of colours is another."""
    if found is None:
        rgb = np.zeros((height, width, 3), np.uint8)
    elif (found.height, found.width) == (height, width):
        rgb = found.to_ndarray(format="rgb24")
    else:
        raise OutputError(
            f"{where}: an image of {found.width} x {found.height} among those of {width} x {height}; a video has one "
            "size, write output.lerobot.video: none"
        )
    return pyav().VideoFrame.from_ndarray(rgb, format="rgb24")


def join(videos: Sequence[bytes], counts: Sequence[int], fps: Fraction, where: str) -> bytes:
    """Videos of one encoder and so many frames, one after another, as they are encoded. ``OutputError`` as above."""
    if len(videos) == 1:
        return videos[0]
    av, sink, before = pyav(), io.BytesIO(), 0
    with av.open(sink, "w", format="mp4") as container:
        out = None
        for video, count in zip(videos, counts, strict=True):
            with av.open(io.BytesIO(video)) as source:
                stream = source.streams.video[0]
                if out is None:
                    out = container.add_stream_from_template(stream, opaque=True)
                    out.time_base = stream.time_base
                shift = before / fps / stream.time_base
                for packet in source.demux(stream):
                    if packet.pts is not None:
                        packet.pts, packet.dts = packet.pts + int(shift), packet.dts + int(shift)
                        packet.stream = out
                        container.mux(packet)
            before += count
    data = sink.getvalue()
    check(data, before, fps, where)
    return data


def times(data: bytes) -> list[Fraction]:
    """Of the frames of a video, in seconds, ascending."""
    with pyav().open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        return sorted(p.pts * p.time_base for p in container.demux(stream) if p.pts is not None)


def check(data: bytes, count: int, fps: Fraction, where: str) -> None:
    """``OutputError`` where it does not have so many frames, each at its time."""
    found = times(data)
    late = [k for k, t in enumerate(found) if t != k / fps]
    if len(found) != count or late:
        wrong = f"{len(found)} of {count} frames" if len(found) != count else f"frame {late[0]} at {found[late[0]]} s"
        raise OutputError(f"{where}: the video that was written has {wrong}")
