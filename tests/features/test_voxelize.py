"""Clouds of recordings to voxels in columns: against NumPy's answer, each cloud once, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cloud_kit as kit
import numpy as np
import pyarrow as pa
import pytest
from align_kit import aligned, make, settle, stream, texts
from config_kit import job, only_problem, problems
from marks import needs_cuda
from voxel_oracles import answer, dense

from robocache.clouds import MESSAGE
from robocache.config.job import Feature, FeatureSource
from robocache.config.load import load_job
from robocache.config.resolved import resolved_yaml
from robocache.engine.align import Aligner
from robocache.errors import ConfigError, InputError
from robocache.features import voxelize
from robocache.features.depth import Depth
from robocache.features.voxelize import Voxelize
from robocache.types import Episode, Stream

SIZE, BOUNDS = 0.25, ((-1.0, -1.0, -0.5), (1.0, 0.5, 1.0))
SHAPE = (8, 6, 6)


def clouds(times_ms, count: int = 200, big: bool = False) -> tuple[Stream, list[dict[str, np.ndarray]]]:
    columns = [kit.points(count, i) for i in range(len(times_ms))]
    columns[0]["x"][:7] = np.nan
    values = pa.array([kit.layout(c, big=big) for c in columns], MESSAGE)
    about = {"kind": "cloud", "fields": kit.fields(), "frame": "lidar"}
    return stream(times_ms, values, about=about), columns


def feature(name: str, **options) -> Feature:
    dtype = options.pop("dtype", "auto")
    step = Voxelize((SIZE,) * 3, BOUNDS, **options, dtype="float64" if dtype == "float64" else "float32")
    return Feature(name, (FeatureSource("cloud"),), dtype, steps=(step,))


def expected(columns: dict[str, np.ndarray], reduce: str, names=("x", "y", "z"), dtype=np.float32, **options):
    points = np.stack([columns[a] for a in "xyz"], axis=1)
    features = np.stack([columns[n].astype(dtype) for n in names], axis=1)
    box = {"voxel_size": SIZE, "bounds": BOUNDS}
    return answer(points, [0, len(points)], features=features, reduce=reduce, **box, **options)


@pytest.mark.parametrize("big", [False, True])
def test_dense_columns(monkeypatch, big):
    source, columns = clouds([0, 20, 40], big=big)
    features = {
        "occupied": feature("occupied"),
        "grey": feature("grey", dtype="uint8"),
        "count": feature("count", reduce="count"),
        "mean": feature("mean", reduce="mean", features=("intensity", "t")),
        "highest": feature("highest", reduce="max", features=("z",), dtype="float64"),
    }
    found = aligned(monkeypatch, features, {"cloud": source})
    table = found.table
    assert table.schema.field("occupied").type == pa.list_(pa.list_(pa.list_(pa.bool_(), 6), 6), 8)
    assert table.schema.field("mean").type == pa.list_(pa.list_(pa.list_(pa.list_(pa.float32(), 2), 6), 6), 8)
    assert b'"reduce": "mean"' in table.schema.field("mean").metadata[b"voxels"]
    assert table.schema.field("mean").metadata[b"names"] == b'["intensity", "t"]'
    for i, cloud in enumerate(columns):
        occupied = dense(expected(cloud, "occupancy"), 1, SHAPE, "occupancy")[0]
        np.testing.assert_array_equal(np.array(table["occupied"][i].as_py()), occupied)
        np.testing.assert_array_equal(np.array(table["grey"][i].as_py()), occupied.astype(np.uint8))
        np.testing.assert_array_equal(
            np.array(table["count"][i].as_py()), dense(expected(cloud, "count"), 1, SHAPE, "count")[0]
        )
        mean = dense(expected(cloud, "mean", ("intensity", "t")), 1, SHAPE, "mean")[0]
        assert np.array(table["mean"][i].as_py(), np.float32).tobytes() == mean.tobytes()
        highest = dense(expected(cloud, "max", ("z",), np.float64), 1, SHAPE, "max")[0]
        np.testing.assert_array_equal(np.array(table["highest"][i].as_py()), highest)
    assert table["occupied.valid"].to_pylist() == [True] * 3
    (said,) = texts(found, "points")[:1]
    outside = sum(len(c["x"]) - expected(c, "count").counts.sum() for c in columns)
    assert said == (
        f"occupied: {outside} of 600 points ({outside / 600:.1%}) are in no voxel: {outside - 7} lie outside of the "
        "bounds, 7 are not finite"
    )


def test_sparse_columns(monkeypatch):
    source, columns = clouds([0, 20, 40])
    features = {
        "occupied": feature("occupied", layout="sparse"),
        "sum": feature("sum", layout="sparse", reduce="sum", features=("intensity",), dtype="float64"),
        "points": feature("points", layout="sparse", reduce="points", max_points=3),
    }
    table = aligned(monkeypatch, features, {"cloud": source}).table
    assert [f.name for f in table.schema.field("occupied").type] == ["coordinates"]
    for i, cloud in enumerate(columns):
        for name, names, dtype, more in (
            ("occupied", "xyz", np.float32, {}),
            ("sum", ("intensity",), np.float64, {}),
            ("points", "xyz", np.float32, {"max_points": 3}),
        ):
            wanted = expected(cloud, "occupancy" if name == "occupied" else name, names, dtype, **more)
            row = table[name][i].as_py()
            np.testing.assert_array_equal(np.array(row["coordinates"]), wanted.coordinates)
            if name != "occupied":
                np.testing.assert_array_equal(np.array(row["values"], dtype), wanted.values)
            if name == "points":
                assert row["counts"] == wanted.counts.tolist()


def test_each_cloud_once_and_only_those_that_rows_pick(monkeypatch):
    """Rows every 20 ms: the cloud at 3 ms is no row's nearest, that at 25 ms is the nearest of three."""
    source, columns = clouds([0, 3, 25, 100])
    decoded = []
    decode = voxelize.decode_cloud
    monkeypatch.setattr(voxelize, "decode_cloud", lambda p, a: decoded.append(p["data"].as_py()) or decode(p, a))
    found = aligned(monkeypatch, {"count": feature("count", reduce="count")}, {"cloud": source})
    assert decoded == [kit.layout(columns[i])["data"] for i in (0, 2, 3)]
    rows = [np.array(row) for row in found.table["count"].to_pylist()]
    wanted = [dense(expected(c, "count"), 1, SHAPE, "count")[0] for c in columns]
    for row, i in zip(rows, (0, 2, 2, 2, 3, 3), strict=True):
        np.testing.assert_array_equal(row, wanted[i])


def test_rows_without_a_cloud(monkeypatch):
    source, _ = clouds([0, 20, 100])
    near = {"cloud": FeatureSource("cloud", max_gap=5_000_000)}
    features = {
        name: Feature(name, (near["cloud"],), steps=(Voxelize((SIZE,) * 3, BOUNDS, layout=name),))
        for name in ("dense", "sparse")
    }
    table = aligned(monkeypatch, features, {"cloud": source}).table
    assert (
        table["dense.valid"].to_pylist() == table["sparse.valid"].to_pylist() == [True, True, False, False, False, True]
    )
    assert not np.array(table["dense"][2].as_py()).any()
    assert table["sparse"][2].as_py() is None
    assert table["sparse"].null_count == 3


def test_a_recording_without_the_clouds_that_it_may_lack(monkeypatch):
    source, _ = clouds([0, 20, 40])
    depth = stream([0, 20, 40], np.ones((3, 4, 5), np.uint16))
    other = stream([0, 20, 40])
    may, pose = FeatureSource("cloud", optional=True), FeatureSource("p", optional=True)
    grid = Voxelize((SIZE,) * 3, BOUNDS)
    features = {
        "other": [FeatureSource("q")],
        "dense": Feature("dense", (may,), steps=(grid,)),
        "sparse": Feature("sparse", (may,), steps=(replace(grid, layout="sparse"),), pose=pose),
        "depth": Feature("depth", (FeatureSource("depth", optional=True),), steps=(Depth(1, 1, 1, 1), grid)),
    }
    poses = stream([0, 20, 40], np.tile([0.0, 0, 0, 0, 0, 0, 1], (3, 1)))
    first = {"cloud": source, "depth": depth, "q": other, "p": poses}
    table = aligned(monkeypatch, features, {"q": other}, first=first).table
    for name in ("dense", "sparse", "depth"):
        assert table[f"{name}.valid"].to_pylist() == [False] * 3
    assert not np.array(table["dense"].to_pylist()).any()
    assert not np.array(table["depth"].to_pylist()).any()
    assert table["sparse"].to_pylist() == [None] * 3


def test_pieces_change_no_byte(monkeypatch):
    source, _ = clouds([0, 20, 40, 60], count=3000)
    features = {
        "dense": feature("dense", reduce="mean"),
        "sparse": feature("sparse", reduce="points", layout="sparse"),
    }
    whole = aligned(monkeypatch, features, {"cloud": source}).table
    small = voxelize.Compute(max_memory_mb=0)
    monkeypatch.setattr("robocache.engine.align.Compute", lambda *_: small)
    assert aligned(monkeypatch, features, {"cloud": source}).table.equals(whole)


@pytest.mark.gpu
@needs_cuda
def test_a_card_writes_the_same(monkeypatch):
    source, _ = clouds([0, 20, 40], count=5000)
    features = {
        "occupied": feature("occupied"),
        "mean": feature("mean", reduce="mean", features=("intensity", "t")),
        "points": feature("points", reduce="points", layout="sparse", max_points=4),
        "sum": feature("sum", reduce="sum", layout="sparse", dtype="float64"),
        "tsdf": feature("tsdf", reduce="tsdf", truncation=0.5),
    }
    made = make(features)
    types = settle(monkeypatch, made, Episode("e", {"cloud": source}))
    one, other = (Aligner(made, types, d).align({0: Episode("e", {"cloud": source})})[0] for d in ("cpu", "cuda"))
    assert one.table.equals(other.table)


def test_distances_to_a_wall(monkeypatch):
    """A wall at x = 0.6, seen from the origin straight ahead: the distance falls by a voxel from voxel to voxel."""
    y, z = (a.ravel() for a in np.meshgrid(np.linspace(-0.1, 0.1, 40), np.linspace(-0.1, 0.1, 40)))
    wall = {"x": np.full(1600, 0.6), "y": y, "z": z}
    columns = {k: v.astype(np.float32) for k, v in wall.items()} | {
        "intensity": np.zeros(1600, np.uint16),
        "t": np.zeros(1600),
    }
    values = pa.array([kit.layout(columns)] * 2, MESSAGE)
    source = stream([0, 20], values, about={"kind": "cloud", "fields": kit.fields()})
    step = Voxelize((0.1,) * 3, ((0.0, -0.05, -0.05), (1.0, 0.05, 0.05)), reduce="tsdf", truncation=0.3)
    wanted = Feature("tsdf", (FeatureSource("cloud"),), steps=(step,))
    row = np.array(aligned(monkeypatch, {"tsdf": wanted}, {"cloud": source}).table["tsdf"][0].as_py())
    centres = np.arange(10) * 0.1 + 0.05
    seen = row[:, 0, 0, 1] > 0
    assert seen.tolist() == (np.abs(0.6 - centres) < 0.3).tolist()
    np.testing.assert_allclose(row[seen, 0, 0, 0], (0.6 - centres)[seen], atol=0.01)


def test_a_damaged_cloud_is_named(monkeypatch):
    source, columns = clouds([0, 20])
    bad = pa.array([kit.layout(columns[0]), {**kit.layout(columns[1]), "width": 999}], MESSAGE)
    broken = Stream(source.times, bad, source.about)
    with pytest.raises(InputError, match=r"cloud 2 of 2: 1 x 999 points of 25 bytes take 24975 bytes"):
        aligned(monkeypatch, {"c": feature("c")}, {"cloud": broken}, first={"cloud": source})


@pytest.mark.parametrize(
    "step, about, said",
    [
        (
            {"features": ("ring",), "reduce": "max"},
            {},
            "features.c.voxelize.features: no field 'ring'; the cloud's fields",
        ),
        ({}, {"fields": kit.fields()[:2]}, "features.c.voxelize: no field 'z'"),
        ({}, {"kind": "image"}, "features.c.voxelize: the source holds struct<"),
    ],
)
def test_clouds_that_lack_what_is_asked(monkeypatch, step, about, said):
    source, _ = clouds([0, 20])
    with pytest.raises(ConfigError) as caught:
        aligned(
            monkeypatch,
            {"c": feature("c", **step)},
            {"cloud": Stream(source.times, source.values, {**source.about, **about})},
        )
    assert caught.value.problems[0].startswith(said)


CONFIG = """
input: {uri: logs}
features:
  v: {source: /points, voxelize: {size: 0.1, bounds: [[-10, -10, -1], [10, 10, 3]]}}
timeline: {rate_hz: 10}
output: {uri: out}
"""


def test_config(tmp_path: Path):
    (step,) = job(CONFIG).features[0].steps
    assert step == Voxelize((0.1,) * 3, ((-10, -10, -1), (10, 10, 3)))
    assert step.grid.shape == (200, 200, 40)
    full = (
        "{size: [0.1, 0.2, 0.5], bounds: [[0, 0, 0], [1, 1, 1]], reduce: points, layout: sparse, features: [x, t], "
        "max_points: 5}"
    )
    other = job(CONFIG, f"features.v.voxelize={full}", "features.v.dtype=float64")
    assert other.features[0].steps[0] == Voxelize(
        (0.1, 0.2, 0.5), ((0, 0, 0), (1, 1, 1)), "points", "sparse", ("x", "t"), 5, None, "float64"
    )
    for one in (job(CONFIG), other):
        (tmp_path / "again.yaml").write_text(resolved_yaml(one))
        again = load_job(str(tmp_path / "again.yaml"))
        assert again.features == one.features
        assert again.identity() == one.identity()
    assert other.identity() != job(CONFIG).identity()
    assert job(CONFIG, "features.v.voxelize.size=0.2").identity() != job(CONFIG).identity()


def test_every_mistake_at_once():
    wrong = "{size: 0, bounds: [[0, 0, 0], [1, 1]], reduce: tsdf, layout: sparse, features: [x], max_points: 0}"
    assert problems(CONFIG, f"features.v.voxelize={wrong}") == [
        "features.v.voxelize.size: found 0; write the edge of a voxel, such as 0.1, or three of them, such as "
        "[0.1, 0.1, 0.2]",
        "features.v.voxelize.bounds: found a list; write the lower and the upper corner, such as [[-10, -10, -1], "
        "[10, 10, 3]], each of its numbers rising",
        "features.v.voxelize.layout: found 'sparse'; tsdf is dense; write that, or another reduce",
        "features.v.voxelize.features: tsdf takes none; leave them out, or reduce by sum, mean, min, max or points",
        "features.v.voxelize.max_points: found 0; write a whole number of 1 or more",
        "features.v.voxelize.max_points: is for reduce: points, not for tsdf; leave it out",
        "features.v.voxelize.truncation: missing; write how far from a surface its distances go, such as 0.3",
    ]


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["features.v.voxelize={bounds: [[0, 0, 0], [1, 1, 1]]}"], "features.v.voxelize.size: missing; write the edge"),
        (["features.v.voxelize.reduse=mean"], "features.v.voxelize.reduse: unknown key; did you mean 'reduce'?"),
        (["features.v.voxelize.bounds=[[0, 0, 0], [1, 0, 1]]"], "features.v.voxelize.bounds: found a list; write"),
        (["features.v.voxelize.size=0.001"], "features.v.voxelize: 20000 x 20000 x 4000 voxels are"),
        (["features.v.dtype=float32"], "features.v.dtype: found 'float32'; occupancy is true or false; write bool or"),
        (["features.v.voxelize.reduce=mean", "features.v.dtype=int32"], "features.v.dtype: found 'int32'; mean gives"),
        (
            ["features.v.voxelize.reduce=mean", "features.v.voxelize.bounds=[[1e6, 0, 0], [1000001, 1, 1]]"],
            "features.v.dtype: float32 tells places at 1e+06 apart only by 0.0625, with voxels of 0.1; write float64",
        ),
        (
            ["features.v={sources: [/a, /b], voxelize: {size: 1, bounds: [[0, 0, 0], [1, 1, 1]]}}"],
            "features.v.voxelize: takes one source, found 2",
        ),
    ],
)
def test_mistakes(overrides, said):
    assert only_problem(CONFIG, *overrides).startswith(said)
