"""A run that is killed without warning, at random moments or at each write, and run again, ends as an unbroken one."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_kit import (
    META,
    ROOT,
    assert_same_tree,
    config,
    environment,
    manifest,
    write_parquet,
    write_recordings,
    write_shards,
)
from omegaconf import OmegaConf
from process_kit import DEVNULL, robocache, start

from robocache.output.dataset import Output
from robocache.output.verify import verify


def prepare(tmp_path: Path, shards: int) -> Path:
    """Work folders ``unbroken`` and ``killed`` with one config; recordings of 1.1 MB, so that each is a shard."""
    logs = write_recordings(tmp_path / "logs", shards, samples=28_000)
    assert all(1e6 < p.stat().st_size < 2e6 for p in logs.iterdir())
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        OmegaConf.save(config(logs, "out", input__max_failed_episodes=0), tmp_path / name / "config.yaml")
    return tmp_path


def committed(work: Path) -> int:
    lines = manifest(work / "out")
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


def kill_run(work: Path, commits: int, delay_s: float) -> bool:
    """Start a run, and kill it ``delay_s`` after it holds the output and the manifest has ``commits`` records.

    False where it ended before that.
    """
    lock = work / f"out/{META}/_run.lock"
    stale = lock.stat().st_mtime_ns if lock.exists() else 0
    process = start("run", "config.yaml", cwd=work, stdout=DEVNULL, stderr=DEVNULL)
    while process.poll() is None:
        if lock.exists() and lock.stat().st_mtime_ns != stale and committed(work) >= commits:
            time.sleep(delay_s)
            break
        time.sleep(0.001)
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)
    return process.returncode != 0


@pytest.mark.parametrize(
    ("kills", "shards"), [(3, 8), pytest.param(20, 40, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_killed_at_random_moments_and_rerun(tmp_path, kills, shards):
    """Each run goes on where the last was killed. The moments are drawn by progress and then by time, so that they
    span the run from its first write to its last. Where one ends before its moment, nothing is left to be killed in,
    and the next begins from nothing.
    """
    work = prepare(tmp_path, shards)
    whole = robocache("run", "config.yaml", cwd=work / "unbroken")
    assert whole.returncode == 0, whole.stderr
    report = json.loads((work / f"unbroken/out/{META}/_report.json").read_text())
    rng = random.Random(kills)
    at: list[int] = []
    for _ in range(3 * kills):
        commits = min(shards, committed(work / "killed") + rng.randint(0, 2 * shards // kills))
        if kill_run(work / "killed", commits, rng.uniform(0, 2 * report["seconds"] / shards)):
            at.append(committed(work / "killed"))
        else:
            shutil.rmtree(work / "killed/out")
        if len(at) == kills:
            break
    print(f"unbroken run {report['seconds']:.2f} s; of {shards} shards, committed when killed: {at}")
    assert len(at) == kills
    assert len(set(at) - {0, shards}) >= kills // 3
    ended = robocache("run", "config.yaml", cwd=work / "killed")
    assert ended.returncode == 0, ended.stderr
    assert_same_tree(work / "killed/out", work / "unbroken/out")
    assert verify(str(work / "killed/out")).problems == ()


def test_crash_at_every_write(tmp_path):
    """Exhaustive where random moments are not: the process dies before, within and after each change on the disk."""
    logs = write_shards(tmp_path / "logs", 3)
    (logs / "log_001.parquet").write_bytes(b"PAR1 not a recording")  # so that there is something in the quarantine
    OmegaConf.save(config(logs, "out", input__max_failed_episodes=1), tmp_path / "config.yaml")
    crashes = crash(tmp_path)
    assert len(crashes) > 20
    for n in crashes:
        assert_same_tree(tmp_path / f"{n}/out", tmp_path / "unbroken/out")
        assert verify(str(tmp_path / f"{n}/out")).problems == ()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", [(), pytest.param(("ray",), marks=pytest.mark.ray)], ids=["local", "ray"])
def test_crash_at_every_write_of_a_run_that_adds_corrects_and_withdraws(tmp_path, options):
    """The recordings lie elsewhere than before, which is no change; readers see the version before or after, whole."""
    if options:
        pytest.importorskip("ray", reason="Ray is not installed")
    logs = write_shards(tmp_path / "logs", 4)
    OmegaConf.save(config(logs, "out"), tmp_path / "before.yaml")
    grown = tmp_path / "moved"
    shutil.copytree(logs, grown)
    write_parquet(grown / "a_new_one.parquet", seed=7)
    write_parquet(grown / "log_001.parquet", seed=8, samples=900)
    (grown / "log_003.parquet").unlink()
    OmegaConf.save(config(grown, "out"), tmp_path / "config.yaml")
    crashes = crash(tmp_path, *options)
    assert len(crashes) > 20
    assert not options or sum(name.startswith("worker_") for name in crashes) > 5
    for n in crashes:
        assert_same_tree(tmp_path / f"{n}/out", tmp_path / "unbroken/out")
    whole = tmp_path / "unbroken/out"
    assert verify(str(whole)).problems == () and verify(str(whole), version=1).problems == ()
    episodes = Output.open(str(whole)).episodes.select(["episode_index", "id"]).to_pylist()
    assert [(e["episode_index"], e["id"][:7]) for e in episodes] == [
        (0, "log_000"),
        (1, "log_001"),
        (2, "log_002"),
        (4, "a_new_o"),
    ]


@pytest.mark.parametrize(
    ("store", "kills"),
    [
        ("local", 2),
        *(
            pytest.param(store, 200, marks=[pytest.mark.slow, pytest.mark.timeout(3600), *marks])
            for store, marks in {"local": (), "s3": (), "ray": (pytest.mark.ray,)}.items()
        ),
    ],
)
def test_a_reader_in_a_loop_while_runs_that_grow_a_dataset_are_killed(tmp_path, store, kills):
    """See grow_kills.py."""
    for package in {"s3": ("s3fs", "moto.moto_server.werkzeug_app"), "ray": ("ray",)}.get(store, ()):
        pytest.importorskip(package, reason=f"{package} is missing")
    script = Path(__file__).with_name("grow_kills.py")
    words = [sys.executable, str(script), str(tmp_path / "work"), "--kills", str(kills), "--store", store]
    path = os.pathsep.join(map(str, (ROOT, script.parent, script.parents[1])))
    told = [] if kills > 5 else ["--a-change", "2"]
    done = subprocess.run(
        [*words, *told], env=environment() | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    looked, versions = map(int, re.findall(r"looked (\d+) times and saw (\d+) versions", done.stdout)[0])
    assert looked > 0 and versions > 0
    assert int(re.findall(r"(\d+) killed", done.stdout)[0]) >= kills


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_call_or_a_request_that_fails_or_is_the_last(tmp_path, store):
    """See fault_points.py."""
    for package in ("s3fs", "moto.moto_server.werkzeug_app") if store == "s3" else ():
        pytest.importorskip(package, reason=f"{package} is missing")
    script = Path(__file__).with_name("fault_points.py")
    words = [sys.executable, str(script), str(tmp_path / "work"), "--faults", "40", "--store", store]
    path = os.pathsep.join(map(str, (ROOT, script.parent, script.parents[1])))
    done = subprocess.run(words, env=environment() | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["faults"] >= 40 and counts["highest"] > 60
    assert counts["ended"].keys() >= {"crash, stopped", "error, stopped", "error, done"}


def crash(folder: Path, *options: str) -> list[str]:
    """The folders in which it did: see crash_points.py."""
    script = Path(__file__).with_name("crash_points.py")
    path = os.pathsep.join(map(str, (ROOT, script.parent, script.parents[1])))
    words = [sys.executable, str(script), str(folder), *options]
    env = environment() | {"PYTHONPATH": path}
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    crashes = [line for line in done.stdout.split() if line.startswith(("crash_", "worker_"))]
    print(f"crashed at {len(crashes)} points")
    return crashes
