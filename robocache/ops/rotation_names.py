"""The representations of a rotation: names, shapes, and what their numbers are called."""

from __future__ import annotations

_SHAPES = {
    "quaternion_xyzw": (4,),
    "quaternion_wxyz": (4,),
    "matrix": (3, 3),
    "axis_angle": (3,),
    "rot6d": (6,),
    "rot6d_rows": (6,),
}


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
