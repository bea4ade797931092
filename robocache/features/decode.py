"""``decode``: images and videos as pixels. Each frame that a row picks is decoded once, whatever rows pick it.

A frame of a video is decoded from the key frame before it; frames that are picked behind one another share that way,
and what lies between the last of them and the next key frame is not decoded. PyAV decodes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.features.steps import Compute, Samples
from robocache.storage import open_storage
from robocache.types import Finding, StreamType, array_type
from robocache.video import decoded_frames, image_codec, image_frame, is_key_frame, pyav

#: What Foxglove calls the codecs of videos in messages, by FFmpeg's name.
_CODECS = {"h264": "h264", "avc": "h264", "h265": "hevc", "hevc": "hevc", "av1": "av1", "vp9": "vp9"}


@dataclass(frozen=True, slots=True)
class Decode:
    """uint8 ``[height, width, 3]``, red, green, blue; ``resize``: height and width, where they are not as recorded."""

    key: ClassVar[str] = "decode"
    picks: ClassVar[bool] = True
    rows: ClassVar[bool] = False
    beside: ClassVar[str] = ""

    resize: tuple[int, int] | None = None

    def type(self, given: StreamType) -> StreamType:
        """Encoded images, videos and references to their frames become pixels."""
        kind = given.about.get("kind")
        encoded = pa.types.is_binary(given.arrow) or pa.types.is_large_binary(given.arrow)
        frames = pa.types.is_struct(given.arrow) and {f.name for f in given.arrow} >= {"path", "frame", "pts"}
        image = pa.types.is_struct(given.arrow) and {f.name for f in given.arrow} == {"bytes", "path"}
        if not (frames or image or encoded) or (kind not in (None, "image", "video")):
            raise ValueError(f"decode: the source holds {given.arrow}, which is no encoded image and no video")
        size: tuple[Any, Any] = self.resize or (given.about.get("height"), given.about.get("width"))
        if not all(isinstance(n, int) and n > 0 for n in size):
            raise ValueError(
                "decode: the recording does not tell how large its images are; add resize: [height, width]"
            )
        known = {key: given.about[key] for key in ("frame",) if key in given.about}
        told = {"kind": "image", "encoding": "rgb8", "height": size[0], "width": size[1]}
        return StreamType(array_type(np.dtype(np.uint8), (size[0], size[1], 3)), known | told)

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """Those of the samples that rows pick. One that cannot be decoded, as no key frame is before it, is not valid;
        ``InputError`` where an image is damaged, or of another size than the dataset's."""
        values = given.values
        assert isinstance(values, pa.Array | pa.ChunkedArray)
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        count = len(values)
        frames: Iterator[tuple[int, Any]]
        if pa.types.is_struct(values.type) and "pts" in {f.name for f in values.type}:
            frames = _of_files(values, given.about.get("files", {}))
        elif given.about.get("kind") == "video":
            frames = _of_messages(given)
        else:
            payloads = values.field("bytes") if pa.types.is_struct(values.type) else values
            frames = ((k, _image(p.as_py())) for k, p in enumerate(payloads) if p.is_valid)
        out: np.ndarray | None = None
        valid = np.zeros(count, bool)
        for k, frame in frames:
            pixels = self._pixels(frame)
            if out is None:
                out = np.zeros((count, *pixels.shape), np.uint8)
            if pixels.shape != out.shape[1:]:
                raise InputError(f"an image is {pixels.shape[0]} x {pixels.shape[1]}, others {out.shape[1]} x "
                                 f"{out.shape[2]}; add resize: [height, width]")  # fmt: skip
            out[k], valid[k] = pixels, True
        if out is None:
            height, width = self.resize or (int(given.about.get("height", 1)), int(given.about.get("width", 1)))
            out = np.zeros((count, height, width, 3), np.uint8)
        about = {"kind": "image", "encoding": "rgb8", "height": out.shape[1], "width": out.shape[2]}
        lost = count - int(valid.sum())
        told = (Finding("dropped", "", f"{lost} of {count} frames have no key frame before them", lost / count),)
        return replace(
            given, values=out, valid=given.valid & valid, about=about, recorded=None, findings=told if lost else ()
        )

    def _pixels(self, frame: Any) -> np.ndarray:
        if self.resize is not None and (frame.height, frame.width) != self.resize:
            frame = frame.reformat(width=self.resize[1], height=self.resize[0], interpolation="AREA")
        return frame.to_ndarray(format="rgb24")


def _image(payload: bytes) -> Any:
    if (codec := image_codec(payload)) is None:
        raise InputError(f"an image begins with {payload[:8]!r}, which is no JPEG, PNG or WebP")
    try:
        return image_frame(payload, codec)
    except ValueError as error:
        raise InputError(f"an image cannot be decoded ({error})") from None


def _of_files(values: pa.Array, files: Mapping[str, str]) -> Iterator[tuple[int, Any]]:
    """Frames of video files, with the place of each among ``values``."""
    wanted: dict[str, dict[int, int]] = {}
    for k, frame in enumerate(values.to_pylist()):
        if frame is not None:
            wanted.setdefault(frame["path"], {})[frame["pts"]] = k
    for path, places in wanted.items():
        uri = files.get(path, path)
        fs, local = open_storage(uri, {})
        with fs.open(local, "rb") as opened:
            for pts, frame in decoded_frames(opened, uri, sorted(places)):
                yield places[pts], frame


def _of_messages(given: Samples) -> Iterator[tuple[int, Any]]:
    """Frames of a video whose messages hold one each, with the place of each among the samples."""
    av = pyav()
    recorded, rows = given.recorded, given.places
    assert isinstance(recorded, pa.Array | pa.ChunkedArray) and rows is not None
    codec = _CODECS.get(str(given.about.get("format", given.about.get("encoding", ""))).lower())
    if codec is None:
        raise InputError(f"the video is {given.about.get('format')!r}; {', '.join(_CODECS)} are decoded")
    keys = [k for k in range(len(recorded)) if is_key_frame(recorded[k].as_py() or b"", codec)]
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        at = bisect_right(keys, row) - 1
        if at >= 0:
            groups.setdefault(keys[at], []).append(place)
    for key, places in groups.items():
        here = {int(rows[place]): place for place in places}
        context = av.CodecContext.create(codec, "r")
        try:
            for row in range(key, max(here) + 1):
                packet = av.Packet(recorded[row].as_py() or b"")
                packet.pts, packet.time_base = row, Fraction(1, 1000)
                for frame in context.decode(packet):
                    if frame.pts in here:
                        yield here[frame.pts], frame
            for frame in context.decode(None):
                if frame.pts in here:
                    yield here[frame.pts], frame
        except av.FFmpegError as error:
            raise InputError(f"a frame of the video cannot be decoded ({error})") from None
