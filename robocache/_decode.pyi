"""The compiled decoder: kernels/decode. All of it works without the interpreter's lock, on buffers that nobody changes
meanwhile. A buffer is contiguous; ``start`` and ``size`` are int64 ``[n]``: where ``n`` messages, or spans, lie in
``buffer``. What is claimed is checked; ``ValueError`` and ``TypeError`` are faults of the caller, not of a file.
"""

from collections.abc import Sequence
from typing import TypeAlias

from typing_extensions import Buffer

#: code (int64), texts, most elements gone through one by one, bytes of encapsulation, aligned, nul
Program: TypeAlias = tuple[Buffer, Buffer, int, int, bool, bool]

#: Whether this processor has the instructions that make ``crc32`` fast.
has_crc32: bool

def crc32(data: Buffer, value: int, /) -> int:
    """What ``zlib.crc32`` gives."""

def scan(buffer: Buffer, start: int, end: int, channels: Sequence[int], /) -> tuple[list[bytes], int, int]:
    """Step over the MCAP records of ``[start, end)`` up to the first chunk, or the first that does not end before.

    Returns the offsets of message records of each channel (uint64 in the host's order), the offset of the chunk's
    content (-1: none), and where it stopped.
    """

def locate(buffer: Buffer, channel: int, pieces: Sequence[Buffer], limits: Buffer, out: Buffer, /) -> bool:
    """Check the MCAP message records that an index points to.

    pieces: of each chunk uint64 ``[k]`` offsets in it, little endian, with any stride
    limits: int64 ``[pieces, 3]``: how many, where the chunk begins and ends
    out:    int64 ``[4, n]``: payloads' offsets, sizes, log times, publish times
    False where an entry is not as it should be, or not in file order.
    """

def measure(buffer: Buffer, start: Buffer, size: Buffer, program: Program, measures: int, /) -> list[int] | None:
    """How many elements the first message has of each thing measured; None where it ends early."""

def run(
    buffer: Buffer,
    start: Buffer,
    size: Buffer,
    program: Program,
    counts: Sequence[int],
    outputs: Sequence[Buffer],
    /,
) -> tuple[int, list[int]] | None:
    """Run a program over all messages: kernels/decode/program.h says what goes where.

    Returns the second byte of the encapsulation, and for each measure whether messages differ in it. None where a
    message is not as the program has it; the outputs mean nothing then.
    """

def lay_out(
    buffer: Buffer,
    start: Buffer,
    size: Buffer,
    program: Program,
    counts: Sequence[int],
    outputs: Sequence[Buffer],
    /,
) -> tuple[int, int, list[int], list[int], list[int], list[int]] | None:
    """Run a program over the one message that there is, and say how it is laid out; None where that cannot be said.

    Returns the second byte of the encapsulation, how many bytes it has led over, and what it has met, with offsets from
    the message's first byte: bytes that decide how the rest is read (offset, how many), numbers (offset, bytes, bytes
    of each, output, where in it), times (offset, bytes, factor, flags, output), and spans (offset, size, output).
    """

def open_channel(
    channel: int, program: Program, counts: Sequence[int], outputs: Sequence[Buffer | None], times: Buffer, /
) -> object:
    """What takes the messages of an MCAP channel chunk by chunk, into outputs as of ``run`` with room for all of them.

    outputs: None for those of spans, which are not noted
    times:   int64 ``[2, n]``, log times and publish times; ``n`` is how many there is room for
    It holds the arrays as long as it lives. ``ValueError`` where the program takes what lies in a chunk.
    """

def take_chunk(chunk: Buffer, channels: Sequence[object], entries: Sequence[Buffer], /) -> list[bool]:
    """Whether each channel has taken the messages of an unpacked chunk, whose records begin at its ``entries``: uint64,
    little endian, with any stride, in file order. One that has not has added nothing, and takes nothing any more.
    """

def taken(channel: object, /) -> tuple[int, int, list[list[bytes]]]:
    """How many messages it has taken, the second byte of their encapsulation, and for each output of codes the texts in
    the order of these: behind those of the highest code there may be others.
    """

def open_ulog(ends: Sequence[int], /) -> object:
    """What goes through a ULog window by window. ``ends``: where data was appended after a crash, in order, and last
    the file's end.
    """

def step_ulog(walk: object, window: Buffer, base: int, /) -> tuple[int, bool, list[int]]:
    """Step over the messages of a window that begins at byte ``base`` of the file, where the one before stopped.

    Returns where that is, behind the last message that is whole, whether a message of a type that does not exist is
    there, and the subscriptions that have data in the window, numbered in the order in which the file adds them.
    """

def walked_ulog(walk: object, /) -> tuple[list[int], bytes]:
    """How many messages with data each subscription has; and the formats, infos, parameters, subscriptions and
    dropouts, as they are.
    """

def find_ulog(walk: object, window: Buffer, base: int, numbers: Sequence[int], /) -> list[tuple[bytes, bytes]]:
    """Of each of these subscriptions in a window that was stepped over: int64 offsets in it of payloads, and sizes."""

def concatenate(buffer: Buffer, start: Buffer, size: Buffer, item: int, out: Buffer, /) -> bool:
    """Copy all spans one behind the other, numbers of ``item`` bytes with their bytes swapped where it is above 1."""

def distinct(buffer: Buffer, start: Buffer, size: Buffer, which: Buffer, /) -> list[int] | None:
    """The first span of each distinct content; ``which`` int64 ``[n]`` gets the place in that list of each span's."""

def order(times: Buffer, /) -> tuple[bool, int]:
    """Whether no time of int64 ``[n]`` is below the one before, and how many are that one."""

def steps(times: Buffer, /) -> tuple[int, int, int]:
    """Of the steps between rising times, int64 ``[n]``, n at least 2, their span an int64: the two in the middle of
    their order (the same one of an odd number), and the widest. Needs no memory of their size.
    """

def wider(times: Buffer, limit: int, /) -> int:
    """How many of these steps are wider."""

def extremes(table: Buffer, low: Buffer, high: Buffer, /) -> None:
    """The lowest and the highest number of each column of float32 or float64 ``[n, k]``, n at least 1, NaN where one is
    NaN: into ``[k]`` of the same type.
    """

def ways(table: Buffer, out: Buffer, /) -> None:
    """How far each column of float32 or float64 ``[n, k]`` goes, n at least 1: the distances from row to row together,
    into float64 ``[k]``.
    """
