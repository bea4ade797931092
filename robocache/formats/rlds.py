"""RLDS episodes as TensorFlow Datasets stores them: a TFRecord an episode, an Example of lists in it, read without
TensorFlow.

A source is the path of a step's feature without ``steps/``: ``observation/state``, ``action[0:6]``. What types and
shapes these have, ``features.json`` beside the file tells; without it, how many numbers a step has. Steps have no time
of their own: ``input.times`` names a feature or a rate. The last step's action and reward mean nothing, as RLDS has it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.arrays import Arrays, ArraysReader, Payloads, Rows
from robocache.formats.base import InputSpec, open_file, select_episodes
from robocache.formats.messages.protobuf import wires
from robocache.storage import open_storage
from robocache.types import EpisodeRef, FileStamp

_HEAD = struct.Struct("<QI")  # length, its masked CRC
_CRC = struct.Struct("<I")
_STEPS, _EPISODE = "steps/", "episode_metadata/"
_FLAGS = ("steps/is_first", "steps/is_last", "steps/is_terminal")
_MOST_EPISODES, _MOST_TEXT = 1 << 20, 16_384
_IMAGES = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png"}


def masked(crc: int) -> int:
    """A CRC as the format stores it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c(data: bytes) -> int:
    import google_crc32c

    return masked(google_crc32c.value(data))


class RldsReader(ArraysReader):
    """Checksums are Castagnoli's, of the package google-crc32c."""

    name: ClassVar[str] = "rlds"
    suffixes: ClassVar[tuple[str, ...]] = (".tfrecord",)
    package: ClassVar[str] = "google_crc32c"

    def begins(self, head: bytes, spec: InputSpec) -> bool:
        """A length and its checksum."""
        if not find_spec(self.package):
            return len(head) >= _HEAD.size  # what is missing is said when it is read
        return len(head) >= _HEAD.size and _HEAD.unpack_from(head)[1] == _crc32c(head[:8])

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One for each record. Of a file that was cut off, or has a damaged length, the record there fails, and those
        before it are read."""
        (file,) = files
        found: list[EpisodeRef] = []
        with open_file(file, spec) as opened:
            size, at = opened.seek(0, 2), 0
            while at < size and len(found) < _MOST_EPISODES:
                opened.seek(at)
                head = opened.read(_HEAD.size)
                length, crc = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
                end = at + _HEAD.size + length + _CRC.size
                ref = EpisodeRef(f"{id}#{len(found)}", self.name, (file,), f"{len(found)}:{at}", length)
                if len(head) < _HEAD.size or crc != _crc32c(head[:8]):
                    why = f"the length at byte {at} of {size} is damaged; the records behind it cannot be found"
                    found.append(replace(ref, failure=f"{file.uri}#{len(found)}: {why}"))
                    break
                if end > size:
                    why = f"ends at byte {size}, its record is {length} bytes from byte {at}; it was cut off"
                    found.append(replace(ref, failure=f"{file.uri}#{len(found)}: {why}"))
                    break
                found.append(ref)
                at = end
        chosen = set(select_episodes([str(k) for k in range(len(found))], spec.select, {}, file.uri))
        return [ref for k, ref in enumerate(found) if str(k) in chosen]

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec, key: str = "") -> Iterator[Arrays]:
        at = int(key.partition(":")[2] or 0)
        where = f"{file.uri}#{key.partition(':')[0]}"
        with open_file(file, spec) as opened:
            size = opened.seek(0, 2)
            opened.seek(at)
            head = opened.read(_HEAD.size)
            length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else size
            if at + _HEAD.size + length + _CRC.size > size:
                raise InputError(f"{where}: its record goes beyond the end of the file; it was cut off")
            data, crc = opened.read(length), _CRC.unpack(opened.read(_CRC.size))[0]
        if spec.verify_checksums and crc != _crc32c(data):
            raise InputError(f"{where}: has CRC {_crc32c(data):#010x}, the file says {crc:#010x}; it is damaged")
        yield _episode(_features(data, where), _declared(file, spec), where)


class _Declared(NamedTuple):
    """What ``features.json`` says of a feature; ``kind``: ``image``, ``text`` or empty."""

    dtype: str
    shape: tuple[int, ...]
    kind: str


def _declared(file: FileStamp, spec: InputSpec) -> dict[str, _Declared]:
    """By path; nothing where there is no such file, or it is another."""
    folder, _, _ = file.uri.rpartition("/")
    fs, path = open_storage(f"{folder}/features.json", spec.storage_options)
    try:
        told = json.loads(fs.cat_file(path))
    except (FileNotFoundError, ValueError):
        return {}
    found: dict[str, _Declared] = {}
    _declare(told, "", found, 0)
    return found


def _declare(node: Any, path: str, found: dict[str, _Declared], depth: int) -> None:
    if not isinstance(node, dict) or depth > 32:
        return
    inner = node.get("featuresDict")
    if isinstance(inner, dict) and isinstance(inner.get("features"), dict):
        for name, child in inner["features"].items():
            _declare(child, f"{path}/{name}" if path else str(name), found, depth + 1)
    elif isinstance(node.get("sequence"), dict):
        _declare(node["sequence"].get("feature"), path, found, depth + 1)
    else:
        kind = next((kind for kind in ("image", "text", "tensor") if isinstance(node.get(kind), dict)), "")
        told = node.get(kind, {})
        shape = told.get("shape") if isinstance(told.get("shape"), dict) else {}
        sizes = shape.get("dimensions", []) if isinstance(shape.get("dimensions"), list) else []
        plain = tuple(int(size) for size in sizes if str(size).isdigit())
        kind = "" if kind == "tensor" else kind
        found[path] = _Declared(str(told.get("dtype", "")), plain if len(plain) == len(sizes) else (), kind)


def _features(data: bytes, where: str) -> dict[str, Any]:
    """The lists of an Example by their names: numbers ``[n]``, or a list of bytes."""
    found: dict[str, Any] = {}
    for features in _inside(data, 0, len(data), 1, where):
        for start, end in _inside(data, *features, 1, where):
            name = b"".join(data[low:high] for low, high in _inside(data, start, end, 1, where))
            for low, high in _inside(data, start, end, 2, where):
                found[name.decode("utf-8", "replace")] = _list(data, low, high, where)
    return found


def _inside(data: bytes, start: int, end: int, number: int, where: str) -> list[tuple[int, int]]:
    return [(w.start, w.end) for w in wires(data, start, end, where) if w.number == number and w.wire == 2]


def _list(data: bytes, start: int, end: int, where: str) -> Any:
    for wire in wires(data, start, end, where):
        items = list(wires(data, wire.start, wire.end, where)) if wire.wire == 2 else []
        if wire.number == 1:
            return [data[item.start : item.end] for item in items]
        if wire.number == 2:
            content = b"".join(data[item.start : item.end] for item in items)
            if len(content) % 4:
                raise InputError(f"{where}: a list of floats of {len(content)} bytes; the record is damaged")
            return np.frombuffer(content, "<f4").astype(np.float32)
        if wire.number == 3:
            return _integers(b"".join(data[item.start : item.end] for item in items), where)
    return []


def _integers(data: bytes, where: str) -> np.ndarray:
    """Varints one behind the other as int64."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if len(octets) and (not len(ends) or ends[-1] != len(octets) - 1):
        raise InputError(f"{where}: a list of integers ends in the middle of one; the record is damaged")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    if np.any(ends - starts >= 10):
        raise InputError(f"{where}: an integer of more than ten bytes; the record is damaged")
    values = np.zeros(len(ends), np.uint64)
    for k in range(int((ends - starts).max(initial=-1)) + 1):
        there = starts + k <= ends
        values[there] |= (octets[starts[there] + k] & 0x7F).astype(np.uint64) << np.uint64(7 * k)
    return values.view(np.int64)


def _episode(features: dict[str, Any], declared: dict[str, _Declared], where: str) -> Arrays:
    steps = next((len(features[name]) for name in _FLAGS if name in features), None)
    if steps is None:
        each = {name: prod(told.shape) for name, told in declared.items()}
        mine = {name: items for name, items in features.items() if name.startswith(_STEPS)}
        counts = [
            len(items) if isinstance(items, list) else len(items) // max(each[name], 1)
            for name, items in mine.items()
            if isinstance(items, list) or name in each
        ]
        steps = max(set(counts), key=counts.count, default=0)
    found: dict[str, Rows] = {}
    unread: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    for name, items in sorted(features.items()):
        if name.startswith(_STEPS):
            try:
                found[name.removeprefix(_STEPS)] = _rows(items, steps, declared.get(name))
            except ValueError as error:
                unread[name.removeprefix(_STEPS)] = str(error)
        elif len(items) == 1:
            value = items[0]
            plain = value.decode("utf-8", "replace")[:_MOST_TEXT] if isinstance(value, bytes) else value.item()
            told = declared.get(name)
            plain = bool(plain) if told is not None and told.dtype == "bool" else plain
            metadata[name.removeprefix(_EPISODE)] = plain
    if not found:
        raise InputError(f"{where}: its record has no feature below steps/, it has {', '.join(sorted(features)[:20])}")
    return Arrays(found, unread, metadata)


def _rows(items: Any, steps: int, told: _Declared | None) -> Rows:
    """A row a step. ``ValueError``: the numbers cannot be shared out among them."""
    if isinstance(items, list):
        if len(items) != steps:
            raise ValueError(f"has {len(items)} values for {steps} steps")
        first = next(filter(None, items), b"")
        image = next((codec for magic, codec in _IMAGES.items() if first.startswith(magic)), "")
        if told is not None and told.kind == "text":
            return np.array([item.decode("utf-8", "replace") for item in items], object)
        about: dict[str, Any] = {"kind": "image", "encoding": image} if image else {}
        if image and told is not None and len(told.shape) == 3:
            about |= {"height": told.shape[0], "width": told.shape[1]}
        return Payloads(pa.array(items, pa.large_binary()), about)
    if not steps or len(items) % steps:
        raise ValueError(f"has {len(items)} numbers for {steps} steps, which are not as many each")
    each = len(items) // steps
    shape = told.shape if told is not None and prod(told.shape) == each else (() if each == 1 else (each,))
    dtype = items.dtype
    if told is not None and told.dtype in ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64"):
        dtype = np.dtype(told.dtype)
    return items.reshape(steps, *shape).astype(dtype)
