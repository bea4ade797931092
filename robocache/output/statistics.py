"""Per-column statistics that merge: count, min, max, mean and standard deviation exactly (float64), quantiles by a
deterministic digest that is exact while a column has at most ``DIGEST`` values.

Only valid rows count. Merging in shard order gives the same bytes however the shards were run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Points a digest keeps. Rank errors, as shares of the rows, after up to a hundred merges: below 1 / DIGEST, at 1 % and
#: 99 % below 0.001; up to 4 / DIGEST where a quantile falls beside a gap between values (few values, far peaks).
DIGEST = 128
QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


@dataclass(frozen=True)
class Statistics:
    """Of one feature: count, and for each of its D numbers min, max, mean, m2 (sum of squared deviations), float64
    ``[D]``; digest: values and weights, float64 ``[D, <= DIGEST]``, values ascending a row."""

    count: int
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    points: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Statistics:
        """Of float ``[n, D]``, n may be 0; rows with NaN must have been left out."""
        n, width = values.shape
        if n == 0:
            none = np.zeros((width, 0))
            return cls(0, np.full(width, np.inf), np.full(width, -np.inf), np.zeros(width), np.zeros(width), none, none)
        wide = np.sort(np.ascontiguousarray(values.T), axis=1).astype(np.float64)
        low, high = wide[:, 0].copy(), wide[:, -1].copy()
        starts = (
            np.arange(n) if n <= DIGEST else np.flatnonzero(np.diff(_cluster((np.arange(n) + 0.5) / n), prepend=-1))
        )
        weights = np.diff(starts, append=n).astype(np.float64)
        points = np.add.reduceat(wide, starts, axis=1) / weights
        mean = wide.mean(axis=1)
        wide -= mean[:, None]  # in place: fresh memory costs more than the arithmetic
        m2 = np.square(wide, out=wide).sum(axis=1)
        return cls(n, low, high, mean, m2, points, np.broadcast_to(weights, points.shape))

    @classmethod
    def merge(cls, parts: Iterable[Statistics]) -> Statistics:
        """Of all rows of the parts, in their order (Chan, Golub & LeVeque 1979 for the moments)."""
        total: Statistics | None = None
        for part in parts:
            if total is None or total.count == 0:
                total = part
            elif part.count:
                total = total._plus(part)
        if total is None:
            raise ValueError("no statistics to merge")
        return total

    @staticmethod
    def add(total: dict[str, Statistics], part: Mapping[str, Statistics]) -> None:
        """Merge a part's statistics, by column, into those of the parts before it."""
        for name, found in part.items():
            total[name] = Statistics.merge([total[name], found]) if name in total else found

    def _plus(self, other: Statistics) -> Statistics:
        n = self.count + other.count
        delta = other.mean - self.mean
        points = np.concatenate([self.points, other.points], axis=1)
        weights = np.concatenate([self.weights, other.weights], axis=1)
        order = np.argsort(points, axis=1, kind="stable")
        points, weights = np.take_along_axis(points, order, 1), np.take_along_axis(weights, order, 1)
        points, weights = _compress(points, weights)
        return Statistics(
            n,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
            self.mean + delta * (other.count / n),
            self.m2 + other.m2 + np.square(delta) * (self.count * other.count / n),
            points,
            weights,
        )

    def quantiles(self, q: Sequence[float] = QUANTILES) -> np.ndarray:
        """float64 ``[len(q), D]``, linear between the digest's points as numpy's default; NaN where count is 0."""
        out = np.full((len(q), len(self.mean)), np.nan)
        if self.count:
            # A point stands for its weight's ranks; its own rank is their middle. The outermost are min and max.
            upper = np.cumsum(self.weights, axis=1)
            ranks = upper - (self.weights + 1) / 2
            wanted = np.asarray(q) * (self.count - 1)
            for d, inner in enumerate((self.weights > 0) & (ranks > 0) & (ranks < self.count - 1)):
                r = np.concatenate([[0.0], ranks[d, inner], [self.count - 1.0]])
                p = np.concatenate([[self.min[d]], self.points[d, inner], [self.max[d]]])
                out[:, d] = np.interp(wanted, r, p)
        return out

    def summary(self) -> dict[str, object]:
        """JSON-ready, in LeRobot's names; NaN and infinities of an empty column become null."""
        std = np.sqrt(self.m2 / self.count) if self.count else np.full_like(self.mean, np.nan)
        mean = self.mean if self.count else np.full_like(self.mean, np.nan)
        named = {"min": self.min, "max": self.max, "mean": mean, "std": std}
        for q, row in zip(QUANTILES, self.quantiles(), strict=True):
            named[f"q{round(q * 100):02d}"] = row
        return {"count": self.count} | {
            key: [float(x) if np.isfinite(x) else None for x in row] for key, row in named.items()
        }


def _cluster(rank: np.ndarray) -> np.ndarray:
    """The cluster 0..DIGEST-1 of ranks in (0, 1). Finer towards the tails: the borders are even in the arcsine of the
    rank (the k1 scale of Dunning's t-digest, arXiv:1902.04023)."""
    return np.floor((np.arcsin(2 * rank - 1) / np.pi + 0.5) * DIGEST).astype(np.int64).clip(0, DIGEST - 1)


def _compress(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most DIGEST weighted means of neighbouring points."""
    if points.shape[1] <= DIGEST:
        return points, weights
    upper = np.cumsum(weights, axis=1)
    middle = (upper - weights / 2) / upper[:, -1:]
    rows = max(len(points), 1)
    cell = (np.arange(len(points))[:, None] * DIGEST + _cluster(middle)).ravel()
    mass = np.bincount(cell, weights.ravel(), rows * DIGEST).reshape(rows, DIGEST)
    moment = np.bincount(cell, (weights * points).ravel(), rows * DIGEST).reshape(rows, DIGEST)
    # Clusters that got nothing repeat their neighbour with no weight, so that the array stays a rectangle.
    filled = mass > 0
    source = np.maximum.accumulate(np.where(filled, np.arange(DIGEST), 0), axis=1)
    first = filled.argmax(axis=1)[:, None]
    source = np.maximum(source, first)
    mean = np.divide(moment, mass, out=np.zeros_like(moment), where=filled)
    return np.take_along_axis(mean, source, 1), mass


def to_bytes(statistics: dict[str, Statistics]) -> bytes:
    """For a part's metadata: JSON header, then the arrays, little-endian (points float32, weights uint32: rows)."""
    header, blobs = {}, []
    for name, s in statistics.items():
        header[name] = [s.count, len(s.mean), s.points.shape[1]]
        for array in (s.min, s.max, s.mean, s.m2):
            blobs.append(np.ascontiguousarray(array, "<f8").tobytes())
        blobs.append(np.ascontiguousarray(s.points, "<f4").tobytes())
        blobs.append(np.ascontiguousarray(s.weights, "<u4").tobytes())
    return json.dumps(header).encode() + b"\n" + b"".join(blobs)


def from_bytes(data: bytes) -> dict[str, Statistics]:
    """The reverse of :func:`to_bytes`."""
    head, _, body = data.partition(b"\n")
    out, at = {}, 0

    def take(dtype: str, *shape: int) -> np.ndarray:
        nonlocal at
        size = int(np.prod(shape))
        array = np.frombuffer(body, dtype, size, at).reshape(shape).astype(np.float64)
        at += array.size * np.dtype(dtype).itemsize
        return array

    for name, (count, width, points) in json.loads(head).items():
        low, high, mean, m2 = (take("<f8", width) for _ in range(4))
        out[name] = Statistics(count, low, high, mean, m2, take("<f4", width, points), take("<u4", width, points))
    return out
