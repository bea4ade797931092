"""Every format read from S3, over the wire, is what it is from the disk."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_kit import Bucket
from test_lerobot import write_v3

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, list_episodes, list_streams, read_episode
from robocache.sample import write_samples
from robocache.types import Episode, EpisodeRef


def write_hdf5(folder: Path) -> None:
    folder.mkdir()
    with h5py.File(folder / "demos.hdf5", "w") as file:
        for i in range(3):
            rows = np.random.default_rng(i).standard_normal((500 + i, 7))
            file.create_dataset(f"data/demo_{i}/q", data=rows, chunks=(64, 7), compression="gzip")


def write_tables(folder: Path) -> None:
    folder.mkdir()
    for i in range(3):
        rows = {"timestamp": np.arange(50) / 10, "x": np.random.default_rng(i).random(50)}
        pq.write_table(pa.table(rows), folder / f"p_{i}.parquet")
        lines = [f"{t},{x}\n" for t, x in zip(*rows.values(), strict=True)]
        (folder / f"c_{i}.csv").write_text("".join(["timestamp,x\n", *lines]))


RATE, STAMPS = TableTimes(rate_hz=20.0), TableTimes(column="timestamp")
FORMATS = {
    "mcap": (lambda folder: write_samples(folder, episodes=2, seconds=2.0, seed=0), None),
    "hdf5": (write_hdf5, RATE),
    "tables": (write_tables, STAMPS),
    "lerobot": (write_v3, None),
}


def same(one: Episode, other: Episode) -> None:
    assert (one.id, one.metadata) == (other.id, other.metadata)
    assert list(one.streams) == list(other.streams)
    for source, stream in one.streams.items():
        values = other.streams[source].values
        np.testing.assert_array_equal(stream.times, other.streams[source].times)
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(stream.values, values)
        else:
            assert stream.values.equals(values)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_as_from_the_disk(s3: Bucket, tmp_path: Path, format: str) -> None:
    write, times = FORMATS[format]
    write(tmp_path / "logs")
    local = InputSpec((str(tmp_path / "logs"),), times=times)
    remote = InputSpec((s3.put(tmp_path / "logs", "logs"),), times=times, storage_options=s3.options)
    here, there = list_episodes(local), list_episodes(remote)
    assert [(r.id, r.nbytes, not r.failure) for r in here] == [(r.id, r.nbytes, not r.failure) for r in there]
    read = 0
    for one, other in zip(here, there, strict=True):
        assert all(file.uri.startswith(s3.uri("logs")) and file.version for file in other.files)
        if not one.failure:
            try:
                streams = list_streams(one, local)
            except InputError:  # damaged on purpose
                with pytest.raises(InputError):
                    list_streams(other, remote)
                continue
            assert [(s.source, s.type, s.fields) for s in streams] == [
                (s.source, s.type, s.fields) for s in list_streams(other, remote)
            ]
            sources = [s.source for s in streams if not s.failure]
            if format == "mcap":
                sources = ["/joint_states.position", "/imu.orientation"]
            same(read_episode(one, sources, local), read_episode(other, sources, remote))
            read += 1
    assert read >= 1


def versions(s3: Bucket, uri: str) -> dict[str, str]:
    refs: list[EpisodeRef] = list_episodes(InputSpec((uri,), times=STAMPS, storage_options=s3.options))
    return {file.uri.rpartition("/")[2]: file.version for ref in refs for file in ref.files}


def test_a_file_is_known_by_its_etag(s3: Bucket, tmp_path: Path) -> None:
    """The same by folder, glob and name; another one once the object is replaced, and nothing is remembered."""
    write_tables(tmp_path / "logs")
    uri = s3.put(tmp_path / "logs", "logs")
    before = versions(s3, uri)
    assert len(set(before.values())) == 6
    assert before == versions(s3, f"{uri}/*")
    assert versions(s3, f"{uri}/c_1.csv") == {"c_1.csv": before["c_1.csv"]}
    assert s3.fs.info(f"{s3.name}/logs/c_1.csv")["ETag"] == before["c_1.csv"]
    content = (tmp_path / "logs/c_1.csv").read_bytes()
    s3.fs.pipe_file(f"{s3.name}/logs/c_1.csv", content.replace(b"1", b"2"))
    s3.fs.pipe_file(f"{s3.name}/logs/p_2.parquet", (tmp_path / "logs/p_2.parquet").read_bytes())  # its own bytes
    s3.fs.rm_file(f"{s3.name}/logs/c_0.csv")
    after = versions(s3, uri)
    assert {name for name in after if after[name] != before[name]} == {"c_1.csv"}
    assert set(before) - set(after) == {"c_0.csv"}


def test_listing_reads_little_of_a_large_log(s3: Bucket, tmp_path: Path) -> None:
    write_samples(tmp_path / "logs", episodes=1, seconds=20.0, seed=0)
    uri = s3.put(tmp_path / "logs", "logs")
    s3.server.requests.clear()
    (ref,) = [r for r in list_episodes(InputSpec((uri,), storage_options=s3.options)) if r.failure == ""][:1]
    assert ref.nbytes > 1_000_000
    assert sum(r.path.endswith(".mcap") for r in s3.server.requests) <= 2 * 8


def test_faults_of_the_service_are_not_the_files(s3: Bucket, tmp_path: Path) -> None:
    """Expired credentials and a broken service: tried again, and never a quarantined episode."""
    write_tables(tmp_path / "logs")
    spec = InputSpec((s3.put(tmp_path / "logs", "logs"),), times=STAMPS, storage_options=s3.options)
    ref = list_episodes(spec)[0]
    for fault in ("500", "400 ExpiredToken"):
        s3.server.fault = lambda _, fault=fault: fault
        with pytest.raises(OSError):
            read_episode(ref, ["x"], spec)
    s3.server.fault = lambda _: "403"
    with pytest.raises(InputError, match="permission denied"):
        read_episode(ref, ["x"], spec)
