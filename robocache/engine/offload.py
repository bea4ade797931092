"""A device that unpacks recordings for the threads that read: see :mod:`robocache.formats.messages.offload`.

A chunk takes a GPU as long as a thousand of them do, so what the threads ask for is done together: once each of them
waits for it, or enough has come together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any

import numpy as np
import torch

from robocache.engine import nvcomp
from robocache.errors import InputError
from robocache.formats.compression import inflate
from robocache.formats.messages.offload import HEAD, offloading
from robocache.ops import _library
from robocache.stages import stage
from robocache.types import Episode, EpisodeRef

logger = logging.getLogger("robocache")

#: Threads that read for a device, so that as many recordings are unpacked together: more of them wait for one another
#: in Python. Beside an H100 one worker took 3.66 s for 1 GB with 2, 3.56 with 4, 4.00 with 8, and 4.78 without a device
#: (docs/perf/raw/h100_offload.txt).
READERS = 4
#: Records begin at a multiple of so many bytes, each recording's.
_ALIGNMENT = 256


def usable(device: str) -> bool:
    """Whether recordings are unpacked there: by kernels of the extension, and by nvCOMP on a GPU."""
    kind = torch.device(device)
    return kind.type == "cuda" and _library.has_kernel("decode_messages", kind) and nvcomp.library() is not None


@dataclass(eq=False)
class _Asked:
    """What a thread asks for, and what it gets: None where its chunks or messages are not as they should be."""

    chunks: Sequence[np.ndarray]
    sizes: Sequence[int]
    crcs: Sequence[int]
    offsets: np.ndarray
    pieces: np.ndarray
    firsts: np.ndarray
    done: Event = field(default_factory=Event)
    got: _Unpacked | None = None

    @property
    def nbytes(self) -> int:
        return sum(self.sizes)


class Offload:
    """For threads that read at the same time.

    device: ``cuda``; any other unpacks on the host, for tests
    most:   bytes of records that are unpacked at once for one recording, and about as many for all together
    """

    def __init__(self, device: str, most: int):
        self.most = most
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        # Copies and kernels of two batches side by side, and what is taken from the one before while this one unpacks.
        self._unpacking = torch.cuda.Stream(self._device) if self._cuda else None
        self._taking = torch.cuda.Stream(self._device) if self._cuda else None
        self._waiting: list[_Asked] = []
        self._reading = 0
        self._changed = Lock()
        self._buffers: list[np.ndarray] = []

    def reading(self, read: Callable[[EpisodeRef], Episode]) -> Callable[[EpisodeRef], Episode]:
        """The same, with this device to unpack for it."""
        return _Reading(self, read)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._changed:
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                batch = self._due()
            self._do(batch)

    def buffer(self, nbytes: int) -> np.ndarray:
        """See :class:`robocache.formats.messages.offload.Device`."""
        with self._changed:
            place = next((k for k, b in enumerate(self._buffers) if len(b) >= nbytes), None)
            if place is not None:
                return self._buffers.pop(place)
        return torch.empty(-(-nbytes // 2**22) * 2**22, dtype=torch.uint8, pin_memory=self._cuda).numpy()

    def release(self, buffer: np.ndarray) -> None:
        """See :class:`robocache.formats.messages.offload.Device`."""
        with self._changed:
            self._buffers.append(buffer)
            self._buffers.sort(key=len)
            del self._buffers[2 * READERS :]

    def unpack(
        self,
        chunks: Sequence[np.ndarray],
        sizes: Sequence[int],
        crcs: Sequence[int],
        offsets: np.ndarray,
        pieces: np.ndarray,
        firsts: np.ndarray,
    ) -> _Unpacked | None:
        """See :class:`robocache.formats.messages.offload.Device`."""
        asked = _Asked(chunks, sizes, crcs, offsets, pieces, firsts)
        with self._changed:
            self._waiting.append(asked)
            batch = self._due()
        with stage("inflate"):
            self._do(batch)
            asked.done.wait()
        return asked.got

    def _due(self) -> list[_Asked]:
        """What is to be done now, by who asks; with the lock held."""
        waiting = self._waiting
        if not waiting or (len(waiting) < self._reading and sum(a.nbytes for a in waiting) < self.most):
            return []
        self._waiting = []
        return waiting

    def _do(self, batch: list[_Asked]) -> None:
        if not batch:
            return
        try:
            self._unpack(batch)
        except RuntimeError as error:  # no room on the device, or it is lost: who aligns will tell
            logger.debug("%s unpacks nothing: %s", self._device, error)
        finally:
            for asked in batch:
                asked.done.set()

    def _unpack(self, batch: Sequence[_Asked]) -> None:
        begins = _ends([asked.nbytes for asked in batch], _ALIGNMENT)
        messages, chunks, pieces, channels = (
            _ends([len(getattr(asked, what)) for asked in batch]) for what in ("offsets", "sizes", "pieces", "firsts")
        )
        placed = [a.pieces + np.array((n, 0, r, r, 0)) for a, n, r in zip(batch, messages, begins, strict=False)]
        firsts = [a.firsts + n for a, n in zip(batch, messages, strict=False)]
        with self._on(self._unpacking):
            records = torch.empty(begins[-1], dtype=torch.uint8, device=self._device)
            good = self._inflate(batch, records, begins)
            places, heads, bad = torch.ops.robocache.locate_messages(
                records,
                self._there(np.concatenate([asked.offsets for asked in batch]).view(np.int64)),
                self._there(np.concatenate(placed)),
                self._there(np.concatenate(firsts)),
                HEAD,
            )
            found, first, wrong, right = self._here(places, heads, bad, good)
        for k, asked in enumerate(batch):
            if right[chunks[k] : chunks[k + 1]].all() and not wrong[pieces[k] : pieces[k + 1]].any():
                mine = found[:, messages[k] : messages[k + 1]].copy()
                mine[0] -= begins[k]
                beginnings = first[channels[k] : channels[k + 1]]
                asked.got = _Unpacked(self, records, places, begins[k], asked.nbytes, messages[k], mine, beginnings)

    def _inflate(self, batch: Sequence[_Asked], records: torch.Tensor, begins: Sequence[int]) -> torch.Tensor:
        """bool ``[chunks]``: which of them became what they should."""
        chunks = [chunk for asked in batch for chunk in asked.chunks]
        targets = [begin + at for asked, begin in zip(batch, begins, strict=False) for at in _ends(asked.sizes)[:-1]]
        sizes = [size for asked in batch for size in asked.sizes]
        where = self._there(np.array([targets, sizes], np.int64))
        if self._cuda:
            sources = _ends([len(chunk) for chunk in chunks], nvcomp.ALIGNMENT)
            packed = torch.empty(sources[-1], dtype=torch.uint8, device=self._device)
            for chunk, source in zip(chunks, sources, strict=False):
                packed[source : source + len(chunk)].copy_(torch.from_numpy(chunk), non_blocking=True)
            begun = self._there(np.array([sources[:-1], [len(chunk) for chunk in chunks]], np.int64))
            good = nvcomp.inflate(packed, begun, records, where, max(sizes))
        else:
            good = torch.zeros(len(chunks), dtype=torch.bool)
            for k, (chunk, target, size) in enumerate(zip(chunks, targets, sizes, strict=True)):
                with suppress(InputError):
                    inflate("zstd", chunk, records[target : target + size].numpy(), "")
                    good[k] = True
        if any(crc for asked in batch for crc in asked.crcs):
            expected = self._there(np.array([crc for asked in batch for crc in asked.crcs], np.int64))
            good &= (torch.ops.robocache.crc32_chunks(records, where) == expected) | (expected == 0)
        return good

    def decode(self, there: _Unpacked, first: int, count: int, words: np.ndarray, nbytes: int) -> np.ndarray | None:
        """See :class:`robocache.formats.messages.offload.Unpacked`, whose part this is."""
        with self._on(self._taking):
            out, bad = torch.ops.robocache.decode_messages(
                there.batch, there.all_places, there.message + first, count, self._there(words), nbytes
            )
            made, wrong = self._here(out, bad)
        return None if wrong.any() else made

    def _there(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._device)

    def _here(self, *there: torch.Tensor) -> list[np.ndarray]:
        if not self._cuda:
            return [x.numpy() for x in there]
        here = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in there]
        for target, source in zip(here, there, strict=True):
            target.copy_(source, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # else who waits keeps a core busy
        done.record()
        done.synchronize()
        return [x.numpy() for x in here]

    @contextmanager
    def _on(self, stream: torch.cuda.Stream | None) -> Iterator[None]:
        with torch.inference_mode():
            if stream is None:
                yield
            else:
                with torch.cuda.stream(stream):
                    yield


class _Reading:
    """Reads with a device. In another process, where its memory is not, it is the reading itself."""

    def __init__(self, offload: Offload, read: Callable[[EpisodeRef], Episode]):
        self._offload, self._read = offload, read

    def __call__(self, ref: EpisodeRef) -> Episode:
        with self._offload.one_more(), offloading(self._offload):
            return self._read(ref)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._read,)


def _itself(read: Callable[[EpisodeRef], Episode]) -> Callable[[EpisodeRef], Episode]:
    return read


@dataclass(eq=False)
class _Unpacked:
    """See :class:`robocache.formats.messages.offload.Unpacked`: of a batch, which it keeps there, ``nbytes`` of records
    from ``begin`` and messages from ``message`` on.
    """

    offload: Offload
    batch: torch.Tensor
    all_places: torch.Tensor
    begin: int
    nbytes: int
    message: int
    places: np.ndarray
    heads: np.ndarray

    def decode(self, first: int, count: int, words: np.ndarray, nbytes: int) -> np.ndarray | None:
        """See there."""
        return self.offload.decode(self, first, count, words, nbytes)

    def records(self) -> np.ndarray:
        """See there."""
        found: np.ndarray = self.batch[self.begin : self.begin + self.nbytes].cpu().numpy()
        return found


def _ends(sizes: Sequence[int], alignment: int = 1) -> list[int]:
    """Where each of some things begins that lie one behind the other, and where the last ends."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + -(-size // alignment) * alignment)
    return ends
