"""The Ray Data door: the rows of ``robocache run``, bit for bit, and no episode that vanishes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import robocache
from robocache.config.job import Job
from robocache.config.load import job_from_mapping, load_job
from robocache.engine.align import Aligner, Begun
from robocache.engine.process import Processor
from robocache.errors import ConfigError, DeviceLostError, InputError
from robocache.sample import write_samples
from robocache.types import Episode, Stream

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
ORDER = [("episode_index", "ascending"), ("frame_index", "ascending")]

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray is installed without Ray Data")
from robocache import AlignEpisodes, EpisodeDatasource, episode_rows, read_episodes  # noqa: E402
from robocache.engine.ray import data as ray_data  # noqa: E402


@pytest.fixture
def cluster(ray_cluster):
    ray.data.DataContext.get_current().enable_progress_bars = False


def aligned(source: EpisodeDatasource, quarantine: Path | None = None, **options: object) -> ray.data.Dataset:
    arguments = {"batch_size": 1, "num_cpus": 0.5, "compute": ray.data.ActorPoolStrategy(size=1)} | options
    return ray.data.read_datasource(source).map_batches(
        AlignEpisodes,
        fn_constructor_args=(source.processor, quarantine and str(quarantine)),
        batch_format="pyarrow",
        **arguments,
    )


def rows(folder: Path) -> pa.Table:
    return pq.read_table(folder).sort_by(ORDER)


def reasons_of_run(out: Path) -> dict[str, str]:
    lines = (out / "meta/robocache/_quarantine.jsonl").read_text().splitlines()
    return {q["id"]: q["reason"] for q in map(json.loads, lines)}


def reasons_in(folder: Path) -> dict[str, str]:
    return {q["id"]: q["reason"] for q in (json.loads(p.read_text()) for p in folder.glob("episode-*.json"))}


def through_ray(job: Job, tmp_path: Path, **options: object) -> None:
    aligned(EpisodeDatasource(job), tmp_path / "quarantine", **options).write_parquet(str(tmp_path / "rows"))


def same_as_a_run(job: Job, tmp_path: Path) -> pa.Table:
    """Do the job by a run, compare rows, columns and reasons with what :func:`through_ray` wrote; the rows."""
    robocache.run(job)
    expected, found = rows(Path(job.output.uri) / "data"), rows(tmp_path / "rows")
    assert found.schema.remove_metadata() == expected.schema.remove_metadata()
    # As bytes, because NaN is not equal to itself.
    for name in expected.column_names:
        assert _bytes(found[name]) == _bytes(expected[name]), name
    assert reasons_in(tmp_path / "quarantine") == reasons_of_run(Path(job.output.uri))
    return found


def _bytes(column: pa.ChunkedArray) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"c": pa.concat_arrays([column.combine_chunks()])})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def demo(logs: Path, out: Path, *overrides: str) -> Job:
    return load_job(str(CONFIGS / "demo.yaml"), [f"input.uri={logs}/*.mcap", f"output.uri={out}", *overrides])


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ray_data") / "logs"
    write_samples(folder, episodes=4, seconds=3.0)  # and a fifth that is cut off
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_same_rows_as_a_run_and_no_data_in_the_driver(tmp_path, cluster):
    write_samples(tmp_path / "logs", episodes=30, seconds=20.0)
    job = demo(tmp_path / "logs", tmp_path / "out", "output.shard_mb=8")
    size = sum(p.stat().st_size for p in (tmp_path / "logs").iterdir())
    before = driver_bytes()
    through_ray(job, tmp_path, compute=ray.data.ActorPoolStrategy(size=2), batch_size=3)
    grown = driver_bytes() - before
    print(f"{size / 1e6:.0f} MB of logs, the driver grew by {grown / 1e6:.1f} MB")
    assert grown < size / 3
    found = same_as_a_run(job, tmp_path)
    assert set(found["episode_index"].to_pylist()) == set(range(30))
    assert list(reasons_in(tmp_path / "quarantine")) == ["episode_030.mcap"]
    # What a run wrote is a Ray dataset too.
    back = pa.concat_tables(ray.get(ray.data.read_parquet(f"{job.output.uri}/data").to_arrow_refs()))
    assert back.sort_by(ORDER).equals(found.cast(back.schema))


def driver_bytes() -> int:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.ray
def test_rows_of_episodes_are_for_anyones_functions(cluster, logs, tmp_path):
    def samples(batch: pa.Table) -> pa.Table:
        counts = [sum(len(s.times) for s in row.episode.streams.values()) for row in episode_rows(batch)]
        return pa.table(
            {"id": batch["id"], "samples": counts, "failed": [bool(r.failure) for r in episode_rows(batch)]}
        )

    job = demo(logs, tmp_path / "out")
    episodes = read_episodes(job, override_num_blocks=2)
    found = {r["id"]: r for r in episodes.map_batches(samples, batch_format="pyarrow").take_all()}
    assert sorted(found) == [f"episode_{i:03d}.mcap" for i in range(5)]
    assert [r["failed"] for _, r in sorted(found.items())] == [False] * 4 + [True]
    refs = robocache.formats.list_episodes(job.input)
    whole = robocache.formats.read_episode(refs[0], job.sources, job.input)
    assert found["episode_000.mcap"]["samples"] == sum(len(s.times) for s in whole.streams.values())
    assert found["episode_004.mcap"]["samples"] == 0


@pytest.mark.ray
def test_without_a_quarantine_the_first_failure_ends_it(cluster, logs, tmp_path):
    source = EpisodeDatasource(demo(logs, tmp_path / "out"))
    with pytest.raises(InputError, match=r"episode_004\.mcap: ends in the middle of a record"):
        aligned(source).materialize()


def write_recording(path: Path, seed: int, samples: int = 300, **changes: object) -> None:
    """Jittered stamps (ms), an arm of 3 joints, counts, an encoded picture and a text; None leaves a column out."""
    rng = np.random.default_rng(seed)
    q = changes.pop("q", rng.standard_normal((samples, 3)))
    columns = {
        "time": np.cumsum(rng.uniform(0.6, 1.4, samples)) * 10,
        "q": pa.FixedSizeListArray.from_arrays(pa.array(q.reshape(-1)), q.shape[1]),
        "count": rng.integers(0, 1000, samples, dtype=np.int32),
        "picture": [rng.bytes(20) for _ in range(samples)],
        "task": [f"step {i // 100}" for i in range(samples)],
        **changes,
    }
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)


@pytest.mark.ray
def test_payloads_and_recordings_that_differ(tmp_path, cluster):
    """Float widths are kept through Ray's joining of blocks, what is absent stays absent, what does not fit is told."""
    logs = tmp_path / "logs"
    logs.mkdir()
    rng = np.random.default_rng(0)
    write_recording(logs / "a.parquet", 0)
    write_recording(logs / "b.parquet", 1, q=rng.standard_normal((300, 3)).astype(np.float32))
    write_recording(logs / "c.parquet", 2, count=None)
    write_recording(logs / "d.parquet", 3, picture=None)  # not optional
    write_recording(logs / "e.parquet", 4, q=rng.standard_normal((300, 5)))
    write_recording(logs / "f.parquet", 5, q=np.where(rng.random((300, 3)) < 0.05, np.nan, 1.0))
    write_recording(logs / "g.parquet", 6, task=np.arange(300))
    (logs / "h.parquet").write_bytes(b"PAR1 and then nothing")
    job = job_from_mapping(
        {
            "input": {"uri": str(logs), "times": {"column": "time", "unit": "ms"}, "max_failed_episodes": 4},
            "features": {
                "observation.state": [{"source": "q", "max_gap": "50ms"}],
                "observation.count": {"source": "count", "align": "previous", "optional": True},
                "observation.image": {"source": "picture", "align": "nearest", "max_gap": "5ms"},
                "task": {"source": "task", "align": "previous"},
            },
            "timeline": {"rate_hz": 100},
            "output": {"uri": str(tmp_path / "out")},
            "compute": {"device": "cpu"},
        }
    )
    through_ray(job, tmp_path, batch_size=8)
    found = same_as_a_run(job, tmp_path)
    assert set(found["episode_index"].to_pylist()) == {0, 1, 2, 5}
    assert set(reasons_in(tmp_path / "quarantine")) == {f"{n}.parquet" for n in "degh"}
    blocks = read_episodes(job, override_num_blocks=1).materialize()
    assert blocks.num_blocks() == 1  # that is: all of them were joined
    assert blocks.count() == 8


@pytest.mark.ray
@pytest.mark.realdata
@pytest.mark.slow
def test_real_recordings(tmp_path, cluster, data_dir, monkeypatch):
    """60 episodes of float32, which Ray joins with nothing and with one another."""
    monkeypatch.setenv("ROBOCACHE_TEST_DATA", str(data_dir))
    job = load_job(str(CONFIGS / "g1_inspire.yaml"), [f"output.uri={tmp_path / 'out'}"])
    through_ray(job, tmp_path, batch_size=4)
    found = same_as_a_run(job, tmp_path)
    assert len(set(found["episode_index"].to_pylist())) == 60


@pytest.mark.ray
def test_a_lost_device_costs_the_process_and_no_episode(tmp_path, cluster, logs):
    @dataclass(frozen=True)  # here, so that it travels by value
    class LostAligner(Aligner):
        def begin(self, index: int, episode: Episode) -> Begun:
            if index == 1 and not (tmp_path / "lost").exists():
                (tmp_path / "lost").write_text(str(os.getpid()))
                raise RuntimeError("an illegal address")
            return super().begin(index, episode)

    @dataclass(frozen=True)
    class Lost(Processor):
        @property  # a cached one does not travel by value
        def aligner(self) -> Aligner:
            return LostAligner(self.job, self.types, self.device)

        def blame(self, error: Exception, episode_id: str, *, last_attempt: bool) -> tuple[str, bool]:
            if isinstance(error, RuntimeError):
                raise DeviceLostError("as if CUDA had failed")
            return super().blame(error, episode_id, last_attempt=last_attempt)

    job = demo(logs, tmp_path / "out")
    source = EpisodeDatasource(job)
    source.processor = Lost(job, source.processor.types)
    found = aligned(source, tmp_path / "quarantine").materialize().to_arrow_refs()
    table = pa.concat_tables(ray.get(found))
    assert not Path(f"/proc/{(tmp_path / 'lost').read_text()}").exists()
    assert set(table["episode_index"].to_pylist()) == {0, 1, 2, 3}
    assert len({*zip(*(table[c].to_pylist() for c, _ in ORDER), strict=True)}) == table.num_rows


def test_tasks_are_balanced(logs, tmp_path):
    """As many as asked for, or as ``output.shard_mb`` makes; each episode in one of them."""
    source = EpisodeDatasource(demo(logs, tmp_path / "out"))
    size = source.estimate_inmemory_data_size()
    for wanted in (1, 2, 3):
        tasks = source.get_read_tasks(wanted)
        assert len(tasks) == wanted
        assert sum(t.metadata.size_bytes for t in tasks) == size
        assert max(t.metadata.size_bytes for t in tasks) < 2 * size / wanted
        found = [row.id for task in tasks for block in task() for row in episode_rows(block)]
        assert found == [f"episode_{i:03d}.mcap" for i in range(5)]
    small = EpisodeDatasource(demo(logs, tmp_path / "out", "output.shard_mb=1"))
    assert len(small.get_read_tasks(1)) > 1


STREAMS = {
    "vectors": np.arange(9, dtype=np.float32).reshape(3, 3),
    "scalars": np.arange(3.0),
    "pictures": np.arange(18, dtype=np.uint8).reshape(3, 2, 3),
    "no columns": np.empty((3, 0)),
    "flags": np.array([True, False, True]),
    "half": np.arange(3, dtype=np.float16),
    "big-endian": np.arange(3, dtype=">f4")[:, None],
    "strided": np.arange(36.0).reshape(6, 6)[::2, ::3],
    "payloads": pa.array([b"x", b"", b"yy"]),
    "texts": pa.array(["x", "", "yy"]),
}


def test_a_row_gives_its_streams_back():
    """Shapes, dtypes and times, unsorted as they are; also from a slice of a joined block."""
    times = np.array([3, 1, 2], np.int64)
    streams = {k: Stream(times, v) for k, v in STREAMS.items()}
    kinds = {k: s.type for k, s in streams.items()}
    good = ray_data.EpisodeRow(4, "e", ("file",), "", Episode("e", streams, {"task": "lift"}))
    lost = ray_data.EpisodeRow(5, "f", (), "broken", Episode("f", {}))
    empty = {k: Stream(times[:0], v[:0]) for k, v in STREAMS.items()}
    bare = ray_data.EpisodeRow(6, "g", (), "", Episode("g", empty))
    block = pa.concat_tables([ray_data._block(kinds, row) for row in (lost, good, bare)], promote_options="permissive")
    assert [r.failure for r in episode_rows(block)] == ["broken", "", ""]
    found = next(episode_rows(block.combine_chunks().slice(1)))
    assert (found.index, found.id, found.files, found.episode.metadata) == (4, "e", ("file",), {"task": "lift"})
    for name, values in STREAMS.items():
        stream = found.episode.streams[name]
        assert stream.times.tolist() == [3, 1, 2]
        if isinstance(values, np.ndarray):
            expected = values.astype(values.dtype.newbyteorder("="))
            assert stream.values.dtype == expected.dtype
            np.testing.assert_array_equal(stream.values, expected)
        else:
            assert stream.values.to_pylist() == values.to_pylist()
    nothing = list(episode_rows(block))[2].episode.streams
    long = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}  # Ray joins them in arrays of any size
    assert {k: s.type.arrow for k, s in nothing.items()} == {
        k: long.get(s.type.arrow, s.type.arrow) for k, s in empty.items()
    }


def test_a_relative_quarantine_is_refused(logs, tmp_path):
    processor = EpisodeDatasource(demo(logs, tmp_path / "out", "compute.device=cpu")).processor
    with pytest.raises(ConfigError, match="write it in full"):
        AlignEpisodes(processor, "quarantine")


def test_nothing_else_needs_ray():
    script = "import sys; sys.modules['ray'] = None; import robocache, robocache.cli; robocache.run; "
    command = [sys.executable, "-c", script + "print('here'); robocache.AlignEpisodes"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "here\n"
    assert "ImportError: AlignEpisodes and read_episodes need Ray Data" in done.stderr
    assert "pip install 'robocache[ray]'" in done.stderr
