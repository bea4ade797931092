"""Files of named arrays, one row a step, whatever their container; ``meta/episode_ends`` cuts them into episodes.

A source is an array's path, ``data/action[0:3]``, or of an array of records a field of it, ``points.x``. Such files
keep no time of their own: ``input.times`` names an array, or a rate; a single number ``fps`` beside the arrays is one,
too.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from robocache.errors import InputError, MissingError
from robocache.formats.base import InputSpec, Reader, natural_key, parse_source, select_columns, select_episodes, shown
from robocache.formats.compression import refuse_bomb
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

ENDS = "meta/episode_ends"
RATE = "fps"


class Rows(Protocol):
    """An array that is read when it is indexed: numbers ``[n, *shape]``, records, or text."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any) -> Any: ...


class Payloads:
    """Bytes of a step each, such as encoded images; ``about`` as of a stream."""

    def __init__(self, values: pa.Array, about: Mapping[str, Any]):
        self.values, self.about, self.shape, self.dtype = values, about, (len(values),), np.dtype(object)

    def __getitem__(self, key: slice) -> pa.Array:
        return self.values[key]


@dataclass(frozen=True)
class Arrays:
    """What an open file holds.

    found:      by path
    unread:     why arrays cannot be read, by path
    attributes: what the file says of all of them; JSON
    """

    found: Mapping[str, Rows]
    unread: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def ends(self) -> np.ndarray:
        """int64: where episodes end, read once. ``InputError``: what is called so is no such thing."""
        array = self.found[ENDS]
        if len(array.shape) != 1 or np.dtype(array.dtype).kind not in "iu" or array.shape[0] > 1 << 24:
            raise InputError(f"{ENDS} is {array.dtype} {list(array.shape)}; one column of whole numbers is right")
        ends = np.asarray(array[:]).astype(np.int64)
        if np.any(np.diff(ends, prepend=0) < 0):
            raise InputError(f"{ENDS} goes back, at episode {int(np.argmax(np.diff(ends, prepend=0) < 0))}")
        return ends


class ArraysReader(Reader):
    """A reader opens its files as :class:`Arrays`."""

    selects: ClassVar[bool] = True

    @abstractmethod
    def open(self, file: FileStamp, spec: InputSpec, key: str = "") -> AbstractContextManager[Arrays]:
        """A file, none of its rows read; ``key``: of which episode, where a file keeps each apart."""

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One for each end that ``meta/episode_ends`` holds, or the file."""
        (file,) = files
        with self.open(file, spec) as arrays:
            if not arrays.found:
                said = "; ".join(f"{path}: {why}" for path, why in list(arrays.unread.items())[:3])
                raise InputError(f"{file.uri}: holds no array that can be read{f' ({said})' if said else ''}")
            if ENDS in arrays.unread:  # else its episodes would be taken for one
                raise InputError(f"{file.uri}: {ENDS}: {arrays.unread[ENDS]}; where its episodes end is not known")
            if ENDS not in arrays.found:
                return [EpisodeRef(id, self.name, (file,), nbytes=max(file.size, 0))]
            ends = arrays.ends.tolist()
        bounds = [0, *ends]
        names = select_episodes([str(k) for k in range(len(ends))], spec.select, {}, file.uri)
        share = max(file.size, 0) // max(len(ends), 1)
        spans = [(k, bounds[k], bounds[k + 1]) for k in map(int, names)]
        return [EpisodeRef(f"{id}#{k}", self.name, (file,), f"{k}:{low}:{high}", share) for k, low, high in spans]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every array that has a row for each step, and each field of an array of records; what cannot be read."""
        with self.open(ref.files[0], spec, ref.key) as arrays:
            part = _Part(arrays, ref, spec)
            found = []
            for path, rows in part.rows().items():
                shape = f"[{','.join(map(str, rows.shape[1:]))}]" if len(rows.shape) > 1 else ""
                fields = tuple((str(n), str(rows.dtype[n])) for n in getattr(rows.dtype, "names", None) or ())
                found.append(StreamInfo(path, f"{rows.dtype}{shape}" if not fields else "record", fields, part.times()))
            none = np.empty(0, np.int64)
            return found + [StreamInfo(path, "", (), none, why) for path, why in arrays.unread.items()]

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the arrays' types and shapes. The time that the config names must be there."""
        with self.open(ref.files[0], spec, ref.key) as arrays:
            part = _Part(arrays, ref, spec)
            part.clock()
            found = {source.key: part.kind(source.path) for source in sources}
            return {key: kind for key, kind in found.items() if kind is not None}

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """The rows of the episode and no others."""
        with self.open(ref.files[0], spec, ref.key) as arrays:
            part = _Part(arrays, ref, spec)
            times = part.times()
            streams = {}
            for source in sources:
                if (kind := part.kind(source.path)) is not None:
                    streams[source.key] = Stream(times, part.values(source.path, kind), kind.about)
        return Episode(ref.id, streams, arrays.attributes)


class _Part:
    """The rows of one episode."""

    def __init__(self, arrays: Arrays, ref: EpisodeRef, spec: InputSpec):
        self._arrays, self._spec = arrays, spec
        self._size = max(ref.files[0].size, 0)
        number, *bounds = ref.key.split(":") if ref.key else ("",)
        self._bounds = (int(bounds[0]), int(bounds[1])) if len(bounds) == 2 else None
        self._where = f"{ref.files[0].uri}#{number}" if number else ref.files[0].uri

    def rows(self) -> dict[str, Rows]:
        """Arrays that have a row for each step."""
        found = sorted(self._found.items(), key=lambda x: natural_key(x[0]))
        return {path: a for path, a in found if a.shape[0] == self._count}

    @cached_property
    def _found(self) -> dict[str, Rows]:
        return {path: a for path, a in self._arrays.found.items() if a.shape and path != ENDS}

    @cached_property
    def _count(self) -> int | None:
        """Rows of the file: those of the time, of the last episode's end, or of most numbers."""
        if named := self._spec.times.named if self._spec.times else ():
            array = self._arrays.found.get(named[0][0])
            return array.shape[0] if array is not None and array.shape else None
        if ENDS in self._arrays.found:
            return int(self._arrays.ends[-1])
        lengths = [a.shape[0] for a in self._found.values() if np.dtype(a.dtype).kind in "biufV"]
        return max(set(lengths), key=lengths.count, default=None)

    def clock(self) -> Fraction | float | None:
        """The rate; None where arrays are the time. ``MissingError`` where there is none."""
        times = self._spec.times
        if times is not None and times.named:
            for name, _ in times.named:
                if name not in self._arrays.found:
                    raise MissingError(f"{self._where}: time {name!r} is not there; {self._known()}")
            return None
        if times is not None and times.rate_hz is not None:
            return times.rate_hz
        rate = self._arrays.found.get(RATE)
        if rate is not None and rate.shape in ((), (1,)) and np.dtype(rate.dtype).kind in "iuf":
            value = float(np.asarray(rate[()]).reshape(-1)[0])
            if 0 < value < 1e9:
                return value
        raise MissingError(f"{self._where}: its arrays keep no time; {HOW_TO_SET}; {self._known()}")

    def times(self) -> np.ndarray:
        """int64 nanoseconds ``[rows]``."""
        rate = self.clock()
        if rate is not None:
            low, high = self._bounds or (0, self._count or 0)
            refuse_bomb(f"{self._where}: the times of {high - low} rows", 8 * (high - low), self._size)
            return rate_times(high - low, rate)
        assert self._spec.times is not None
        parts = []
        for name, unit in self._spec.times.named:
            values = self._read(name, self._arrays.found[name])
            values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
            parts.append(to_ns(values, unit, where=f"{self._where}: time {name!r}"))
        return np.asarray(np.sum(parts, axis=0, dtype=np.int64))

    def _known(self) -> str:
        return f"its arrays are {shown(sorted(self._arrays.found, key=natural_key), 30)}"

    def _find(self, source: str) -> tuple[str, Rows, str, Any] | None:
        """An array, the field of its records that is asked for, and the selector on it. A path that is there wins."""
        for path, selector in ((source, None), parse_source(source)):
            if path in self._arrays.found:
                return path, self._arrays.found[path], "", selector
            name, dot, item = path.rpartition(".")
            array = self._arrays.found.get(name)
            if dot and array is not None and item in (getattr(array.dtype, "names", None) or ()):
                return name, array, item, selector
            if path in self._arrays.unread:
                raise InputError(f"{self._where}: {path!r}: {self._arrays.unread[path]}")
        return None

    def kind(self, source: str) -> StreamType | None:
        found = self._find(source)
        if found is None:
            return None
        path, array, item, selector = found
        dtype = np.dtype(array.dtype[item]) if item else array.dtype
        where = f"{self._where}: {source!r}"
        self._check(path, array)
        if isinstance(array, Payloads):
            return StreamType(array.values.type, array.about)
        if _is_text(dtype):
            return StreamType(pa.string())
        if dtype.kind not in "biuf" or dtype.subdtype is not None:
            names = getattr(dtype, "names", None)
            what = f"records of {shown(names)}; name one, as in {path}.{names[0]}" if names else f"{dtype}"
            raise InputError(f"{where}: holds {what}; numbers and text are read")
        sample = np.broadcast_to(np.empty((), dtype.newbyteorder("=")), (0, *array.shape[1:]))
        values = select_columns(sample, selector, where=where)
        return StreamType(array_type(values.dtype, values.shape[1:]))

    def values(self, source: str, kind: StreamType) -> Values:
        """Of a source of that kind: numbers ``[rows, *shape]`` in native byte order, or text."""
        found = self._find(source)
        assert found is not None
        path, array, item, selector = found
        if isinstance(array, Payloads):
            return array[slice(*(self._bounds or (0, len(array.values))))]
        rows = self._read(path, array)
        rows = rows[item] if item else rows
        if kind.arrow == pa.string():
            items = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in rows.ravel()]
            if rows.ndim != 1:
                raise InputError(f"{self._where}: {source!r} is text of shape {list(rows.shape)}; one a row is read")
            return pa.array(items, pa.string())
        rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        return select_columns(rows, selector, where=f"{self._where}: {source!r}")

    def _check(self, path: str, array: Rows) -> None:
        itemsize = 8 if _is_text(array.dtype) else np.dtype(array.dtype).itemsize
        claimed = math.prod(map(int, array.shape)) * itemsize
        refuse_bomb(f"{self._where}: {path!r}", claimed, self._size)

    def _read(self, path: str, array: Rows) -> np.ndarray:
        self._check(path, array)
        if not array.shape or array.shape[0] != self._count:
            raise InputError(f"{self._where}: {path!r} has shape {list(array.shape)}, the steps are {self._count}")
        low, high = self._bounds or (0, array.shape[0])
        if high > array.shape[0]:
            raise InputError(f"{self._where}: {path!r} has {array.shape[0]} rows, the episode ends at {high}")
        return np.asarray(array[low:high])


def _is_text(dtype: Any) -> bool:
    return not isinstance(dtype, np.dtype) or dtype.kind in "USOT"
