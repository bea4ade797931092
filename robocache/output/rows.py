"""The rows of an output's episodes, to be picked by their numbers at random: from memory maps of Arrow files, or read
in blocks that a cache of bounded size holds.

The rows of the episodes that were chosen are numbered from 0, one episode after the other in order of the parts. A
store has them in segments; what a segment gives of a column is a table and the places in it.
"""

from __future__ import annotations

import json
import mmap
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from robocache.errors import OutputError
from robocache.output import layout
from robocache.output.dataset import Output
from robocache.types import StreamType, numpy_type
from robocache.video import FRAME

#: A block is the rows of neighbouring episodes, of about this many bytes; so many must go into the cache.
BLOCK_BYTES, BLOCKS = 8 << 20, 16
#: What a text is taken to take in memory.
_TEXT_BYTES = 64


@dataclass(frozen=True)
class Column:
    """A column of an output: ``shape`` of one row; ``dtype``: None where it holds no numbers of one shape, and its rows
    are Arrow's; ``image``, ``encoding``: what its schema says of itself; ``refers``: to frames of videos
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    text: bool = False
    image: bool = False
    encoding: str = ""
    refers: bool = False

    @classmethod
    def of(cls, told: pa.Field) -> Column:
        kind = StreamType(told.type)
        element = kind.element.value_type if pa.types.is_dictionary(kind.element) else kind.element
        numbers = kind.numeric or pa.types.is_boolean(kind.element)
        about = {key: json.loads((told.metadata or {}).get(key.encode(), b"null")) for key in ("kind", "encoding")}
        encoded = pa.types.is_struct(told.type) and [f.name for f in told.type] == ["bytes", "path"]
        return cls(
            told.name,
            kind.shape,
            numpy_type(kind.element) if numbers else None,
            pa.types.is_string(element),
            about["kind"] == "image" or (encoded and about["kind"] in (None, "image")),
            about["encoding"] or "",
            told.type == FRAME,
        )

    @property
    def width(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def payload(self) -> bool:
        """Whether its rows are as large as they are, which only the files tell."""
        return self.dtype is None and not self.text

    @property
    def nbytes(self) -> int:
        """Of a row in memory, about, but for payloads."""
        if self.dtype is None:
            return _TEXT_BYTES if self.text else 0
        return self.width * self.dtype.itemsize


@dataclass(frozen=True)
class Rows:
    """Where the rows of some episodes are.

    episodes: int64 ``[E]``, their numbers; parts: names of the files; part: int64 ``[E]``, which of them
    offset: int64 ``[E]``, of the first row in its file; ends: int64 ``[E + 1]``, of each episode's rows in the
    numbering of the rows, which begins with 0; stored_row: bytes of a row in the files, about
    """

    output: Output
    episodes: np.ndarray
    parts: tuple[str, ...]
    part: np.ndarray
    offset: np.ndarray
    ends: np.ndarray
    stored_row: int

    @classmethod
    def of(cls, output: Output, chosen: np.ndarray) -> Rows:
        """chosen: numbers of episodes that ``output`` has."""
        wanted, found, stored = frozenset(chosen.tolist()), [], np.zeros(2, np.int64)
        for record in output.records():
            for part, episodes in record.by_part():
                stored += (part.bytes, part.rows)
                at = 0
                for episode in episodes:
                    if episode.index in wanted:
                        found.append((part.name, at, episode.rows, episode.index))
                    at += episode.rows
        order = {name: k for k, name in enumerate(output.parts)}
        found.sort(key=lambda f: (order[f[0]], f[1]))
        parts = tuple(dict.fromkeys(f[0] for f in found))
        number = {name: k for k, name in enumerate(parts)}
        of, offset, rows, index = np.array([(number[f[0]], *f[1:]) for f in found], np.int64).reshape(-1, 4).T
        ends = np.concatenate([[0], np.cumsum(rows)])
        return cls(output, index, parts, of, offset, ends, int(stored[0] // max(1, stored[1])) + 1)

    @property
    def total(self) -> int:
        return int(self.ends[-1])

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Which episodes, as places in ``episodes``, rows ``[n]`` are of."""
        return np.searchsorted(self.ends, rows, "right") - 1

    def blocks(self, nbytes: int, row: int) -> np.ndarray:
        """Places in ``episodes`` where blocks of about ``nbytes`` begin, and their number; a block is of one part."""
        starts: list[int] = []
        size = 0
        for k, (first, last) in enumerate(zip(self.ends[:-1], self.ends[1:], strict=True)):
            more = int(last - first) * row
            if not starts or self.part[k] != self.part[k - 1] or size + more > nbytes:
                starts.append(k)
                size = 0
            size += more
        return np.array([*starts, len(self.episodes)], np.int64)

    def read(self, first: int, last: int, columns: Sequence[Column]) -> dict[str, Any]:
        """The rows of episodes ``first`` to ``last`` of one part: by column an array ``[n, width]``, or Arrow's."""
        part = self.parts[self.part[first]]
        counts = np.diff(self.ends[first : last + 1])
        begin, end = int(self.offset[first]), int(self.offset[last - 1] + counts[-1])
        # Where the rows are said to be is held against the rows: a wrong episode would train without a word.
        names = list(dict.fromkeys(["episode_index", *(c.name for c in columns)]))
        table, skipped = self.output.rows(part, begin, end, names)
        pieces = [table.slice(int(o) - skipped, int(n)) for o, n in zip(self.offset[first:last], counts, strict=True)]
        whole = pa.concat_tables(pieces) if end - begin != counts.sum() else table.slice(begin - skipped, end - begin)
        expected = np.repeat(self.episodes[first:last], counts)
        if not np.array_equal(numpy_of(whole["episode_index"]), expected):
            raise self.misplaced(part)
        return {c.name: whole[c.name] if c.dtype is None else dense(whole[c.name], c) for c in columns}

    def read_all(self, columns: Sequence[Column]) -> dict[str, Any]:
        """As :meth:`read`, of all episodes."""
        out: dict[str, Any] = {
            c.name: [] if c.dtype is None else np.empty((self.total, c.width), c.dtype) for c in columns
        }
        blocks = self.blocks(BLOCK_BYTES * 4, sum(c.nbytes for c in columns))
        for first, last in pairwise(blocks.tolist()):
            for name, values in self.read(first, last, columns).items():
                if isinstance(values, np.ndarray):
                    out[name][self.ends[first] : self.ends[last]] = values
                else:
                    out[name] += values.chunks
        return {name: pa.chunked_array(values) if isinstance(values, list) else values for name, values in out.items()}

    def column(self, name: str) -> np.ndarray:
        """Of all rows a column of one number each ``[N]``."""
        told = Column.of(self.output.schema.field(name))
        return self.read_all([told])[name][:, 0]

    def misplaced(self, part: str) -> OutputError:
        """For a part with rows of other episodes than it should have."""
        return OutputError(
            f"{self.output.uri}/{part} does not hold the episodes that its version says; "
            "`robocache verify` says what is damaged"
        )


def block_bytes(most: int) -> int:
    """Of a block, where all may take ``most``."""
    return max(1, min(BLOCK_BYTES, most // BLOCKS))


def numpy_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Numbers or truth values without a null, ``[n]``; a copy of the latter, and of several chunks.

    ``to_numpy`` of pyarrow imports pandas where it is installed, 50 MB in each process that trains.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    start, count, data = array.offset, len(array), array.buffers()[1]
    if pa.types.is_boolean(array.type):
        bits = np.frombuffer(data, np.uint8) if count else np.zeros(0, np.uint8)
        return np.unpackbits(bits, count=start + count, bitorder="little")[start:].astype(bool)
    dtype = numpy_type(array.type)
    return np.frombuffer(data, dtype, count, start * dtype.itemsize) if count else np.zeros(0, dtype)


def arrow_of(numbers: np.ndarray) -> pa.Array:
    """Numbers ``[n]`` as Arrow's, without a copy where they lie side by side; see :func:`numpy_of`."""
    data = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, data])


def dense(column: pa.ChunkedArray | pa.Array, told: Column) -> np.ndarray:
    """Numbers as ``[n, width]`` in memory of their own; null is NaN, or 0 of whole numbers and false."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    assert told.dtype is not None
    missing = numpy_of(array.is_null()) if array.null_count else None
    count, start = len(array), 0
    stop = count
    while pa.types.is_fixed_size_list(array.type):
        size, at = array.type.list_size, array.offset
        start, stop, array = (start + at) * size, (stop + at) * size, array.values
    flat = array.slice(start, stop - start)
    if flat.null_count:
        flat = flat.fill_null(np.nan if told.dtype.kind == "f" else told.dtype.type(0))
    out = np.array(numpy_of(flat)).reshape(count, told.width)
    if missing is not None:
        out[missing] = np.nan if told.dtype.kind == "f" else 0
    return out


@dataclass(frozen=True)
class Table:
    """Numbers of rows, the row at a place being ``width`` of them from ``place * every`` on: int, float or bool."""

    flat: np.ndarray
    width: int
    every: int

    def records(self, rows: int) -> np.ndarray:
        """So many rows from each place on as a record, ``[places]``: picked by number they are copied as a whole."""
        size, numbers = self.flat.dtype.itemsize, rows * self.width
        count = max(0, (self.flat.size - numbers) // self.every + 1)
        return np.ndarray((count,), np.dtype((np.void, numbers * size)), self.flat, strides=(self.every * size,))


class Segment(Protocol):
    """Some of the rows: by column a :class:`Table`, or Arrow's array."""

    tables: dict[str, Any]

    def places(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        """Where, in the table of each column, rows of the segment are: int64 ``[n]`` of their numbers ``[n]``."""


class Store(Protocol):
    """Columns of rows, in segments that begin at ``starts``, int64 ``[S]``."""

    starts: np.ndarray

    def segment(self, number: int) -> Segment: ...


class Dense:
    """A segment whose rows follow each other from ``start`` on: numbers ``[n, width]``, or Arrow's."""

    def __init__(self, start: int, values: dict[str, Any]):
        self.start = start
        self.tables: dict[str, Any] = {
            name: Table(v, v.shape[1], v.shape[1]) if isinstance(v, np.ndarray) else v for name, v in values.items()
        }
        self.nbytes = sum(table.nbytes for table in values.values())

    def places(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict.fromkeys(self.tables, rows - self.start)


class Whole:
    """All rows, read once, when they are first asked for."""

    def __init__(self, rows: Rows, columns: Sequence[Column]):
        self.rows, self.columns = rows, columns
        self.starts = np.zeros(1, np.int64)
        self._all: Dense | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_all": None}

    def segment(self, number: int) -> Dense:
        if self._all is None:
            self._all = Dense(0, self.rows.read_all(self.columns))
        return self._all


class Cached:
    """Blocks of rows, the last ones that were asked for. Safe to use from several threads.

    blocks: where they begin, as :meth:`Rows.blocks` has it; most: bytes that they may take together
    """

    def __init__(self, rows: Rows, columns: Sequence[Column], blocks: np.ndarray, most: int):
        self.rows, self.columns, self.blocks, self.most = rows, columns, blocks, most
        self.starts = rows.ends[blocks[:-1]]
        self._row = sum(column.nbytes for column in columns)
        self._held: OrderedDict[int, Dense] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_held", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._held, self._lock = OrderedDict(), threading.Lock()

    def segment(self, number: int) -> Dense:
        with self._lock:
            if number not in self._held:
                first, last = int(self.blocks[number]), int(self.blocks[number + 1])
                # Room is made before it is read, too: what goes and what comes would be there together.
                self._make_room(int(self.rows.ends[last] - self.rows.ends[first]) * self._row)
                found = Dense(int(self.starts[number]), self.rows.read(first, last, self.columns))
                self._make_room(found.nbytes)
                self._held[number] = found
            self._held.move_to_end(number)
            return self._held[number]

    def _make_room(self, nbytes: int) -> None:
        while self._held and sum(held.nbytes for held in self._held.values()) > self.most - nbytes:
            self._held.popitem(last=False)


class Mapped:
    """Arrow files of this machine that are not compressed, in memory maps: a segment a part, nothing read ahead."""

    def __init__(self, rows: Rows, columns: Sequence[Column]):
        self.rows, self.columns = rows, columns
        _, firsts = np.unique(rows.part, return_index=True)
        self.starts = rows.ends[:-1][firsts]
        self._firsts = np.append(firsts, len(rows.episodes))
        self._open: dict[int, _Map] = {}

    @classmethod
    def possible(cls, rows: Rows) -> bool:
        """Whether the rows can be had that way."""
        if not rows.parts or not rows.output.store.local or layout.part_format(rows.parts[0]) != "arrow":
            return False
        held, arrow = _opened(rows.output, rows.parts[0])
        if not arrow.num_record_batches:
            return False
        times = arrow.get_batch(0).column("time_ns").buffers()[1]
        return 0 <= times.address - held.ctypes.data < held.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def segment(self, number: int) -> _Map:
        if number not in self._open:
            first, last = int(self._firsts[number]), int(self._firsts[number + 1])
            self._open[number] = _Map(self.rows, first, last, self.columns)
        return self._open[number]


def _opened(output: Output, part: str) -> tuple[np.ndarray, pa.ipc.RecordBatchFileReader]:
    """A part's bytes in a map, uint8 ``[bytes]``, and Arrow's reader over it."""
    try:
        with output.opened(part) as file:
            # Copied where it is written, which nobody does: torch warns of memory that cannot be.
            held = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
        return held, pa.ipc.open_file(pa.py_buffer(held))
    except (OSError, ValueError) as error:
        raise output.unreadable(part, error) from error


class _Map:
    """A part. The table of a column is all of the map seen as rows of its kind, one beginning at each number: a record
    batch has the column at a place of its own, and a row is an address.
    """

    def __init__(self, rows: Rows, first: int, last: int, columns: Sequence[Column]):
        self._rows, self._first = rows, first
        part = rows.parts[rows.part[first]]
        held, arrow = _opened(rows.output, part)
        batches = [arrow.get_batch(k) for k in range(arrow.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])[:-1]
        self.tables: dict[str, Any] = {}
        self._bases: dict[str, np.ndarray] = {}
        self._widths = {c.name: c.width for c in columns}
        for told in columns:
            arrays = [batch.column(told.name) for batch in batches]
            bases = None if told.dtype is None else _bases(arrays, told, held)
            if bases is not None and told.dtype is not None:
                size = told.dtype.itemsize
                flat = held[: held.nbytes // size * size].view(told.dtype)
                self.tables[told.name] = Table(flat, told.width, 1)
                self._bases[told.name] = bases
            elif told.dtype is not None:
                self.tables[told.name] = Table(dense(pa.chunked_array(arrays), told), told.width, told.width)
            else:
                self.tables[told.name] = pa.chunked_array(arrays)
        self._check(part, pa.chunked_array([batch.column("episode_index") for batch in batches]))

    def places(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        episode = self._rows.of_rows(rows)
        local = rows - self._rows.ends[episode] + self._rows.offset[episode]
        batch = np.searchsorted(self._starts, local, "right") - 1
        within = local - self._starts[batch]
        return {
            name: self._bases[name][batch] + within * self._widths[name] if name in self._bases else local
            for name in self.tables
        }

    def _check(self, part: str, index: pa.ChunkedArray) -> None:
        """Where the rows are said to be is held against the rows: a wrong episode would train without a word."""
        mine = self._rows.part == self._rows.part[self._first]
        for edge in (self._rows.offset[mine], self._rows.offset[mine] + np.diff(self._rows.ends)[mine] - 1):
            if edge.max() >= len(index) or index.take(arrow_of(edge)).to_pylist() != self._rows.episodes[mine].tolist():
                raise self._rows.misplaced(part)


def _bases(arrays: Sequence[pa.Array], told: Column, held: np.ndarray) -> np.ndarray | None:
    """Where in the map the column of each batch begins, in numbers; None where its rows are no plain numbers there."""
    assert told.dtype is not None
    out = []
    for array in arrays:
        while pa.types.is_fixed_size_list(array.type) and not array.null_count:
            array = array.values
        if array.null_count or pa.types.is_boolean(array.type) or pa.types.is_fixed_size_list(array.type):
            return None
        at = array.buffers()[1].address - held.ctypes.data + array.offset * told.dtype.itemsize
        if at % told.dtype.itemsize or not 0 <= at < held.nbytes:
            return None
        out.append(at // told.dtype.itemsize)
    return np.array(out, np.int64)
