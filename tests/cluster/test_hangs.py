"""What never returns, on three hosts: a read, a kernel, a worker that is stopped. The run ends, the rest is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import testbed
from conftest import ROOT
from engine_kit import config, do, job, write_shards
from omegaconf import OmegaConf

from robocache.output.dataset import Output
from robocache.output.verify import verify

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("testbeds")]

WAYS = {"log_003.parquet": "read", "log_006.parquet": "kernel", "log_009.parquet": "stopped"}
DRIVER = """
import sys, ray_kit
from robocache import cli
from robocache.engine import run
ways = dict(word.split("=") for word in sys.argv[2:])
run.Processor = lambda *args: ray_kit.Stuck(*args, ways=ways)
sys.exit(cli.main(["run", sys.argv[1]]))
"""
PATH = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'engine'}"}


def prepare(tmp_path: Path, ways: dict[str, str], **limits: object) -> tuple[Path, list[str]]:
    logs = write_shards(tmp_path / "logs", 12)
    cluster = {"mode": "ray", "cpus_per_worker": 1, "memory_mb": 200, "max_attempts": 2, "shard_deadline": 20}
    made = config(logs, tmp_path / "out", cluster=cluster, input__max_failed_episodes=3, **limits)
    OmegaConf.save(made, tmp_path / "config.yaml")
    words = [f"{id}={way}" for id, way in ways.items()]
    return logs, [sys.executable, "-c", DRIVER, str(tmp_path / "config.yaml"), *words]


@pytest.mark.timeout(600)
def test_a_run_ends_whatever_hangs(tmp_path):
    logs, command = prepare(tmp_path, WAYS, input__read_timeout=5)
    do(job(logs, tmp_path / "undisturbed"))
    with testbed.Testbed(3, env=PATH) as bed, (tmp_path / "log").open("wb") as log:
        code = bed.popen(command, stdout=log, stderr=log).wait(timeout=500)
    print((tmp_path / "log").read_text())
    assert code == 0
    found = {q.id: q.reason for q in Output.open(str(tmp_path / "out")).quarantine}
    print(*(f"{id}: {WAYS.get(id)}: {reason}" for id, reason in sorted(found.items())), sep="\n")
    assert found.keys() == WAYS.keys()
    assert "has not returned within 5 s (input.read_timeout)" in found["log_003.parquet"]
    for id in ("log_006.parquet", "log_009.parquet"):
        assert found[id] == "processing it alone has not ended within 20 s (cluster.shard_deadline)"
    parts = {path.name: path.read_bytes() for path in (tmp_path / "undisturbed/data").iterdir()}
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out/data").iterdir()}
    assert len(kept) == len(parts) - len(WAYS) and kept.items() <= parts.items()
    assert verify(str(tmp_path / "out")).problems == ()
