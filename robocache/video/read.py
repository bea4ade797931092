"""Which frames a video has, when each is shown, which can be decoded by themselves; and the way to a frame."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.types import frame_times

#: An image or a frame of more is not decoded: a few kilobytes may claim, and hold, any number of them in one colour.
MOST_PIXELS = 1 << 26
#: What encoded images begin with, by FFmpeg's name of their decoder.
_IMAGES = {"mjpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF"}
_MISSING = "videos, and images to be decoded, need PyAV: pip install 'robocache[video]'"
FRAME = pa.struct([("path", pa.string()), ("frame", pa.int64()), ("pts", pa.int64()), ("time_base", pa.string())])
#: How FFmpeg calls the containers: no other demuxer is let near a file, as some of them open further files.
CONTAINERS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska"}
_DECODERS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9", "libvpx": "vp8"}


@dataclass(frozen=True)
class Video:
    """A file's picture.

    pts:    int64 ``[n]``, rising, of the frames that are shown, in units of ``time_base`` seconds
    pixels: FFmpeg's name of how they lie
    """

    pts: np.ndarray
    time_base: Fraction
    codec: str
    height: int
    width: int
    pixels: str

    @property
    def times(self) -> np.ndarray:
        """int64 nanoseconds, halves up."""
        return frame_times(self.pts, 1 / self.time_base)

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "video", "encoding": self.codec, "height": self.height, "width": self.width}

    def frames(self, path: str, numbers: np.ndarray | None = None) -> pa.StructArray:
        """References of the frames of these numbers (None: all)."""
        numbers = np.arange(len(self.pts)) if numbers is None else numbers
        count = len(numbers)
        columns = [
            pa.array([path] * count, pa.string()), pa.array(numbers, pa.int64()), pa.array(self.pts[numbers]),
            pa.array([str(self.time_base)] * count, pa.string()),
        ]  # fmt: skip
        return pa.StructArray.from_arrays(columns, fields=list(FRAME))


def container(uri: str) -> str:
    """What a file's suffix says that it is, as FFmpeg calls it; ``InputError`` for none of them."""
    for suffix, name in CONTAINERS.items():
        if uri.lower().endswith(suffix):
            return name
    raise InputError(f"{uri}: is no video of a known kind; {', '.join(CONTAINERS)} are")


def read_video(opened: BinaryIO, uri: str) -> Video:
    """The frames of an open file. ``InputError`` where it is damaged, or has no picture."""
    av = pyav()
    try:
        with av.open(opened, "r", format=container(uri)) as file:
            if not file.streams.video:
                raise InputError(f"{uri}: holds no picture")
            stream = file.streams.video[0]
            base, context = stream.time_base, stream.codec_context
            pts = [p.pts for p in file.demux(stream) if p.size and not p.is_discard]
            codec = _DECODERS.get(context.name, context.name)
            found = np.sort(np.array([p for p in pts if p is not None], np.int64))
            size = context.height, context.width
            pixels = str(context.pix_fmt)
    except av.FFmpegError as error:
        raise InputError(f"{uri}: is damaged or no video ({error})") from None
    if base is None or base <= 0 or not len(found) or len(found) < len(pts) or min(size) < 1:
        raise InputError(f"{uri}: does not say when its {len(pts)} frames are shown, or how large they are")
    if not np.all(np.diff(found)):
        raise InputError(f"{uri}: two frames are shown at the same time; the file is damaged")
    return Video(found, Fraction(base), codec, *size, pixels)


def pyav() -> Any:
    """The package. ``InputError`` where it is not installed."""
    try:
        import av
    except ImportError:
        raise InputError(_MISSING) from None
    return av


def image_codec(payload: bytes) -> str | None:
    """FFmpeg's name of the decoder of an encoded image; None of what is no JPEG, PNG or WebP."""
    return next((name for name, magic in _IMAGES.items() if payload.startswith(magic)), None)


def decoder(codec: str) -> Any:
    """A decoder of FFmpeg's that refuses frames of more than ``MOST_PIXELS``."""
    context = pyav().CodecContext.create(codec, "r")
    context.options = {"max_pixels": str(MOST_PIXELS)}
    return context


def image_frame(payload: bytes, codec: str) -> Any:
    """A frame of FFmpeg's of one encoded image. ``ValueError`` where it cannot be decoded."""
    av = pyav()
    try:
        context = decoder(codec)
        return [*context.decode(av.Packet(payload)), *context.decode(None)][0]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(str(error)) from error


def decoded_frames(opened: Any, uri: str, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Of an open video file the frames with these time stamps, which rise. None is decoded twice: the way goes on from
    frame to frame, and from a key frame where one lies between. ``InputError`` where one cannot be had."""
    av = pyav()
    try:
        with av.open(opened, format=container(uri)) as file:
            stream = file.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            keys = sorted(p.pts for p in file.demux(stream) if p.is_keyframe and p.pts is not None)
            frames: Iterator[Any] | None = None
            last = None
            for pts in wanted:
                key = keys[bisect_right(keys, pts) - 1] if keys and keys[0] <= pts else None
                if frames is None or (key is not None and last is not None and key > last):
                    file.seek(key if key is not None else 0, stream=stream, backward=True)
                    frames = file.decode(stream)
                frame = next((f for f in frames if f.pts is not None and f.pts >= pts), None)
                if frame is None or frame.pts != pts:
                    raise InputError(f"{uri}: its frame at {pts} cannot be decoded; the file is damaged")
                last = pts
                yield pts, frame
    except av.FFmpegError as error:
        raise InputError(f"{uri}: cannot be decoded ({error})") from None


def is_key_frame(data: bytes, codec: str) -> bool:
    """Whether a message's frame can be decoded by itself: what its units are tells, without decoding.

    H.264 and H.265 in Annex B (an IDR picture, for H.265 any random access point), AV1 in low overhead units (a
    sequence header, which goes before each key frame).
    """
    if codec == "av1":
        return any(kind == 1 for kind in _obus(data))
    kinds = _nals(data, codec)
    return any(kind == 5 for kind in kinds) if codec == "h264" else any(16 <= kind <= 23 for kind in kinds)


def _nals(data: bytes, codec: str) -> Iterator[int]:
    at = data.find(b"\x00\x00\x01")
    while 0 <= at < len(data) - 3:
        head = data[at + 3]
        yield head & 0x1F if codec == "h264" else head >> 1 & 0x3F
        at = data.find(b"\x00\x00\x01", at + 3)


def _obus(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        head = data[at]
        yield head >> 3 & 0x0F
        at += 2 if head & 0x04 else 1
        if not head & 0x02:
            return  # the last: it has no size
        size = shift = 0
        while at < len(data) and shift < 56:
            size |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not data[at - 1] & 0x80:
                break
        at += size
