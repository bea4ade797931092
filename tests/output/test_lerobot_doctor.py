"""``robocache verify`` on LeRobot datasets that anybody made: what is wrong is found, and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import robocache
from robocache import cli
from robocache.lerobot import from_dataset
from robocache.output.verify import verify

LENGTHS = (4, 6, 3)
ROWS = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def tree(tmp_path) -> Path:
    """A sound v3.0 tree, written by hand."""
    starts = np.cumsum((0, *LENGTHS))
    frames = np.concatenate([np.arange(n) for n in LENGTHS])
    number = np.repeat(np.arange(3), LENGTHS)
    x = np.random.default_rng(0).random((13, 2)).astype(np.float32)
    rows = {
        "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 2),
        "timestamp": (frames / 30).astype(np.float32),
        "frame_index": frames,
        "episode_index": number,
        "index": np.arange(13),
        "task_index": np.zeros(13, np.int64),
    }
    episodes = {
        "episode_index": [0, 1, 2],
        "tasks": [["go"]] * 3,
        "length": list(LENGTHS),
        "data/chunk_index": [0] * 3,
        "data/file_index": [0] * 3,
        "dataset_from_index": starts[:-1],
        "dataset_to_index": starts[1:],
        "stats/x/mean": [x[number == i].mean(0).tolist() for i in range(3)],
        "stats/x/max": [x[number == i].max(0).tolist() for i in range(3)],
    }
    features = {name: {"dtype": "int64", "shape": [1], "names": None} for name in rows if name != "x"}
    features["x"] = {"dtype": "float32", "shape": [2], "names": None}
    info = {"codebase_version": "v3.0", "fps": 30, "total_episodes": 3, "total_frames": 13, "total_tasks": 1}
    info |= {"features": features, "splits": {"train": "0:3"}, "chunks_size": 1000}
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    for name, table in (
        (ROWS, rows),
        (EPISODES, episodes),
        ("meta/tasks.parquet", {"task_index": [0], "task": ["go"]}),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), tmp_path / name)
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    return tmp_path


def test_a_sound_one_is_whole(tree, capsys):
    found = verify(str(tree))
    assert (found.problems, found.notes, found.episodes, found.rows) == ((), (), 3, 13)
    assert cli.main(["verify", str(tree)]) == cli.DONE
    assert "LeRobot v3.0: 3 episodes, 13 rows" in " ".join(capsys.readouterr().out.split())


def test_a_long_episode_whose_stamps_float32_rounds(tree):
    """Exact as far as the column can be; where there are videos, their frames are then out of LeRobot's tolerance."""
    n = 70_001
    table = {"episode_index": np.zeros(n, np.int64), "frame_index": np.arange(n), "index": np.arange(n)}
    table |= {"timestamp": (np.arange(n) / 30).astype(np.float32), "task_index": np.zeros(n, np.int64)}
    table["x"] = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * n, np.float32)), 2)
    pq.write_table(pa.table(table), tree / ROWS)
    episode = {k: v[:1] for k, v in pq.read_table(tree / EPISODES).to_pydict().items() if not k.startswith("stats")}
    pq.write_table(pa.table(episode | {"length": [n], "dataset_to_index": [n]}), tree / EPISODES)
    change_info(total_episodes=1, total_frames=n, splits={"train": "0:1"})(tree)
    assert verify(str(tree)).problems == ()
    late = change_rows("timestamp", lambda stamps: [*stamps[:-1], stamps[-1] + 0.01])
    late(tree)
    (problem,) = verify(str(tree)).problems
    assert problem.startswith("episode 0: timestamp is not frame_index / 30")


def change_rows(name: str, column: Callable[[list], list]) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        table = pq.read_table(tree / ROWS)
        at = table.column_names.index(name)
        values = pa.array(column(table[name].to_pylist()), table.schema.field(name).type)
        pq.write_table(table.set_column(at, name, values), tree / ROWS)

    return change


def change_info(**keys: object) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        path = tree / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def cut(tree: Path) -> None:
    pq.write_table(pq.read_table(tree / ROWS).slice(0, 12), tree / ROWS)


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (change_info(fps=50), "episodes 0, 1, 2: timestamp is not frame_index / 50"),
        (change_info(total_episodes=4), "meta/info.json: total_episodes 4, the tables have 3"),
        (change_info(total_frames=14), "meta/info.json: total_frames 14, the files hold 13"),
        (change_rows("x", lambda rows: [*rows[:5], [9, 9], *rows[6:]]), "episode 1: the statistics of x are not"),
        (
            change_rows("x", lambda rows: [[float("nan"), 1], *rows[1:]]),
            "episode 0: x holds numbers that are not",
        ),
        (change_rows("index", lambda rows: [i + (i > 9) for i in rows]), "episode 2: index does not count up"),
        (change_rows("task_index", lambda rows: [0] * 12 + [3]), "episode 2: task_index has numbers that the table"),
        (change_rows("episode_index", lambda rows: [0, *rows[:-1]]), "episodes 0, 2: its length is not the number"),
        (cut, "episode 2: its length is not the number of its rows"),
        (lambda tree: (tree / ROWS).unlink(), "episodes 0, 1, 2: its file of rows is not there"),
        (lambda tree: (tree / ROWS).write_bytes(b"PAR1"), "episodes 0, 1, 2: its file of rows cannot be read"),
        (lambda tree: (tree / EPISODES).write_bytes(b"?"), "the tables beside it cannot be read"),
        (lambda tree: (tree / "meta/tasks.parquet").unlink(), "the tables beside it cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tree, harm, found):
    harm(tree)
    problems = verify(str(tree)).problems
    assert any(problem.startswith(found) or found in problem for problem in problems), problems
    assert cli.main(["verify", str(tree)]) == cli.FAILED


def test_held_rows_are_told(tree):
    path = tree / EPISODES
    pq.write_table(pq.read_table(path).drop_columns(["stats/x/mean", "stats/x/max"]), path)
    change_rows("x", lambda rows: [rows[0]] * 13)(tree)
    (note,) = verify(str(tree)).notes
    assert note.startswith("76.9% of the rows repeat the row before")  # 10 of 13


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_dataset_of_an_output_that_is_there(tmp_path, format):
    (tmp_path / "logs").mkdir()
    for k in range(2):
        rows = "".join(f"{i * 50},{k + i / 10}\n" for i in range(8))
        (tmp_path / f"logs/{k}.csv").write_text(f"time_ms,x\n{rows}")
    out, to = str(tmp_path / "out"), tmp_path / "lerobot"
    config = {"input": {"uri": str(tmp_path / "logs")}, "features": {"observation.x": "x"}, "timeline": {"rate_hz": 20}}
    robocache.run(config | {"output": {"uri": out, "format": format}})
    notes = from_dataset(out, str(to), task="go", robot_type="arm")
    assert notes[-1] == "LeRobot v3.0: 2 episodes, 16 frames"
    rows = pq.read_table(to / "data")
    right = [np.float32(k + i / 10) for k in range(2) for i in range(8)]
    assert rows["observation.x"].to_pylist() == right
    assert verify(str(to)).problems == () and verify(out).problems == ()
    modality = json.loads((to / "meta/modality.json").read_text())
    assert modality["state"] == {"x": {"original_key": "observation.x", "start": 0, "end": 1}}
    assert (to / "README.md").read_text().startswith("---\ntask_categories:\n- robotics\ntags:\n- LeRobot\n")
    (to / "README.md").write_text("mine")
    from_dataset(out, str(to), task="stop")
    assert pq.read_table(to / "meta/tasks.parquet")["task"].to_pylist() == ["stop"]
    assert (to / "README.md").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(robocache.errors.OutputError, match="holds files that this has not written"):
        from_dataset(out, str(tmp_path / "other"))
