"""What the tests of the voxel ops share: an independent answer in NumPy, clouds to ask about, readers of clouds.

The answer groups points by sorting and takes each voxel by itself: ``math.fsum``, ``min`` and ``max``, one by one.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from robocache.ops import _library

REDUCTIONS = ("occupancy", "count", "sum", "mean", "min", "max", "points")
needs_kernels = pytest.mark.skipif(
    not _library.has_kernel("voxelize_dense", torch.device("cpu")),
    reason=_library.reason() or "the compiled extension is older than the voxel operators",
)
UNIT = {"voxel_size": 0.25, "bounds": ((-1.0, -2.0, -0.5), (1.0, 1.0, 0.5))}  # 8 x 12 x 4 voxels


class Answer(NamedTuple):
    coordinates: np.ndarray  # [M, 3]
    cloud: np.ndarray  # [M]
    values: np.ndarray  # [M, ...]
    counts: np.ndarray  # [M]
    row: np.ndarray  # [N]
    dropped: np.ndarray  # [B]


def answer(
    points: np.ndarray,
    offsets: Sequence[int],
    *,
    voxel_size: float | Sequence[float],
    bounds: Sequence[Sequence[float]],
    features: np.ndarray | None = None,
    reduce: str = "occupancy",
    max_points: int = 32,
) -> Answer:
    """Voxels of the clouds ``points[offsets[b]:offsets[b + 1]]``, ordered as the sparse layout says."""
    features = points if features is None else features
    lower, upper = (np.asarray(x, np.float64) for x in bounds)
    size = np.broadcast_to(np.asarray(voxel_size, np.float64), 3)
    shape = np.ceil((upper - lower) / size - 1e-6).astype(np.int64)
    xyz = points[:, :3].astype(np.float64)
    with np.errstate(invalid="ignore"):
        inside = np.all((xyz >= lower) & (xyz < upper), axis=1)
    cloud = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    index = np.minimum(np.floor((xyz[inside] - lower) / size).astype(np.int64), shape - 1)
    kept = np.flatnonzero(inside)
    keys = np.column_stack([cloud[kept], index])
    order = np.lexsort((kept, keys[:, 3], keys[:, 2], keys[:, 1], keys[:, 0]))
    cuts = np.flatnonzero(np.any(np.diff(keys[order], axis=0), axis=1)) + 1
    groups = np.split(kept[order], cuts) if len(order) else []
    if reduce == "points":
        groups.sort(key=lambda group: group[0])
    row = np.full(len(points), -1, np.int64)
    for number, group in enumerate(groups):
        row[group] = number
    first = np.array([group[0] for group in groups], np.int64)
    values = [_reduced(features[group], reduce, max_points) for group in groups]
    width = features.shape[1]
    empty = {"points": (0, max_points, width), "occupancy": (0, 1), "count": (0, 1)}.get(reduce, (0, width))
    coordinates = np.minimum(np.floor((xyz[first] - lower) / size).astype(np.int64), shape - 1)
    return Answer(
        coordinates.reshape(-1, 3),
        cloud[first],
        np.stack(values) if values else np.zeros(empty, features.dtype),
        np.array([len(group) for group in groups], np.int64),
        row,
        np.bincount(cloud[~inside], minlength=len(offsets) - 1),
    )


def _reduced(features: np.ndarray, reduce: str, max_points: int) -> np.ndarray:
    if reduce == "occupancy":
        return np.ones(1, bool)
    if reduce == "count":
        return np.array([len(features)], np.int32)
    if reduce == "points":
        out = np.zeros((max_points, features.shape[1]), features.dtype)
        out[: len(features)] = features[:max_points]
        return out
    columns = [[float(v) for v in column] for column in features.T]
    return np.array([_number(column, reduce) for column in columns], np.float64).astype(features.dtype)


def _number(column: list[float], reduce: str) -> float:
    if any(map(math.isnan, column)):
        return math.nan
    if reduce in ("min", "max"):
        return {"min": min, "max": max}[reduce](column, key=lambda v: (v, math.copysign(1.0, v)))
    signs = {math.copysign(1.0, v) for v in column if math.isinf(v)}
    total = math.nan if len(signs) == 2 else signs.pop() * math.inf if signs else math.fsum(column)
    return total / len(column) if reduce == "mean" else total


def dense(found: Answer, batch: int, shape: Sequence[int], reduce: str) -> np.ndarray:
    """The same answer as a dense array."""
    out = np.zeros((batch, *shape, *found.values.shape[1:]), found.values.dtype)
    out[(found.cloud, *found.coordinates.T)] = found.values
    return out[..., 0] if reduce in ("occupancy", "count") else out


# ---- data -----------------------------------------------------------------------------------------------------------


def cloud(
    seed: int, lengths: Sequence[int], *, width: int = 3, dtype: torch.dtype = torch.float32, spread: float = 1.3
) -> tuple[Tensor, Tensor]:
    """Points about the bounds of UNIT, a few of them not finite or exactly on edges; and their offsets."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    points = random.normal(0, 10.0 ** random.integers(-3, 4, (total, width)))
    points[:, :3] = random.uniform(-spread, spread, (total, 3)) * (1.0, 2.0, 0.5)
    on_edges = random.random((total, 3)) < 0.1
    points[:, :3] = np.where(on_edges, np.round(points[:, :3] * 4) / 4, points[:, :3])
    for number in (math.nan, math.inf, -math.inf, 1e30):
        bad = random.random(total) < 0.02
        points[bad, random.integers(0, 3, bad.sum())] = number
    return torch.from_numpy(points).to(dtype), torch.tensor([0, *itertools.accumulate(lengths)])


def numpy_of(x: Tensor) -> np.ndarray:
    """bfloat16 has no NumPy dtype."""
    return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()


# ---- recorded clouds ------------------------------------------------------------------------------------------------


def read_pcd(path: Path) -> np.ndarray:
    """All fields of a PCD file as float64 columns, x, y, z first."""
    data = path.read_bytes()
    header, fields = {}, 0
    while "DATA" not in header:
        line, _, _ = data[fields:].partition(b"\n")
        fields += len(line) + 1
        key, *words = line.decode().split()
        header[key] = words
    kinds = {"F": "f", "U": "u", "I": "i"}
    dtype = np.dtype(
        [
            (name, f"<{kinds[kind]}{size}", (int(n),))
            for name, kind, size, n in zip(*(header[k] for k in ("FIELDS", "TYPE", "SIZE", "COUNT")), strict=True)
        ]
    )
    count, body = int(header["POINTS"][0]), data[fields:]
    if header["DATA"] == ["binary_compressed"]:
        packed, unpacked = struct.unpack_from("<II", body)
        body = _unpack_lzf(body[8 : 8 + packed], unpacked)
        columns, at = [], 0
        for name in dtype.names:
            columns.append(np.frombuffer(body, dtype[name].base, count, at))
            at += count * dtype[name].itemsize
        return np.column_stack([c.astype(np.float64) for c in columns])
    table = np.frombuffer(body, dtype, count)
    return np.column_stack([table[name].astype(np.float64) for name in dtype.names])


def _unpack_lzf(data: bytes, size: int) -> bytes:
    out, at = bytearray(), 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        start = len(out) - ((control & 31) << 8) - data[at] - 1
        at += 1
        length += 2
        piece = out[start : start + length]
        while len(piece) < length:  # a run that repeats itself
            piece += piece[: length - len(piece)]
        out += piece
    assert len(out) == size
    return bytes(out)


def read_las(path: Path) -> np.ndarray:
    """x, y, z of a LAS 1.2 file, float64."""
    data = path.read_bytes()
    (start,) = struct.unpack_from("<I", data, 96)
    length, count = struct.unpack_from("<HI", data, 105)
    scale, offset = np.array(struct.unpack_from("<6d", data, 131)).reshape(2, 3)
    rows = np.frombuffer(data, np.uint8, length * count, start).reshape(count, length)
    return rows[:, :12].copy().view("<i4") * scale + offset
