"""Columnar decoding: what a program takes from all messages of a window, compiled or in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages import native
from robocache.formats.messages.batch import Messages, gather
from robocache.formats.messages.blocks import ByteOrder, Decoded, Plan, Targets
from robocache.formats.messages.definitions import Struct
from robocache.formats.messages.lowered import ChunkDecoder, Lowered, lower
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.paths import Key
from robocache.formats.messages.program import Step, compile_program
from robocache.formats.messages.walk import Walk, Window

_HEAD = 1024  # bytes of a message that are copied out in one go at most


class Decoder:
    """Takes what ``keys`` name from messages of a type, as ``plan`` wants it."""

    def __init__(self, root: Struct, keys: Sequence[Key], packing: Packing, where: str, plan: Plan = Plan()):  # noqa: B008
        self._packing, self._where, self._reach = packing, where, _HEAD
        try:
            self._program, self._lowered = _compiled(root, tuple(keys), packing, plan, native.library is not None)
        except InputError:
            self._program, self._lowered = compile_program(root, keys, packing, where), None

    def decode(self, messages: Messages, targets: Targets = Targets({}, {})) -> Decoded | None:  # noqa: B008
        """What the program takes from every message (at least one). ``InputError`` where a message ends early; None
        where they lie on a device that does not take them.

        targets: arrays that tables and times are put into where they have their shape
        """
        if not self._program:
            return Decoded({}, {}, "<")
        found = self._lowered.decode(messages, targets) if self._lowered else None
        return found if found or messages.offloaded else self._walk(messages)

    def decoder(self, channel: int, first: Messages, room: int, targets: Targets) -> ChunkDecoder | None:
        """See :meth:`robocache.formats.messages.lowered.Lowered.decoder`."""
        return self._lowered.decoder(channel, first, room, targets) if self._lowered and self._program else None

    def _walk(self, messages: Messages) -> Decoded:
        """In numpy: the reference, which says what is wrong with messages that are not as they should be."""
        lead = self._packing.encapsulation
        shortest = int(messages.size.min())
        if shortest < lead:
            raise InputError(f"{self._where}: a message of {shortest} bytes, the CDR encapsulation alone takes {lead}")
        # One copy of each message's beginning; what lies at one position in all of them is then a view.
        head = gather(messages.buffer, messages.start, min(shortest, lead + self._reach))
        order = byte_order(head[:, :2], self._where) if lead else "<"
        walk = Walk(
            Window(messages.buffer, order, self._packing, self._where),
            messages.start + lead,
            messages.size - lead,
            0,
            head[:, lead:],
        )
        walk.run(self._program)
        self._reach = min(_HEAD, int(np.max(walk.at)))
        return Decoded(walk.found, walk.having, order)


@lru_cache(maxsize=1024)  # the logs of a dataset are asked for the same of the same types
def _compiled(
    root: Struct, keys: tuple[Key, ...], packing: Packing, plan: Plan, compiled: bool
) -> tuple[list[Step], Lowered | None]:
    program = compile_program(root, keys, packing, "")
    return program, lower(program, packing, plan) if compiled else None


def byte_order(encapsulation: np.ndarray, where: str) -> ByteOrder:
    """Of messages whose first two bytes are ``[n, 2]``. ``InputError`` for anything but plain CDR of one order."""
    kinds = np.ascontiguousarray(encapsulation).view(">u2")[:, 0]
    kind = int(kinds[0])
    if kind > 1 or (kinds != kind).any():
        raise InputError(
            f"{where}: CDR encapsulation {', '.join(f'{found:#06x}' for found in np.unique(kinds))}; "
            "plain CDR of one byte order (0x0000 or 0x0001) can be read"
        )
    return "<" if kind else ">"
