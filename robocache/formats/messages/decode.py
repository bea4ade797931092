"""Columnar decoding: what a program takes from all messages of a window, compiled or in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.batch import Messages, gather
from robocache.formats.messages.blocks import ByteOrder, Decoded, Plan, Targets
from robocache.formats.messages.lowered import lower
from robocache.formats.messages.packing import Packing
from robocache.formats.messages.program import Step
from robocache.formats.messages.walk import Walk, Window

_HEAD = 1024  # bytes of a message that are copied out in one go at most


class Decoder:
    """A program with what its last window taught: how far into a message it reaches."""

    def __init__(self, program: Sequence[Step], packing: Packing, where: str, plan: Plan = Plan()):  # noqa: B008
        self._program, self._packing, self._where, self._reach = program, packing, where, _HEAD
        self._lowered = lower(program, packing, plan)

    def decode(self, messages: Messages, targets: Targets | None = None) -> Decoded:
        """What the program takes from every message (at least one). ``InputError`` where a message ends early.

        targets: arrays that tables and times are put into where they have their shape
        """
        if not self._program:
            return Decoded({}, {}, "<")
        found = self._lowered.decode(messages, targets or {}) if self._lowered else None
        return found or self._walk(messages)

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
