"""What must hold of any clouds: order, splitting and joining, moving by whole voxels, pieces within a memory limit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_oracles import assert_same_bits
from voxel_oracles import REDUCTIONS, UNIT, cloud

from robocache import estimate_voxel_memory, voxelize, voxelize_chunked

ORDERLESS = [r for r in REDUCTIONS if r != "points"]
LAYOUTS = [(r, layout) for r in REDUCTIONS for layout in ("sparse", "dense") if (r, layout) != ("points", "dense")]
seeds, lengths = st.integers(0, 10_000), st.lists(st.integers(0, 60), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, reduce=st.sampled_from(ORDERLESS), count=st.integers(0, 200))
def test_the_order_of_points_does_not_matter(seed, reduce, count):
    points, _ = cloud(seed, (count,), width=4)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    options = {**UNIT, "reduce": reduce, "layout": "sparse"}
    found, shuffled = voxelize(points, **options), voxelize(points[order], **options)
    assert_same_bits(shuffled[:4], found[:4])
    assert torch.equal(shuffled.point_to_voxel, found.point_to_voxel[order])


@settings(deadline=None, max_examples=40)
@given(seed=seeds, lengths=lengths, case=st.sampled_from(LAYOUTS))
def test_a_batch_is_its_clouds_one_by_one(seed, lengths, case):
    reduce, layout = case
    points, offsets = cloud(seed, lengths, width=4)
    options = {**UNIT, "reduce": reduce, "layout": layout, "max_points": 3}
    whole = voxelize(points, offsets=offsets, **options)
    for b, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
        alone = voxelize(points[begin:end], **options)
        if layout == "dense":
            assert_same_bits([alone.values[0], alone.dropped[0]], [whole.values[b], whole.dropped[b]])
            continue
        rows = slice(int(whole.offsets[b]), int(whole.offsets[b + 1]))
        assert_same_bits(alone[:3], [x[rows] for x in whole[:3]])
        row = whole.point_to_voxel[begin:end]
        assert torch.equal(alone.point_to_voxel, torch.where(row < 0, row, row - rows.start))


@settings(deadline=None, max_examples=30)
@given(seed=seeds, reduce=st.sampled_from(REDUCTIONS), move=st.tuples(*[st.integers(-20, 20)] * 3))
def test_moving_by_whole_voxels_moves_nothing_else(seed, reduce, move):
    """Voxels of a quarter and coordinates of 2^-10 are exact in float64, moved or not."""
    points, offsets = cloud(seed, (100, 50), dtype=torch.float64)
    points = (points * 1024).round() / 1024
    shift = np.array(move) * 0.25
    bounds = tuple((np.array(corner) + shift).tolist() for corner in UNIT["bounds"])
    features = torch.from_numpy(np.random.default_rng(seed).normal(size=(150, 2)))
    options = {"offsets": offsets, "features": features, "reduce": reduce, "layout": "sparse"}
    moved = voxelize(points + torch.from_numpy(shift), voxel_size=0.25, bounds=bounds, **options)
    assert_same_bits(moved, voxelize(points, **UNIT, **options))


@settings(deadline=None, max_examples=30)
@given(seed=seeds, lengths=lengths, case=st.sampled_from(LAYOUTS), limit=st.sampled_from([1e-9, 0.002, 0.02, 1.0]))
def test_pieces_give_the_same_bits(seed, lengths, case, limit):
    reduce, layout = case
    points, offsets = cloud(seed, lengths, width=4)
    options = {**UNIT, "offsets": offsets, "reduce": reduce, "layout": layout, "max_points": 3}
    assert_same_bits(voxelize_chunked(points, max_memory_mb=limit, **options), voxelize(points, **options))


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_dense_batches_in_pieces(layout):
    points, _ = cloud(1, (300,) * 6, width=4)
    points = points.view(6, 300, 4)
    features = torch.randn(6, 300, 2)
    options = {**UNIT, "features": features, "reduce": "mean", "layout": layout}
    assert_same_bits(voxelize_chunked(points, max_memory_mb=0.03, **options), voxelize(points, **options))


def test_out_of_memory_halves_the_pieces(monkeypatch, caplog):
    points, offsets = cloud(2, (4000, 3000, 10), width=4)
    options = {**UNIT, "offsets": offsets, "reduce": "mean", "layout": "sparse"}
    calls = []

    def small(arguments, layout):
        calls.append(arguments.slab)
        if len(arguments.points) > 4000 or arguments.slab[1] - arguments.slab[0] > 4:
            raise torch.OutOfMemoryError("no room")
        return real(arguments, layout)

    real = chunked_module().voxelize_slab
    monkeypatch.setattr(chunked_module(), "voxelize_slab", small)
    assert_same_bits(voxelize_chunked(points, **options), voxelize(points, **options))
    assert "out of memory" in caplog.text and len(calls) > 4

    def none(arguments, layout):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(chunked_module(), "voxelize_slab", none)
    with pytest.raises(torch.OutOfMemoryError):
        voxelize_chunked(points, **options)


def chunked_module():
    import importlib

    return importlib.import_module("robocache.ops.voxelize_chunked")


@pytest.mark.parametrize("reduce, layout", LAYOUTS)
def test_the_estimate_covers_the_result(reduce, layout):
    points, _ = cloud(3, (5000,), width=4)
    options = {**UNIT, "reduce": reduce, "layout": layout}
    estimate = estimate_voxel_memory(1, 5000, width=4, **options)
    found = voxelize(points, **options)
    assert estimate.input == points.nbytes
    assert estimate.output >= sum(x.nbytes for x in found) - 64
    assert estimate.total == estimate.input + estimate.output + estimate.work


@pytest.mark.slow
@pytest.mark.parametrize("count", [100_000, 1_000_000, 10_000_000])
def test_large_clouds_within_a_limit(count):
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(count)) * 40 - 20
    options = {"voxel_size": 0.2, "bounds": ((-20, -20, -3), (20, 20, 3)), "layout": "sparse", "reduce": "count"}
    assert_same_bits(voxelize_chunked(points, max_memory_mb=64, **options), voxelize(points, **options))
