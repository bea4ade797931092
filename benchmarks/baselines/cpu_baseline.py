"""Streams aligned on the CPU as one would with torch, numpy, SciPy or polars. align_cpu.py measures them.

Each takes streams as ``{name: (values float32 [B, S, D], stamps int64 [B, S])}``, targets int64 ``[B, T]``, and gives
float32 ``[B, T, sum D]`` (polars: a table of that shape). Values at targets inside all recordings.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import torch
from scipy.interpolate import interp1d
from scipy.spatial.transform import Rotation, Slerp

Streams = dict[str, tuple[np.ndarray, np.ndarray]]


def _width(streams: Streams) -> int:
    return sum(values.shape[-1] for values, _ in streams.values())


def with_torch(streams: Streams, targets: np.ndarray) -> np.ndarray:
    """One batched search, gather and lerp a stream."""
    goal = torch.from_numpy(targets)
    out = torch.empty((*targets.shape, _width(streams)), dtype=torch.float32)
    column = 0
    for values, times in ((torch.from_numpy(v), torch.from_numpy(t)) for v, t in streams.values()):
        width = values.shape[-1]
        after = torch.searchsorted(times, goal, right=True).clamp_(1, times.shape[1] - 1)
        before = after - 1
        left = times.gather(1, before)
        weight = (goal - left).float() / (times.gather(1, after) - left).float()
        low = values.gather(1, before.unsqueeze(-1).expand(-1, -1, width))
        high = values.gather(1, after.unsqueeze(-1).expand(-1, -1, width))
        torch.lerp(low, high, weight.unsqueeze(-1), out=out[..., column : column + width])
        column += width
    return out.numpy()


def with_numpy(streams: Streams, targets: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """``numpy.interp`` a column."""
    out = np.empty((*targets.shape, _width(streams)), np.float32)

    def episode(b: int) -> None:
        goal = (targets[b] - targets[b, 0]).astype(np.float64)
        column = 0
        for values, times in streams.values():
            x = (times[b] - targets[b, 0]).astype(np.float64)
            for d in range(values.shape[-1]):
                out[b, :, column] = np.interp(goal, x, values[b, :, d])
                column += 1

    list(pool.map(episode, range(len(targets))))
    return out


def with_scipy(streams: Streams, targets: np.ndarray, pool: ThreadPoolExecutor, slerp: bool) -> np.ndarray:
    """``interp1d`` of all columns of a stream, and ``Slerp`` for the quaternion."""
    out = np.empty((*targets.shape, _width(streams)), np.float32)

    def episode(b: int) -> None:
        goal = (targets[b] - targets[b, 0]).astype(np.float64)
        column = 0
        for name, (values, times) in streams.items():
            x, y = (times[b] - targets[b, 0]).astype(np.float64), values[b]
            if slerp and name == "pose":
                out[b, :, column + 3 : column + 7] = Slerp(x, Rotation.from_quat(y[:, 3:]))(goal).as_quat()
                y = y[:, :3]
            line = interp1d(x, y, axis=0, copy=False, assume_sorted=True)
            out[b, :, column : column + y.shape[1]] = line(goal)
            column += values.shape[-1]

    list(pool.map(episode, range(len(targets))))
    return out


def polars_input(streams: Streams, targets: np.ndarray) -> tuple[list[pl.DataFrame], pl.DataFrame]:
    def frame(times: np.ndarray, columns: dict[str, np.ndarray]) -> pl.DataFrame:
        episode = np.repeat(np.arange(times.shape[0], dtype=np.int32), times.shape[1])
        return pl.DataFrame({"episode": episode, "t": times.reshape(-1), **columns}).set_sorted("episode")

    tables = []
    for name, (values, times) in streams.items():
        flat = values.reshape(-1, values.shape[-1])
        tables.append(frame(times, {f"{name}{d}": np.ascontiguousarray(flat[:, d]) for d in range(flat.shape[1])}))
    return tables, frame(targets, {})


def with_polars(tables: list[pl.DataFrame], targets: pl.DataFrame) -> pl.DataFrame:
    """As-of joins to the samples before and after each target, then lerp in expressions; a lazy plan a stream."""
    plans = []
    for table in tables:
        names = [name for name in table.columns if name not in ("episode", "t")]
        right = table.lazy().with_columns(pl.col("t").alias("stamp"))
        asof = {"on": "t", "by": "episode", "check_sortedness": False}
        both = (
            targets.lazy()
            .join_asof(right, strategy="backward", **asof)
            .join_asof(right, strategy="forward", allow_exact_matches=False, suffix="_after", **asof)
        )
        left = pl.col("stamp")
        weight = ((pl.col("t") - left).cast(pl.Float32) / (pl.col("stamp_after") - left).cast(pl.Float32)).alias("w")
        lerp = [pl.col(n) + pl.col("w") * (pl.col(f"{n}_after") - pl.col(n)) for n in names]
        plans.append(both.with_columns(weight).select(lerp))
    return pl.concat(pl.collect_all(plans), how="horizontal")
