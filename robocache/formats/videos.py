"""Video files as recordings: what frames they have and when, told by their packets; nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from robocache.formats.base import InputSpec, Reader, open_file
from robocache.types import Episode, EpisodeRef, FileStamp, Source, Stream, StreamInfo, StreamType
from robocache.video import CONTAINERS, FRAME, Video, read_video

#: What the frames of a file are called.
SOURCE = "video"


class VideoReader(Reader):
    """Video files, each an episode of one stream of references; a feature's ``decode`` makes pixels of them."""

    name: ClassVar[str] = "video"
    asked: ClassVar[tuple[str, ...]] = tuple(CONTAINERS)
    own_time: ClassVar[bool] = True
    package: ClassVar[str] = "av"

    def begins(self, head: bytes, spec: InputSpec) -> bool:
        """A box of MP4, or EBML."""
        return head[4:8].isalpha() or head.startswith(b"\x1a\x45\xdf\xa3")

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        (file,) = files
        return [EpisodeRef(id, self.name, (file,), nbytes=max(file.size, 0))]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """The picture."""
        found = self._video(ref, spec)
        what = f"{found.codec} video {found.height} x {found.width}"
        return [StreamInfo(SOURCE, what, (), found.times)]

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the file's packets."""
        asked = [source for source in sources if source.path == SOURCE]
        return {source.key: StreamType(FRAME, self._video(ref, spec).about) for source in asked}

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """References to every frame that is shown."""
        asked = [source for source in sources if source.path == SOURCE]
        if not asked:
            return Episode(ref.id, {})
        found, path = self._video(ref, spec), ref.id.partition("@")[0]
        about = {**found.about, "files": {path: ref.files[0].uri}}
        stream = Stream(found.times, found.frames(path), about)
        return Episode(ref.id, {source.key: stream for source in asked})

    def _video(self, ref: EpisodeRef, spec: InputSpec) -> Video:
        with open_file(ref.files[0], spec) as opened:
            return read_video(opened, ref.files[0].uri)
