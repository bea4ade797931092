"""Recordings whose stamps are a grid's, so that what a LeRobot tree must hold is known without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.config.job import Job
from robocache.config.load import job_from_mapping

FPS = 20
START = 1_700_000_000_000_000_000


def values(seed: int, rows: int) -> dict[str, Any]:
    """By column; ``q`` float32 ``[rows, 3]``, the others ``[rows]`` or ``[rows, 2, 2]``."""
    rng = np.random.default_rng(seed)
    return {
        "q": rng.standard_normal((rows, 3)).astype(np.float32),
        "grip": rng.random(rows),
        "grid": rng.random((rows, 2, 2)).astype(np.float32),
        "count": rng.integers(-5, 5, rows),
        "ok": rng.random(rows) < 0.5,
        "note": [f"note {seed}.{i}" for i in range(rows)],
        "task": ["reach" if i < rows // 2 else f"grasp {seed % 2}" for i in range(rows)],
    }


def loaded(out: Path) -> pa.Table:
    """All rows, in the order of the files."""
    return pa.concat_tables(pq.read_table(p) for p in sorted((out / "data").glob("*/*.parquet")))


def record(path: Path, seed: int, rows: int, *, without: range = range(0)) -> dict[str, Any]:
    """Write a recording at ``FPS``; its values. without: rows of ``q`` that are not a number."""
    found = values(seed, rows)
    found["q"][list(without)] = np.nan
    write(path, seed, found)
    return found


def write(path: Path, seed: int, found: dict[str, Any]) -> None:
    """A recording at ``FPS`` of these columns."""
    rows = len(next(iter(found.values())))
    path.parent.mkdir(parents=True, exist_ok=True)
    times = START + seed * 10**12 + np.arange(rows) * (10**9 // FPS)
    listed = {k: v.tolist() if isinstance(v, np.ndarray) and v.ndim > 2 else v for k, v in found.items()}
    listed["q"] = pa.FixedSizeListArray.from_arrays(pa.array(found["q"].reshape(-1)), 3)
    if "grid" in found:
        listed["grid"] = pa.array(listed["grid"], pa.list_(pa.list_(pa.float32(), 2), 2))
    pq.write_table(pa.table({"time": times, **listed}), path)


def job(logs: Path, out: Path | str, *, features: dict[str, Any] | None = None, **output: Any) -> Job:
    """``output``: keys of the section ``output.lerobot``, and ``format``."""
    own = {key: output.pop(key) for key in ("format", "shard_mb") if key in output}
    usual = {
        "observation.state": {"source": "q", "max_gap": "60ms"},
        "gripper": {"source": "grip", "dtype": "float64"},
        "observation.grid": {"source": "grid", "align": "nearest"},
        "count": {"source": "count"},
        "ok": {"source": "ok"},
        "note": {"source": "note"},
        "what": {"source": "task"},
    }
    told = output if features else {"task_feature": "what"} | output
    return job_from_mapping(
        {
            "input": {"uri": str(logs), "format": "parquet", "times": {"column": "time", "unit": "ns"}},
            "features": features or usual,
            "timeline": {"rate_hz": FPS},
            "output": {"uri": str(out), "format": "lerobot", "lerobot": told, **own},
            "compute": {"device": "cpu", "threads": 2},
        }
    )


#: A state, a window of it and a camera that becomes a video.
WHOLE = {"observation.state": "q", "force": {"source": "q", "window": 2}, "observation.images.top": "cam"}


def whole_job(logs: Path, out: Path | str) -> Job:
    """Of those features, in several shards and files."""
    return job(logs, out, features=WHOLE, shard_mb=1, data_mb=1, video="h264")


if __name__ == "__main__":  # a run in a process of its own, which says when it has begun, and when it makes the tree
    import sys

    import robocache.engine.run as engine

    finalise = engine.finalise

    def said(*args: Any) -> tuple[str, ...]:
        print("tree", flush=True)
        return finalise(*args)

    engine.finalise = said
    print("begun", flush=True)
    engine.run(whole_job(Path(sys.argv[1]), sys.argv[2]))
