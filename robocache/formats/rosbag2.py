"""ROS 2 bags in SQLite (``.db3``), of every version of their schema; the standard library reads them.

A bag is a table of topics and one of messages. Newer ones say what their types hold; of older ones the types that are
well known are read (:mod:`robocache.formats.messages.known`). The pieces of a recording, as the ``metadata.yaml``
beside them names them, are one episode.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np

from robocache.errors import InputError
from robocache.formats.base import InputSpec, local_path
from robocache.formats.messages.batch import Messages, Schema
from robocache.formats.messages.chunks import Chunks
from robocache.formats.messages.log import Channel, LogReader, Part, Window, Within
from robocache.formats.segments import CONTEXT
from robocache.types import NEVER, FileStamp

_WINDOW = 8 << 20  # bytes of messages at once
_ROWS = 4096
_LOOK = 64  # messages of a look
_LEAST = 8  # bytes that a row takes at least


class Rosbag2Reader(LogReader):
    """SQLite bags. The messages of the topics asked for are read in the order in which they were stored."""

    name: ClassVar[str] = "rosbag2"
    suffixes: ClassVar[tuple[str, ...]] = (".db3",)
    magic: ClassVar[bytes] = b"SQLite format 3\0"
    remedy: ClassVar[str] = "`sqlite3 FILE .recover`"

    @contextmanager
    def open(self, file: FileStamp, spec: InputSpec) -> Iterator[Part]:
        with local_path(file, spec) as path:
            # What a recorder that died has not yet moved into the file lies beside it.
            pending = Path(f"{path}-wal").exists() and Path(f"{path}-wal").stat().st_size > 0
            place = f"file:{quote(path)}?mode=ro{'' if pending else '&immutable=1'}"
            with closing(sqlite3.connect(place, uri=True, check_same_thread=False)) as database, _faults(file.uri):
                database.execute("PRAGMA trusted_schema=OFF")
                database.execute("PRAGMA cell_size_check=ON")
                yield _Bag(database, file)


@contextmanager
def _faults(uri: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(f"{uri}: is damaged or no bag ({error}); try {Rosbag2Reader.remedy}") from None


class _Bag(Part):
    def __init__(self, database: sqlite3.Connection, file: FileStamp):
        self.uri, self._database = file.uri, database
        self._size = int(database.execute("PRAGMA page_count").fetchone()[0])
        self._size *= int(database.execute("PRAGMA page_size").fetchone()[0])
        self.room = self._size // _LEAST
        tables = {name: str(sql) for name, sql in database.execute("SELECT name, sql FROM sqlite_master")}
        for name in ("topics", "messages"):
            # A view, or a virtual table, may take any time and hold anything.
            if not tables.get(name, "").lstrip().upper().startswith("CREATE TABLE"):
                known = ", ".join(sorted(map(str, tables))[:20])
                raise InputError(f"{self.uri}: has no table {name!r}, so it is no ROS 2 bag; it has {known or 'none'}")
        told = self._definitions() if "message_definitions" in tables else {}
        self.channels = {}
        for id, topic, kind, encoding in self._rows("SELECT id, name, type, serialization_format FROM topics"):
            if not isinstance(id, int) or not all(isinstance(text, str) for text in (topic, kind, encoding)):
                raise InputError(f"{self.uri}: a topic of id {id!r} and name {topic!r}; the file is damaged")
            self.channels[id] = Channel(id, topic, encoding, told.get(kind, Schema(kind, "", b"")))

    def _definitions(self) -> dict[str, Schema]:
        found = {}
        columns = "topic_type, encoding, encoded_message_definition"
        for kind, encoding, text in self._rows(f"SELECT {columns} FROM message_definitions"):
            if isinstance(kind, str) and isinstance(encoding, str) and isinstance(text, str) and text.strip():
                found[kind] = Schema(kind, encoding, text.encode())
        return found

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a small table."""
        rows = list(islice(self._database.execute(query), self.room + 1))
        if len(rows) > self.room:
            raise InputError(f"{self.uri}: has more rows than its size has room for; the file is damaged")
        return rows

    def messages(
        self,
        channels: Collection[int],
        *,
        scan: bool = False,
        within: Within | None = None,
        taker: Chunks | None = None,
    ) -> Iterator[Window]:
        yield from self._windows(channels, "", "" if within is None else self._within(channels, within))

    def _within(self, channels: Collection[int], within: Within) -> str:
        """What rows of that time are asked for by, and of each topic the nearest before and after."""
        first, last = (min(max(ns, 0), NEVER) for ns in within[:2])
        nearest = [
            f"SELECT * FROM (SELECT id FROM messages WHERE topic_id = {int(id)} AND timestamp {beyond} "
            f"ORDER BY timestamp {order} LIMIT {CONTEXT})"
            for id in sorted(channels)
            for beyond, order in ((f"< {first}", "DESC"), (f"> {last}", "ASC"))
        ]
        found = [row[0] for query in nearest if within.nearest for row in self._rows(query)]
        others = ", ".join(str(int(id)) for id in found)
        return f"AND (timestamp BETWEEN {first} AND {last} OR id IN ({others}))"

    def glimpses(self, channels: Collection[int]) -> Iterator[Iterator[Window]]:
        """The first messages, and the last."""
        yield self._windows(channels, f"LIMIT {_LOOK}")
        yield self._windows(channels, f"DESC LIMIT {_LOOK}")

    def _windows(self, channels: Collection[int], order: str, within: str = "") -> Iterator[Window]:
        wanted = ", ".join(str(id) for id in sorted(channels))
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({wanted}) {within} "
        query += f"ORDER BY id {order}"
        with _faults(self.uri):
            cursor = self._database.execute(query)
            pending: list[tuple[Any, ...]] = []
            rows = size = held = 0
            while piece := cursor.fetchmany(_ROWS if held < _WINDOW // 4 else 64):
                pending += piece
                rows += len(piece)
                try:
                    more = sum(len(row[2]) for row in piece)
                except TypeError:
                    raise InputError(f"{self.uri}: a message that is no bytes; the file is damaged") from None
                size, held = size + more, held + more
                if rows > self.room or size > self._size:
                    raise InputError(f"{self.uri}: has more messages than its size has room for; it is damaged")
                if held >= _WINDOW:
                    yield self._window(pending)
                    pending, held = [], 0
            if pending:
                yield self._window(pending)

    def _window(self, rows: Sequence[tuple[Any, ...]]) -> Window:
        blobs = [row[2] for row in rows]
        try:
            buffer = np.frombuffer(b"".join(blobs), np.uint8)
            times = np.array([row[1] for row in rows], np.int64)
            ids = np.array([row[0] for row in rows], np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{self.uri}: a message of another type than its table says ({error})") from None
        if times.ndim != 1 or times.min(initial=0) < 0:
            raise InputError(f"{self.uri}: a message has the time {times.min()}; the file is damaged")
        sizes = np.fromiter(map(len, blobs), np.int64, len(blobs))
        starts = np.cumsum(sizes) - sizes
        found = {}
        for id in np.unique(ids).tolist():
            mine = np.flatnonzero(ids == id)
            found[id] = Messages(buffer, starts[mine], sizes[mine], times[mine])
        return found
