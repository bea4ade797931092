"""Messages that a device unpacks and decodes for who reads them.

A reader asks the device of its thread, where there is one, to unpack chunks; it gets messages whose bytes stay there.
What is taken from them is laid out by a look at the first one (``kernels/decode/program.h``), and all others are taken
alike. Whatever the device does not take, or finds other than it should be, is done on the host as ever: so both give
the same, and damage is told in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import numpy as np

#: Bytes of a channel's first message that come back; of longer ones there is more to move than to compute.
HEAD = 4096
#: The encodings whose messages a device can take apart.
ENCODINGS = ("cdr", "ros1")


class Unpacked(Protocol):
    """The records of some chunks, one behind the other, and the messages in them.

    places: int64 ``[4, n]`` offsets and sizes of payloads, log and publish times
    heads:  uint8 ``[channels, HEAD]`` of the first message of each channel
    """

    places: np.ndarray
    heads: np.ndarray

    def decode(self, first: int, count: int, words: np.ndarray, nbytes: int) -> np.ndarray | None:
        """uint8 ``[nbytes]`` of ``count`` messages from ``first`` on, as ``words`` (int64, see
        kernels/include/robocache/messages/layout.h) lay them out; None where one is not laid out as the first."""
        ...

    def records(self) -> np.ndarray:
        """All of them on the host, uint8."""
        ...


class Device(Protocol):
    """``most``: bytes of records that it unpacks at once."""

    most: int

    def buffer(self, nbytes: int) -> np.ndarray:
        """Host memory to read into, uint8, at least so much, from which it copies fast."""
        ...

    def release(self, buffer: np.ndarray) -> None:
        """Such a buffer is not needed any more."""
        ...

    def unpack(
        self,
        chunks: Sequence[np.ndarray],
        sizes: Sequence[int],
        crcs: Sequence[int],
        offsets: np.ndarray,
        pieces: np.ndarray,
        firsts: np.ndarray,
    ) -> Unpacked | None:
        """Unpack zstd chunks and find messages in them; None where either fails.

        sizes:   bytes that each becomes
        crcs:    its CRC-32 then; 0: it is not checked
        offsets: uint64 ``[n]`` of message records within their chunk
        pieces:  int64 ``[m, 5]``: the first offset, how many, where their chunk begins and ends in the records, channel
        firsts:  int64 ``[channels]``: which message is the first of each
        """
        ...


_device: ContextVar[Device | None] = ContextVar("device", default=None)


def device() -> Device | None:
    """That of who reads here."""
    return _device.get()


@contextmanager
def offloading(device: Device) -> Iterator[None]:
    """What is read within, in this context, the device unpacks."""
    before = _device.set(device)
    try:
        yield
    finally:
        _device.reset(before)
