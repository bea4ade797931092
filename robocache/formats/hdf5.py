"""HDF5 demonstrations: robomimic, robosuite, Isaac Lab (groups below ``data``), or one episode a file (ACT, ALOHA).

Sources are dataset paths below the episode's group, ``obs/eef_pos``, ``actions``, ``states[0]``. HDF5 keeps no time:
``input.times`` names a dataset in the same language, or a rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, MissingError
from robocache.formats.base import InputSpec, Reader, natural_key, open_file, parse_source, select_columns
from robocache.formats.hdf5_heap import HeapCheckedFile
from robocache.formats.times import HOW_TO_SET, to_ns
from robocache.types import (
    Episode,
    EpisodeRef,
    FileStamp,
    Source,
    Stream,
    StreamInfo,
    StreamType,
    Values,
    array_type,
    rate_times,
)


class _Lazy:
    """h5py, imported when first used: it is optional, and takes a third of a second."""

    def __getattr__(self, name: str) -> Any:
        import h5py

        return getattr(h5py, name)


h5py = _Lazy()

#: Longer attributes (robosuite keeps a whole MJCF model in one) are no metadata.
MAX_ATTRIBUTE = 16_384
#: No HDF5 filter packs tighter than deflate's 1032:1, so a dataset that claims more is damaged.
MAX_COMPRESSION = 1100


class Hdf5Reader(Reader):
    """HDF5 through h5py; see the module for layouts and sources."""

    name: ClassVar[str] = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".hdf5", ".h5")
    magic: ClassVar[bytes] = b"\x89HDF\r\n\x1a\n"
    offsets: ClassVar[tuple[int, ...]] = (0, 512, 1024, 2048)  # behind a user block
    package: ClassVar[str] = "h5py"

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode for each group below ``data``, in natural order; without such groups the file is one."""
        (file,) = files
        with _open(file, spec) as root:
            data = root.get("data")
            groups = []
            if isinstance(data, h5py.Group):
                groups = [name for name in data if data.get(name, getclass=True) is h5py.Group]
        if not groups:
            return [EpisodeRef(id, self.name, (file,), nbytes=file.size)]
        keys = [f"data/{name}" for name in sorted(groups, key=natural_key)]
        return [EpisodeRef(f"{id}#{key}", self.name, (file,), key, file.size // len(keys)) for key in keys]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every dataset with a row for each time; with a rate, every dataset."""
        with _open(ref.files[0], spec) as root:
            clock = _Clock(_group(root, ref), ref, spec)
            found = []
            for path, dataset in clock.datasets().items():
                shape = f"[{','.join(map(str, dataset.shape[1:]))}]" if dataset.ndim > 1 else ""
                if clock.times is None or len(dataset) == len(clock.times):
                    found.append(StreamInfo(path, f"{_type_name(dataset)}{shape}", (), clock.of(path, len(dataset))))
        return found

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the datasets' types and shapes; the time that the config names must be there."""
        types = {}
        with _open(ref.files[0], spec) as root:
            group = _group(root, ref)
            _Clock(group, ref, spec, read=False)
            for source in sources:
                dataset, columns = _find(group, source.path)
                if dataset is not None:
                    types[source.key] = _type(dataset, columns, f"{_where(ref)}: {source.path!r}")
        return types

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """Read the named datasets. One whose length is not the time's is an ``InputError``."""
        streams = {}
        with _open(ref.files[0], spec) as root:
            group = _group(root, ref)
            clock = _Clock(group, ref, spec)
            for source in sources:
                dataset, columns = _find(group, source.path)
                if dataset is not None:
                    where = f"{_where(ref)}: {source.path!r}"
                    values = _values(dataset, columns, ref.files[0], where)
                    streams[source.key] = Stream(clock.of(source.path, len(values)), values)
            metadata = _attributes(group) if not ref.key else {**_attributes(root["data"]), **_attributes(group)}
        return Episode(ref.id, streams, metadata)


class _Clock:
    """The times of an episode's datasets: one dataset's for all, or a rate's for each."""

    def __init__(self, group: Any, ref: EpisodeRef, spec: InputSpec, *, read: bool = True):
        self.group, self.where = group, _where(ref)
        self.source = spec.times.column if spec.times else None
        self.rate = spec.times.rate_hz if spec.times else None
        self.times: np.ndarray | None = None
        if self.source is not None:
            assert spec.times is not None
            dataset, columns = _find(group, self.source)
            where = f"{self.where}: time {self.source!r}"
            if dataset is None:
                raise MissingError(f"{where} is not a dataset there; {self._listing()}")
            if not read:
                return
            values = _values(dataset, columns, ref.files[0], where)
            if not isinstance(values, np.ndarray):
                raise InputError(f"{where}: times must be numbers, found {values.type}")
            one_column = values.ndim == 2 and values.shape[1] == 1
            self.times = to_ns(values[:, 0] if one_column else values, spec.times.unit, where=where)
        elif self.rate is None:
            raise MissingError(f"{self.where}: HDF5 keeps no time; {HOW_TO_SET}; {self._listing()}")

    def of(self, source: str, rows: int) -> np.ndarray:
        """int64 nanoseconds ``[rows]``."""
        if self.times is None:
            assert self.rate is not None
            return rate_times(rows, self.rate)
        if len(self.times) != rows:
            raise InputError(
                f"{self.where}: {source!r} has {rows} rows, the time {self.source!r} has {len(self.times)}"
            )
        return self.times

    def datasets(self) -> dict[str, Any]:
        """Datasets below the group that have rows, by path."""
        found: dict[str, Any] = {}

        def visit(path: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim > 0:
                found[path] = item

        self.group.visititems(visit)
        return {path: found[path] for path in sorted(found, key=natural_key)}

    def _listing(self) -> str:
        paths = list(self.datasets())
        more = f" and {len(paths) - 30} more" if len(paths) > 30 else ""
        return f"its datasets are {', '.join(paths[:30])}{more}" if paths else "it has no datasets"


@contextmanager
def _open(file: FileStamp, spec: InputSpec) -> Iterator[Any]:
    # Through a file object: remote storage, no lock on the file, and storage errors arrive as they were raised.
    with open_file(file, spec) as stream, h5py.File(HeapCheckedFile(stream), "r") as root:
        yield root


def _group(root: Any, ref: EpisodeRef) -> Any:
    group = root.get(ref.key) if ref.key else root
    if not isinstance(group, h5py.Group):
        raise InputError(f"{_where(ref)}: no such group")
    return group


def _where(ref: EpisodeRef) -> str:
    return f"{ref.files[0].uri}#{ref.key}" if ref.key else ref.files[0].uri


def _find(group: Any, source: str) -> tuple[Any, Any]:
    """The dataset that a source names and the selector on it; a path that exists wins over a selector."""
    for path, selector in ((source, None), parse_source(source)):
        item = group.get(path) if path.strip("/") else None
        if isinstance(item, h5py.Dataset):
            return item, selector
    return None, None


def _rows(dataset: Any, where: str) -> int:
    if dataset.shape is None or dataset.ndim == 0:
        raise InputError(f"{where}: holds a single value, not a row for each time")
    return len(dataset)


def _values(dataset: Any, selector: Any, file: FileStamp, where: str) -> Values:
    """Numbers in native byte order ``[n, *shape]``, or payloads for text and variable-length bytes."""
    rows = _rows(dataset, where)
    if dataset.nbytes > MAX_COMPRESSION * max(file.size, 1 << 16):
        raise InputError(f"{where}: claims {dataset.nbytes} bytes in a file of {file.size}; the file is damaged")
    kind = dataset.dtype
    text, vlen = h5py.check_string_dtype(kind), h5py.check_vlen_dtype(kind)
    if kind.kind in "biuf":
        values = dataset[()] if dataset.size else np.empty(dataset.shape, kind)
        return select_columns(values.astype(kind.newbyteorder("="), copy=False), selector, where=where)
    if selector is None and dataset.ndim == 1:
        if text is not None and text.encoding == "utf-8":
            return pa.array([str(item) for item in dataset.asstr()[()]], pa.string())
        if text is not None or (kind.kind == "V" and kind.names is None):
            return pa.array([bytes(item) for item in dataset[()]], pa.binary())
        if vlen == np.uint8:
            return pa.array([item.tobytes() for item in dataset[()]], pa.binary())
    raise InputError(f"{where}: {_type_name(dataset)} {[rows, *dataset.shape[1:]]} cannot be read as a stream")


def _type(dataset: Any, selector: Any, where: str) -> StreamType:
    """The type of the stream that :func:`_values` makes of a dataset."""
    kind = dataset.dtype
    if kind.kind in "biuf":
        _rows(dataset, where)
        sample = np.broadcast_to(np.empty((), kind.newbyteorder("=")), (0, *dataset.shape[1:]))
        values = select_columns(sample, selector, where=where)
        return StreamType(array_type(values.dtype, values.shape[1:]))
    text = h5py.check_string_dtype(kind)
    return StreamType(pa.string() if text is not None and text.encoding == "utf-8" else pa.binary())


def _type_name(dataset: Any) -> str:
    text, vlen = h5py.check_string_dtype(dataset.dtype), h5py.check_vlen_dtype(dataset.dtype)
    if text is not None:
        return "string"
    return f"variable-length {vlen}" if vlen is not None else str(dataset.dtype)


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
