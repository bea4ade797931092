"""What a reader is, and the path language that names a signal inside a recording.

A source path is ``name`` or ``name[selector]``:

* ``/imu/data.angular_velocity``: a topic, then message fields; a struct lays its numbers side by side in
  definition order, so ``geometry_msgs/Pose`` is x y z qx qy qz qw
* ``obs/eef_pos``, ``observation.state``, ``sensor_data``: a dataset, a column, a table
* ``[0:3]``, ``[0,2]``, ``[Fx,Fy,Fz]``: columns of it, by position or by name, in the order given; a name that holds
  commas, quotes or single brackets stands in quotes, ``["q_RS_w []","p [m]"]``
* ``[child_frame_id=tool]``: of an array of messages the one whose field holds that text or number
"""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from shutil import copyfileobj
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from robocache.errors import MissingError
from robocache.formats.compression import MOST_UNPACKED
from robocache.formats.scattered import ScatteredFile
from robocache.formats.stamps import look
from robocache.formats.wrapped import unwrap, wrapper_of
from robocache.scratch import named_file
from robocache.storage import open_storage
from robocache.types import Episode, EpisodeRef, FileStamp, Source, StreamInfo, StreamType, as_rows

TIME_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class TableTimes:
    """Where a table without a schema keeps its time: a column and its unit, two columns, or else a fixed rate.

    columns: seconds, and the nanoseconds to add to them
    file:    of a recording that is a sequence of files: a table beside them with a row a file; the time columns are its
    files:   its column of file names; empty: its rows are in the natural order of the names
    tables:  for tables, by name, that keep theirs in another way
    """

    column: str | None = None
    unit: Literal["ns", "us", "ms", "s"] = "s"
    rate_hz: Fraction | float | None = None
    columns: tuple[str, str] | None = None
    file: str = ""
    files: str = ""
    tables: Mapping[str, TableTimes] = field(default_factory=dict)

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """The columns that make the time, each with its unit, to be added up."""
        if self.columns is not None:
            return (self.columns[0], "s"), (self.columns[1], "ns")
        return () if self.column is None else ((self.column, self.unit),)

    def of(self, table: str) -> TableTimes | None:
        """How a table keeps its time; None where nothing is said of it."""
        if table in self.tables:
            return self.tables[table]
        return self if self.named or self.rate_hz is not None else None


@dataclass(frozen=True, slots=True)
class CsvSpec:
    """The dialect of CSV files; what is None or empty is found in the file.

    separator:  one character, or ``whitespace``
    decimal:    ``.`` or ``,``
    comment:    what lines begin with that are none of the table
    skip_rows:  lines above the header
    names:      of the columns of files without a header
    encoding:   as Python names it
    null_words: cells that hold no value, beside the usual ones
    units_row:  whether the first row below the header has the columns' units
    """

    separator: str | None = None
    decimal: Literal[".", ","] | None = None
    comment: str | None = None
    skip_rows: int = 0
    names: tuple[str, ...] = ()
    encoding: str | None = None
    null_words: tuple[str, ...] = ()
    units_row: bool | None = None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Which recordings to read, and how.

    uri:             one or several fsspec URIs: files, globs or folders (searched recursively)
    format:          reader name, or ``auto`` (by suffix, checked against the file's first bytes)
    storage_options: passed to fsspec
    times:           for formats that carry no time of their own (see :class:`TableTimes`)
    episode:         ``file`` (each file is an episode), ``folder`` (all files of a folder are one, each file a
                     table named by its stem), or a regular expression on the path below the input root with a
                     group ``episode`` (files that agree on it are one) and optionally a group ``table``
    stamp:           ``header`` (the message's own stamp, log time where it has none) or ``log``
    verify_checksums: check the checksums that the format carries
    salvage:         go through a log that lacks its index or was cut off, and read what is whole of it
    select:          which episodes of files and datasets that hold several: lists that these name themselves (filter
                     keys, splits), episodes, ranges ``first:stop``; empty: all
    csv:             the dialect of CSV files
    fingerprint:     what tells a changed file: its size and version (mtime, etag), or its content, which is read for it
    max_unpacked:    bytes that a chunk, a table or an array may unpack to, however few it is packed in
    """

    uri: tuple[str, ...]
    format: str = "auto"
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold credentials
    times: TableTimes | None = None
    episode: str = "file"
    stamp: str = "header"
    verify_checksums: bool = True
    salvage: bool = False
    select: tuple[str, ...] = ()
    csv: CsvSpec = CsvSpec()
    fingerprint: Literal["version", "content"] = "version"
    max_unpacked: int = MOST_UNPACKED


class Reader(ABC):
    """One file format. A reader holds no open file and no state between calls, so it can be used from any thread.

    What it declares of itself is all that listing, config and doctor know of it:

    name:     as ``input.format`` has it
    suffixes: of its files, in lower case
    asked:    suffixes of files that are of the format where they are asked for by name or ``input.format``
    magic:    what its files begin with; empty: they are text
    offsets:  where in a file that may stand
    folder:   a folder whose name ends so is one recording of the format, and its files are nothing else
    marker:   a folder that holds this file is one dataset of the format (``meta/info.json``) and nothing else
    parts:    the folders below such a folder whose files belong to the dataset
    members:  its files may be tables of one episode (``input.episode``)
    splits:   its files may be pieces of one episode, one after another (``input.episode``)
    own_time: it carries its own time: ``input.times`` is not for it
    selects:  ``input.select`` chooses among the episodes of one of its files, else among its files
    package:  an optional package that it needs; robocache's extra for it has the reader's name

    Every method raises :class:`InputError` for a file that is damaged or not of this format (``MissingError`` where it
    lacks a column, field or time that it is asked for), and ``OSError`` for storage that fails; nothing else escapes
    but a lack of memory. :func:`robocache.formats.guarded` enforces that.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    asked: ClassVar[tuple[str, ...]] = ()
    magic: ClassVar[bytes] = b""
    offsets: ClassVar[tuple[int, ...]] = (0,)
    folder: ClassVar[str] = ""
    marker: ClassVar[str] = ""
    parts: ClassVar[tuple[str, ...]] = ()
    members: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    own_time: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    package: ClassVar[str] = ""

    def begins(self, head: bytes, spec: InputSpec) -> bool:
        """Whether a file may begin with these bytes."""
        if self.magic and not self.marker:
            return any(head.startswith(self.magic, at) for at in self.offsets)
        return b"\0" not in head

    def holds(self, head: bytes, spec: InputSpec) -> bool:
        """Whether a file with one of the suffixes ``asked`` that begins so is of the format."""
        return self.begins(head, spec)

    @abstractmethod
    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """List the episodes of one file group cheaply, without reading their data. ``id`` names the group."""

    @abstractmethod
    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Every stream of an episode, for people to read."""

    @abstractmethod
    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """The types of the sources that the recording has, by :attr:`Source.key`, from its schemas.

        look: where a schema leaves a width open (:attr:`StreamType.open`), read one sample to settle it, and the names
              of its columns where samples carry them. Without, nothing of the data is read.
        """

    @abstractmethod
    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """Read these sources and no others, by :attr:`Source.key`. One that the recording lacks is left out."""


#: What is read at once where a file is read from front to back.
READ_AHEAD = 1 << 20
#: What a local file reads beyond what is asked, so that the fields of a record are one system call.
LITTLE = 512


def read_bytes(file: FileStamp, spec: InputSpec, most: int | None = None) -> bytes:
    """The whole file, unpacked where its name says that it is packed (``most``: to so many bytes). ``OSError`` passes
    through: the engine retries it."""
    if wrapper := wrapper_of(file.uri):
        with open_stored(file, spec) as stored, unwrap(stored, wrapper, file.uri, most) as inside:
            return inside.read()
    fs, path = open_storage(file.uri, spec.storage_options)
    return fs.cat_file(path)


def open_stored(file: FileStamp, spec: InputSpec):
    """A binary file object of the file as it is stored, to be read from front to back; close it (use ``with``)."""
    fs, path = open_storage(file.uri, spec.storage_options)
    return fs.open(path, "rb", block_size=READ_AHEAD)


def open_file(file: FileStamp, spec: InputSpec):
    """A seekable binary file object, unpacked where the file's name says that it is packed; close it (use ``with``).
    Little more is read than what is looked at."""
    if (wrapper := wrapper_of(file.uri)) is not None:
        with open_stored(file, spec) as stored:
            return unwrap(stored, wrapper, file.uri)
    fs, path = open_storage(file.uri, spec.storage_options)
    if isinstance(fs, LocalFileSystem):
        return io.BufferedReader(io.FileIO(path), LITTLE)
    stream = fs.open(path, "rb", cache_type="none")
    if not isinstance(stream, AbstractBufferedFile):
        return stream
    return ScatteredFile(stream, listed=look(fs, path, stream.details).stamp == file)


@contextmanager
def local_path(file: FileStamp, spec: InputSpec) -> Iterator[str]:
    """The file's path on this machine, for libraries that open no file object: of any other a temporary copy."""
    fs, path = open_storage(file.uri, spec.storage_options)
    if isinstance(fs, LocalFileSystem) and wrapper_of(file.uri) is None:
        yield path
        return
    with open_file(file, spec) as opened, named_file() as copy:
        copyfileobj(opened, copy, READ_AHEAD)
        copy.flush()
        yield copy.name


class Match(NamedTuple):
    """``[field=text]``: of an array of messages the one whose field holds that text, or that whole number."""

    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}={self.text}"


Item: TypeAlias = "int | slice | str | Match"
Selector: TypeAlias = "tuple[Item, ...]"

_QUOTED = r"\"[^\"]*\"|'[^']*'"
_PLAIN = r"(?:[^,\[\]]|\[[^\[\]]*\])*"
_ITEM = re.compile(rf"\s*(?:(?P<quoted>{_QUOTED})|(?P<field>[\w.]+)\s*=\s*(?P<text>{_QUOTED}|{_PLAIN})|{_PLAIN})\s*")


def parse_source(source: str) -> tuple[str, Selector | None]:
    """Split ``name[selector]`` into the name and what is selected of it (None: all).

    Names may hold brackets: a selector begins at the first bracket behind which a whole list of items ends the path,
    so ``a[0].b[1]`` is ``a[0].b`` and its item 1. Empty brackets are part of a name. ``ValueError`` where the
    selector cannot be read.
    """
    if not source.endswith("]"):
        return source, None
    for bracket in re.finditer(r"\[", source):
        inner = source[bracket.end() : -1]
        if inner.strip() and (items := _split(inner)) is not None:
            if not all(items):
                raise ValueError(f"source {source!r}: empty item in [{inner}]; write [0:3], [0,2] or [x,y]")
            return source[: bracket.start()], tuple(parse_item(item) for item in items)
    return source, None


def _split(text: str) -> list[str] | None:
    """The items of a list; None where brackets or quotes in it do not close."""
    items, at = [], 0
    while True:
        match = _ITEM.match(text, at)
        assert match is not None  # it matches nothing at all, too
        items.append(match[0].strip())
        at = match.end()
        if at == len(text):
            return items
        if text[at] != ",":
            return None
        at += 1


def parse_item(text: str) -> Item:
    """One item of a selector, without its comma."""
    match = _ITEM.fullmatch(text)
    if match is not None and match["quoted"]:
        return match["quoted"][1:-1]
    if match is not None and match["field"]:
        value = match["text"].strip()
        return Match(match["field"], value[1:-1] if re.fullmatch(_QUOTED, value) else value)
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"(-?\d{1,18})?:(-?\d{1,18})?", text):
        low, high = text.split(":")
        return slice(int(low) if low else None, int(high) if high else None)
    return text


def selected_width(selector: Selector | None) -> int | None:
    """How many columns a selector picks; None where only the recording can tell."""
    width = 0
    for item in selector or (None,):
        if isinstance(item, slice):
            start, stop = item.start or 0, item.stop
            if stop is None or start < 0 or stop < 0:
                return None
            width += max(stop - start, 0)
        elif item is None or isinstance(item, Match):
            return None
        else:
            width += 1
    return width


def positions(selector: Iterable[Item], width: int, *, where: str, names: Sequence[str] | None = None) -> list[int]:
    """Which of ``width`` columns a selector picks. ``MissingError``, beginning with ``where``, for one that is not."""
    picked: list[int] = []
    for item in selector:
        if isinstance(item, slice):
            picked.extend(range(*item.indices(width)))
        elif isinstance(item, int):
            if not -width <= item < width:
                raise MissingError(f"{where}: column {item} asked for, it has {width}")
            picked.append(item % width)
        elif names is not None and str(item) in names:
            picked.append(list(names).index(str(item)))
        else:
            known = f"its columns are {shown(names)}" if names else "its columns have no names, use positions"
            raise MissingError(f"{where}: no column {quoted(item)}; {known}")
    return picked


def select_columns(
    values: np.ndarray, selector: Selector | None, *, where: str, names: Sequence[str] | None = None
) -> np.ndarray:
    """Columns of ``values [n, *shape]`` as ``[n, k]``; unchanged where the selector is None.

    ``names`` are the names of the last axis, for selectors by name. ``where`` begins the error message.
    """
    if selector is None:
        return values
    flat = as_rows(values)
    columns = positions(selector, flat.shape[1], where=where, names=names)
    first = columns[0] if columns else 0
    if columns == list(range(first, first + len(columns))):
        return flat[:, first : first + len(columns)]  # a view: contiguous columns cost nothing
    return flat[:, columns]


def quoted(item: Item) -> str:
    """An item for a message: a position as it is, a name in quotes."""
    return str(item) if isinstance(item, int) else repr(str(item))


def shown(names: Sequence[str], most: int = 40) -> str:
    """Names for a message, not more than can be read."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def select_episodes(
    names: Sequence[str], select: Sequence[str], known: Mapping[str, Sequence[str]], uri: str
) -> list[str]:
    """Those of a file's episodes that ``input.select`` asks for (nothing: all), in their order.

    names:  of the episodes, in order
    known:  lists of episodes that the file itself names: filter keys, splits
    An item is one of these lists, an episode's name or the number that it ends with (``7`` for ``demo_7``), a range
    ``first:stop`` of places, or a glob on the names. ``MissingError`` for one that is nothing there.
    """
    if not select:
        return list(names)
    chosen: set[str] = set()
    for item in select:
        bounds = re.fullmatch(r"(\d*):(\d*)", item)
        if item in known:
            found = list(known[item])
        elif bounds:
            found = list(names[int(bounds[1] or 0) : int(bounds[2]) if bounds[2] else None])
        else:
            found = [name for name in names if fnmatchcase(name, item)]
            found = found or [name for name in names if item.isdigit() and name.endswith(f"_{item}")]
        if not found and item not in known:
            lists = f"its lists are {shown(list(known))}; " if known else ""
            raise MissingError(f"{uri}: input.select: no episodes {item!r}; {lists}its episodes are {shown(names, 8)}")
        chosen.update(found)
    return [name for name in names if name in chosen]


def natural_key(text: str) -> tuple:
    """Sort key that puts ``demo_2`` before ``demo_10``; total, so that any two different texts have one order."""
    parts = re.split(r"([0-9]+)", text)
    digits = [(len(p.lstrip("0")), p.lstrip("0")) for p in parts[1::2]]  # compares as a number of any length
    return (*(item for pair in zip(parts[::2], [*digits, (0, "")], strict=True) for item in pair), text)
