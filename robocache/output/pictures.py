"""Images of a column as arrays of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robocache.errors import OutputError
from robocache.output.lerobot.images import decoded, pixels
from robocache.output.rows import Column

#: Which of the numbers of a pixel of a raw image are red, green and blue, by its encoding.
CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}


@dataclass(frozen=True)
class Pictures:
    """How a column holds images: ``shape`` of raw ones and where their channels are; without, encoded ones."""

    name: str
    shape: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    @classmethod
    def of(cls, column: Column) -> Pictures:
        """``ValueError`` where the column holds none."""
        if column.dtype is None and column.image:
            return cls(column.name)
        if column.dtype != np.uint8 or len(column.shape) not in (2, 3) or column.encoding not in CHANNELS:
            raise ValueError(f"decode: {column.name!r} holds no images that can be decoded")
        return cls(column.name, column.shape, CHANNELS[column.encoding])

    def decoded(self, found: Any) -> np.ndarray:
        """uint8 ``[n, 3, height, width]``; black where there is none.

        found: raw pixels ``[n, width]``, or Arrow's array of payloads. ``OutputError`` where one is no image, or not as
        large as the others.
        """
        if isinstance(found, np.ndarray):
            raw = found.reshape(len(found), *self.shape[:2], -1)
            return np.ascontiguousarray(raw[..., self.channels].transpose(0, 3, 1, 2))
        held: list[np.ndarray | None] = []
        for row in found.to_pylist():
            data = row and (row["bytes"] if isinstance(row, dict) else row)
            held.append(pixels(decoded(data, self.name)) if data else None)
        sizes = {image.shape for image in held if image is not None}
        if len(sizes) > 1:
            told = " and ".join(f"{w} x {h}" for h, w, _ in sorted(sizes))
            raise OutputError(f"{self.name}: images of {told} pixels do not go into one batch; choose episodes of one")
        if not sizes:
            raise OutputError(f"{self.name}: none of the images asked for is there; `require` leaves such windows out")
        (size,) = sizes
        black = np.zeros(size, np.uint8)
        return np.stack([black if image is None else image for image in held]).transpose(0, 3, 1, 2).copy()
