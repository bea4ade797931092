"""Long logs cut into episodes: the same rows as of the whole, and only each segment's part of the file read."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mcap.writer import CompressionType
from message_kit import JOINTS, STORE, T0, header, joints, make, record

import robocache
from robocache.config.job import TrimSpec
from robocache.config.load import job_from_mapping
from robocache.config.resolved import resolved_yaml
from robocache.engine.idle import moving
from robocache.engine.listing import listing
from robocache.errors import ConfigError, InputError
from robocache.formats import mcap, read_episode
from robocache.formats.base import open_file

MS = 1_000_000
BOOL, TEXT = "std_msgs/msg/Bool", "std_msgs/msg/String"
WARM = "sensor_msgs/msg/Temperature"


def log(path: Path, seconds: int = 20, delay: int = 5 * MS, prefix: str = "", **more) -> Path:
    """Joints at 50 Hz, a temperature every second, a name at the begin; messages arrive ``delay`` after their stamp."""
    fast = [T0 + k * 20 * MS for k in range(50 * seconds)]
    slow = [T0 + k * 1000 * MS + 3 for k in range(seconds)]
    topics = {
        f"{prefix}/joints": (JOINTS, [(t + delay, joints(t, ["a"], [np.sin(k)])) for k, t in enumerate(fast)]),
        f"{prefix}/heat": (
            WARM,
            [(t + delay, make(WARM, header(t), k * k + 0.5, 0.0)) for k, t in enumerate(slow)],
        ),
        "/name": (TEXT, [(T0 + delay, make(TEXT, "arm"))]),
    }
    return record(path, topics | more, chunk_size=4096, compression=CompressionType.NONE)


FEATURES = {
    "joints": {"source": "/joints.position"},
    "heat": {"source": "/heat.temperature", "align": "previous"},
    "warm": {"source": "/heat.temperature", "align": "linear", "max_gap": "none"},
    "name": {"source": "/name.data", "static": True, "stamp": "log"},
}


def config(uri, output, segments=None, features=None, timeline=None, **input) -> dict:
    given = {"uri": str(uri), **input, **({"segments": segments} if segments else {})}
    timeline = timeline or {"reference": "/joints.position"}
    return {"input": given, "features": features or FEATURES, "timeline": timeline, "output": {"uri": str(output)}}


def rows(output: Path) -> pa.Table:
    table = pq.read_table(output / "data").combine_chunks()
    return table.drop(["episode_index", "frame_index", "timestamp"])


def ids(job: dict) -> list[str]:
    return [ref.id for ref in listing(job_from_mapping(job)).episodes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    log(folder / "a.mcap")
    robocache.run(config(folder / "a.mcap", folder / "out"))
    return folder


def ranges(cuts: list[int]) -> list[dict]:
    return [{"begin": a, "end": b, "number": k} for k, (a, b) in enumerate(pairwise(cuts))]


@pytest.mark.parametrize("delay", [5 * MS, 7_000 * MS, -3_600_000 * MS])
def test_the_same_rows_as_the_whole(whole, tmp_path, delay):
    """Whatever the log's own clock is apart from the stamps that the ranges go by."""
    log(tmp_path / "a.mcap", delay=delay)
    cuts = [T0, *(T0 + s * 1000 * MS + 7 for s in (1, 4, 5, 11, 18)), T0 + 10**12]
    summary = robocache.run(config(tmp_path / "a.mcap", tmp_path / "out", {"ranges": ranges(cuts), "unit": "ns"}))
    assert summary.episodes == 6
    assert rows(tmp_path / "out").equals(rows(whole / "out"))


def test_a_ros_2_bag(tmp_path):
    """Rows of its table by their time, and of each topic those next to it."""
    moved = [(T0 + k * 20 * MS, joints(T0 + k * 20 * MS, ["a"], [np.sin(k)])) for k in range(500)]
    warm = [(T0 + k * 3000 * MS + 3, make(WARM, header(T0 + k * 3000 * MS + 3), k + 0.5, 0.0)) for k in range(4)]
    with closing(sqlite3.connect(tmp_path / "a.db3")) as bag, bag:
        bag.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        bag.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)")
        bag.executemany("INSERT INTO topics VALUES (?, ?, ?, 'cdr')", [(1, "/joints", JOINTS), (2, "/heat", WARM)])
        for topic, kind, messages in ((1, JOINTS, moved), (2, WARM, warm)):
            packed = [(topic, ns, bytes(STORE.serialize_cdr(message, kind))) for ns, message in messages]
            bag.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", packed)
    features = {name: FEATURES[name] for name in ("joints", "heat", "warm")}
    cuts = [T0, *(T0 + s * 1000 * MS + 7 for s in (1, 4, 5)), T0 + 10**12]
    for name, segments in (("whole", None), ("cut", {"ranges": ranges(cuts), "unit": "ns"})):
        robocache.run(config(tmp_path / "a.db3", tmp_path / name, segments, features))
    assert rows(tmp_path / "cut").equals(rows(tmp_path / "whole"))
    job = job_from_mapping(config(tmp_path / "a.db3", tmp_path / "x", {"ranges": ranges(cuts), "unit": "ns"}, features))
    ref = listing(job).episodes[2]  # from the fourth second to the fifth, without a temperature of its own
    times = read_episode(ref, ["/heat.temperature"], job.input).streams["/heat.temperature"].times
    assert ((times - T0 - 3) // (3000 * MS)).tolist() == [1, 2]


def test_only_the_bytes_of_a_segment_are_read(tmp_path, monkeypatch):
    log(tmp_path / "a.mcap", seconds=50)
    read = []

    class Counted(io.RawIOBase):
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def seek(self, *place):
            return self._file.seek(*place)

        def read(self, size=-1):
            read.append(data := self._file.read(size))
            return data

        def readinto(self, view):
            count = self._file.readinto(view)
            read.append(bytes(count))
            return count

    @contextmanager
    def counted(file, spec):
        with open_file(file, spec) as opened:
            yield Counted(opened)

    monkeypatch.setattr(mcap.reader, "open_file", counted)
    cuts = [T0 + s * 1000 * MS for s in range(51)]
    features = {"joints": "/joints.position"}
    given = config(tmp_path / "a.mcap", tmp_path / "x", {"ranges": ranges(cuts), "unit": "ns"}, features)
    job = job_from_mapping(given | {"timeline": {"rate_hz": 50}})
    refs = listing(job).episodes
    everything = (tmp_path / "a.mcap").stat().st_size
    for ref in (refs[0], refs[20], refs[49]):
        read.clear()
        stream = read_episode(ref, ["/joints.position"], job.input).streams["/joints.position"]
        assert sum(map(len, read)) < 0.4 * everything  # some seconds of fifty, and the summary
        assert 50 <= len(stream.times) <= 152


def test_by_the_values_of_a_topic(tmp_path):
    flag = [(T0 + k * 500 * MS, make(BOOL, k in (2, 3, 4, 9, 30))) for k in range(40)]
    mark = [(T0 + s * 1000 * MS, make(TEXT, text)) for s, text in ((1, "start"), (3, "start"), (6, "stop"))]
    log(tmp_path / "a.mcap", **{"/on": (BOOL, flag), "/mark": (TEXT, mark)})
    uri, out = tmp_path / "a.mcap", tmp_path / "out"

    def spans(segments) -> list[tuple[float, float]]:
        refs = listing(job_from_mapping(config(uri, out, segments))).episodes
        return [((r.segment.begin - T0) / 1e9, min((r.segment.end - T0) / 1e9, 99)) for r in refs]

    assert spans({"topic": "/on.data", "value": True}) == [(1, 2.5), (4.5, 5), (15, 15.5)]
    assert spans({"topic": "/on.data", "value": True, "min": "1s"}) == [(1, 2.5)]
    assert spans({"topic": "/mark.data", "value": "start"}) == [(1, 6)]
    assert spans({"topic": "/mark.data", "value": "start", "each": True}) == [(1, 3), (3, 6)]
    assert spans({"topic": "/mark.data"}) == [(1, 6), (6, 99)]
    robocache.run(config(uri, out, {"topic": "/on.data", "value": True}))
    table = pq.read_table(out / "meta/robocache/_episodes.pq")
    assert (table["id"].to_pylist(), table["rows"].to_pylist()) == ([f"a.mcap@{k}" for k in range(3)], [75, 25, 25])
    with pytest.raises(ConfigError, match=r"/mark\.data never has a value 'go'"):
        ids(config(uri, out, {"topic": "/mark.data", "value": "go"}))


def test_by_pauses(tmp_path):
    times = np.concatenate([np.arange(0, 100), np.arange(150, 200), np.arange(260, 300)]) * 20 * MS + T0
    moved = [(int(t), joints(int(t), ["a"], [k * 0.1])) for k, t in enumerate(times)]
    record(tmp_path / "a.mcap", {"/joints": (JOINTS, moved)})
    features = {"joints": "/joints.position"}
    gaps = {"gaps": "/joints.position", "longer": "500ms"}
    for name, segments in (("whole", None), ("cut", gaps)):
        robocache.run(config(tmp_path / "a.mcap", tmp_path / name, segments, features))
    assert rows(tmp_path / "cut").equals(rows(tmp_path / "whole"))
    assert pq.read_table(tmp_path / "cut/meta/robocache/_episodes.pq")["rows"].to_pylist() == [100, 50, 40]


def test_the_robots_of_one_log(tmp_path):
    other = [(T0 + k * 20 * MS, joints(T0 + k * 20 * MS, ["a"], [7.0])) for k in range(50)]
    log(tmp_path / "a.mcap", seconds=1, prefix="/left", **{"/right/joints": (JOINTS, other)})
    features = {"joints": "/joints.position", "name": {"source": "/name.data", "static": True, "stamp": "log"}}
    features["robot"] = {"source": "metadata.robot", "static": True}
    robocache.run(config(tmp_path / "a.mcap", tmp_path / "out", {"robots": ["/left", "/right"]}, features))
    table = pq.read_table(tmp_path / "out/data")
    assert table["robot"].to_pylist() == ["/left"] * 50 + ["/right"] * 50
    assert set(table["name"].to_pylist()) == {"arm"}  # which they share
    assert table["joints"].to_pylist()[50:] == [7.0] * 50 and table["joints"].to_pylist()[1] == pytest.approx(np.sin(1))


def changes(job: dict) -> dict[str, int]:
    return {what: count for what, count in robocache.run(job).changes.items() if count}


def test_a_table_that_changes(tmp_path, monkeypatch):
    """A changed row is a changed episode, a new one is new, and what stands in the output runs without the table."""
    monkeypatch.chdir(tmp_path)
    log(Path("a.mcap"), seconds=4)

    def write(*lines: str) -> None:
        Path("r.csv").write_text("\n".join(["id,begin,end,task", *lines]))

    at = lambda s: f"{(T0 + int(s * 1e9)) // 10**9}.{(T0 + int(s * 1e9)) % 10**9:09d}"  # noqa: E731
    job = config("a.mcap", "out", {"table": "r.csv"})
    write(f"x,{at(0)},{at(1)},pick", f"y,{at(1)},{at(2)},place")
    assert changes(job) == {"new": 2}
    write(f"x,{at(0)},{at(1)},pick", f"y,{at(1)},{at(2.5)},place", f"z,{at(3)},{at(4)},rest")
    assert changes(job) == {"new": 1, "changed": 1, "kept": 1}
    text = resolved_yaml(job_from_mapping(job))
    Path("r.csv").unlink()
    Path("again.yaml").write_text(text)
    summary = robocache.run("again.yaml")
    assert not summary.is_new and summary.episodes == 3


@pytest.mark.parametrize(
    ("segments", "problem"),
    [
        ({"topic": "/a", "gaps": "/b", "longer": "1s"}, "found both topic and gaps"),
        ({"min": "1s"}, "nothing to cut by"),
        ({"gaps": "/a"}, "segments.longer: write a duration"),
        ({"topic": "/a", "longer": "1s"}, "belongs to gaps"),
        ({"ranges": [{"begin": 2, "end": 1}]}, "row 1: ends at 1, not after its begin"),
        ({"ranges": [{"begin": "soon", "end": 1}]}, "'soon' is no time"),
        ({"table": "nowhere.csv"}, "nowhere.csv: cannot be read"),
        ({"robots": ["/a", "/a"]}, "segments.robots"),
        ({"topc": "/a"}, "did you mean 'topic'"),
    ],
)
def test_mistakes(segments, problem):
    with pytest.raises(ConfigError, match=problem):
        job_from_mapping(config("a.mcap", "out", segments))


def trimmed(values, rows: str, below: float = 0.1, valid=None) -> list[int]:
    array = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values, float).reshape(-1)), 1)
    valid = np.ones(len(values), bool) if valid is None else np.array(valid, bool)
    kept, _ = moving(TrimSpec((("x", below),), rows), {"x": (array, valid)})
    return np.flatnonzero(kept).tolist()


def test_rows_in_which_nothing_moves():
    rest = [0, 0.05, 0, 0.2, 0.4, 0.4, 0.4, 0.6, 0.9, 0.95, 0.9]
    assert trimmed(rest, "ends") == [2, 3, 4, 5, 6, 7, 8]
    assert trimmed(rest, "all") == [2, 3, 4, 7, 8]
    creeps = np.arange(100) * 0.03  # no step is more than the threshold, four of them are
    assert trimmed(creeps, "all")[:3] == [3, 7, 11]
    assert trimmed([0, 0, np.nan, 0, 1, 1], "ends", valid=[1, 1, 1, 0, 1, 1]) == [3, 4]
    with pytest.raises(InputError, match="nothing moves in its 3 rows"):
        trimmed([1, 1.05, 1], "ends")


def test_a_trim_that_cannot_be(tmp_path):
    timeline = {"rate_hz": 10, "trim": {"features": {"jiont": -1}}}
    with pytest.raises(ConfigError) as error:
        job_from_mapping(config("a.mcap", "out", timeline=timeline))
    assert "write a number of 0 or more" in str(error.value)
    timeline["trim"] = {"features": {"jionts": 0.1}}
    with pytest.raises(ConfigError, match="did you mean 'joints'"):
        job_from_mapping(config("a.mcap", "out", timeline=timeline))
    log(tmp_path / "a.mcap", seconds=1)
    timeline["trim"] = {"features": {"name": 0.1}}
    with pytest.raises(ConfigError, match=r"timeline\.trim\.features\.name: holds no numbers"):
        robocache.run(config(tmp_path / "a.mcap", tmp_path / "out", timeline=timeline))
