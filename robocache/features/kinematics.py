"""``forward_kinematics``: positions of joints to where links of the robot are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from robocache.features.steps import Compute, Samples
from robocache.ops.rotation_names import POSE_COLUMNS, rotation_columns
from robocache.ops.urdf import Flat, parse_urdf
from robocache.types import StreamType, array_type

if TYPE_CHECKING:
    from robocache.ops.kinematics import KinematicChain

FORMS = ("pose", "matrix", "rot6d")
_PLACE = POSE_COLUMNS[:3]


@dataclass(frozen=True, slots=True)
class ForwardKinematics:
    """See :class:`robocache.ops.kinematics.KinematicChain`.

    urdf:   where it was read from; text: what it holds, which decides the output
    tip:    links; base: in whose frame, empty: the root's
    form:   of each tip: pose (x y z qx qy qz qw), matrix (16 numbers, row by row) or rot6d (x y z and two columns)
    joints: what the source's columns are called; empty: as the recording says
    keep:   columns that come behind the tips as they are (a gripper)
    """

    key: ClassVar[str] = "forward_kinematics"
    picks: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    beside: ClassVar[str] = ""

    urdf: str
    tip: tuple[str, ...]
    base: str = ""
    form: str = "pose"
    joints: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    text: str = ""

    @property
    def flat(self) -> Flat:
        """``ValueError`` where the URDF has no such chain."""
        return _flat(self.text, self.urdf, self.base, self.tip)

    def type(self, given: StreamType) -> StreamType:
        """The joints by their names, in whatever order, become frames of the tips."""
        columns, flat = self._columns(given), self.flat
        self._order(columns, flat)
        known = given.about.get("units") or [given.about.get("unit", "")] * len(columns)
        prefix = [f"{tip}." if len(self.tip) > 1 else "" for tip in self.tip]
        entries = {
            "pose": POSE_COLUMNS,
            "matrix": tuple(f"t{i}{j}" for i in range(4) for j in range(4)),
            "rot6d": (*_PLACE, *rotation_columns("rot6d")),
        }[self.form]
        about: dict[str, Any] = {
            "names": [p + name for p in prefix for name in entries] + list(self.keep),
            "units": ["m" if name in _PLACE or name in ("t03", "t13", "t23") else "" for name in entries] * len(prefix)
            + [known[columns.index(name)] for name in self.keep],
            "frame": self.base or flat.links[0],
            "kinematics": {
                "urdf": self.urdf,
                "sha256": hashlib.sha256(self.text.encode()).hexdigest(),
                "base": flat.links[0],
                "tip": list(self.tip),
                "joints": list(flat.joints),
            },
        }
        if self.form == "pose":
            about["poses"] = [len(POSE_COLUMNS) * k for k in range(len(self.tip))]
        return StreamType(array_type(np.dtype(np.float64), (len(about["names"]),)), about)

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """``[n, J]`` to ``[n, tips * form + keep]``, float64."""
        values = np.asarray(given.values, np.float64).reshape(len(given.valid), -1)
        kind = StreamType(array_type(values.dtype, (values.shape[1],)), given.about)
        chain = _chain(self.text, self.base, self.tip)
        order, kept = self._order(self._columns(kind), chain.flat)
        form = chain.forward(values[:, order], self.form).reshape(len(values), -1)
        made = np.concatenate([form, values[:, kept]], axis=1)
        valid = given.valid & np.isfinite(made).all(axis=1)
        return replace(given, values=made, valid=valid, about=self.type(kind).about)

    def _columns(self, given: StreamType) -> list[str]:
        if not (given.numeric or pa.types.is_boolean(given.element)) or len(given.shape) > 1:
            raise ValueError(f"forward_kinematics: the source holds {given.arrow}, which is no list of joint positions")
        names = list(self.joints or given.about.get("names", ()))
        if len(names) != given.width:
            told = f"joints names {len(names)} columns" if self.joints else "the recording does not name its columns"
            raise ValueError(f"forward_kinematics.joints: {told}; list the names of the {given.width} columns")
        return names

    def _order(self, columns: Sequence[str], flat: Flat) -> tuple[list[int], list[int]]:
        """Places of the chain's coordinates, and of the columns that are kept."""
        for key, wanted in (("joints", flat.joints), ("keep", self.keep)):
            if lacking := [name for name in wanted if name not in columns]:
                there = ", ".join(columns)
                raise ValueError(f"forward_kinematics.{key}: no column is called {', '.join(lacking)}; found {there}")
        return [list(columns).index(name) for name in flat.joints], [list(columns).index(name) for name in self.keep]


@cache
def _flat(text: str, name: str, base: str, tip: tuple[str, ...]) -> Flat:
    return parse_urdf(text.encode(), name).flat(base or None, tip)


@cache
def _chain(text: str, base: str, tip: tuple[str, ...]) -> KinematicChain:
    from robocache.ops.kinematics import KinematicChain

    return KinematicChain.from_urdf(text, base or None, tip)
