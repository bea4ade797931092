"""The MCAP reader against independent writers and decoders: mcap, mcap-ros2-support and rosbags."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from robocache.errors import InputError
from robocache.formats import InputSpec, read_episode
from robocache.formats.mcap import McapReader
from robocache.types import Episode, EpisodeRef, FileStamp, StreamInfo

mcap_writer = pytest.importorskip("mcap.writer")
mcap_reader = pytest.importorskip("mcap.reader")
mcap_ros2 = pytest.importorskip("mcap_ros2.decoder")
rosbags_types = pytest.importorskip("rosbags.typesys")
CompressionType, IndexType, Writer = mcap_writer.CompressionType, mcap_writer.IndexType, mcap_writer.Writer

STORE = rosbags_types.get_typestore(rosbags_types.Stores.ROS2_HUMBLE)
MIXED = """
# every kind of field, with padding before most
std_msgs/Header header
uint8 KIND=3
bool ready
string<=20 label "none # really"
float32 gain 1.5
Inner[2] pair
string[] words
float64[] samples
int16[<=8] few
uint8[] blob
Inner[] many
Named[] named
int64 tail
"""
INNER = "uint8 id\nfloat64 weight\n"
NAMED = "string name\nfloat32[3] xyz\n"
for _name, _text in {"Inner": INNER, "Named": NAMED, "Mixed": MIXED}.items():
    STORE.register(rosbags_types.get_types_from_msg(_text, f"test_msgs/msg/{_name}"))
_RULE = "=" * 80 + "\n"
_HEADER = "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
MIXED_SCHEMA = f"{MIXED}{_RULE}{_HEADER}{_RULE}MSG: test_msgs/Inner\n{INNER}{_RULE}MSG: test_msgs/Named\n{NAMED}"
TOP = 1_700_000_000_000_000_000


def make(name: str, **values):
    return STORE.types[name](**values)


def header(stamp: int, frame: str = "base"):
    time = make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/msg/Header", stamp=time, frame_id=frame)


def mixed(i: int, *, label: str = "x", words: int = 2, samples: int = 3, blob: int = 5, many: int = 1, named: int = 2):
    """A message whose every number tells its place and ``i``."""
    inner, name = STORE.types["test_msgs/msg/Inner"], STORE.types["test_msgs/msg/Named"]
    return make(
        "test_msgs/msg/Mixed",
        header=header(TOP + i * 10**7, "f" * (1 + i % 3)),
        ready=i % 2 == 0,
        label=label,
        gain=i + 0.5,
        pair=[inner(id=i % 256, weight=i + 0.25), inner(id=(i + 1) % 256, weight=-i - 0.25)],
        words=["w" * (k + i % 4) for k in range(words)],
        samples=np.arange(samples) + i * 1.0,
        few=np.arange(2, dtype=np.int16) - i,
        blob=np.arange(blob, dtype=np.uint8),
        many=[inner(id=k, weight=k * 10.0 + i) for k in range(many)],
        named=[name(name="n" * (k + i % 3), xyz=np.float32([k, i, k * i])) for k in range(named)],
        tail=i * (1 << 40),
    )


def write(path: Path, messages, *, topics=("/mixed",), little_endian=True, schema=MIXED_SCHEMA, **options) -> InputSpec:
    """Write Mixed messages round-robin over ``topics`` (a repeated name is a second channel) and return their spec."""
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start("ros2")
        kind = writer.register_schema("test_msgs/msg/Mixed", "ros2msg", schema.encode())
        ids = [writer.register_channel(topic, "cdr", kind) for topic in topics]
        for i, message in enumerate(messages):
            data = bytes(STORE.serialize_cdr(message, "test_msgs/msg/Mixed", little_endian=little_endian))
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            writer.add_message(ids[i % len(ids)], stamp + 500, data, stamp)
        writer.finish()
    return InputSpec((str(path),))


def write_json(path: Path, messages, **options) -> InputSpec:
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start()
        channel = writer.register_channel("/state", "json", writer.register_schema("State", "jsonschema", b"{}"))
        for i, message in enumerate(messages):
            writer.add_message(channel, TOP + i, json.dumps(message).encode(), TOP + i)
        writer.finish()
    return InputSpec((str(path),))


def refer(spec: InputSpec) -> EpisodeRef:
    path = Path(spec.uri[0])
    stamp = FileStamp(str(path), path.stat().st_size, "")
    (ref,) = McapReader().episodes("episode", [stamp], spec)
    return ref


def read(spec: InputSpec, *sources: str) -> Episode:
    return read_episode(refer(spec), sources, spec)


def streams(spec: InputSpec) -> dict[str, StreamInfo]:
    return {info.source: info for info in McapReader().streams(refer(spec), spec)}


def value(message, path: str):
    """What a field path means, on a decoded message: structs are their numbers in definition order."""
    for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", path):
        message = getattr(message, name)
        message = message[int(index)] if index else message
    return message


def flat(thing) -> list:
    if hasattr(thing, "__slots__") and not isinstance(thing, (np.ndarray, np.generic)):
        names = [name for name in thing.__slots__ if hasattr(thing, name)]
        return [x for name in names for x in flat(getattr(thing, name))]
    return [x for item in thing for x in flat(item)] if isinstance(thing, (list, tuple, np.ndarray)) else [thing]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["husky", "tilt_laser"])
def test_real_files_agree_with_mcap_ros2_support_in_every_field(data_dir, name):
    path = data_dir / "bags" / f"{name}.mcap"
    spec = InputSpec((str(path),))
    decoded = defaultdict(list)
    unreadable = {"/info_gps"}  # to mcap-ros2-support, for its field names in camelCase
    with path.open("rb") as file:
        reader = mcap_reader.make_reader(file, decoder_factories=[mcap_ros2.DecoderFactory()])
        topics = {channel.topic for channel in reader.get_summary().channels.values()} - unreadable
        for _, channel, message, decode in reader.iter_decoded_messages(topics, log_time_order=False):
            decoded[channel.topic].append((message.log_time, decode))
    infos = streams(spec)
    assert infos.keys() - unreadable == decoded.keys()
    for topic in decoded:
        info = infos[topic]
        expected = [message for _, message in decoded[topic]]
        if topic == "/tf":
            assert _tf_of_one_frame(spec, expected) > 3
            continue
        if hasattr(expected[0], "header"):
            stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in expected]
        else:
            stamps = [time for time, _ in decoded[topic]]
        np.testing.assert_array_equal(info.times, stamps)
        episode = read(spec, *(f"{topic}.{field}" for field, _ in info.fields))
        assert len(info.fields) == len(episode.streams) >= 3
        for field, _ in info.fields:
            stream = episode.streams[f"{topic}.{field}"]
            np.testing.assert_array_equal(stream.times, stamps)
            wanted = [flat(value(message, field)) for message in expected]
            if not isinstance(stream.values, np.ndarray):
                assert stream.values.to_pylist() == [text for (text,) in wanted]
            else:
                np.testing.assert_array_equal(stream.values.reshape(len(wanted), -1), wanted, err_msg=field)


def _tf_of_one_frame(spec: InputSpec, messages) -> int:
    """A place in the array is the frame that the first message has there, at its own stamps, wherever it stands."""
    frame = messages[0].transforms[0].child_frame_id
    sent = [t for m in messages for t in m.transforms if t.child_frame_id == frame]
    assert len(sent) < sum(len(m.transforms) for m in messages)
    fields = ["transform", "transform.translation", "transform.rotation", "child_frame_id", "header.frame_id"]
    for source in (f"/tf.transforms[0].{field}" for field in fields):
        stream = read(spec, source).streams[source]
        np.testing.assert_array_equal(stream.times, [t.header.stamp.sec * 10**9 + t.header.stamp.nanosec for t in sent])
        wanted = [flat(value(t, source.removeprefix("/tf.transforms[0]."))) for t in sent]
        found = stream.values.to_pylist() if isinstance(stream.values, pa.Array) else stream.values.tolist()
        assert found == [texts if isinstance(stream.values, np.ndarray) else texts[0] for texts in wanted]
        assert stream.about["element"] == f"child_frame_id={frame}"
        assert f"{len(messages) - len(sent):,} of {len(messages):,} messages have no" in stream.notes[0]
    return len(fields)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "husky",
            {
                "/imu/data": ["orientation", "angular_velocity", "linear_acceleration"],
                "/husky_velocity_controller/odom": ["pose.pose", "twist.twist", "pose.covariance"],
                "/fix": ["latitude", "longitude", "altitude", "position_covariance"],
            },
        ),
        (
            "tilt_laser",
            {
                "/info_gps": ["m_nb_sat", "satellites_locked", "valid_data", "gps", "gps[15].m_id"],
                "/temperature": ["reading", "min_reading", "max_reading"],
                "/scan": ["ranges", "intensities", "range_max"],
            },
        ),
    ],
)
def test_real_files_agree_with_the_ros1_recordings_they_were_made_from(data_dir, name, fields):
    rosbags_reader = pytest.importorskip("rosbags.highlevel")
    spec = InputSpec((str(data_dir / "bags" / f"{name}.mcap"),))
    episode = read(spec, *(f"{topic}.{field}" for topic, names in fields.items() for field in names))
    found = defaultdict(list)
    with rosbags_reader.AnyReader([data_dir / "bags" / f"{name}.bag"]) as reader:
        wanted = [connection for connection in reader.connections if connection.topic in fields]
        for connection, _, raw in reader.messages(wanted):
            message = reader.deserialize(raw, connection.msgtype)
            for field in fields[connection.topic]:
                found[f"{connection.topic}.{field}"].append(_numbers_of(value(message, field)))
    assert found.keys() == episode.streams.keys()
    for source, stream in episode.streams.items():
        np.testing.assert_array_equal(stream.values.reshape(len(stream.times), -1), np.stack(found[source]))


def _numbers_of(thing) -> np.ndarray:
    """Numbers of a rosbags message (a dataclass), in definition order."""
    if hasattr(thing, "__dataclass_fields__"):
        names = [name for name in thing.__dataclass_fields__ if name != "__msgtype__"]
        return np.concatenate([_numbers_of(getattr(thing, name)) for name in names])
    if isinstance(thing, list):
        return np.concatenate([_numbers_of(item) for item in thing])
    return np.atleast_1d(np.asarray(thing, np.float64))


LAYOUTS = {
    "zstd": {"chunk_size": 4000},
    "lz4": {"chunk_size": 4000, "compression": CompressionType.LZ4},
    "uncompressed": {"chunk_size": 4000, "compression": CompressionType.NONE},
    "one chunk": {},
    "unchunked": {"use_chunking": False},
    "no message index": {"chunk_size": 4000, "index_types": IndexType.CHUNK},
    "no chunk index": {"chunk_size": 4000, "index_types": IndexType.NONE},
    "no statistics": {"chunk_size": 4000, "use_statistics": False, "use_summary_offsets": False},
    "data CRC": {"chunk_size": 4000, "enable_data_crcs": True},
    "unchunked, data CRC": {"use_chunking": False, "enable_data_crcs": True},
    "no CRC": {"chunk_size": 4000, "enable_crcs": False},
}


@pytest.mark.parametrize("little_endian", [True, False], ids=["little", "big"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_layout_gives_the_same_streams(tmp_path, layout, little_endian):
    """Strings and sequences before a field differ in length between messages, so no two have one layout."""
    sent = [mixed(i, label="l" * (i % 5), words=i % 4, many=i % 3, named=1 + i % 2) for i in range(200)]
    spec = write(tmp_path / "a.mcap", sent, little_endian=little_endian, **LAYOUTS[layout])
    sources = ["ready", "gain", "pair", "samples", "few", "tail", "label", "blob", "named[0].name", "named[0].xyz"]
    episode = read(spec, *(f"/mixed.{source}" for source in sources))
    values = {source.removeprefix("/mixed."): stream.values for source, stream in episode.streams.items()}
    assert values["ready"].dtype == bool and values["gain"].dtype == np.float32 and values["tail"].dtype == np.int64
    np.testing.assert_array_equal(values["ready"], [m.ready for m in sent])
    np.testing.assert_array_equal(values["gain"], [m.gain for m in sent])
    np.testing.assert_array_equal(values["pair"], [[[p.id, p.weight] for p in m.pair] for m in sent])
    np.testing.assert_array_equal(values["samples"], [m.samples for m in sent])
    np.testing.assert_array_equal(values["few"], [m.few for m in sent])
    np.testing.assert_array_equal(values["tail"], [m.tail for m in sent])
    np.testing.assert_array_equal(values["named[0].xyz"], [m.named[0].xyz for m in sent])
    assert values["label"].type == pa.string() and values["blob"].type == pa.large_binary()
    assert values["label"].to_pylist() == [m.label for m in sent]
    assert values["blob"].to_pylist() == [bytes(m.blob) for m in sent]
    assert values["named[0].name"].to_pylist() == [m.named[0].name for m in sent]
    np.testing.assert_array_equal(episode.streams["/mixed.tail"].times, TOP + np.arange(200) * 10**7)
    words = read(spec, "/mixed.words").streams["/mixed.words"].values
    assert words.type == pa.list_(pa.string()) and words.to_pylist() == [m.words for m in sent]


def test_payloads_and_elements_of_varying_length(tmp_path):
    sent = [mixed(i, blob=i * 3, words=1 + i % 3, many=4) for i in range(50)]
    spec = write(tmp_path / "a.mcap", sent)
    episode = read(spec, "/mixed.blob", "/mixed.words[0]", "/mixed.many[2].weight", "/mixed.many", "/mixed.named.xyz")
    assert episode.streams["/mixed.blob"].values.to_pylist() == [bytes(m.blob) for m in sent]
    assert episode.streams["/mixed.words[0]"].values.to_pylist() == [m.words[0] for m in sent]
    np.testing.assert_array_equal(episode.streams["/mixed.many[2].weight"].values, [m.many[2].weight for m in sent])
    whole = [[[p.id, p.weight] for p in m.many] for m in sent]
    np.testing.assert_array_equal(episode.streams["/mixed.many"].values, whole)
    np.testing.assert_array_equal(episode.streams["/mixed.named.xyz"].values, [[n.xyz for n in m.named] for m in sent])


def test_selectors(tmp_path):
    sent = [mixed(i) for i in range(20)]
    spec = write(tmp_path / "a.mcap", sent)
    names = ["samples[2,0]", "samples[1:]", "pair[1]", "pair[1].weight", "many[0][weight]"]
    sources = [f"/mixed.{name}" for name in names]
    episode = read(spec, *sources)
    samples = np.array([m.samples for m in sent])
    np.testing.assert_array_equal(episode.streams[sources[0]].values, samples[:, [2, 0]])
    np.testing.assert_array_equal(episode.streams[sources[1]].values, samples[:, 1:])
    np.testing.assert_array_equal(episode.streams[sources[2]].values, [[m.pair[1].id, m.pair[1].weight] for m in sent])
    np.testing.assert_array_equal(episode.streams[sources[3]].values, [m.pair[1].weight for m in sent])
    np.testing.assert_array_equal(episode.streams[sources[4]].values, [[m.many[0].weight] for m in sent])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/mixed.nothing", r"no field 'nothing'.*its fields are header, ready, label"),
        ("/mixed.pair[0].height", r"no field 'height' in test_msgs/Inner; its fields are id, weight"),
        ("/mixed.gain.x", r"no field 'x' in float32"),
        ("/mixed.pair[2].id", r"\[2\] of test_msgs/Inner\[2\]"),
        ("/mixed.many[9].id", r"none of 3 messages has \.many\[9\]"),
        ("/mixed", r"holds label of type string"),
        ("/mixed.header", r"holds frame_id of type string"),
        ("/mixed.samples[7]", r"column 7 asked for, it has 3"),
        ("/mixed.pair[0][z]", r"no column 'z'; its columns are id, weight"),
        ("/mixed.blob[0]", r"has no columns"),
        ("/mixed.samples[,]", r"empty item"),
        ("/mixed..gain", r"cannot read"),
    ],
)
def test_a_wrong_path_says_what_is_there(tmp_path, source, message):
    spec = write(tmp_path / "a.mcap", [mixed(i) for i in range(3)])
    with pytest.raises(InputError, match=message) as caught:
        read(spec, source)
    assert "a.mcap" in str(caught.value)


@pytest.mark.parametrize("count, odd", [(20, 7), (1100, 1000)], ids=["in a window", "windows later"])
def test_sequences_of_varying_length_are_lists(tmp_path, count, odd):
    """Whether they differ within what is decoded at once, or only beside it."""
    sent = [mixed(i, samples=3 if i < odd else 4, blob=8000 if count > 1000 else 5) for i in range(count)]
    spec = write(tmp_path / "a.mcap", sent)
    found = read(spec, "/mixed.samples", "/mixed.samples[2,0]").streams
    assert found["/mixed.samples"].values.type == pa.list_(pa.float64())
    assert found["/mixed.samples"].values.to_pylist() == [list(m.samples) for m in sent]
    np.testing.assert_array_equal(found["/mixed.samples[2,0]"].values, [m.samples[[2, 0]] for m in sent])
    with pytest.raises(InputError, match="column 3 asked for, it has 3"):
        read(spec, "/mixed.samples[3]")


def test_an_empty_array_beside_others_is_a_row_of_which_nothing_is_there(tmp_path):
    sent = [mixed(i, samples=0 if i in (0, 5) else 3) for i in range(20)]
    spec = write(tmp_path / "a.mcap", sent)
    found = read(spec, "/mixed.samples", "/mixed.samples[2,0]").streams
    there = np.array([i not in (0, 5) for i in range(20)])
    for columns, stream in zip(([0, 1, 2], [2, 0]), found.values(), strict=True):
        np.testing.assert_array_equal(stream.present, np.repeat(there[:, None], len(columns), axis=1))
        np.testing.assert_array_equal(stream.values[there], [m.samples[columns] for m in sent if len(m.samples)])
        assert np.isnan(stream.values[~there]).all()


def test_times_and_channels(tmp_path):
    sent = [mixed(i) for i in range(30)]
    spec = write(tmp_path / "a.mcap", sent, topics=("/mixed", "/other", "/mixed"), chunk_size=2000)
    episode = read(spec, "/mixed.gain", "/absent.gain")
    kept = [i for i in range(30) if i % 3 != 1]
    assert list(episode.streams) == ["/mixed.gain"]
    np.testing.assert_array_equal(episode.streams["/mixed.gain"].values, np.float32(kept) + 0.5)
    np.testing.assert_array_equal(episode.streams["/mixed.gain"].times, TOP + np.array(kept) * 10**7)
    logged = read(InputSpec(spec.uri, stamp="log"), "/mixed.gain").streams["/mixed.gain"]
    np.testing.assert_array_equal(logged.times, TOP + np.array(kept) * 10**7 + 500)
    assert streams(spec)["/other"].type == "test_msgs/msg/Mixed"
    for message in sent:
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    zero = write(tmp_path / "b.mcap", sent)  # log times are 500 throughout
    np.testing.assert_array_equal(read(zero, "/mixed.gain").streams["/mixed.gain"].times, np.full(30, 500))


def test_only_the_chunks_of_the_topics_asked_for_are_read(tmp_path):
    """The other topic's chunks may be damaged without harm."""
    path = tmp_path / "a.mcap"
    spec = write(path, [mixed(i) for i in range(300)], topics=("/mixed",), chunk_size=3000)
    summary = mcap_reader.make_reader(path.open("rb")).get_summary()
    data = bytearray(path.read_bytes())
    first = summary.chunk_indexes[0]
    data[first.chunk_start_offset + 60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"chunk at byte {first.chunk_start_offset}"):
        read(spec, "/mixed.gain")
    assert read(spec, "/elsewhere.gain").streams == {}


def test_empty_topics_keep_their_shape(tmp_path):
    spec = write(tmp_path / "a.mcap", [])
    shapes = {"pair[0].weight": (0,), "named[0].xyz": (0, 3), "samples": (0, 0), "pair[0]": (0, 2), "pair": (0, 0, 2)}
    episode = read(spec, *(f"/mixed.{name}" for name in shapes), "/mixed.blob")
    for name, shape in shapes.items():
        assert episode.streams[f"/mixed.{name}"].values.shape == shape
    assert len(episode.streams["/mixed.blob"].values) == 0


def test_json(tmp_path):
    sent = [
        {
            "header": {"stamp": {"sec": 5, "nanosec": i}}, "q": [i, i + 0.5, None], "ok": i % 2 == 0, "mode": f"m{i}",
            "pose": {"p": {"x": i, "y": -i}, "yaw": 0.5}, "items": [{"v": i}], "count": i,
        }
        for i in range(10)
    ]  # fmt: skip
    spec = write_json(tmp_path / "a.mcap", sent)
    sources = ["q", "ok", "mode", "pose", "pose[yaw,p.x]", "items[0].v", "count", "q[1]"]
    found = dict(zip(sources, read(spec, *(f"/state.{s}" for s in sources)).streams.values(), strict=True))
    rows = np.arange(10)
    np.testing.assert_array_equal(found["q"].values, np.stack([rows, rows + 0.5, np.full(10, np.nan)], 1))
    np.testing.assert_array_equal(found["ok"].values, rows % 2 == 0)
    assert found["ok"].values.dtype == bool and found["count"].values.dtype == np.int64
    assert found["mode"].values.to_pylist() == [f"m{i}" for i in rows]
    np.testing.assert_array_equal(found["pose"].values, np.stack([rows, -rows, np.full(10, 0.5)], 1))
    np.testing.assert_array_equal(found["pose[yaw,p.x]"].values, np.stack([np.full(10, 0.5), rows], 1))
    np.testing.assert_array_equal(found["items[0].v"].values, rows)
    np.testing.assert_array_equal(found["q[1]"].values, rows[:, None] + 0.5)
    np.testing.assert_array_equal(found["q"].times, 5_000_000_000 + rows)
    assert dict(streams(spec)["/state"].fields)["pose.p.x"] == "int64"
    with pytest.raises(InputError, match=r"no field 'r'.*its fields are header, q"):
        read(spec, "/state.r")
    for bad in ([1.0, "text"], [[[1], 2], [1]], [{"a": 1}, {"b": 1}], [{"a": "t"}] * 2):
        spec = write_json(tmp_path / "b.mcap", [{"v": v} for v in bad])
        with pytest.raises(InputError):
            read(spec, "/state.v")


def test_a_header_without_nanoseconds_has_no_stamp(tmp_path):
    time = f"{_RULE}MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanoseconds\n"
    spec = write(tmp_path / "a.mcap", [mixed(i) for i in range(5)], schema=MIXED_SCHEMA + time)
    stream = read(spec, "/mixed.gain").streams["/mixed.gain"]
    np.testing.assert_array_equal(stream.values, np.arange(5) + 0.5)
    np.testing.assert_array_equal(stream.times, TOP + np.arange(5) * 10**7 + 500)


@contextmanager
def json_log(path):
    """A writer, and the channel of a topic of JSON."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        yield writer, writer.register_channel("/x", "json", 0)
        writer.finish()


def test_metadata_records_are_the_episodes(tmp_path):
    path = tmp_path / "a.mcap"
    with json_log(path) as (writer, channel):
        writer.add_metadata("task", {"text": "fold", "success": "true"})
        writer.add_message(channel, 1, b'{"q": 1}', 1)
        writer.add_metadata("robot", {"name": "ur5"})
    episode = read(InputSpec((str(path),)), "/x.q")
    assert episode.metadata == {"task": {"text": "fold", "success": "true"}, "robot": {"name": "ur5"}}


def test_what_is_attached_is_told_and_not_read(tmp_path):
    path = tmp_path / "a.mcap"
    with json_log(path) as (writer, channel):
        writer.add_attachment(1, 2, "calibration.yaml", "text/yaml", b"fx: 600\n" * 1000)
        writer.add_message(channel, 1, b'{"q": 1}', 1)
        writer.add_attachment(3, 4, "\x1b[31mred", "", b"")
    episode = read(InputSpec((str(path),)), "/x.q")
    assert episode.metadata == {
        "attachments": {
            "calibration.yaml": {"media_type": "text/yaml", "bytes": 8000},
            "\x1b[31mred": {"media_type": "", "bytes": 0},
        }
    }
    assert episode.streams["/x.q"].values.tolist() == [1]


def test_ros1_messages_go_through_the_same_decoder(tmp_path):
    """No padding, no encapsulation, no NUL; a header that counts."""
    ros1 = rosbags_types.get_typestore(rosbags_types.Stores.ROS1_NOETIC)
    kind = "sensor_msgs/msg/JointState"
    text, _ = ros1.generate_msgdef(kind, ros_version=1)
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros1")
        channel = writer.register_channel(
            "/j", "ros1", writer.register_schema("sensor_msgs/JointState", "ros1msg", text.encode())
        )
        for i in range(40):
            at = ros1.types["builtin_interfaces/msg/Time"](5, i)
            head = ros1.types["std_msgs/msg/Header"](i, at, "b" * (i % 3))
            names = ["a", "bb"] if i % 2 else ["bb", "a"]
            values = np.array([{"a": i, "bb": -i}[name] for name in names], float)
            message = ros1.types[kind](head, names, values, values * 2, np.array([]))
            writer.add_message(channel, 9, bytes(ros1.serialize_ros1(message, kind)), 9)
        writer.finish()
    found = read(
        InputSpec((str(path),)), "/j.position[a,bb]", "/j.velocity[bb]", "/j.header.seq", "/j.header.stamp"
    ).streams
    assert found["/j.header.stamp"].values.tolist() == [[5, i] for i in range(40)]
    assert found["/j.position[a,bb]"].values.tolist() == [[i, -i] for i in range(40)]
    assert found["/j.velocity[bb]"].values.tolist() == [[-2 * i] for i in range(40)]
    assert found["/j.header.seq"].values.tolist() == list(range(40))
    assert found["/j.position[a,bb]"].times.tolist() == [5 * 10**9 + i for i in range(40)]
