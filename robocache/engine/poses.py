"""Where a cloud was taken: a stream of poses brought to the stamps of the clouds, not to those of the rows.

A row takes the cloud nearest to it, which may be tens of milliseconds old; what moves it into another frame is the pose
of its own instant.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robocache.engine.clean import selectable
from robocache.engine.prepare import Request
from robocache.features import Aligned
from robocache.ops.modes import WIDTHS
from robocache.types import as_rows

#: Aligns values ``[n, k]`` at times ``[n]`` of a mode to targets ``[T]``: values ``[T, k]`` float64, valid ``[T]``.
Align = Callable[[Request, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def poses_of(pose: Request, clouds: Request, align: Align) -> Aligned:
    """The pose at each recorded sample of a stream of clouds, x y z qx qy qz qw ``[n, 7]`` float64; NaN, and not valid,
    where there is none.
    """
    assert clouds.cleaned is not None
    stamps = clouds.cleaned.stream.times + clouds.source.offset
    found = np.full((len(stamps), WIDTHS["pose"]), np.nan)
    cleaned = pose.cleaned
    if cleaned is not None and len(cleaned.groups) == 1 and cleaned.groups[0].columns is None:
        (group,) = cleaned.groups
        values = group.values
        if values is None:
            values = as_rows(np.asarray(selectable(cleaned.stream.values)))
            values = values[group.recorded(slice(None))]
        values = _xyzw(values.astype(np.float64), pose.source.quaternion_order)
        if pose.source.static:
            found[:] = values[-1]
        else:
            targets, places = np.unique(stamps, return_inverse=True)
            there, valid = align(pose, values, group.times, targets)
            there[~valid] = np.nan
            found = there[places]
        norms = np.sqrt(np.square(found[:, 3:]).sum(axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, 3:] /= norms[:, None]
        found[~np.isfinite(found).all(axis=1)] = np.nan
    return Aligned(found, np.isfinite(found).all(axis=1))


def _xyzw(values: np.ndarray, order: str) -> np.ndarray:
    return values if order == "xyzw" else values[:, [0, 1, 2, 4, 5, 6, 3]]
