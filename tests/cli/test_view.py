"""``robocache view``: what a Rerun recording holds, and what is said where there is no Rerun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from engine_kit import config, write_parquet

from robocache import cli
from robocache.engine.run import run
from robocache.video import png


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("view")
    for seed in range(2):
        image = png(np.full((20, 30, 3), 40 * seed, np.uint8))
        write_parquet(root / f"logs/{seed}.parquet", samples=60, seed=seed, image=pa.array([image] * 60))
    features = {"q": {"source": "q"}, "image": {"source": "image", "max_gap": "none"}}
    run(config(root / "logs", root / "out", features=features))
    return root / "out"


def test_without_rerun_the_extra_is_named(out, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert cli.main(["view", str(out), "-o", str(out / "x.rrd")]) == cli.USAGE
    assert "pip install 'robocache[view]'" in capsys.readouterr().err


def test_raw_beside_fused(out, tmp_path, capsys):
    pytest.importorskip("rerun", reason="the extra `view` is not installed")
    path = tmp_path / "view.rrd"
    assert cli.main(["view", str(out), "-o", str(path), "--episode", "0.parquet", "--episode", "1.parquet"]) == cli.DONE
    assert f"{path}: " in capsys.readouterr().out
    told = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", "-v", str(path)], capture_output=True, text=True
    )
    for place in (0, 1):
        for entity in ("raw/q", "fused/q", "raw/image", "fused/image"):
            assert f"/episode_{place}/{entity}" in told.stdout
    assert "Scalars" in told.stdout and "EncodedImage" in told.stdout
    assert cli.main(["view", str(out), "-o", str(path), "--episode", "2.parquet"]) == cli.USAGE
    assert "none of 2 episodes" in capsys.readouterr().err
