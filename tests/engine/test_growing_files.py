"""Files that hold many episodes and are written anew as they grow: what is no change of an episode costs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import do, job, part, tree

from robocache.output.dataset import Output

RATE = {"input__times": {"rate_hz": 100}, "timeline__rate_hz": 50}


def rows(episode: int, count: int = 40, seed: int = 0) -> pa.Table:
    """Of one episode, with a text that may be missing."""
    rng = np.random.default_rng([episode, seed])
    words = [None if k % 3 == episode % 3 else f"{episode}, {k}" for k in range(count)]
    columns = {"x": rng.standard_normal(count), "on": rng.random(count) < 0.5, "said": words}
    return pa.table({"episode_index": np.full(count, episode), "frame_index": np.arange(count), **columns})


def parquet(root: Path, episodes: dict[int, pa.Table]) -> dict:
    root.mkdir(exist_ok=True)
    pq.write_table(pa.concat_tables(episodes.values()), root / "all.parquet", row_group_size=64)
    return {**RATE, "input__format": "parquet"}


def lerobot(root: Path, episodes: dict[int, pa.Table]) -> dict:
    """All in one data file, as a tool that merges datasets leaves them."""
    for name in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / name).mkdir(parents=True, exist_ok=True)
    whole = pa.concat_tables(episodes.values())
    pq.write_table(whole.append_column("task_index", whole["episode_index"]), root / "data/chunk-000/file-000.parquet")
    lengths = [len(table) for table in episodes.values()]
    starts = np.cumsum([0, *lengths])
    none = [0] * len(lengths)
    told = {"episode_index": list(episodes), "tasks": [[f"task {i}"] for i in episodes], "length": lengths}
    told |= {"data/chunk_index": none, "data/file_index": none, "dataset_from_index": starts[:-1]}
    pq.write_table(pa.table(told), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = {"task_index": list(episodes), "task": [f"task {i}" for i in episodes]}
    pq.write_table(pa.table(tasks), root / "meta/tasks.parquet")
    kinds = {"x": "float64", "on": "bool", "said": "string"}
    features = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()}
    info = {"codebase_version": "v3.0", "fps": 100, "total_episodes": len(episodes), "total_frames": len(whole)}
    path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    (root / "meta/info.json").write_text(
        json.dumps({**info, "robot_type": "a", "features": features, "data_path": path})
    )
    return {"input__format": "lerobot", "input__times": None, "timeline__rate_hz": 50}


def hdf5(root: Path, episodes: dict[int, pa.Table]) -> dict:
    h5py = pytest.importorskip("h5py")
    root.mkdir(exist_ok=True)
    with h5py.File(root / "all.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env"] = "arm"
        data.attrs["total"] = sum(map(len, episodes.values()))
        for episode, table in episodes.items():
            group = data.create_group(f"demo_{episode}")
            group["x"], group["on"] = table["x"].to_numpy(), table["on"].to_numpy()
            group["said"] = [word or "" for word in table["said"].to_pylist()]
    return {**RATE, "input__format": "hdf5"}


def zarr(root: Path, episodes: dict[int, pa.Table]) -> dict:
    store = pytest.importorskip("zarr")
    root.mkdir(exist_ok=True)
    group = store.open_group(str(root / "all.zarr"), mode="w")
    for name in ("x", "on"):
        values = np.concatenate([table[name].to_numpy() for table in episodes.values()])
        group.require_group("data").create_array(name, data=values)
    group.require_group("meta").create_array("episode_ends", data=np.cumsum([len(t) for t in episodes.values()]))
    return {**RATE, "input__format": "zarr"}


KINDS = {"parquet": parquet, "lerobot": lerobot, "hdf5": hdf5, "zarr": zarr}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_many_episodes_that_is_written_anew(tmp_path, kind):
    """One more, one corrected, one gone: with ``content`` each costs itself; by version all have changed."""
    root, episodes = tmp_path / "logs", {i: rows(i) for i in range(5)}
    features = {"x": {"source": "x"}, "on": {"source": "on"}, "said": {"source": "said"}}
    prefix = "data/" if kind == "zarr" else ""
    if kind == "zarr":
        del features["said"]
    features = {name: {"source": prefix + told["source"]} for name, told in features.items()}

    def run(fingerprint: str = "content", out: str = "out", **options: bool):
        changes = KINDS[kind](root, episodes)
        told = {"features": features, "output__row_group_rows": 0, "input__fingerprint": fingerprint}
        return do(job(root, tmp_path / out, **changes, **told), **options)

    assert run().episodes == run("version", "by_version").episodes == 5
    assert not run().is_new  # written anew, with all that it held
    before = tree(tmp_path / "out/data")
    episodes[5] = rows(5)
    grown = run()
    assert grown.changes == {"new": 1, "changed": 0, "withdrawn": 0, "kept": 5}
    assert (grown.skipped_shards, before.items() <= tree(tmp_path / "out/data").items()) == (1, True)
    if kind in ("parquet", "lerobot"):  # who knows its episode by its number, not by its place
        del episodes[1]
        assert run(prune=True).changes == {"new": 0, "changed": 0, "withdrawn": 1, "kept": 5}
    episodes[2] = rows(2, count=60, seed=1)
    assert run().changes["changed"] == 1
    again = run("version", "by_version", prune=True)
    assert again.changes["kept"] == 0 and again.changes["changed"] + again.changes["new"] == len(episodes)
    made = Output.open(str(tmp_path / "out")).episodes
    assert made["rows"].to_pylist() == [len(episodes[i]) // 2 for i in sorted(episodes)]
    assert part(tmp_path / "out", 5).exists()


def test_a_task_that_is_worded_anew_is_a_change_of_its_episodes(tmp_path):
    root, episodes = tmp_path / "logs", {i: rows(i) for i in range(3)}
    made = job(root, tmp_path / "out", **lerobot(root, episodes), features={"x": "x", "task": "task"})
    do(made)
    tasks = root / "meta/tasks.parquet"
    table = pq.read_table(tasks)
    pq.write_table(pa.concat_tables([table, pa.table({"task_index": [7], "task": ["one more"]})]), tasks)
    assert not do(made).is_new
    pq.write_table(pa.table({"task_index": [0, 1, 2], "task": ["task 0", "fold it", "task 2"]}), tasks)
    assert do(made).changes["changed"] == 1
    rows_of = Output.open(str(tmp_path / "out")).dataset().to_table(columns=["episode_index", "task"]).to_pylist()
    assert {r["task"] for r in rows_of if r["episode_index"] == 1} == {"fold it"}
