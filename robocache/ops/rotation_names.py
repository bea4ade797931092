"""The representations of a rotation: names, shapes, and what their numbers are called."""

from __future__ import annotations

import math

_SHAPES = {
    "quaternion_xyzw": (4,),
    "quaternion_wxyz": (4,),
    "matrix": (3, 3),
    "axis_angle": (3,),
    "rot6d": (6,),
    "rot6d_rows": (6,),
}
#: The kernels' number for Euler angles, which comes after those.
_EULER = len(_SHAPES)


#: What the columns of a pose are called.
POSE_COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")


def rotation_shape(name: str) -> tuple[int, ...]:
    """The shape of one rotation. ``ValueError`` where there is no such representation."""
    if name in _SHAPES:
        return _SHAPES[name]
    if name.startswith("euler_") and _axes(name.removeprefix("euler_")) is not None:
        return (3,)
    raise ValueError(
        f"no rotation is called {name!r}; use {', '.join(_SHAPES)}, euler_ and three axes, such as euler_xyz "
        "(fixed axes) or euler_XYZ (axes that turn along), neighbours differing"
    )


def rotation_width(name: str) -> int:
    """How many numbers one rotation has."""
    return math.prod(rotation_shape(name))


def rotation_code(name: str) -> int:
    """The number by which the kernels know a representation (kernels/bindings/action.cpp)."""
    if name in _SHAPES:
        return list(_SHAPES).index(name)
    axes = name.removeprefix("euler_")
    i, j, k = ("xyz".index(axis) for axis in axes.lower())
    return _EULER + (_EULER + 1) * (i + 3 * j + 9 * k + 27 * axes.isupper())


def width_of_code(code: int) -> int:
    """How many numbers a rotation has, by :func:`rotation_code`."""
    kind = code % (_EULER + 1)
    return 3 if kind == _EULER else math.prod(list(_SHAPES.values())[kind])


def rotation_columns(name: str) -> tuple[str, ...]:
    """What its numbers are called, flat. ``ValueError`` as :func:`rotation_shape`."""
    rotation_shape(name)
    if name.startswith("euler_"):
        return tuple(f"euler_{axis}{i}" for i, axis in enumerate(name.removeprefix("euler_")))
    entries = {
        "quaternion_xyzw": ("qx", "qy", "qz", "qw"),
        "quaternion_wxyz": ("qw", "qx", "qy", "qz"),
        "axis_angle": ("rx", "ry", "rz"),
        "matrix": tuple(f"r{i}{j}" for i in range(3) for j in range(3)),
        "rot6d": tuple(f"r{i}{j}" for j in range(2) for i in range(3)),
        "rot6d_rows": tuple(f"r{i}{j}" for i in range(2) for j in range(3)),
    }
    return entries[name]


def _axes(text: str) -> str | None:
    same_case = text.islower() or text.isupper()
    good = len(text) == 3 and same_case and set(text.lower()) <= set("xyz")
    return text if good and text[0] != text[1] and text[1] != text[2] else None
