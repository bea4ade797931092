"""The ray mode with real GPUs: the bytes of the CPU, faults of the device itself, and a card for each worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from engine_kit import ROOT, assert_same_tree, do, job
from ray_kit import first

from robocache.engine import retry
from robocache.engine import run as engine
from robocache.engine.align import Aligner, Begun
from robocache.engine.process import Processor, ShardResult
from robocache.engine.shards import Shard
from robocache.types import Episode

ray = pytest.importorskip("ray", reason="Ray is not installed")
CARDS = torch.cuda.device_count()
pytestmark = [pytest.mark.ray, pytest.mark.gpu, pytest.mark.skipif(not CARDS, reason="no CUDA device")]

SHARDS = 12


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent), *_inherited()]))
        ray.init(address="local", include_dashboard=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


def _inherited() -> list[str]:
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]


def gpu_job(logs: Path, out: Path, workers: int = 1):
    cluster = {"mode": "ray", "workers": workers, "gpus_per_worker": 1, "memory_mb": 1000, "max_attempts": 3}
    return job(logs, out, cluster=cluster, compute={"device": "cuda", "require_extension": True})


@dataclass(frozen=True)
class FaultyAligner(Aligner):
    """Real faults of the device, once each: no memory left, and an assertion in a kernel, which ends the context."""

    folder: str = ""

    def begin(self, index: int, episode: Episode) -> Begun:
        assert torch.device(self.device).type == "cuda"
        if episode.id == "log_002.parquet" and first(self.folder, "memory"):
            torch.empty(1 << 45, dtype=torch.uint8, device=self.device)
        if episode.id == "log_005.parquet" and first(self.folder, "device"):
            torch.zeros(4, device=self.device)[torch.tensor([9], device=self.device)].cpu()
        return super().begin(index, episode)


@dataclass(frozen=True)
class Faulty(Processor):
    folder: str = ""

    @cached_property
    def aligner(self) -> Aligner:
        return FaultyAligner(self.job, self.types, self.device, self.folder)


@dataclass(frozen=True)
class Telling(Processor):
    """Leaves a file for each process and card that made a shard."""

    folder: str = ""

    def process(self, shard: Shard, **options: object) -> ShardResult:
        result = super().process(shard, **options)  # type: ignore[arg-type]
        card = torch.cuda.get_device_properties(self.device).uuid
        (Path(self.folder) / f"{os.getpid()} {card} {os.environ['CUDA_VISIBLE_DEVICES']}").touch()
        return result


def test_the_same_bytes_as_the_cpu(tmp_path, cluster, logs, local):
    do(gpu_job(logs, tmp_path / "out"))
    assert_same_tree(tmp_path / "out", local)


def test_faults_of_the_device(tmp_path, cluster, logs, local, monkeypatch, caplog):
    """Neither an episode nor a shard is lost for them, and the worker goes on with a clean context."""
    monkeypatch.setattr(retry, "BACKOFF_S", 0.01)
    monkeypatch.setattr(engine, "Processor", lambda *args: Faulty(*args, folder=str(tmp_path)))
    do(gpu_job(logs, tmp_path / "out"))
    print(caplog.text)
    assert (tmp_path / "memory.happened").exists() and (tmp_path / "device.happened").exists()
    assert "out of memory" in caplog.text and "its worker died" in caplog.text
    assert_same_tree(tmp_path / "out", local)


@pytest.mark.skipif(CARDS < 2, reason=f"needs two GPUs, found {CARDS}")
def test_each_worker_has_a_card_of_its_own(tmp_path, cluster, logs, local, monkeypatch):
    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setattr(engine, "Processor", lambda *args: Telling(*args, folder=str(seen)))
    do(gpu_job(logs, tmp_path / "out", workers=CARDS))
    found = [tuple(p.name.split()) for p in seen.iterdir()]
    print("process, card, CUDA_VISIBLE_DEVICES:", *found, sep="\n")
    assert len(found) == CARDS == len({card for _, card, _ in found}) == len({process for process, _, _ in found})
    assert_same_tree(tmp_path / "out", local)
