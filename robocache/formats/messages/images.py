"""Images that messages hold: which field of which type is one, and raw pixels as numbers."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.messages.definitions import Array, Number, Struct

#: Types whose ``data`` is an image, by their names without the package; True: raw pixels.
IMAGES = {"Image": True, "RawImage": True, "CompressedImage": False, "CompressedVideo": False}
#: How the bytes of an image lie, which does not matter once they are numbers.
LAYOUT = ("step", "is_bigendian")
_CODECS = ("jpeg", "jpg", "png", "webp", "avif", "tiff", "bmp")
_TOLD = ("encoding", "height", "width", *LAYOUT)
_CHANNELS = {"mono": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
_COLOURS = re.compile(r"(?P<what>mono|rgba|bgra|rgb|bgr|bayer_[rgb]{4})(?P<bits>8|16)")
_PLAIN = re.compile(r"(?P<bits>8|16|32|64)(?P<kind>[USF])C(?P<channels>[1-9][0-9]?)?")
#: Two bytes a pixel: brightness, and one of two colours by turns.
_PAIRS = ("yuv422", "yuv422_yuy2", "uyvy", "yuyv")


def codec_of(format: str) -> str:
    """The encoding that a ``CompressedImage`` speaks of: ``rgb8; jpeg compressed bgr8`` is jpeg."""
    text = format.lower()
    if "compresseddepth" in text:  # a PNG behind a header of its own is none
        return format
    return next((codec for codec in _CODECS if codec in text), format)


class Pixels(NamedTuple):
    """What one pixel is: numbers of ``dtype`` (native), one a channel."""

    dtype: np.dtype
    channels: int


def image_data(target: object) -> bool | None:
    """Whether the ``data`` of a message is raw pixels (True) or an encoded image (False); None: it is no image."""
    if not isinstance(target, Struct):
        return None
    data = dict(target.fields).get("data")
    payload = isinstance(data, Array) and data.length is None and data.element == Number(np.dtype(np.uint8))
    return IMAGES.get(target.name.rpartition("/")[2]) if payload else None


def pixels(encoding: str) -> Pixels | None:
    """Of an encoding as ROS and Foxglove name them; None: it is not known, or its planes lie apart."""
    if match := _COLOURS.fullmatch(encoding):
        return Pixels(np.dtype(f"u{int(match['bits']) // 8}"), _CHANNELS.get(match["what"], 1))
    if match := _PLAIN.fullmatch(encoding):
        bits, kind = int(match["bits"]) // 8, {"U": "u", "S": "i", "F": "f"}[match["kind"]]
        return None if kind == "f" and bits == 1 else Pixels(np.dtype(f"{kind}{bits}"), int(match["channels"] or 1))
    return Pixels(np.dtype(np.uint8), 2) if encoding.lower() in _PAIRS else None


def frames(payloads: pa.Array, about: Mapping[str, Any], where: str) -> np.ndarray:
    """Raw images ``[n, height, width, channels]``, in the order of their channels, without what pads their lines.

    payloads: large binary ``[n]``
    about:    ``encoding``, ``height``, ``width``, ``step`` and ``is_bigendian``, as far as all messages agree on them
    ``InputError`` where they do not agree, or it is not known what a pixel is.
    """
    lacking = [name for name in ("encoding", "height", "width") if name not in about]
    if lacking:
        raise InputError(
            f"{where}: {' and '.join(lacking)} is not the same throughout, and one column holds images of one kind; "
            "take its .data for the bytes as they are"
        )
    encoding, height, width = str(about["encoding"]), int(about["height"]), int(about["width"])
    pixel = pixels(encoding)
    if pixel is None:
        raise InputError(f"{where}: pixels of encoding {encoding!r} are not known; take its .data for the bytes")
    line = width * pixel.channels * pixel.dtype.itemsize
    step = int(about.get("step") or line)
    offsets = np.frombuffer(payloads.buffers()[1], np.int64)[payloads.offset : payloads.offset + len(payloads) + 1]
    sizes = np.diff(offsets)
    if step < line or (sizes != height * step).any():
        i = int(np.argmax(sizes != height * step))
        found = f"lines of {step}" if step < line else f"{sizes[i]} bytes of image {i}"
        raise InputError(
            f"{where}: {found} are not {encoding} of {height} by {width} in lines of {step} bytes; take its .data for "
            "the bytes as they are"
        )
    data = np.frombuffer(payloads.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    lines = data.reshape(len(payloads), height, step)[:, :, :line]
    dtype = pixel.dtype.newbyteorder(">" if about.get("is_bigendian") else "<")
    values = np.ascontiguousarray(lines).view(dtype)
    return values.reshape(len(payloads), height, width, pixel.channels).astype(pixel.dtype, copy=False)


def from_json(messages: Sequence[Any], raw: bool, where: str) -> tuple[np.ndarray | pa.Array, dict[str, Any]]:
    """Images of JSON messages, whose bytes are base64 text (Foxglove, rosbridge) or numbers, and what they are: as of
    other encodings.

    ``InputError`` where a message has none, or :func:`frames` says so.
    """
    payloads = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or "data" not in message:
            raise InputError(f"{where}: message {i} is no image, it has no data")
        data = message["data"]
        try:
            payloads.append(base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data))
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}: data of message {i} is neither base64 text nor bytes ({error})") from None
    about: dict[str, Any] = {"kind": "image"}
    for name in _TOLD if raw else ("format",):
        values = {message[name] for message in messages if isinstance(message.get(name), str | int)}
        if len(values) == 1:
            (about[name],) = values
    array = pa.array(payloads, pa.large_binary())
    if not raw:
        return array, about | ({"encoding": codec_of(about["format"])} if "format" in about else {})
    found = frames(array, about, where) if messages else array
    return found, {name: value for name, value in about.items() if name not in LAYOUT}
