"""The videos of recordings that rows refer to: their frames, or what of them can be taken as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from robocache.errors import OutputError
from robocache.storage import open_storage
from robocache.video import Video, cut, decoded_frames, read_video

#: LeRobot's own tolerance of a frame's time, in seconds.
TOLERANCE_S = 1e-4


@dataclass(frozen=True)
class Footage:
    """files: the URI of each path that a row may name; options: of their storage"""

    files: Mapping[str, str]
    options: Mapping[str, Any]

    def frames(self, column: pa.Array) -> Iterator[Any]:
        """A frame of FFmpeg's for each row, None where it has no reference. ``InputError`` where one cannot be had."""
        rows = column.to_pylist()
        for path, run in groupby(rows, key=lambda row: row and row["path"]):
            some = list(run)
            if path is None:
                yield from (None for _ in some)
                continue
            with self.opened(path) as (opened, uri):
                stamps = sorted({row["pts"] for row in some})
                if stamps == list(dict.fromkeys(row["pts"] for row in some)):  # in order: one is held at a time
                    repeats = [sum(1 for _ in same) for _, same in groupby(row["pts"] for row in some)]
                    for (_, frame), count in zip(decoded_frames(opened, uri, stamps), repeats, strict=True):
                        yield from (frame for _ in range(count))
                else:
                    held = dict(decoded_frames(opened, uri, stamps))
                    yield from (held[row["pts"]] for row in some)

    def cut(self, column: pa.Array, fps: Fraction) -> bytes:
        """An MP4 of the rows' frames as they are encoded, the k-th at ``k / fps``. ``ValueError`` says why not."""
        paths = column.field("path")
        if column.null_count or paths.null_count:
            raise ValueError("rows without a frame")
        if len(paths.unique()) != 1:
            raise ValueError("frames of several files in an episode")
        if (np.diff(column.field("frame").to_numpy()) != 1).any():
            raise ValueError("rows that do not take each frame once, in order")
        pts, base = column.field("pts").to_numpy(), Fraction(column.field("time_base")[0].as_py())
        off = np.abs((pts - pts[0]) * float(base) - np.arange(len(pts)) / float(fps)).max()
        if off > TOLERANCE_S:
            raise ValueError(f"frames up to {off:.3g} s from where {float(fps):g} Hz has them")
        with self.opened(paths[0].as_py()) as (opened, uri):
            return cut(opened, uri, pts.tolist(), fps)

    def video(self, path: str) -> Video:
        """What a file holds."""
        with self.opened(path) as (opened, uri):
            return read_video(opened, uri)

    @contextmanager
    def opened(self, path: str) -> Iterator[tuple[BinaryIO, str]]:
        """The file of that path, and its URI. ``OutputError`` where it is not there any more."""
        uri = self.files.get(path, path)
        fs, local = open_storage(uri, self.options)
        try:
            opened = fs.open(local, "rb")
        except FileNotFoundError as error:
            raise OutputError(
                f"{uri}: is not there; rows refer to its frames, and the tree is made of it: bring it back"
            ) from error
        with opened:
            yield opened, uri
