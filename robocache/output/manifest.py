"""The manifest: what each finished shard says of its part, its episodes and its quarantine, in a log of lines.

    meta/robocache/_manifest.jsonl            all of it, on a local disk
    meta/robocache/_manifest/00000012.jsonl   on S3, which cannot append: what one call has added since the last rewrite

Lines are added many at once, are safe when that returns, and are read back by place: a byte offset into the file, or on
S3 into a spool, a local copy of all of it that goes with the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from robocache.errors import OutputError
from robocache.output.documents import count, mapping, parsed, text
from robocache.output.layout import is_part
from robocache.output.store import Store, UnmetError

_BATCH = 64
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """An episode in the output.

    start_ns: its first target time
    streams:  what was found in each of the streams it was made of; JSON
    quality:  what else a person should know of how it was made; JSON
    metadata: what the recording says of itself; JSON
    videos:   the files that its rows refer to: URIs by the paths that stand in the rows
    """

    index: int
    id: str
    files: tuple[str, ...]
    rows: int
    start_ns: int
    streams: tuple[Mapping[str, Any], ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, found: dict[str, Any]) -> EpisodeRecord:
        """``ValueError``, ``TypeError`` or ``KeyError`` where it is none."""
        streams = tuple(mapping(stream, "a stream") for stream in found["streams"])
        record = cls(**found | {"files": _texts(found["files"]), "streams": streams})
        count(record.index, "index")
        count(record.rows, "rows")
        text(record.id, "id")
        for path, uri in mapping(record.videos, "videos").items():
            text(uri, f"the file of {path}")
        if not isinstance(record.start_ns, int) or not -(2**63) <= record.start_ns < 2**63:
            raise ValueError(f"start_ns is {str(record.start_ns)[:40]}, which is no stamp")
        return record


@dataclass(frozen=True, slots=True)
class QuarantineRecord:
    """An episode that is not in the output, and why. ``retry``: the fault may pass, the next run tries it again."""

    index: int
    id: str
    files: tuple[str, ...]
    reason: str
    retry: bool = False

    @classmethod
    def from_json(cls, line: str) -> QuarantineRecord:
        """``ValueError``, ``TypeError`` or ``KeyError`` where it is none."""
        return cls._of(mapping(parsed(line)))

    @classmethod
    def _of(cls, found: dict[str, Any]) -> QuarantineRecord:
        record = cls(**found | {"files": _texts(found["files"])})
        count(record.index, "index")
        text(record.id, "id")
        text(record.reason, "reason")
        return record


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A file of rows.

    episodes:   how many of its shard's it holds, in their order
    sha256:     of the part; statistics: of the file of its statistics
    """

    name: str
    episodes: int
    rows: int
    bytes: int
    sha256: str
    statistics: str

    @classmethod
    def of(cls, found: dict[str, Any]) -> PartRecord:
        """``ValueError`` or ``TypeError`` where it is none: its name is one that a run gives."""
        record = cls(**found)
        if not is_part(text(record.name, "name")):
            raise ValueError(f"{record.name!r} is no name of a part")
        for key in ("episodes", "rows", "bytes"):
            count(getattr(record, key), key)
        return record


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A committed shard. ``parts`` is empty where no episode of it could be used."""

    shard: int
    identity: str
    fingerprint: str
    parts: tuple[PartRecord, ...]
    episodes: tuple[EpisodeRecord, ...]
    quarantined: tuple[QuarantineRecord, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def by_part(self) -> Iterator[tuple[PartRecord, tuple[EpisodeRecord, ...]]]:
        """Each part with its episodes."""
        at = 0
        for part in self.parts:
            yield part, self.episodes[at : at + part.episodes]
            at += part.episodes

    def to_json(self) -> str:
        """Text that no encoding can hold, such as a file name that is not UTF-8, is escaped."""
        found = _fields(self)
        for name in ("parts", "episodes", "quarantined"):
            found[name] = [_fields(record) for record in found[name]]
        line = json.dumps(found, separators=(",", ":"))
        if "\\ud" in line:  # where half a character may be; looking at each text for one takes ten times as long
            line = json.dumps(_encodable(found), separators=(",", ":"))
        return line

    @classmethod
    def from_json(cls, line: str) -> ShardRecord:
        """``ValueError``, ``TypeError`` or ``KeyError`` where it is none."""
        data = mapping(parsed(line))
        data["parts"] = tuple(PartRecord.of(p) for p in data["parts"])
        data["episodes"] = tuple(EpisodeRecord.of(e) for e in data["episodes"])
        data["quarantined"] = tuple(QuarantineRecord._of(q) for q in data["quarantined"])
        record = cls(**data)
        count(record.shard, "shard")
        text(record.identity, "identity")
        text(record.fingerprint, "fingerprint")
        if sum(part.episodes for part in record.parts) != len(record.episodes):
            raise ValueError(f"its parts do not have its {len(record.episodes)} episodes")
        for part, episodes in record.by_part():
            if part.rows != (rows := sum(e.rows for e in episodes)):
                raise ValueError(f"{part.name} has {part.rows} rows, its episodes {rows}")
        return record


def _fields(record: Any) -> dict[str, Any]:
    """Of a dataclass, as they are: :func:`dataclasses.asdict` copies all that is in them."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _texts(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise ValueError("files is no list")
    return tuple(text(file, "a file") for file in found)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value


def open_log(store: Store, name: str) -> LocalLog | ObjectLog:
    """The log ``name`` (ends in ``.jsonl``) of an output."""
    return LocalLog(store, name) if store.local else ObjectLog(store, name)


def read_manifest(log: LocalLog | ObjectLog) -> Iterator[tuple[int, ShardRecord]]:
    """Each record with its place in the manifest. Of several of a shard the last one holds. ``OutputError``."""
    for number, (place, line) in enumerate(log.scan(), 1):
        try:
            record = ShardRecord.from_json(line.decode())
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{log.store.uri}/{log.name}: line {number} is not a shard record ({error}); "
                "the manifest was changed by hand or the disk is damaged; run again with --overwrite"
            ) from error
        yield place, record


class LocalLog:
    """A file."""

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Every whole line and its place, in the order written. A last line that a crash cut off is none."""
        with contextlib.suppress(FileNotFoundError):
            yield from self.store.lines(self.name)

    def read(self, places: Iterable[int]) -> Iterator[bytes]:
        """The lines there, one at a time."""
        with contextlib.suppress(FileNotFoundError), open(self.store.place(self.name), "rb") as file:
            for place in places:
                file.seek(place)
                yield file.readline()

    def heal(self) -> None:
        """Make good what a crash left, before the first append."""
        end = 0
        for place, line in self.scan():
            end = place + len(line)
        with contextlib.suppress(FileNotFoundError), open(self.store.place(self.name), "rb+") as file:
            if end < os.fstat(file.fileno()).st_size:  # a piece of a line, which the next append must not continue
                os.ftruncate(file.fileno(), end)

    def append(self, lines: bytes) -> int:
        """Add whole lines; the place of the first."""
        return self.store.append(self.name, lines)

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replace all of it at once. ``lines`` may come from :meth:`read`."""
        self.store.write_lines(self.name, lines)


class ObjectLog:
    """A base object, and segments that are written if there is none of their name: of two writers one collides.

    A rewrite puts the base and then removes the segments. A crash in between leaves some of them, whose lines the new
    base has already; so that none is older than the base's line of the same shard, :meth:`heal` merges them before
    anything is added.
    """

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name
        self.folder = name.removesuffix(".jsonl")
        self._spool = _spool()
        self._next = 0

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """As :meth:`LocalLog.scan`; reads all of it from the storage."""
        self._spool = _spool()
        if self.store.exists(self.name):
            with self.store.reading(self.name) as file:
                shutil.copyfileobj(file, self._spool, _BLOCK)
        segments = self._segments()
        self._next = max(segments, default=-1) + 1
        for i in range(0, len(segments), _BATCH):
            self._spool.writelines(self.store.read_many([self._segment(n) for n in segments[i : i + _BATCH]]))
        place = 0
        while (line := self._line(place)).endswith(b"\n"):
            yield place, line
            place += len(line)

    def read(self, places: Iterable[int]) -> Iterator[bytes]:
        """As :meth:`LocalLog.read`, of what has been scanned or appended."""
        for place in places:
            yield self._line(place)

    def _line(self, place: int) -> bytes:
        self._spool.seek(place)
        return self._spool.readline()

    def heal(self) -> None:
        """As :meth:`LocalLog.heal`, after a scan."""
        if self._segments():
            self._put(self._spool)

    def append(self, lines: bytes) -> int:
        """As :meth:`LocalLog.append`: one request. ``OutputError`` where another run has written here."""
        segment = self._segment(self._next)
        try:
            self.store.put_if(segment, lines, None)
        except UnmetError as error:
            if self.store.read(segment) != lines:  # else it is this one: its first answer was lost
                raise OutputError(
                    f"{self.store.uri}/{segment} is there already: another run is writing this output"
                ) from error
        self._next += 1
        place = self._spool.seek(0, os.SEEK_END)
        self._spool.write(lines)
        return place

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """As :meth:`LocalLog.rewrite`."""
        spool = _spool()
        spool.writelines(lines)
        self._put(spool)
        self._spool = spool

    def _put(self, spool: IO[bytes]) -> None:
        spool.flush()
        size = spool.seek(0, os.SEEK_END)
        self.store.write(self.name, mmap.mmap(spool.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
        self.store.remove_all([self._segment(n) for n in self._segments()])

    def _segment(self, number: int) -> str:
        return f"{self.folder}/{number:08d}.jsonl"

    def _segments(self) -> list[int]:
        names = (name[len(self.folder) + 1 :] for name in self.store.sizes(self.folder))
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"(\d{8,})\.jsonl", name)))


def _spool() -> IO[bytes]:
    """A file without a name, which goes with the last reference to it, or with the process."""
    return tempfile.TemporaryFile()
