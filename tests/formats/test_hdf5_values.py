"""What HDF5 datasets and attributes are read as: frames, encoded images, text, lists, single values; against h5py."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes, read_episode
from robocache.types import Stream

h5py = pytest.importorskip("h5py", reason="HDF5 is optional")

RATE = TableTimes(rate_hz=50)


def jpeg(n: int, seed: int = 0) -> bytes:
    """Begins and ends as a JPEG file does; zeros and end markers in between, as thumbnails have them."""
    noise = np.random.default_rng(seed).integers(0, 255, n, dtype=np.uint8).tobytes()
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\0" + noise + b"\xff\xd9\0\0\0" + noise + b"\xff\xd9"


def png(width: int, height: int) -> bytes:
    """A whole PNG file of grey noise."""
    pixels = np.random.default_rng(width).integers(0, 255, (height, width), dtype=np.uint8)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + line.tobytes() for line in pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def padded(images: list[bytes], length: int = 0) -> np.ndarray:
    length = length or max(map(len, images))
    return np.stack([np.frombuffer(image.ljust(length, b"\0"), np.uint8) for image in images])


def read(path: Path, *sources: str, times: TableTimes = RATE) -> dict[str, Stream]:
    """The streams; what is described of them is what is read."""
    spec = InputSpec((str(path),), times=times)
    (ref,) = list_episodes(spec)
    assert not ref.failure, ref.failure
    streams = read_episode(ref, sources, spec).streams
    for key, described in describe_episode(ref, sources, spec).items():
        assert streams[key].type == described, key
    return dict(streams)


@pytest.mark.parametrize(
    ("shape", "height", "width"),
    [((5, 12, 20, 3), 12, 20), ((5, 12, 20, 1), 12, 20), ((5, 3, 12, 20), 12, 20), ((5, 32, 16), 32, 16)],
)
def test_frames_stay_bytes(tmp_path: Path, shape: tuple[int, ...], height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("top", data=frames, chunks=(1, *shape[1:]), compression="gzip")
    stream = read(tmp_path / "a.h5", "top")["top"]
    assert stream.values.dtype == np.uint8 and (stream.values == frames).all()
    assert stream.about == {"kind": "image", "height": height, "width": width}


@pytest.mark.parametrize("shape", [(5, 4, 4), (5, 7), (5,), (5, 2, 2, 2, 3)])
def test_small_whole_numbers_are_no_frames(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(shape, np.uint8)
        file["depth"] = np.ones((5, 32, 32), np.uint16)
    found = read(tmp_path / "a.h5", "x", "depth")
    assert found["x"].about == {} and found["depth"].about == {} and found["depth"].values.dtype == np.uint16


def test_frames_cost_their_own_size(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["top"] = np.ones((64, 224, 224, 3), np.uint8)
    size = 64 * 224 * 224 * 3
    read(tmp_path / "a.h5")  # imports done
    tracemalloc.start()
    try:
        read(tmp_path / "a.h5", "top")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < peak < 1.2 * size


IMAGES = {"jpeg": [jpeg(40), jpeg(300, 1), jpeg(7, 2)], "png": [png(3, 4), png(30, 20), png(8, 8)]}


def _padded(file, images):
    file["top"] = padded(images, 900)


def _exact(file, images):
    file["top"] = padded(images)


def _aloha(file, images):
    file["top"] = padded(images, 900)
    file["compress_len"] = np.array([[len(image) for image in images]], np.float32)


def _variable(file, images):
    data = file.create_dataset("top", (len(images),), h5py.vlen_dtype(np.uint8))
    for k, image in enumerate(images):
        data[k] = np.frombuffer(image, np.uint8)


def _opaque(file, images):
    file["top"] = np.array([image.ljust(900, b"\0") for image in images], "V900")


def _string(file, images):
    file["top"] = np.array(images, "S900")


LAYOUTS = [_padded, _exact, _aloha, _variable, _opaque, _string]


@pytest.mark.parametrize("encoding", IMAGES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_encoded_images_are_their_own_bytes(tmp_path: Path, layout, encoding: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layout(file, IMAGES[encoding])
    stream = read(tmp_path / "a.h5", "top")["top"]
    assert stream.values.type == pa.large_binary() and stream.values.to_pylist() == IMAGES[encoding]
    assert stream.about == {"kind": "image", "encoding": encoding} and stream.notes == ()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_row_is_no_image(tmp_path: Path, layout) -> None:
    first, last = jpeg(40), png(5, 5)  # and encodings may be mixed
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layout(file, [b"", first, b"", last])
    assert read(tmp_path / "a.h5", "top")["top"].values.to_pylist() == [None, first, None, last]


def test_a_cut_image_is_left_out_and_told(tmp_path: Path) -> None:
    whole = jpeg(40)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["top"] = padded([whole, whole[:-2], whole], 900)
    stream = read(tmp_path / "a.h5", "top")["top"]
    assert stream.values.to_pylist() == [whole, None, whole]
    assert stream.notes == ("1 of 3 rows are no whole jpeg image and left out (row 1)",)


def test_bytes_that_are_no_images(tmp_path: Path) -> None:
    rows = [b"\0\1\0", b"\xff\xd8\xff", b""]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        _variable(file, rows)
        file["fixed"] = np.array([b"\0\1\0", b"abc"], "V3")
        file["numbers"] = np.arange(600, dtype=np.uint8).reshape(3, 200)
        file["columns"] = padded([jpeg(40)], 900)
    found = read(tmp_path / "a.h5", "top", "fixed", "numbers", "columns[0:3]")
    assert found["top"].values.to_pylist() == [b"\0\1\0", b"\xff\xd8\xff", None] and found["top"].about == {}
    assert found["fixed"].values.to_pylist() == [b"\0\1\0", b"abc"]
    assert found["numbers"].values.tolist() == np.arange(600, dtype=np.uint8).reshape(3, 200).tolist()
    assert found["columns[0:3]"].values.tolist() == [[255, 216, 255]]


def test_text_in_every_form(tmp_path: Path) -> None:
    words = ["pick", "", "place"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["utf8"] = words
        file["ascii"] = np.array(words, "S8")
        file["vlen_ascii"] = np.array(words, h5py.string_dtype("ascii"))
        file["fixed_utf8"] = np.array(words, h5py.string_dtype("utf-8", 8))
        file["bad"] = np.array([b"a", b"\xe9"], "S3")
        file["one"] = "a task"
    found = read(tmp_path / "a.h5", "utf8", "ascii", "vlen_ascii", "fixed_utf8", "one")
    assert all(s.values.type == pa.string() for s in found.values())
    assert all(found[k].values.to_pylist() == words for k in ("utf8", "ascii", "vlen_ascii", "fixed_utf8"))
    assert found["one"].values.to_pylist() == ["a task"]
    with pytest.raises(InputError, match=r"'bad', row 2: is no UTF-8 text"):
        read(tmp_path / "a.h5", "bad")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint64, ">f4"])
def test_sequences_of_varying_length_are_lists(tmp_path: Path, dtype) -> None:
    rows = [[1, 2, 3], [], [4], [5, 6]]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", (4,), h5py.vlen_dtype(np.dtype(dtype)))
        for k, row in enumerate(rows):
            data[k] = np.array(row, dtype)
    values = read(tmp_path / "a.h5", "x")["x"].values
    assert values.to_pylist() == rows
    assert values.type == pa.list_(pa.from_numpy_dtype(np.dtype(dtype).newbyteorder("=")))


def test_single_values_are_one_sample_at_the_first_time(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        demo = file.create_group("data/demo_0")
        file.attrs["robot"], file["data"].attrs["hz"], demo.attrs["success"] = "panda", 20.5, np.bool_(True)
        demo["t"] = np.arange(5) + 7.0
        demo["mass"], demo["goal"], demo["name"] = np.float64(2.5), np.arange(3)[None], "x"
        demo["q"] = np.zeros((5, 2))
        demo["q"].attrs["names"] = np.array([1.5, 2.5], "f4")
        demo["a@b"] = np.ones(5)
    sources = ["mass", "goal", "name", "@success", "@hz", "@robot", "q@names", "goal[0,2]", "a@b", "@gone", "q@gone"]
    found = read(tmp_path / "a.h5", *sources, times=TableTimes("t"))
    assert list(found) == sources[:-2]
    got = {k: s.values.tolist() if isinstance(s.values, np.ndarray) else s.values.to_pylist() for k, s in found.items()}
    assert got == {
        "mass": [2.5], "goal": [[0, 1, 2]], "name": ["x"], "@success": [True], "@hz": [20.5], "@robot": ["panda"],
        "q@names": [[1.5, 2.5]], "goal[0,2]": [[0, 2]], "a@b": [1.0] * 5,
    }  # fmt: skip
    assert all(s.times.tolist() == [7_000_000_000] for k, s in found.items() if k != "a@b")


def test_time_in_two_datasets(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["secs"], file["nsecs"] = np.array([1_700_000_000, 1_700_000_001]), np.array([999_999_999, 1])
        file["x"] = np.zeros(2)
    found = read(tmp_path / "a.h5", "x", times=TableTimes(columns=("secs", "nsecs")))
    assert found["x"].times.tolist() == [1_700_000_000_999_999_999, 1_700_000_001_000_000_001]


def test_what_holds_nothing_is_explained(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["none"] = h5py.Empty("f4")
        file["x"] = np.zeros(2)
        file["x"].attrs["none"] = h5py.Empty("f4")
    for source, reason in (("none", "holds no value"), ("x@none", "attribute of type")):
        with pytest.raises(InputError, match=reason):
            read(tmp_path / "a.h5", source)
