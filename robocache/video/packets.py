"""A video frame by frame: a packet a frame, in the order in which they are shown, as messages and columns hold them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import pyarrow as pa

from robocache.errors import InputError
from robocache.video.encode import Encoding, plain_priority
from robocache.video.read import decoder, pyav

#: What messages and columns call the codecs of videos, by FFmpeg's name.
FFMPEG = {"h264": "h264", "avc": "h264", "h265": "hevc", "hevc": "hevc", "av1": "av1", "vp9": "vp9"}
#: A frame of a video that is kept frame by frame: its packet, its number, and that of the key frame that it needs.
PACKET = pa.struct([("bytes", pa.binary()), ("frame", pa.int64()), ("key", pa.int64())])


def unfit(height: int, width: int) -> str:
    """Why images of a size are no video; empty where they are. Encoders of smaller ones write where they must not."""
    if height % 2 or width % 2 or min(height, width) < 64:
        return f"images of {width} x {height}; a video has even sides of 64 at least"
    return ""


def encoded_frames(frames: Iterable[Any], encoding: Encoding) -> list[tuple[bytes, int]]:
    """Of each frame of FFmpeg's, all of one size, its packet and the number of the key frame that it needs.
    ``ValueError`` where the encoder does not take them.
    """
    av = pyav()
    os.environ.setdefault("SVT_LOG", "1")  # errors alone: it writes to the terminal by itself
    name, options = encoding.encoder
    context, found = None, list[Any]()
    try:
        for count, frame in enumerate(frames):
            if context is None:
                if why := unfit(frame.height, frame.width):
                    raise ValueError(why)
                context = av.CodecContext.create(name, "w")
                context.width, context.height, context.pix_fmt = frame.width, frame.height, encoding.pixels
                context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
                context.options, context.gop_size = options, encoding.g
            frame.pts, frame.time_base, frame.pict_type = count, context.time_base, 0
            with plain_priority():
                found += context.encode(frame)
        found += context.encode(None) if context is not None else []
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    key, out = 0, list[tuple[bytes, int]]()
    for k, packet in enumerate(sorted(found, key=lambda p: p.pts)):
        key = k if packet.is_keyframe else key
        out.append((bytes(packet), key))
    return out


def group_frames(packets: Iterable[tuple[int, bytes]], codec: str) -> Iterator[tuple[int, Any]]:
    """The frames of packets of which the first is a key frame, each with its number; ``codec``: FFmpeg's name.

    ``InputError`` where one is damaged.
    """
    av = pyav()
    try:
        # FFmpeg's own decoder of AV1 runs on some cards alone.
        context = decoder("libdav1d" if codec == "av1" else codec)
        for number, data in packets:
            packet = av.Packet(data)
            packet.pts, packet.time_base = number, Fraction(1, 1000)
            yield from ((frame.pts, frame) for frame in context.decode(packet))
        yield from ((frame.pts, frame) for frame in context.decode(None))
    except av.FFmpegError as error:
        raise InputError(f"a frame of the video cannot be decoded ({error})") from None


def packet_frames(column: pa.Array | pa.ChunkedArray, codec: str) -> Iterator[tuple[int, Any]]:
    """The frames of rows of :data:`PACKET`, each once, with the first row that has it, in order. A frame of which the
    key frame, or one on the way from there, is in none of the rows is left out; null rows have none.

    codec: of :data:`CODECS`. ``InputError`` where a packet is damaged.
    """
    groups: dict[int, dict[int, tuple[int, bytes]]] = {}
    for k, row in enumerate(column.to_pylist()):
        if row is not None:
            group = groups.setdefault(row["key"], {})
            if len(group) == row["frame"] - row["key"]:  # the next on the way
                group[row["frame"]] = (k, row["bytes"])
    for group in groups.values():
        for number, frame in group_frames(((n, data) for n, (_, data) in group.items()), FFMPEG.get(codec, codec)):
            if number in group:
                yield group[number][0], frame


def encoded_image(frame: Any, codec: str) -> bytes:
    """A frame of FFmpeg's as an image by itself, with what its pixels are kept: nothing is lost with png."""
    context = pyav().CodecContext.create(codec, "w")
    pixels = {"gray16le": "gray16be", "bgr24": "rgb24", "bgra": "rgba"}.get(frame.format.name, frame.format.name)
    context.height, context.width, context.pix_fmt, context.time_base = frame.height, frame.width, pixels, Fraction(1)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
