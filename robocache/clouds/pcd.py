"""PCD, the files of the Point Cloud Library: ascii, binary, and binary_compressed, which is LZF over whole columns.

The format: pointclouds.org/documentation/tutorials/pcd_file_format.html. Numbers are little-endian.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from robocache.clouds.columns import Cloud, Field
from robocache.clouds.records import PADDING, Placed, read_records, real_fields
from robocache.errors import InputError

_KEYS = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_KINDS = {"F": "f", "I": "i", "U": "u"}
_ENCODINGS = ("ascii", "binary", "binary_compressed")
#: A header is longer than this in no file; a file without one is none.
HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class Header:
    """placed: the fields, padding too; step: bytes of a point; points: how many; body: where they begin"""

    placed: tuple[Placed, ...]
    step: int
    points: int
    encoding: str
    body: int

    @property
    def fields(self) -> list[Field]:
        return [item.field for item in real_fields(self.placed)]


def read_header(head: bytes) -> Header:
    """The header at the beginning of a file. ``InputError`` where it is none, or says what cannot be."""
    stated: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in stated:
        end = head.find(b"\n", at, at + HEADER_BYTES)
        if end < 0:
            raise InputError("the header of the PCD file has no line DATA")
        line = head[at:end].decode("latin-1").strip()
        at = end + 1
        if not line or line.startswith("#"):
            continue
        key, *words = line.split()
        if key not in _KEYS:
            raise InputError(f"the header of the PCD file has a line {line[:40]!r}; its keys are {', '.join(_KEYS)}")
        stated["FIELDS" if key == "COLUMNS" else key] = words
    names = stated.get("FIELDS", [])
    counts = _whole(stated, "COUNT", ["1"] * len(names))
    sizes, kinds = _whole(stated, "SIZE", ["4"] * len(names)), stated.get("TYPE", ["F"] * len(names))
    if not names or not len(names) == len(counts) == len(sizes) == len(kinds):
        raise InputError(f"FIELDS, SIZE, TYPE and COUNT of the PCD file are {len(names)}, {len(sizes)}, ... words")
    placed, step = [], 0
    for name, size, kind, count in zip(names, sizes, kinds, counts, strict=True):
        if kind not in _KINDS or size not in (1, 2, 4, 8) or (kind == "F" and size < 4):
            raise InputError(f"field {name!r} of the PCD file has TYPE {kind} and SIZE {size}, which is no number")
        placed.append(Placed(Field(name, np.dtype(f"{_KINDS[kind]}{size}"), count), step))
        step += size * count
    (width,), (height,) = _whole(stated, "WIDTH", ["0"]), _whole(stated, "HEIGHT", ["1"])
    (points,) = _whole(stated, "POINTS", [str(width * height)])
    if "WIDTH" in stated and points != width * height:
        raise InputError(f"the PCD file has POINTS {points}, but WIDTH {width} and HEIGHT {height}")
    encoding = " ".join(stated["DATA"]).lower()
    if encoding not in _ENCODINGS:
        raise InputError(f"the PCD file has DATA {encoding}; {', '.join(_ENCODINGS)} can be read")
    return Header(tuple(placed), step, points, encoding, at)


def decode_pcd(data: bytes) -> Cloud:
    """The points of a file in their order. ``InputError`` where it is damaged."""
    header = read_header(data)
    if header.encoding == "ascii":
        return _ascii(header, data)
    packed = np.frombuffer(data, np.uint8, offset=header.body)
    step = header.step
    if header.encoding == "binary":
        if len(packed) < header.points * step:
            raise InputError(f"{header.points} points of {step} bytes are promised, {len(packed)} bytes are there")
        return read_records(
            packed, header.placed, rows=1, columns=header.points, step=step, row_step=header.points * step
        )
    if len(packed) < 8:
        raise InputError("the compressed points are cut off")
    size, whole = (int(n) for n in packed[:8].view("<u4"))
    if whole != header.points * step or len(packed) - 8 < size:
        raise InputError(
            f"{header.points} points of {step} bytes are promised; compressed are {size} bytes (of {len(packed) - 8} "
            f"that are there), which become {whole}"
        )
    flat = _decompress(packed[8 : 8 + size], whole)
    found = {}
    for field, offset in real_fields(header.placed):  # field after field, each of all points
        first = offset * header.points
        column = flat[first : first + field.dtype.itemsize * field.count * header.points]
        numbers = column.view(field.dtype.newbyteorder("<")).astype(field.dtype)
        found[field.name] = numbers if field.count == 1 else numbers.reshape(header.points, field.count)
    return Cloud(found)


def _whole(stated: dict[str, list[str]], key: str, default: list[str]) -> list[int]:
    words = stated.get(key, default)
    if not words or not all(word.isdigit() and len(word) < 12 for word in words):
        raise InputError(f"the PCD file has {key} {' '.join(words)}; whole numbers would be right")
    return [int(word) for word in words]


def _ascii(header: Header, data: bytes) -> Cloud:
    """Numbers as text, a line a point."""
    names = [f"{i}" for i in range(len(header.placed))]  # padding fields share a name
    fields = [item.field for item in header.placed]
    record = np.dtype([(n, f.dtype, (f.count,)) for n, f in zip(names, fields, strict=True)])
    body = data[header.body :]
    if len(body) < 2 * header.points:
        raise InputError(f"{header.points} points are promised, {len(body)} bytes are there")
    try:
        rows = np.zeros(0, record)
        if header.points:
            rows = np.loadtxt(io.BytesIO(body), record, comments=None, ndmin=1, max_rows=header.points)
    except ValueError as error:
        raise InputError(f"the points of the PCD file: {error}") from None
    if len(rows) < header.points:
        raise InputError(f"{header.points} points are promised, {len(rows)} lines are there")
    found = {}
    for name, field in zip(names, fields, strict=True):
        if field.name not in PADDING:
            found[field.name] = rows[name][:, 0].copy() if field.count == 1 else rows[name].copy()
    real_fields(header.placed)  # refuses names that occur twice
    return Cloud(found)


def _decompress(data: np.ndarray, size: int) -> np.ndarray:
    """LZF, by the library inside h5py: a compressed chunk of a dataset is just such bytes."""
    try:
        import h5py
    except ImportError:
        raise InputError("binary_compressed points need h5py: pip install 'robocache[hdf5]'") from None
    if not size:
        return np.empty(0, np.uint8)
    with h5py.File("lzf", "w", driver="core", backing_store=False) as file:
        chunk = file.create_dataset("chunk", (size,), np.uint8, chunks=(size,), compression="lzf")
        chunk.id.write_direct_chunk((0,), data)
        try:
            return chunk[...]
        except OSError:
            raise InputError(f"{len(data)} compressed bytes do not become {size}; the file is damaged") from None
