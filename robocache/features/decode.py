"""``decode``: images and videos as pixels. Each frame that a row picks is decoded once, whatever rows pick it.

A frame of a video is decoded from the key frame before it; frames that are picked behind one another share that way,
and what lies between the last of them and the next key frame is not decoded. PyAV decodes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.features.steps import Compute, Samples
from robocache.storage import open_storage
from robocache.types import Finding, StreamType, array_type
from robocache.video import (
    FFMPEG,
    PACKET,
    decoded_frames,
    group_frames,
    image_codec,
    image_frame,
    is_key_frame,
    packet_frames,
)


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
        self.check(given)
        size = self.size(given)
        if not all(isinstance(n, int) and n > 0 for n in size):
            raise ValueError(
                "decode: the recording does not tell how large its images are; add resize: [height, width]"
            )
        known = {key: given.about[key] for key in ("frame",) if key in given.about}
        told = {"kind": "image", "encoding": "rgb8", "height": size[0], "width": size[1]}
        return StreamType(array_type(np.dtype(np.uint8), (size[0], size[1], 3)), known | told)

    def check(self, given: StreamType) -> None:
        """``ValueError`` where it is nothing that can be decoded."""
        kind = given.about.get("kind")
        encoded = pa.types.is_binary(given.arrow) or pa.types.is_large_binary(given.arrow)
        frames = pa.types.is_struct(given.arrow) and {f.name for f in given.arrow} >= {"path", "frame", "pts"}
        image = pa.types.is_struct(given.arrow) and {f.name for f in given.arrow} == {"bytes", "path"}
        held = frames or image or encoded or given.arrow == PACKET
        if not held or (kind not in (None, "image", "video")):
            raise ValueError(f"decode: the source holds {given.arrow}, which is no encoded image and no video")

    def size(self, given: StreamType) -> tuple[Any, Any]:
        """Height and width of the pixels, None where only they tell."""
        return self.resize or (given.about.get("height"), given.about.get("width"))

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """Those of the samples that rows pick. One that cannot be decoded, as no key frame is before it, is not valid;
        ``InputError`` where an image is damaged, or of another size than the dataset's."""
        count = len(given.values)
        out: np.ndarray | None = None
        valid = np.zeros(count, bool)
        for k, pixels in self.images(given):
            if out is None:
                out = np.zeros((count, *pixels.shape), np.uint8)
            out[k], valid[k] = pixels, True
        if out is None:
            height, width = self.resize or (int(given.about.get("height", 1)), int(given.about.get("width", 1)))
            out = np.zeros((count, height, width, 3), np.uint8)
        about = {"kind": "image", "encoding": "rgb8", "height": out.shape[1], "width": out.shape[2]}
        told = lost(count, int(valid.sum()))
        return replace(given, values=out, valid=given.valid & valid, about=about, recorded=None, findings=told)

    def images(self, given: Samples) -> Iterator[tuple[int, np.ndarray]]:
        """The pixels of samples one at a time, with the place of each; ``InputError`` as :meth:`apply`."""
        values = given.values
        assert isinstance(values, pa.Array | pa.ChunkedArray)
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        size: tuple[int, ...] = ()
        for k, frame in _frames(values, given):
            pixels = self._pixels(frame)
            size = size or pixels.shape
            if pixels.shape != size:
                raise InputError(f"an image is {pixels.shape[0]} x {pixels.shape[1]}, others {size[0]} x {size[1]}; "
                                 "add resize: [height, width]")  # fmt: skip
            yield k, pixels

    def _pixels(self, frame: Any) -> np.ndarray:
        if self.resize is not None and (frame.height, frame.width) != self.resize:
            frame = frame.reformat(width=self.resize[1], height=self.resize[0], interpolation="AREA")
        return frame.to_ndarray(format="rgb24")


def lost(count: int, found: int) -> tuple[Finding, ...]:
    """What there is to say where not all frames could be decoded."""
    if found == count:
        return ()
    gone = count - found
    return (Finding("dropped", "", f"{gone} of {count} frames have no key frame before them", gone / count),)


def _frames(values: pa.Array, given: Samples) -> Iterator[tuple[int, Any]]:
    """Frames of FFmpeg's, with the place of each among ``values``."""
    if values.type == PACKET:
        return packet_frames(values, str(given.about.get("encoding", "")))
    if pa.types.is_struct(values.type) and "pts" in {f.name for f in values.type}:
        return _of_files(values, given.about.get("files", {}))
    if given.about.get("kind") == "video":
        return _of_messages(given)
    payloads = values.field("bytes") if pa.types.is_struct(values.type) else values
    return ((k, _image(p.as_py())) for k, p in enumerate(payloads) if p.is_valid)


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
    recorded, rows = given.recorded, given.places
    assert isinstance(recorded, pa.Array | pa.ChunkedArray) and rows is not None
    codec = FFMPEG.get(str(given.about.get("format", given.about.get("encoding", ""))).lower())
    if codec is None:
        raise InputError(f"the video is {given.about.get('format')!r}; {', '.join(FFMPEG)} are decoded")
    keys = [k for k in range(len(recorded)) if is_key_frame(recorded[k].as_py() or b"", codec)]
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        at = bisect_right(keys, row) - 1
        if at >= 0:
            groups.setdefault(keys[at], []).append(place)
    for key, places in groups.items():
        here = {int(rows[place]): place for place in places}
        packets = ((row, recorded[row].as_py() or b"") for row in range(key, max(here) + 1))
        for row, frame in group_frames(packets, codec):
            if row in here:
                yield here[row], frame
