"""Every format read from S3, over the wire, is what it is from the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_kit import Bucket
from test_lerobot import write_v3

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes, list_streams, read_episode
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
    s3.server.sent.clear()
    spec = InputSpec((uri,), storage_options=s3.options)
    ref, _ = list_episodes(spec)
    assert list(describe_episode(ref, ["/imu.orientation"], spec)) == ["/imu.orientation"]
    path = f"/{s3.name}/logs/episode_000.mcap"
    # What it begins with, for its format; who opens it asks for its size, its beginning and its end.
    assert [r.method for r in s3.server.requests if r.path == path] == ["GET", "HEAD", "GET", "GET"]
    assert s3.server.sent[path] < 4096 + 3 * 65536 < ref.nbytes / 10


def test_reading_a_log_that_was_listed_takes_two_requests(s3: Bucket, tmp_path: Path) -> None:
    """Its version and its data; once it is another one, what it says of itself is read anew."""
    write_samples(tmp_path / "logs", episodes=2, seconds=20.0, seed=0, damaged=False)
    uri = s3.put(tmp_path / "logs", "logs")
    spec, wanted = InputSpec((uri,), storage_options=s3.options), ["/joint_states.position", "/imu.orientation"]
    ref, other = list_episodes(spec)
    s3.server.requests.clear()
    first = read_episode(ref, wanted, spec)
    path = f"/{s3.name}/logs/episode_000.mcap"
    assert [r.method for r in s3.server.requests if r.path == path] == ["HEAD", "GET"]
    s3.fs.pipe_file(path[1:], (tmp_path / "logs/episode_001.mcap").read_bytes())
    s3.server.requests.clear()
    same(read_episode(ref, wanted, spec), replace(read_episode(other, wanted, spec), id=ref.id))
    assert [r.method for r in s3.server.requests if r.path == path] == ["HEAD", "GET", "GET", "GET"]
    assert len(first.streams["/imu.orientation"].times)


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


def write_zarr(folder: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.ZipStore(folder / "demos.zarr.zip", mode="w")
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for name in "abcd":
        array = group.create_array(f"data/{name}", shape=(80_000, 7), chunks=(4_000, 7), dtype="f4", compressors=None)
        array[:] = np.random.default_rng(0).standard_normal((80_000, 7)).astype(np.float32)
    group.create_array("meta/episode_ends", shape=(20,), dtype="i8")[:] = 4_000 * np.arange(1, 21)
    store.close()


def write_large(folder: Path, format: str) -> str:
    """20 episodes of 4,000 rows of four sources of 7 numbers, 9 MB, in one file; the name of a source."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    if format == "zarr":
        write_zarr(folder)
        return "data/b"
    if format == "hdf5":
        with h5py.File(folder / "demos.hdf5", "w") as file:
            for i in range(20):
                for name in "abcd":
                    file[f"data/demo_{i}/{name}"] = rng.standard_normal((4_000, 7)).astype(np.float32)
        return "b"
    numbers = [rng.standard_normal(80_000 * 7).astype(np.float32) for _ in "abcd"]
    if format == "npz":
        np.savez(folder / "demos.npz", **{name: n.reshape(-1, 7) for name, n in zip("abcd", numbers, strict=True)})
        return "b"
    lists = [pa.FixedSizeListArray.from_arrays(pa.array(n), 7) for n in numbers]
    columns = {"episode_index": np.repeat(np.arange(20), 4_000), **dict(zip("abcd", lists, strict=True))}
    pq.write_table(pa.table(columns), folder / "demos.parquet", row_group_size=4_000, compression="none")
    return "b"


@pytest.mark.parametrize("format", ["hdf5", "npz", "parquet", "zarr"])
def test_one_source_of_one_episode_takes_little_of_a_large_file(s3: Bucket, tmp_path: Path, format: str) -> None:
    """Listing and reading fetch the pieces that they look at and a little around each, not a megabyte at every place,
    and never the whole file."""
    source = write_large(tmp_path / "logs", format)
    spec = InputSpec((s3.put(tmp_path / "logs", "logs"),), times=RATE, storage_options=s3.options)
    size = sum(file.stat().st_size for file in (tmp_path / "logs").iterdir())
    assert size > 8_900_000
    s3.server.sent.clear()
    refs = list_episodes(spec)
    listed = sum(s3.server.sent.values())
    assert len(refs) == (1 if format == "npz" else 20) and listed < 0.25 * size
    s3.server.sent.clear()
    (stream,) = read_episode(refs[len(refs) // 2], [source], spec).streams.values()
    assert isinstance(stream.values, np.ndarray)
    assert stream.values.nbytes <= sum(s3.server.sent.values()) < stream.values.nbytes + 0.12 * size
