"""The sample logs: readable by independent decoders, faulty where they say so, and true to their analytic signals."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from robocache.errors import InputError
from robocache.sample import truth, vibration, write_samples
from robocache.sample.logs import GAP_NS, QUATERNIONS, TOPICS, UNSORTED_EPISODE, UNSORTED_TOPIC
from robocache.sample.mcap_writer import CHUNK_BYTES, TopicLog, write_mcap
from robocache.sample.signals import GRAVITY, SIGNALS, start_ns

mcap_reader = pytest.importorskip("mcap.reader", reason="the official mcap library reads what we wrote")
mcap_ros2 = pytest.importorskip("mcap_ros2.decoder", reason="the official ROS 2 decoder reads what we wrote")

EPISODES, SECONDS, SEED = 3, 4.0, 11

Log = dict[str, np.ndarray]


def xyz(v) -> list[float]:
    return [v.x, v.y, v.z]


def xyzw(q) -> list[float]:
    return [q.x, q.y, q.z, q.w]


#: topic -> the signal fields of one decoded message, by the names that ``truth`` uses
FIELDS = {
    "/joint_states": lambda m: {"position": m.position, "velocity": m.velocity, "effort": m.effort},
    "/command": lambda m: {"position": m.position},
    "/ft_sensor": lambda m: {"wrench": xyz(m.wrench.force) + xyz(m.wrench.torque)},
    "/ee_pose": lambda m: {"pose": xyz(m.pose.position) + xyzw(m.pose.orientation)},
    "/imu": lambda m: {
        "orientation": xyzw(m.orientation),
        "angular_velocity": xyz(m.angular_velocity),
        "linear_acceleration": xyz(m.linear_acceleration),
    },
}


def decode(path: Path) -> dict[str, Log]:
    """Every topic in file order, by the official reader and decoder: stamps, log times and signal fields."""
    rows: dict[str, list[dict]] = {}
    with path.open("rb") as file:
        reader = mcap_reader.make_reader(file, decoder_factories=[mcap_ros2.DecoderFactory()])
        for _, channel, raw, message in reader.iter_decoded_messages(log_time_order=False):
            stamp = message.header.stamp
            row = {"stamp": stamp.sec * 1_000_000_000 + stamp.nanosec, "log": raw.log_time, "sequence": raw.sequence}
            rows.setdefault(channel.topic, []).append(row | FIELDS[channel.topic](message))
    return {topic: {key: np.array([row[key] for row in all_]) for key in all_[0]} for topic, all_ in rows.items()}


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    return write_samples(tmp_path_factory.mktemp("sample"), episodes=EPISODES, seconds=SECONDS, seed=SEED)


@pytest.fixture(scope="module")
def logs(paths) -> list[dict[str, Log]]:
    return [decode(path) for path in paths[:EPISODES]]


def last_of_stamp(stamps: np.ndarray) -> np.ndarray:
    """Rows that count: of equal stamps the last one, in file order."""
    first_from_behind = np.unique(stamps[::-1], return_index=True)[1]
    return len(stamps) - 1 - first_from_behind


def test_official_decoder_sees_truth_within_noise(logs):
    seen = set()
    for episode, log in enumerate(logs):
        for topic, spec in TOPICS.items():
            rows = last_of_stamp(log[topic]["stamp"])
            stamps = log[topic]["stamp"][rows]
            for field, deviation in spec.noise.items():
                source = f"{topic}.{field}"
                expected = truth(source, stamps, episode=episode, seed=SEED)
                if source == "/ft_sensor.wrench":
                    expected += vibration(stamps, episode=episode, seed=SEED)
                error = log[topic][field][rows] - expected
                assert np.abs(error).max() <= 6 * np.max(deviation)
                if np.any(deviation):  # the noise is there, and as large as stated (less along a unit quaternion)
                    ratio = error.std(axis=0) / deviation
                    assert ratio.max() < 1.15
                    assert ratio.min() > (0.3 if source in QUATERNIONS else 0.85)
                seen.add(source)
    assert seen == set(SIGNALS)


def test_noise_zero_logs_exact_truth(tmp_path):
    (path,) = write_samples(tmp_path, episodes=1, seconds=1, damaged=False, noise=0)
    imu = decode(path)["/imu"]
    np.testing.assert_array_equal(imu["angular_velocity"], truth("/imu.angular_velocity", imu["stamp"], episode=0))


def test_rosbags_reads_the_same(paths, logs):
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    typesys = pytest.importorskip("rosbags.typesys")
    types = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    counts = dict.fromkeys(TOPICS, 0)
    with rosbag2.Reader(paths[0]) as reader:
        for connection in reader.connections:  # raises where our definition differs from the one of ROS 2 Humble
            types.register(typesys.get_types_from_msg(connection.msgdef.data, connection.msgtype))
        order = {topic: np.argsort(log["log"], kind="stable") for topic, log in logs[0].items()}
        for connection, time, data in reader.messages():
            topic, log = connection.topic, logs[0][connection.topic]
            row = order[topic][counts[topic]]
            message = types.deserialize_cdr(data, connection.msgtype)
            assert time == log["log"][row]
            for field, value in FIELDS[topic](message).items():
                np.testing.assert_array_equal(value, log[field][row])
            counts[topic] += 1
    assert counts == {topic: len(log["stamp"]) for topic, log in logs[0].items()}


def test_names_frames_and_empty_sequences(paths):
    with paths[0].open("rb") as file:
        reader = mcap_reader.make_reader(file, decoder_factories=[mcap_ros2.DecoderFactory()])
        first: dict = {}
        for _, channel, _, message in reader.iter_decoded_messages():
            first.setdefault(channel.topic, message)
    assert first["/joint_states"].name == [f"joint_{n}" for n in range(1, 8)] == first["/command"].name
    assert len(first["/command"].velocity) == len(first["/command"].effort) == 0
    assert first["/ft_sensor"].header.frame_id == "ft_sensor_link"
    assert first["/imu"].angular_velocity_covariance[0] == pytest.approx(9e-6)
    assert first["/imu"].angular_velocity_covariance[1] == 0


def test_rates_jitter_and_epoch(logs):
    for episode, log in enumerate(logs):
        for topic, spec in TOPICS.items():
            stamps = np.unique(log[topic]["stamp"])
            period = 1e9 / spec.rate_hz
            assert abs(len(stamps) - SECONDS * spec.rate_hz) <= 3 * 0.4 * spec.rate_hz  # three gaps at most
            steps = np.diff(stamps)
            assert np.median(steps) == pytest.approx(period, rel=0.02)
            regular = steps[steps < 2 * period]
            assert 0.05 < regular.std() / period < 0.2  # jitter
            assert steps.min() > 0
            assert 0 <= stamps[0] - start_ns(episode) < 0.06e9
            assert len(np.unique(stamps.astype(np.float64).astype(np.float32))) < 5  # float32 time would be lost


def test_log_time_trails_the_stamp(logs):
    for log in logs:
        for topic, spec in TOPICS.items():
            latency = (log[topic]["log"] - log[topic]["stamp"]) / 1e6
            assert latency.min() >= spec.latency_ms[0]
            assert spec.latency_ms[0] < np.median(latency) < 2 * spec.latency_ms[1]


def test_gaps_on_two_streams_of_every_episode(logs):
    for log in logs:
        gappy = set()
        for topic, spec in TOPICS.items():
            steps = np.diff(np.unique(log[topic]["stamp"]))
            wide = steps[steps > 2 * 1e9 / spec.rate_hz]
            if len(wide):
                gappy.add(topic)
                assert len(wide) <= 3
                assert wide.min() > GAP_NS[0] - 1e9 / spec.rate_hz
                assert wide.max() < GAP_NS[1] + 2e9 / spec.rate_hz
        assert len(gappy) == 2


def test_duplicates_begin_unfilled_and_end_true(logs):
    for topic, spec in TOPICS.items():
        pairs = 0
        for log in logs:
            stamps = log[topic]["stamp"]
            first = np.flatnonzero(stamps[:-1] == stamps[1:])
            pairs += len(first)
            for field in spec.noise:
                assert not log[topic][field][first].any()
                assert log[topic][field][first + 1].any(axis=1).all()
        assert (pairs > 0) == spec.duplicates


def test_one_stream_of_one_episode_is_out_of_order(logs):
    for episode, log in enumerate(logs):
        for topic in TOPICS:
            backwards = int((np.diff(log[topic]["stamp"]) < 0).sum())
            assert (backwards > 5) == (episode == UNSORTED_EPISODE and topic == UNSORTED_TOPIC)
            assert (np.diff(log[topic]["log"]) >= 0).all()


def test_container_is_complete(paths):
    """Summary, statistics, chunk and message indexes agree with the messages, and every CRC with its bytes."""
    from mcap.records import Chunk, ChunkIndex, DataEnd, Footer, Message, MessageIndex, SummaryOffset
    from mcap.stream_reader import StreamReader, breakup_chunk

    data = paths[0].read_bytes()
    with paths[0].open("rb") as file:  # checks the CRC of every chunk
        reader = mcap_reader.make_reader(file, validate_crcs=True)
        header, summary = reader.get_header(), reader.get_summary()
        messages = list(reader.iter_messages(log_time_order=False))
        assert header.profile == "ros2"
    with paths[0].open("rb") as file:
        records = list(StreamReader(file, emit_chunks=True, validate_crcs=True).records)

    statistics = summary.statistics
    topics = {channel.topic: channel.id for channel in summary.channels.values()}
    assert list(topics) == list(TOPICS)
    assert {channel.topic: summary.schemas[channel.schema_id].name for channel in summary.channels.values()} == {
        topic: spec.schema for topic, spec in TOPICS.items()
    }
    assert (statistics.schema_count, statistics.channel_count) == (4, 5)
    assert statistics.message_count == len(messages) == sum(statistics.channel_message_counts.values())
    for topic, number in topics.items():
        assert statistics.channel_message_counts[number] == sum(c.topic == topic for _, c, _ in messages)
    log_times = [message.log_time for _, _, message in messages]
    assert (statistics.message_start_time, statistics.message_end_time) == (min(log_times), max(log_times))

    chunks = [record for record in records if isinstance(record, Chunk)]
    indexes = [record for record in records if isinstance(record, MessageIndex)]
    assert statistics.chunk_count == len(chunks) == len(summary.chunk_indexes) > 1
    assert all(abs(chunk.uncompressed_size - CHUNK_BYTES) < 4096 for chunk in chunks[:-1])
    indexed = 0
    for chunk, listed in zip(chunks, summary.chunk_indexes, strict=True):
        assert data[listed.chunk_start_offset] == 0x06
        assert listed.chunk_length == struct.unpack_from("<Q", data, listed.chunk_start_offset + 1)[0] + 9
        assert (listed.compressed_size, listed.uncompressed_size) == (len(chunk.data), chunk.uncompressed_size)
        plain = pa.decompress(chunk.data, chunk.uncompressed_size, codec=chunk.compression, asbytes=True)
        inside = [record for record in breakup_chunk(chunk, validate_crc=True) if isinstance(record, Message)]
        assert (listed.message_start_time, listed.message_end_time) == (
            min(m.log_time for m in inside),
            max(m.log_time for m in inside),
        )
        for channel in listed.message_index_offsets:
            index = indexes[indexed]
            indexed += 1
            position = listed.message_index_offsets[channel]
            assert data[position] == 0x07
            assert struct.unpack_from("<H", data, position + 9)[0] == channel == index.channel_id
            expected = [m.log_time for m in inside if m.channel_id == channel]
            assert [time for time, _ in index.records] == expected
            for time, offset in index.records:  # each entry points at its message
                opcode, _, number, _, log_time = struct.unpack_from("<BQHIQ", plain, offset)
                assert (opcode, number, log_time) == (0x05, channel, time)
        end = listed.chunk_start_offset + listed.chunk_length + listed.message_index_length
        assert data[end] in (0x06, 0x0F)  # the next chunk or the end of the data section
    assert indexed == len(indexes)

    data_end = next(record for record in records if isinstance(record, DataEnd))
    footer = next(record for record in records if isinstance(record, Footer))
    assert data_end.data_section_crc == zlib.crc32(data[: footer.summary_start - 13]) != 0
    assert footer.summary_crc == zlib.crc32(data[footer.summary_start : -8 - 4]) != 0
    groups = [record for record in records if isinstance(record, SummaryOffset)]
    assert footer.summary_offset_start == groups[-1].group_start + groups[-1].group_length
    for group in groups:
        assert data[group.group_start] == group.group_opcode
    assert any(isinstance(record, ChunkIndex) for record in records)


@pytest.mark.parametrize("compression", ["lz4", "none"])
def test_other_compressions(tmp_path, compression):
    zstd = write_samples(tmp_path / "zstd", episodes=1, seconds=1, damaged=False)
    other = write_samples(tmp_path / compression, episodes=1, seconds=1, damaged=False, compression=compression)
    with zstd[0].open("rb") as a, other[0].open("rb") as b:
        left = mcap_reader.make_reader(a, validate_crcs=True).iter_messages()
        right = mcap_reader.make_reader(b, validate_crcs=True).iter_messages()
        for (_, _, one), (_, _, two) in zip(left, right, strict=True):
            assert one == two


def test_damaged_file_is_an_intact_one_cut_in_the_middle(paths):
    assert [path.name for path in paths] == [f"episode_{n:03d}.mcap" for n in range(EPISODES + 1)]
    damaged = paths[-1].read_bytes()
    assert not damaged.endswith(b"\x89MCAP0\r\n")
    full = write_samples(paths[0].parent / "full", episodes=EPISODES + 1, seconds=SECONDS, seed=SEED, damaged=False)
    whole = full[-1].read_bytes()
    assert whole.startswith(damaged)
    assert 0.4 < len(damaged) / len(whole) < 0.7
    with paths[-1].open("rb") as file, pytest.raises(Exception):  # noqa: B017 - any error of the foreign reader
        list(mcap_reader.make_reader(file).iter_messages())


def test_bytes_depend_on_the_seed_alone(tmp_path, paths):
    again = write_samples(tmp_path / "again", episodes=EPISODES, seconds=SECONDS, seed=SEED)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    other = write_samples(tmp_path / "other", episodes=1, seconds=SECONDS, seed=SEED + 1)
    assert other[0].read_bytes() != paths[0].read_bytes()


def test_truth_velocity_is_the_derivative_of_position():
    times = start_ns(2) + np.arange(0, 5_000_000_000, 1_234_567)
    step = 100_000
    ahead, behind = (truth("/joint_states.position", times + d, episode=2, seed=3) for d in (step, -step))
    velocity = truth("/joint_states.velocity", times, episode=2, seed=3)
    np.testing.assert_allclose((ahead - behind) / (2 * step * 1e-9), velocity, atol=1e-6)
    assert velocity.std(axis=0).min() > 0.1


def test_truth_imu_is_consistent_with_the_pose():
    from scipy.spatial.transform import Rotation

    times = start_ns(1) + np.arange(0, 5_000_000_000, 1_234_567)
    step = 1_000_000
    seconds = step * 1e-9

    def pose(shift: int) -> np.ndarray:
        return truth("/ee_pose.pose", times + shift, episode=1)

    orientation = truth("/imu.orientation", times, episode=1)
    np.testing.assert_allclose(np.linalg.norm(orientation, axis=1), 1, atol=1e-14)
    np.testing.assert_array_equal(pose(0)[:, 3:], orientation)
    assert (orientation[1:] * orientation[:-1]).sum(axis=1).min() > 0.99  # never jumps in sign

    ahead, behind = Rotation.from_quat(pose(step)[:, 3:]), Rotation.from_quat(pose(-step)[:, 3:])
    body_rate = (behind.inv() * ahead).as_rotvec() / (2 * seconds)
    rate = truth("/imu.angular_velocity", times, episode=1)
    np.testing.assert_allclose(body_rate, rate, atol=1e-4)
    assert rate.std(axis=0).min() > 0.1

    acceleration = (pose(step)[:, :3] - 2 * pose(0)[:, :3] + pose(-step)[:, :3]) / seconds**2
    force = Rotation.from_quat(orientation).inv().apply(acceleration + np.array([0, 0, GRAVITY]))
    np.testing.assert_allclose(truth("/imu.linear_acceleration", times, episode=1), force, atol=1e-4)


def test_truth_command_leads_the_joints():
    times = start_ns(0) + np.arange(0, 10**9, 10**7)
    ahead = truth("/joint_states.position", times + 10**8, episode=0)
    np.testing.assert_allclose(truth("/command.position", times, episode=0), ahead, atol=1e-12)


def test_vibration_vanishes_in_the_mean():
    """What `align: mean` is for: whole periods of the vibration average to nothing, single samples do not."""
    times = start_ns(0) + np.arange(0, 10**9, 10**6)
    shake = vibration(times, episode=0)
    assert np.abs(shake.mean(axis=0)).max() < 1e-6
    assert np.abs(shake[:, 2]).max() > 0.8


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"episodes": 0}, "episodes: got 0"),
        ({"seconds": 0.5}, "seconds: got 0.5"),
        ({"seconds": float("nan")}, "seconds: got nan"),
        ({"seed": -1}, "seed: got -1"),
        ({"noise": -1.0}, "noise: got -1.0"),
        ({"compression": "gzip"}, "compression: got 'gzip'"),
    ],
)
def test_bad_arguments(tmp_path, arguments, found):
    with pytest.raises(InputError, match=found):
        write_samples(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_unknown_source_names_the_known_ones():
    with pytest.raises(InputError, match=r"'/imu.mag'.*/imu.orientation"):
        truth("/imu.mag", np.array([0]), episode=0)


def test_writer_refuses_what_it_cannot_write(tmp_path):
    empty = TopicLog("/a", "std_msgs/msg/Empty", "", np.empty((0, 4), np.uint8), np.empty(0, int), np.empty(0, int))
    with pytest.raises(ValueError, match="no messages"):
        write_mcap(tmp_path / "a.mcap", [empty])
    with pytest.raises(ValueError, match="'gzip'"):
        write_mcap(tmp_path / "a.mcap", [empty], compression="gzip")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_writer_keeps_log_order_and_quiet_topics(tmp_path):
    """Equal log times keep topic order; a topic without messages is still declared."""

    def topic(name: str, times: list[int], width: int) -> TopicLog:
        log = np.array(times, np.int64)
        payloads = np.arange(len(log) * width, dtype=np.uint8).reshape(len(log), width)
        return TopicLog(name, "pkg/msg/T", "uint8 x\n", payloads, log, log)

    write_mcap(tmp_path / "a.mcap", [topic("/a", [5, 7, 9], 5), topic("/b", [7, 1], 9), topic("/quiet", [], 4)])
    with (tmp_path / "a.mcap").open("rb") as file:
        reader = mcap_reader.make_reader(file, validate_crcs=True)
        got = [(c.topic, m.log_time, m.sequence, m.data) for _, c, m in reader.iter_messages(log_time_order=False)]
        summary = reader.get_summary()
    assert [(name, time, sequence) for name, time, sequence, _ in got] == [
        ("/b", 1, 1),
        ("/a", 5, 0),
        ("/a", 7, 1),
        ("/b", 7, 0),
        ("/a", 9, 2),
    ]
    assert got[0][3] == bytes(range(9, 18))
    assert summary.statistics.channel_message_counts == {1: 3, 2: 2, 3: 0}
    assert len(summary.schemas) == 1
