"""Statistics of columns that merge: count, min, max, mean and standard deviation exactly (float64), quantiles by a
deterministic digest.

They are taken of each column of an episode as it is made, kept beside its part (:func:`encode`), and merged, which
gives the same bytes however the shards were run. Only valid rows count, and of these only finite numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.output.documents import unpacked

#: Points a merged digest keeps. Rank errors, as shares of the rows, after a hundred merges: below 1 / DIGEST, as a rule
#: below 0.002; up to 4 / DIGEST where a quantile falls beside a gap between values (few values, far peaks).
DIGEST = 128
#: An episode's digest keeps a point for so many rows, so that it stays small beside them, but never fewer than FEWEST.
ROWS_A_POINT, FEWEST = 8, 32
QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)

#: A column of more numbers than WIDE has statistics along its last axis where that is no longer than CHANNELS (the
#: channels of an image, the coordinates of points), else one for all of its numbers.
WIDE, CHANNELS = 256, 32
#: Numbers of some columns that are sorted, and looked at in float64, at the same time.
AT_ONCE = 1 << 22
#: Of a wide column, so many rows are looked at (n to the power of 0.75 within these bounds, as LeRobot does), evenly
#: spread, and of each row about so many of the positions before its last axis.
SAMPLED, POWER, POSITIONS = (100, 10_000), 0.75, 20_000


@dataclass(frozen=True)
class Statistics:
    """Of one column, for each of its D numbers (see ``WIDE``): float64 ``[D]``.

    count:  rows, and counts: how many of them each number was finite in
    m2:     sum of squared deviations from the mean
    points: the digest, float64 ``[D, <= DIGEST]``, ascending in each row; weights: rows that each point stands for
    """

    count: int
    counts: np.ndarray
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    points: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, *, rows: int | None = None, points: int = DIGEST) -> Statistics:
        """Of numbers or truth values ``[n, D]``, n may be 0. They stand for ``rows`` rows (default: n)."""
        return cls.exactly(values, rows=rows, points=points)[0]

    @classmethod
    def exactly(
        cls, values: np.ndarray, *, rows: int | None = None, points: int = DIGEST
    ) -> tuple[Statistics, np.ndarray]:
        """As :meth:`of`, and ``QUANTILES`` of just these values, float64 ``[len(QUANTILES), D]``, linear between them
        as numpy's default; NaN where none is finite. Both come of one sort.
        """
        n, width = values.shape
        rows = n if rows is None else rows
        finite = np.isfinite(values) if values.dtype.kind == "f" else None
        if finite is None or finite.all():
            some = max(1, AT_ONCE // max(1, n))
            pieces = (values[:, d : d + some] for d in range(0, max(1, width), some))
            quantiles, each = zip(*(_columns(np.ascontiguousarray(p.T), rows, points) for p in pieces), strict=True)
            return cls(rows, *map(np.concatenate, zip(*each, strict=True))), np.hstack(quantiles)
        kept = (values[finite[:, d], d] for d in range(width))
        quantiles, each = zip(*(_columns(k[None, :], len(k) * rows / n, points) for k in kept), strict=True)
        longest = max(found[-1].shape[1] for found in each)
        digests = [_padded(found[-2], found[-1], longest) for found in each]
        plain = zip(*(found[:-2] for found in each), strict=True)
        joined = cls(rows, *map(np.concatenate, plain), *map(np.concatenate, zip(*digests, strict=True)))
        return joined, np.hstack(quantiles)

    def agrees(self, other: Statistics) -> bool:
        """Same counts, and the same numbers but for their last bits, which are not the same on every machine."""
        if self.count != other.count or self.points.shape != other.points.shape:
            return False
        scale = np.abs(np.where(self.counts > 0, np.maximum(np.abs(self.min), np.abs(self.max)), 0.0))
        return (
            np.array_equal(self.counts, other.counts)
            and np.array_equal(self.min, other.min)
            and np.array_equal(self.max, other.max)
            and bool((np.abs(self.mean - other.mean) <= 1e-9 * scale).all())
            and bool((np.abs(self.m2 - other.m2) <= 1e-9 * scale * scale * self.counts).all())
            and bool((np.abs(self.points - other.points) <= 1e-6 * scale[:, None]).all())
            and np.allclose(self.weights, other.weights)
        )

    @classmethod
    def merge(cls, some: Iterable[Statistics]) -> Statistics:
        """Of all rows together. ``ValueError`` where there are none to merge."""
        found = list(some)
        parts = [s for s in found if s.count] or found[:1]
        if not parts:
            raise ValueError("no statistics to merge")
        if len(parts) == 1:
            return parts[0]
        counts = np.stack([s.counts for s in parts])
        total = counts.sum(axis=0)
        means = np.stack([s.mean for s in parts])
        mean = np.divide((counts * means).sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
        points = np.concatenate([s.points for s in parts], axis=1)
        weights = np.concatenate([np.broadcast_to(s.weights, s.points.shape) for s in parts], axis=1)
        order = np.argsort(points, axis=1, kind="stable")
        points, weights = _compress(np.take_along_axis(points, order, 1), np.take_along_axis(weights, order, 1))
        return cls(
            sum(s.count for s in parts),
            total,
            np.min([s.min for s in parts], axis=0),
            np.max([s.max for s in parts], axis=0),
            mean,
            np.sum([s.m2 for s in parts], axis=0) + (counts * np.square(means - mean)).sum(axis=0),
            points,
            weights,
        )

    def quantiles(self, q: Sequence[float] = QUANTILES) -> np.ndarray:
        """float64 ``[len(q), D]``, linear between the digest's points as numpy's default; NaN where there are none."""
        out = np.full((len(q), len(self.mean)), np.nan)
        # A point stands for its weight's ranks; its own rank is their middle. The outermost are min and max.
        upper = np.cumsum(self.weights, axis=1)
        ranks = upper - (self.weights + 1) / 2
        for d, last in enumerate(self.counts - 1):
            if last >= 0:
                inner = (self.weights[d] > 0) & (ranks[d] > 0) & (ranks[d] < last)
                r = np.concatenate([[0.0], ranks[d, inner], [last]])
                p = np.concatenate([[self.min[d]], self.points[d, inner], [self.max[d]]])
                out[:, d] = np.interp(np.asarray(q) * last, r, p)
        return out

    def summary(self) -> dict[str, object]:
        """JSON-ready, in LeRobot's names; null where a column has no finite number."""
        none = self.counts == 0
        std = np.sqrt(np.divide(self.m2, self.counts, out=np.zeros_like(self.m2), where=~none))
        named = {"min": self.min, "max": self.max, "mean": self.mean, "std": std}
        for q, row in zip(QUANTILES, self.quantiles(), strict=True):
            named[f"q{round(q * 100):02d}"] = row
        return {"count": self.count} | {
            key: [None if empty else float(x) for x, empty in zip(row, none, strict=True)] for key, row in named.items()
        }


def of_column(values: np.ndarray | pa.Array | pa.ChunkedArray, valid: np.ndarray) -> Statistics | None:
    """Of one column of one episode; None where it holds no numbers or truth values of one shape.

    values: ``[T, *shape]``, or Arrow's array of T; valid: bool ``[T]``, which of the rows count
    """
    table = _numbers(values)
    if table is None or table.size == 0:
        return None
    shape, width = table.shape[1:], table[0].size
    rows = int(np.count_nonzero(valid))
    points = int(np.clip(rows // ROWS_A_POINT, FEWEST, DIGEST))
    if width <= WIDE:
        flat = table.reshape(len(table), width)
        return Statistics.of(flat if rows == len(valid) else flat[valid], points=points)
    kept = np.flatnonzero(valid)
    looked_at = int(np.clip(rows**POWER, *SAMPLED))
    if rows > looked_at:
        kept = kept[np.round(np.linspace(0, rows - 1, looked_at)).astype(np.int64)]
    last = shape[-1] if shape[-1] <= CHANNELS else 1
    pixels = table.reshape(len(table), -1, last)
    step = -(-pixels.shape[1] // POSITIONS)
    return Statistics.of(pixels[kept, ::step].reshape(-1, last), rows=rows, points=points)


def _numbers(values: np.ndarray | pa.Array | pa.ChunkedArray) -> np.ndarray | None:
    """The column as ``[T, *shape]``, without a copy where it is one array of numbers; None where it holds none."""
    if isinstance(values, np.ndarray):
        return values if values.dtype.kind in "biuf" else None
    kind, shape = values.type, [len(values)]
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    while pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def _columns(columns: np.ndarray, rows: float, points: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Their quantiles; and counts, min, max, mean, m2, points and weights of ``[D, n]`` finite numbers that stand for
    ``rows`` rows.
    """
    width, n = columns.shape
    if n == 0:
        zero, none = np.zeros(width), np.zeros((width, 0))
        found = (zero, np.full(width, np.inf), np.full(width, -np.inf), zero, zero, none, none)
        return np.full((len(QUANTILES), width), np.nan), found
    below, above, share_above = _between(n)
    share = rows / n
    if columns.dtype in (np.uint8, np.bool_) and n > 256:  # sorting by counting
        most = 256 if columns.dtype == np.uint8 else 2
        seen = np.stack([np.bincount(column, minlength=most) for column in columns.astype(np.uint8, copy=False)])
        levels, has = np.arange(float(most)), seen > 0
        mean = (seen * levels).sum(axis=1) / n
        m2 = (seen * np.square(levels - mean[:, None])).sum(axis=1) * share
        digest = _spread(levels, seen, points)
        low, high = has.argmax(axis=1).astype(float), most - 1.0 - has[:, ::-1].argmax(axis=1)
        upper = np.cumsum(seen, axis=1)[None]
        first, second = ((upper <= ranks[:, None, None]).sum(axis=2).astype(float) for ranks in (below, above))
        quantiles = first + (second - first) * share_above[:, None]
        return quantiles, (np.full(width, float(rows)), low, high, mean, m2, digest[0], digest[1] * share)
    wide = np.sort(columns, axis=1).astype(np.float64)
    low, high = wide[:, 0].copy(), wide[:, -1].copy()
    first, second = wide[:, below].T, wide[:, above].T
    quantiles = first + (second - first) * share_above[:, None]
    starts, sizes = _clusters(n, points)
    weights = sizes * share
    middles = np.add.reduceat(wide, starts, axis=1) / sizes
    mean = wide.mean(axis=1)
    wide -= mean[:, None]  # in place: fresh memory costs more than the arithmetic
    m2 = np.square(wide, out=wide).sum(axis=1) * share
    if columns.dtype.itemsize < 4 or columns.dtype == np.float32:  # more digits would be none of the column's
        middles = middles.astype(np.float32).astype(np.float64)
    weights = np.broadcast_to(weights, middles.shape)
    return quantiles, (np.full(width, float(rows)), low, high, mean, m2, middles, weights)


def _between(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which of ``n`` numbers in their order each of ``QUANTILES`` lies, and how near the upper one."""
    at = np.array(QUANTILES) * (n - 1)
    below = np.floor(at).astype(np.int64)
    return below, np.minimum(below + 1, n - 1), at - below


def _spread(levels: np.ndarray, seen: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """The digest of levels ``[L]``, of which each column has so many, ``[D, L]``; a frequent level is many points."""
    edges = (np.sin(np.pi * (np.arange(points + 1) / points - 0.5)) + 1) / 2 * seen[0].sum()
    ranks, sums = (np.pad(np.cumsum(a, axis=1), ((0, 0), (1, 0))) for a in (seen, seen * levels))
    parts = np.stack([np.diff(np.interp(edges, r, s)) for r, s in zip(ranks, sums, strict=True)])
    weights = np.broadcast_to(np.diff(edges), parts.shape)
    return np.clip(parts / weights, levels[0], levels[-1]), weights


def _padded(points: np.ndarray, weights: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Digests with points of no weight up to ``length``."""
    extra = length - points.shape[1]
    last = points[:, -1:] if points.shape[1] else np.zeros((len(points), 1))
    return np.hstack([points, np.repeat(last, extra, axis=1)]), np.pad(weights, ((0, 0), (0, extra)))


def _cluster(rank: np.ndarray, points: int) -> np.ndarray:
    """The cluster 0..points-1 of ranks in (0, 1). Finer towards the tails: the borders are even in the arcsine of the
    rank (the k1 scale of Dunning's t-digest, arXiv:1902.04023)."""
    return np.floor((np.arcsin(2 * rank - 1) / np.pi + 0.5) * points).astype(np.int64).clip(0, points - 1)


@lru_cache(maxsize=256)  # episodes of one length, columns of one episode
def _clusters(n: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the clusters of ``n`` numbers in their order begin, and how many each holds."""
    starts = np.arange(n)
    if n > points:
        starts = np.flatnonzero(np.diff(_cluster((np.arange(n) + 0.5) / n, points), prepend=-1))
    return starts, np.diff(starts, append=n)


def _compress(points: np.ndarray, weights: np.ndarray, most: int = DIGEST) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` weighted means of neighbouring points."""
    if points.shape[1] <= most:
        return points, weights
    upper = np.cumsum(weights, axis=1)
    middle = np.divide(upper - weights / 2, upper[:, -1:], out=np.zeros_like(upper), where=upper[:, -1:] > 0)
    rows = max(len(points), 1)
    cell = (np.arange(len(points))[:, None] * most + _cluster(middle, most)).ravel()
    mass = np.bincount(cell, weights.ravel(), rows * most).reshape(rows, most)
    moment = np.bincount(cell, (weights * points).ravel(), rows * most).reshape(rows, most)
    # Clusters that got nothing repeat their neighbour with no weight, so that the array stays a rectangle.
    filled = mass > 0
    source = np.maximum.accumulate(np.where(filled, np.arange(most), 0), axis=1)
    first = filled.argmax(axis=1)[:, None]
    source = np.maximum(source, first)
    mean = np.divide(moment, mass, out=np.zeros_like(moment), where=filled)
    return np.take_along_axis(mean, source, 1), mass


def merged(some: Iterable[Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """Of each column together."""
    found: dict[str, list[Statistics]] = {}
    for columns in some:
        for name, s in columns.items():
            found.setdefault(name, []).append(s)
    return {name: Statistics.merge(each) for name, each in found.items()}


_SCHEMA = pa.schema(
    [("episode_index", pa.int64()), ("column", pa.string()), ("count", pa.int64())]
    + [(name, pa.list_(pa.float64())) for name in ("counts", "min", "max", "mean", "m2", "points", "weights")]
)


def encode(episodes: Mapping[int, Mapping[str, Statistics]]) -> pa.Buffer:
    """The file that is kept beside a part: Parquet with a row for each column of each of its episodes, by index, and
    then one for each column of all of them together, whose ``episode_index`` is null.

    ``points`` are the rows of the digest one after the other, ``weights`` as many, or one row for all where they are
    the same.
    """
    rows: list[tuple[int | None, str, Statistics]] = []
    for episode, of in episodes.items():
        rows += [(episode, name, s) for name, s in of.items()]
    rows += [(None, name, s) for name, s in merged(episodes.values()).items()]
    columns: dict[str, list] = {name: [] for name in _SCHEMA.names}
    for index, name, s in rows:
        same = len(s.weights) > 0 and (s.weights == s.weights[0]).all()
        columns["episode_index"].append(index)
        columns["column"].append(name)
        columns["count"].append(s.count)
        for key in ("counts", "min", "max", "mean", "m2", "points"):
            columns[key].append(getattr(s, key).ravel())
        columns["weights"].append(s.weights[0] if same else s.weights.ravel())
    sink = pa.BufferOutputStream()
    lists = [f"{name}.list.element" for name in ("points", "weights")]
    with pq.ParquetWriter(
        sink,
        _SCHEMA,
        compression="zstd",
        use_dictionary=["column"],
        use_byte_stream_split=lists,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(pa.table(columns, schema=_SCHEMA))
    return sink.getvalue()


def decode(data: bytes | pa.Buffer) -> tuple[dict[int, dict[str, Statistics]], dict[str, Statistics]]:
    """The reverse of :func:`encode`: of each episode, and of all together. ``ValueError`` where it is none."""
    table = _read(data)
    each: dict[int, dict[str, Statistics]] = {}
    together: dict[str, Statistics] = {}
    for episode, name, found in _rows(table):
        into = together if episode is None else each.setdefault(episode, {})
        into[name] = found
    return each, together


def together(data: bytes | pa.Buffer) -> dict[str, Statistics]:
    """As :func:`decode`, only of all episodes together."""
    return _together(_read(data))


def _together(table: pa.Table) -> dict[str, Statistics]:
    return {name: found for _, name, found in _rows(table.filter(table["episode_index"].is_null()))}


@dataclass(frozen=True)
class Moments:
    """Of a column in each of E episodes: their numbers ``[E]``; how many finite values each of D numbers had, and their
    least, largest, mean and standard deviation, float64 ``[E, D]``, NaN where there were none.
    """

    episodes: np.ndarray
    counts: np.ndarray
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def moments(data: bytes | pa.Buffer) -> tuple[dict[str, Moments], dict[str, Statistics]]:
    """As :func:`decode`, of each episode without the digest, all episodes of a column at once."""
    table = _read(data)
    single = table["episode_index"].is_valid().to_numpy()
    names = table["column"].combine_chunks().to_numpy(zero_copy_only=False)
    out: dict[str, Moments] = {}
    for name in dict.fromkeys(names.tolist()):
        mine = table.filter(pa.array((names == name) & single))
        if not mine.num_rows:
            continue
        counts, low, high, mean, m2 = (
            mine[key].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(mine.num_rows, -1)
            for key in ("counts", "min", "max", "mean", "m2")
        )
        there = counts > 0
        std = np.sqrt(np.divide(m2, counts, out=np.zeros_like(m2), where=there))
        episodes = mine["episode_index"].to_numpy()
        out[name] = Moments(episodes, counts, *(np.where(there, v, np.nan) for v in (low, high, mean, std)))
    return out, _together(table)


def _read(data: bytes | pa.Buffer) -> pa.Table:
    table = unpacked(pq.ParquetFile(pa.BufferReader(data)), len(data))
    if not table.schema.equals(_SCHEMA):
        raise ValueError(f"its columns are not {', '.join(_SCHEMA.names)}")
    return table


def _rows(table: pa.Table) -> Iterator[tuple[int | None, str, Statistics]]:
    keys = [table[name].to_pylist() for name in ("episode_index", "column", "count")]
    arrays = [table[name].combine_chunks() for name in _SCHEMA.names[3:]]
    for row, (episode, name, count) in enumerate(zip(*keys, strict=True)):
        counts, low, high, mean, m2, points, weights = (a[row].values.to_numpy() for a in arrays)
        points = points.reshape(len(counts), -1) if len(points) else np.zeros((len(counts), 0))
        weights = weights.reshape(-1, points.shape[1]) if points.size else points
        weights = np.broadcast_to(weights, points.shape)
        yield episode, name, Statistics(count, counts, low, high, mean, m2, points, weights)
