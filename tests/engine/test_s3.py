"""Runs whose input and output are on S3, over the wire: the local run's bytes, and the same promises."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_kit import META, config, dataset_of, do, job, timeless, tree, write_parquet, write_shards, writing
from omegaconf import OmegaConf
from process_kit import DEVNULL, start
from s3_kit import CHANGES, SECRET, Bucket, Request

from robocache.cli.plan import preview
from robocache.config.job import Job
from robocache.engine import retry
from robocache.engine import run as engine
from robocache.errors import InputError, OutputError
from robocache.output import lock
from robocache.output.commit import OutputWriter
from robocache.output.dataset import Output
from robocache.output.layout import OLDER, older_name, version_folder
from robocache.output.store import Store
from robocache.output.tables import Summary
from robocache.output.verify import Verification, verify

SHARDS = 4
LOCK = f"{META}/_run.lock"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_S", 0.01)


@pytest.fixture(scope="module")
def local(local) -> dict[str, bytes]:
    """The tree of it."""
    return tree(local)


def s3_job(s3: Bucket, logs: Path | str, out: str = "out", **changes: object) -> Job:
    options = {"input__storage_options": s3.options} if str(logs).startswith("s3://") else {}
    return job(logs, s3.uri(out), output__storage_options=s3.options, **options, **changes)


def check(s3: Bucket, out: str = "out") -> Verification:
    return verify(s3.uri(out), s3.options)


def do_s3(job: Job, **options: object) -> Summary:
    summary = engine.run(job, **options)
    assert verify(job.output.uri, job.output.storage_options).problems == ()
    return summary


def assert_same(s3: Bucket, expected: dict[str, bytes], out: str = "out", but: tuple[str, ...] = ()) -> None:
    found = timeless(s3.objects(out), but)
    assert list(found) == sorted(expected)
    assert [n for n in found if n not in but and found[n] != expected[n]] == []


def written(s3: Bucket, out: str = "out") -> list[int]:
    """First episodes of the parts that have been written since the server's log was cleared."""
    prefix = f"PUT /{s3.name}/{out}/data/part-"
    return sorted({int(line.removeprefix(prefix)[:6]) for line in s3.server.log("PUT") if line.startswith(prefix)})


def test_the_same_bytes_as_a_local_run(s3, logs, local):
    this = s3_job(s3, logs)
    first = do_s3(this)
    assert_same(s3, local)
    s3.server.requests.clear()
    again = do_s3(this)
    assert (first.skipped_shards, again.skipped_shards, written(s3)) == (0, SHARDS, [])
    assert (preview(this).todo, preview(this).shards) == (0, 4)
    assert_same(s3, local)
    found = check(s3)
    assert (found.parts, found.rows, found.quarantined) == (SHARDS, first.rows, 0)


def test_commits_and_resuming_cost_no_request_a_shard(s3, logs, local):
    """But for its part: a rerun lists, and reads the manifest, but no part and nothing beside one."""
    do_s3(s3_job(s3, logs))
    s3.server.requests.clear()
    engine.run(s3_job(s3, logs))
    reads = s3.server.log("GET", "HEAD")
    assert reads and not [line for line in reads if "/data/part-" in line or "/_statistics/_part-" in line]


def test_secrets_are_not_written(s3, logs):
    this = s3_job(s3, logs)
    engine.run(this)
    assert not [name for name, data in s3.objects("out").items() if SECRET.encode() in data]
    assert SECRET not in repr(this)


def test_input_that_changes(s3, tmp_path, logs):
    """An object replaced by one of the same size is another one by its etag; one put again as it was is not."""
    uri = s3.put(logs, "logs")
    do_s3(s3_job(s3, uri))
    name = f"{s3.name}/logs/log_001.parquet"
    write_parquet(tmp_path / "log", seed=1, samples=100, padding=[bytes(10_000)] * 100, grip=np.zeros(100))
    other = (tmp_path / "log").read_bytes()
    assert len(other) == s3.fs.info(name)["size"]
    s3.fs.pipe_file(name, other)
    s3.fs.pipe_file(f"{s3.name}/logs/log_003.parquet", (logs / "log_003.parquet").read_bytes())
    s3.server.requests.clear()
    assert do_s3(s3_job(s3, uri)).skipped_shards == SHARDS - 1
    assert written(s3) == [1]
    do_s3(s3_job(s3, uri, "fresh"))
    assert dataset_of(s3.objects("out")) == dataset_of(s3.objects("fresh"))


@pytest.mark.slow
def test_an_output_that_is_copied_to_a_bucket_and_back(s3, tmp_path, logs, local):
    """It is verified, resumed and opened where it is now, and so are the recordings, by their content."""
    shutil.copytree(logs, tmp_path / "logs")
    told = {"input__fingerprint": "content"}
    do(job(tmp_path / "logs", tmp_path / "out", **told))
    before = tree(tmp_path / "out/data")
    s3.put(tmp_path / "out", "moved")
    uri = s3.put(tmp_path / "logs", "logs")
    assert not do_s3(s3_job(s3, uri, "moved", **told)).is_new
    write_parquet(tmp_path / "new", seed=9)
    s3.fs.put_file(str(tmp_path / "new"), f"{s3.name}/logs/log_9.parquet")
    grown = do_s3(s3_job(s3, uri, "moved", **told))
    assert (grown.version, grown.skipped_shards) == (2, SHARDS)
    assert Output.open(s3.uri("moved"), s3.options, version=1).dataset().count_rows() < check(s3, "moved").rows
    for name, data in s3.objects("moved").items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(data)
    (tmp_path / "new").rename(tmp_path / "logs/log_9.parquet")
    assert not do(job(tmp_path / "logs", tmp_path / "back", **told)).is_new
    assert before.items() <= tree(tmp_path / "back/data").items()


def test_a_part_that_is_gone_or_cut_is_redone(s3, logs, local):
    do_s3(s3_job(s3, logs))
    parts = sorted(name for name in s3.objects("out") if name.startswith("data/"))
    s3.fs.rm_file(f"{s3.name}/out/{parts[1]}")
    s3.fs.pipe_file(f"{s3.name}/out/{parts[3]}", b"PAR1")
    assert len(check(s3).problems) == 2
    s3.server.requests.clear()
    do_s3(s3_job(s3, logs))
    assert written(s3) == [1, 3]
    assert_same(s3, local)


def test_other_outputs(s3, logs, local):
    do_s3(s3_job(s3, logs, timeline__rate_hz=20))
    with pytest.raises(OutputError, match=r"belongs to another config .* --overwrite"):
        do_s3(s3_job(s3, logs))
    before = dataset_of(s3.objects("out"))
    do_s3(s3_job(s3, logs), overwrite=True)
    assert dataset_of(s3.objects("out")) == dataset_of(local)
    put_away = {name: data for name, data in s3.objects("out").items() if name.startswith(OLDER)}
    assert put_away == {older_name(name): data for name, data in before.items() if name.startswith("data/")}
    assert verify(s3.uri("out"), s3.options, version=1).problems == ()
    rows = Output.open(s3.uri("out"), s3.options, version=1).dataset().count_rows()
    assert rows == verify(s3.uri("out"), s3.options, version=1).rows
    s3.fs.pipe_file(f"{s3.name}/out/data/thesis.parquet", b"years of work")
    with pytest.raises(OutputError, match=r"holds data/thesis.parquet, which no run wrote"):
        do_s3(s3_job(s3, logs), overwrite=True)
    with pytest.raises(OutputError, match="use a local path or s3://"):
        engine.run(job(logs, "memory://out"))


def test_a_part_that_fails_half_way_is_tried_again(s3, logs, local):
    faults = ["500", "drop", "500"]
    s3.server.fault = lambda r: faults.pop() if faults and r.method == "PUT" and "part-000002" in r.path else ""
    do_s3(s3_job(s3, logs))
    assert faults == []
    assert_same(s3, local)


def test_input_that_fails_for_a_while(s3, logs, local):
    uri = s3.put(logs, "logs")
    faults = ["500", "drop", "500"]
    s3.server.fault = lambda r: faults.pop() if faults and r.method in ("GET", "HEAD") and "log_002" in r.path else ""
    assert do_s3(s3_job(s3, uri, cluster={"max_attempts": 4})).quarantined == ()
    assert faults == []
    s3.server.fault = lambda r: "403" if "/logs" in r.path or "prefix=logs" in r.query else ""
    with pytest.raises(InputError, match=r"Forbidden; check input\.storage_options"):  # not: an unreadable episode
        do_s3(s3_job(s3, uri))
    s3.server.fault = lambda _: ""
    assert do_s3(s3_job(s3, uri)).skipped_shards == SHARDS


def test_a_killed_run_is_gone_on_with(s3, logs, local, tmp_path, monkeypatch, caplog):
    """Its lease is taken once it has been still for the time of a lease, here a second."""
    changes = {"output__storage_options": s3.options, "compute__threads": 1}
    OmegaConf.save(OmegaConf.create(config(logs, s3.uri("out"), **changes)), tmp_path / "config.yaml")
    slow = threading.Event()

    def fault(request: Request) -> str:
        if "part-000002" in request.path:
            slow.wait(60)
        return ""

    s3.server.fault = fault
    process = start("run", "config.yaml", cwd=tmp_path, stdout=DEVNULL, stderr=DEVNULL)
    segment = f"{s3.name}/out/{version_folder(1)}/_manifest/00000001.jsonl"
    while not s3.fs.exists(segment):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    slow.set()
    s3.server.fault = lambda _: ""
    with pytest.raises(OutputError, match="none has ended yet"):
        check(s3)
    monkeypatch.setattr(lock, "LEASE_S", 1.0)
    caplog.set_level("INFO")
    this = s3_job(s3, logs)
    began = time.monotonic()
    with writing(this) as output:
        assert time.monotonic() - began > 1
        assert len(list(output.log.scan())) == 2
        monkeypatch.undo()  # the rest at its own pace
    assert f"is held by process {process.pid} on" in caplog.text
    s3.server.requests.clear()
    assert do_s3(this).skipped_shards == 2
    assert written(s3) == [2, 3]
    assert_same(s3, local)


def dying_after(changes: int) -> Callable[[Request], str]:
    """A fault of the server: requests that change something are served so often, then nothing is."""
    left = changes

    def fault(request: Request) -> str:
        nonlocal left
        if request.method in CHANGES and not request.path.endswith(LOCK):
            left -= 1
        return "500" if left < 0 else ""

    return fault


@pytest.mark.slow
def test_a_run_that_dies_at_any_change_and_is_run_again(s3, tmp_path):
    """Its n-th request that changes something and all after it are not served, for each n."""
    logs = write_shards(tmp_path / "logs", 2)
    (logs / "log_000.parquet").write_bytes(b"PAR1 not a recording")
    changes = {"compute__threads": 1, "input__max_failed_episodes": 1, "cluster": {"max_attempts": 1}}
    do(job(logs, tmp_path / "out", **changes))
    expected = tree(tmp_path / "out")

    for n in range(100):
        this = s3_job(s3, logs, f"out_{n}", **changes)
        s3.server.fault = dying_after(n)
        try:
            engine.run(this)
            break
        except OSError:
            s3.server.fault = lambda _: ""
        s3.fs.rm_file(f"{s3.name}/out_{n}/{LOCK}")  # as if its time were over
        do_s3(this)
        assert_same(s3, expected, f"out_{n}")
    print(f"died at {n} points")
    assert n > 10
    assert_same(s3, expected, f"out_{n}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["grows", "overwrites"])
def test_a_run_that_changes_a_dataset_dies_at_any_change(s3, tmp_path, how):
    """As above; readers see the version before or the one after, whole."""
    logs = write_shards(tmp_path / "logs", 3)
    told: dict = {"compute__threads": 1, "cluster": {"max_attempts": 1}}
    do_s3(s3_job(s3, logs, "before", **told))
    do(job(logs, tmp_path / "out", **told))
    flags = {"prune": True}
    if how == "grows":
        write_parquet(logs / "a_new_one.parquet", seed=7)
        write_parquet(logs / "log_001.parquet", seed=8, samples=900)
        (logs / "log_002.parquet").unlink()
    else:
        told, flags = told | {"timeline__rate_hz": 20}, {"overwrite": True}
    do(job(logs, tmp_path / "out", **told), **flags)
    expected = tree(tmp_path / "out")
    seen = set()
    for n in range(200):
        out = f"out_{n}"
        for name, data in s3.objects("before").items():
            s3.fs.pipe_file(f"{s3.name}/{out}/{name}", data)
        this = s3_job(s3, logs, out, **told)
        s3.server.fault = dying_after(n)
        try:
            engine.run(this, **flags)
            break
        except OSError:
            s3.server.fault = lambda _: ""
        found = check(s3, out)
        assert found.problems == ()
        seen.add(found.version)
        assert Output.open(s3.uri(out), s3.options).dataset().count_rows() == found.rows
        s3.fs.rm_file(f"{s3.name}/{out}/{LOCK}")  # as if its time were over
        do_s3(this, **flags)
        assert_same(s3, expected, out)
    print(f"died at {n} points")
    assert n >= 20 and seen == {1, 2}
    assert_same(s3, expected, f"out_{n}")


def test_a_second_live_run_is_refused(s3, logs, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_S", 3.0)
    this = s3_job(s3, logs)
    with writing(this) as output:
        before = s3.objects("out")
        with pytest.raises(OutputError, match=r"is being written by another run \(process \d+ on \S+\)"):
            engine.run(this, overwrite=True)
        assert {n: d for n, d in s3.objects("out").items() if n != LOCK} == {
            n: d for n, d in before.items() if n != LOCK
        }
        time.sleep(3.5)  # longer than a lease that nobody renews
        output.check()
    assert LOCK not in s3.objects("out")
    do_s3(this)


def test_two_that_start_at_the_same_moment(s3, logs):
    """Many times: exactly one gets in while it holds the output."""
    store = Store(s3.uri("out"), s3.options)
    for _ in range(5):
        go, inside = threading.Barrier(3), []

        def enter(go: threading.Barrier = go, inside: list = inside) -> None:
            lease = lock._Lease(store, LOCK)
            go.wait()
            try:
                lease._write(None)
            except Exception as error:
                inside.append(type(error).__name__)
            else:
                inside.append(lease)

        threads = [threading.Thread(target=enter) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [x for x in inside if isinstance(x, lock._Lease)]
        assert inside.count("UnmetError") == 2
        winner.release()


def lost(output: OutputWriter) -> bool:
    try:
        output.check()
    except OutputError:
        return True
    return False


@pytest.mark.parametrize("how", ["taken", "removed", "unreachable"])
def test_a_run_that_has_lost_its_lease_commits_nothing_more(s3, logs, local, monkeypatch, how):
    monkeypatch.setattr(lock, "LEASE_S", 4.0)
    path, commit = f"{s3.name}/out/{LOCK}", OutputWriter.commit
    taken = {"holder": "process 1 on elsewhere", "token": "?", "beat": 1}

    def committing(output: OutputWriter, records: object) -> None:
        if len(output.committed) == 2:
            if how == "taken":
                s3.fs.pipe_file(path, json.dumps(taken).encode())
            elif how == "removed":
                s3.fs.rm_file(path)
            else:
                s3.server.fault = lambda r: "500" if r.path.endswith(LOCK) else ""
            end = time.monotonic() + 20
            while not lost(output) and time.monotonic() < end:
                time.sleep(0.05)
        commit(output, records)

    monkeypatch.setattr(OutputWriter, "commit", committing)
    why = {"taken": "taken by process 1 on elsewhere", "removed": "was removed", "unreachable": "could not be renewed"}
    with pytest.raises(OutputError, match=rf"no longer holds the output \({'' if how == 'taken' else '.*'}{why[how]}"):
        engine.run(s3_job(s3, logs, compute__threads=1))
    s3.server.fault = lambda _: ""
    assert (path in s3.fs.find(s3.name)) == (how != "removed")  # another's is not touched
    monkeypatch.undo()
    if how != "removed":
        s3.fs.rm_file(path)
    assert do_s3(s3_job(s3, logs)).skipped_shards == 2
    assert_same(s3, local)


def test_a_service_without_conditions_is_refused(s3, logs, monkeypatch):
    """Some pass over the headers in silence."""
    put_if = Store.put_if

    def deaf(self: Store, name: str, data: bytes, etag: str | None) -> str:
        with contextlib.suppress(FileNotFoundError):
            etag = self.read_tagged(name)[1]  # whatever is there is right
        return put_if(self, name, data, etag)

    monkeypatch.setattr(Store, "put_if", deaf)
    with pytest.raises(OutputError, match="does not honour If-None-Match"):
        engine.run(s3_job(s3, logs))
    assert list(s3.objects("out")) == []


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_write_to_s3(s3, logs, local, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    uri = s3.put(logs, "logs")
    cluster = {"mode": "ray", "address": "local", "workers": 2, "cpus_per_worker": 0.5, "memory_mb": 100}
    options = {"input__storage_options": s3.options, "output__storage_options": s3.options}
    settings = config(uri, s3.uri("out"), cluster=cluster, **options)
    OmegaConf.save(OmegaConf.create(settings), tmp_path / "config.yaml")
    process = start("run", "config.yaml", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert SECRET not in out + err
    assert check(s3).problems == ()
    parts = {name for name in local if name.startswith("data/")}
    assert {name: data for name, data in s3.objects("out").items() if name in parts} == {n: local[n] for n in parts}
