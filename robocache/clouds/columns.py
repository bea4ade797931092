"""A decoded cloud: its columns by name, and what is taken of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robocache.errors import MissingError

#: Colours of a packed field, by how far they are shifted in its four bytes.
_CHANNELS = {"r": 16, "g": 8, "b": 0, "a": 24}
_PACKED = ("rgb", "rgba")
_ONE = re.compile(r"(?P<name>.+)\[(?P<at>\d+)\]")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of every point: ``count`` numbers of ``dtype``, in native byte order."""

    name: str
    dtype: np.dtype
    count: int = 1

    def told(self) -> dict[str, Any]:
        """As a stream's ``about`` has it, see :meth:`of`."""
        return {"name": self.name, "type": self.dtype.name, "count": self.count}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Field:
        """What :meth:`told` gave."""
        return cls(told["name"], np.dtype(told["type"]), told["count"])

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name}" + (f"[{self.count}]" if self.count != 1 else "")


@dataclass(frozen=True)
class Cloud:
    """The columns of ``n`` points by name: ``[n]``, or ``[n, count]`` of a field of several numbers."""

    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def places(self) -> np.ndarray:
        """x, y, z as ``[n, 3]``: float32 where all three are, else float64. ``MissingError`` where one is not there."""
        parts = [self.column(axis) for axis in "xyz"]
        single = all(part.dtype == np.float32 for part in parts)
        return np.stack(parts, axis=1).astype(np.float32 if single else np.float64, copy=False)

    def column(self, name: str) -> np.ndarray:
        """One number a point, ``[n]``: a field, ``name[2]`` of a field of several, or ``r``, ``g``, ``b``, ``a`` of a
        packed colour. ``MissingError`` where there is none."""
        fields = [Field(n, c.dtype, c.shape[1] if c.ndim > 1 else 1) for n, c in self.columns.items()]
        if problem := field_problem(name, fields):
            raise MissingError(problem)
        if name in self.columns:
            return self.columns[name].reshape(len(self))
        if (one := _ONE.fullmatch(name)) and one["name"] in self.columns:
            return self.columns[one["name"]][:, int(one["at"])]
        packed = next(self.columns[p] for p in _PACKED if p in self.columns)
        return (np.ascontiguousarray(packed).view(np.uint32) >> _CHANNELS[name]) & 0xFF


def field_problem(name: str, fields: Sequence[Field]) -> str:
    """Why a cloud with these fields has no column ``name``; empty where it has."""
    known = {field.name: field for field in fields}
    found = known.get(name)
    if found is not None and found.count == 1:
        if name in _PACKED and found.dtype.itemsize == 4:
            return f"{name} is a packed colour, whose number means nothing; name r, g, b or a"
        return ""
    if found is not None:
        return f"{name} is {found.count} numbers a point; name one of them, as in {name}[0]"
    one = _ONE.fullmatch(name)
    if one and one["name"] in known and int(one["at"]) < known[one["name"]].count > 1:
        return ""
    packed = next((known[p] for p in _PACKED if p in known), None)
    if name in _CHANNELS and packed is not None and packed.dtype.itemsize == 4 and packed.count == 1:
        return ""
    return f"no field {name!r}; the cloud's fields are {', '.join(map(str, fields)) or 'none'}"
