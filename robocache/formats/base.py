"""What a reader is, and the path language that names a signal inside a recording.

A source path is ``name`` or ``name[selector]``:

* ``/imu/data.angular_velocity``: a topic, then message fields; a struct lays its numbers side by side in
  definition order, so ``geometry_msgs/Pose`` is x y z qx qy qz qw
* ``obs/eef_pos``, ``observation.state``, ``sensor_data``: a dataset, a column, a table
* ``[0:3]``, ``[0,2]``, ``[Fx,Fy,Fz]``: columns of it, by position or by name, in the order given
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from robocache.errors import MissingError
from robocache.storage import open_storage
from robocache.types import Episode, EpisodeRef, FileStamp, StreamInfo

TIME_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class TableTimes:
    """Where a table without a schema keeps its time: a column and its unit, or else a fixed rate."""

    column: str | None = None
    unit: Literal["ns", "us", "ms", "s"] = "s"
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Which recordings to read, and how.

    uri:             one or several fsspec URIs: files, globs or folders (searched recursively)
    format:          reader name, or ``auto`` (by suffix, checked against the file's first bytes)
    storage_options: passed to fsspec
    times:           for CSV, Parquet and HDF5 (see :class:`TableTimes`)
    episode:         ``file`` (each file is an episode), ``folder`` (all files of a folder are one, each file a
                     table named by its stem), or a regular expression on the path below the input root with a
                     group ``episode`` (files that agree on it are one) and optionally a group ``table``
    stamp:           ``header`` (the message's own stamp, log time where it has none) or ``log``
    verify_checksums: check the checksums that the format carries
    """

    uri: tuple[str, ...]
    format: str = "auto"
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold credentials
    times: TableTimes | None = None
    episode: str = "file"
    stamp: Literal["header", "log"] = "header"
    verify_checksums: bool = True


class Reader(Protocol):
    """One file format. A reader holds no open file and no state between calls, so it can be used from any thread.

    Every method raises :class:`InputError` for a file that is damaged or not of this format (``MissingError`` where it
    lacks a column, field or time that it is asked for), and ``OSError`` for storage that fails; nothing else escapes.
    :func:`robocache.formats.guarded` enforces that.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """List the episodes of one file group cheaply, without reading their data. ``id`` names the group."""
        ...

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """Describe every stream of an episode."""
        ...

    def read(self, ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> Episode:
        """Read the named sources and no others. Unknown sources are left out of ``Episode.streams``."""
        ...


#: What a remote file reads beyond what is asked: enough to make one request of many small reads, little beside a chunk.
READ_AHEAD = 1 << 20


def read_bytes(file: FileStamp, spec: InputSpec) -> bytes:
    """The whole file. ``OSError`` passes through: the engine retries it."""
    fs, path = open_storage(file.uri, spec.storage_options)
    return fs.cat_file(path)


def open_file(file: FileStamp, spec: InputSpec):
    """A seekable binary file object; close it (use ``with``)."""
    fs, path = open_storage(file.uri, spec.storage_options)
    return fs.open(path, "rb", block_size=READ_AHEAD)


Selector = tuple["int | slice | str", ...]
_SOURCE = re.compile(r"(?P<name>.*?)(?:\[(?P<select>[^\[\]]*)\])?", re.DOTALL)


def parse_source(source: str) -> tuple[str, Selector | None]:
    """Split ``name[selector]`` into the name and its column selection (None: all columns).

    ``ValueError`` where the selector cannot be read.
    """
    match = _SOURCE.fullmatch(source)
    if match is None or match["select"] is None:
        return source, None
    items: list[int | slice | str] = []
    for item in (part.strip() for part in match["select"].split(",")):
        if re.fullmatch(r"-?\d+", item):
            items.append(int(item))
        elif re.fullmatch(r"(-?\d+)?:(-?\d+)?", item):
            low, high = item.split(":")
            items.append(slice(int(low) if low else None, int(high) if high else None))
        elif item:
            items.append(item)
        else:
            raise ValueError(f"source {source!r}: empty item in [{match['select']}]; write [0:3], [0,2] or [x,y]")
    return match["name"], tuple(items)


def select_columns(
    values: np.ndarray, selector: Selector | None, *, where: str, names: Sequence[str] | None = None
) -> np.ndarray:
    """Columns of ``values [n, *shape]`` as ``[n, k]``; unchanged where the selector is None.

    ``names`` are the names of the last axis, for selectors by name. ``where`` begins the error message.
    """
    if selector is None:
        return values
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    columns: list[int] = []
    for item in selector:
        if isinstance(item, slice):
            columns.extend(range(*item.indices(flat.shape[1])))
        elif isinstance(item, int):
            if not -flat.shape[1] <= item < flat.shape[1]:
                raise MissingError(f"{where}: column {item} asked for, it has {flat.shape[1]}")
            columns.append(item % flat.shape[1])
        elif names is not None and item in names:
            columns.append(list(names).index(item))
        else:
            known = f"its columns are {', '.join(names)}" if names else "its columns have no names, use positions"
            raise MissingError(f"{where}: no column {item!r}; {known}")
    first = columns[0] if columns else 0
    if columns == list(range(first, first + len(columns))):
        return flat[:, first : first + len(columns)]  # a view: contiguous columns cost nothing
    return flat[:, columns]


def natural_key(text: str) -> tuple:
    """Sort key that puts ``demo_2`` before ``demo_10``; total, so that any two different texts have one order."""
    parts = re.split(r"([0-9]+)", text)
    digits = [(len(p.lstrip("0")), p.lstrip("0")) for p in parts[1::2]]  # compares as a number of any length
    return (*(item for pair in zip(parts[::2], [*digits, (0, "")], strict=True) for item in pair), text)
