"""Everything that can go wrong on a cluster, during one run: nothing is lost, nothing is twice, only the guilty go.

By default 200 shards, 5 killed actors and a link that stays cut until its node is given up for dead, which Ray is told
to do soon; ROBOCACHE_CHAOS=full is 20 killed actors, a link cut for 30 s, and Ray's own patience.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import testbed
from conftest import ROOT
from engine_kit import META, config, do, job, write_shards
from omegaconf import OmegaConf

from robocache.output.layout import manifest_file
from robocache.output.verify import verify

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("testbeds")]

POISONED = "log_125.parquet"
SOON = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
DRIVER = """
import sys, ray_kit
from robocache import cli
from robocache.engine import run
config, folder, poisoned, seconds = sys.argv[1:]
run.Processor = lambda *args: ray_kit.Chaos(*args, ways={poisoned: "segfault"}, folder=folder, seconds=float(seconds))
sys.exit(cli.main(["run", config]))
"""


class Run:
    """A run on a testbed, as its operator sees it."""

    def __init__(self, bed: testbed.Testbed, work: Path, shards: int, seconds: float):
        self.bed, self.work, self.shards = bed, work, shards
        self.log = work / "log"
        self.manifest = work / "out" / manifest_file(1)
        arguments = [str(work / "config.yaml"), str(work / "events"), POISONED, str(seconds)]
        self.command = [sys.executable, "-c", DRIVER, *arguments]
        (work / "events").mkdir()
        self.submit()

    def submit(self) -> None:
        with self.log.open("ab") as log:
            self.driver = self.bed.popen(self.command, stdout=log, stderr=log)

    def committed(self) -> int:
        return self.manifest.read_bytes().count(b"\n") if self.manifest.exists() else 0

    def until(self, true: Callable[[], object], seconds: float, what: str) -> float:
        """Seconds it took."""
        began = time.monotonic()
        while not true():
            assert self.driver.poll() is None, f"the run ended before {what}:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < began + seconds, f"not within {seconds} s: {what}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.02)
        return time.monotonic() - began

    def until_committed(self, count: int) -> None:
        self.until(lambda: self.committed() >= count, 200, f"{count} shards")

    def happened(self, event: str) -> bool:
        return (self.work / f"events/{event}.happened").exists()

    def lost(self, host: testbed.Host) -> bool:
        """True where the driver has given it up."""
        return re.search(rf"node {re.escape(host.address)} .*: the node is lost", self.log.read_text()) is not None

    def works(self, host: testbed.Host) -> bool:
        """True where an actor that lives there has done a shard."""
        return any(self.happened(f"shard by {pid}") for pid in self.bed.actors(host))

    def kill_one(self, rng: random.Random) -> bool:
        """False where there was none to kill: Ray may just have replaced it."""
        try:
            self.bed.kill_actor(rng.choice(self.bed.actors()))
        except (IndexError, ProcessLookupError):
            return False
        return True

    def kill_actors(self, count: int, seed: int) -> None:
        """One after another, each while others work."""
        rng = random.Random(seed)
        for _ in range(count):
            self.until(lambda: self.kill_one(rng), 60, "a live actor")
            self.until_committed(self.committed() + 1)
            time.sleep(rng.uniform(0, 1))


@pytest.mark.timeout(600)
def test_chaos(tmp_path):
    full = os.environ.get("ROBOCACHE_CHAOS") == "full"
    shards, seconds, kills, cut_s = (600, 0.3, 20, 30) if full else (200, 0.25, 5, 0)
    logs = write_shards(tmp_path / "logs", shards)
    do(job(logs, tmp_path / "undisturbed"))
    spec = {"mode": "ray", "cpus_per_worker": 1, "memory_mb": 200}
    OmegaConf.save(config(logs, tmp_path / "out", cluster=spec, input__max_failed_episodes=1), tmp_path / "config.yaml")
    path = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'engine'}"}
    with testbed.Testbed(3, env=path | ({} if full else SOON)) as bed:
        run = Run(bed, tmp_path, shards, seconds)
        first, second = bed.hosts["h1"], bed.hosts["h2"]
        run.until_committed(10)
        began = time.monotonic()

        def note(what: str) -> None:
            print(f"{time.monotonic() - began:6.1f} s, {run.committed():3} shards: {what}", flush=True)

        run.kill_actors(kills // 2, seed=0)
        note(f"{kills // 2} actors killed")

        bed.kill_raylet(first)
        joined = bed.add_host()
        took = run.until(lambda: run.works(joined), 30, "work on the host that joined")
        note(f"raylet of {first.name} killed; {joined.name} joined, and did a shard after {took:.1f} s")
        assert run.until(lambda: not bed.actors(first), 10, "the end of the workers without a raylet") < 10

        run.until(lambda: run.works(second), 60, "work on the host to cut off")  # killed actors may have moved
        bed.cut(second)
        cut_off = set(bed.actors(second))
        assert cut_off
        cut_at = time.monotonic()
        before = run.committed()
        run.until_committed(before + 10)
        note(f"{second.name} cut off; the others go on")
        if cut_s:  # Ray is not sure yet when it comes back, and most often gives it up later
            time.sleep(max(0.0, cut_at + cut_s - time.monotonic()))
            assert not run.lost(second)
            bed.restore(second)
            note(f"link restored after {time.monotonic() - cut_at:.0f} s")
            while not run.lost(second) and time.monotonic() < cut_at + 80:
                time.sleep(0.1)
            note("the driver gave the node up" if run.lost(second) else "the node went on")
        else:
            took = run.until(lambda: run.lost(second), 60, "the loss of the node to be seen")
            assert set(bed.actors(second)) == cut_off  # they know nothing of it, and write on
            bed.restore(second)
            note(f"the driver knows after {took:.1f} s; link restored")

        run.until_committed(shards // 2)
        old = set(bed.actors())
        run.driver.kill()
        assert run.driver.wait() == -signal.SIGKILL
        kept = run.committed()
        assert kept < shards
        note("driver killed")
        run.submit()
        took = run.until(lambda: not old & set(bed.actors()), 60, "the end of the killed driver's actors")
        note(f"submitted again; the old actors are gone after {took:.1f} s")
        bed.start(first)
        took = run.until(lambda: run.works(first), 30, "work on the host that came back")
        note(f"{first.name} is back, and did a shard after {took:.1f} s")
        run.kill_actors(kills - kills // 2, seed=1)
        note(f"{kills} actors killed")
        code = run.driver.wait(timeout=300)
        note("the run ends")
        assert code == 0, run.log.read_text()
    assert all(run.happened(event) for event in ("storage", "memory", "device", "python"))
    assert verify(str(tmp_path / "out")).problems == ()
    same_but_for_the_poisoned(tmp_path / "out", tmp_path / "undisturbed")


def same_but_for_the_poisoned(out: Path, undisturbed: Path) -> None:
    """The parts byte for byte, the manifest line by line; its shard is empty, and it alone is in the quarantine."""
    number = int(POISONED[4:7])
    parts = {p.name: p.read_bytes() for p in (undisturbed / "data").iterdir()}
    del parts[f"part-{number:06d}.parquet"]
    found = {p.name: p.read_bytes() for p in (out / "data").iterdir()}
    assert sorted(found) == sorted(parts)
    assert [name for name in parts if parts[name] != found[name]] == []
    lines, expected = ((folder / manifest_file(1)).read_text().splitlines() for folder in (out, undisturbed))
    assert [i for i, (one, other) in enumerate(zip(lines, expected, strict=True)) if one != other] == [number]
    (quarantined,) = json.loads(lines[number])["quarantined"]
    assert quarantined["id"] == POISONED
    assert quarantined["reason"] == "its process ended 3 times by signal SIGSEGV while processing it alone"
    assert (out / META / "_quarantine.jsonl").read_text().count("\n") == 1
