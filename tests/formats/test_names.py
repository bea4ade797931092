"""Columns by the names that messages carry, elements by what they are, columns of awkward names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mcap.writer import Writer
from message_kit import JOINTS, STORE, T0, TF, header, joints, make, record, register, stream, streams, transform

from robocache.errors import InputError, MissingError
from robocache.formats import InputSpec, describe_episode, list_episodes
from robocache.formats.base import Match, parse_source
from robocache.types import Source

STEP = 20_000_000
TIMES = [T0 + i * STEP for i in range(50)]


def kinds(path: Path, *sources: str | Source, look: bool):
    (ref,) = list_episodes(InputSpec((str(path),)))
    return describe_episode(ref, sources, InputSpec((str(path),)), look=look)


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    """Two arms on one topic, 10 ms apart, the left one's joints now in this order, now in that."""
    left = [(t, joints(t, ["l1", "l2"], [1.0, 2.0]) if i % 2 else joints(t, ["l2", "l1"], [2.0, 1.0]))
            for i, t in enumerate(TIMES)]  # fmt: skip
    right = [(t + 10**7, joints(t + 10**7, ["r1", "r2"], [-1.0, -2.0], (0.5, 0.25))) for t in TIMES]
    return record(tmp_path / "a.mcap", {"/joint_states": (JOINTS, left + right)})


def test_each_message_is_brought_to_the_order_of_the_first(arms):
    found = stream(arms, "/joint_states.position")
    assert found.about["names"] == ["l2", "l1"]
    np.testing.assert_array_equal(found.values, [[2.0, 1.0]] * 50)
    assert found.times.tolist() == TIMES and found.log_times.tolist() == TIMES and found.present is None
    swapped, others = found.notes
    assert swapped.startswith(
        "the names of 25 messages of 100 stand in another order than the dataset's; each number is"
    )
    assert others == "50 messages carry other names (r1, r2)"


def test_the_settled_order_wins_and_a_selector_names_its_columns(arms):
    settled = Source("/joint_states.position", names=("l1", "l2"))
    found = streams(arms, "/joint_states.position[r2,r1]", "/joint_states.position[l1,r1]", "/joint_states.position[0]")
    np.testing.assert_array_equal(stream(arms, settled).values, [[1.0, 2.0]] * 50)
    np.testing.assert_array_equal(found["/joint_states.position[r2,r1]"].values, [[-2.0, -1.0]] * 50)
    both = found["/joint_states.position[l1,r1]"]
    assert len(both.times) == 100 and both.notes == ()
    np.testing.assert_array_equal(both.present, [[True, False], [False, True]] * 50)
    np.testing.assert_array_equal(both.values[both.present], [1.0, -1.0] * 50)
    assert np.isnan(both.values[~both.present]).all()
    assert found["/joint_states.position[0]"].about["names"] == ["l2"]  # a place is one of the first message's
    assert set(found["/joint_states.position[0]"].values.ravel()) == {2.0}


def test_names_that_nobody_carries_and_arrays_that_are_empty(arms):
    with pytest.raises(MissingError, match="no message has shoulder; the names that they carry are l1, l2, r1, r2"):
        stream(arms, "/joint_states.position[shoulder]")
    velocity = stream(arms, "/joint_states.velocity")
    assert velocity.about["names"] == ["r1", "r2"]  # of the first message that has any
    assert velocity.values.tolist() == [[0.5, 0.25]] * 50
    assert stream(arms, "/joint_states.effort").values.shape == (100, 0)
    assert stream(arms, "/joint_states.name").values.to_pylist()[:2] == [["l2", "l1"], ["r1", "r2"]]


def test_a_message_without_a_value_for_each_name_has_none(tmp_path):
    sent = [(t, joints(t, ["a", "b"], [] if i == 3 else [0.5, i])) for i, t in enumerate(TIMES)]
    found = stream(record(tmp_path / "a.mcap", {"/j": (JOINTS, sent)}), "/j.position[b,a]")
    assert found.present.tolist() == [[i != 3] * 2 for i in range(50)]
    assert found.notes == ("1 message do not have one value for each name",)
    unnamed = [(t, joints(t, [], [0.5, i])) for i, t in enumerate(TIMES)]
    path = record(tmp_path / "b.mcap", {"/j": (JOINTS, unnamed)})
    assert stream(path, "/j.position[1]").values.ravel().tolist() == list(range(50))
    with pytest.raises(MissingError, match="no message has a; they carry no names"):
        stream(path, "/j.position[a]")


def test_describe_tells_names_by_one_message(arms):
    path = "/joint_states.position"
    assert kinds(arms, path, look=False)[path].open
    looked = kinds(arms, path, f"{path}[r1]", look=True)
    assert looked[path].arrow == pa.list_(pa.float64(), 2) and looked[path].about["names"] == ["l2", "l1"]
    assert looked[f"{path}[r1]"].arrow == pa.list_(pa.float64(), 1)  # in none of the first publisher's messages
    settled = Source(path, names=("l1", "l2"))
    assert kinds(arms, settled, look=False)[path].arrow == pa.list_(pa.float64(), 2)
    with pytest.raises(MissingError, match="no message has elbow"):
        kinds(arms, f"{path}[elbow]", look=True)


def test_points_of_a_trajectory_go_by_the_names_of_the_whole(tmp_path):
    def sent(t: int, names: list[str]):
        values = {"x": 1.0, "y": 2.0}
        duration = make("builtin_interfaces/msg/Duration", 0, 0)
        position = np.array([values[name] for name in names])
        point = make(
            "trajectory_msgs/msg/JointTrajectoryPoint", position, position * 10, np.array([]), np.array([]), duration
        )
        return make("trajectory_msgs/msg/JointTrajectory", header(t), names, [point, point])

    messages = [(t, sent(t, ["x", "y"] if i % 3 else ["y", "x"])) for i, t in enumerate(TIMES)]
    path = record(tmp_path / "a.mcap", {"/t": ("trajectory_msgs/msg/JointTrajectory", messages)})
    found = streams(path, "/t.points[1].positions[x,y]", "/t.points[0].velocities", "/t.points.positions[y,x]")
    assert found["/t.points[1].positions[x,y]"].values.tolist() == [[1.0, 2.0]] * 50
    assert found["/t.points[0].velocities"].values.tolist() == [[20.0, 10.0]] * 50
    assert found["/t.points.positions[y,x]"].values.tolist() == [[[2.0, 1.0]] * 2] * 50


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two publishers of /tf, one of two frames in changing places, and an empty message."""
    sent = [(t, make(TF, [transform(t + 3, "base", 1.0)])) for t in TIMES]
    for i, t in enumerate(TIMES):
        pair = [transform(t + 7, "tool", 9.0, "base"), transform(t + 8, "cam", 5.0, "base")]
        sent.append((t + 7_000_000, make(TF, pair if i % 2 else pair[::-1])))
    sent.append((T0 + 1, make(TF, [])))
    return record(tmp_path / "tf.mcap", {"/tf": (TF, sent)})


def test_an_element_is_found_by_its_text_wherever_it_stands(frames):
    source = "/tf.transforms[child_frame_id=tool].transform"
    found = streams(frames, source, '/tf.transforms[child_frame_id="cam"].header.frame_id', f"{source}[translation.x]")
    tool = found[source]
    assert tool.values.tolist() == [[9.0, 0, 0, 0, 0, 0, 1]] * 50
    assert tool.times.tolist() == [t + 7 for t in TIMES]  # the element's own stamps
    assert tool.log_times.tolist() == [t + 7_000_000 for t in TIMES]
    assert tool.about["kind"] == "pose" and tool.about["frame"] == "base"
    assert tool.notes == ("51 of 101 messages have no .transforms[child_frame_id=tool]",)
    assert found['/tf.transforms[child_frame_id="cam"].header.frame_id'].values.to_pylist() == ["base"] * 50
    assert found[f"{source}[translation.x]"].values.tolist() == [[9.0]] * 50
    with pytest.raises(MissingError, match=r"none of 101 messages has \.transforms\[child_frame_id=arm\]"):
        stream(frames, "/tf.transforms[child_frame_id=arm].transform")
    with pytest.raises(MissingError, match=r"no field 'child' in .* to match; its fields are header, child_frame_id"):
        stream(frames, "/tf.transforms[child=arm].transform")


def test_a_place_in_an_array_of_frames_is_one_frame(frames):
    found = stream(frames, "/tf.transforms[0].transform.translation")
    assert set(found.values[:, 0]) == {1.0} and found.about["element"] == "child_frame_id=base"
    assert stream(frames, "/tf.transforms[1].transform.translation").about["element"] == "child_frame_id=tool"


def test_elements_by_a_number_and_of_one_layout(tmp_path):
    register("test_msgs/msg/Cell", "uint16 id\nfloat32 volt\n")
    kind = register("test_msgs/msg/Pack", "test_msgs/msg/Cell[] cells\nint32 tail\n")
    cell = STORE.types["test_msgs/msg/Cell"]
    sent = [(t, make(kind, [cell(3, i), cell(300, -i)][:: 1 if i % 2 else -1], i)) for i, t in enumerate(TIMES)]
    path = record(tmp_path / "a.mcap", {"/c": (kind, sent)})
    found = streams(path, "/c.cells[id=300].volt", "/c.cells[id=3]", "/c.tail")
    assert found["/c.cells[id=300].volt"].values.tolist() == [-i for i in range(50)]
    assert found["/c.cells[id=3]"].values.tolist() == [[3, i] for i in range(50)]
    assert found["/c.tail"].values.tolist() == list(range(50))
    with pytest.raises(InputError, match="id is uint16, a whole number"):
        stream(path, "/c.cells[id=x].volt")


def test_text_beside_chosen_numbers_is_no_hindrance(tmp_path):
    kind = register("test_msgs/msg/Fix", "string letter\nfloat64 east\ngeometry_msgs/Vector3 v\nfloat64[] more\n")
    vector = make("geometry_msgs/msg/Vector3", 1.0, 2.0, 3.0)
    sent = [(t, make(kind, "T", i * 0.5, vector, np.zeros(i % 3))) for i, t in enumerate(TIMES)]
    path = record(tmp_path / "a.mcap", {"/g": (kind, sent)})
    found = streams(path, "/g[v.z,east]", "/g[v,east]")
    assert found["/g[v.z,east]"].values.tolist() == [[3.0, i * 0.5] for i in range(50)]
    assert found["/g[v,east]"].values[3].tolist() == [1, 2, 3, 1.5]
    assert found["/g[v,east]"].about["names"] == ["v.x", "v.y", "v.z", "east"]
    with pytest.raises(MissingError, match=r"no column 'west'; its columns are east, v\.x, v\.y, v\.z, more"):
        stream(path, "/g[west]")
    with pytest.raises(InputError, match="holds letter of type string; name one of the others"):
        stream(path, "/g[letter]")


def test_json_goes_by_names_and_elements_too(tmp_path):
    sent = []
    for i, t in enumerate(TIMES):
        names = ["a", "b"] if i % 2 else ["b", "a"]
        items = [{"id": 1, "v": i}, {"id": 2, "v": -i}][:: 1 if i % 3 else -1]
        at = {"sec": t // 10**9, "nsec": t % 10**9}
        sent.append({"timestamp": at, "name": names, "position": [{"a": 1, "b": 2}[n] for n in names], "items": items})
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("/j", "json", 0)
        for t, message in zip(TIMES, sent, strict=True):
            writer.add_message(channel, t + 5, json.dumps(message).encode(), t)
        writer.finish()
    found = streams(tmp_path / "a.mcap", "/j.position", "/j.position[b]", "/j.items[id=2].v", "/j.name")
    assert found["/j.position"].values.tolist() == [[2, 1]] * 50 and found["/j.position"].about["names"] == ["b", "a"]
    assert found["/j.position[b]"].values.tolist() == [[2]] * 50
    assert found["/j.items[id=2].v"].values.tolist() == [-i for i in range(50)]
    assert found["/j.position"].times.tolist() == TIMES and found["/j.position"].log_times[0] == T0 + 5
    assert found["/j.name"].values.to_pylist()[1] == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "name", "selector"),
    [
        ("a[0].b[1]", "a[0].b", (1,)),
        ("p [m]", "p ", ("m",)),
        ("q_RS_w []", "q_RS_w []", None),
        ('t["q_RS_w []","p [m]", x]', "t", ("q_RS_w []", "p [m]", "x")),
        ("[q_RS_w [],p [m]]", "", ("q_RS_w []", "p [m]")),
        ("/tf.t[child_frame_id=tool].x", "/tf.t[child_frame_id=tool].x", None),
        ("/tf.t[child_frame_id='a]b']", "/tf.t", (Match("child_frame_id", "a]b"),)),
        ("x[ -2 , 1:3, :]", "x", (-2, slice(1, 3), slice(None))),
        ("['a,b']", "", ("a,b",)),
    ],
)
def test_paths(source, name, selector):
    assert parse_source(source) == (name, selector)


def test_columns_of_awkward_names(tmp_path):
    (tmp_path / "a.csv").write_text('t_ns,q_RS_w [],p [m],a.b,"x,y",w [m]\n0,1,2,3,4,5\n10,6,7,8,9,10\n')
    group = '["q_RS_w []",p [m],"x,y"]'
    found = streams(tmp_path / "a.csv", "q_RS_w []", "p [m]", "a.b", group, "[p [m],w [m]]")
    assert found["q_RS_w []"].values.tolist() == [1, 6] and found["p [m]"].values.tolist() == [2, 7]
    assert found[group].values.tolist() == [[1, 2, 4], [6, 7, 9]]
    assert found[group].about == {"names": ["q_RS_w []", "p [m]", "x,y"]}
    assert found["p [m]"].about == {"unit": "m"}
    assert found["[p [m],w [m]]"].about == {"names": ["p [m]", "w [m]"], "unit": "m"}


def test_columns_of_a_table_keep_their_settled_order(tmp_path):
    (tmp_path / "a.csv").write_text("t_ns,y,x\n0,1,2\n10,6,7\n")
    assert stream(tmp_path / "a.csv", Source("[0:2]", names=("x", "y"))).values.tolist() == [[2, 1], [7, 6]]
    with pytest.raises(MissingError, match="no column 'z'; its columns are t_ns, y, x"):
        stream(tmp_path / "a.csv", Source("[0:2]", names=("x", "z")))
