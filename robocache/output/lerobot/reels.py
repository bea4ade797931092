"""The videos of a camera of a unit's episodes, one behind another in files of about 200 MB."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from robocache.output.lerobot.layout import VIDEO_MB, video_name
from robocache.output.lerobot.video import join
from robocache.video import sort_of


class Reel:
    """Of one camera. places: of each episode that was added the number of its file in the unit, and its first frame"""

    def __init__(self, camera: str, unit: int, fps: Fraction):
        self.camera, self.unit, self.fps = camera, unit, fps
        self.places: list[tuple[int, int]] = []
        self._videos: list[bytes] = []
        self._counts: list[int] = []
        self._sort: tuple[Any, ...] = ()
        self._file = 0

    def add(self, video: bytes, count: int) -> Iterator[tuple[str, bytes]]:
        """An episode of so many frames; name and bytes of the file before it, where that is full or of another sort."""
        sort = sort_of(video)
        size = sum(map(len, self._videos)) + len(video)
        if self._videos and (sort != self._sort or size > VIDEO_MB * 1_000_000):
            yield from self.close()
            self._file += 1
        self._sort = sort
        self.places.append((self._file, sum(self._counts)))
        self._videos.append(video)
        self._counts.append(count)

    def close(self) -> Iterator[tuple[str, bytes]]:
        """The file that is at hand."""
        data = join(self._videos, self._counts, self.fps, self.camera)
        yield video_name(True, self.camera, self.unit, self._file), data
        self._videos, self._counts = [], []
