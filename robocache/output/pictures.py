"""Images of a column as arrays of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.errors import OutputError
from robocache.output.lerobot.footage import Footage
from robocache.output.lerobot.images import decoded, pixels, refused
from robocache.output.rows import Column
from robocache.video import FRAME

#: Which of the numbers of a pixel of a raw image are red, green and blue, by its encoding.
CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}


@dataclass(frozen=True)
class Pictures:
    """How a column holds images: ``shape`` of raw ones and where their channels are; ``footage`` of references to
    frames of videos; without either, encoded ones.
    """

    name: str
    shape: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    footage: Footage | None = None

    @classmethod
    def of(cls, column: Column, footage: Footage | None = None) -> Pictures:
        """footage: where references lead. ``ValueError`` where the column holds no images."""
        if column.refers and footage is not None:
            return cls(column.name, footage=footage)
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
        held: list[np.ndarray | None]
        if self.footage is not None:
            held = self._frames(self.footage, found.to_pylist())
        else:
            payloads = (row and (row["bytes"] if isinstance(row, dict) else row) for row in found.to_pylist())
            held = [pixels(decoded(data, self.name)) if data else None for data in payloads]
        sizes = {image.shape for image in held if image is not None}
        if len(sizes) > 1:
            told = " and ".join(f"{w} x {h}" for h, w, _ in sorted(sizes))
            raise OutputError(f"{self.name}: images of {told} pixels do not go into one batch; choose episodes of one")
        if not sizes:
            raise OutputError(f"{self.name}: none of the images asked for is there; `require` leaves such windows out")
        (size,) = sizes
        black = np.zeros(size, np.uint8)
        return np.stack([black if image is None else image for image in held]).transpose(0, 3, 1, 2).copy()

    def _frames(self, footage: Footage, rows: Sequence[Mapping[str, Any] | None]) -> list[np.ndarray | None]:
        """Each frame is decoded once, file by file in the order of their times, whatever the order of the rows."""
        places: dict[tuple[str, int], list[int]] = {}
        for k, row in enumerate(rows):
            if row is not None and row["path"] is not None:
                places.setdefault((row["path"], row["pts"]), []).append(k)
        wanted = sorted(places)
        taken = pa.array([rows[places[one][0]] for one in wanted], FRAME)
        held: list[np.ndarray | None] = [None] * len(rows)
        with refused(self.name):
            for one, frame in zip(wanted, footage.frames(taken), strict=True):
                image = None if frame is None else pixels(frame)
                for k in places[one]:
                    held[k] = image
        return held
