"""``encode``: pixels as videos or PNG, images of depths in 12 bits. What several rows pick is encoded once.

With ``decode`` before it, the two go frame by frame, so that the pixels of one frame are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from robocache.clouds.depth import log_codes
from robocache.errors import InputError
from robocache.features.decode import Decode, lost
from robocache.features.steps import Compute, Samples, Step
from robocache.types import Finding, StreamType
from robocache.video import PACKET, Encoding, encoded_frames, encoded_image, pyav, unfit

#: FFmpeg's names of how pixels lie, by ``encoding``; an array that does not tell is one of the first two.
_PIXELS = {"rgb8": "rgb24", "mono8": "gray", "bgr8": "bgr24", "rgba8": "rgba", "bgra8": "bgra", "8UC3": "bgr24",
           "8UC1": "gray", "mono16": "gray16le", "16UC1": "gray16le"}  # fmt: skip
_CODES = {"png": "gray16le", "h265": "gray12le"}  # what codes of depths are encoded as


@dataclass(frozen=True, slots=True)
class DepthCodes:
    """Depths as 12 bits, see :func:`robocache.clouds.depth.log_codes`.

    near, far: metres; scale: metres of a depth of 1; None: 0.001 of whole numbers, 1 of fractions, as ROS has them
    """

    near: float
    far: float
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class Encode:
    """Rows of :data:`robocache.video.PACKET`, or of encoded images.

    codec: ``h264``, ``h265``, ``av1``: a video an episode, a packet a row; ``png``: an image a row, nothing lost
    crf:   of a video, how much may be lost, less with lower numbers; g: frames from a key frame to the next
    depth: the pixels are depths
    frames: what makes the pixels; None: they are recorded
    """

    key: ClassVar[str] = "encode"
    picks: ClassVar[bool] = True
    rows: ClassVar[bool] = False
    beside: ClassVar[str] = ""

    codec: str
    crf: int = 23
    g: int = 2
    depth: DepthCodes | None = None
    frames: Decode | None = None

    def type(self, given: StreamType) -> StreamType:
        """Images of one size become a video, or PNG images."""
        told: dict[str, Any] = {"frame": given.about["frame"]} if "frame" in given.about else {}
        if self.frames is not None:
            self.frames.check(given)
            size, encoding = self.frames.size(given), "rgb8"
        else:
            if not given.numeric:
                raise ValueError(f"encode: the source holds {given.arrow}, which is no pixels; add decode: true")
            encoding = self._encoding(given)
            size = (given.shape[0], given.shape[1])
        if all(isinstance(n, int) for n in size):
            if self.codec != "png" and (why := unfit(*size)):
                raise ValueError(f"encode.codec: {why}; write png")
            told |= {"height": size[0], "width": size[1]}
        if self.depth is not None:
            told["depth"] = {"near": self.depth.near, "far": self.depth.far, "bits": 12}
        if self.codec == "png":
            return StreamType(pa.binary(), told | {"kind": "image", "encoding": "png"})
        told |= {"kind": "video", "encoding": self.codec, "crf": self.crf, "g": self.g, "pixels": encoding}
        return StreamType(PACKET, told)

    def _encoding(self, given: StreamType) -> str:
        """What the pixels of recorded images are; ``ValueError`` where they cannot be encoded."""
        channels = given.shape[2] if len(given.shape) == 3 else 1
        kind, told = given.element, str(given.about.get("encoding", ""))
        shown = f"the source holds {given.arrow}" + (f" ({told})" if told else "")
        if len(given.shape) not in (2, 3):
            raise ValueError(f"encode: {shown}, which is no image")
        if self.depth is not None:
            if channels != 1 or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise ValueError(f"encode.depth: {shown}, which is no image of one channel")
            return told
        usual = {(1, pa.uint8()): "mono8", (3, pa.uint8()): "rgb8", (1, pa.uint16()): "mono16"}.get((channels, kind))
        told = told or str(usual)
        wide = "depths become 12 bits with depth: {near: 0.3, far: 10}"
        if told not in _PIXELS:
            raise ValueError(f"encode: {shown}; {', '.join(_PIXELS)} can be encoded, {wide}")
        if self.codec != "png" and _PIXELS[told] == "gray16le":
            raise ValueError(f"encode.codec: {shown}, of 16 bits, which {self.codec} has not; write png, or {wide}")
        return told

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """The samples that rows pick. One that cannot be decoded is not valid. ``InputError`` where an image is
        damaged, or cannot be encoded."""
        count, places = len(given.values), list[int]()
        outside = np.zeros(2, np.int64)
        images = self._images(given)

        def frames() -> Iterator[Any]:
            for place, pixels, layout in images:
                if places and place < places[-1]:
                    raise InputError("frames of the recording do not come in the order in which they are shown")
                places.append(place)
                if self.depth is not None:
                    pixels, (clipped, read) = self._codes(pixels, self.depth)
                    outside[:] += (clipped, read)
                    layout = _CODES[self.codec]
                yield pyav().VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=layout)

        try:
            made = self._made(frames(), given)
        except ValueError as error:
            raise InputError(f"cannot be encoded ({error})") from error
        valid = np.zeros(count, bool)
        valid[places] = True
        row = np.full(count, -1)
        row[places] = np.arange(len(places))
        told = list(lost(count, len(places)))
        if outside[0]:
            share, near, far = outside[0] / outside[1], *(getattr(self.depth, k) for k in ("near", "far"))
            text = f"{share:.1%} of the depths are not within {near:g} to {far:g} m and are as far as that goes"
            told.append(Finding("overflow", "", text, float(share)))
        values = made.take(pa.array(row, mask=row < 0))
        return Samples(values, given.valid & valid, {}, findings=tuple(told))

    def _made(self, frames: Iterator[Any], given: Samples) -> pa.Array:
        if self.codec == "png":
            return pa.array([encoded_image(frame, "png") for frame in frames], pa.large_binary())
        pixels = _CODES["h265"] if self.depth is not None else "yuv420p"
        packets = encoded_frames(frames, Encoding(self.codec, self.g, self.crf, pixels))
        data, keys = zip(*packets, strict=True) if packets else ((), ())
        columns = [
            pa.array(data, pa.large_binary()),
            pa.array(range(len(data)), pa.int64()),
            pa.array(keys, pa.int64()),
        ]
        return pa.StructArray.from_arrays(columns, names=["bytes", "frame", "key"])

    def _images(self, given: Samples) -> Iterator[tuple[int, np.ndarray, str]]:
        """Pixels, one image at a time, with its place and how FFmpeg calls its layout."""
        if self.frames is not None:
            yield from ((k, pixels, "rgb24") for k, pixels in self.frames.images(given))
            return
        values = given.values
        assert isinstance(values, np.ndarray)
        kind = StreamType(pa.from_numpy_dtype(values.dtype), given.about)
        for length in reversed(values.shape[1:]):
            kind = StreamType(pa.list_(kind.arrow, length), given.about)
        try:
            layout = _PIXELS.get(self._encoding(kind), "")
        except ValueError as error:
            raise InputError(str(error)) from error
        for k, image in enumerate(values):
            yield k, image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image, layout

    def _codes(self, image: np.ndarray, depth: DepthCodes) -> tuple[np.ndarray, tuple[int, int]]:
        """The codes of an image; how many depths are outside the range, and how many there are."""
        scale = depth.scale if depth.scale is not None else 1.0 if image.dtype.kind == "f" else 0.001
        metres = image.astype(np.float64) * scale
        read = (metres > 0) & np.isfinite(metres)
        clipped = read & ((metres < depth.near) | (metres > depth.far))
        return log_codes(metres, depth.near, depth.far), (int(clipped.sum()), int(read.sum()))


def joined(steps: Sequence[Step]) -> list[Step]:
    """The steps with an encode that takes its frames from the decode before it, where there is one."""
    out: list[Step] = []
    for step in steps:
        before = out[-1] if out else None
        if isinstance(step, Encode) and isinstance(before, Decode):
            out[-1] = replace(step, frames=before)
        else:
            out.append(step)
    return out
