"""HDF5 demonstrations: robomimic, robosuite, Isaac Lab (groups below ``data``), or one episode a file (ACT, ALOHA).

Sources are dataset paths below the episode's group, ``obs/eef_pos``, ``actions``, ``states[0]``, and attributes,
``@success``, ``obs@frame``. HDF5 keeps no time: ``input.times`` names a dataset in the same language, or a rate. What
is no row for each time but a single value (an attribute, a scalar, a dataset of one row) is one sample at the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np

from robocache.errors import InputError, MissingError
from robocache.formats.base import (
    InputSpec,
    Reader,
    Selector,
    natural_key,
    open_file,
    parse_source,
    select_episodes,
    shown,
)
from robocache.formats.compression import MOST_CHUNK, refuse_bomb
from robocache.formats.hdf5_heap import HeapCheckedFile
from robocache.formats.hdf5_values import (
    Samples,
    attribute_samples,
    h5py,
    kind_of,
    read_samples,
    type_name,
)
from robocache.formats.times import HOW_TO_SET, to_ns
from robocache.types import Episode, EpisodeRef, FileStamp, Source, Stream, StreamInfo, StreamType, rate_times

#: Longer attributes (robosuite keeps a whole MJCF model in one) are no metadata.
MAX_ATTRIBUTE = 16_384
#: Episodes at the top of a file, as ManiSkill names them.
_TRAJECTORY = re.compile(r"traj_[0-9]+")
#: How a value of variable length lies in a dataset: its length, and where in which heap it is.
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("object", "<u4")])
#: robomimic's count of the samples of all episodes of a file, which is no fact about one of them.
_OF_ALL = "total"
#: Soft links that lead to one another; libhdf5 allows as many.
MAX_LINKS = 16
#: Nested groups; no demonstration is deeper, and to find the way through many takes time that grows with their square.
MAX_DEPTH = 64


class Hdf5Reader(Reader):
    """HDF5 through h5py; see the module for layouts and sources."""

    name: ClassVar[str] = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".hdf5", ".h5")
    magic: ClassVar[bytes] = b"\x89HDF\r\n\x1a\n"
    offsets: ClassVar[tuple[int, ...]] = (0, 512, 1024, 2048)  # behind a user block
    selects: ClassVar[bool] = True
    package: ClassVar[str] = "h5py"

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode for each group below ``data``, or each ``traj_N`` at the top, in natural order; without such
        groups the file is one."""
        (file,) = files
        with _open(file, spec) as (root, raw):
            data = _item(root, "data", file.uri)
            keys = [f"data/{name}" for name in _groups(data)] if isinstance(data, h5py.Group) else []
            keys = keys or _groups(root, _TRAJECTORY)
            if not keys:
                return [EpisodeRef(id, self.name, (file,), nbytes=file.size)]
            share = file.size // len(keys)
            chosen = _selected(root, raw, keys, spec.select, file.uri)
        return [EpisodeRef(f"{id}#{key}", self.name, (file,), key, share) for key in chosen]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every dataset with a row for each time (with a rate, every dataset), every single value and attribute."""
        with _open(ref.files[0], spec) as (root, raw):
            group = _group(root, ref)
            clock = _Clock(group, raw, ref, spec)
            found = []
            for path, dataset in _datasets(group).items():
                rows = _rows(dataset)
                shape = f"[{','.join(map(str, dataset.shape[1:]))}]" if dataset.ndim > 1 else ""
                if clock.times is not None and rows not in (1, len(clock.times)):
                    continue
                try:
                    _check_size(dataset, raw, f"{clock.where}: {path!r}")
                except InputError as error:
                    found.append(StreamInfo(path, type_name(dataset) + shape, (), np.empty(0, np.int64), str(error)))
                else:
                    found.append(StreamInfo(path, type_name(dataset) + shape, (), clock.of(path, rows)))
            for name, value in _attributes(group).items():
                found.append(StreamInfo(f"@{name}", type(value).__name__, (), clock.of(name, 1)))
        return found

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the datasets' types and shapes, and of bytes from their first rows (encoded images are told by these).
        The time that the config names must be there."""
        types = {}
        with _open(ref.files[0], spec) as (root, raw):
            group = _group(root, ref)
            _Clock(group, raw, ref, spec, read=False)
            for source in sources:
                where = f"{_where(ref)}: {source.path!r}"
                found = _find(group, source.path, where)
                if isinstance(found, _Data):
                    _check_size(found.dataset, raw, where)
                    types[source.key] = kind_of(found.dataset, found.selector, where).type
                elif found is not None:
                    types[source.key] = Stream(np.zeros(1, np.int64), attribute_samples(found.value, where).values).type
        return types

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """Read the named sources. A dataset of several rows, but not one for each time, is an ``InputError``."""
        streams = {}
        with _open(ref.files[0], spec) as (root, raw):
            group = _group(root, ref)
            clock = _Clock(group, raw, ref, spec)
            for source in sources:
                where = f"{_where(ref)}: {source.path!r}"
                found = _find(group, source.path, where)
                if found is not None:
                    samples = _samples(found, raw, where)
                    times = clock.of(source.path, len(samples.values))
                    streams[source.key] = Stream(times, samples.values, samples.about, notes=samples.notes)
            metadata = _attributes(group)
            if ref.key:
                metadata = {k: v for k, v in _attributes(group.parent).items() if k != _OF_ALL} | metadata
        return Episode(ref.id, streams, metadata)


class _Clock:
    """The times of an episode's datasets: one or two datasets' for all, or a rate's for each."""

    def __init__(self, group: Any, raw: HeapCheckedFile, ref: EpisodeRef, spec: InputSpec, *, read: bool = True):
        self.where = _where(ref)
        named = spec.times.named if spec.times else ()
        self.source = " + ".join(name for name, _ in named)
        self.rate = spec.times.rate_hz if spec.times else None
        self.times: np.ndarray | None = None
        self._even: dict[int, np.ndarray] = {}  # those of the rate, by their number
        if not named and self.rate is None:
            raise MissingError(f"{self.where}: HDF5 keeps no time; {HOW_TO_SET}; {_listing(group)}")
        parts = []
        for name, unit in named:
            where = f"{self.where}: time {name!r}"
            found = _find(group, name, where)
            if not isinstance(found, _Data):
                raise MissingError(f"{where} is not a dataset there; {_listing(group)}")
            if not read:
                continue
            values = _samples(found, raw, where).values
            if not isinstance(values, np.ndarray):
                raise InputError(f"{where}: times must be numbers, found {values.type}")
            one_column = values.ndim == 2 and values.shape[1] == 1
            parts.append(to_ns(values[:, 0] if one_column else values, unit, where=where))
        if len({len(part) for part in parts}) > 1:
            lengths = " and ".join(str(len(part)) for part in parts)
            raise InputError(f"{self.where}: the datasets of its time have {lengths} rows")
        if parts:
            self.times = parts[0] if len(parts) == 1 else np.stack(parts).sum(axis=0)

    def of(self, source: str, rows: int) -> np.ndarray:
        """int64 nanoseconds ``[rows]``; a single value is at the first."""
        if self.times is None:
            assert self.rate is not None
            if rows not in self._even:
                self._even[rows] = rate_times(rows, self.rate)
            return self._even[rows]
        if rows == 1:
            return self.times[:1] if len(self.times) else np.zeros(1, np.int64)
        if len(self.times) != rows:
            raise InputError(
                f"{self.where}: {source!r} has {rows} rows, the time {self.source!r} has {len(self.times)}"
            )
        return self.times


class _Data(NamedTuple):
    """A dataset that a source names, and the selector on it."""

    dataset: Any
    selector: Selector | None


class _Attribute(NamedTuple):
    """An attribute that a source names."""

    value: Any


@contextmanager
def _open(file: FileStamp, spec: InputSpec) -> Iterator[tuple[Any, HeapCheckedFile]]:
    """The file's root group, and its bytes."""
    # Through a file object: remote storage, no lock on the file, and storage errors arrive as they were raised.
    with open_file(file, spec) as stream:
        checked = HeapCheckedFile(stream)
        with h5py.File(checked, "r") as root:
            yield root, checked


def _groups(parent: Any, called: re.Pattern[str] = re.compile(".*", re.DOTALL)) -> list[str]:
    """Names of the groups in a group that are called so; what is linked to is none."""
    names = (name for name in parent if called.fullmatch(name) and _link(parent, name) == h5py.h5l.TYPE_HARD)
    return sorted((name for name in names if parent.get(name, getclass=True) is h5py.Group), key=natural_key)


def _item(group: Any, path: str, where: str, links: int = 0) -> Any:
    """What is at a path below a group, None where nothing is. ``InputError`` where a link leads into another file,
    which need be no recording."""
    found = group.file["/"] if path.startswith("/") else group
    for name in filter(None, path.split("/")):
        kind = _link(found, name) if isinstance(found, h5py.Group) else None
        if kind is None:
            return None
        if kind == h5py.h5l.TYPE_HARD:
            found = found[name]
            continue
        link = found.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{where}: {path!r} is a link into another file, {link.filename!r}, which is not followed; copy the "
                "data into this file, as with h5copy"
            )
        if links == MAX_LINKS:
            raise InputError(f"{where}: {path!r} is a link to a link, and so on without end")
        found = _item(found, link.path, where, links + 1)
    return found


def _link(group: Any, name: str) -> int | None:
    """The type of the link of that name in a group; None where there is none."""
    links, known = group.id.links, name.encode()
    return links.get_info(known).type if links.exists(known) else None


def _selected(root: Any, raw: HeapCheckedFile, keys: Sequence[str], select: Sequence[str], uri: str) -> list[str]:
    """The episodes that ``input.select`` names: by a filter key below ``mask``, or as :func:`select_episodes` does."""
    masks = _item(root, "mask", uri)
    known = {}
    for name in masks if isinstance(masks, h5py.Group) else ():
        if isinstance(mask := _item(masks, name, uri), h5py.Dataset):
            _check_size(mask, raw, f"{uri}: mask/{name}")
            known[str(name)] = [item.decode() if isinstance(item, bytes) else str(item) for item in mask[()]]
    names = {key.rpartition("/")[2]: key for key in keys}
    for item in select:
        if lost := [name for name in known.get(item, ()) if name not in names]:
            raise MissingError(f"{uri}: mask/{item} names {shown(lost, 8)}, which are not there")
    return [names[name] for name in select_episodes(list(names), select, known, uri)]


def _group(root: Any, ref: EpisodeRef) -> Any:
    group = _item(root, ref.key, _where(ref)) if ref.key else root
    if not isinstance(group, h5py.Group):
        raise InputError(f"{_where(ref)}: no such group")
    return group


def _where(ref: EpisodeRef) -> str:
    return f"{ref.files[0].uri}#{ref.key}" if ref.key else ref.files[0].uri


def _find(group: Any, source: str, where: str) -> _Data | _Attribute | None:
    """What a source names. A path that exists wins over a selector, and a dataset over an attribute; an attribute that
    the episode's group lacks may be one of the groups around it."""
    for path, selector in ((source, None), parse_source(source)):
        item = _item(group, path, where) if path.strip("/") else None
        if isinstance(item, h5py.Dataset):
            return _Data(item, selector)
    path, at, name = source.rpartition("@")
    holder = (_item(group, path, where) if path.strip("/") else group) if at and name else None
    while holder is not None:
        if name in holder.attrs:
            return _Attribute(holder.attrs[name])
        if path or holder.name == "/":
            break
        holder = holder.parent
    return None


def _samples(found: _Data | _Attribute, raw: HeapCheckedFile, where: str) -> Samples:
    if isinstance(found, _Attribute):
        return attribute_samples(found.value, where)
    _check_size(found.dataset, raw, where)
    return read_samples(found.dataset, found.selector, where)


def _rows(dataset: Any) -> int:
    return len(dataset) if dataset.ndim else 1


def _check_place(dataset: Any, where: str) -> None:
    """``InputError`` where the values are not in the file itself: a recording could show any file of this machine."""
    if dataset.external:
        raise InputError(f"{where}: its values are in another file, {dataset.external[0][0]!r}, which is not read")
    if dataset.is_virtual:
        other = [source.file_name for source in dataset.virtual_sources() if source.file_name != "."]
        if other:
            raise InputError(
                f"{where}: is put together from other files, the first {other[0]!r}, which are not read; copy the data "
                "into this file, as with h5repack"
            )


def _check_size(dataset: Any, raw: HeapCheckedFile, where: str) -> None:
    """``InputError`` where libhdf5 would take memory out of proportion to the file, or not survive what is there."""
    if dataset.shape is None:
        raise InputError(f"{where}: holds no value at all")
    _check_place(dataset, where)
    _check_pieces(dataset, raw, where)
    packed = raw.size if dataset.is_virtual else dataset.id.get_storage_size()
    if dataset.chunks:  # libhdf5 unpacks one whole, however few rows are asked for
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
        refuse_bomb(f"{where}: kept in pieces of {dataset.chunks}", chunk, packed, MOST_CHUNK)
    refuse_bomb(where, max(dataset.nbytes, 8 * _rows(dataset)), packed)  # with the times of its rows


def _check_pieces(dataset: Any, raw: HeapCheckedFile, where: str) -> None:
    """``InputError`` where a packed chunk is shorter than its checksum (libhdf5 reads before its begin), or a value of
    variable length claims more than the file has (libhdf5 takes that memory first)."""
    variable = dataset.dtype.kind == "O" and (
        h5py.check_string_dtype(dataset.dtype) or h5py.check_vlen_dtype(dataset.dtype)
    )
    if dataset.is_virtual or not (variable or dataset.fletcher32):
        return
    places: list[tuple[int, int]] = []  # bytes of the values as they lie, where no filter has packed them
    if dataset.chunks is None:
        if (offset := dataset.id.get_offset()) is not None:
            places.append((offset, dataset.size * _REFERENCE.itemsize))
    else:
        chunks: list[Any] = []
        dataset.id.chunk_iter(chunks.append)
        for chunk in chunks:
            if dataset.fletcher32 and chunk.filter_mask == 0 and chunk.size <= 4:
                raise InputError(f"{where}: a chunk of {chunk.size} bytes with a checksum of 4; the file is damaged")
        if dataset.id.get_create_plist().get_nfilters() == 0:
            places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    if not variable or dataset.file.id.get_create_plist().get_sizes()[0] != 8:  # as wide as addresses mostly are
        return
    for offset, size in places:
        data = raw.at(offset, size)
        lengths = np.frombuffer(data, _REFERENCE, len(data) // _REFERENCE.itemsize)["length"]
        if (longest := int(lengths.max(initial=0))) > raw.size:
            raise InputError(
                f"{where}: a value of {longest} elements in a file of {raw.size} bytes; the file is damaged"
            )


def _datasets(group: Any) -> dict[str, Any]:
    """Datasets below the group that hold anything, by path."""
    found: dict[str, Any] = {}

    def visit(path: str, item: Any) -> None:
        if path.count("/") == MAX_DEPTH:
            raise InputError(f"{path[:40]}...: groups within groups, {MAX_DEPTH} deep")
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found[path] = item

    group.visititems(visit)
    return {path: found[path] for path in sorted(found, key=natural_key)}


def _listing(group: Any) -> str:
    paths = list(_datasets(group))
    return f"its datasets are {shown(paths, 30)}" if paths else "it has no datasets"


def _attributes(group: Any) -> dict[str, Any]:
    """A group's attributes as JSON values; what is long or has no JSON form is left out."""
    found = {}
    for name, value in group.attrs.items():
        plain = _plain(value)
        if plain is not None:
            found[str(name)] = plain
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size <= MAX_ATTRIBUTE // 16):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list):
        items = [_plain(item) for item in value]
        return None if any(item is None for item in items) else items
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if len(value) <= MAX_ATTRIBUTE else None
    return value if isinstance(value, bool | int) else None
