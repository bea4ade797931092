"""What the engine's tests share: small recordings, jobs on them, runs in a process of their own, whole-tree digests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from robocache.config.job import Job
from robocache.config.load import job_from_mapping
from robocache.engine.run import run
from robocache.output.commit import OutputWriter
from robocache.output.store import Store
from robocache.output.tables import Summary
from robocache.output.verify import verify

ROOT = Path(__file__).resolve().parents[2]
META = "meta/robocache"
#: Files that tell how a run went, or where to, rather than what it made.
HOW_IT_WENT = {f"{META}/_report.json", f"{META}/_config.yaml"}


def write_parquet(path: Path, *, samples: int = 400, seed: int = 0, rate_hz: float = 100.0, **columns: object) -> None:
    """One recording: jittered stamps, ``q`` of 3 numbers and ``grip`` of one, and whatever else is given."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0.6, 1.4, samples) * 1e9 / rate_hz
    times = 1_700_000_000_000_000_000 + seed * 10_000_000_000 + np.cumsum(steps).astype(np.int64)
    q = pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(3 * samples)), 3)
    table = {"time": times, "q": q, "grip": rng.random(samples), **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, compression="none", use_dictionary=False, write_page_checksum=True)


def write_recordings(folder: Path, count: int, **options: object) -> Path:
    for i in range(count):
        write_parquet(folder / f"log_{i:03d}.parquet", seed=i, **options)
    return folder


def write_shards(folder: Path, count: int, samples: int = 100) -> Path:
    """Recordings of which each fills a shard of 1 MB, mostly with a column that no job reads."""
    padding = np.random.default_rng(0).bytes(1_000_000 // samples)
    return write_recordings(folder, count, samples=samples, padding=[padding] * samples)


def config(logs: Path, out: Path | str, **changes: object) -> dict:
    """A config for :func:`write_recordings`; ``changes`` are dotted keys with ``__`` for the dot."""
    base = OmegaConf.create(
        {
            "input": {"uri": str(logs), "format": "parquet", "times": {"column": "time", "unit": "ns"}},
            "features": {
                "observation.state": [{"source": "q", "max_gap": "50ms"}, {"source": "grip", "align": "previous"}],
                "action": {"source": "grip", "align": "next"},
            },
            "timeline": {"rate_hz": 50},
            "output": {"uri": str(out), "shard_mb": 1},
            "compute": {"device": "cpu", "threads": 2},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(base, key.replace("__", "."), value, merge=not isinstance(value, Mapping), force_add=True)
    return OmegaConf.to_container(base)


def job(logs: Path, out: Path | str, **changes: object) -> Job:
    return job_from_mapping(OmegaConf.create(config(logs, out, **changes)))


def do(job: Job, **options: object) -> Summary:
    """Run, and insist that what it left is whole."""
    summary = run(job, **options)
    assert verify(job.output.uri).problems == ()
    return summary


def writing(job: Job) -> AbstractContextManager[OutputWriter]:
    """The job's output, held for writing as a run does."""
    store = Store(job.output.uri, job.output.storage_options)
    return OutputWriter.begin(store, job.identity(), "config: test\n", format=job.output.format)


def table(out: Path) -> pa.Table:
    """All rows of an output, in order of its parts."""
    tables = []
    for path in sorted((out / "data").iterdir()):
        tables.append(pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all())
    return pa.concat_tables(tables)


def tree(out: Path, *, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file below ``out`` with its bytes, except what tells how the run went, of which only the name."""
    files = [p for p in sorted(out.rglob("*")) if not p.is_dir()]
    names = {p.relative_to(out).as_posix(): p for p in files}
    return {name: b"" if name in HOW_IT_WENT or name in but else p.read_bytes() for name, p in names.items()}


def assert_same_tree(out: Path, expected: Path, *, but: Sequence[str] = ()) -> None:
    """Same files, same bytes; says which differ rather than how."""
    one, other = tree(out, but=but), tree(expected, but=but)
    assert list(one) == list(other)
    assert [name for name in one if one[name] != other[name]] == []


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(*arguments: str, cwd: Path, **options: object) -> subprocess.Popen[str]:
    """``robocache`` in a process of its own, output to pipes."""
    command = [sys.executable, "-m", "robocache.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, cwd=cwd, env=environment(), **pipes)


def robocache(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
