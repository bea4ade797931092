"""IDL and XCDR2: messages serialised by pycdr2 (Cyclone DDS), read through MCAP, equal to what was put in."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest
from mcap.writer import Writer

from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode
from robocache.formats.messages.cdr import parts
from robocache.formats.messages.idl import parse_idl

pycdr2 = pytest.importorskip("pycdr2", reason="pycdr2 is not installed")
from pycdr2 import Endianness, IdlEnum, IdlStruct, IdlUnion  # noqa: E402
from pycdr2.annotations import appendable, bit_bound, final, mutable  # noqa: E402
from pycdr2.types import (  # noqa: E402
    array,
    bounded_str,
    case,
    default,
    float32,
    float64,
    int16,
    int32,
    int64,
    sequence,
    uint8,
    uint16,
    uint32,
)  # fmt: skip

T0 = 1_700_000_000_000_000_000
IDL = """
// Comments, and what a preprocessor would take.
#include "other.idl"
module builtin_interfaces { module msg { %(ext)s struct Time { int32 sec; uint32 nanosec; }; }; };
module robot {
  const long JOINTS = 2 + 1;
  typedef double Triple[3];
  enum Mode { IDLE, @value(5) MOVING, STOPPED };
  %(ext)s struct Point { double x; float y; };
  %(ext)s union Value switch (long) { case 0: case 7: double number; case 1: string text; default: Point point; };
  @verbatim(language="comment", text="all of it; with a \\"quote\\"")
  %(ext)s
  struct All {
    builtin_interfaces::msg::Time stamp;
    octet small;
    double big;
    boolean on;
    int64 wide;
    short shorts[2], other;
    string<12> name;
    unsigned long long huge;
    Triple triple;
    sequence<float, 10> floats;
    sequence<string> labels;
    sequence<string> tags;
    Point point;
    sequence<Point> points;
    Point pair[2];
    Mode mode;
    @optional double maybe;
    @optional Point where;
    Value value;
    @unit(value="m") float last;
  };
};
"""


def classes(mark: Any) -> SimpleNamespace:
    """The same types for pycdr2, all of one extensibility."""

    @mark
    @dataclass
    class Time(IdlStruct, typename="builtin_interfaces.msg.Time"):
        sec: int32
        nanosec: uint32

    class Mode(IdlEnum, typename="robot.Mode"):
        IDLE = 0
        MOVING = 5
        STOPPED = 6

    @mark
    @dataclass
    class Point(IdlStruct, typename="robot.Point"):
        x: float64
        y: float32

    kind = final if mark is mutable else mark

    @kind
    class Value(IdlUnion, discriminator=int32, typename="robot.Value"):
        number: case[[0, 7], float64]
        text: case[[1], str]
        point: default[Point]

    @mark
    @dataclass
    class All(IdlStruct, typename="robot.All"):
        stamp: Time
        small: uint8
        big: float64
        on: bool
        wide: int64
        shorts: array[int16, 2]
        other: int16
        name: bounded_str[12]
        huge: pycdr2.types.uint64
        triple: array[float64, 3]
        floats: sequence[float32, 10]
        labels: sequence[str]
        tags: sequence[str]
        point: Point
        points: sequence[Point]
        pair: array[Point, 2]
        mode: Mode
        maybe: Optional[float64]  # noqa: UP045 (pycdr2 knows this form alone)
        where: Optional[Point]  # noqa: UP045
        value: Value
        last: float32

    return SimpleNamespace(**{k: v for k, v in locals().items() if k not in ("mark", "kind")})


def message(types: SimpleNamespace, k: int) -> Any:
    point = types.Point
    chosen = ({"number": 0.5 * k}, {"text": f"t{k % 2}"}, {"point": point(1.0 * k, 2.0)})[k % 3]
    return types.All(
        types.Time(T0 // 10**9 + k, 250), k % 200, 1.5 * k, k % 2 == 0, -k << 40, [k, -k], 7, "arm" * (k % 3), k << 33,
        [k, k + 0.5, -k], [0.25 * k, 2.0], ["left", "right_" + "x" * (k % 2)], [], point(k, -k),
        [point(k + j, j) for j in range(1 + k % 2)], [point(9.0, k), point(8.0, k)], list(types.Mode)[k % 3],
        0.1 * k, point(3.0 * k, 1.0) if k % 2 else None, types.Value(**chosen), k / 4,
    )  # fmt: skip


def write(path: Path, sent: list[bytes], name: str, encoding: str, text: str) -> InputSpec:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("/all", "cdr", writer.register_schema(name, encoding, text.encode()))
        for k, data in enumerate(sent):
            writer.add_message(channel, T0 + k, data, T0 + k)
        writer.finish()
    return InputSpec((str(path),))


def read(spec: InputSpec, *sources: str) -> dict[str, Any]:
    (ref,) = list_episodes(spec)
    return {name[4:]: stream for name, stream in read_episode(ref, [f"/all{s}" for s in sources], spec).streams.items()}


FORMS = {"final": final, "appendable": appendable, "mutable": mutable}


@pytest.mark.parametrize("order", [Endianness.Little, Endianness.Big])
@pytest.mark.parametrize("form", FORMS)
def test_xcdr2(tmp_path, form, order):
    types, count = classes(FORMS[form]), 40
    text = IDL % {"ext": f"@{form}"}
    if form == "mutable":  # unions of it are not read
        text = text.replace("@mutable union", "@final union")
    sent = [message(types, k) for k in range(count)]
    data = [m.serialize(endianness=order, use_version_2=True) for m in sent]
    kind = {"final": 6, "appendable": 8, "mutable": 10}[form] + (order is Endianness.Little)
    data = [bytes([0, kind]) + d[2:] for d in data]
    spec = write(tmp_path / "a.mcap", data, "robot::All", "omgidl", text)
    found = read(
        spec, ".small", ".big", ".on", ".wide", ".shorts", ".other", ".name", ".huge", ".triple", ".floats", ".point",
        ".labels[1]", ".points[1].x", ".pair[1]", ".mode", ".maybe", ".where[0].x", ".value.discriminator",
        ".value.text[0]", ".value.point[0].x", ".last",
    )  # fmt: skip
    k = np.arange(count)
    for name, true in {
        ".small": k % 200, ".big": 1.5 * k, ".on": k % 2 == 0, ".wide": -k << 40, ".other": k * 0 + 7, ".huge": k << 33,
        ".last": k / 4, ".mode": np.array([0, 5, 6])[k % 3],
        ".triple": np.stack([k, k + 0.5, -k], 1), ".shorts": np.stack([k, -k], 1),
        ".floats": np.stack([0.25 * k, 2 + 0 * k], 1), ".point": np.stack([k, -k], 1),
        ".pair[1]": np.stack([8 + 0 * k, k], 1), ".maybe": 0.1 * k[:, None],
    }.items():  # fmt: skip
        np.testing.assert_array_equal(found[name].values, true, err_msg=name)
    assert found[".name"].values.to_pylist() == ["arm" * (i % 3) for i in range(count)]
    assert found[".labels[1]"].values.to_pylist() == ["right_" + "x" * (i % 2) for i in range(count)]
    assert (found[".big"].times == T0 + k * 10**9 + 250).all()
    np.testing.assert_array_equal(found[".points[1].x"].values, k[1::2] + 1)
    np.testing.assert_array_equal(found[".where[0].x"].values, 3.0 * k[1::2])
    np.testing.assert_array_equal(found[".value.point[0].x"].values, k[2::3])
    assert found[".value.text[0]"].values.to_pylist() == [f"t{i % 2}" for i in range(1, count, 3)]


def test_ros2idl(tmp_path):
    """Files one after another, each with its name above; plain CDR goes the usual way."""
    text = (
        f"{'=' * 80}\nIDL: sensor/msg/State\n"
        '#include "std_msgs/msg/Header.idl"\nmodule sensor { module msg {\n  typedef double double__3[3];\n'
        '  module State_Constants { const string NAME = "s"; const uint8 ON = 1; };\n'
        "  struct State { std_msgs::msg::Header header; double__3 position; sequence<uint8> data; }; }; };\n"
    )
    parts_ = [
        f"{'=' * 80}\nIDL: std_msgs/msg/Header\nmodule std_msgs {{ module msg {{ struct Header {{ "
        "builtin_interfaces::msg::Time stamp; string frame_id; }; }; };\n",
        f"{'=' * 80}\nIDL: builtin_interfaces/msg/Time\nmodule builtin_interfaces {{ module msg {{ struct Time {{ "
        "int32 sec; uint32 nanosec; }; }; };\n",
    ]

    def plain(k: int) -> bytes:
        body = struct.pack("<iII", T0 // 10**9 + k, 5, 5) + b"base\0"
        body += bytes(-len(body) % 8) + struct.pack("<ddd", k, 2 * k, 3 * k) + struct.pack("<I", 2) + b"ab"
        return b"\0\1\0\0" + body

    for ordered in ([*reversed(parts_), text], [text, *parts_]):
        spec = write(tmp_path / "a.mcap", [plain(k) for k in range(5)], "sensor/msg/State", "ros2idl", "".join(ordered))
        found = read(spec, ".position", ".data")
        np.testing.assert_array_equal(found[".position"].values, np.arange(5)[:, None] * [1.0, 2.0, 3.0])
        assert found[".data"].values.to_pylist() == [b"ab"] * 5
        assert (found[".position"].times == T0 + np.arange(5) * 10**9 + 5).all()
        assert found[".position"].about["frame"] == "base"


@pytest.mark.parametrize("unit, encoding", [(2, "utf-16"), (4, "utf-32"), (1, "utf-16")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_wide_strings(tmp_path, unit, encoding, order):
    """As Cyclone, Fast DDS and the standard have them: characters of 2 bytes, of 4, or a length in bytes."""
    words = ["links", "", "größer", "右"]

    def packed(k: int, word: str) -> bytes:
        text = word.encode(f"{encoding}-{'le' if order == '<' else 'be'}")
        body = struct.pack(f"{order}I", len(text) // unit) + text
        body += bytes(-len(body) % 8) + struct.pack(f"{order}d", k)
        return bytes([0, order == "<", 0, 0]) + body

    sent = [packed(k, words[k % 4]) for k in range(9)]
    spec = write(tmp_path / "a.mcap", sent, "robot/msg/Label", "ros2msg", "wstring<=20 label\nfloat64 x\n")
    found = read(spec, ".label", ".x")
    assert found[".label"].values.to_pylist() == [words[k % 4] for k in range(9)]
    np.testing.assert_array_equal(found[".x"].values, np.arange(9.0))


def test_many_messages_are_not_gone_through_one_by_one(tmp_path, monkeypatch):
    from robocache.formats.messages import repack

    types, made, shapes = classes(appendable), repack._Shape.__init__, []
    monkeypatch.setattr(repack._Shape, "__init__", lambda *args: (shapes.append(1), made(*args))[1])
    text = IDL.split("%(ext)s union")[0] % {"ext": "@appendable"} + "};"
    data = [types.Point(k, k).serialize(use_version_2=True) for k in range(3000)]
    spec = write(tmp_path / "a.mcap", [bytes([0, 9]) + d[2:] for d in data], "robot::Point", "omgidl", text)
    np.testing.assert_array_equal(read(spec, ".x")[".x"].values, np.arange(3000.0))
    assert len(shapes) < 10


def test_members_of_a_later_version_are_passed_over():
    types = classes(appendable)

    @appendable
    @dataclass
    class Point(IdlStruct, typename="robot.Point"):
        x: float64
        y: float32
        z: float32 = 0
        names: sequence[str] = field(default_factory=list)

    root = parse_idl("robot::Point", (IDL % {"ext": "@appendable"}).encode(), "x")
    data = bytes([0, 9]) + Point(1, 2, 3, ["a"]).serialize(use_version_2=True)[2:]
    old = bytes([0, 9]) + types.Point(1, 2).serialize(use_version_2=True)[2:]
    assert parts(root, "x", data).out == parts(root, "x", old).out


#: Thirty types of two fields each, one within the other.
DOUBLING = "".join(f"struct S{k} {{ {f'S{k - 1}' if k else 'double'} a, b; }};" for k in range(30))


@pytest.mark.parametrize(
    "text, said",
    [
        ("struct A { double x }", "line 1: found '}', expected ';'"),
        ("struct A { B b; };", "no definition of B"),
        ("struct A { double x; double x; };", "two fields named x"),
        ("struct A { map<string, long> m; };", "map is not read"),
        ("struct A { double x[0]; };", "x has 0 elements"),
        ("struct A { double x[99999999999]; };", "the schema is damaged"),
        ("module m { struct A { double x; };", "ends in the middle"),
        ("struct A \x01", "cannot read"),
        ("struct B { double x; };", "no struct of that name, it has B"),
        ("struct A { @id(x) double x; };", "'x' is no whole number"),
        ("interface A {};", "is none of module, struct"),
        ("module a { " * 40, "modules nested more than"),
        (DOUBLING, "fields, more than"),
    ],
)
def test_definitions_that_cannot_be_read(text, said):
    with pytest.raises(InputError) as caught:
        parse_idl("A", text.encode(), "file: /topic")
    assert said in str(caught.value) and str(caught.value).startswith("file: /topic: schema 'A'")


def test_messages_that_do_not_match(tmp_path):
    types = classes(mutable)
    text = (IDL % {"ext": "@mutable"}).replace("@mutable union", "@final union")
    data = bytes([0, 11]) + message(types, 4).serialize(use_version_2=True)[2:]
    root = parse_idl("robot::All", text.encode(), "x")
    parts(root, "x", data)
    for damaged in [bytes([7, 7]) + data[2:], *(data[:cut] for cut in range(len(data) - 4))]:
        with pytest.raises(InputError, match=r"match its schema|encapsulation"):
            parts(root, "x", damaged)
    spec = write(tmp_path / "a.mcap", [bytes([0, 3]) + data[2:]], "robot::All", "omgidl", text)
    (ref,) = list_episodes(spec)
    (info,) = list_streams(ref, spec)
    assert "list of members of XCDR1" in info.failure


def test_bit_bounds():
    text = "@bit_bound(8) enum E { A, B }; @bit_bound(16) bitmask M { X, @position(9) Y }; struct S { E e; M m; };"
    root = parse_idl("S", text.encode(), "x")
    assert [kind.dtype for _, kind in root.fields] == [np.int8, np.uint16]
    assert bit_bound and uint16
