"""``convert``: grippers to 0..1, absolute actions to relative ones, rotations to what a learner takes; and back.

What a column's metadata says under ``convert`` (:attr:`Convert.type`) is all that :func:`absolute` needs to undo it,
beside the columns it names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from robocache.errors import InputError
from robocache.features.steps import Compute, Samples
from robocache.ops.rotation_names import POSE_COLUMNS, rotation_columns, rotation_shape
from robocache.types import StreamType, array_type

_QUATERNIONS = ("quaternion_xyzw", "quaternion_wxyz")


@dataclass(frozen=True, slots=True)
class Gripper:
    """A column that becomes 0 at its reading ``closed`` and 1 at its reading ``open``."""

    column: str
    closed: float
    open: float


@dataclass(frozen=True, slots=True)
class Convert:
    """In this order: grippers, signs of quaternions, deltas, rotations.

    delta:         see :func:`robocache.ops.actions.to_delta`; empty: none
    chunk:         of it, how many actions a row holds
    state:         the feature that deltas of kind state and chunk are seen from
    absolute:      columns that a delta leaves as they are, by name or number
    rotation:      what the rotations become; empty: they stay
    rotation_from: what they are
    continuous:    quaternions take the sign that is nearer to the row before
    gripper:       columns that are one
    """

    key: ClassVar[str] = "convert"
    picks: ClassVar[bool] = False

    delta: str = ""
    chunk: int | None = None
    state: str = ""
    absolute: tuple[str | int, ...] = ()
    rotation: str = ""
    rotation_from: str = "quaternion_xyzw"
    continuous: bool = False
    gripper: tuple[Gripper, ...] = ()

    @property
    def rows(self) -> bool:
        """Whether a row depends on others of its episode."""
        return bool(self.delta) or self.continuous

    @property
    def beside(self) -> str:
        """The feature that it needs, as written."""
        return self.state

    def type(self, given: StreamType) -> StreamType:
        """Columns of numbers; of deltas of kind chunk, ``chunk`` times as many."""
        if not given.numeric or len(given.shape) > 1:
            raise ValueError(f"convert: the source holds {given.arrow}, which is no list of numbers")
        width, names = given.width, [str(name) for name in given.about.get("names", ())]
        names = names if len(names) == width else [str(i) for i in range(width)]
        poses = _poses(given)
        turns = self._turns(given, poses) if self.rotation or self.continuous else []
        told: dict[str, Any] = {"names": names, "poses": poses}
        if self.gripper:
            places = _places([g.column for g in self.gripper], names, "gripper")
            told["gripper"] = [[at, g.closed, g.open] for at, g in zip(places, self.gripper, strict=True)]
        if self.delta and given.about.get("kind") == "quaternion":
            raise ValueError("convert.delta: the difference of quaternions is no rotation; use a source of poses")
        if self.delta:
            fixed = _places(self.absolute, names, "absolute")
            told |= {"delta": self.delta, "absolute": fixed}
            told |= {"chunk": self.chunk} if self.chunk else {}
            told |= {"state": self.state} if self.state else {}
            if split := [p for p in poses if 0 < len(set(range(p, p + 7)) & set(fixed)) < 7]:
                raise ValueError(f"convert.absolute: names a part of the pose at column {split[0]}; name all or none")
        if self.rotation:
            told |= {"rotation": self.rotation, "rotation_from": self.rotation_from, "turns": turns}
        about = {key: value for key, value in given.about.items() if key not in ("kind", "poses", "names", "units")}
        about |= {"names": self._named(names, turns), "convert": told}
        if len(given.about.get("units", ())) == width:
            about["units"] = self._units(list(given.about["units"]), turns)
        if not self.rotation and poses:
            about["poses"] = poses
        shape = (len(about["names"]),)
        return StreamType(array_type(np.dtype(np.float64), (self.chunk, *shape) if self.chunk else shape), about)

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """``[n, D]`` to ``[n, D']`` or ``[n, chunk, D']``, float64."""
        from robocache.ops import actions
        from robocache.ops.rotations import continuous_quaternions

        values = np.array(given.values, np.float64).reshape(len(given.valid), -1)
        about = self.type(StreamType(array_type(values.dtype, (values.shape[1],)), given.about)).about
        told = about["convert"]
        values[~given.valid] = np.nan
        for at, closed, opened in told.get("gripper", ()):
            values[:, at] = actions.normalize_gripper(values[:, at], closed, opened)
        if self.continuous:
            for at in told.get("turns") or self._turns(given, told["poses"]):
                values[:, at : at + 4] = continuous_quaternions(values[:, at : at + 4])
        starts = None
        if self.delta:
            base = given.beside if self.state else None
            if base is not None and base.shape != values.shape:
                raise InputError(
                    f"convert.state: {self.state} has {base.shape[1]} columns and the action {values.shape[1]}"
                )
            absolute = values
            values = actions.to_delta(
                absolute, self.delta, state=base, chunk=self.chunk, **_layout(told, values.shape[-1])
            )
            if self.delta == "step":
                starts = actions.chain_starts(values, absolute)
        if self.rotation:
            values = turned(values, told["turns"], self.rotation_from, self.rotation)
        valid = given.valid & np.isfinite(values).reshape(len(values), -1).all(axis=1)
        return replace(given, values=values, valid=valid, about=about, starts=starts)

    def _turns(self, given: StreamType | Samples, poses: Sequence[int]) -> list[int]:
        """The first column of each rotation."""
        if poses and self.rotation_from in _QUATERNIONS:
            if self.rotation_from == "quaternion_wxyz" and self.delta:
                raise ValueError("convert.rotation_from: poses are x y z qx qy qz qw; write quaternion_xyzw")
            return [p + 3 for p in poses]
        names, size = [str(n) for n in given.about.get("names", ())], _size(self.rotation_from)
        if isinstance(given, StreamType) and given.width == size:
            return [0]
        looked = list(rotation_columns(self.rotation_from)) if self.rotation_from in _QUATERNIONS else []
        found = [i for i in range(len(names)) if looked and [n.rsplit(".", 1)[-1] for n in names[i : i + 4]] == looked]
        if not found:
            raise ValueError(
                f"convert.rotation_from: nothing tells which columns are a {self.rotation_from}; give the rotation a "
                "feature of its own, or use a source of poses"
            )
        return found

    def _named(self, names: list[str], turns: Sequence[int]) -> list[str]:
        if not self.rotation:
            return names
        out: list[str] = []
        at = 0
        for first in turns:
            prefix = names[first].rpartition(".")[0]
            entries = rotation_columns(self.rotation)
            out += names[at:first] + [f"{prefix}.{e}" if prefix else e for e in entries]
            at = first + _size(self.rotation_from)
        return out + names[at:]

    def _units(self, units: list[str], turns: Sequence[int]) -> list[str]:
        if not self.rotation:
            return units
        size = _size(self.rotation)
        angle = "rad" if self.rotation == "axis_angle" or self.rotation.startswith("euler_") else ""
        out: list[str] = []
        at = 0
        for first in turns:
            out += units[at:first] + [angle] * size
            at = first + _size(self.rotation_from)
        return out + units[at:]


def absolute(
    values: np.ndarray,
    about: Mapping[str, Any],
    *,
    state: np.ndarray | None = None,
    starts: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
) -> np.ndarray:
    """What :class:`Convert` was given, float64 ``[N, D]``: the inverse of what a column's metadata says.

    values: as written, ``[N, D']`` or ``[N, chunk, D']``, NaN where not valid but of a chunk's first action
    about:  the column's ``convert``, which may be empty
    state:  what ``convert.state`` names, absolute; starts: the column ``.start``; offsets: int64 ``[B + 1]``, episodes
    """
    from robocache.ops import actions

    values = np.array(values, np.float64)
    if about.get("rotation"):
        source, target = about["rotation"], about["rotation_from"]
        values = turned(values, about["turns"], source, target, _size(source) - _size(target))
    if kind := about.get("delta"):
        base = starts if kind == "step" else state
        layout = _layout(about, values.shape[-1])
        values = actions.from_delta(values, kind, state=base, offsets=offsets, **layout)
    for at, closed, opened in about.get("gripper", ()):
        values[..., at] = actions.unnormalize_gripper(values[..., at], closed, opened)
    return values


def turned(values: np.ndarray, turns: Sequence[int], source: str, target: str, shift: int = 0) -> np.ndarray:
    """Columns ``[..., D]`` with each rotation in another representation. The k-th begins at column
    ``turns[k] + k * shift``.
    """
    from robocache.ops.rotations import convert_rotation

    lead, size, out, at = values.shape[:-1], _size(source), [], 0
    for k, first in enumerate(turns):
        first += k * shift
        block = values[..., first : first + size].reshape(*lead, *rotation_shape(source))
        out += [values[..., at:first], convert_rotation(block, source, target).reshape(*lead, _size(target))]
        at = first + size
    return np.concatenate([*out, values[..., at:]], axis=-1)


def _layout(told: Mapping[str, Any], width: int) -> dict[str, Any]:
    """What the operators take of a column's ``convert``."""
    fixed = set(told["absolute"])
    return {"mask": [i not in fixed for i in range(width)], "poses": told["poses"]}


def _size(name: str) -> int:
    return math.prod(rotation_shape(name))


def _poses(given: StreamType) -> list[int]:
    """The first column of each pose that the source is known to hold."""
    if "poses" in given.about:
        return list(given.about["poses"])
    if given.about.get("kind") == "pose" and given.width == len(POSE_COLUMNS):
        return [0]
    names = [str(name).rpartition(".")[2] for name in given.about.get("names", ())]
    return [i for i in range(len(names)) if tuple(names[i : i + len(POSE_COLUMNS)]) == POSE_COLUMNS]


def _places(wanted: Sequence[str | int], names: Sequence[str], key: str) -> list[int]:
    """Columns by name or number."""
    out = []
    for column in wanted:
        at = names.index(column) if column in names else column
        if isinstance(at, str) and at.isdecimal():
            at = int(at)
        if isinstance(at, str) or not 0 <= at < len(names):
            raise ValueError(f"convert.{key}: no column is called {column!r}; there are {', '.join(names)}")
        out.append(at)
    return sorted(set(out)) if key == "absolute" else out
