"""The inspect view: clock statistics against streams whose faults are known, and recordings of which the facts are."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes
from robocache.inspecting import inspect_recordings, render_episode, stream_statistics

MS = 1_000_000
EPOCH = 1_700_000_000_000_000_000  # stamps as recorders write them: float64 could not hold these


def text_of(episode, width: int = 160) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render_episode(episode))
    return capture.get()


def test_a_steady_stream_has_no_faults():
    found = stream_statistics(EPOCH + np.arange(1001) * 5 * MS)
    assert (found.samples, found.start, found.span) == (1001, EPOCH, 5000 * MS)
    assert found.rate_hz == pytest.approx(200, abs=1e-9)
    assert (found.step_std, found.step_p99, found.gaps, found.longest_gap) == (0, 0, 0, 0)
    assert (found.duplicates, found.out_of_order) == (0, 0)


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
    assert (found.duplicates, found.out_of_order) == (3, 2)
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
    count, episodes = inspect_recordings(recordings)
    a, b, c = episodes
    assert count == 3
    assert [e.ref.id for e in (a, b, c)] == ["a.csv", "b.csv", "c.csv"]
    (info, found), *_ = [pair for pair in a.streams if pair[0].source == "q"]
    assert info.type == "double" or "float64" in info.type
    assert (found.samples, found.gaps, found.longest_gap, found.rate_hz) == (100, 1, 200 * MS, 100)
    assert all(found.gaps == 0 for _, found in b.streams)
    assert c.streams == ()
    assert "c.csv" in c.failure
    shown = text_of(a)
    assert "100.00 Hz" in shown
    assert "200 ms" in shown
    assert "990 ms" not in shown
    assert "990 ms" in text_of(b)
    assert c.failure.split()[0] in text_of(c).replace("\n", "")


def test_only_as_many_recordings_are_read_as_are_asked_for(recordings):
    count, episodes = inspect_recordings(recordings, limit=1)
    assert (count, [e.ref.id for e in episodes]) == (3, ["a.csv"])


def test_nothing_to_inspect(tmp_path):
    with pytest.raises(InputError, match=r"input[.]uri: "):
        inspect_recordings(InputSpec(uri=(str(tmp_path),)))


@pytest.mark.realdata
def test_husky(data_dir):
    (episode,) = inspect_recordings(InputSpec(uri=(str(data_dir / "bags/husky.mcap"),)))[1]
    found = {info.source: statistics for info, statistics in episode.streams}
    assert {name: s.samples for name, s in found.items()} == {
        "/imu/data": 11_865,
        "/husky_velocity_controller/odom": 3_952,
        "/fix": 989,
    }
    assert found["/imu/data"].rate_hz == pytest.approx(30.01, abs=0.005)
    assert found["/fix"].rate_hz == pytest.approx(2.5, abs=0.005)
    assert all(s.duplicates == s.out_of_order == 0 for s in found.values())
    shown = text_of(episode)
    assert "30.01 Hz" in shown
    assert "angular_velocity" in shown
    assert "sensor_msgs/msg/Imu" in shown


@pytest.mark.realdata
def test_two_messages_a_stamp(data_dir):
    (episode,) = inspect_recordings(InputSpec(uri=(str(data_dir / "bags/tilt_laser.mcap"),)))[1]
    found = {info.source: statistics for info, statistics in episode.streams}
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
    found = {info.source: statistics for info, statistics in episode.streams}
    arm, camera = found["sensor_data"], found["observation_data"]
    assert (arm.gaps, arm.longest_gap, arm.step) == (39, 153 * MS, 21 * MS)
    assert arm.start - camera.start == 659 * MS
    assert camera.gaps == 0
