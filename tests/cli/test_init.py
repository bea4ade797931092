"""``robocache init``: configs made from recordings whose faults and meanings are known, run as they were written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from message_kit import JOINTS, T0, header, joints, make, record, transform

from robocache import cli
from robocache.cli.candidates import feature_name, of_columns, of_message, selector
from robocache.cli.guess import _unit
from robocache.sample import write_samples

MS = 1_000_000
TWIST, TEXT = "geometry_msgs/msg/Twist", "std_msgs/msg/String"
DOOR, FRAMES = "sensor_msgs/msg/Temperature", "tf2_msgs/msg/TFMessage"


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def suggested(*words: str) -> dict:
    """The config that init writes, which runs as it is and whose dataset is whole."""
    assert cli.main(["init", *words, "-o", "robocache.yaml"]) == cli.DONE
    assert cli.main(["run", "robocache.yaml", "-q"]) == cli.DONE
    assert cli.main(["verify", "dataset"]) == cli.DONE
    return yaml.safe_load(Path("robocache.yaml").read_text())


def rows() -> int:
    return pq.read_table("dataset/data").num_rows


def test_the_sample_logs(work, capsys):
    write_samples(work / "logs", episodes=2, seconds=1.0)
    config = suggested("logs")
    features = config["features"]
    modes = {name: feature["align"] for name, feature in features.items()}
    assert modes == {
        "observation.joint_states.position": "linear",
        "observation.joint_states.velocity": "linear",
        "observation.joint_states.effort": "linear",
        "observation.ft_sensor.wrench": "linear",
        "observation.imu.orientation": "slerp",
        "observation.imu.angular_velocity": "linear",
        "observation.imu.linear_acceleration": "linear",
        "observation.ee_pose.pose": "pose",
        "action.command.position": "previous",
    }
    assert features["action.command.position"]["role"] == "action"
    assert config["input"] == {"uri": "logs", "max_failed_episodes": 1}  # the last of them is damaged on purpose
    assert config["timeline"] == {"rate_hz": 50, "range": "intersection"}
    text = Path("robocache.yaml").read_text()
    assert "/ft_sensor (geometry_msgs/msg/WrenchStamped), " in text and "gap" in text
    assert "# observation.imu.orientation_covariance: " in text
    assert "robocache run robocache.yaml" in capsys.readouterr().err
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#") and "{" not in line]
    assert not [line for line in comments if len(line) > 80 and " " in line.strip(" #")]  # a path alone may be longer


def test_what_streams_are(work):
    """Text and whole numbers hold, a latched topic is static, a command holds, an irregular topic holds, one that
    cannot be read is left out with its reason, and a topic of any name is no line of the config."""
    clock = [T0 + k * 20 * MS for k in range(50)]
    odd = [T0 + ns * MS for ns in (0, 10, 20, 30, 40, 50, 600, 980)]
    evil = "/x\nfeatures: {y: z}"
    vector = lambda x: make("geometry_msgs/msg/Vector3", x, 0.0, 0.0)  # noqa: E731
    moved = [(t, make(FRAMES, [transform(t, "tool", 1.0)])) for t in clock]
    doors = [(t, make(DOOR, header(t), float(k), 0.0)) for k, t in enumerate(odd)]
    topics = {
        "/joints": (JOINTS, [(t, joints(t, ["a", "b"], [k, -k])) for k, t in enumerate(clock)]),
        "/cmd_vel": (TWIST, [(t, make(TWIST, vector(float(k)), vector(0.0))) for k, t in enumerate(clock[::5])]),
        "/state": (TEXT, [(t, make(TEXT, "idle")) for t in clock[::10]]),
        "/robot": (TEXT, [(T0 + 5 * MS, make(TEXT, "franka"))]),
        "/door": (DOOR, doors),
        "/tf": (FRAMES, moved),
        evil: (TEXT, [(t, make(TEXT, "n")) for t in clock[:2]]),
    }
    record(Path("a.mcap"), topics)
    features = suggested("a.mcap")["features"]
    assert features["observation.joints.position"] == {"source": "/joints.position", "align": "linear"}
    assert features["action.cmd_vel.linear"] == {"source": "/cmd_vel.linear", "align": "previous", "role": "action"}
    assert features["observation.state"] == {"source": "/state.data", "align": "previous"}
    assert features["observation.robot"] == {"source": "/robot.data", "static": True}
    assert features["observation.door"]["align"] == "previous"
    assert features["observation.tf.transforms.transform"]["align"] == "pose"
    assert "y" not in features and {"source": f"{evil}.data", "align": "previous"} in features.values()
    text = Path("robocache.yaml").read_text()
    assert "# observation.joints.velocity: {source: /joints.velocity" in text  # it has no columns
    assert rows() == 50


def test_tables_of_one_recording(work):
    """Milliseconds by their size, columns by what they are members of, and a folder's files as its tables."""
    for k in (1, 2):
        Path(f"logs/run_{k}").mkdir(parents=True)
        times = [1_700_000_000_000 + 20 * i for i in range(50)]
        arm = "\n".join(f"{t},{i * 0.1},{i * 0.2},1,2" for i, t in enumerate(times))
        Path(f"logs/run_{k}/arm.csv").write_text(f"timestamp,q_1,q_2,mode,opening\n{arm}\n")
        ft = "\n".join(f"{t},{i}.5,{i}.5,0.5" for i, t in enumerate(times))
        Path(f"logs/run_{k}/ft.csv").write_text(f"timestamp,Fx,Fy,Fz\n{ft}\n")
    config = suggested("logs")
    assert config["input"] == {"uri": "logs", "episode": "folder", "times": {"column": "timestamp", "unit": "ms"}}
    assert config["features"] == {
        "observation.arm.q": {"source": "arm[q_1,q_2]", "align": "linear"},
        "observation.arm.mode": {"source": "arm.mode", "align": "previous"},
        "observation.arm.opening": {"source": "arm.opening", "align": "previous"},
        "observation.ft.F": {"source": "ft[Fx,Fy,Fz]", "align": "linear"},
    }
    assert (config["timeline"]["rate_hz"], rows()) == (50, 100)


def test_a_trajectory_without_a_header(work):
    Path("gt.txt").write_text("\n".join(f"170000000{k}.5 {k}.0 0.0 0.0 0.0 0.0 0.0 1.0" for k in range(5)))
    config = suggested("gt.txt")
    assert config["features"] == {"observation.pose": {"source": "[x,y,z,qx,qy,qz,qw]", "align": "pose"}}
    assert config["input"]["times"] == {"column": "t", "unit": "s"}
    assert "ASSUMED" in Path("robocache.yaml").read_text()


def test_demonstrations_without_a_clock(work):
    """The rate is that of the environment, where the file tells it; unit quaternions are found by looking."""
    turn = np.linspace(0, 1, 30)
    with h5py.File("demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = '{"env_kwargs": {"control_freq": 20}}'
        for k in range(2):
            demo = data.create_group(f"demo_{k}")
            demo.attrs["success"] = True
            demo["actions"] = np.zeros((30, 7), np.float32)
            demo["obs/eef_quat"] = np.stack([np.sin(turn), 0 * turn, 0 * turn, np.cos(turn)], axis=1)
            demo["obs/gain"] = np.full((30, 4), 0.5) * turn[:, None]
    config = suggested("demo.hdf5")
    assert (config["input"]["times"], config["timeline"]["rate_hz"], rows()) == ({"rate_hz": "20"}, 20, 60)
    assert {name: f.get("align", "static") for name, f in config["features"].items()} == {
        "action": "previous",
        "observation.eef_quat": "slerp",
        "observation.gain": "linear",
        "observation.success": "static",
    }


def test_recordings_of_several_kinds(work, capsys):
    """The config is for those that most are; the others are named, and what they are of."""
    for name in ("a", "b"):
        record(Path(f"{name}.mcap"), {"/q": (TEXT, [(T0 + k * MS, make(TEXT, "x")) for k in range(5)])})
    record(Path("c.mcap"), {"/other": (TEXT, [(T0 + k * MS, make(TEXT, "x")) for k in range(5)])})
    np.savez("d.npz", fps=10, q=np.zeros((5, 2)))
    assert cli.main(["init", ".", "-o", "robocache.yaml"]) == cli.DONE
    config = yaml.safe_load(Path("robocache.yaml").read_text())
    assert [Path(uri).name for uri in config["input"]["uri"]] == ["a.mcap", "b.mcap"]
    assert config["input"]["format"] == "mcap" and config["output"]["uri"] == "dataset"
    said = capsys.readouterr().err
    assert "1 of numpy" in said and "c.mcap" in said


def test_a_clock_that_starts_again(work):
    lines = [f"{0.01 * (i % 200):.2f},{i}.5" for i in range(400)]
    Path("a.csv").write_text("\n".join(["time_s,q", *lines]))
    config = suggested("a.csv")
    assert config["input"]["on_restart"] == "split"
    assert pq.read_table("dataset/meta/robocache/_episodes.pq")["id"].to_pylist() == ["a.csv@0", "a.csv@1"]


def test_mistakes_of_a_new_user(work, capsys):
    Path("recordings").mkdir()
    assert cli.main(["init", "recordnigs"]) == cli.REFUSED
    assert capsys.readouterr().err == (
        "robocache: input.uri: nothing at 'recordnigs': no such file or folder; did you mean 'recordings'?\n"
    )
    assert cli.main(["init", "recordings"]) == cli.REFUSED
    assert "nothing at 'recordings' is a recording; known are .mcap" in capsys.readouterr().err
    Path("mine.yaml").write_text("precious")
    record(Path("a.mcap"), {"/q": (TEXT, [(T0 + k * MS, make(TEXT, "x")) for k in range(5)])})
    assert cli.main(["init", "a.mcap", "-o", "mine.yaml"]) == cli.USAGE
    assert Path("mine.yaml").read_text() == "precious"
    assert cli.main(["init", "a.mcap"]) == cli.DONE
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["features"] == {"observation.q": {"source": "/q.data", "align": "previous"}}


def test_of_messages():
    """Structs of fractions as one, scalars of one class together, no stamps; a covariance left out, a mixed struct
    taken apart."""
    fields = (
        ("header.stamp", "float64[2]"), ("header.frame_id", "string"), ("pose", "float64[43]"),
        ("pose.pose", "float64[7]"), ("pose.pose.position", "float64[3]"), ("pose.pose.orientation", "float64[4]"),
        ("pose.covariance", "float64[36]"), ("x", "float64"), ("y", "float32"), ("ok", "bool"), ("n", "uint8"),
        ("m", "int64"), ("names", "string[]"), ("label", "string"),
    )  # fmt: skip
    found = of_message("/odom", fields)
    assert [c.source for c in found if not c.reason] == [
        "/odom.pose.pose", "/odom.label", "/odom[x,y]", "/odom.ok", "/odom[n,m]",
    ]  # fmt: skip
    assert [c.source for c in found if c.reason] == ["/odom.pose.covariance"]
    assert [c.source for c in found if c.whole] == ["/odom[n,m]"]


def test_columns_and_names():
    columns = [(name, "float64") for name in ("Fx", "Fy", "Fz", "q0", "q1", "v", "a,b", "x")]
    assert [c.source for c in of_columns(columns)] == ["[Fx,Fy,Fz]", "[q0,q1]", "v", "a,b", "x"]
    assert selector(["a", "b,c", 'd"e', "3", "k=1"]) == """[a,"b,c",'d"e',"3","k=1"]"""
    taken: list[str] = []
    for words in (("imu", "data"), ("imu", "data"), ("pose", "pose"), ("observation", "state"), ("h", "valid")):
        taken.append(feature_name("observation", words, taken))
    assert taken == [
        "observation.imu", "observation.imu_2", "observation.pose", "observation.state", "observation.h.valid_value",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "step", "unit"),
    [
        (1.7e9, 0.02, "s"), (1.7e12, 20, "ms"), (1.7e15, 20_000, "us"), (1.7e18, 2e7, "ns"),
        (0, 0.001, "s"), (0, 20, "ms"), (0, 1000, "us"), (0, 1, ""),
    ],
)  # fmt: skip
def test_units_of_time(first, step, unit):
    assert _unit(first + np.arange(100) * step) == unit


def test_numbers_that_are_no_time():
    assert _unit(np.sin(np.arange(100.0))) == _unit(np.array([0.0, np.nan])) == _unit(None) == ""
