"""ROS 2 bags in SQLite, of every age: against rosbags, split, compressed, damaged and made to mislead."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
import zstandard
from damage import outcomes
from log_kit import compare
from message_kit import JOINTS, STORE, T0, joints
from rosbags.rosbag1 import Reader as BagReader
from rosbags.typesys import Stores, get_typestore

from robocache import run, verify
from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_input, list_streams, read_episode
from robocache.formats.messages.definitions import parse_definition
from robocache.formats.messages.known import _table, known_definition

COUNT = 50
OWN = "my_msgs/msg/Own"


def plain(data: bytes) -> bytes:
    return data


def write(path: Path, *, begin: int = 0, define: bool = False, pack=plain, kind: str = JOINTS) -> Path:
    """Joint states on ``/joints``, in the tables of an early release, or (``define``) of a late one."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        db.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)")
        db.execute("INSERT INTO topics VALUES (7, '/joints', ?, 'cdr')", (kind,))
        if define:
            db.execute("CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type, encoding, "
                       "encoded_message_definition)")  # fmt: skip
            text = STORE.generate_msgdef(JOINTS, ros_version=2)[0]
            db.execute("INSERT INTO message_definitions VALUES (1, ?, 'ros2msg', ?)", (kind, text))
        for i in range(begin, begin + COUNT):
            data = bytes(STORE.serialize_cdr(joints(T0 + i, ["a", "b"], [float(i), -2.0]), JOINTS))
            db.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (7, ?, ?)", (T0 + 10 + i, pack(data)))
    return path


def metadata(folder: Path, names: list[str], **more) -> None:
    told = {"rosbag2_bagfile_information": {"version": 5, "relative_file_paths": names, **more}}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(told))


def read(path: Path, source: str):
    spec = InputSpec((str(path),))
    (ref,) = list_episodes(spec)
    return read_episode(ref, [source], spec).streams[source]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "sources"),
    [("plotjuggler_rosbag2_test", 30), ("rosbag2_wbag_sqlite", 8), ("rosbags_rs_allmsgs_sqlite", 455)],
)
def test_every_field_is_what_rosbags_reads(data_dir, name, sources):
    assert len(list(compare(data_dir / "more" / "bags2" / name))) == sources


@pytest.mark.realdata
def test_a_type_that_nobody_defines_says_so(data_dir):
    spec = InputSpec((str(data_dir / "more/bags2/nebula_ars548"),))
    (ref,) = list_episodes(spec)
    (info,) = list_streams(ref, spec)
    assert len(info.times) == 2
    assert "'nebula_msgs/msg/NebulaPackets') is not read" in info.failure
    assert "ros2 bag convert where its package is installed" in info.failure


@pytest.mark.realdata
def test_a_recording_as_a_bag_of_ros1_and_as_one_of_sqlite_makes_the_same_parts(data_dir, tmp_path):
    folder = tmp_path / "husky"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "husky_0.db3")) as db, db:
        db.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        db.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)")
        with BagReader(data_dir / "bags/husky.bag") as bag:
            topics = {c.topic: (k, c.msgtype) for k, c in enumerate(bag.connections)}
            db.executemany("INSERT INTO topics VALUES (?, ?, ?, 'cdr')", [(k, n, t) for n, (k, t) in topics.items()])
            rows = ((topics[c.topic][0], ns, bytes(STORE.ros1_to_cdr(raw, c.msgtype))) for c, ns, raw in bag.messages())
            db.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    metadata(folder, ["husky_0.db3"])
    config, parts = str(Path(__file__).parents[2] / "configs" / "husky.yaml"), []
    for uri in (data_dir / "bags/husky.bag", folder):
        out = tmp_path / f"out_{uri.name}"
        assert not run(config, [f"input.uri={uri}", f"output.uri={out}"]).quarantined
        assert not verify(str(out)).problems
        parts.append([part.read_bytes() for part in (out / "data").iterdir()])
    assert parts[0] == parts[1]


@pytest.mark.parametrize("define", [False, True])
@pytest.mark.parametrize("pack", [plain, zstandard.compress])
def test_with_and_without_definitions_messages_packed_one_by_one_or_not(tmp_path, define, pack):
    found = read(write(tmp_path / "a.db3", define=define, pack=pack), "/joints.position[b,a]")
    np.testing.assert_array_equal(found.values, [[-2.0, float(i)] for i in range(COUNT)])
    assert found.times.tolist() == [T0 + i for i in range(COUNT)]


def test_a_definition_of_the_bag_comes_before_what_is_known(tmp_path):
    path = write(tmp_path / "a.db3", define=True, kind=OWN)
    assert read(path, "/joints.position[0]").values[3, 0] == 3.0
    with pytest.raises(InputError, match="none that is the same in every release"):
        read(write(tmp_path / "b.db3", kind=OWN), "/joints.position")


def test_known_types_are_those_of_every_release():
    compared = 0
    for release in (Stores.ROS2_DASHING, Stores.ROS2_FOXY, Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.LATEST):
        store = get_typestore(release)
        for name in _table():
            full = name.replace("/", "/msg/")
            if full not in store.types:
                continue
            told = parse_definition(name, store.generate_msgdef(full, ros_version=2)[0].encode(), "")
            known = parse_definition(name, known_definition(full), "")
            if name == "sensor_msgs/Range":  # late releases have a variance behind it
                told = told.__class__(told.name, told.fields[: len(known.fields)])
            assert known == told, (release, name)
            compared += 1
    assert compared > 500


def test_pieces_are_one_episode_in_the_order_of_the_metadata(tmp_path):
    folder = tmp_path / "run"
    for k, name in enumerate(("late.db3", "early.db3")):
        write(folder / name, begin=(1 - k) * COUNT)
    metadata(folder, ["early.db3", "late.db3"])
    found = read(tmp_path, "/joints.position[a]")
    np.testing.assert_array_equal(found.values[:, 0], np.arange(2 * COUNT))
    listing = list_input(InputSpec((str(tmp_path),)))
    assert ([ref.id for ref in listing.episodes], listing.passed_over) == (["run"], [])
    (folder / "late.db3").unlink()
    (ref,) = list_episodes(InputSpec((str(tmp_path),)))
    assert "names late.db3, which is not there" in ref.failure


def test_a_bag_of_packed_files(tmp_path):
    """As rosbag2's compression_mode: file leaves them."""
    folder = tmp_path / "run"
    for k in range(2):
        path = write(folder / f"run_{k}.db3", begin=k * COUNT)
        (folder / f"run_{k}.db3.zstd").write_bytes(zstandard.compress(path.read_bytes()))
        path.unlink()
    names = ["run_0.db3.zstd", "run_1.db3.zstd"]
    metadata(folder, names, compression_format="zstd", compression_mode="FILE")
    np.testing.assert_array_equal(read(tmp_path, "/joints.position[a]").values[:, 0], np.arange(2 * COUNT))


def test_tables_that_are_none_are_refused(tmp_path):
    """A view could take any time."""
    path = write(tmp_path / "a.db3")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE messages RENAME TO stored")
        endless = "WITH RECURSIVE x(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM x)"
        db.execute(f"CREATE VIEW messages AS {endless} SELECT id, 7 AS topic_id, id AS timestamp, x'00' AS data FROM x")
    (ref,) = list_episodes(InputSpec((str(path),)))
    assert "has no table 'messages', so it is no ROS 2 bag; it has" in ref.failure


@pytest.mark.parametrize(("column", "value"), [("data", "text"), ("timestamp", "soon"), ("timestamp", -5)])
def test_cells_of_another_type_are_refused(tmp_path, column, value):
    path = write(tmp_path / "a.db3")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE messages SET {column} = ? WHERE id = 9", (value,))
    with pytest.raises(InputError, match=r"a\.db3: a message"):
        read(path, "/joints.position")


def test_damage_is_refused(tmp_path):
    seen = outcomes(write(tmp_path / "a.db3"), ["/joints.position"], 150)
    assert set(seen) == {"read", "refused"}
