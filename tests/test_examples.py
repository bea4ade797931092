"""The scripts of examples/, run as a person would: from an empty folder, to their end."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from robocache import cli
from robocache.sample import write_samples

ROOT = Path(__file__).resolve().parent.parent
KEYS = [("episode_index", "ascending"), ("frame_index", "ascending")]
needs_ray = [pytest.mark.ray, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]


def run(folder: Path, script: str, *arguments: str) -> str:
    """What it printed; it must have ended well."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    env.pop("RAY_ADDRESS", None)  # each has a cluster of its own
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo(tmp_path):
    out = run(tmp_path, "demo.py", "--episodes", "3", "--seconds", "4")
    assert "verify: whole" in out and "robocache report out/demo" in out
    assert "episode_003.mcap" in out  # the quarantined one
    table = pq.read_table(tmp_path / "out/demo/data")
    assert set(table["episode_index"].to_pylist()) == {0, 1, 2}


def test_pytorch_dataloader(tmp_path, monkeypatch, capsys, request):
    """In this process, on a small demo: the loss falls, the second half begins where the first ended."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(1)  # as small as it is, threads would wait for each other
    write_samples("sample_logs", episodes=3, seconds=3.0, seed=0)
    assert cli.main(["run", "-q", str(ROOT / "configs/demo.yaml")]) == cli.DONE
    capsys.readouterr()
    example = runpy.run_path(str(ROOT / "examples/pytorch_dataloader.py"))
    assert example["main"](["--steps", "60", "--batch-size", "64"]) == 0
    out = capsys.readouterr().out
    losses = [float(x) for x in re.findall(r"^step .* loss (\S+) ", out, re.MULTILINE)]
    assert len(losses) == 3 and losses[-1] < 0.6 * losses[0]
    assert "goes on at step 30" in out and "step   60" in out
    assert re.search(r"has not seen: \d\.\d+ \(without .*: \d\.\d+\)", out)
    # Stopped and gone on is the same as never stopped.
    whole = example["Training"](example["windows"]("out/demo", validation=False), 64)
    whole.run(60)
    halves = example["Training"](whole.batches.dataset, 64)
    halves.load(Path("policy.pt"))
    halves.run(60)
    for a, b in zip(whole.policy.parameters(), halves.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert example["main"](["nowhere"]) == 1


@pytest.mark.timeout(1000)  # its processes start and are killed again and again; a busy machine starts them slowly
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["local", pytest.param("ray", marks=needs_ray)])
def test_failure_recovery(tmp_path, mode):
    out = run(tmp_path, "failure_recovery.py", "--mode", mode, "--episodes", "30", "--seed", "0")
    killed = re.findall(r"killed (\w+) \d+ with (\d+) shards", out)
    expected = {"local": ["driver"] * 3, "ray": ["worker", "worker", "driver", "worker"]}
    assert [victim for victim, _ in killed] == expected[mode]
    assert all(0 < int(shards) < 31 for _, shards in killed)
    assert "exit code 0; verify: whole" in out
    assert "the same bytes as undisturbed" in out
    assert re.search(r"quarantined: episode_030\.mcap: .*ends in the middle of a record", out)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_multi_gpu_inference(tmp_path):
    out = run(tmp_path, "multi_gpu_inference.py", "--actors", "2")
    assert "one prediction for each row of the dataset" in out
    rows = [int(n.replace(",", "")) for n in re.findall(r"process \d+, .*? ([\d,]+) +│", out)]
    predictions = pq.read_table(tmp_path / "out/inference/predictions").sort_by(KEYS)
    dataset = pq.read_table(tmp_path / "out/inference/dataset/data").sort_by(KEYS)
    assert 1 <= len(rows) <= 2
    assert sum(rows) == predictions.num_rows == dataset.num_rows
    statistics = json.loads((tmp_path / "out/inference/dataset/meta/robocache/_statistics.json").read_text())
    example = runpy.run_path(str(ROOT / "examples/multi_gpu_inference.py"))
    columns = [name for name in statistics if name.startswith("observation.")]
    weights = example["untrained"](statistics, columns)
    policy = example["Policy"](len(weights["mean"]), 7)
    policy.load_state_dict(weights)
    for episode, frame in ((0, 0), (3, 2), (5, 500)):  # the window as a loop over rows
        seen = {r["frame_index"]: r for r in dataset.filter(pc.field("episode_index") == episode).to_pylist()}
        window = []
        for k in range(frame - 7, frame + 1):
            row, numbers = seen[max(k, 0)], []
            for c in columns:
                valid = row[f"{c}.valid"]
                numbers += [x if valid else 0.0 for x in row[c]] + [float(valid)]
            window.append(numbers)
        of_row = (pc.field("episode_index") == episode) & (pc.field("frame_index") == frame)
        found = predictions.filter(of_row)["action.predicted"].to_pylist()
        with torch.inference_mode():
            np.testing.assert_allclose(found, policy(torch.tensor([window])).numpy(), rtol=1e-4, atol=1e-5)
