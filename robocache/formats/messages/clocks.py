"""Which time a message is of: its own stamp, that of the element taken from it, any field, or the container's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robocache.errors import InputError
from robocache.formats.base import TIME_UNITS
from robocache.formats.messages.definitions import Number, Struct
from robocache.formats.messages.paths import Columns, Key, describe, follow, parse_path
from robocache.formats.times import STAMP_FIELDS

#: Messages of these packages count microseconds since the autopilot started, in a field of this name.
_PX4, _PX4_FIELD = "px4_msgs/", "timestamp"


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the times of a source's samples come from.

    keys:  two leaves, seconds and nanoseconds, or one in ``unit``; none: the container's own times
    frame: the text that says which frame the stamped thing is in
    kind:  ``header``, ``log``, ``publish`` or the field's path
    note:  what a person should know of the choice
    """

    keys: tuple[Key, ...] = ()
    unit: str = "s"
    kind: str = "log"
    frame: Key | None = None
    note: str = ""

    @property
    def factors(self) -> tuple[int, ...]:
        """How many nanoseconds one of each leaf is."""
        return (1_000_000_000, 1) if len(self.keys) == 2 else (TIME_UNITS[self.unit],)

    def nanoseconds(self, blocks: list[np.ndarray]) -> np.ndarray:
        """int64 ``[n]`` of what the keys' leaves hold, ``[n]`` each."""
        if len(blocks) == 2:
            return blocks[0].astype(np.int64) * 1_000_000_000 + blocks[1].astype(np.int64)
        (block,) = blocks
        if block.dtype.kind == "f":
            whole = np.floor(np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64))
            rest = np.rint((np.where(np.isfinite(block), block, 0) - whole) * TIME_UNITS[self.unit])
            return whole.astype(np.int64) * TIME_UNITS[self.unit] + rest.astype(np.int64)
        return block.astype(np.int64) * TIME_UNITS[self.unit]


def find_clock(root: Struct, columns: Columns, stamp: str, where: str) -> Clock:
    """The clock that ``stamp`` (``header``, ``log``, ``publish``, a field's path) is for a source.

    ``header`` is the stamp of the element that the source is taken from, where that is one of an array of stamped
    messages; else the message's own. ``MissingError`` where a field is not there, ``InputError`` where it is no time.
    """
    if stamp in ("log", "publish"):
        return Clock(kind=stamp, frame=_frame(root, ()))
    if stamp != "header":
        return _field_clock(root, stamp, where)
    inner = [(key, struct) for key, struct in columns.structs if key and None not in key]
    picked = [(key, struct) for key, struct in inner if not isinstance(key[-1], str)]
    nested = [(key, struct) for key, struct in inner if isinstance(key[-1], str)]
    for key, struct in (*reversed(picked), ((), root), *reversed(nested)):
        keys, unit = _stamp_of(struct, key)
        if keys:
            return Clock(keys, unit, "header", _frame(struct, key))
    return Clock(kind="log", note=f"{root.name} has no header stamp: log time; input.stamp can name a field")


def _stamp_of(struct: Struct, key: Key) -> tuple[tuple[Key, ...], str]:
    """The leaves of a message's own stamp, and their unit; none where it has none."""
    fields = dict(struct.fields)
    header = fields.get("header")
    places: list[tuple[Key, Any]] = [((name,), fields.get(name)) for name in ("timestamp", "stamp")]
    if isinstance(header, Struct):
        places.insert(0, (("header", "stamp"), dict(header.fields).get("stamp")))
    for names, kind in places:
        if isinstance(kind, Struct) and (parts := _parts(kind)):
            return tuple((*key, *names, part) for part in parts), "s"
    kind = fields.get(_PX4_FIELD)
    if struct.name.startswith(_PX4) and isinstance(kind, Number) and kind.dtype.kind in "iu":
        return ((*key, _PX4_FIELD),), "us"
    return (), ""


def _parts(stamp: Struct) -> tuple[str, str] | None:
    """The fields of a time in seconds and nanoseconds."""
    fields = dict(stamp.fields)
    for names in STAMP_FIELDS:
        kinds = [fields.get(name) for name in names]
        if len(fields) == 2 and all(isinstance(kind, Number) and kind.dtype.kind in "iu" for kind in kinds):
            return names
    return None


def _frame(struct: Struct, key: Key) -> Key | None:
    header = dict(struct.fields).get("header")
    if isinstance(header, Struct) and "frame_id" in dict(header.fields):
        return (*key, "header", "frame_id")
    return (*key, "frame_id") if "frame_id" in dict(struct.fields) else None


def split_unit(stamp: str) -> tuple[str, str]:
    """``timestamp:us`` as the field's path and its unit; the unit is empty where none is given."""
    path, colon, unit = stamp.rpartition(":")
    return (path, unit) if colon and unit in TIME_UNITS else (stamp, "")


def unit_of(path: str, type_name: str, given: str) -> str:
    """The unit of a number that is a time: as given, as the field's name says, or as its package has it."""
    suffix = path.lower().rpartition("_")[2]
    named = {"sec": "s", "secs": "s", "seconds": "s", "nsec": "ns", "nanosec": "ns", "usec": "us", "msec": "ms"}
    if given:
        return given
    if suffix in TIME_UNITS:
        return suffix
    return named.get(suffix, "us" if type_name.startswith(_PX4) else "")


def _field_clock(root: Struct, stamp: str, where: str) -> Clock:
    path, given = split_unit(stamp)
    place = follow(root, parse_path(f".{path.lstrip('.')}", None, where), f"{where}: stamp {path!r}")
    if None in place.key:
        raise InputError(f"{where}: stamp {path!r} has a time for each element; name one, as in [0]")
    if isinstance(place.target, Struct) and (parts := _parts(place.target)):
        return Clock(tuple((*place.key, part) for part in parts), "s", path, _frame(root, ()))
    if isinstance(place.target, Number) and place.target.dtype.kind in "iuf":
        unit = unit_of(path, root.name, given)
        if unit:
            return Clock((place.key,), unit, path, _frame(root, ()))
        raise InputError(f"{where}: stamp {path!r} does not tell its unit; write '{path}:us' (or ns, ms, s)")
    raise InputError(
        f"{where}: stamp {path!r} is {describe(place.target)}; a time (seconds and nanoseconds) or a number is right"
    )


def exchange_zeros(stamps: np.ndarray, log_times: np.ndarray, clock: str) -> tuple[np.ndarray, str]:
    """Stamps where there are any, log times where they are zero: a clock that nobody had set yet. And a note of it."""
    zero = stamps == 0
    count = int(np.count_nonzero(zero))
    if not count:
        return stamps, ""
    if count == len(stamps):
        return log_times, f"{clock} stamps are zero throughout: log time"
    return np.where(zero, log_times, stamps), f"{count:,} of {len(stamps):,} {clock} stamps are zero: log time there"
