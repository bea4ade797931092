"""Statistics: moments against numpy, merging in any grouping, the digest's error in ranks, columns, files and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robocache.output.statistics import DIGEST, QUANTILES, WIDE, Statistics, decode, encode, of_column

DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "two far peaks": lambda rng, n: np.where(rng.random(n) < 0.5, 0, 1000) + rng.standard_normal(n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "few values": lambda rng, n: rng.integers(0, 5, n).astype(float),
    "constant": lambda rng, n: np.full(n, 3.25),
    "ascending": lambda rng, n: np.arange(n) / n,
}


def rank_error(values: np.ndarray, q: float, estimate: float) -> float:
    """How far, as a share of the rows, ``estimate`` lies from every value that may be called the q-quantile."""
    low, high = (values < estimate).mean(), (values <= estimate).mean()
    return max(low - q, q - high, 0.0)


def assert_moments(s: Statistics, values: np.ndarray) -> None:
    assert s.count == len(values)
    np.testing.assert_array_equal(s.min, values.min(axis=0))
    np.testing.assert_array_equal(s.max, values.max(axis=0))
    np.testing.assert_allclose(s.mean, values.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.sqrt(s.m2 / s.count), values.std(axis=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, DIGEST, DIGEST + 1, 500, 20_000])
def test_moments_are_exact(n):
    values = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32) * 5 + 100
    assert_moments(Statistics.of(values), values.astype(np.float64))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_merging_gives_the_moments_of_the_whole(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(rng.normal() * 10, 1 + rng.random(), (n, 2)) for n in sizes]
    merged = Statistics.merge(Statistics.of(p) for p in parts)
    whole = np.concatenate(parts)
    assert merged.count == len(whole)
    if len(whole):
        assert_moments(merged, whole)
        np.testing.assert_allclose(merged.weights.sum(axis=1), len(whole))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_merging_is_associative_within_tolerance(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (Statistics.of(rng.normal(rng.normal(), 1, (int(rng.integers(1, 3000)), 1))) for _ in range(3))
    left = Statistics.merge([Statistics.merge([a, b]), c])
    right = Statistics.merge([a, Statistics.merge([b, c])])
    np.testing.assert_allclose(left.mean, right.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(left.m2, right.m2, rtol=1e-9)
    spread = (left.max - left.min)[0]
    np.testing.assert_allclose(left.quantiles(), right.quantiles(), atol=0.05 * spread)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("parts", [1, 7, 100])
def test_quantiles_are_near_in_rank(name, parts):
    """Within 1 / DIGEST of all rows, 4 / DIGEST beside a gap, also after a hundred merges; far nearer in the tails."""
    limit = 4 / DIGEST if name in ("two far peaks", "few values") else 1 / DIGEST
    values = DISTRIBUTIONS[name](np.random.default_rng(1), 30_000)
    s = Statistics.merge(Statistics.of(p[:, None]) for p in np.array_split(values, parts))
    for q in np.linspace(0.01, 0.99, 99):
        assert rank_error(values, q, float(s.quantiles([q])[0, 0])) <= limit, (q, name)
    for q in (0.01, 0.99):
        assert rank_error(values, q, float(s.quantiles([q])[0, 0])) <= 1e-3, (q, name)
    assert s.quantiles([0.0, 1.0])[:, 0].tolist() == [values.min(), values.max()]


@pytest.mark.parametrize("n", [1, 2, 3, 50, DIGEST])
def test_quantiles_of_few_rows_are_exact(n):
    values = np.random.default_rng(n).standard_normal((n, 2))
    q = np.linspace(0, 1, 21)
    np.testing.assert_allclose(Statistics.of(values).quantiles(q), np.quantile(values, q, axis=0), atol=1e-12)


@pytest.mark.parametrize("n", [129, 200, 1000])
def test_quantiles_ascend_and_stay_within_the_values(n):
    """Clusters that got no value must not bend the curve."""
    values = np.sort(np.random.default_rng(n).standard_normal(n))
    found = Statistics.of(values[:, None]).quantiles(np.linspace(0, 1, 1001))[:, 0]
    assert (np.diff(found) >= 0).all()
    assert found[0] == values[0]
    assert found[-1] == values[-1]
    exact = np.quantile(values, np.linspace(0, 1, 1001))
    assert max(rank_error(values, q, v) for q, v in zip(np.linspace(0, 1, 1001), found, strict=True)) <= 2 / DIGEST
    assert np.abs(found - exact).mean() < 0.02


@pytest.mark.parametrize("n", [1, 100, 5000])
def test_a_file_and_back(n):
    rng = np.random.default_rng(n)
    columns = {
        "a": rng.standard_normal((n, 3)).astype(np.float32),
        "b": rng.integers(0, 2**40, n),
        "c": np.ones(n, bool),
    }
    columns["holes"] = np.where(rng.random((n, 2)) < 0.3, np.inf, 1.5)
    episodes = {i: {name: of_column(v + v.dtype.type(i), every(n)) for name, v in columns.items()} for i in (3, 7)}
    data = encode(episodes)
    each, together = decode(data)
    assert list(each) == [3, 7]
    for index, statistics in episodes.items():
        assert list(each[index]) == list(columns)
        for name, s in statistics.items():
            for field in ("count", "counts", "min", "max", "mean", "m2", "points", "weights"):
                np.testing.assert_array_equal(getattr(each[index][name], field), getattr(s, field), err_msg=name)
    assert encode(each) == data
    for name in columns:
        assert together[name].agrees(Statistics.merge([episodes[3][name], episodes[7][name]]))
        assert together[name].count == 2 * n


def test_a_file_of_episodes_without_a_valid_row():
    none = of_column(np.ones((5, 2)), np.zeros(5, bool))
    each, together = decode(encode({3: {"a": none}, 4: {"a": none}}))
    assert each[3]["a"].agrees(none) and together["a"].agrees(none)
    some = of_column(np.ones((5, 2)), every(5))
    assert decode(encode({3: {"a": none}, 4: {"a": some}}))[1]["a"].agrees(some)


def test_a_file_of_nothing():
    assert decode(encode({3: {}})) == ({}, {})
    with pytest.raises(ValueError, match="its columns are not"):
        decode(parquet({"x": [1]}))


def parquet(columns: dict) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def every(n: int) -> np.ndarray:
    return np.ones(n, bool)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 4), (2, 3, 4)])
def test_columns_of_numbers(dtype, shape):
    """Whatever the type, a number a statistic, of the valid rows; from numpy and from Arrow."""
    rng = np.random.default_rng(0)
    values = (rng.random((700, *shape)) * 200).astype(dtype) if dtype != np.bool_ else rng.random((700, *shape)) < 0.2
    valid = rng.random(700) < 0.6
    s = of_column(values, valid)
    flat = values[valid].reshape(valid.sum(), -1).astype(np.float64)
    assert_moments(s, flat)
    for d in range(flat.shape[1]):
        for q, found in zip(QUANTILES, s.quantiles()[:, d], strict=True):
            assert rank_error(flat[:, d], q, found) < 0.02
    array = pa.array(values.reshape(-1))
    for size in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    assert of_column(array, valid).agrees(s)
    assert of_column(pa.chunked_array([array[:300], array[300:]]), valid).agrees(s)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["text"] * 3),
        pa.array([b"jpeg"] * 3),
        pa.array([[1.0], [], [2.0]]),
        pa.array([{"bytes": b"x", "path": None}] * 3),
        pa.nulls(3),
        np.array(["a", "b", "c"]),
        np.zeros((3, 0)),
    ],
    ids=lambda c: str(getattr(c, "type", c.dtype if isinstance(c, np.ndarray) else "")),
)
def test_columns_without_numbers(column):
    assert of_column(column, every(3)) is None


def test_what_is_not_finite_does_not_count():
    values = np.random.default_rng(0).standard_normal((400, 3))
    values[:50, 0], values[::3, 1], values[:, 2] = np.nan, np.inf, -np.inf
    s = of_column(values, every(400))
    assert (s.count, s.counts.tolist()) == (400, [350, 400 - 134, 0])
    assert s.summary()["max"] == [values[50:, 0].max(), values[np.isfinite(values[:, 1]), 1].max(), None]
    merged = Statistics.merge([s, s, of_column(np.full((10, 3), 7.0), every(10))])
    assert merged.counts.tolist() == [710, 542, 10]
    np.testing.assert_allclose(merged.mean[0], (2 * values[50:, 0].sum() + 70) / 710)
    assert merged.summary()["q50"][2] == 7


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_have_statistics_a_channel(dtype):
    """They are estimates: of some rows and some pixels."""
    rng = np.random.default_rng(0)
    frames = (rng.random((250, 120, 160, 3)) * [50, 100, 250]).astype(dtype)
    frames[:, :, :, 1] += np.arange(120, dtype=dtype)[:, None]  # brighter towards the floor
    valid = rng.random(250) < 0.9
    s = of_column(frames, valid)
    assert s.count == valid.sum()
    channels = frames[valid].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(s.mean, channels.mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(np.sqrt(s.m2 / s.count), channels.std(axis=0), rtol=0.02)
    np.testing.assert_allclose(s.quantiles(), np.quantile(channels, QUANTILES, axis=0), rtol=0.05, atol=1.0)
    assert len(encode({0: {"image": s}})) < 20_000


@pytest.mark.parametrize(("shape", "width"), [((WIDE,), WIDE), ((WIDE + 1,), 1), ((500, 4), 4), ((40, 40), 1)])
def test_wide_columns_are_summed_up(shape, width):
    values = np.random.default_rng(0).standard_normal((150, *shape)).astype(np.float32)
    s = of_column(values, every(150))
    assert s.mean.shape == (width,)
    np.testing.assert_allclose(s.weights.sum(axis=1), 150)
    if width != WIDE:
        flat = values.reshape(-1, width).astype(np.float64)
        np.testing.assert_allclose(np.sqrt(s.m2 / s.count), flat.std(axis=0), rtol=0.02)


@pytest.mark.parametrize("rows", [20, 40, 300, 1500])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "exponential", "few values", "ascending"])
def test_quantiles_of_many_episodes(name, rows):
    """Their digests are small; merged by parts and then parts with parts they are still near in rank."""
    rng = np.random.default_rng(2)
    episodes = [DISTRIBUTIONS[name](rng, rows) + 0.02 * i for i in range(100)]
    found = [of_column(values, every(rows)) for values in episodes]
    total = Statistics.merge(found[:5])
    for at in range(5, 100, 5):
        total = Statistics.merge([total, Statistics.merge(found[at : at + 5])])
    values = np.concatenate(episodes)
    for q, estimate in zip(QUANTILES, total.quantiles()[:, 0], strict=True):
        assert rank_error(values, q, estimate) < 0.01, (q, name)


def test_nothing_is_nothing():
    empty, some = Statistics.of(np.zeros((0, 2))), Statistics.of(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert empty.summary()["mean"] == [None, None]
    assert np.isnan(empty.quantiles()).all()
    for order in ([empty, some], [some, empty], [empty, some, empty]):
        assert Statistics.merge(order).summary() == some.summary()
    assert Statistics.merge([empty, empty]).count == 0
    with pytest.raises(ValueError, match="no statistics"):
        Statistics.merge([])


def test_summary_has_lerobots_names():
    summary = Statistics.of(np.arange(101.0)[:, None]).summary()
    assert list(summary) == ["count", "min", "max", "mean", "std", *(f"q{round(q * 100):02d}" for q in QUANTILES)]
    assert (summary["count"], summary["min"], summary["q50"], summary["q99"]) == (101, [0.0], [50.0], [99.0])


def test_large_offsets_keep_their_spread():
    """Stamps as values: a standard deviation of 1 at 1e9."""
    values = 1e9 + np.random.default_rng(0).standard_normal((10_000, 1))
    s = Statistics.merge(Statistics.of(p) for p in np.array_split(values, 10))
    np.testing.assert_allclose(np.sqrt(s.m2 / s.count), values.std(axis=0), rtol=1e-6)
