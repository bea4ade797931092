"""Shipped configs on real recordings, against values that other libraries read from them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from rosbags.highlevel import AnyReader

from robocache import run, verify
from robocache.config.load import load_job

pytestmark = pytest.mark.realdata
CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def produce(data_dir, tmp_path, monkeypatch):
    """Run a shipped config into a fresh folder, verify it, and read it back."""
    monkeypatch.setenv("ROBOCACHE_TEST_DATA", str(data_dir))

    def made(name: str, *overrides: str, episodes: int) -> pa.Table:
        out = tmp_path / name
        summary = run(str(CONFIGS / f"{name}.yaml"), [f"output.uri={out}", *overrides])
        assert not summary.quarantined
        found = verify(str(out))
        assert found.problems == ()
        assert (found.episodes, found.rows) == (episodes, summary.rows)
        return pq.read_table(out / "data")

    return made


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


def test_husky_is_numpy_interp_of_what_rosbags_reads(produce, data_dir):
    table = produce("husky", episodes=1)
    stamps, values = [], []
    with AnyReader([data_dir / "bags" / "husky.bag"]) as bag:
        for connection, _, raw in bag.messages([c for c in bag.connections if c.topic == "/imu/data"]):
            message = bag.deserialize(raw, connection.msgtype)
            stamps.append(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)
            w, a = message.angular_velocity, message.linear_acceleration
            values.append([w.x, w.y, w.z, a.x, a.y, a.z])
    stamps, values = np.array(stamps), np.array(values)
    times = table["time_ns"].to_numpy()
    assert (np.diff(times) == 50_000_000).all()
    wanted = [np.interp(times - stamps[0], stamps - stamps[0], values[:, d]) for d in range(6)]
    valid = table["observation.imu.valid"].to_numpy()
    assert valid.mean() > 0.99
    # float64 arithmetic on both sides, rounded once to float32
    np.testing.assert_array_max_ulp(
        column(table, "observation.imu")[valid], np.stack(wanted, 1).astype(np.float32)[valid], maxulp=1
    )
    quaternion = column(table, "observation.orientation")[table["observation.orientation.valid"].to_numpy()]
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=1), 1, atol=1e-6)


def test_screw_sindy_joins_two_clocks_by_time(produce, data_dir):
    table = produce("screw_sindy", episodes=1)
    folder = data_dir / "arm_ft" / "screw_sindy"
    sensor = pa.csv.read_csv(folder / "sensor_data.csv")
    camera = pa.csv.read_csv(folder / "observation_data.csv")
    clocks = [t["timestamp"].to_numpy().astype(np.int64) * 1_000_000 for t in (sensor, camera)]
    times = table["time_ns"].to_numpy()
    assert times[0] == max(c[0] for c in clocks)  # the camera's clock starts 0.659 s earlier
    assert abs(clocks[0][0] - clocks[1][0] - 659_000_000) < 1_000_000
    assert times[-1] <= min(c[-1] for c in clocks)
    camera_columns = [camera["X"].to_numpy(), np.unwrap(camera["Y"].to_numpy()), camera["Z"].to_numpy()]
    track = np.stack([np.interp(times - clocks[1][0], clocks[1] - clocks[1][0], c) for c in camera_columns], 1)
    valid = table["observation.camera_track.valid"].to_numpy()
    off = column(table, "observation.camera_track")[valid] - track[valid]
    off[:, 1] = np.angle(np.exp(1j * off[:, 1]))  # an angle: a turn more or less is the same
    np.testing.assert_allclose(off / np.maximum(np.abs(track[valid]), 1), 0, atol=1e-6)
    # Means over bins midway between the targets, by hand.
    force = np.stack([sensor[c].to_numpy() for c in ("Fx", "Fy", "Fz", "Tx", "Ty", "Tz")], 1)
    edges = (times[:-1] + times[1:] + 1) // 2
    found = column(table, "observation.wrench")
    checked = 0
    for k in range(1, len(times) - 1):
        inside = (clocks[0] >= edges[k - 1]) & (clocks[0] < edges[k])
        if inside.any():
            np.testing.assert_allclose(found[k], force[inside].mean(axis=0), rtol=2e-6, atol=1e-6)
            checked += 1
    assert checked > 400


def test_g1_inspire_sixty_episodes_at_fifty_hertz(produce, data_dir):
    table = produce("g1_inspire", episodes=60)
    episode = table["episode_index"].to_numpy()
    for index in (0, 29, 59):
        source = pq.read_table(
            data_dir / "lerobot" / "g1_inspire_v21" / "data" / "chunk-000" / f"episode_{index:06d}.parquet"
        )
        rows = episode == index
        seconds = np.arange(source.num_rows) / 30
        states = source["observation.state"].combine_chunks().flatten().to_numpy().reshape(-1, 26)
        at = table["time_ns"].to_numpy()[rows] / 1e9
        wanted = np.stack([np.interp(at, seconds, states[:, d].astype(np.float64)) for d in range(26)], 1)
        np.testing.assert_allclose(column(table, "observation.state")[rows], wanted, atol=1e-6)
        assert rows.sum() == int((source.num_rows - 1) * 50 // 30) + 1


@pytest.mark.parametrize(
    ("name", "episodes", "file"), [("robomimic", 10, "isaaclab_stack"), ("sawyer", 2, "SawyerLift")]
)
def test_hdf5_demonstrations(produce, data_dir, name, episodes, file):
    table = produce(name, episodes=episodes)
    with h5py.File(data_dir / "hdf5" / f"{file}.hdf5") as source:
        assert len(source["data"]) == episodes
    assert set(table["episode_index"].to_pylist()) == set(range(episodes))


def test_every_shipped_config_loads(data_dir, monkeypatch):
    monkeypatch.setenv("ROBOCACHE_TEST_DATA", str(data_dir))
    for path in sorted(CONFIGS.glob("*.yaml")):
        assert load_job(str(path)).features
