"""``depth``: images of depths as clouds. It only says how a pixel is read: no image is looked at before its turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from robocache.clouds.depth import CAMERA, DEPTH_FIELDS
from robocache.features.steps import Compute, Samples
from robocache.types import Stream, StreamType


@dataclass(frozen=True, slots=True)
class Depth:
    """Points of a pinhole camera, see :func:`robocache.clouds.depth.decode_depth`.

    fx, fy, cx, cy: in pixels, of images without distortion
    scale:          metres of a depth of 1; None: 0.001 of whole numbers, 1 of fractions, as ROS has them
    """

    key: ClassVar[str] = "depth"
    picks: ClassVar[bool] = True
    rows: ClassVar[bool] = False
    beside: ClassVar[str] = ""

    fx: float
    fy: float
    cx: float
    cy: float
    scale: float | None = None

    def type(self, given: StreamType) -> StreamType:
        """Images of one channel become clouds."""
        if not given.numeric or len(given.shape) not in (2, 3) or given.shape[2:] not in ((), (1,)):
            raise ValueError(f"depth: the source holds {given.arrow}, which is no image of one channel")
        scale = self.scale if self.scale is not None else 1.0 if pa.types.is_floating(given.element) else 0.001
        fields = [field.told() for field in DEPTH_FIELDS]
        about: dict[str, Any] = {"kind": "cloud", "encoding": "depth", "fields": fields}
        about["camera"] = {key: getattr(self, key) for key in CAMERA} | {"scale": scale}
        if "frame" in given.about:
            about["frame"] = given.about["frame"]
        return StreamType(given.arrow, about)

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """The same images, said to be clouds."""
        kind = Stream(np.zeros(len(given.valid), np.int64), given.values, given.about).type
        return replace(given, about=self.type(kind).about)
