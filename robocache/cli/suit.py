"""How a source is aligned, by what it is: its type, its clock, and what its values look like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from robocache.cli.candidates import Candidate
from robocache.config.job import FeatureSource
from robocache.engine.source_types import mode_of
from robocache.types import Stream, StreamType

if TYPE_CHECKING:
    from robocache.cli.inspect import StreamStatistics

#: Words of what is sent to a robot rather than measured of it: it holds until the next one.
_COMMAND = re.compile(
    r"(^|[_/.\[,])(cmd|command(s|ed)?|set_?points?|sp|goals?|targets?|desired|actions?|ctrl|controls|reference)"
    r"([_/.,\]]|$|(?=[A-Z]))"
)
_LATCHED = re.compile(r"tf_static|robot_description|CameraInfo|CameraCalibration|(^|/)map(_metadata)?$")
_QUATERNION = re.compile(r"(^|[_/.])(q|quat|quaternions?|orientations?|rotation)([_/.\[]|$)|quat", re.IGNORECASE)
_POSE = re.compile(r"pose", re.IGNORECASE)
#: Degrees of the earth need more digits than float32 has.
_GEODETIC = re.compile(r"(^|[_.\[,])(lat|lon|lng|latitude|longitude|altitude)([_.\],]|$)", re.IGNORECASE)
#: A stream that pauses before such a share of its samples comes when something changes.
_IRREGULAR = 0.1


@dataclass(frozen=True, slots=True)
class Suited:
    """A feature's keys, and a word on them. command: it was sent, not measured. reason: why it is left out."""

    mapping: Mapping[str, Any]
    note: str = ""
    command: bool = False
    reason: str = ""


def suit(
    candidate: Candidate,
    type: StreamType,
    clock: StreamStatistics,
    stream: Stream | None,
    *,
    kind: str,
    static: bool,
    optional: bool,
) -> Suited:
    """The keys of a feature of this source. ``kind``: the message type; ``stream``: its samples, where they were
    read."""
    mapping: dict[str, Any] = {"source": candidate.source}
    extra: dict[str, Any] = {"optional": True} if optional else {}
    note = ""
    mode = "previous" if candidate.whole else mode_of(FeatureSource(candidate.source), type)
    command = bool(_COMMAND.search(candidate.source))
    if static or _LATCHED.search(candidate.source) or _LATCHED.search(kind):
        return Suited(mapping | {"static": True} | extra, "holds throughout")
    if type.element == pa.float64() and _GEODETIC.search(candidate.source):
        extra["dtype"] = "float64"
    if command:
        extra["role"] = "action"
    if mode == "linear":
        special = _rotation(candidate.source, type, stream)
        if command:
            mode, note = "previous", "a command holds until the next"
        elif special:
            mode, order, note = special
            extra |= {"quaternion_order": order} if order != "xyzw" else {}
        elif clock.gaps > _IRREGULAR * clock.samples:
            mode, note = "previous", "comes when it changes"
    return Suited(mapping | {"align": mode} | extra, note, command)


def _rotation(source: str, type: StreamType, stream: Stream | None) -> tuple[str, str, str] | None:
    """``slerp`` or ``pose`` and the order, of numbers that are called so and are of unit length."""
    if stream is None or not isinstance(stream.values, np.ndarray) or type.shape not in ((4,), (7,)):
        return None
    pose = type.shape == (7,)
    if not (_POSE if pose else _QUATERNION).search(source) and not re.search(r"qx.*qw|qw.*qx", source):
        return None
    numbers = stream.values[:, 3:].astype(np.float64) if pose else stream.values.astype(np.float64)
    length = np.linalg.norm(numbers, axis=1)
    length = length[np.isfinite(length)]
    if not len(length) or np.mean(np.abs(length - 1) < 1e-2) < 0.99:
        return None
    names = list(map(str, type.about.get("names") or ()))[-4:]
    known = bool(names) and (names[0].lower().endswith("w") or names[-1].lower().endswith("w"))
    order = "wxyz" if known and names[0].lower().endswith("w") else "xyzw"
    return "pose" if pose else "slerp", order, "unit quaternions" + ("" if known else "; say quaternion_order")
