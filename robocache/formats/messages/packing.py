"""How an encoding packs its fields: all that the decoder must know of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packing:
    """
    encapsulation: bytes before the first field, of which the second tells the byte order; 0: little endian
    aligned:       numbers begin at multiples of their size, counted from behind the encapsulation
    nul:           the length of a string counts a NUL at its end
    """

    encapsulation: int
    aligned: bool
    nul: bool


#: OMG CDR, as ROS 2 middlewares send it (PLAIN_CDR, either byte order).
CDR = Packing(encapsulation=4, aligned=True, nul=True)
#: What messages of other encodings are brought to: fields one after another, little endian.
PLAIN = Packing(encapsulation=0, aligned=False, nul=False)
#: ROS 1: fields one after another, little endian.
ROS1 = Packing(encapsulation=0, aligned=False, nul=False)
