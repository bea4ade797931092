"""LeRobot v2.1 and v3.0: layouts as lerobot writes them, times, names, tasks, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import outcomes

from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode
from robocache.types import EpisodeRef, Source, frame_times

LENGTHS = (4, 6, 3)
FPS = 30
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["a", "b", "c"]}},
    "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    "grid": {"dtype": "float32", "shape": [2, 2], "names": None},
    "observation.images.top": {"dtype": "image", "shape": [8, 8, 3], "names": ["height", "width", "channel"]},
    "observation.images.side": {"dtype": "video", "shape": [8, 8, 3], "names": ["height", "width", "channel"]},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
}


def rows(episode: int, start: int, length: int) -> pa.Table:
    n = np.arange(length)
    images = [{"bytes": b"png" + bytes([episode, i]), "path": f"{i}.png"} for i in range(length)]
    grid = [[[float(i), 1.0], [2.0, float(episode)]] for i in range(length)]
    return pa.table({
        "observation.state": pa.FixedSizeListArray.from_arrays(
            pa.array((episode * 100 + np.arange(length * 3)).astype("f4")), 3
        ),
        "action": pa.array([[float(i), float(episode)] for i in range(length)], pa.list_(pa.float32())),
        "grid": pa.array(grid, pa.list_(pa.list_(pa.float32()))),
        "observation.images.top": pa.array(images),
        "next.done": n == length - 1,
        "timestamp": (n / FPS).astype("f4"),
        "frame_index": n,
        "episode_index": np.full(length, episode),
        "index": start + n,
        "task_index": np.full(length, episode % 2),
    })  # fmt: skip


def write_v3(root: Path) -> Path:
    """A v3.0 tree: episodes 0 and 1 share a file and a row group (as a conversion from v2.1 leaves them), 2 is next."""
    starts = np.cumsum((0, *LENGTHS))
    tables = [rows(i, int(starts[i]), length) for i, length in enumerate(LENGTHS)]
    for name in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / name).mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables[:2]), root / "data/chunk-000/file-000.parquet")
    pq.write_table(tables[2], root / "data/chunk-000/file-001.parquet")
    episodes = {
        "episode_index": [0, 1, 2],
        "tasks": [["pick"], ["place"], ["pick"]],
        "length": list(LENGTHS),
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 1],
        "dataset_from_index": starts[:-1],
        "dataset_to_index": starts[1:],
        "meta/episodes/chunk_index": [0, 0, 0],
        "meta/episodes/file_index": [0, 0, 0],
    }
    pq.write_table(pa.table(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["pick", "place"]})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    write_info(root, "v3.0", "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")
    return root


def write_v2(root: Path) -> Path:
    """A v2.1 tree with two chunks."""
    starts = np.cumsum((0, *LENGTHS))
    for i, length in enumerate(LENGTHS):
        path = root / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(i, int(starts[i]), length), path)
    (root / "meta").mkdir()
    lines = [{"episode_index": i, "tasks": ["pick"], "length": length} for i, length in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "pick"}\n{"task_index": 1, "task": "place"}\n')
    write_info(root, "v2.1", "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", chunks_size=2)
    return root


def write_info(root: Path, version: str, data_path: str, **more: object) -> None:
    info = {
        "codebase_version": version, "robot_type": "so100", "fps": FPS, "total_episodes": len(LENGTHS),
        "data_path": data_path, "features": FEATURES, **more,
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))


Writer = Callable[[Path], Path]
BOTH = pytest.mark.parametrize("write", [write_v2, write_v3])


def listed(root: Path) -> list[EpisodeRef]:
    return list_episodes(InputSpec((str(root),)))


@BOTH
def test_each_episode_is_read_on_its_own(tmp_path: Path, write: Writer) -> None:
    refs = listed(write(tmp_path / "set"))
    assert [(ref.id, ref.format) for ref in refs] == [(f"set#{i}", "lerobot") for i in range(3)]
    assert [ref.key.partition(":")[0] for ref in refs] == ["0", "1", "2"]
    assert {Path(file.uri).name for file in refs[0].files[1:]} >= {"info.json"}
    sources = [
        "observation.state",
        "action[y]",
        "observation.state[c,a]",
        "observation.images.top",
        "next.done",
        "grid",
    ]
    sources += ["gone"]
    for i, (ref, length) in enumerate(zip(refs, LENGTHS, strict=True)):
        episode = read_episode(ref, sources, InputSpec(()))
        values = {source: stream.values for source, stream in episode.streams.items()}
        assert list(values) == sources[:-1]
        state = (i * 100 + np.arange(length * 3)).astype("f4").reshape(length, 3)
        assert values["observation.state"].dtype == np.float32
        assert (values["observation.state"] == state).all()
        assert (values["observation.state[c,a]"] == state[:, [2, 0]]).all()
        assert values["action[y]"].tolist() == [[float(i)]] * length
        assert values["grid"].shape == (length, 2, 2)
        assert (values["grid"][:, 1, 1] == i).all()
        assert values["observation.images.top"].to_pylist() == [b"png" + bytes([i, k]) for k in range(length)]
        assert values["next.done"].tolist() == [False] * (length - 1) + [True]
        wanted = frame_times(np.arange(length), FPS).tolist()
        assert all(stream.times.tolist() == wanted for stream in episode.streams.values())
        assert episode.metadata == {"fps": 30.0, "robot_type": "so100", "tasks": [["pick", "place"][i % 2]]}


@BOTH
def test_streams_show_names_and_videos(tmp_path: Path, write: Writer) -> None:
    ref = listed(write(tmp_path))[1]
    infos = {info.source: info for info in list_streams(ref, InputSpec(()))}
    assert infos["observation.state"].type == "float32[3]"
    assert infos["observation.state"].fields == (("[a]", "float32"), ("[b]", "float32"), ("[c]", "float32"))
    assert infos["observation.images.top"].type == "image"
    assert infos["observation.images.side"].type == "video"
    assert len(infos["action"].times) == LENGTHS[1]


@BOTH
def test_stamps_are_used_where_they_differ_from_the_frame_rate(tmp_path: Path, write: Writer) -> None:
    root = write(tmp_path)
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        at = table.schema.get_field_index("timestamp")
        stamps = pa.array([t.as_py() + (0.5 if k % 2 else 0) for k, t in enumerate(table.column(at))], pa.float64())
        pq.write_table(table.set_column(at, "timestamp", stamps), path)
    stream = read_episode(listed(root)[0], ["action"], InputSpec(())).streams["action"]
    late = [round((k / FPS + (0.5 if k % 2 else 0)) * 1e9) for k in range(4)]
    assert np.abs(stream.times - late).max() < 10  # float32 stamps were widened


@BOTH
def test_a_missing_or_damaged_file_costs_its_own_episodes(tmp_path: Path, write: Writer) -> None:
    root = write(tmp_path)
    last = sorted((root / "data").rglob("*.parquet"))[-1]
    last.write_bytes(last.read_bytes()[:-20])
    refs = listed(root)
    assert [bool(ref.failure) for ref in refs] == [False] * 3
    with pytest.raises(InputError, match=last.name):
        read_episode(refs[2], ["action"], InputSpec(()))
    read_episode(refs[1], ["action"], InputSpec(()))
    for change, reason in ((lambda: last.write_bytes(b""), "empty file"), (last.unlink, "no such file")):
        change()
        refs = listed(root)
        assert [bool(ref.failure) for ref in refs] == [False, False, True]
        assert last.name in refs[2].failure
        assert reason in refs[2].failure


def test_an_episode_without_rows_is_refused(tmp_path: Path) -> None:
    root = write_v3(tmp_path)
    path = root / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(InputError, match=r"file-001\.parquet#2: the file holds no row of episode 2"):
        read_episode(listed(root)[2], ["action"], InputSpec(()))


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("info.json", b"{", "info.json"),
        ("info.json", b'{"codebase_version": "v1.6"}', "v2.x and v3.x"),
        ("info.json", b'{"codebase_version": "v2.1", "fps": 0, "data_path": "d", "features": {}}', "positive"),
        ("info.json", b"[1]", "info.json"),
        ("episodes.jsonl", b'{"episode_index": 0}\nnot json\n', "line 2 is no JSON"),
        ("episodes.jsonl", b'{"index": 0}\n', "episode_index"),
        ("episodes.jsonl", None, "episodes.jsonl is missing"),
        ("episodes.jsonl", b'{"episode_index": 0, "length": 4}\n{"episode_index": 0, "length": 5}\n', "listed twice"),
    ],
)
def test_broken_metadata_fails_the_dataset_and_nothing_else(
    tmp_path: Path, file: str, content: bytes | None, reason: str
) -> None:
    root = write_v2(tmp_path / "bad")
    write_v3(tmp_path / "good")
    path = root / "meta" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    bad, *good = listed(tmp_path)
    assert bad.id == "bad"
    assert reason in bad.failure
    assert str(root) in bad.failure
    assert [ref.id for ref in good] == ["good#0", "good#1", "good#2"]
    assert not any(ref.failure for ref in good)


def test_episodes_that_metadata_forgot_are_counted(tmp_path: Path) -> None:
    root = write_v2(tmp_path)
    path = root / "meta/episodes.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert [bool(ref.failure) for ref in listed(root)] == [False, False, True]


def test_datasets_are_found_below_a_folder_and_by_glob(tmp_path: Path) -> None:
    write_v2(tmp_path / "sets/one")
    write_v3(tmp_path / "sets/deep/two")
    write_v2(tmp_path / "sets/one/data/copy")  # a dataset in a dataset is not searched
    ids = [f"deep/two#{i}" for i in range(3)] + [f"one#{i}" for i in range(3)]
    assert [ref.id for ref in listed(tmp_path / "sets")] == ids
    assert [ref.id for ref in listed(tmp_path / "sets/**")] == ids
    assert [ref.id for ref in listed(tmp_path / "sets/o*")] == ids[3:]
    assert [ref.id for ref in listed(tmp_path / "sets/one")] == ids[3:]


@pytest.mark.parametrize(
    ("names", "shape", "selector", "columns"),
    [
        ([["p", "q"]], [2], "[q]", [1]),
        ({"q": 1, "p": 0}, [2], "[q,p]", [1, 0]),
        ({"left": ["p"], "right": ["q"]}, [2], "[q]", [1]),
        (["p", "p2", "p3"], [2], "[p]", None),  # a list that does not fit names nothing
    ],
)
def test_names_in_every_form(
    tmp_path: Path, names: object, shape: list[int], selector: str, columns: list[int] | None
) -> None:
    root = write_v3(tmp_path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action"] = {"dtype": "float32", "shape": shape, "names": names}
    (root / "meta/info.json").write_text(json.dumps(info))
    ref = listed(root)[1]
    if columns is None:
        with pytest.raises(InputError, match="no names"):
            read_episode(ref, [f"action{selector}"], InputSpec(()))
        return
    episode = read_episode(ref, ["action", f"action{selector}"], InputSpec(()))
    assert (episode.streams[f"action{selector}"].values == episode.streams["action"].values[:, columns]).all()


@BOTH
@pytest.mark.parametrize("part", ["info", "episodes", "tasks", "data"])
def test_damage(tmp_path: Path, write: Writer, part: str) -> None:
    root = write(tmp_path)
    (path, *_) = sorted(p for p in root.rglob("*") if p.is_file() and part in str(p.relative_to(root)))
    sources = ["action", "observation.state", "observation.images.top"]
    seen = outcomes(path, sources, tries=40, root=root)
    assert seen["refused"]
    assert set(seen) <= {"read", "refused"}, seen


@pytest.mark.realdata
def test_real_g1(data_dir: Path) -> None:
    root = data_dir / "lerobot/g1_inspire_v21"
    refs = listed(root)
    assert [ref.id for ref in refs] == [f"g1_inspire_v21#{i}" for i in range(60)]
    total = 0
    for ref in refs:
        episode = read_episode(ref, ["observation.state", "action[kLeftElbow]"], InputSpec(()))
        stream = episode.streams["observation.state"]
        assert stream.values.shape == (len(stream.times), 26)
        assert stream.values.dtype == np.float32
        assert stream.times.tolist() == frame_times(np.arange(len(stream.times)), 30).tolist()
        assert episode.metadata["tasks"] == ["Pick up the yellow bottle on the table."]
        total += len(stream.times)
    assert total == 22_042
    table = pq.read_table(root / "data/chunk-000/episode_000059.parquet").to_pydict()
    assert stream.values.tolist() == table["observation.state"]
    assert episode.streams["action[kLeftElbow]"].values[:, 0].tolist() == [row[3] for row in table["action"]]


@BOTH
def test_an_episode_shorter_than_its_length_is_refused(tmp_path: Path, write: Writer) -> None:
    root = write(tmp_path / "set")
    last = max((root / "data").rglob("*.parquet"))
    table = pq.read_table(last)
    pq.write_table(table.slice(0, table.num_rows - 1), last)
    refs = listed(root)
    read_episode(refs[0], ["action"], InputSpec((str(root),)))
    with pytest.raises(InputError, match="lists 3 frames of episode 2, the file holds 2; it is cut short"):
        read_episode(refs[2], ["action"], InputSpec((str(root),)))


@pytest.mark.parametrize(
    "template", ["data/chunk-{chunk_index:03d}/episode_{episode_index:06d}.parquet",
                 "data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet"],
)  # fmt: skip
def test_other_placeholders_of_data_path(tmp_path: Path, template: str) -> None:
    root = write_v2(tmp_path / "set")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "data_path": template}))
    for i, ref in enumerate(listed(root)):
        values = read_episode(ref, ["action"], InputSpec((str(root),))).streams["action"].values
        assert values[:, 1].tolist() == [i] * LENGTHS[i]
    (root / "meta/info.json").write_text(json.dumps({**info, "data_path": "data/{video_key}.parquet"}))
    (failed,) = listed(root)
    assert "placeholder 'video_key' that is none of episode_index, episode_chunk" in failed.failure


@pytest.mark.parametrize("rate", [15, 59.94005994, 12.5])
def test_stamps_of_another_rate_than_infos_reach_their_last_frame(tmp_path: Path, rate: float) -> None:
    root, n = tmp_path / "set", 500
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta").mkdir()
    stamps = (np.arange(n) / rate).astype("f4")
    table = pa.table({"action": np.arange(n), "timestamp": stamps, "frame_index": np.arange(n)})
    pq.write_table(table, root / "data/chunk-000/episode_000000.parquet")
    template = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    write_info(root, "v2.1", template)
    (root / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": n}) + "\n")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 1}))
    (ref,) = listed(root)
    found = read_episode(ref, ["action"], InputSpec((str(root),))).streams["action"].times
    exact = {15: 15, 12.5: 12.5}.get(rate, 60000 / 1001)
    np.testing.assert_allclose(found, np.arange(n) / exact * 1e9, rtol=0, atol=1)
    stamps[7] += 0.01  # not of a rate
    pq.write_table(table.set_column(1, "timestamp", pa.array(stamps)), root / "data/chunk-000/episode_000000.parquet")
    (ref,) = listed(root)
    found = read_episode(ref, ["action"], InputSpec((str(root),))).streams["action"].times
    np.testing.assert_allclose(found, stamps.astype(float) * 1e9, rtol=0, atol=1)


def test_a_file_of_many_episodes_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rows that the metadata tells, not by a search of the whole file for each episode."""
    root = write_v3(tmp_path / "set")
    decoded = []
    real = pq.ParquetFile.read_row_group

    def counted(file, group, columns):
        decoded.extend([group] if "observation.state" in columns else [])
        return real(file, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for i, ref in enumerate(listed(root)):
        values = read_episode(ref, ["observation.state"], InputSpec((str(root),))).streams["observation.state"].values
        assert values[0, 0] == 100 * i and len(values) == LENGTHS[i]
    assert decoded == [0, 0]  # a row group of each file
    pq.write_table(pq.read_table(root / "data/chunk-000/file-000.parquet").take([3, 1, 2, 0, *range(4, 10)]),
                   root / "data/chunk-000/file-000.parquet")  # fmt: skip
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    wrong = episodes.set_column(
        episodes.column_names.index("dataset_from_index"), "dataset_from_index", pa.array([0, 5, 10])
    )
    pq.write_table(wrong, root / "meta/episodes/chunk-000/file-000.parquet")
    values = read_episode(listed(root)[1], ["action"], InputSpec((str(root),))).streams["action"].values
    assert values[:, 1].tolist() == [1] * LENGTHS[1]  # ranges that hold another episode's rows are not believed


def test_the_task_of_each_row_is_a_source(tmp_path):
    spec = InputSpec((str(write_v3(tmp_path / "set")),), "lerobot")
    ref = list_episodes(spec)[1]
    stream = read_episode(ref, [Source("task")], spec).streams["task"]
    assert stream.values.to_pylist() == ["place"] * 6 and len(stream.times) == 6
    assert "task" in [s.source for s in list_streams(ref, spec)]


def test_a_clock_that_begins_elsewhere_and_no_frame_index(tmp_path):
    root = write_v2(tmp_path / "set")
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path).drop_columns(["frame_index"])
        late = pa.array(np.float64(1.5) + np.arange(table.num_rows) / 30.0001)
        pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", late), path)
    spec = InputSpec((str(root),), "lerobot")
    times = read_episode(list_episodes(spec)[1], [Source("action")], spec).streams["action"].times
    assert times.tolist() == [1_500_000_000 + t for t in frame_times(np.arange(6), 30).tolist()]
