"""What the config names and no recording has is a mistake in the config; what some lack is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mcap.writer import Writer

from robocache import cli
from robocache.errors import MissingError
from robocache.formats import guarded
from robocache.sample import write_samples
from robocache.types import FileStamp

CSV = "time_ms,q,Fx\n0,1,2\n100,3,4\n"


def write(folder: Path, kind: str) -> None:
    """Two good recordings of a kind, and a damaged one."""
    folder.mkdir()
    if kind == "mcap":
        write_samples(folder, episodes=2, seconds=1.0)
        return
    (folder / "damaged.csv").write_bytes(bytes(9))
    for i in range(2):
        path = folder / f"log_{i}.{ {'csv without time': 'csv', 'json': 'mcap'}.get(kind, kind) }"
        if kind.startswith("csv"):
            path.write_text(CSV if kind == "csv" else "q\n0\n")
        elif kind == "parquet":
            pq.write_table(pa.table({"time_ns": [0, 10**8], "list": [[1.0, 2.0], [3.0, 4.0]]}), path)
        elif kind == "hdf5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                file["q"] = np.arange(3.0)
        elif kind == "json":
            with open(path, "wb") as file:
                writer = Writer(file)
                writer.start()
                channel = writer.register_channel("/x", "json", 0)
                for t in (0, 10**8):
                    writer.add_message(channel, t, b'{"q": 1.5}', t)
                writer.finish()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A command on the recordings in ``logs`` with this feature; its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, source: str, *changes: str) -> int:
        config = {
            "input": {"uri": "logs", "max_failed_episodes": 1},
            "features": {"force": source},
            "timeline": {"rate_hz": 50},
            "output": {"uri": "out"},
            "compute": {"device": "cpu"},
        }
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        return cli.main([command, "config.yaml", *changes])

    return run


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("kind", "source", "changes", "said"),
    [
        ("csv", "Fq", [], "features.force[0].source: Fq is in none of 2 episodes"),
        ("csv", "[Fx,Fq]", [], "no column 'Fq'; its columns are time_ms, q, Fx"),
        ("csv", "Fx", ["timeline={reference: '[7]'}"], "no column 7; its columns are time_ms, q, Fx"),
        ("csv", "Fx", ["input.times={column: tme}"], "time column 'tme' is not there; its columns are time_ms, q, Fx"),
        ("csv without time", "q", [], "no time is known; set input.times"),
        ("parquet", "list[5]", [], "column 5 asked for, it has 2"),
        ("hdf5", "q", [], "HDF5 keeps no time; set input.times"),
        ("hdf5", "q", ["input.times={column: tme}"], "time 'tme' is not a dataset there; its datasets are q"),
        ("mcap", "/joint_states.postion", [], "no field 'postion' in sensor_msgs/JointState; its fields are header"),
        ("json", "/x.y", [], "no field 'y'; its fields are q"),
    ],
)
def test_what_no_recording_has(tmp_path, run, capsys, command, kind, source, changes, said):
    write(tmp_path / "logs", kind)
    assert run(command, source, *changes) == cli.USAGE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out/data").exists()


def test_what_one_recording_lacks(tmp_path, run):
    write(tmp_path / "logs", "csv")
    (tmp_path / "logs/log_0.csv").write_text("time_ms,q\n0,1\n100,3\n")
    assert run("run", "[q,Fx]") == cli.FAILED
    lines = (tmp_path / "out/meta/robocache/_quarantine.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in lines]
    assert any(r.endswith("log_0.csv: no column 'Fx'; its columns are time_ms, q") for r in reasons)
    assert run("run", "[q,Fx]", "input.max_failed_episodes=2") == cli.DONE


def test_recordings_that_are_all_damaged_say_nothing_of_the_config(tmp_path, run):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.csv").write_bytes(bytes(9))
    assert run("run", "q", "input.max_failed_episodes=0") == cli.FAILED


def test_what_a_reader_lacks_stays_that_with_the_file_named():
    files = (FileStamp("logs/a.hdf5", 1, ""),)
    with pytest.raises(MissingError, match=r"^logs/a.hdf5#demo_1: no column 7$"), guarded(files, "demo_1"):
        raise MissingError("no column 7")
