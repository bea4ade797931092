"""What the engine's tests share: small recordings, jobs on them, runs in a process of their own, whole-tree digests."""

from __future__ import annotations

import os
import re
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
from robocache.output.layout import (
    DATA,
    EPISODES,
    QUARANTINE,
    STATISTICS,
    manifest_file,
    version_folder,
)
from robocache.output.store import Store
from robocache.output.tables import Summary
from robocache.output.verify import verify

ROOT = Path(__file__).resolve().parents[2]
META = "meta/robocache"
#: Files that tell how a run went, or where to, rather than what it made.
HOW_IT_WENT = ("/_report.json", "/_config.yaml")


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
    return OutputWriter.begin(Store(job.output.uri, job.output.storage_options))


def table(out: Path) -> pa.Table:
    """All rows of an output, in order of its parts."""
    tables = []
    for path in sorted((out / "data").iterdir()):
        tables.append(pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all())
    return pa.concat_tables(tables)


def tree(out: Path, *, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file below ``out`` with its bytes, except what tells how the run went, of which only the name."""
    files = [p for p in sorted(out.rglob("*")) if not p.is_dir()]
    return timeless({p.relative_to(out).as_posix(): p.read_bytes() for p in files}, but)


def timeless(files: Mapping[str, bytes], but: Sequence[str] = ()) -> dict[str, bytes]:
    """The same without what tells how the run went and when."""
    return {
        name: b"" if name.endswith(HOW_IT_WENT) or name in but else re.sub(rb'"made": "[^"]*"', b"", data)
        for name, data in files.items()
    }


def folder(out: Path, number: int = 1) -> Path:
    """Of a version."""
    return out / version_folder(number)


def manifest(out: Path, number: int = 1) -> Path:
    return out / manifest_file(number)


def part(out: Path, episode: int) -> Path:
    """The one part that begins with that episode."""
    (found,) = (out / "data").glob(f"part-{episode:06d}-*")
    return found


def assert_same_dataset(out: Path, expected: Path) -> None:
    """The same rows in the same parts, and the same tables, whatever the versions before."""

    assert dataset_of(tree(out)) == dataset_of(tree(expected))


def dataset_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Parts, and the tables made of the newest version."""
    return {n: d for n, d in files.items() if n in (EPISODES, QUARANTINE, STATISTICS) or n.startswith(f"{DATA}/")}


def assert_same_tree(out: Path, expected: Path, *, but: Sequence[str] = ()) -> None:
    """Same files, same bytes; says which differ rather than how."""
    one, other = tree(out, but=but), tree(expected, but=but)
    assert list(one) == list(other)
    assert [name for name in one if one[name] != other[name]] == []


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
