"""Statistics as LeRobot has them: of an episode exactly, of a dataset by merging ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from robocache.output.statistics import QUANTILES, Statistics

if TYPE_CHECKING:
    from robocache.output.lerobot.features import TreeFeature

KEYS = ("min", "max", "mean", "std", "count", *(f"q{round(q * 100):02d}" for q in QUANTILES))


def of_rows(values: np.ndarray, points: int) -> tuple[dict[str, np.ndarray], Statistics]:
    """Of one feature of one episode: by ``KEYS`` (quantiles are exact, linear between rows), and what merges.

    values: numbers or truth values ``[n, *shape]``, n may be 0; statistics are along the last axis, as LeRobot's are
    """
    last = values.shape[-1] if values.ndim > 1 else 1
    flat = values.reshape(-1, last)
    if flat.dtype.itemsize < 4 and flat.dtype.kind == "f":
        flat = flat.astype(np.float32)
    merging, quantiles = Statistics.exactly(flat, rows=len(values), points=points)
    if not len(flat):
        return summary(merging), merging
    none = merging.counts == 0
    std = np.sqrt(np.divide(merging.m2, merging.counts, out=np.zeros(last), where=~none))
    numbers = [np.where(none, np.nan, x) for x in (merging.min, merging.max, merging.mean, std)]
    return dict(zip(KEYS, [*numbers, np.array([merging.count]), *quantiles], strict=True)), merging


def summary(merged: Statistics) -> dict[str, np.ndarray]:
    """By ``KEYS``: float64 ``[D]`` (NaN where there is no finite number), ``count`` int64 ``[1]``."""
    found = merged.summary()
    numbers = {key: np.array([np.nan if x is None else x for x in _listed(found[key])], np.float64) for key in KEYS}
    return numbers | {"count": np.array([merged.count], np.int64)}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def arrow_type(feature: TreeFeature, key: str) -> pa.DataType:
    """Of a statistic in the table of episodes."""
    if key == "count":
        return pa.list_(pa.int64())
    kind = pa.float64()
    if key in ("min", "max") and feature.dtype == "bool":
        kind = pa.bool_()
    elif key in ("min", "max") and feature.dtype.startswith(("int", "uint")) and feature.dtype != "uint64":
        kind = pa.int64()
    return pa.list_(pa.list_(pa.list_(kind))) if feature.camera else pa.list_(kind)


def plain(feature: TreeFeature, found: Mapping[str, np.ndarray]) -> dict[str, list]:
    """For JSON and Arrow: whole numbers and truth values as such, images' per channel as ``[C, 1, 1]``."""
    out: dict[str, list] = {}
    for key, numbers in found.items():
        inner = arrow_type(feature, key)
        while pa.types.is_list(inner):
            inner = inner.value_type
        empty = not np.isfinite(numbers).all()
        kind = "float64" if pa.types.is_floating(inner) else "bool" if pa.types.is_boolean(inner) else "int64"
        listed = (np.nan_to_num(numbers) if empty and kind != "float64" else numbers).astype(kind).tolist()
        out[key] = [[[x]] for x in listed] if feature.camera and key != "count" else listed
    return out
