"""What never returns: it is warned about, tried elsewhere, and costs its episode; a run that is stopped ends anyhow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import ray_kit
import yaml
from engine_kit import config, do, job, table, write_parquet, write_recordings, write_shards
from hang_kit import Gate, Lingering, crash, devour, spin

from robocache.engine import bounded, process, retry
from robocache.engine import run as engine
from robocache.engine.bounded import Bounded
from robocache.engine.deadline import DeadlineError, within
from robocache.engine.process import Processor
from robocache.engine.reading import Reading
from robocache.errors import UnexpectedError, WorkersError
from robocache.formats.tables import ParquetReader


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_S", 0.001)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.opened.set()


def test_a_call_that_returns_gives_what_it_gives(caplog):
    assert within(lambda: 7, "seven", 5.0, "a.key") == 7
    with pytest.raises(ZeroDivisionError):
        within(lambda: 1 // 0, "nothing", 5.0, "a.key")
    before = threading.active_count()
    assert [within(lambda k=k: k, "k", 5.0, "a.key") for k in range(50)] == list(range(50))
    assert threading.active_count() == before  # one thread makes them all
    assert not caplog.records


def test_a_call_that_does_not_is_warned_about_and_given_up(gate, caplog):
    began = time.monotonic()
    with pytest.raises(DeadlineError, match=r"^reading a has not returned within 0\.4 s \(input\.read_timeout\)$"):
        within(gate.wait, "reading a", 0.4, "input.read_timeout")
    assert 0.25 < time.monotonic() - began < 2
    warned = [r.getMessage() for r in caplog.records]
    assert len(warned) == 2 and all(m.startswith("reading a has taken 0.") for m in warned), warned


def test_a_read_that_hangs_is_made_again_where_it_can_be_ended_then_costs_its_episode(
    tmp_path, monkeypatch, gate, caplog
):
    """One hangs in this process only, as where a lock of a library's is held; another one everywhere."""
    logs = write_recordings(tmp_path / "logs", 4)

    def reading(self):
        read = Reading(tuple(self.types.wanted(self.job.sources)), self.job.input, self.job.quality.max_late)
        here = Lingering(read, gate, "log_001.parquet", everywhere=False)
        return Lingering(here, gate, "log_002.parquet", everywhere=True)

    monkeypatch.setattr(Processor, "reading", property(reading))
    summary = do(job(logs, tmp_path / "out", input__read_timeout=0.4, cluster__max_attempts=2))
    assert summary.episodes == 3
    ((id, reason, again),) = [(q.id, q.reason, q.retry) for q in summary.quarantined]
    late = "has not returned within 0.4 s (input.read_timeout)"
    assert (id, again) == ("log_002.parquet", True)
    assert reason == f"DeadlineError on every attempt: reading log_002.parquet {late}"
    assert gate.waited <= 2  # the others have been ended
    for text in (
        "reading log_001.parquet has taken",
        "reading log_001.parquet is given up",
        f"attempt 1 of 2: reading log_001.parquet {late}; trying again",
        "reading log_002.parquet has taken",
    ):
        assert text in caplog.text


def test_a_shard_that_hangs_elsewhere_than_in_a_read(tmp_path, monkeypatch, gate, caplog):
    """In its alignment, say: the thread is left behind, and the shard is done by another one."""
    logs = write_recordings(tmp_path / "logs", 2)
    original = process.Processor.process

    def once(self, shard, **options):
        if not gate.waited:
            gate.wait()
        return original(self, shard, **options)

    monkeypatch.setattr(process.Processor, "process", once)
    began = time.monotonic()
    summary = do(job(logs, tmp_path / "out", cluster__shard_deadline=0.5))
    assert summary.episodes == 2 and not summary.quarantined
    assert time.monotonic() - began < 5
    assert "shard 0, attempt 1 (log_000.parquet and 1 more) has taken" in caplog.text
    assert "is given up: it has not ended in 0.5 s (cluster.shard_deadline)" in caplog.text


@pytest.mark.slow
def test_a_kernel_that_never_returns_costs_its_episode(tmp_path, monkeypatch):
    """Each time that it is tried, in this process and where it is probed."""
    logs = write_shards(tmp_path / "logs", 3)
    ways = {"log_001.parquet": "kernel"}
    monkeypatch.setattr(engine, "Processor", lambda *args: ray_kit.Stuck(*args, ways=ways))
    limits = {"cluster__shard_deadline": 4.0, "cluster__max_attempts": 1}
    summary = do(job(logs, tmp_path / "out", input__max_failed_episodes=1, **limits))
    assert summary.episodes == 2
    reason = "processing it alone has not ended within 4 s (cluster.shard_deadline)"
    assert [(q.id, q.reason) for q in summary.quarantined] == [("log_001.parquet", reason)]


def test_a_shard_that_hangs_though_no_episode_does_stops_the_run(tmp_path, monkeypatch, gate):
    logs = write_recordings(tmp_path / "logs", 1)
    monkeypatch.setattr(process.Processor, "process", lambda *_, **__: gate.wait())
    monkeypatch.setattr("robocache.engine.local.deadly_episodes", lambda *_: {})
    with pytest.raises(WorkersError, match=r"^shards 0 take too long, .*raise cluster\.shard_deadline"):
        engine.run(job(logs, tmp_path / "out", cluster__shard_deadline=0.2, cluster__max_attempts=1))


def test_listing_and_describing_have_the_same_time(tmp_path, monkeypatch, gate, caplog):
    """A file whose header cannot be had is quarantined, and tried again by the next run."""
    logs = write_recordings(tmp_path / "logs", 3)
    original = ParquetReader.episodes

    def episodes(self, id, files, spec):
        if id == "log_001.parquet":
            gate.wait()
        return original(self, id, files, spec)

    monkeypatch.setattr(ParquetReader, "episodes", episodes)
    monkeypatch.setattr(Bounded, "_apart", lambda self, what, call: within(call, what, 0.2, bounded._KEY))
    summary = do(job(logs, tmp_path / "out", input__read_timeout=0.2, cluster__max_attempts=2))
    assert summary.episodes == 2
    (q,) = summary.quarantined
    assert q.retry and q.reason.endswith(
        "listing log_001.parquet has not returned within 0.2 s (input.read_timeout), 2 times"
    )
    gate.opened.set()
    assert do(job(logs, tmp_path / "out", input__read_timeout=0.2, cluster__max_attempts=2)).episodes == 3


# ---- processes of their own -----------------------------------------------------------------------------------------


def isolated(tmp_path: Path, **changes) -> Bounded:
    return Bounded(job(tmp_path / "logs", tmp_path / "out", compute__isolate=True, **changes))


def test_a_process_of_its_own_may_crash_spin_and_devour(tmp_path):
    with isolated(tmp_path, input__read_timeout=3.0, cluster__max_attempts=2, compute__isolate_memory_mb=2048) as made:
        assert made("pid", os.getpid) != os.getpid()
        with pytest.raises(UnexpectedError, match=r"^reading a: its process ended 2 times by signal SIGSEGV$"):
            made("reading a", crash)
        with pytest.raises(MemoryError):
            made("reading b", devour)
        first = made("pid", os.getpid)
        assert made("pid", os.getpid) == first  # it lives on
        with pytest.raises(FileNotFoundError) as raised:
            made("reading c", partial(os.stat, "/nowhere"))
        assert raised.value.filename == "/nowhere"
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    late = pytest.raises(DeadlineError, match=r"reading d has not returned within 0\.2 s")
    with isolated(tmp_path, input__read_timeout=0.2) as made, late:
        made("reading d", spin)


def test_isolated_runs_write_the_same(tmp_path):
    """What is read elsewhere is what is read here: numbers, text, lists, stamps, metadata."""
    logs = tmp_path / "logs"
    for i in range(2):
        words = [f"task {i}"] * 400
        write_parquet(logs / f"log_{i:03d}.parquet", seed=i, word=words, image=[os.urandom(9)] * 400)
    (logs / "broken.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    changes = {"features__word": "word", "features__image": "image"}
    plain = do(job(logs, tmp_path / "plain", **changes))
    apart = do(job(logs, tmp_path / "apart", compute__isolate=True, **changes))
    assert (apart.episodes, len(apart.quarantined)) == (plain.episodes, len(plain.quarantined)) == (2, 1)
    assert table(tmp_path / "apart").equals(table(tmp_path / "plain"))
    assert [q.reason for q in apart.quarantined] == [q.reason for q in plain.quarantined]


# ---- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_with_a_hung_read_ends_within_ten_seconds_of_a_signal(tmp_path, how):
    """A pipe put in a recording's place once that is listed: to open it waits for ever."""
    logs = write_recordings(tmp_path / "logs", 3)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config(logs, tmp_path / "out", compute__threads=1)))
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from robocache.engine import work\n"
        "lay_out = work.lay_out_work\n"
        "def late(*args):\n"
        f"    os.unlink({str(logs / 'log_001.parquet')!r}); os.mkfifo({str(logs / 'log_001.parquet')!r})\n"
        "    return lay_out(*args)\n"
        "import robocache.engine.run as run\n"
        "run.lay_out_work = late\n"
    )
    command = [sys.executable, "-m", "robocache.cli", "run", "run.yaml"]  # an interpreter, which reads sitecustomize
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, encoding="utf-8")
    end = time.monotonic() + 60
    while not (logs / "log_001.parquet").is_fifo() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2)  # until it is opened
    assert process.poll() is None
    process.send_signal(how)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 10
