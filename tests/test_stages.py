"""Seconds by stage: what lies within another stage counts for itself, in whatever thread it is done."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
from process_kit import ROOT

from robocache import run, stages
from robocache.cli.run import render
from robocache.output.layout import REPORT
from robocache.sample import write_samples
from robocache.stages import STAGES, Stages, peak_bytes, stage


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told to."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "perf_counter", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def test_a_stage_within_another_is_none_of_its_time(clock):
    counted = Stages()
    with counted.time("decode"):
        clock(1)
        with stage("inflate"):
            clock(20)
            with stage("read"):
                clock(300)
        clock(4000)
        with suppress(ValueError), stage("inflate"):
            clock(50000)
            raise ValueError("damaged")
        clock(600000)
    clock(7000000)
    assert counted.taken() == {"decode": 604001, "inflate": 50020, "read": 300}
    assert counted.taken() == {}


def test_who_does_the_work_need_not_know_whether_anybody_counts(clock):
    with stage("inflate"):
        clock(1)
    counted = Stages()

    def elsewhere() -> None:
        with stage("read"):
            clock(20)

    with counted.time("decode"):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    assert counted.taken() == {"decode": 20.0}


def test_a_run_says_where_its_time_went(tmp_path):
    write_samples(tmp_path / "logs", episodes=2, seconds=2.0, damaged=False)
    config = {
        "input": {"uri": f"{tmp_path}/logs/*.mcap"},
        "features": {"observation.state": [{"source": "/joint_states.position"}]},
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(tmp_path / "out")},
        "compute": {"threads": 2, "device": "cpu"},
    }
    summary = run(config)
    assert set(summary.stages) == set(STAGES)
    assert list(summary.stages) == list(STAGES)
    assert summary.workers == 2 and summary.peak_bytes > 50e6
    assert all(seconds >= 0 for seconds in summary.stages.values())
    assert sum(summary.stages.values()) <= 2 * summary.seconds
    (line,) = (line for line in render(summary) if "bound by" in line)
    assert line.startswith("2 workers, at most ") and "decode" in line
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert report["stages"] == dict(summary.stages) and report["peak_bytes"] == summary.peak_bytes
    assert set(run(config).stages) <= {"wait"}  # there was nothing to do


@pytest.mark.parametrize(("shards", "said"), [(2, "too few episodes"), (1, "a smaller output.shard_mb")])
def test_what_would_help_workers_that_wait_is_what_can(tmp_path, shards, said):
    write_samples(tmp_path / "logs", episodes=2, seconds=1.0, damaged=False)
    summary = run(
        {
            "input": {"uri": f"{tmp_path}/logs/*.mcap"},
            "features": {"state": [{"source": "/joint_states.position"}]},
            "timeline": {"rate_hz": 50},
            "output": {"uri": str(tmp_path / "out")},
        }
    )
    waiting = dataclasses.replace(summary, stages={"wait": 9.0, "decode": 1.0}, shards=shards)
    assert any(said in line for line in render(waiting))


def test_the_peak_is_the_process_s_own():
    """Not that of whoever started it, with which the system's own count begins."""
    held = np.ones(40_000_000)
    code = "from robocache.stages import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 1_000_000 < int(done.stdout) < held.nbytes < peak_bytes()
