"""Files of one point cloud each: a file is an episode of one sample, a folder (``input.episode``) one of a sequence.

The source is ``points``. Times are those that the names state, or of a table beside the files (whose other columns are
sources too), or of a fixed rate in the natural order of the names, as ``input.times`` says.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa

from robocache.clouds import Field
from robocache.clouds.las import MAGIC as LAS_MAGIC
from robocache.clouds.las import las_fields
from robocache.clouds.pcd import HEADER_BYTES, read_header
from robocache.errors import InputError, MissingError
from robocache.formats.base import InputSpec, Reader, open_file, read_bytes
from robocache.formats.csv_tables import CsvReader
from robocache.formats.stamps import look
from robocache.formats.times import HOW_TO_SET
from robocache.storage import open_storage
from robocache.types import Episode, EpisodeRef, FileStamp, Source, Stream, StreamInfo, StreamType, rate_times

#: What the clouds of an episode are called.
SOURCE = "points"
_THREADS = 8  # reading waits for storage, not for the processor
_CALENDAR = re.compile(
    r"(?<!\d)(\d{4})[-_]?(\d{2})[-_]?(\d{2})[T_ -]?(\d{2})[:_-]?(\d{2})[:_-]?(\d{2})(?:[.,_](\d{1,9}))?(?!\d)"
)
#: Since 1970: a number that began with zeros would be one that counts files.
_SECONDS = re.compile(r"(?<!\d)([1-9]\d{9})(?:\.(\d{1,9})|_(\d{9}))(?!\d)")
_WHOLE = re.compile(r"(?<!\d)([1-9](?:\d{9}|\d{12}|\d{15}|\d{18}))(?!\d)")


class CloudFiles(Reader):
    """What the formats of single clouds share; one adds how a file's fields are known from its beginning."""

    splits: ClassVar[bool] = True

    @abstractmethod
    def fields(self, opened: BinaryIO) -> list[Field]:
        """Of an open file, of which no more than the header is read."""

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        """One episode: the file, or the sequence of files, with the table that has their times."""
        table = _table(files[0], spec)
        stamps = (*files, table) if table is not None else tuple(files)
        return [EpisodeRef(id, self.name, stamps, nbytes=sum(file.size for file in files))]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        """The clouds, then each column of the table of their times."""
        files = self._clouds(ref, spec)
        fields = tuple((f.name, str(f).partition(" ")[2]) for f in self._fields(files[0], spec))
        found = [StreamInfo(SOURCE, f"{self.name} cloud", fields, self._times(ref, files, spec))]
        if _table_name(spec):
            found += CsvReader().streams(_as_table(ref), spec)
        return found

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        """From the header of the first file; other sources are columns of the table of the files' times."""
        found: dict[str, StreamType] = {}
        if any(source.path == SOURCE for source in sources):
            kind = StreamType(pa.large_binary(), self._about(self._clouds(ref, spec)[0], spec))
            found = {source.key: kind for source in sources if source.path == SOURCE}
        others = [source for source in sources if source.path != SOURCE]
        if others and _table_name(spec):
            found |= CsvReader().describe(_as_table(ref), others, spec, look=look)
        return found

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        """The files as they are: what no row picks is never decoded."""
        asked = [source for source in sources if source.path == SOURCE]
        others = [source for source in sources if source.path != SOURCE]
        streams: dict[str, Stream] = {}
        if others and _table_name(spec):
            streams |= CsvReader().read(_as_table(ref), others, spec).streams
        if not asked:
            return Episode(ref.id, streams)
        files = self._clouds(ref, spec)
        with ThreadPoolExecutor(_THREADS) as pool:
            payloads = list(pool.map(lambda file: read_bytes(file, spec), files))
        values = pa.array(payloads, pa.large_binary())
        stream = Stream(self._times(ref, files, spec), values, self._about(files[0], spec))
        return Episode(ref.id, streams | {source.key: stream for source in asked})

    def _clouds(self, ref: EpisodeRef, spec: InputSpec) -> tuple[FileStamp, ...]:
        """The files of an episode but for the table of their times."""
        return ref.files[:-1] if _table_name(spec) else ref.files

    def _fields(self, file: FileStamp, spec: InputSpec) -> list[Field]:
        with open_file(file, spec) as opened:
            return self.fields(opened)

    def _about(self, file: FileStamp, spec: InputSpec) -> dict[str, Any]:
        fields = [field.told() for field in self._fields(file, spec)]
        return {"kind": "cloud", "encoding": self.name, "fields": fields}

    def _times(self, ref: EpisodeRef, files: Sequence[FileStamp], spec: InputSpec) -> np.ndarray:
        names = [file.uri.rpartition("/")[2] for file in files]
        if _table_name(spec):
            return _table_times(ref.files[-1], names, spec)
        if spec.times is not None and spec.times.rate_hz is not None:
            return rate_times(len(files), spec.times.rate_hz)
        if spec.times is not None:
            raise MissingError(f"{files[0].uri}: a cloud has no column of times; {HOW_TO_SET}, or give a file of times")
        return _name_times(names, files[0].uri)


class PcdReader(CloudFiles):
    """PCD, the files of the Point Cloud Library."""

    name: ClassVar[str] = "pcd"
    suffixes: ClassVar[tuple[str, ...]] = (".pcd",)

    def begins(self, head: bytes, spec: InputSpec) -> bool:
        """A header of text, whatever follows."""
        return head.lstrip().startswith((b"#", b"VERSION", b"FIELDS", b"COLUMNS"))

    def fields(self, opened: BinaryIO) -> list[Field]:
        return read_header(opened.read(HEADER_BYTES)).fields


class LasReader(CloudFiles):
    """LAS, the files of laser surveys, versions 1.2 to 1.4, not compressed."""

    name: ClassVar[str] = "las"
    suffixes: ClassVar[tuple[str, ...]] = (".las",)
    magic: ClassVar[bytes] = LAS_MAGIC
    package: ClassVar[str] = "laspy"

    def fields(self, opened: BinaryIO) -> list[Field]:
        return las_fields(opened)


def _table_name(spec: InputSpec) -> str:
    return spec.times.file if spec.times is not None else ""


def _as_table(ref: EpisodeRef) -> EpisodeRef:
    """The table of an episode's times as a recording of its own."""
    return EpisodeRef(ref.id, CsvReader.name, ref.files[-1:])


def _table(first: FileStamp, spec: InputSpec) -> FileStamp | None:
    """The table of times beside the first file of a sequence. ``MissingError`` where it is not there."""
    name = _table_name(spec)
    if not name:
        return None
    uri = f"{first.uri.rpartition('/')[0]}/{name}"
    fs, path = open_storage(uri, spec.storage_options)
    try:
        info = fs.info(path)
    except FileNotFoundError:
        raise MissingError(f"{uri}: is not there; input.times.file names a table beside the clouds") from None
    return look(fs, path, info).stamp


def _table_times(table: FileStamp, names: Sequence[str], spec: InputSpec) -> np.ndarray:
    """int64 nanoseconds of the files: the rows that name them, or as many rows as there are files."""
    assert spec.times is not None
    with CsvReader().open_table(table, spec) as opened:
        column = spec.times.files
        if column and column not in opened.schema.names:
            raise MissingError(f"{table.uri}: no column {column!r}; its columns are {', '.join(opened.schema.names)}")
        clock = [name for name, _ in opened.time]
        data = opened.load([*clock, *([column] if column else [])])
        times = opened.times(data)
        if not column:
            if len(times) != len(names):
                raise InputError(
                    f"{table.uri}: {len(times)} rows for {len(names)} files; name the column that has the files' names "
                    "as input.times.files"
                )
            return times
        told = [str(name).rpartition("/")[2] for name in data.column(column).to_pylist()]
    row = {name: i for i, name in enumerate(told)}
    lacking = [name for name in names if name not in row and name.rpartition(".")[0] not in row]
    if lacking:
        raise InputError(f"{table.uri}: has no row for {lacking[0]} ({len(lacking)} of {len(names)} files)")
    return times[[row.get(name, row.get(name.rpartition(".")[0], 0)) for name in names]]


def _name_times(names: Sequence[str], uri: str) -> np.ndarray:
    """int64 nanoseconds that the names state: a date and a time (UTC), or seconds, milli-, micro- or nanoseconds since
    1970, told by their digits. ``MissingError`` where they do not."""
    for read in (_calendar, _seconds, _whole):
        found = [read(name.rpartition(".")[0] or name) for name in names]
        if all(ns is not None for ns in found):
            return np.array(found, np.int64)
    if len(names) == 1:
        return np.zeros(1, np.int64)
    raise MissingError(
        f"{uri}: the names of its {len(names)} files state no time; set input.times, e.g. {{rate_hz: 10}} or {{file: "
        "times.csv, column: stamp, unit: s}"
    )


def _calendar(name: str) -> int | None:
    match = _CALENDAR.search(name)
    if match is None:
        return None
    try:
        moment = datetime(*(int(match[k]) for k in range(1, 7)), tzinfo=timezone.utc)  # type: ignore[misc,arg-type]
    except ValueError:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return since // timedelta(seconds=1) * 1_000_000_000 + int((match[7] or "").ljust(9, "0"))


def _seconds(name: str) -> int | None:
    match = _SECONDS.search(name)
    return None if match is None else int(match[1]) * 1_000_000_000 + int((match[2] or match[3]).ljust(9, "0"))


def _whole(name: str) -> int | None:
    match = _WHOLE.search(name)
    return None if match is None else int(match[1].ljust(19, "0"))
