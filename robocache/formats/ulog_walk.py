"""Where the messages of a ULog are: gone through once for that, window by window, and again for those asked for.

A window is one reused buffer: a log of any length needs little memory beside the places of its messages.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import BinaryIO

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages import native
from robocache.stages import stage

MAGIC = b"ULog\x01\x12\x35"
HEADER = 16  # magic, version, timestamp
_HEAD = struct.Struct("<HB")
LEAST = HEADER + _HEAD.size + 40  # bytes, to the end of the flags
FLAGS, FORMAT, INFO, PARAMETER, ADD, DATA, DROPOUT = b"BFIPADO"
_TOLD = frozenset(b"FIPAO")  # what tells of the file and is kept
_KNOWN = frozenset(b"BFIMPQARDLCSO")
WINDOW = 4 << 20  # bytes at once; more than any message has


def ends_of(head: bytes, size: int, uri: str) -> list[int]:
    """Where data begins that was appended after a crash to a log of ``size`` bytes, in order, and its end.

    head: its first ``LEAST`` bytes. ``InputError``: they are of no log, or of one that only newer software understands.
    """
    if head[: len(MAGIC)] != MAGIC or len(head) < HEADER:
        raise InputError(f"{uri}: begins with {head[:8]!r}; {MAGIC!r} is right")
    length, kind = _HEAD.unpack_from(head, HEADER) if len(head) == LEAST else (0, 0)
    if kind != FLAGS or length < 40:
        return [size]
    flags = head[HEADER + _HEAD.size :]
    unknown = [bit for bit in range(64) if flags[8 + bit // 8] >> bit % 8 & 1 and bit != 0]
    if unknown:
        raise InputError(f"{uri}: has incompatible flags {unknown}, which only newer software understands")
    found = [place for place in struct.unpack_from("<3Q", flags, 16) if HEADER < place < size]
    return [*sorted(found), size] if flags[8] & 1 else [size]


class Walk:
    """Goes through a log, first through all of it, then through some windows again for what is in them. Subscriptions
    are numbered in the order in which the file adds them. The reference of ``kernels/decode/ulog.h``.

    ends: as of :func:`ends_of`
    """

    def __init__(self, ends: Sequence[int]):
        self._ends = ends
        self._added: list[tuple[int, int]] = []  # where, and the id that stands for it from there on
        self._counts: list[int] = []
        self._told = bytearray()

    def step(self, window: np.ndarray, base: int) -> tuple[int, bool, list[int]]:
        """Step over the messages of a window that begins at byte ``base`` of the file, where the one before stopped.

        Returns where that is, behind the last message that is whole, whether a message of a type that does not exist is
        there, and the subscriptions that have data in the window.
        """
        data = window.tobytes()
        messages, stop, unknown = _messages(data, base, self._ends)
        current = {id: number for number, (_, id) in enumerate(self._added)}
        numbers: dict[int, None] = {}
        for at, kind, begin, end in messages:
            content = data[begin:end]
            if kind == DATA and len(content) > 2 and (number := current.get(_id(content))) is not None:
                self._counts[number] += 1
                numbers[number] = None
            elif kind in _TOLD:
                self._told += data[begin - _HEAD.size : end]
                if kind == ADD and len(content) > 3:
                    current[_id(content[1:])] = len(self._added)
                    self._added.append((at, _id(content[1:])))
                    self._counts.append(0)
        return stop, unknown, list(numbers)

    def found(self) -> tuple[list[int], bytes]:
        """How many messages with data each subscription has; and the messages that tell of the file as they are, one
        behind the other."""
        return self._counts, bytes(self._told)

    def find(self, window: np.ndarray, base: int, numbers: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each of these subscriptions in a window that was stepped over: offsets in it of payloads, and their sizes,
        int64 ``[n]``."""
        data = window.tobytes()
        current = {id: number for number, (at, id) in enumerate(self._added) if at < base}
        added = {at: (id, number) for number, (at, id) in enumerate(self._added)}
        found: dict[int, list[tuple[int, int]]] = {number: [] for number in numbers}
        for at, kind, begin, end in _messages(data, base, self._ends)[0]:
            if at in added:
                id, number = added[at]
                current[id] = number
            elif kind == DATA and end - begin > 2 and (known := current.get(_id(data[begin:end]))) in found:
                found[known].append((begin + 2, end - begin - 2))
        pairs = (np.array(found[number], np.int64).reshape(-1, 2) for number in numbers)
        return [(places[:, 0], places[:, 1]) for places in pairs]


def _id(content: bytes) -> int:
    return int.from_bytes(content[:2], "little")


def _messages(data: bytes, base: int, ends: Sequence[int]) -> tuple[list[tuple[int, int, int, int]], int, bool]:
    """The whole messages of a window: where each begins in the file, its type, and its content in the window. And where
    they stop, and whether at a message of a type that does not exist."""
    found: list[tuple[int, int, int, int]] = []
    at, stop = base, base + len(data)
    bounds = [end for end in ends[:-1] if end >= base]
    while at <= stop - _HEAD.size:
        length, kind = _HEAD.unpack_from(data, at - base)
        end = at + _HEAD.size + length
        if bounds and end > bounds[0]:  # what was appended after a crash begins here
            at = bounds.pop(0)
            continue
        if kind not in _KNOWN:
            return found, at, True
        if end > stop:
            break
        found.append((at, kind, at - base + _HEAD.size, end - base))
        at = end
    return found, at, False


class UlogFile:
    """A log that was gone through.

    size:    its bytes
    counts:  how many messages with data each subscription has
    told:    contents of the messages that tell of the file, by their type
    stop:    the first byte that belongs to no whole message
    strange: the type of the message there, where there is no such type; else None
    windows: where in the file each begins and ends, and the subscriptions that have data in it
    """

    def __init__(self, file: BinaryIO, uri: str):
        self._file, self._uri, self.size = file, uri, file.seek(0, 2)
        file.seek(0)
        ends = ends_of(file.read(LEAST), self.size, uri)
        self._walk = native.ulog_walk(ends) or Walk(ends)
        self._buffer, self._held = np.empty(min(WINDOW, self.size), np.uint8), (0, 0)
        self.windows: list[tuple[int, int, frozenset[int]]] = []
        self.strange: int | None = None
        self.stop, last = HEADER, False
        while not last and self.strange is None:
            begin, end = self.stop, min(self.stop + WINDOW, self.size)
            window, last = self._read(begin, end), end == self.size
            self.stop, unknown, numbers = self._walk.step(window, begin)
            self.windows.append((begin, min(self.stop, end), frozenset(numbers)))
            if unknown:
                self.strange = int(window[self.stop - begin + 2])
        self.counts, told = self._walk.found()
        self.told: dict[int, list[bytes]] = {kind: [] for kind in _TOLD}
        at = 0
        while at < len(told):
            length, kind = _HEAD.unpack_from(told, at)
            begin, at = at + _HEAD.size, at + _HEAD.size + length
            self.told[kind].append(told[begin:at])

    def read(
        self, begin: int, end: int, numbers: Collection[int]
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """A window's bytes, valid until the next is asked for, and of each of these subscriptions where payloads begin
        in it and their bytes, int64 ``[n]``."""
        window = self._read(begin, end)
        return window, self._walk.find(window, begin, list(numbers))

    def _read(self, begin: int, end: int) -> np.ndarray:
        view, got = self._buffer[: end - begin], 0
        if self._held[0] != begin or self._held[1] < end:
            self._held = (0, 0)
            with stage("read"):
                self._file.seek(begin)
                while got < len(view):
                    count = self._file.readinto(view[got:].data)  # type: ignore[attr-defined]  # every fsspec file has it
                    if not count:
                        raise InputError(f"{self._uri}: ends at byte {begin + got}, it had {self.size} when opened")
                    got += count
            self._held = (begin, end)
        return view
