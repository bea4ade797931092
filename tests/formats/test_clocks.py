"""Which clock a sample is of, to the nanosecond."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from mcap.writer import Writer
from message_kit import JOINTS, T0, TF, joints, make, record, register, stamp, stream, streams, transform

from robocache.errors import InputError, MissingError
from robocache.formats import TableTimes
from robocache.formats.times import column_times, text_to_ns
from robocache.types import Source

TIMES = [T0 + i * 10**7 for i in range(30)]


def test_a_source_has_the_clock_it_asks_for(tmp_path):
    sent = [(t + 500, joints(t, ["a"], [i])) for i, t in enumerate(TIMES)]
    path = record(tmp_path / "a.mcap", {"/j": (JOINTS, sent)})
    asked = [Source("/j.position", clock) for clock in ("", "log", "publish", "header.stamp")]
    found = streams(path, *asked)
    assert [s.times[0] - T0 for s in found.values()] == [0, 500, 501, 0]
    assert all(s.log_times.tolist() == [t + 500 for t in TIMES] and not s.notes for s in found.values())
    assert list(found)[1] == "/j.position (stamp: log)"
    assert stream(path, "/j.position", stamp="publish").times[0] == T0 + 501
    with pytest.raises(MissingError, match=r"stamp 'header\.time': no field 'time' in std_msgs/Header"):
        stream(path, Source("/j.position", "header.time"))
    with pytest.raises(InputError, match=r"stamp 'header.frame_id' is string; a time"):
        stream(path, Source("/j.position", "header.frame_id"))


def test_zero_stamps_among_others_are_none(tmp_path):
    sent = [(t + 500, joints(0 if i < 3 else t, ["a"], [i])) for i, t in enumerate(TIMES)]
    found = stream(record(tmp_path / "a.mcap", {"/j": (JOINTS, sent)}), "/j.position")
    assert found.times.tolist() == [t + 500 * (i < 3) for i, t in enumerate(TIMES)]
    assert found.notes == ("3 of 30 header stamps are zero: log time there",)
    sent = [(t + 500, joints(0, ["a"], [i])) for i, t in enumerate(TIMES)]
    found = stream(record(tmp_path / "b.mcap", {"/j": (JOINTS, sent)}), "/j.position")
    assert found.times[0] == T0 + 500 and found.notes == ("header stamps are zero throughout: log time",)


def test_messages_without_a_header_say_so_once(tmp_path):
    path = record(
        tmp_path / "a.mcap", {"/x": ("std_msgs/msg/Float64", [(t, make("std_msgs/msg/Float64", 0.5)) for t in TIMES])}
    )
    assert stream(path, "/x.data").notes == (
        "std_msgs/Float64 has no header stamp: log time; input.stamp can name a field",
    )
    assert stream(path, Source("/x.data", "log")).notes == ()


def test_elements_of_arrays_have_their_own_stamps(tmp_path):
    sent = [(t + 900, make(TF, [transform(t, "a", i), transform(t + 4, "b", i)])) for i, t in enumerate(TIMES)]
    path = record(tmp_path / "a.mcap", {"/tf": (TF, sent)})
    by_element, by_field = "/tf.transforms[1].transform", Source("/tf.transforms", "transforms[0].header.stamp")
    assert stream(path, by_element).times.tolist() == [t + 4 for t in TIMES]
    assert stream(path, "/tf.transforms[child_frame_id=a].transform").times.tolist() == TIMES
    assert stream(path, Source("/tf.transforms[1].transform", "transforms[0].header.stamp")).times.tolist() == TIMES
    with pytest.raises(InputError, match="holds child_frame_id"):
        stream(path, by_field)  # child_frame_id is text: every element cannot be laid side by side
    assert stream(path, Source("/tf.transforms.transform", "transforms[0].header.stamp")).times.tolist() == TIMES


def test_other_spellings_of_a_stamp(tmp_path):
    fields = {
        "foxglove_msgs/msg/Thing": ("builtin_interfaces/Time timestamp\nfloat64 x\n", lambda t: stamp(t), 0),
        "px4_msgs/msg/Thing": ("uint64 timestamp\nfloat64 x\n", lambda t: (t - T0) // 1000, -T0),
        "other_msgs/msg/Thing": ("uint64 timestamp\nfloat64 x\n", lambda t: t // 1000, None),
    }
    for name, (text, of, shift) in fields.items():
        kind = register(name, text)
        path = record(tmp_path / "a.mcap", {"/x": (kind, [(t + 7, make(kind, of(t), 0.5)) for t in TIMES])})
        found = stream(path, "/x.x")
        assert found.times[1:].tolist() == [t + (7 if shift is None else shift) for t in TIMES[1:]], name
    assert stream(path, Source("/x.x", "timestamp:us")).times.tolist() == TIMES
    with pytest.raises(InputError, match="stamp 'timestamp' does not tell its unit; write 'timestamp:us'"):
        stream(path, Source("/x.x", "timestamp"))


def write_json(path: Path, messages: list[str]) -> Path:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("/j", "json", 0)
        for t, message in zip(TIMES, messages, strict=False):
            writer.add_message(channel, t + 7, message.encode(), t)
        writer.finish()
    return path


@pytest.mark.parametrize(
    "spell",
    [
        lambda t: {"header": {"stamp": {"sec": t // 10**9, "nanosec": t % 10**9}}},
        lambda t: {"header": {"stamp": {"secs": t // 10**9, "nsecs": t % 10**9}, "seq": 1}},
        lambda t: {"timestamp": {"sec": t // 10**9, "nsec": t % 10**9}},
        lambda t: {"timestamp": f"2023-11-14T22:13:20.{t % 10**9:09d}Z"},
    ],
    ids=["ros2", "rosbridge", "foxglove", "text"],
)
def test_stamps_of_json(tmp_path, spell):
    times = [T0 + i * 10_000_001 for i in range(30)]
    path = write_json(tmp_path / "a.mcap", [json.dumps({**spell(t), "x": i}) for i, t in enumerate(times)])
    assert stream(path, "/j.x").times.tolist() == times


def test_numbers_of_json_keep_every_digit(tmp_path):
    path = write_json(tmp_path / "a.mcap", ['{"t": 1311868163.869712345, "x": 1}', '{"t": 1311868164, "x": 2}'])
    assert stream(path, Source("/j.x", "t:s")).times.tolist() == [1311868163869712345, 1311868164000000000]
    assert stream(path, "/j.x").notes == ("its messages have no header stamp: log time; input.stamp can name a field",)


@pytest.mark.parametrize("unit, scale", [("s", 9), ("ms", 6), ("us", 3), ("ns", 0)])
def test_decimal_text_is_exact(unit, scale):
    texts = ["1311868163.8697", " 0.5 ", "-1.25", "7", ".5", "12.", "0.4999999999", "1311868163.869712345678", "+3"]
    right = [int((Decimal(t.strip()) * 10**scale).to_integral_value("ROUND_HALF_UP")) for t in texts]
    assert [text_to_ns(t, unit) for t in texts] == right
    assert column_times(pa.chunked_array([texts]), unit, where="x").tolist() == right
    assert column_times(pa.chunked_array([[*texts, "1.5e2"]]), unit, where="x").tolist() == [*right, 150 * 10**scale]


def test_two_columns_and_a_column_for_each_table(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/imu.csv").write_text("sec,nsec,x\n1700000000,5,1\n1700000000,999999999,2\n")
    (tmp_path / "r/gt.csv").write_text("#timestamp,p\n1700000000000000001,3\n1700000000000000002,4\n")
    (tmp_path / "r/cam.csv").write_text("time_ns,k\n9,1\n")
    gt = TableTimes("#timestamp", "ns")
    times = TableTimes(columns=("sec", "nsec"), tables={"gt": gt, "cam": TableTimes(rate_hz=10)})
    found = streams(tmp_path / "r", "imu.x", "gt.p", "cam.k", episode="folder", times=times)
    assert [s.times.tolist() for s in found.values()] == [[T0 + 5, T0 + 999999999], [T0 + 1, T0 + 2], [0]]
    found = streams(tmp_path / "r", "gt.p", "cam.k", episode="folder", times=TableTimes(tables={"gt": gt}))
    assert [s.times.tolist() for s in found.values()] == [[T0 + 1, T0 + 2], [9]]
