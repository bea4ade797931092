"""The ray mode on a cluster of this machine: the local mode's bytes, whatever happens to the workers."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import cloud_kit
import pyarrow.parquet as pq
import pytest
import ray_kit
from engine_kit import ROOT, assert_same_tree, config, do, environment, job, manifest, writing
from omegaconf import OmegaConf

from robocache.engine import retry
from robocache.engine import run as engine
from robocache.engine.ray import cluster as ray_mode
from robocache.engine.shards import lay_out
from robocache.output.verify import verify
from robocache.types import EpisodeRef

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.ray

SHARDS = 8


def ray_job(logs: Path, out: Path, workers: int = 2, **changes: object):
    cluster = {"mode": "ray", "workers": workers, "cpus_per_worker": 0.5, "memory_mb": 100, "max_attempts": 2}
    return job(logs, out, cluster=cluster, **changes)


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_the_same_bytes_as_the_local_mode(tmp_path, ray_cluster, logs, local, workers):
    do(ray_job(logs, tmp_path / "out", workers))
    assert_same_tree(tmp_path / "out", local)
    again = do(ray_job(logs, tmp_path / "out", workers))
    assert again.skipped_shards == SHARDS


def test_clouds_on_two_workers(tmp_path, ray_cluster):
    """Four sequences of clouds, dense and sparse: the same bytes as the local mode writes."""
    for run in range(4):
        (tmp_path / "clouds" / f"run_{run}").mkdir(parents=True)
        for k in range(3):
            cloud = cloud_kit.points(300, 10 * run + k)
            encoding = ("ascii", "binary", "binary_compressed")[k]
            path = tmp_path / "clouds" / f"run_{run}" / f"{1_700_000_000 + k}.5.pcd"
            path.write_bytes(cloud_kit.pcd(cloud, encoding) + b"\n" * 400_000)  # an episode is a shard
    box = {"size": 0.25, "bounds": [[-1, -1, -1], [1, 1, 1]]}
    features = {
        "dense": {"source": "points", "voxelize": {**box, "reduce": "mean", "features": ["intensity"]}},
        "sparse": {"source": "points", "voxelize": {**box, "layout": "sparse", "reduce": "points", "max_points": 2}},
    }
    clouds = {"input": {"uri": str(tmp_path / "clouds"), "episode": "folder"}, "features": features}
    do(job(tmp_path, tmp_path / "local", **clouds, timeline={"rate_hz": 2}))
    do(ray_job(tmp_path, tmp_path / "ray", **clouds, timeline={"rate_hz": 2}))
    assert_same_tree(tmp_path / "ray", tmp_path / "local")
    assert len(list((tmp_path / "ray" / "data").iterdir())) == 4
    assert pq.read_table(tmp_path / "ray" / "data").num_rows == 4 * 5


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_workers_that_are_killed(tmp_path, ray_cluster, logs, local, monkeypatch, kills):
    """At random moments, until so many have been: no shard is lost, none is twice, none is blamed."""
    pids = tmp_path / "pids"
    pids.mkdir()
    monkeypatch.setattr(engine, "Processor", lambda *args: ray_kit.Slow(*args, folder=str(pids), seconds=0.3))
    killed: set[int] = set()

    def kill() -> None:
        rng = random.Random(0)
        while len(killed) < kills and not over.wait(rng.uniform(0.2, 0.6)):
            alive = [pid for p in pids.iterdir() if (pid := int(p.name)) not in killed]
            if alive:
                victim = rng.choice(alive)
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)

    over = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        do(ray_job(logs, tmp_path / "out", cluster__max_attempts=3))
    finally:
        over.set()
        killer.join()
    assert len(killed) == kills
    assert_same_tree(tmp_path / "out", local)


@pytest.mark.parametrize("shard_mb", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_episode_that_kills_its_worker_is_the_only_one_blamed(tmp_path, ray_cluster, logs, monkeypatch, shard_mb):
    monkeypatch.setattr(engine, "Processor", ray_kit.Mortal)
    changes = {"output__shard_mb": shard_mb, "input__max_failed_episodes": 1}
    summary = do(ray_job(logs, tmp_path / "out", **changes))
    reason = "its process ended 2 times by signal SIGSEGV while processing it alone"
    assert [(q.id, q.reason) for q in summary.quarantined] == [("log_003.parquet", reason)]
    assert summary.episodes == SHARDS - 1


def test_storage_that_fails_once(tmp_path, ray_cluster, logs, local, monkeypatch, caplog):
    monkeypatch.setattr(retry, "BACKOFF_S", 0.01)
    monkeypatch.setattr(engine, "Processor", lambda *args: ray_kit.Hiccup(*args, folder=str(tmp_path)))
    do(ray_job(logs, tmp_path / "out"))
    assert "shard 3, attempt 1 of 2, node " in caplog.text
    assert_same_tree(tmp_path / "out", local)


def test_workers_log_as_their_driver_does(tmp_path, ray_cluster, logs, caplog, capsys):
    """What `robocache -v` asks for; Ray brings their lines a little later."""
    caplog.set_level(logging.DEBUG, "robocache")
    do(ray_job(logs, tmp_path / "out", 1))
    text, end = "", time.monotonic() + 20
    while (
        not (found := re.search(r"Worker pid=\d+.* DEBUG .*shard 0, attempt 1, node", text)) and time.monotonic() < end
    ):
        time.sleep(0.1)
        text += "".join(capsys.readouterr())
    assert found, text


def test_a_stop_keeps_what_is_in_flight(tmp_path, ray_cluster, logs, local, monkeypatch):
    """As SIGTERM does it: from a handler, in the main thread."""
    monkeypatch.setattr(engine, "Processor", lambda *args: ray_kit.Slow(*args, folder=str(tmp_path), seconds=0.5))

    def stop(p: engine.Progress) -> None:
        if p.episodes == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(ray_job(logs, tmp_path / "out"), progress=stop)
    committed = manifest(tmp_path / "out").read_bytes().count(b"\n")
    assert 2 <= committed <= 4
    monkeypatch.undo()
    assert do(ray_job(logs, tmp_path / "out")).skipped_shards == committed
    assert_same_tree(tmp_path / "out", local)


@pytest.mark.slow
def test_a_killed_driver(tmp_path, ray_cluster, logs, local):
    """Its workers die with it, and another run goes on where it was."""
    job_file = tmp_path / "config.yaml"
    spec = {"mode": "ray", "workers": 2, "cpus_per_worker": 0.5, "memory_mb": 100}
    OmegaConf.save(config(logs, tmp_path / "out", cluster=spec), job_file)
    script = (
        "import sys, ray_kit; from robocache import cli; from robocache.engine import run;"
        f"run.Processor = lambda *args: ray_kit.Slow(*args, folder={str(tmp_path)!r}, seconds=0.4);"
        "sys.exit(cli.main(['run', sys.argv[1]]))"
    )
    env = environment() | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    with open(tmp_path / "log", "w") as log:
        driver = subprocess.Popen([sys.executable, "-c", script, str(job_file)], env=env, stdout=log, stderr=log)
        lines = manifest(tmp_path / "out")
        while driver.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
            time.sleep(0.01)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    before = lines.read_bytes().count(b"\n")
    assert before < SHARDS
    summary = do(ray_job(logs, tmp_path / "out"))
    assert summary.skipped_shards == before
    assert_same_tree(tmp_path / "out", local)


@pytest.mark.slow
def test_a_thousand_shards(tmp_path, ray_cluster, logs):
    """What a shard costs when there is nothing to do, each commit on the disk."""
    count = int(os.environ.get("ROBOCACHE_TEST_SHARDS", "1000"))
    made = ray_job(logs, tmp_path / "out")
    refs = [EpisodeRef(f"e{i}", "parquet", (), nbytes=2_000_000) for i in range(count)]
    plan, shards = lay_out(refs, 1, identity=made.identity())
    began = time.monotonic()
    with ray_mode.workers(made) as execute, writing(made) as output:
        output.start(plan, "", "parquet", todo=True)
        execute(ray_kit.Idle(made, {}), output.store, deque(shards), output.commit)
        seconds = time.monotonic() - began
        assert output.done(made.identity(), {s.index: s.fingerprint() for s in shards}) == set(range(count))
        output.publish(output.stand("", types={}, root="", changes={}), 1)
    print(f"{count} shards in {seconds:.2f} s: {count / seconds:.0f} shards/s, start of the workers included")
    assert verify(made.output.uri).episodes == count
    assert count / seconds > 20
