"""Frames of videos taken out and put one behind another as they are encoded: no pixel is looked at.

What is made has its k-th frame at exactly ``k / fps``: times are counted in frames, whose length a file's units divide.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, BinaryIO

from robocache.errors import InputError
from robocache.video.read import container, pyav


def cut(opened: BinaryIO, uri: str, wanted: Sequence[int], fps: Fraction) -> bytes:
    """An MP4 of the frames of an open file that have these stamps (in its own units, rising).

    ``ValueError`` where they cannot be had without decoding: the first is no key frame, or a frame that is not wanted
    is decoded between them; ``InputError`` where one is not there, or the file is damaged.
    """
    av = pyav()
    try:
        with av.open(opened, format=container(uri)) as source:
            stream = source.streams.video[0]
            packets = _packets(source, stream, wanted) or _packets(source, stream, wanted, begin=0)
            if packets is None:
                raise InputError(f"{uri}: has no frame at {wanted[0]}; the file is damaged, or another than was read")
            places = {pts: k for k, pts in enumerate(wanted)}
            data = _written([(stream, [(p, places[p.pts]) for p in packets])], fps)
    except av.FFmpegError as error:
        raise ValueError(f"{uri} cannot be cut ({error})") from None
    check_times(data, len(wanted), fps)
    return data


def _packets(source: Any, stream: Any, wanted: Sequence[int], begin: int | None = None) -> list[Any] | None:
    """The packets of these frames, as they are decoded; None where the first was not found from there on."""
    source.seek(wanted[0] if begin is None else begin, stream=stream, backward=True)
    left, packets = set(wanted), list[Any]()
    for packet in source.demux(stream):
        if packet.pts is None or not packet.size:
            continue
        if not packets:
            if packet.pts != wanted[0]:
                continue
            if not packet.is_keyframe:
                raise ValueError("its first frame is no key frame")
        if packet.pts not in left:
            raise ValueError("its frames cannot be decoded without others")
        packets.append(packet)
        left.remove(packet.pts)
        if not left:
            return packets
    if packets:
        raise ValueError(f"{len(left)} of its frames are not in the file")
    return None


def join(videos: Sequence[bytes], counts: Sequence[int], fps: Fraction) -> bytes:
    """MP4s of so many frames, made here and of one :func:`sort_of`, one behind another. ``ValueError``"""
    if len(videos) == 1:
        return videos[0]
    av = pyav()
    sources = [av.open(io.BytesIO(video), format="mov") for video in videos]
    try:
        clips, before = [], 0
        for source, count in zip(sources, counts, strict=True):
            stream = source.streams.video[0]
            packets = [p for p in source.demux(stream) if p.pts is not None and p.size]
            clips.append((stream, [(p, before + int(p.pts * p.time_base * fps)) for p in packets]))
            before += count
        data = _written(clips, fps)
    finally:
        for source in sources:
            source.close()
    check_times(data, before, fps)
    return data


def sort_of(video: bytes) -> tuple[Any, ...]:
    """What videos have in common that can be joined: the codec, its settings, the size."""
    with pyav().open(io.BytesIO(video), format="mov") as source:
        context = source.streams.video[0].codec_context
        return context.name, context.width, context.height, context.extradata


def _written(clips: Iterable[tuple[Any, list[tuple[Any, int]]]], fps: Fraction) -> bytes:
    """An MP4 of the packets of each clip, as they are decoded, with the number of each one's frame."""
    clips, sink = list(clips), io.BytesIO()
    numbers = [number for _, packets in clips for _, number in packets]
    late = max((place - number for place, number in enumerate(numbers)), default=0)
    with pyav().open(sink, "w", format="mp4") as made:
        out = made.add_stream_from_template(clips[0][0], opaque=True)
        out.time_base = 1 / fps
        place = 0
        for _, packets in clips:
            for packet, number in packets:
                packet.stream, packet.time_base = out, 1 / fps
                packet.pts, packet.dts, packet.duration = number, place - late, 1
                made.mux(packet)
                place += 1
    return sink.getvalue()


def times(data: bytes) -> list[Fraction]:
    """Of the frames of a video, in seconds, ascending."""
    with pyav().open(io.BytesIO(data)) as opened:
        stream = opened.streams.video[0]
        return sorted(p.pts * p.time_base for p in opened.demux(stream) if p.pts is not None)


def check_times(data: bytes, count: int, fps: Fraction) -> None:
    """``ValueError`` where a video does not have so many frames, each at its time."""
    found = times(data)
    late = [k for k, t in enumerate(found) if t != k / fps]
    if len(found) != count or late:
        wrong = f"{len(found)} of {count} frames" if len(found) != count else f"frame {late[0]} at {found[late[0]]} s"
        raise ValueError(f"the video that was written has {wrong}")
