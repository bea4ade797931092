"""Files made to mislead or to exhaust: each is refused with its reason, soon and in little memory."""

from __future__ import annotations

import gzip
import json
import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import cloud_kit
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from bombs import jpeg, one_text, parquet, png
from mcap.writer import Writer
from message_kit import T0

from robocache.errors import InputError, TooLargeError
from robocache.formats import (
    InputSpec,
    TableTimes,
    describe_episode,
    list_episodes,
    list_input,
    list_streams,
    read_episode,
)
from robocache.formats.messages.definitions import parse_definition
from robocache.stages import peak_bytes
from robocache.video import image_frame

RATE = TableTimes(rate_hz=20)
COLUMN = TableTimes(column="t", unit="s")
SECRET = b"a key that is no recording's"


@pytest.fixture(autouse=True)
def soon():
    """Every one of them within five seconds."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 5


def read(spec: InputSpec, source: str):
    (ref,) = list_episodes(spec)
    assert not ref.failure, ref.failure
    return read_episode(ref, [source], spec).streams[source].values


# ---- names and links ------------------------------------------------------------------------------------------------


def test_two_colons_in_a_path_are_part_of_it(tmp_path):
    """fsspec takes them for a chain of file systems, and would read run.csv for run.csv::b.csv."""
    for name, value in (("run.csv", 1), ("run.csv::b.csv", 2), ("12h::30/run.csv", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"t,x\n0,{value}\n1,{value}\n")
    spec = InputSpec((str(tmp_path),), times=COLUMN)
    found = {ref.id: read_episode(ref, ["x"], spec).streams["x"].values[0] for ref in list_episodes(spec)}
    assert found == {"12h::30/run.csv": 3, "run.csv": 1, "run.csv::b.csv": 2}
    assert read(InputSpec((str(tmp_path / "12h::30"),), times=COLUMN), "x")[0] == 3


def test_what_is_no_plain_file_is_passed_over(tmp_path):
    """To open a pipe waits for whoever writes to it; a device need not end."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.csv").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "itself.csv")
    (tmp_path / "good.csv").write_text("t,x\n0,1\n1,2\n")
    listed = list_input(InputSpec((str(tmp_path),), times=COLUMN))
    assert [ref.id for ref in listed.episodes] == ["good.csv"]
    assert {(p.uri.rpartition("/")[2], p.what) for p in listed.passed_over} == {
        ("pipe.csv", "a pipe"),
        ("zero.csv", "a device"),
        ("itself.csv", "a link that leads to itself"),
        ("other", "a link that leads to itself"),
    }
    for asked, name, what in (
        ("pipe.csv", "pipe.csv", "a pipe"),
        ("pip*", "pipe.csv", "a pipe"),
        ("its*", "itself.csv", "a link that leads to itself"),
    ):
        (found,) = list_episodes(InputSpec((str(tmp_path / asked),), times=COLUMN))
        assert found.failure == f"{tmp_path}/{name}: is {what}, not a file"


def test_an_output_below_the_input_is_no_recording(tmp_path):
    out = tmp_path / "logs/out"
    for name in ("data/part-000000.parquet", "meta/robocache/_manifest.jsonl", "meta/robocache/_episodes.pq"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"PAR1")
    (tmp_path / "logs/good.csv").write_text("t,x\n0,1\n1,2\n")
    (tmp_path / "logs/again").symlink_to(out)
    listed = list_input(InputSpec((str(tmp_path / "logs"),), times=COLUMN))
    assert [ref.id for ref in listed.episodes] == ["good.csv"]
    assert [p.what for p in listed.passed_over] == ["an output of RoboCache"]


# ---- HDF5 that shows other files ------------------------------------------------------------------------------------


def hdf5(path: Path) -> InputSpec:
    return InputSpec((str(path),), times=RATE)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file that is no recording of the input."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(9.0)
        file["group/x"] = np.arange(9.0)
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "other.h5"


def links(file: h5py.File, other: Path) -> None:
    file["x"] = h5py.ExternalLink(str(other), "/x")


def links_within(file: h5py.File, other: Path) -> None:
    file["away"] = h5py.ExternalLink(str(other), "/group")
    file["x"] = h5py.SoftLink("/away/x")


def raw(file: h5py.File, other: Path) -> None:
    place = [(str(other.with_name("secret")), 0, len(SECRET))]
    file.create_dataset("x", (len(SECRET),), "u1", external=place)


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((9,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "x", (9,))
    file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize("made", [links, links_within, raw, virtual])
def test_values_from_another_file_are_refused(tmp_path, other, made):
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        made(file, other)
    spec = hdf5(path)
    (ref,) = list_episodes(spec)
    for ask in (lambda: describe_episode(ref, ["x"], spec), lambda: read_episode(ref, ["x"], spec)):
        with pytest.raises(InputError, match=r"in\.h5: 'x': .*(another|other) file"):
            ask()
    assert not [s for s in list_streams(ref, spec) if made in (links, links_within)]


def test_a_link_and_a_virtual_dataset_within_the_file_are_read(tmp_path):
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        file["a"], file["b"] = np.arange(4.0), np.arange(4.0) + 10
        file["soft"] = h5py.SoftLink("/a")
        layout = h5py.VirtualLayout((2, 4), "f8")
        layout[0], layout[1] = (h5py.VirtualSource(".", name, (4,)) for name in "ab")
        file.create_virtual_dataset("both", layout)
        file["round"] = h5py.SoftLink("/round")
    spec = hdf5(path)
    assert read(spec, "soft").tolist() == [0, 1, 2, 3]
    assert read(spec, "both").tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    with pytest.raises(InputError, match="a link to a link"):
        read(spec, "round")


def test_hdf5_that_costs_more_than_it_holds(tmp_path):
    with h5py.File(tmp_path / "chunk.h5", "w") as file:
        file.create_dataset("x", (200,), "f8", maxshape=(None,), chunks=(1 << 28,), compression="gzip")
    with pytest.raises(InputError, match=r"kept in pieces of \(268435456,\): 0 bytes unpack to 2147483648 or more"):
        read(hdf5(tmp_path / "chunk.h5"), "x")
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file["x"] = np.arange(3.0)
        group = file
        for _ in range(3000):
            group = group.create_group("g")
    (ref,) = list_episodes(hdf5(tmp_path / "deep.h5"))
    assert read(hdf5(tmp_path / "deep.h5"), "x").tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="groups within groups"):
        list_streams(ref, hdf5(tmp_path / "deep.h5"))


# ---- what inflates --------------------------------------------------------------------------------------------------


def test_a_schema_of_two_thousand_million_fields():
    types = [f"MSG: b/T{i}\nb/T{i + 1} left\nb/T{i + 1} right" for i in range(1, 31)]
    text = "\n===\n".join(["b/T1 left\nb/T1 right", *types, "MSG: b/T31\nfloat64 x"])
    with pytest.raises(InputError, match="fields, more than 20000"):
        parse_definition("b/T0", text.encode(), "/bomb")


def mcap(path: Path, kind: str, text: str, data: bytes) -> InputSpec:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        channel = writer.register_channel("/x", "cdr", writer.register_schema(kind, "ros2msg", text.encode()))
        writer.add_message(channel, T0, data, T0)
        writer.finish()
    return InputSpec((str(path),))


def test_a_million_empty_strings(tmp_path):
    data = b"\0\1\0\0" + struct.pack("<I", 1_000_000) + struct.pack("<I", 0) * 1_000_000 + struct.pack("<d", 1.0)
    spec = mcap(tmp_path / "a.mcap", "b/Many", "string[] names\nfloat64 x\n", data)
    assert (tmp_path / "a.mcap").stat().st_size < 10_000
    with pytest.raises(InputError, match="1000000 elements of varying length in one message"):
        read(spec, "/x.x")


def test_a_chunk_that_unpacks_to_far_more_than_any_recorder_writes(tmp_path):
    data = b"\0\1\0\0" + bytes(1 << 21)
    spec = mcap(tmp_path / "a.mcap", "b/One", "float64 x\n", data)
    assert len(zstandard.compress(data)) < 1000
    with pytest.raises(
        TooLargeError, match=r"unpack to 2097\d+ or more, at most 1048576 .* raise input.max_unpacked_mb"
    ):
        read(replace(spec, max_unpacked=1 << 20), "/x.x")
    assert read(spec, "/x.x").tolist() == [0.0]


def test_rows_and_arrays_that_are_nothing_but_runs(tmp_path):
    """A million times what the file holds; sound constant columns are read."""
    zeros = pa.array(np.zeros(2_000_000, np.int64))
    words = pa.array(["y" * 1000]).take(pa.array(np.zeros(100_000, np.int64)))
    pq.write_table(pa.table({"x": zeros}), tmp_path / "a.parquet", compression="zstd")
    pq.write_table(pa.table({"x": words}), tmp_path / "b.parquet", compression="zstd")
    np.savez_compressed(tmp_path / "c.npz", x=np.zeros(2_000_000))
    for name in ("a.parquet", "b.parquet"):
        with pytest.raises(TooLargeError, match=r"bytes unpack to \d+ or more, at most"):
            read(InputSpec((str(tmp_path / name),), times=RATE, max_unpacked=1 << 20), "x")
    (ref,) = list_episodes(InputSpec((str(tmp_path / "c.npz"),), times=RATE, max_unpacked=1 << 20))
    assert "bytes unpack to 16000128 or more, at most" in ref.failure
    assert len(read(InputSpec((str(tmp_path / "a.parquet"),), times=RATE), "x")) == 2_000_000


def test_an_extended_record_of_las_that_is_longer_than_any_file(tmp_path):
    """Nothing needs what it holds, so nothing is taken for it."""
    old = cloud_kit.las(np.random.default_rng(0).random((20, 3)), np.arange(20))
    head = bytearray(old[:227]) + bytes(375 - 227)
    head[25] = 4  # version 1.4, which has such records, behind the points
    struct.pack_into("<HI", head, 94, 375, 375)
    struct.pack_into("<QIQ", head, 235, 375 + len(old) - 227, 1, 20)
    record = struct.pack("<H16sHQ32s", 0, b"who", 7, 1 << 62, b"endless")
    (tmp_path / "17.las").write_bytes(bytes(head) + old[227:] + record)
    assert len(read(InputSpec((str(tmp_path / "17.las"),), format="las"), "points")) == 1


@pytest.mark.parametrize("told", [True, False])
def test_one_text_that_is_in_every_row(tmp_path, told):
    """A megabyte that is 611 of them; with and without the schema that says that it is a dictionary."""
    parquet(tmp_path / "a.parquet", one_text(), store_schema=told)
    before = peak_bytes()
    with pytest.raises(TooLargeError, match=r"unpack to \d{9} or more, at most 134217728"):
        read(InputSpec((str(tmp_path / "a.parquet"),), times=RATE), "x")
    assert peak_bytes() - before < 300e6


def test_an_array_whose_episodes_end_nobody_knows_where(tmp_path):
    """It would be one episode of all of them."""
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    with zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="w") as store:
        root = zarr.open_group(store, mode="w", zarr_format=3)
        root.create_array("data/x", data=np.arange(8.0))
        root.create_array("meta/episode_ends", data=np.array([3, 8]))
    data = bytearray((tmp_path / "a.zarr.zip").read_bytes())
    at = data.index(b"meta/episode_ends/zarr.json") + 60
    data[at] ^= 1
    (tmp_path / "a.zarr.zip").write_bytes(data)
    (ref,) = list_episodes(InputSpec((str(tmp_path / "a.zarr.zip"),), times=RATE))
    assert "where its episodes end is not known" in ref.failure


def test_images_of_more_pixels_than_any_camera_has():
    for name, data in (("png", png(9000, 9000, rows=2)), ("mjpeg", jpeg(65_000, 65_000))):
        with pytest.raises(ValueError, match="Invalid"):
            image_frame(data, name)
    assert image_frame(png(90, 60), "png").width == 90


def test_a_gzipped_table_beyond_memory(tmp_path):
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("t,x\n" + "0,1\n" * 30_000)
    spec = InputSpec((str(tmp_path / "a.csv.gz"),), times=COLUMN, max_unpacked=1 << 16)
    with pytest.raises(TooLargeError, match=r"unpack to \d+ or more, at most 65536"):
        read(spec, "x")


@pytest.mark.parametrize("template", ["{episode_index:0999999999d}", "{episode_index.__class__}", "{episode_index!r}"])
def test_a_template_that_is_more_than_a_path(tmp_path, template):
    info = {
        "codebase_version": "v2.1", "fps": 30, "data_path": template, "total_episodes": 1,
        "features": {"x": {"dtype": "float32", "shape": [1]}},
    }  # fmt: skip
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    (tmp_path / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 3}\n')
    (ref,) = list_episodes(InputSpec((str(tmp_path),)))
    assert "is no path with placeholders such as {episode_index:06d}" in ref.failure
