"""What the bytes of a cloud mean, against values packed one by one; real files against other readers."""

from __future__ import annotations

import struct

import cloud_kit as kit
import numpy as np
import pyarrow as pa
import pytest
from damage import damaged
from rosbags.highlevel import AnyReader
from voxel_oracles import read_las, read_pcd

from robocache.clouds import MESSAGE, Cloud, Field, decode_cloud, known_fields
from robocache.clouds.columns import field_problem
from robocache.errors import InputError, MissingError


def file(data: bytes) -> pa.Scalar:
    return pa.array([data], pa.large_binary())[0]


def assert_same(found: Cloud, columns: dict[str, np.ndarray]) -> None:
    assert list(found.columns) == list(columns)
    for name, values in columns.items():
        assert found.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(found.columns[name], values)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("rows, pad", [(1, 0), (1, 7), (3, 0), (3, 5)])
def test_messages_of_any_layout(big, rows, pad):
    columns = kit.points(12)
    found = decode_cloud(kit.payload(kit.layout(columns, rows, pad, big)), {"fields": kit.fields()})
    assert_same(found, columns)


def test_one_row_needs_no_length():
    columns = kit.points(4)
    said = {**kit.layout(columns), "row_step": 0}
    assert_same(decode_cloud(kit.payload(said), {"fields": kit.fields()}), columns)


def test_a_message_without_points():
    none = kit.points(0)
    said = {"height": 1, "width": 0, "point_step": kit.STEP, "row_step": 0, "is_bigendian": False, "data": b""}
    assert_same(decode_cloud(kit.payload(said), {"fields": kit.fields()}), none)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"data": b"\0" * 299}, "12 x 1|1 x 12 points of 25 bytes take 300 bytes, the message has 299"),
        ({"height": 3, "width": 4, "row_step": 99}, "rows of 99 bytes cannot hold 4 points of 25"),
        ({"point_step": 22}, "field t float64 at byte 15 does not fit in points of 22 bytes"),
    ],
)
def test_messages_that_state_what_they_do_not_hold(change, said):
    with pytest.raises(InputError, match=said):
        decode_cloud(kit.payload({**kit.layout(kit.points(12)), **change}), {"fields": kit.fields()})


def test_fields_that_cannot_be_read():
    message = kit.payload(kit.layout(kit.points(2)))
    with pytest.raises(InputError, match="not the same in all messages"):
        decode_cloud(message, {})
    with pytest.raises(InputError, match="unknown datatype 9"):
        decode_cloud(message, {"fields": [{"name": "x", "offset": 0, "datatype": 9, "count": 1}]})
    with pytest.raises(InputError, match="two fields of the cloud are called 'x'"):
        decode_cloud(message, {"fields": [*kit.fields(), kit.fields()[0]]})


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_of_any_encoding(encoding):
    columns = kit.points(100)
    columns["z"][3] = np.nan
    assert_same(decode_cloud(file(kit.pcd(columns, encoding)), {"encoding": "pcd"}), columns)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_damaged_pcd_is_refused_or_read(encoding):
    content, seen = kit.pcd(kit.points(60), encoding), set()
    for data in damaged(content, 60):
        try:
            decode_cloud(file(data), {"encoding": "pcd"})
        except InputError:
            seen.add("refused")
        else:
            seen.add("read")
    assert seen == {"refused", "read"}


def test_las_is_scaled_in_float64():
    pytest.importorskip("laspy")
    xyz = np.random.default_rng(0).uniform(0, 10, (50, 3)) + 5_000_000
    intensity = np.arange(50, dtype=np.uint16)
    found = decode_cloud(file(kit.las(xyz, intensity, offset=5_000_000)), {"encoding": "las"})
    np.testing.assert_allclose(found.places(), xyz, rtol=0, atol=0.0006)
    np.testing.assert_array_equal(found.column("intensity"), intensity)
    with pytest.raises(InputError, match="the file is shorter"):
        decode_cloud(file(kit.las(xyz, intensity, offset=5_000_000)[:-40]), {"encoding": "las"})


def test_columns_by_name():
    packed = np.array([0x01020304, 0xFF00FF80], np.uint32)
    cloud = Cloud({"rgb": packed.view(np.float32), "normal": np.arange(6.0).reshape(2, 3)})
    assert [cloud.column(c).tolist() for c in "rgba"] == [[2, 0], [3, 255], [4, 128], [1, 255]]
    assert cloud.column("normal[2]").tolist() == [2, 5]
    with pytest.raises(MissingError, match="packed colour, whose number means nothing; name r, g, b or a"):
        cloud.column("rgb")
    with pytest.raises(MissingError, match=r"3 numbers a point; name one of them, as in normal\[0\]"):
        cloud.column("normal")
    fields = [Field("x", np.dtype("f4"))]
    assert field_problem("ring", fields) == "no field 'ring'; the cloud's fields are x float32"
    assert field_problem("x", fields) == ""


def test_what_a_stream_says_of_its_fields():
    assert [str(f) for f in known_fields({"fields": kit.fields()})] == [
        "x float32",
        "y float32",
        "z float32",
        "intensity uint16",
        "t float64",
    ]
    assert known_fields({}) is None
    assert MESSAGE.field("data").type == pa.large_binary()


@pytest.mark.realdata
def test_recorded_files(data_dir):
    folder = data_dir / "more" / "clouds" / "pcd"
    for path in [
        *sorted((data_dir / "clouds").glob("*.pcd")),
        sorted((data_dir / "clouds" / "kinect_sequence").glob("*.pcd"))[0],
        folder / "binary.pcd",
        folder / "binary_compressed.pcd",
    ]:
        found = decode_cloud(file(path.read_bytes()), {"encoding": "pcd"})
        table = np.column_stack([c.astype(np.float64) for c in found.columns.values()])
        np.testing.assert_array_equal(table, read_pcd(path))
    ascii_, binary = (
        decode_cloud(file((folder / f"{name}.pcd").read_bytes()), {"encoding": "pcd"}) for name in ("ascii", "binary")
    )
    assert_same(ascii_, dict(binary.columns))
    several = decode_cloud(file((folder / "ascii_multi_count.pcd").read_bytes()), {"encoding": "pcd"})
    assert several.columns["intensity"].shape == (8, 4)
    padded = decode_cloud(file((folder / "ascii_with_underscore.pcd").read_bytes()), {"encoding": "pcd"})
    assert list(padded.columns) == ["x", "y", "z"]
    las = decode_cloud(file((data_dir / "clouds" / "simple.las").read_bytes()), {"encoding": "las"})
    np.testing.assert_array_equal(las.places(), read_las(data_dir / "clouds" / "simple.las"))


def test_damaged_las_is_refused_or_read_and_does_not_hang():
    pytest.importorskip("laspy")
    content, seen = kit.las(np.random.default_rng(0).random((40, 3)), np.arange(40)), set()
    counted = bytearray(content)
    counted[100:104] = b"\xff" * 4  # records before the points
    with pytest.raises(InputError, match="counts 4294967295 records"):
        decode_cloud(file(bytes(counted)), {"encoding": "las"})
    for data in damaged(content, 60):
        try:
            decode_cloud(file(data), {"encoding": "las"})
        except InputError:
            seen.add("refused")
        else:
            seen.add("read")
    assert seen == {"refused", "read"}


@pytest.mark.realdata
def test_a_recorded_message(data_dir):
    """Points of 15 bytes: x, y, z, and a byte for each colour, so that nothing is aligned."""
    with AnyReader([data_dir / "more" / "bags1" / "ros_numpy_test.bag"]) as bag:
        (connection,) = (c for c in bag.connections if c.msgtype.endswith("PointCloud2"))
        (raw,) = (raw for _, _, raw in bag.messages([connection]))
        said = bag.deserialize(raw, connection.msgtype)
    names = ("height", "width", "point_step", "row_step", "is_bigendian")
    message = {name: getattr(said, name) for name in names} | {"data": said.data.tobytes()}
    fields = [{key: getattr(f, key) for key in ("name", "offset", "datatype", "count")} for f in said.fields]
    found = decode_cloud(kit.payload(message), {"fields": fields})
    assert (said.point_step, len(found), list(found.columns)) == (15, 100, ["x", "y", "z", "r", "g", "b"])
    for i in range(100):
        wanted = struct.unpack_from("<fffBBB", message["data"], 15 * i)
        assert tuple(column[i].item() for column in found.columns.values()) == wanted
