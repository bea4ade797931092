"""The inspect view: clock statistics against streams whose faults are known, and recordings of which the facts are."""

from __future__ import annotations

import json
import re

import cloud_kit
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from message_kit import JOINTS, header, joints, make, record
from rich.console import Console

import robocache
from robocache import cli
from robocache.cli.inspect import (
    InspectedEpisode,
    StreamStatistics,
    inspect_output_episode,
    inspect_recording,
    inspect_recordings,
    render_episode,
    render_output_episode,
    stream_statistics,
)
from robocache.cli.overview import overview, render_overview
from robocache.cli.values import Values, values_of
from robocache.engine.clean import clean
from robocache.errors import ConfigError, InputError
from robocache.formats import InputSpec, TableTimes
from robocache.types import Stream

MS = 1_000_000
IMAGE = "sensor_msgs/msg/Image"
EPOCH = 1_700_000_000_000_000_000  # stamps as recorders write them: float64 could not hold these


def text_of(episode, width: int = 160) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render_episode(episode))
    return capture.get()


def clocks(episode: InspectedEpisode) -> dict[str, StreamStatistics]:
    return {stream.source: stream.clock for stream in episode.streams}


def non_finite(episode: InspectedEpisode) -> dict[str, int]:
    return {path: v.non_finite for stream in episode.streams for path, v in (stream.values or {}).items()}


def test_a_steady_stream_has_no_faults():
    found = stream_statistics(EPOCH + np.arange(1001) * 5 * MS)
    assert (found.samples, found.start, found.span) == (1001, EPOCH, 5000 * MS)
    assert found.rate_hz == pytest.approx(200, abs=1e-9)
    assert (found.step_std, found.step_p99, found.gaps, found.longest_gap) == (0, 0, 0, 0)
    assert (found.duplicates, found.late) == (0, 0)


def test_gaps_are_steps_of_more_than_three_times_the_median():
    steps = np.full(100, 10 * MS)
    steps[20], steps[50], steps[70] = 30 * MS, 30 * MS + 1, 400 * MS  # the first is just no gap
    found = stream_statistics(EPOCH + np.concatenate([[0], np.cumsum(steps)]))
    assert (found.gaps, found.longest_gap) == (2, 400 * MS)
    assert found.rate_hz == pytest.approx(100)
    assert found.step_std == pytest.approx(np.std(steps))


def test_jitter_is_that_of_the_steps():
    rng = np.random.default_rng(0)
    steps = rng.normal(10 * MS, 0.5 * MS, 200_000).astype(np.int64)
    found = stream_statistics(EPOCH + np.cumsum(steps))
    assert found.step == pytest.approx(10 * MS, rel=1e-3)
    assert found.step_std == pytest.approx(0.5 * MS, rel=0.01)
    assert found.step_p99 == pytest.approx(2.326 * 0.5 * MS, rel=0.02)  # the normal distribution's 99th percentile


def test_repeated_and_late_stamps_are_counted_and_do_not_bend_the_clock():
    clean = EPOCH + np.arange(500) * 10 * MS
    faulty = np.insert(clean, [100, 100, 300], clean[[99, 99, 299]])  # stamp 99 three times, 299 twice
    faulty[[10, 11]] = faulty[[11, 10]]  # one neighbour overtaken
    faulty = np.append(np.delete(faulty, 200), faulty[200])  # and one delivered at the very end
    found, plain = stream_statistics(faulty), stream_statistics(clean)
    assert (found.duplicates, found.late) == (3, 2)
    assert (found.step, found.step_std, found.span, found.gaps) == (plain.step, plain.step_std, plain.span, 0)


@pytest.mark.parametrize(
    ("times", "samples", "duplicates"), [([], 0, 0), ([EPOCH], 1, 0), ([EPOCH] * 3, 3, 2)], ids=["none", "one", "equal"]
)
def test_streams_without_a_step_have_no_rate(times, samples, duplicates):
    found = stream_statistics(np.array(times, dtype=np.int64))
    assert (found.samples, found.duplicates, found.span) == (samples, duplicates, 0)
    assert found.rate_hz is found.step is found.step_std is found.step_p99 is None


def test_two_samples_have_a_rate():
    found = stream_statistics(np.array([EPOCH, EPOCH + 20 * MS]))
    assert (found.rate_hz, found.gaps) == (50.0, 0)


@pytest.fixture
def recordings(tmp_path) -> InputSpec:
    """Two tables with a 100 Hz clock, the first with a gap of 200 ms, and a file that is no table."""
    stamps = [k * 10 + (190 if k >= 50 else 0) for k in range(100)]
    for name, rows in {"a.csv": stamps, "b.csv": range(0, 1000, 10)}.items():
        (tmp_path / name).write_text("ms,q\n" + "\n".join(f"{t},{t / 7}" for t in rows))
    (tmp_path / "c.csv").write_bytes(b"\x00\x01" * 100)
    return InputSpec(uri=(str(tmp_path),), times=TableTimes("ms", "ms"))


def test_every_recording_is_shown_and_a_damaged_one_with_its_reason(recordings):
    listing, episodes = inspect_recordings(recordings)
    count = len(listing.episodes)
    a, b, c = episodes
    assert count == 3
    assert [e.id for e in (a, b, c)] == ["a.csv", "b.csv", "c.csv"]
    (stream,) = [stream for stream in a.streams if stream.source == "q"]
    assert stream.type == "double" or "float64" in stream.type
    found = stream.clock
    assert (found.samples, found.gaps, found.longest_gap, found.rate_hz) == (100, 1, 200 * MS, 100)
    assert all(stream.clock.gaps == 0 for stream in b.streams)
    assert c.streams == ()
    assert "c.csv" in c.failure
    shown = text_of(a)
    assert "100.00 Hz" in shown
    assert "200 ms" in shown
    assert "990 ms" not in shown
    assert "990 ms" in text_of(b)
    assert c.failure.split()[0] in text_of(c).replace("\n", "")


def test_only_as_many_recordings_are_read_as_are_asked_for(recordings):
    listing, episodes = inspect_recordings(recordings, limit=1)
    count = len(listing.episodes)
    assert (count, [e.id for e in episodes]) == (3, ["a.csv"])


FAULTY = "time_ms,q,n,label\n" + "0,1,1,a\n10,nan,,b\n20,inf,3,\n30,2,4,c\n40,,5,d\n"  # q: 3 samples, n: 1


def columns(shown: str, name: str) -> list[str]:
    """The words of the rows that begin with a stream's name."""
    return [word for line in shown.splitlines() if line.startswith(f"{name} ") for word in line.split()[1:]]


def test_samples_that_are_not_finite_are_counted_in_a_single_recording(tmp_path):
    (tmp_path / "a.csv").write_text(FAULTY)
    (episode,) = inspect_recordings(InputSpec((str(tmp_path),)))[1]
    assert non_finite(episode) == {"q": 3, "n": 1}
    _, _, values = text_of(episode).partition("\nvalues ")
    assert columns(values, "q") == ["1", "2", "3"] and columns(values, "n") == ["1", "5", "1"]
    (tmp_path / "b.csv").write_text("time_ms,q\n0,nan\n")
    several = inspect_recordings(InputSpec((str(tmp_path),)))[1]
    assert all(stream.values is None for episode in several for stream in episode.streams)


def test_one_of_many_recordings(tmp_path):
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text(FAULTY if name == "b.csv" else "time_ms,q\n0,1\n")
    spec = InputSpec((str(tmp_path),))
    episode = inspect_recording(spec, "b.csv")
    assert (episode.id, non_finite(episode)) == ("b.csv", {"q": 3, "n": 1})
    with pytest.raises(ConfigError, match=r"--episode: 'bcsv' is none of 3 episodes; did you mean 'b.csv'"):
        inspect_recording(spec, "bcsv")


def test_a_stream_of_fields_names_those_that_are_not_finite(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/arm.csv").write_text(FAULTY)
    (tmp_path / "run/cam.csv").write_text("time_ms,x\n0,1\n")
    episode = inspect_recording(InputSpec((str(tmp_path),), episode="folder"), "run")
    assert non_finite(episode) == {"arm.q": 3, "arm.n": 1, "cam.x": 0}
    _, _, values = text_of(episode).partition("\nvalues ")
    assert columns(values, "arm.q")[-1] == "3" and columns(values, "arm.n")[-1] == "1"
    assert columns(values, "cam.x") == ["1", "1", "-"]


def test_what_cannot_be_read_hides_no_other_count(tmp_path):
    q, ragged = [1.0, float("nan"), 2.0], [[1.0], [1.0, 2.0], []]
    table = {
        "time_ns": [0, 10, 20],
        "first": ragged,
        "q": q,
        "second": ragged,
        "r": q[::-1],
        "s": [[x, 0.0] for x in q],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (episode,) = inspect_recordings(InputSpec((str(tmp_path),)))[1]
    assert non_finite(episode) == {"first": 0, "q": 1, "second": 0, "r": 1, "s": 1}
    ranges = {path: (v.shape, v.low, v.high) for stream in episode.streams for path, v in stream.values.items()}
    assert ranges["first"] == ((-1,), (1.0,), (2.0,)) and ranges["s"] == ((2,), (1.0, 0.0), (2.0, 0.0))


def test_the_range_of_each_column_by_its_name(tmp_path):
    """Joints in the order of the first message, whatever comes later; a column that is never finite; images as one."""
    frames = np.arange(2 * 3 * 30 * 3, dtype=np.uint8).reshape(2, 3, 30, 3)
    nan = float("nan")
    record(
        tmp_path / "a.mcap",
        {
            "/arm": (JOINTS, [(EPOCH, joints(EPOCH, ["b", "a"], [1.5, nan])),
                              (EPOCH + MS, joints(EPOCH + MS, ["a", "b"], [nan, -2.0]))]),
            "/cam": (IMAGE, [(EPOCH + i, make(IMAGE, header(EPOCH + i), 3, 30, "rgb8", 0, 90, f.ravel()))
                             for i, f in enumerate(frames)]),
        },
    )  # fmt: skip
    (episode,) = inspect_recordings(InputSpec((str(tmp_path),)))[1]
    found = {path: v for stream in episode.streams for path, v in (stream.values or {}).items()}
    arm = found["/arm.position"]
    assert (arm.names, arm.shape, arm.low, arm.high) == (("b", "a"), (2,), (-2.0, None), (1.5, None))
    assert arm.non_finite == 2 and "/cam.data" not in found
    lines = [line.split() for line in text_of(episode, width=80).splitlines()]
    assert ["/arm.position", "2", "columns", "2"] in lines
    assert ["[b]", "-2", "1.5"] in lines and ["[a]", "-", "never"] in lines
    assert all(len(line) <= 80 for line in text_of(episode, width=80).splitlines())
    grid = values_of(Stream(np.arange(2), frames, {"names": ["r", "g", "b"]}))
    assert grid == Values((3, 30, 3), (), "", (0,), (255,), 0)


def test_many_recordings_are_told_as_one(tmp_path):
    """Of each stream how many recordings have it, as what, between which rates, and its faults of all together."""
    steady = [f"{k * 10},{k},{k}" for k in range(101)]
    (tmp_path / "a.csv").write_text("time_ms,q,n\n" + "\n".join(steady))
    (tmp_path / "b.csv").write_text("time_ms,q,n\n" + "\n".join(f"{k * 20},0.5,x" for k in range(11)))
    late = [*steady[:50], steady[60], *steady[50:60], steady[61], steady[61]]
    (tmp_path / "c.csv").write_text("time_ms,q\n" + "\n".join(row.rpartition(",")[0] for row in late))
    (tmp_path / "d.csv").write_bytes(b"\0\1" * 50)
    listing, episodes = inspect_recordings(InputSpec((str(tmp_path),)))
    seen = list(episodes)
    q, n = overview(seen)
    assert (q.source, q.recordings, q.samples, q.rate_hz) == ("q", 3, (11, 101), (50.0, 100.0))
    assert (q.gaps, q.duplicates, q.late, q.faulty) == (0, 1, 10, 1)
    assert q.types == {"int64": 2, "float64": 1} and q.type == "int64"
    assert (n.recordings, n.types, n.late) == (2, {"int64": 1, "string": 1}, 0)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(render_overview(seen, len(listing.episodes)))
    shown = capture.get()
    assert shown.startswith("4 recordings  csv  ") and max(map(len, shown.splitlines())) <= 80
    streams = shown.partition("\nstream ")[2]
    assert columns(streams, "q")[:9] == ["3", "11", "to", "101", "50.00", "to", "100.00", "Hz", "-"]
    assert columns(shown, "a.csv")[:2] == ["1.00", "s"]
    assert "cannot be read: " in shown and streams.count("\nq ") == 2  # once its clock, once what it holds


def test_json_has_all_of_it(tmp_path, capsys):
    """Of several recordings the streams together and each by itself, of one the values; what is not finite is null."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(FAULTY)
    (tmp_path / "c.svo").write_bytes(b"SVO")
    assert cli.main(["inspect", str(tmp_path), "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert [(s["source"], s["recordings"], s["samples"], s["rate_hz"]) for s in told["streams"]] == [
        (name, 2, [5, 5], [100.0, 100.0]) for name in ("q", "n", "label")
    ]
    assert (told["of_episodes"], [e["id"] for e in told["episodes"]]) == (2, ["a.csv", "b.csv"])
    assert told["episodes"][1]["streams"][0]["clock"]["step"] == 10 * MS
    assert [(p["uri"].rpartition("/")[2], p["what"]) for p in told["passed_over"]] == [("c.svo", "a ZED recording")]
    assert cli.main(["inspect", str(tmp_path), "--episode", "b.csv", "--json"]) == cli.DONE
    (episode,) = json.loads(capsys.readouterr().out)["episodes"]
    values = {path: v for stream in episode["streams"] for path, v in stream["values"].items()}
    assert values["q"] == {"shape": [], "names": [], "unit": "", "low": [1.0], "high": [2.0], "non_finite": 3}
    assert (values["n"]["low"], values["n"]["high"], values["n"]["non_finite"]) == ([1], [5], 1)
    (tmp_path / "d.csv").write_text("time_ns,q\n0,nan\n")
    cli.main(["inspect", str(tmp_path / "d.csv"), "--json"])
    (stream,) = json.loads(capsys.readouterr().out)["episodes"][0]["streams"]
    assert (stream["values"]["q"]["low"], stream["clock"]["step"], stream["failure"]) == ([None], None, "")


def test_as_many_recordings_as_hold_a_gigabyte(tmp_path, monkeypatch):
    for k in range(12):
        (tmp_path / f"{k}.csv").write_text("time_ms,q\n0,1\n")
    spec = InputSpec((str(tmp_path),))
    size = (tmp_path / "0.csv").stat().st_size
    for most, seen in ((12 * size, 12), (12 * size - 1, 11), (size, 5)):
        monkeypatch.setattr("robocache.cli.inspect._MOST_BYTES", most)
        assert len(list(inspect_recordings(spec)[1])) == seen
    assert len(list(inspect_recordings(spec, 2)[1])) == 2


def test_a_run_and_inspect_count_the_same(tmp_path):
    """Late, repeated and wrapped stamps: one count, wherever it is told."""
    rng = np.random.default_rng(1)
    times = np.sort(rng.integers(0, 5_000, 2_000)) * MS
    times[100:150] = rng.permutation(times[100:150])
    counter = (2**32 * 1000 - 100 * MS + np.arange(2_000) * MS) % (2**32 * 1000)
    for name, stamps in (("jitter", times), ("counter", counter)):
        pq.write_table(pa.table({"time_ns": stamps, "q": np.arange(2_000.0)}), tmp_path / f"{name}.parquet")
        (episode,) = inspect_recordings(InputSpec((str(tmp_path / f"{name}.parquet"),)))[1]
        (seen,) = [stream.clock for stream in episode.streams]
        report = clean("q", Stream(stamps, np.arange(2_000.0)), computed=True).report
        counts = (report.samples, report.late, report.late_by, report.duplicates)
        assert (seen.samples, seen.late, seen.late_by, seen.duplicates) == counts
    assert (seen.late, seen.span) == (0, 1_999 * MS)


def test_an_episode_of_an_output(tmp_path):
    for name, text in {"a": FAULTY, "b": "time_ms,q\n0,1\n", "c": FAULTY}.items():
        (tmp_path / f"logs/{name}.csv").parent.mkdir(exist_ok=True)
        (tmp_path / f"logs/{name}.csv").write_text(text)
    config = {"input": {"uri": str(tmp_path / "logs")}, "features": {"x": ["q", "n"]}, "timeline": {"rate_hz": 100}}
    robocache.run(config | {"output": {"uri": str(tmp_path / "out")}, "compute": {"device": "cpu"}})

    def shown(id: str) -> str:
        console = Console(width=160, color_system=None)
        with console.capture() as capture:
            console.print(render_output_episode(inspect_output_episode(str(tmp_path / "out"), id)))
        return capture.get()

    whole = shown("c.csv")
    assert "episode 2, 4 rows, data/part-000000-" in whole
    header = next(line.split() for line in whole.splitlines() if line.startswith("stream"))
    row = dict(zip(header[1:], columns(whole, "q"), strict=False))
    assert (row["samples"], row["NaN"]) == ("5", "3")
    assert "quarantined: " in shown("b.csv") and "no n in it" in shown("b.csv")
    with pytest.raises(ConfigError, match=r"'d' is none of 3 episodes"):
        shown("d")


def test_nothing_to_inspect(tmp_path):
    with pytest.raises(InputError, match=r"input[.]uri: "):
        inspect_recordings(InputSpec(uri=(str(tmp_path),)))


@pytest.mark.realdata
def test_husky(data_dir):
    (episode,) = inspect_recordings(InputSpec(uri=(str(data_dir / "bags/husky.mcap"),)))[1]
    found = clocks(episode)
    assert {name: s.samples for name, s in found.items()} == {
        "/imu/data": 11_865,
        "/husky_velocity_controller/odom": 3_952,
        "/fix": 989,
    }
    assert found["/imu/data"].rate_hz == pytest.approx(30.01, abs=0.005)
    assert found["/fix"].rate_hz == pytest.approx(2.5, abs=0.005)
    assert all(s.duplicates == s.late == 0 for s in found.values())
    shown = text_of(episode)
    assert sum(non_finite(episode).values()) == 0
    assert len(non_finite(episode)) > 20
    assert "30.01 Hz" in shown
    assert "angular_velocity" in shown
    assert "sensor_msgs/msg/Imu" in shown


@pytest.mark.realdata
def test_two_messages_a_stamp(data_dir):
    (episode,) = inspect_recordings(InputSpec(uri=(str(data_dir / "bags/tilt_laser.mcap"),)))[1]
    found = clocks(episode)
    assert (found["/velocity"].samples, found["/velocity"].duplicates) == (712, 356)
    assert found["/velocity"].rate_hz == pytest.approx(20, rel=0.01)


@pytest.mark.realdata
def test_a_narrow_terminal_loses_no_number(data_dir):
    (episode,) = inspect_recordings(InputSpec(uri=(str(data_dir / "bags/tilt_laser.mcap"),)))[1]
    header, *rows = text_of(episode, width=80).splitlines()[1:]
    assert header.split()[-3:] == ["longest", "dups", "late"]
    temperature = next(row for row in rows if row.startswith("/tempera"))
    assert temperature.split()[-2:] == ["356", "-"]


@pytest.mark.realdata
def test_tables_on_different_clocks(data_dir):
    spec = InputSpec(
        (str(data_dir / "arm_ft/screw_sindy"),), "csv", times=TableTimes("timestamp", "ms"), episode="folder"
    )
    (episode,) = inspect_recordings(spec)[1]
    found = clocks(episode)
    arm, camera = found["sensor_data"], found["observation_data"]
    assert (arm.gaps, arm.longest_gap, arm.step) == (39, 153 * MS, 21 * MS)
    assert arm.start - camera.start == 659 * MS
    assert camera.gaps == 0


def test_clouds(tmp_path, capsys):
    """Where their points are, how many, and how many a config's bounds hold; of those that cannot be read, why."""
    (tmp_path / "run").mkdir()
    for k, count in enumerate((4, 6)):
        columns = cloud_kit.points(count, k)
        columns["x"][:] = np.linspace(-1, 1, count)
        columns["y"][0] = np.nan
        (tmp_path / "run" / f"{1_700_000_000 + k}.0.pcd").write_bytes(cloud_kit.pcd(columns))
    (tmp_path / "config.yaml").write_text(
        "input: {uri: elsewhere, episode: folder}\ntimeline: {rate_hz: 1}\noutput: {uri: out}\nfeatures:\n"
        "  half: {source: points, voxelize: {size: 0.5, bounds: [[0, -2, -2], [2, 2, 2]]}}\n"
    )
    command = ["inspect", str(tmp_path / "run"), "--config", str(tmp_path / "config.yaml"), "--json"]
    assert robocache.cli.main(command) == 0
    (episode,) = json.loads(capsys.readouterr().out)["episodes"]
    (cloud,) = episode["clouds"]
    assert (cloud["source"], cloud["clouds"], cloud["points"]) == ("points", 2, [4, 6, 6])
    assert cloud["fields"] == ["x float32", "y float32", "z float32", "intensity uint16", "t float64"]
    assert cloud["not_finite"] == pytest.approx(2 / 10)
    assert (cloud["lower"][0], cloud["upper"][0]) == (pytest.approx(-0.6), 1.0)
    assert cloud["within"] == {"half": pytest.approx(5 / 10)}
    assert robocache.cli.main(command[:-1]) == 0
    assert re.search(r"points +2 +4 to 6 +-0\.6 to 1 .* 20\.0% +50\.0% half", capsys.readouterr().out)
    (tmp_path / "run" / "1700000001.0.pcd").write_bytes(cloud_kit.pcd(cloud_kit.points(9))[:-1])
    assert robocache.cli.main(command[:-1]) == 0
    assert "cannot be read: 9 points of" in capsys.readouterr().out.replace("\n", " ")


def test_a_stream_that_is_announced_and_never_sent_has_no_values():
    """As ROS 2 bags have: topics without a message."""
    for shape, width in (((0,), 1), ((0, 3), 3), ((0, 2, 4), 8)):
        found = values_of(Stream(np.zeros(0, np.int64), np.zeros(shape)))
        assert found == Values(shape[1:], (), "", (None,) * width, (None,) * width, 0)
