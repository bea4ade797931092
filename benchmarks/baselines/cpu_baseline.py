"""Streams aligned on the CPU as one would with torch, numpy, SciPy or polars. align_cpu.py measures them.

Each takes streams as ``{name: (values float32 [B, S, D], stamps int64 [B, S])}``, targets int64 ``[B, T]``, and gives
float32 ``[B, T, sum D]`` (polars: a table of that shape). Values at targets inside all recordings.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.interpolate import interp1d
from scipy.spatial.transform import Rotation, Slerp

try:
    import polars as pl
except ImportError:  # align_cpu.py leaves it out, and says so
    pl = None

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
    """One ``searchsorted`` a stream and episode, the two rows by ``take``, and a straight line between them."""
    out = np.empty((*targets.shape, _width(streams)), np.float32)

    def episode(b: int) -> None:
        column = 0
        for values, times in streams.values():
            t, width = times[b], values.shape[-1]
            after = np.searchsorted(t, targets[b], side="right").clip(1, len(t) - 1)
            before = after - 1
            left = t[before]
            weight = ((targets[b] - left) / (t[after] - left)).astype(np.float32)
            low, high = values[b].take(before, axis=0), values[b].take(after, axis=0)
            high -= low
            high *= weight[:, None]
            np.add(low, high, out=out[b, :, column : column + width])
            column += width

    list(pool.map(episode, range(len(targets))))
    return out


def with_numpy_interp(streams: Streams, targets: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """``numpy.interp`` a column: what many write, though it searches again for each."""
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


def bin_edges(targets: np.ndarray) -> np.ndarray:
    """``[B, T + 1]``: midway between neighbours, the outer ones mirrored; a stamp at an edge is the later bin's."""
    step = np.diff(targets, axis=1)
    inner = targets[:, :-1] + (step + 1) // 2
    first, last = targets[:, :1] - step[:, :1] // 2, targets[:, -1:] + (step[:, -1:] + 1) // 2
    return np.concatenate([first, inner, last], axis=1)


def mean_with_numpy(streams: Streams, targets: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """One ``searchsorted`` of the edges a stream and episode, then ``add.reduceat``; no bin may be empty."""
    out = np.empty((*targets.shape, _width(streams)), np.float32)
    edges = bin_edges(targets)

    def episode(b: int) -> None:
        column = 0
        for values, times in streams.values():
            width = values.shape[-1]
            at = np.searchsorted(times[b], edges[b])
            sums = np.add.reduceat(values[b][: at[-1]], at[:-1], axis=0)
            np.divide(sums, np.diff(at)[:, None], out=out[b, :, column : column + width], casting="same_kind")
            column += width

    list(pool.map(episode, range(len(targets))))
    return out


def mean_with_torch(streams: Streams, targets: np.ndarray) -> np.ndarray:
    """One batched search of the edges, then ``segment_reduce``; no bin may be empty."""
    edges = torch.from_numpy(bin_edges(targets))
    columns = []
    for values, times in ((torch.from_numpy(v), torch.from_numpy(t)) for v, t in streams.values()):
        batch, samples, width = values.shape
        at = torch.searchsorted(times, edges) + torch.arange(0, batch * samples, samples)[:, None]
        means = torch.segment_reduce(values.view(-1, width), "mean", offsets=at.view(-1), axis=0)
        columns.append(torch.cat([means, means[:1]]).view(batch, -1, width)[:, :-1])
    return torch.cat(columns, dim=-1).numpy()


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
