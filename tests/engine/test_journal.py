"""A run in local mode that its input crashes: what the next run knows of it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_kit import META, ROOT, assert_same_tree, config, do, environment, job, write_shards
from omegaconf import OmegaConf

from robocache.engine.journal import Journal
from robocache.engine.shards import Shard
from robocache.output.store import Store
from robocache.types import EpisodeRef

DRIVER = """
import sys, ray_kit
from robocache import cli
from robocache.engine import run
run.Processor = lambda *args: ray_kit.Mortal(*args, ways={sys.argv[1]: sys.argv[2]})
sys.exit(cli.main(["run", "config.yaml"]))
"""


def crash(work: Path, episode: str, way: str) -> subprocess.CompletedProcess[str]:
    env = environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/engine'}"}
    command = [sys.executable, "-c", DRIVER, episode, way]
    return subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=240)


def quarantined(work: Path) -> dict[str, str]:
    lines = (work / f"out/{META}/_quarantine.jsonl").read_text().splitlines()
    return {q["id"]: q["reason"] for q in map(json.loads, lines)}


@pytest.mark.slow
def test_an_episode_that_crashes_the_process_costs_itself_and_one_run(tmp_path):
    logs = write_shards(tmp_path / "logs", 4)
    OmegaConf.save(
        config(logs, "out", input__max_failed_episodes=1, cluster={"max_attempts": 2}), tmp_path / "config.yaml"
    )
    first = crash(tmp_path, "log_001.parquet", "segfault")
    assert first.returncode == -signal.SIGSEGV
    for _ in range(2):  # a third run does not forget
        again = crash(tmp_path, "log_001.parquet", "segfault")
        assert again.returncode == 0, again.stderr
        assert "an earlier run crashed (Fatal Python error: Segmentation fault)" in again.stderr
        reason = "its process ended 2 times by signal SIGSEGV while processing it alone"
        assert quarantined(tmp_path) == {"log_001.parquet": reason}
    healed = crash(tmp_path, "none", "")  # a reader that was mended, say
    assert healed.returncode == 0 and quarantined(tmp_path) == {}
    do(job(logs, tmp_path / "plain"))
    assert_same_tree(tmp_path / "out", tmp_path / "plain")


def test_who_is_suspected(tmp_path):
    (tmp_path / META).mkdir(parents=True)
    store = Store(str(tmp_path))
    path = tmp_path / f"{META}/_in_flight.log"
    a, b, c = (Shard(i, (i,), (EpisodeRef(f"e{i}", "parquet", ()),)) for i in range(3))

    def died(*shards: Shard, ended: tuple[Shard, ...] = (), saying: str = "") -> None:
        """A run that ended as it was at ``shards``; nothing of it is cleaned up."""
        journal = Journal(store, 2)
        with contextlib.suppress(InterruptedError), journal.keeping():
            for s in (*shards, *ended):
                journal.begins(s)
            for s in ended:
                journal.ends(s)
            raise InterruptedError
        with path.open("a") as file:
            file.write(saying)

    def suspects() -> frozenset[str]:
        return Journal(store, 2).suspects

    assert suspects() == frozenset()
    died(a, b, ended=(c,))
    assert suspects() == frozenset()  # it may have been anyone
    died(b, ended=(a,))
    assert suspects() == {b.fingerprint()}
    died(a, saying="Fatal Python error: Segmentation fault\n\nCurrent thread 0x01 (most recent call first):\n")
    assert suspects() == {a.fingerprint(), b.fingerprint()}
    died(ended=(a, b))
    assert suspects() == frozenset()
    with Journal(store, 2).keeping():
        assert path.exists()
    assert not path.exists()
