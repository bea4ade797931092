"""Clouds moved into another frame by the pose of their own instant, against SciPy's rotations."""

from __future__ import annotations

from pathlib import Path

import cloud_kit as kit
import numpy as np
import pyarrow as pa
import pytest
import torch
from align_kit import MS, TimelineSpec, aligned, stream
from config_kit import job, only_problem
from scipy.spatial.transform import Rotation, Slerp
from voxel_oracles import answer, dense

from robocache import run
from robocache.clouds import MESSAGE
from robocache.config.job import Feature, FeatureSource
from robocache.config.load import load_job
from robocache.config.resolved import resolved_yaml
from robocache.errors import ConfigError
from robocache.features.voxelize import Voxelize, moved
from robocache.ops import integrate_tsdf
from robocache.output.dataset import Output
from robocache.types import Stream

FAR = 1_000_000.0  # a map's frame
BOX = ((FAR - 2, -2.0, -2.0), (FAR + 2, 2.0, 2.0))
POSE_MS = np.arange(-10, 80, 10.0)


def clouds(times_ms) -> tuple[Stream, list[dict[str, np.ndarray]]]:
    columns = [kit.points(300, i) for i in range(len(times_ms))]
    about = {"kind": "cloud", "fields": kit.fields(), "frame": "lidar"}
    return stream(times_ms, pa.array([kit.layout(c) for c in columns], MESSAGE), about=about), columns


def poses(times_ms=POSE_MS) -> Stream:
    """Forwards along x, turning about an axis."""
    turns = Rotation.from_rotvec(np.outer(np.asarray(times_ms) / 50, [0.3, -0.5, 0.8]))
    places = np.stack([FAR + np.asarray(times_ms) / 100, np.sin(times_ms), 0 * np.asarray(times_ms)], axis=1)
    return stream(times_ms, np.concatenate([places, turns.as_quat()], axis=1), about={"frame": "map"})


def pose_at(ms: float, recorded: Stream) -> tuple[np.ndarray, Rotation]:
    times = recorded.times / MS
    place = np.array([np.interp(ms, times, recorded.values[:, i]) for i in range(3)])
    return place, Slerp(times, Rotation.from_quat(recorded.values[:, 3:]))(ms)


def feature(*, pose: FeatureSource, cloud: FeatureSource | None = None, **step) -> Feature:
    wide = "float64" if step.get("reduce") == "mean" else "float32"
    made = Voxelize((0.5,) * 3, BOX, **step, dtype=wide)
    return Feature(
        "v", (cloud or FeatureSource("cloud"),), "float64" if wide == "float64" else "auto", steps=(made,), pose=pose
    )


def test_each_cloud_by_the_pose_of_its_own_instant(monkeypatch):
    """Rows at 0, 20, 40 ms take the clouds of 3, 26 and 44 ms, recorded by a clock that is 2 ms behind."""
    source, columns = clouds([1, 24, 42])
    recorded = poses()
    made = feature(pose=FeatureSource("pose"), cloud=FeatureSource("cloud", offset=2 * MS), reduce="mean")
    found = aligned(monkeypatch, {"v": made}, {"cloud": source, "pose": recorded}).table
    assert found.schema.field("v").metadata[b"frame"] == b'"map"'
    assert found.schema.field("v").metadata[b"pose"] == b'"pose"'
    for row, (cloud, ms) in enumerate(zip(columns, (3, 26, 44), strict=False)):
        place, turn = pose_at(ms, recorded)
        xyz = np.stack([cloud[a] for a in "xyz"], axis=1).astype(np.float64)
        wanted = turn.apply(xyz) + place
        inside = ((wanted >= BOX[0]) & (wanted < BOX[1])).all(axis=1)
        said = answer(wanted, [0, len(wanted)], voxel_size=0.5, bounds=BOX, reduce="mean")
        values = np.array(found["v"][row].as_py())
        assert inside.sum() > 200
        np.testing.assert_allclose(values, dense(said, 1, (8, 8, 8), "mean")[0], rtol=0, atol=1e-8)


def test_clouds_without_a_pose_are_not_valid(monkeypatch):
    source, _ = clouds([0, 20, 40, 60])
    gappy = poses(np.array([-10.0, 0, 10, 20, 50, 60, 70]))
    made = feature(pose=FeatureSource("pose", max_gap=15 * MS))
    table = aligned(monkeypatch, {"v": made}, {"cloud": source, "pose": gappy}).table
    assert table["v.valid"].to_pylist() == [True, True, False, True]
    assert not np.array(table["v"][2].as_py()).any()


def test_a_pose_that_holds(monkeypatch):
    """A calibration: one message for all of the recording, its quaternion w first and not of length 1."""
    source, columns = clouds([0, 20])
    turn = Rotation.from_euler("xyz", [0.1, 0.2, 0.3])
    x, y, z, w = turn.as_quat() * 1.5
    held = stream([500], np.array([[FAR, 0.5, 0.0, w, x, y, z]]))
    made = feature(pose=FeatureSource("pose", static=True, quaternion_order="wxyz"), reduce="count")
    table = aligned(monkeypatch, {"v": made}, {"cloud": source, "pose": held}).table
    for row, cloud in zip(table["v"].to_pylist(), columns, strict=True):
        wanted = turn.apply(np.stack([cloud[a] for a in "xyz"], axis=1)) + np.array([FAR, 0.5, 0])
        said = answer(wanted, [0, len(wanted)], voxel_size=0.5, bounds=BOX, reduce="count")
        np.testing.assert_array_equal(np.array(row), dense(said, 1, (8, 8, 8), "count")[0])


def test_rays_start_at_the_sensor(monkeypatch):
    source, columns = clouds([0, 20])
    recorded = poses()
    made = feature(pose=FeatureSource("pose"), reduce="tsdf", truncation=0.8)
    table = aligned(monkeypatch, {"v": made}, {"cloud": source, "pose": recorded}).table
    place, turn = pose_at(20, recorded)
    volume = integrate_tsdf(
        torch.from_numpy(np.stack([columns[1][a] for a in "xyz"], axis=1)),
        torch.from_numpy(np.concatenate([place, turn.as_quat()])),
        voxel_size=0.5,
        bounds=BOX,
        truncation=0.8,
    )
    found = np.array(table["v"][1].as_py())
    np.testing.assert_array_equal(found[..., 1], volume.weight[0].numpy())
    np.testing.assert_allclose(found[..., 0], volume.distance[0].numpy(), atol=1e-6)


def test_a_causal_timeline_looks_at_no_later_pose(monkeypatch):
    source, columns = clouds([0, 20, 40])
    recorded = poses(np.array([-15.0, 5, 25, 45]))
    made = feature(pose=FeatureSource("pose"), reduce="count")
    timeline = TimelineSpec(rate=50, causal=True)
    table = aligned(monkeypatch, {"v": made}, {"cloud": source, "pose": recorded}, timeline).table
    rows = table["v"].to_pylist()
    for row, k in zip(rows, (0, 1, 2), strict=False):
        pose = recorded.values[k]
        wanted = moved(np.stack([columns[k][a] for a in "xyz"], axis=1), pose)
        said = answer(wanted, [0, len(wanted)], voxel_size=0.5, bounds=BOX, reduce="count")
        np.testing.assert_array_equal(np.array(row), dense(said, 1, (8, 8, 8), "count")[0])


def test_what_is_no_pose(monkeypatch):
    source, _ = clouds([0, 20])
    made = feature(pose=FeatureSource("pose"))
    with pytest.raises(ConfigError) as caught:
        aligned(monkeypatch, {"v": made}, {"cloud": source, "pose": stream([0, 20], np.zeros((2, 6)))})
    assert "features.v.pose.source: pose holds fixed_size_list" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        aligned(monkeypatch, {"v": feature(pose=FeatureSource("odom"))}, {"cloud": source})
    assert "features.v.pose.source: odom is in none of 1 episodes" in str(caught.value)


def test_poses_in_the_table_of_a_sequence(tmp_path):
    """Clouds as files, and beside them a table of when and where each was taken."""
    (tmp_path / "run").mkdir()
    cells, lines = [], ["file,stamp,x,y,z,qx,qy,qz,qw"]
    for k in range(3):
        cloud = kit.points(100, k)
        (tmp_path / "run" / f"{k:06d}.pcd").write_bytes(kit.pcd(cloud))
        pose = [k, 0.5, 0, *Rotation.from_euler("z", 0.4 * k).as_quat().tolist()]
        lines.append(f"{k:06d}.pcd,{k / 10},{','.join(map(repr, pose))}")
        xyz = moved(np.stack([cloud[a] for a in "xyz"], axis=1), np.array(pose))
        cells.append(np.unique(np.floor((xyz + 2) / 0.5).astype(int), axis=0))
    (tmp_path / "run" / "frames.csv").write_text("\n".join(lines))
    run(
        {
            "input": {
                "uri": str(tmp_path / "run"),
                "episode": "folder",
                "times": {"file": "frames.csv", "column": "stamp", "unit": "s", "files": "file"},
            },
            "features": {
                "v": {
                    "source": "points",
                    "pose": "[x,y,z,qx,qy,qz,qw]",
                    "voxelize": {"size": 0.5, "bounds": [[-2, -2, -2], [5, 5, 5]], "layout": "sparse"},
                },
                "x": "x",
            },
            "timeline": {"rate_hz": 10},
            "output": {"uri": str(tmp_path / "out")},
        }
    )
    table = Output.open(str(tmp_path / "out")).dataset().to_table()
    for row, wanted in zip(table["v"].to_pylist(), cells, strict=True):
        np.testing.assert_array_equal(np.array(row["coordinates"]), wanted)
    assert table["x"].to_pylist() == [0, 1, 2]


CONFIG = """
input: {uri: logs}
features:
  v: {source: /points, pose: /odom.pose.pose, voxelize: {size: 0.1, bounds: [[-10, -10, -1], [10, 10, 3]]}}
timeline: {rate_hz: 10}
output: {uri: out}
"""


def test_config(tmp_path: Path):
    (made,) = job(CONFIG).features
    assert made.pose == FeatureSource("/odom.pose.pose")
    assert [s.path for s in job(CONFIG).sources] == ["/points", "/odom.pose.pose"]
    other = job(CONFIG, "features.v.pose={source: /pose, max_gap: 50ms, quaternion_order: wxyz, stamp: log}")
    for one in (job(CONFIG), other):
        (tmp_path / "again.yaml").write_text(resolved_yaml(one))
        again = load_job(str(tmp_path / "again.yaml"))
        assert (again.features, again.identity()) == (one.features, one.identity())
    xyzw = job(CONFIG, "features.v.pose={source: /pose, max_gap: 50ms, quaternion_order: xyzw, stamp: log}")
    assert len({job(CONFIG).identity(), other.identity(), xyzw.identity()}) == 3
    said = only_problem(CONFIG, "features.v.pose={source: /pose, align: linear}")
    assert said == "features.v.pose.align: found 'linear'; a pose is aligned as one; write pose, or leave it out"
    said = only_problem(CONFIG, "features.v={source: /points, pose: /p}")
    assert said == "features.v.pose: moves clouds, and there are none without voxelize; add that, or leave it out"
