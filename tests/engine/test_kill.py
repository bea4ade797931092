"""A run that is killed without warning, at random moments or at each write, and run again, ends as an unbroken one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_kit import META, ROOT, assert_same_tree, config, environment, robocache, start, write_recordings
from omegaconf import OmegaConf

from robocache.engine.verify import verify

LOGS = 40


def prepare(tmp_path: Path) -> Path:
    """Work folders ``unbroken`` and ``killed`` with one config; recordings of 1.1 MB, so that each is a shard."""
    logs = write_recordings(tmp_path / "logs", LOGS, samples=28_000)
    assert all(1e6 < p.stat().st_size < 2e6 for p in logs.iterdir())
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        OmegaConf.save(config(logs, "out", input__max_failed_episodes=0), tmp_path / name / "config.yaml")
    return tmp_path


def run_until(delay_s: float, work: Path) -> tuple[bool, float]:
    """Start a run and kill it ``delay_s`` after it took the output's lock (before, it only imports).

    Whether it was alive then, and how many seconds it lived from there.
    """
    lock = work / f"out/{META}/run.lock"
    stale = lock.stat().st_mtime_ns if lock.exists() else 0
    process = start("run", "config.yaml", cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (lock.exists() and lock.stat().st_mtime_ns != stale):
        time.sleep(0.002)
    began = time.monotonic()
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True, delay_s
    assert process.returncode == 0
    return False, time.monotonic() - began


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_killed_at_random_moments_and_rerun(tmp_path, kills):
    """Each run goes on where the last was killed; the delays are drawn so that together they span the unbroken run."""
    work = prepare(tmp_path)
    alive, whole_s = run_until(120.0, work / "unbroken")
    assert not alive
    rng = random.Random(kills)
    committed, killed = [], 0
    while killed < kills:
        # What a killed run had in flight is lost, so 20 runs need more than the time of one.
        alive, _ = run_until(rng.uniform(0, 2 * whole_s / kills), work / "killed")
        manifest = work / f"killed/out/{META}/manifest.jsonl"
        committed.append(manifest.read_bytes().count(b"\n") if manifest.exists() else 0)
        killed += alive
        assert len(committed) <= 2 * kills, "too many runs ended before they were killed"
    print(f"unbroken {whole_s:.2f} s; shards committed at each kill: {committed}")
    assert sum(0 < n < LOGS for n in committed) >= kills // 3  # most kills hit the middle of the work
    ended = robocache("run", "config.yaml", cwd=work / "killed")
    assert ended.returncode == 0, ended.stderr
    assert_same_tree(work / "killed/out", work / "unbroken/out")
    assert verify(str(work / "killed/out")).problems == ()


def test_crash_at_every_write(tmp_path):
    """Exhaustive where random moments are not: the process dies before, within and after each change on the disk."""
    logs = write_recordings(tmp_path / "logs", 3, samples=28_000)
    (logs / "log_001.parquet").write_bytes(b"PAR1 not a recording")  # so that there is something in the quarantine
    OmegaConf.save(config(logs, "out", input__max_failed_episodes=1), tmp_path / "config.yaml")
    script = Path(__file__).with_name("crash_points.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment(), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    crashes = [int(n) for n in done.stdout.split()]
    print(f"crashed at {len(crashes)} points")
    assert len(crashes) > 20
    for n in crashes:
        assert_same_tree(tmp_path / f"crash_{n}/out", tmp_path / "unbroken/out")
        assert verify(str(tmp_path / f"crash_{n}/out")).problems == ()
