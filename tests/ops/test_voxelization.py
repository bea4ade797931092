"""Point clouds to voxels: every implementation against an independent NumPy answer, and what must not matter."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from marks import needs_cuda
from ops_oracles import assert_same_bits
from torch import Tensor
from voxel_oracles import (
    REDUCTIONS,
    UNIT,
    Answer,
    answer,
    cloud,
    dense,
    needs_kernels,
    numpy_of,
    read_las,
    read_pcd,
)

from robocache import voxelize
from robocache.ops import _voxel
from robocache.ops import voxelize as ops
from robocache.ops.grid import Grid
from robocache.ops.modes import REDUCTIONS as NAMES
from robocache.ops.reference import voxelize as reference
from robocache.ops.reference.exact_sum import exact_sums

GOLDEN = Path(__file__).parent / "golden_data" / "voxelization_fp32.pt"
LENGTHS = (700, 0, 1, 40, 2000)
each_reduction = pytest.mark.parametrize("reduce", REDUCTIONS)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=["reference", "public"])
def implementation(request, monkeypatch):
    """Everything is asked of the plain-torch twin and of what users get."""
    if request.param == "reference":
        monkeypatch.setattr(ops, "_call", lambda op, arguments: getattr(reference, op)(arguments))


def tensor(x: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)


def assert_sparse(found: ops.SparseVoxels, expected: Answer) -> None:
    batch = len(expected.dropped)
    assert_same_bits([found.coordinates], [tensor(expected.coordinates, torch.int32)])
    assert_same_bits([found.values], [tensor(expected.values, found.values.dtype)])
    assert_same_bits([found.counts], [tensor(expected.counts, torch.int32)])
    rows = np.bincount(expected.cloud, minlength=batch)
    assert found.offsets.tolist() == [0, *np.cumsum(rows)]
    assert torch.equal(found.point_to_voxel, torch.from_numpy(expected.row))
    assert found.dropped.tolist() == expected.dropped.tolist()


def check(points: Tensor, offsets: Tensor, reduce: str, features: Tensor | None = None, **options) -> None:
    """Sparse, and where there is such a thing dense, against NumPy."""
    options = {**UNIT, **options}
    most = {"max_points": options.pop("max_points", 32)}
    wanted = {"features": None if features is None else numpy_of(features), "reduce": reduce, **options, **most}
    expected = answer(numpy_of(points), offsets.tolist(), **wanted)
    found = voxelize(points, offsets=offsets, features=features, reduce=reduce, layout="sparse", **options, **most)
    assert_sparse(found, expected)
    if reduce != "points":
        grid = Grid.of(**options)
        full = voxelize(points, offsets=offsets, features=features, reduce=reduce, **options)
        wide = dense(expected, len(offsets) - 1, grid.shape, reduce)
        assert_same_bits([full.values], [tensor(wide, full.values.dtype)])
        assert full.dropped.tolist() == expected.dropped.tolist()


# ---- against NumPy --------------------------------------------------------------------------------------------------


@each_reduction
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_reduction_is_numpys(implementation, reduce, dtype):
    points, offsets = cloud(1, LENGTHS, width=5, dtype=dtype)
    check(points, offsets, reduce)


@each_reduction
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_features_of_their_own_dtype_and_width(implementation, reduce, dtype):
    points, offsets = cloud(2, LENGTHS)
    features = torch.randn(len(points), 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    features[::17, 2], features[5::31, 3], features[7::31, 3], features[::2, 4] = math.nan, math.inf, -math.inf, -0.0
    check(points, offsets, reduce, features.to(dtype))


@each_reduction
def test_rows_are_read_where_they_lie(implementation, reduce):
    """Rows of a wider table, every second one, and no copy of it."""
    points, offsets = cloud(3, LENGTHS, width=10)
    table = torch.full((2 * len(points), 12), math.nan)
    table[::2, :10] = points
    check(table[::2, :4], offsets, reduce)
    check(table[::2, :3], offsets, reduce, table[::2, 3:10])


@each_reduction
def test_dense_batches_are_clouds_of_one_length(implementation, reduce):
    points, _ = cloud(4, (300,) * 4, width=4)
    options = {**UNIT, "reduce": reduce, "layout": "sparse"}
    as_batch = voxelize(points.view(4, 300, 4), **options)
    assert_same_bits(as_batch, voxelize(points, offsets=torch.arange(5) * 300, **options))
    assert_same_bits(voxelize(points, **options), voxelize(points[None], **options))


@each_reduction
@pytest.mark.parametrize("lengths", [(), (0,), (0, 0, 0)], ids=str)
def test_nothing_gives_nothing(implementation, reduce, lengths):
    check(torch.zeros(0, 4), torch.tensor([0, *lengths]), reduce)


@each_reduction
def test_points_that_are_all_dropped(implementation, reduce):
    check(torch.full((50, 3), 7.0), torch.tensor([0, 20, 50]), reduce)


@pytest.mark.parametrize("most", [1, 2, 31, 33, 100])
def test_first_points_and_how_many(implementation, most):
    random = np.random.default_rng(5)
    points = torch.from_numpy(random.uniform(-0.5, 0.5, (3000, 4)))  # about 90 a voxel
    points[1000:1800, :3] = 0.1  # one voxel with very many
    check(points, torch.tensor([0, 3000]), "points", max_points=most)


@each_reduction
def test_one_voxel_holds_everything(implementation, reduce):
    points = torch.rand(20_000, 3) * 0.2
    check(points, torch.tensor([0, 20_000]), reduce)


@each_reduction
def test_map_coordinates_lose_nothing(implementation, reduce):
    """Voxels of 1 cm, a thousand kilometres from the origin."""
    random = np.random.default_rng(6)
    points = torch.from_numpy(random.uniform(0, 0.2, (4000, 3)) + np.array([1e6, -2e6, 500.0]))
    bounds = ((1e6, -2e6, 500.0), (1e6 + 0.2, -2e6 + 0.2, 500.2))
    check(points, torch.tensor([0, 4000]), reduce, voxel_size=0.01, bounds=bounds)


@each_reduction
def test_a_grid_too_large_for_a_table(implementation, reduce):
    """10^13 voxels: only the sparse layout can hold them."""
    points, offsets = cloud(7, (500, 300), spread=1.0)
    options = {"voxel_size": 1e-4, "bounds": ((-1, -2, -0.5), (1, 2, 0.5))}
    found = voxelize(points, offsets=offsets, reduce=reduce, layout="sparse", **options)
    assert_sparse(found, answer(points.numpy(), offsets.tolist(), reduce=reduce, **options))


def test_edges_are_half_open(implementation):
    options = {"voxel_size": 0.1, "bounds": ((0, 0, 0), (0.3, 0.3, 0.3)), "reduce": "count"}
    points = torch.zeros(5, 3, dtype=torch.float64)
    points[:, 0] = torch.tensor([0.0, 0.1, math.nextafter(0.3, 0), 0.3, -5e-324], dtype=torch.float64)
    found = voxelize(points, **options)
    assert found.values.shape == (1, 3, 3, 3)  # 0.3 / 0.1 is 2.9999999999999996
    assert found.values[0, :, 0, 0].tolist() == [1, 1, 1]
    assert found.dropped.tolist() == [2]


def test_a_last_voxel_reaches_beyond_the_bounds(implementation):
    points = torch.tensor([[0.95, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = voxelize(points, voxel_size=(0.3, 1, 1), bounds=((0, 0, 0), (1, 1, 1)), reduce="count")
    assert found.values.flatten().tolist() == [0, 0, 0, 1]
    assert found.dropped.tolist() == [1]


@pytest.mark.realdata
@each_reduction
@pytest.mark.parametrize(
    "name, options",
    [
        ("vlp16.pcd", {"voxel_size": 0.5, "bounds": ((-50, -50, -5), (50, 50, 5))}),
        pytest.param(
            "xt32.pcd",
            {"voxel_size": (0.4, 0.4, 0.2), "bounds": ((-40, -40, -3), (40, 40, 5))},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "kinect_sequence", {"voxel_size": 0.05, "bounds": ((-2, -2, 0), (2, 2, 4))}, marks=pytest.mark.slow
        ),
        ("simple.las", None),
    ],
)
def test_recorded_clouds(implementation, data_dir, reduce, name, options):
    path = data_dir / "clouds" / name
    if path.is_dir():
        frames = [read_pcd(p)[::7] for p in sorted(path.iterdir())]
        assert sum(np.isnan(f[:, 0]).sum() for f in frames) > 10_000
        points = torch.from_numpy(np.concatenate(frames)).float()
        offsets = torch.tensor([0, *itertools.accumulate(map(len, frames))])
    else:
        points = torch.from_numpy(read_las(path) if path.suffix == ".las" else read_pcd(path))
        points, offsets = (points if path.suffix == ".las" else points.float()), torch.tensor([0, len(points)])
    if options is None:  # a survey: feet in a map's frame
        low, high = points.amin(0).floor(), points.amax(0).ceil()
        options = {"voxel_size": 25.0, "bounds": (low.tolist(), high.tolist())}
    check(points, offsets, reduce, **options)


def test_golden_data(implementation):
    for case in torch.load(GOLDEN, weights_only=True).values():
        found = voxelize(case["points"], offsets=case["offsets"], features=case["features"], **case["options"])
        if case["options"]["layout"] == "dense":
            assert_same_bits(found, [case["values"], case["dropped"]])
        else:
            fields = ("coordinates", "values", "counts", "rows", "point_to_voxel", "dropped")
            assert_same_bits(found, [case[field] for field in fields])


# ---- sums -----------------------------------------------------------------------------------------------------------


SUMS = [
    [1e308, 1e308, -1e308],
    [1e308, 1e308],
    [1.0, 1e100, 1.0, -1e100],
    [5e-324, -1e300, 1e300],
    [2.0**53, 1.0, 2.0**-1074],
    [2.0**53, 1.0],
    [1.0, 2.0**-53, 2.0**-106],
    [-1.0, -(2.0**-53), 2.0**-200],
    [0.1] * 10,
    [-0.0, -0.0],
    [math.inf, 1.0],
    [math.inf, -math.inf],
    [math.nan, 1.0],
]


@pytest.mark.parametrize("addends", SUMS, ids=str)
def test_sums_are_exact_whatever_the_order(implementation, addends):
    try:
        expected = math.fsum(addends)
    except OverflowError:
        expected = 1e308 if len(addends) == 3 else math.inf
    except ValueError:
        expected = math.nan
    options = {"voxel_size": 1, "bounds": ((0, 0, 0), (1, 1, 1)), "reduce": "sum"}
    for order in itertools.islice(itertools.permutations(addends), 30):
        features = torch.tensor(order, dtype=torch.float64)[:, None]
        found = voxelize(torch.zeros(len(order), 3), features=features, **options).values.item()
        assert found == expected or (math.isnan(found) and math.isnan(expected)), order


def test_exact_sums_of_many():
    random = np.random.default_rng(8)
    x = random.normal(0, 1, 4000) * 10.0 ** random.integers(-300, 300, 4000)
    row = random.integers(0, 300, 4000)
    found = exact_sums(torch.from_numpy(x)[:, None], torch.from_numpy(row), 300)[:, 0]
    assert found.tolist() == [math.fsum(x[row == k]) for k in range(300)]


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_gradients_of_sum_and_mean(implementation, reduce, layout):
    points, offsets = cloud(9, (5, 0, 7), dtype=torch.float64)
    features = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    few = {"voxel_size": 1.0, "bounds": ((-1, -1, -1), (1, 1, 0))}  # gradcheck asks for a derivative of every voxel

    def values(x):
        return voxelize(points, offsets=offsets, features=x, reduce=reduce, layout=layout, **few).values

    assert torch.autograd.gradcheck(values, features)
    own = torch.rand(1, 20, 5, dtype=torch.float64, requires_grad=True)  # the points' own columns
    voxelize(own, reduce=reduce, layout=layout, **UNIT).values.sum().backward()
    assert own.grad.shape == own.shape and bool((own.grad != 0).any())


@pytest.mark.parametrize("reduce", [r for r in REDUCTIONS if r not in ("sum", "mean")])
def test_other_gradients_are_refused(implementation, reduce):
    points = torch.rand(10, 3)
    with pytest.raises(ValueError, match="no gradient"):
        voxelize(points.requires_grad_(), reduce=reduce, layout="sparse", **UNIT)
    with pytest.raises(ValueError, match="no gradient by where"):
        voxelize(points, features=torch.rand(10, 1), reduce="sum", **UNIT)
    with torch.no_grad():
        voxelize(points, reduce=reduce, layout="sparse", **UNIT)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reduce": "median"}, "use one of occupancy"),
        ({"layout": "coo"}, "use dense or sparse"),
        ({"reduce": "points"}, "use layout='sparse'"),
        ({"voxel_size": 0}, "above 0"),
        ({"voxel_size": (1, 2)}, "three numbers"),
        ({"voxel_size": math.nan}, "finite"),
        ({"bounds": ((0, 0, 0), (0, 1, 1))}, "rise along every axis"),
        ({"bounds": ((0, 0, 0),)}, "bounds must be"),
        ({"voxel_size": 1e-12}, "larger voxel_size"),
        ({"max_points": 0, "reduce": "points", "layout": "sparse"}, "1 or more"),
        ({"points": torch.zeros(5, 2)}, r"\[N, 3\+\]"),
        ({"points": torch.zeros(5, 3, dtype=torch.int32)}, "use float64"),
        ({"features": torch.zeros(4, 1)}, "a row a point"),
        ({"features": torch.zeros(5, 1, dtype=torch.int64)}, "use float64"),
        ({"offsets": torch.tensor([0, 4])}, "rise from 0 to 5"),
        ({"offsets": torch.tensor([0, 5, 3, 5])}, "rise from 0 to 5"),
        ({"offsets": torch.tensor([0, 5], dtype=torch.int32)}, "int64"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(implementation, change, message):
    arguments = {"points": torch.zeros(5, 3), **UNIT, **change}
    with pytest.raises(ValueError, match=message):
        voxelize(**arguments)


def test_arrays_are_taken_and_other_kinds_are_not():
    points = np.random.default_rng(10).uniform(-1, 1, (50, 3))
    assert_same_bits(voxelize(points, **UNIT), voxelize(torch.from_numpy(points), **UNIT))
    with pytest.raises(TypeError, match="points is list"):
        voxelize([[0, 0, 0]], **UNIT)


# ---- as torch sees it -----------------------------------------------------------------------------------------------


def operands(points: Tensor, offsets: Tensor, reduce: str) -> _voxel.Arguments:
    grid = Grid.of(**UNIT)
    return _voxel.Arguments(points, offsets, None, grid.box, grid.shape, (0, 8), NAMES.index(reduce), 4)


@needs_kernels
@each_reduction
def test_operators_keep_torchs_rules(reduce):
    arguments = operands(*cloud(11, LENGTHS), reduce)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.robocache.voxelize_sparse.default, arguments, test_utils=checks)
    torch.library.opcheck(torch.ops.robocache.voxel_cells.default, arguments, test_utils=checks)
    if reduce != "points":
        torch.library.opcheck(torch.ops.robocache.voxelize_dense.default, arguments, test_utils=checks)


@needs_kernels
def test_dense_voxels_compile_as_one_graph():
    points, offsets = cloud(12, (50, 60))

    def use(x):
        return voxelize(x, offsets=offsets, reduce="mean", **UNIT).values * 2

    compiled = torch.compile(use, fullgraph=True, backend="aot_eager")
    assert_same_bits([compiled(points)], [use(points)])


# ---- CUDA is the CPU ------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
@each_reduction
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_is_the_cpu(reduce, dtype):
    """Ten runs, and three orders of the clouds."""
    lengths = (4000, 0, 1, 9000, 300, 70_000)
    points, offsets = cloud(13, lengths, width=4, dtype=dtype)
    points[20_000:24_000, :3] = 0.1
    pieces = [points[a:b] for a, b in itertools.pairwise(offsets.tolist())]
    for order in (range(6), (5, 4, 3, 2, 1, 0), (3, 0, 5, 1, 4, 2)):
        x = torch.cat([pieces[k] for k in order])
        o = torch.tensor([0, *itertools.accumulate(len(pieces[k]) for k in order)])
        for layout in ("sparse", "dense") if reduce != "points" else ("sparse",):
            options = {**UNIT, "reduce": reduce, "layout": layout}
            expected = voxelize(x, offsets=o, **options)
            for _ in range(10):
                assert_same_bits(voxelize(x.cuda(), offsets=o.cuda(), **options), expected)


@pytest.mark.gpu
@needs_cuda
@each_reduction
def test_cuda_is_the_cpu_on_other_grids(reduce):
    """Too large for a table; cut into slabs; rows of a wider table; wide features of another dtype."""
    points, offsets = cloud(14, (5000, 200, 30_000), width=10, spread=1.0)
    huge = {"voxel_size": 1e-4, "bounds": ((-1, -2, -0.5), (1, 2, 0.5)), "reduce": reduce, "layout": "sparse"}
    device = {"points": points.cuda(), "offsets": offsets.cuda()}
    assert_same_bits(voxelize(**device, **huge), voxelize(points, offsets=offsets, **huge))
    options = {**UNIT, "reduce": reduce, "layout": "sparse", "max_points": 40}
    features = torch.randn(len(points), 19, dtype=torch.float64)
    for x, f in ((points[:, :4], None), (points[:, :3], points[:, 3:]), (points, features), (points, features.half())):
        expected = voxelize(x, offsets=offsets, features=f, **options)
        on_device = None if f is None else f.cuda()
        x = points.cuda()[:, : x.shape[1]]
        assert_same_bits(voxelize(x, offsets=device["offsets"], features=on_device, **options), expected)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("addends", SUMS, ids=str)
def test_cuda_sums_are_exact(addends):
    features = torch.tensor(addends, dtype=torch.float64)[:, None]
    options = {"voxel_size": 1, "bounds": ((0, 0, 0), (1, 1, 1)), "reduce": "sum"}
    points = torch.zeros(len(addends), 3)
    expected = voxelize(points, features=features, **options)
    assert_same_bits(voxelize(points.cuda(), features=features.cuda(), **options), expected)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("side", [64, 128, 160])
def test_cuda_occupancy_of_many_clouds(side, dtype):
    """Grids that fit into shared memory whole, in two pieces, and in none."""
    points, _ = cloud(16, (70 * 3000,), dtype=dtype, spread=1.0)
    points = points.view(70, 3000, 3)
    options = {"voxel_size": 2 / side, "bounds": ((-1, -1, -1), (1, 1, 1))}
    expected = voxelize(points, **options)
    for _ in range(3):
        assert_same_bits(voxelize(points.cuda(), **options), expected)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("reduce", ["occupancy", "count", "mean", "points"])
def test_cuda_holds_very_many_points_in_a_voxel(reduce):
    points = torch.rand(300_000, 3) * 0.2 * 10.0 ** torch.randint(-6, 1, (300_000, 3))
    options = {**UNIT, "reduce": reduce, "layout": "sparse"}
    assert_same_bits(voxelize(points.cuda(), **options), voxelize(points, **options))


@pytest.mark.gpu
@needs_cuda
def test_cuda_dense_runs_on_the_current_stream_and_in_a_graph():
    points, _ = cloud(15, (50_000,), width=3)
    x = points.cuda()
    expected = [voxelize(points, reduce=r, **UNIT) for r in ("occupancy", "count", "mean")]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        [voxelize(x, reduce=r, **UNIT) for r in ("occupancy", "count", "mean")]
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [voxelize(x, reduce=r, **UNIT) for r in ("occupancy", "count", "mean")]
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        for a, b in zip(found, expected, strict=True):
            assert_same_bits(a, b)
