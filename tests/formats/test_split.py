"""Recordings that were split into several files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from message_kit import JOINTS, T0, TF, joints, make, record, transform

from robocache.errors import InputError
from robocache.formats import InputSpec, describe_episode, list_episodes, list_input, list_streams, read_episode

TIMES = [T0 + i * 10**7 for i in range(60)]


def write(folder: Path) -> None:
    """Three pieces: the order of joints changes, and a topic is in the last one alone."""
    folder.mkdir()
    for piece in range(3):
        mine = TIMES[piece * 20 : piece * 20 + 20]
        names, values = (["a", "b"], [1.0, 2.0]) if piece != 1 else (["b", "a"], [2.0, 1.0])
        topics = {"/j": (JOINTS, [(t, joints(t, names, values)) for t in mine])}
        if piece == 2:
            topics["/tf"] = (TF, [(t, make(TF, [transform(t, "tool", 9.0)])) for t in mine])
        record(folder / f"bag_{piece}.mcap", topics)


def metadata(folder: Path, *names: str) -> None:
    listed = "".join(f"    - {name}\n" for name in names)
    text = f"rosbag2_bagfile_information:\n  version: 5\n  relative_file_paths:\n{listed}"
    (folder / "metadata.yaml").write_text(text)


@pytest.mark.parametrize("how", ["folder", "metadata", "pattern"])
def test_pieces_are_one_episode(tmp_path, how):
    write(tmp_path / "bag")
    if how == "metadata":
        metadata(tmp_path / "bag", "bag_0.mcap", "bag_1.mcap", "bag_2.mcap")
    episode = {"folder": "folder", "metadata": "file", "pattern": r"(?P<episode>.*)/bag_\d+\.mcap"}[how]
    spec = InputSpec((str(tmp_path),), episode=episode)
    (ref,) = list_episodes(spec)
    assert ref.id == "bag" and len(ref.files) == 3 and not ref.tables
    found = read_episode(ref, ["/j.position", "/tf.transforms[0].transform"], spec).streams
    assert found["/j.position"].times.tolist() == TIMES
    assert found["/j.position"].values.tolist() == [[1.0, 2.0]] * 60
    assert found["/tf.transforms[0].transform"].times.tolist() == TIMES[40:]
    types = describe_episode(ref, ["/j.position", "/tf.transforms[0].transform.translation"], spec, look=True)
    assert [kind.shape for kind in types.values()] == [(2,), (3,)]
    assert [(s.source, len(s.times)) for s in list_streams(ref, spec)] == [("/j", 60), ("/tf", 20)]


def test_a_piece_that_is_not_there_is_missed(tmp_path):
    write(tmp_path / "bag")
    metadata(tmp_path / "bag", "bag_0.mcap", "bag_1.mcap", "bag_2.mcap", "bag_3.mcap.zstd")
    (ref,) = list_episodes(InputSpec((str(tmp_path),)))
    assert "names bag_3.mcap.zstd, which is not there or cannot be read" in ref.failure
    metadata(tmp_path / "bag", "bag_1.mcap", "bag_0.mcap")  # the third is a recording of its own
    listing = list_input(InputSpec((str(tmp_path),)))
    assert [(ref.id, len(ref.files)) for ref in listing.episodes] == [("bag", 2), ("bag/bag_2.mcap", 1)]


_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 5_000,
        "rosbag2_bagfile_information: bag_0.mcap",
        "rosbag2_bagfile_information: {relative_file_paths: bag_0.mcap}",
        f"{_BOMB}rosbag2_bagfile_information: {{relative_file_paths: [*a39, *a39]}}\n",
        "\0",
    ],
    ids=["deep", "deep mappings", "no mapping", "no list", "names without end", "no text"],
)
def test_another_file_of_that_name_is_none_of_a_recording(tmp_path, text):
    write(tmp_path / "bag")
    (tmp_path / "bag/metadata.yaml").write_text(text)
    listing = list_input(InputSpec((str(tmp_path),)))
    assert [ref.failure for ref in listing.episodes] == ["", "", ""]
    assert [file.uri.rpartition("/")[2] for file in listing.passed_over] == ["metadata.yaml"]


def test_pieces_of_different_types_do_not_mix(tmp_path):
    write(tmp_path / "bag")
    kind = "std_msgs/msg/Float64"
    record(tmp_path / "bag/bag_3.mcap", {"/j": (kind, [(TIMES[-1] + 1, make(kind, 1.0))])})
    spec = InputSpec((str(tmp_path),), episode="folder")
    (ref,) = list_episodes(spec)
    with pytest.raises(InputError, match="have schemas sensor_msgs/msg/JointState and std_msgs/msg/Float64"):
        read_episode(ref, ["/j.position"], spec)


def test_schemas_that_differ_in_comments_are_one_type(tmp_path):
    from mcap.writer import Writer

    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        texts = {"std_msgs/msg/Int32": b"# a number\nint32 data # here", "std_msgs/Int32": b"int32   data\n"}
        for i, (name, text) in enumerate(texts.items()):
            channel = writer.register_channel("/x", "cdr", writer.register_schema(name, "ros2msg", text))
            writer.add_message(channel, i, b"\0\1\0\0" + np.int32(i + 5).tobytes(), i)
        writer.finish()
    (ref,) = list_episodes(InputSpec((str(tmp_path / "a.mcap"),)))
    assert read_episode(ref, ["/x.data"], InputSpec(())).streams["/x.data"].values.tolist() == [5, 6]
