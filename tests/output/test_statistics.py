"""Statistics: moments against numpy, merging in any grouping, the digest's error in ranks, bytes and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robocache.output.statistics import DIGEST, QUANTILES, Statistics, from_bytes, to_bytes

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


@pytest.mark.parametrize("n", [0, 1, 100, 5000])
def test_bytes_and_back(n):
    values = {
        "a": np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32),
        "b": np.ones((n, 1), np.float32),
    }
    before = {name: Statistics.of(v) for name, v in values.items()}
    after = from_bytes(to_bytes(before))
    assert list(after) == ["a", "b"]
    for name, s in before.items():
        assert after[name].count == s.count
        for field in ("min", "max", "mean", "m2", "weights"):
            np.testing.assert_array_equal(getattr(after[name], field), getattr(s, field))
        np.testing.assert_allclose(after[name].points, s.points, rtol=1e-6)
    assert to_bytes(after) == to_bytes(before)


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
