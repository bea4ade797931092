"""HDF5 datasets and attributes as stream values: numbers, frames, encoded images, text, lists of varying length.

What a dataset is, is told from its type and shape, and of bytes from its first rows, so that what is described and
what is read are the same. Encoded images come in three layouts: variable-length bytes, opaque or string elements of
one length, and rows of uint8 ``[N, L]`` padded with zeros (ALOHA's); all become exactly the encoded bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from robocache import scratch
from robocache.errors import InputError
from robocache.formats.base import Selector, select_columns
from robocache.types import StreamType, Values, array_type


class _Lazy:
    """h5py, imported when first used: it is optional, and takes a third of a second."""

    def __getattr__(self, name: str) -> Any:
        import h5py

        found = getattr(h5py, name)
        setattr(self, name, found)
        return found


h5py = _Lazy()

#: How encoded images begin and end.
_IMAGES = {"jpeg": (b"\xff\xd8\xff", b"\xff\xd9"), "png": (b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82")}
#: Rows that are looked at to tell what bytes are: the first may be empty.
_LOOKED_AT = 8
#: Grey frames smaller than this are matrices of numbers.
_SMALLEST_FRAME = 16
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Kind:
    """What the samples of a dataset are.

    layout: ``numbers``, ``text``, ``bytes`` or ``lists``
    image:  of bytes: the encoding of the images that they are; else empty
    """

    layout: str
    type: StreamType
    image: str = ""


@dataclass(frozen=True)
class Samples:
    """Values of ``n`` rows and what a person must know of them, as :class:`robocache.types.Stream` has them."""

    values: Values
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def kind_of(dataset: Any, selector: Selector | None, where: str) -> Kind:
    """What a dataset holds. A single value is one sample. ``InputError``, beginning with ``where``, for what cannot be
    a stream."""
    dtype, shape = dataset.dtype, _shape(dataset)
    text, vlen = h5py.check_string_dtype(dtype), h5py.check_vlen_dtype(dtype)
    if dtype.kind in "biuf":
        if selector is None and dtype == np.uint8 and len(shape) == 2 and (image := _image(dataset)):
            return _bytes(image)
        sample = np.broadcast_to(np.empty((), dtype.newbyteorder("=")), (0, *shape[1:]))
        values = select_columns(sample, selector, where=where)
        return Kind("numbers", StreamType(array_type(values.dtype, values.shape[1:]), _frame(values)))
    if selector is None and len(shape) == 1:
        opaque = dtype.kind == "V" and dtype.names is None
        if text is not None and text.encoding == "utf-8":
            return Kind("text", StreamType(pa.string()))
        if text is not None or opaque or vlen == np.uint8:
            image = _image(dataset)
            return Kind("text", StreamType(pa.string())) if text is not None and not image else _bytes(image)
        if vlen is not None and np.dtype(vlen).kind in "biuf":
            element = pa.from_numpy_dtype(np.dtype(vlen).newbyteorder("="))
            return Kind("lists", StreamType(pa.list_(element)))
    raise InputError(f"{where}: {type_name(dataset)} {list(shape)} cannot be read as a stream")


def read_samples(dataset: Any, selector: Selector | None, where: str) -> Samples:
    """The samples of a dataset, as :func:`kind_of` says. Numbers are in native byte order ``[n, *shape]`` and are read
    once, in the type that they have; an empty row of bytes is null."""
    kind = kind_of(dataset, selector, where)
    if kind.layout == "numbers":
        numbers = _numbers(dataset).reshape(_shape(dataset))
        numbers = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
        return Samples(select_columns(numbers, selector, where=where), kind.type.about)
    if kind.layout == "text":
        return Samples(_texts(_items(dataset), where))
    if kind.layout == "lists":
        vlen = np.dtype(h5py.check_vlen_dtype(dataset.dtype))
        return Samples(_lists([np.asarray(row).view(vlen) for row in _items(dataset)], vlen, where))
    rows = dataset[()] if dataset.ndim == 2 else _items(dataset)
    values, notes = _payloads(rows, kind.image)
    return Samples(values, kind.type.about, notes)


def _numbers(dataset: Any) -> np.ndarray:
    """All of a dataset; a large one piece by piece, which are whole chunks of it."""
    if not dataset.size:
        return np.empty(dataset.shape, dataset.dtype)
    if not dataset.ndim or not scratch.waits(dataset.nbytes):
        return np.asarray(dataset[()])
    out = scratch.room(dataset.shape, dataset.dtype)
    each = max(1, scratch.BLOCK * len(out) // out.nbytes)
    if dataset.chunks is not None:
        each = -(-each // dataset.chunks[0]) * dataset.chunks[0]
    for at in range(0, len(out), each):
        dataset.read_direct(out, np.s_[at : at + each], np.s_[at : at + each])
        scratch.tidy()
    return out


def attribute_samples(value: Any, where: str) -> Samples:
    """An attribute as one sample: numbers ``[1, *shape]`` or text."""
    if isinstance(value, bytes | str | np.bytes_ | np.str_):
        return Samples(_texts([value], where))
    array = np.asarray(value)
    if array.dtype.kind in "biuf":
        return Samples(array[None].astype(array.dtype.newbyteorder("="), copy=False))
    raise InputError(f"{where}: an attribute of type {array.dtype} cannot be read as a stream")


def type_name(dataset: Any) -> str:
    """How ``robocache inspect`` and messages show a dataset's type."""
    text, vlen = h5py.check_string_dtype(dataset.dtype), h5py.check_vlen_dtype(dataset.dtype)
    if text is not None:
        return "string"
    return f"variable-length {vlen}" if vlen is not None else str(dataset.dtype)


def _shape(dataset: Any) -> tuple[int, ...]:
    """With rows first: a single value is one row."""
    return (1,) if dataset.shape == () else tuple(dataset.shape)


def _items(dataset: Any) -> Sequence[Any]:
    return [dataset[()]] if dataset.ndim == 0 else dataset[()]


def _bytes(image: str) -> Kind:
    about = {"kind": "image", "encoding": image} if image else {}
    return Kind("bytes", StreamType(pa.large_binary(), about), image)


def _frame(values: np.ndarray) -> dict[str, Any]:
    """Of uint8 ``[n, H, W, C]``, ``[n, C, H, W]`` or, where they are large, ``[n, H, W]``: that these are frames."""
    shape = values.shape[1:]
    if values.dtype != np.uint8 or len(shape) not in (2, 3):
        return {}
    if len(shape) == 3 and shape[2] in _CHANNELS:
        height, width = shape[:2]
    elif len(shape) == 3 and shape[0] in _CHANNELS:
        height, width = shape[1:]
    elif len(shape) == 2 and min(shape) >= _SMALLEST_FRAME:
        height, width = shape
    else:
        return {}
    return {"kind": "image", "height": height, "width": width}


def _image(dataset: Any) -> str:
    """The encoding of the images that a dataset's rows of bytes are; empty: they are none."""
    head = dataset[:_LOOKED_AT] if dataset.ndim else _items(dataset)
    for row in head:
        payload = _payload(row)
        for encoding, (begin, end) in _IMAGES.items():
            if payload.startswith(begin) and payload.rstrip(b"\0").endswith(end):
                return encoding
    return ""


def _payload(row: Any) -> bytes:
    return row.tobytes() if isinstance(row, np.ndarray | np.void) else bytes(row)


def _payloads(rows: Sequence[Any], image: str) -> tuple[pa.Array, tuple[str, ...]]:
    """Rows of bytes, each image cut where it ends; null for a row without one."""
    if not image:
        return pa.array([_payload(row) or None for row in rows], pa.large_binary()), ()
    found: list[bytes | None] = []
    broken: list[int] = []
    for k, row in enumerate(rows):
        payload = _payload(row).rstrip(b"\0")
        whole = any(payload.startswith(begin) and payload.endswith(end) for begin, end in _IMAGES.values())
        if payload and not whole:
            broken.append(k)
        found.append(payload if whole else None)
    values = pa.array(found, pa.large_binary())
    if not broken:
        return values, ()
    some = ", ".join(map(str, broken[:5])) + (" ..." if len(broken) > 5 else "")
    return values, (f"{len(broken)} of {len(found)} rows are no whole {image} image and left out (row {some})",)


def _texts(items: Sequence[Any], where: str) -> pa.Array:
    """UTF-8 text; ``InputError`` naming the row that is none."""
    found = []
    for k, item in enumerate(items):
        try:
            found.append(item.decode() if isinstance(item, bytes) else str(item))
        except UnicodeDecodeError as error:
            raise InputError(f"{where}, row {k + 1}: is no UTF-8 text ({error})") from None
    return pa.array(found, pa.string())


def _lists(rows: Sequence[np.ndarray], dtype: np.dtype, where: str) -> pa.Array:
    """Variable-length numbers as lists; an empty one stays one.

    h5py gives rows of the other byte order as if they were of this machine's, so the rows are of the type that the
    file states.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    if lengths.sum() >= 2**31:
        raise InputError(f"{where}: more than 2^31 numbers in the lists of one episode")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = np.concatenate([np.empty(0, dtype), *rows]).astype(dtype.newbyteorder("="), copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
