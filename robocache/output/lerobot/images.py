"""Encoded images of a column: what they are, and their pixels. PyAV decodes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, OutputError
from robocache.output import statistics
from robocache.output.lerobot.statistics import summary
from robocache.output.statistics import Statistics
from robocache.video import depth, image_codec, image_frame, png

if TYPE_CHECKING:
    from robocache.output.lerobot.features import TreeFeature
    from robocache.output.lerobot.footage import Footage

_MISSING = "images and videos of LeRobot datasets need PyAV: pip install 'robocache[video]'"


def pyav() -> Any:
    """The package. ``OutputError`` where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise OutputError(_MISSING) from error
    return av


@contextmanager
def refused(where: str, remedy: str = "") -> Iterator[None]:
    """What pictures and videos raise as an ``OutputError`` that says where."""
    try:
        yield
    except (ValueError, InputError) as error:
        raise OutputError(f"{where}: {error}{remedy}") from error


def decoded(payload: bytes, where: str) -> Any:
    """A frame of FFmpeg's of one encoded image. ``OutputError`` where it is none, or one of more than 8 bits."""
    pyav()
    if (codec := image_codec(payload)) is None:
        raise OutputError(f"{where}: begins with {payload[:8]!r}, which is no JPEG, PNG or WebP image; leave it out")
    try:
        frame = image_frame(payload, codec)
    except ValueError as error:
        raise OutputError(f"{where}: is no image that can be decoded ({error})") from error
    if any(part.bits > 8 for part in frame.format.components):
        raise OutputError(f"{where}: has {frame.format.name} pixels, LeRobot's images have 8 bits; leave it out")
    return frame


def pixels(frame: Any) -> np.ndarray:
    """uint8 ``[height, width, 3]``, red, green, blue."""
    return frame.to_ndarray(format="rgb24")


def frames_of(
    column: pa.ChunkedArray | pa.Array, feature: TreeFeature, where: str, footage: Footage | None = None
) -> Iterator[Any]:
    """A frame of FFmpeg's for each row of a camera's column, None where it has none, one at a time.

    footage: where the column is references
    """
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if footage is not None and feature.refers:
            with refused(where):
                yield from footage.frames(chunk)
            continue
        if not feature.pixels:
            for scalar in chunk.field("bytes"):
                data = scalar.as_py()
                yield None if data is None else decoded(data, where)
            continue
        av, flat = pyav(), chunk
        while pa.types.is_fixed_size_list(flat.type):
            flat = flat.flatten()
        channels = len(flat) // max(1, len(chunk) * feature.shape[0] * feature.shape[1])
        shape = (*feature.shape[:2], channels) if channels > 1 else feature.shape[:2]
        for image in flat.to_numpy().reshape(len(chunk), *shape):
            yield av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=feature.pixels)


def as_payloads(column: pa.ChunkedArray, feature: TreeFeature, where: str) -> pa.ChunkedArray | pa.Array:
    """The column as encoded images: as it is, or raw pixels as PNG, which loses nothing; black where there is none."""
    if not feature.pixels:
        there = column.combine_chunks().field("bytes").is_valid()
        if there.true_count == len(column):
            return column
        black = {"bytes": png(np.zeros(feature.shape, np.uint8)), "path": None}
        return pa.array([row if row and row["bytes"] else black for row in column.to_pylist()], feature.stored)
    found = [{"bytes": png(pixels(frame)), "path": None} for frame in frames_of(column, feature, where)]
    return pa.array(found, feature.stored)


def image_statistics(
    column: pa.ChunkedArray,
    feature: TreeFeature,
    counts: np.ndarray,
    points: int,
    where: str,
    footage: Footage | None = None,
) -> tuple[dict[str, np.ndarray], Statistics]:
    """Of a camera in one episode, each channel in 0..1 (depths in their unit); of so many of its frames, and of so many
    of their pixels, as :mod:`robocache.output.statistics` takes of a wide column. counts: which rows do.
    """
    taken = np.flatnonzero(counts)
    n = len(taken)
    looked_at = int(np.clip(n**statistics.POWER, *statistics.SAMPLED))
    if n > looked_at:
        taken = taken[np.round(np.linspace(0, n - 1, looked_at)).astype(np.int64)]
    if feature.depth and not feature.refers:
        some = [_spread(image[..., None]) for image in depth.images(column.take(pa.array(taken)), feature.shape)]
    else:
        frames = frames_of(column.take(pa.array(taken)), feature, where, footage)
        some = [_spread(_looked_at(frame, feature)) for frame in frames if frame is not None]
    flat = np.concatenate(some) if some else np.zeros((0, feature.shape[2]), np.uint8)
    merging = Statistics.of(flat, rows=n, points=points)
    if not feature.depth:
        merging = scaled(merging)
    return summary(merging), merging


def _looked_at(frame: Any, feature: TreeFeature) -> np.ndarray:
    """What statistics are of."""
    if feature.depth:
        return depth.depths(frame.to_ndarray(format="gray12le"), feature.depth)[..., None]
    return pixels(frame)


def _spread(image: np.ndarray) -> np.ndarray:
    """``[k, channels]``, about ``POSITIONS`` of its pixels, evenly spread."""
    flat = image.reshape(-1, image.shape[-1])
    return flat[:: -(-len(flat) // statistics.POSITIONS)]


def scaled(found: Statistics, by: float = 1 / 255) -> Statistics:
    """The statistics of the same numbers times a positive one."""
    return replace(
        found,
        min=found.min * by,
        max=found.max * by,
        mean=found.mean * by,
        m2=found.m2 * by * by,
        points=found.points * by,
    )
