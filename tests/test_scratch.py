"""Columns that wait on the disk: the same numbers, no memory, and the same parts whatever memory is allowed for."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from robocache import run, scratch
from robocache.config.load import load_job
from robocache.engine.listing import listing
from robocache.engine.process import Processor
from robocache.formats.messages.values import Rows
from robocache.sample import write_samples

DEMO = str(Path(__file__).resolve().parent.parent / "configs" / "demo.yaml")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_only_what_is_long_is_on_the_disk():
    with scratch.beyond(1000):
        assert not scratch.on_disk(scratch.room(125, np.int64))
        found = scratch.room((126, 1), np.int64)
    assert scratch.on_disk(found) and scratch.on_disk(found[3:, 0]) and found.shape == (126, 1)
    assert scratch.on_disk(torch.from_numpy(found)[5:].numpy())
    assert not scratch.on_disk(scratch.room(10_000, np.int64)) and not scratch.on_disk(np.zeros(3))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what is resident")
def test_pages_are_handed_back_and_come_again():
    with scratch.beyond(0):
        numbers = scratch.room(8_000_000, np.int64)
    numbers[:] = np.arange(len(numbers))
    held = resident()
    scratch.tidy()
    assert held - resident() > 60_000_000
    assert np.array_equal(numbers, np.arange(len(numbers)))


def test_rows_grow_on_the_disk_as_in_memory():
    whole = np.arange(3000.0).reshape(-1, 3)
    rows = Rows(100)
    with scratch.beyond(800):
        for at in range(0, 1000, 70):
            some = whole[at : at + 70]
            rows.extend(len(some), (3,), np.dtype(np.float64))[:] = some
            scratch.tidy()
    assert scratch.on_disk(rows.array()) and np.array_equal(rows.array(), whole)


def test_copies_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(scratch, "BLOCK", 100)
    values = np.arange(2000, dtype=np.int32).reshape(-1, 4)
    rows = np.random.default_rng(0).permutation(500)[:300]
    with scratch.beyond(0):
        wide, some = scratch.filled(values, np.float64), scratch.picked(values, rows)
    assert scratch.on_disk(wide) and np.array_equal(wide, values.astype(np.float64))
    assert scratch.on_disk(some) and np.array_equal(some, values[rows])
    assert scratch.filled(values, np.int32) is values


def test_a_full_disk_is_an_error_with_a_remedy(monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with scratch.beyond(0), pytest.raises(OSError, match=r"no room for a column of 8 MB.*TMPDIR") as caught:
        scratch.room(2**20, np.float64)
    assert caught.value.errno == errno.ENOSPC


def test_copies_that_killed_processes_left_go_with_the_next(tmp_path, monkeypatch):
    """What another process holds stays, and so does what one may be about to lock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, held, young, other = (tmp_path / f"robocache-{name}" for name in ("copy-a", "copy-b", "copy-c", "page-d"))
    for path in (left, held, young, other):
        path.touch()
        if path != young:
            os.utime(path, (0, 0))
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        scratch._sweep.cache_clear()
        with scratch.named_file() as copy:
            copy.write(b"a copy")
            copy.flush()
            assert Path(copy.name).read_bytes() == b"a copy"
            assert sorted(tmp_path.iterdir()) == sorted([other, held, young, Path(copy.name)])
    assert sorted(tmp_path.iterdir()) == sorted([other, held, young])


def test_memory_changes_no_byte(tmp_path, monkeypatch):
    """With 1 MB nearly every column waits on the disk, is looked at in many blocks and aligned in many pieces."""
    monkeypatch.setattr(scratch, "BLOCK", 1 << 14)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write_samples(tmp_path / "logs", episodes=2, seconds=6.0)
    parts = []
    for limit in (1, 2048):
        settings = [f"input.uri={tmp_path}/logs/*.mcap", "output.uri=o", f"compute.max_memory_mb={limit}"]
        job = load_job(DEMO, settings)
        listed = listing(job)
        processor = Processor(job, listed.types)
        stream = processor.reading(listed.episodes[0]).streams["/ft_sensor.wrench"]
        assert scratch.on_disk(stream.values) == scratch.on_disk(stream.times) == (limit == 1)
        run(DEMO, [*settings[::2], f"output.uri={tmp_path}/{limit}"])
        found = sorted((tmp_path / str(limit)).rglob("part-*.parquet"))
        parts.append([path.read_bytes() for path in found])
    assert parts[0] == parts[1] and parts[0]
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "1", "2048"}  # no file of a column is left


def test_large_datasets_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "BLOCK", 1000)
    values = np.random.default_rng(0).normal(size=(1001, 3))
    with h5py.File(tmp_path / "e.hdf5", "w") as file:
        file["t"] = np.arange(1001) * 0.01
        file.create_dataset("x", data=values, chunks=(7, 3), compression="gzip")
        file["whole"] = values.astype(">f4")
    for name, limit in (("few", 1), ("many", 2048)):
        config = tmp_path / f"{name}.yaml"
        config.write_text(
            f"input: {{uri: {tmp_path}/e.hdf5, times: {{column: t}}}}\nfeatures: {{x: x, w: whole}}\n"
            f"timeline: {{rate_hz: 100}}\noutput: {{uri: {tmp_path}/{name}}}\ncompute: {{max_memory_mb: {limit}}}\n"
        )
        assert run(str(config)).rows == 1001
    few, many = (sorted((tmp_path / name).rglob("part-*.parquet")) for name in ("few", "many"))
    assert few[0].read_bytes() == many[0].read_bytes()


_PEAK = """
import sys
from robocache import run
from robocache.stages import peak_bytes
print(run(sys.argv[1], sys.argv[2:]).rows, peak_bytes())
"""


@pytest.mark.slow
def test_a_long_log_takes_what_it_may(tmp_path):
    """Three times what its columns would be let have, within the limit and 500 MB."""
    write_samples(tmp_path / "logs", episodes=1, seconds=1200.0, damaged=False)
    settings = [f"input.uri={tmp_path}/logs/*.mcap", f"output.uri={tmp_path}/out", "compute.max_memory_mb=64"]
    command = [sys.executable, "-c", _PEAK, DEMO, *settings, "compute.device=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, peak = map(int, done.stdout.split())
    assert rows > 59_000
    assert peak < (64 + 500) * 2**20
