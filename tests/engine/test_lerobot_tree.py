"""``output.format: lerobot``: the tree against the published format, how it grows, and what a crash leaves of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tree_kit
from engine_kit import assert_same_tree, do, environment, writing
from tree_kit import START, job, loaded, record, write

import robocache.engine.run as engine
from robocache.config.job import ClusterSpec, Job, SplitSpec
from robocache.engine.run import run
from robocache.engine.tree import finalise
from robocache.errors import ConfigError, OutputError
from robocache.formats import InputSpec, list_episodes, read_episode
from robocache.output import store
from robocache.output.verify import verify
from robocache.types import Source
from robocache.video import png

LENGTHS = (7, 12, 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A v3.0 tree of three recordings, to be left as it is, and what is in them."""
    work = tmp_path_factory.mktemp("made")
    recorded = [record(work / f"logs/{i}.parquet", i, n) for i, n in enumerate(LENGTHS)]
    summary = do(job(work / "logs", work / "out", robot_type="arm"))
    assert any("3 episodes, 24 frames" in note for note in summary.notes)
    return work / "out", recorded


@pytest.fixture
def mine(made, tmp_path) -> Path:
    """A copy of it."""
    shutil.copytree(made[0], tmp_path / "out")
    shutil.copytree(made[0].parent / "logs", tmp_path / "logs", copy_function=shutil.copy2)
    return tmp_path / "out"


def info(out: Path) -> dict:
    return json.loads((out / "meta/info.json").read_text())


def test_what_info_json_says(made):
    one = {"shape": [1], "names": None}
    assert info(made[0]) == {
        "codebase_version": "v3.0",
        "robot_type": "arm",
        "total_episodes": 3,
        "total_frames": 24,
        "total_tasks": 3,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": 20,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {
            "observation.state": {"dtype": "float32", "shape": [3], "names": None},
            "gripper": {"dtype": "float64", **one},
            "observation.grid": {"dtype": "float32", "shape": [2, 2], "names": None},
            "count": {"dtype": "int64", **one},
            "ok": {"dtype": "bool", **one},
            "note": {"dtype": "string", **one},
            "timestamp": {"dtype": "float32", **one},
            "frame_index": {"dtype": "int64", **one},
            "episode_index": {"dtype": "int64", **one},
            "index": {"dtype": "int64", **one},
            "task_index": {"dtype": "int64", **one},
        },
    }


def test_each_value(made):
    out, recorded = made
    rows = loaded(out)
    types = [str(f.type).replace("element: ", "").replace("item: ", "") for f in rows.schema]
    assert dict(zip(rows.column_names, types, strict=True)) == {
        "observation.state": "fixed_size_list<float>[3]",
        "gripper": "double",
        "observation.grid": "list<list<float>>",
        "count": "int64",
        "ok": "bool",
        "note": "string",
        "timestamp": "float",
        "frame_index": "int64",
        "episode_index": "int64",
        "index": "int64",
        "task_index": "int64",
    }
    for column, source in (("observation.state", "q"), ("gripper", "grip"), ("observation.grid", "grid")):
        assert np.array_equal(np.array(rows[column].to_pylist()), np.concatenate([r[source] for r in recorded]))
    for column, source in (("count", "count"), ("ok", "ok"), ("note", "note")):
        assert rows[column].to_pylist() == [x for r in recorded for x in list(r[source])]
    frames = [k for n in LENGTHS for k in range(n)]
    assert rows["timestamp"].to_pylist() == [float(np.float32(k / 20)) for k in frames]
    assert rows["frame_index"].to_pylist() == frames
    assert rows["episode_index"].to_pylist() == [i for i, n in enumerate(LENGTHS) for _ in range(n)]
    assert rows["index"].to_pylist() == list(range(24))
    numbers = {"reach": 0, "grasp 0": 1, "grasp 1": 2}
    assert rows["task_index"].to_pylist() == [numbers[t] for r in recorded for t in r["task"]]
    tasks = pd.read_parquet(out / "meta/tasks.parquet")
    assert tasks.index.tolist() == list(numbers) and tasks["task_index"].tolist() == [0, 1, 2]
    told = json.loads(pq.read_schema(out / "data/chunk-000/file-000.parquet").metadata[b"huggingface"])
    assert told["info"]["features"]["observation.state"] == {
        "feature": {"dtype": "float32", "_type": "Value"},
        "length": 3,
        "_type": "Sequence",
    }
    assert told["info"]["features"]["observation.grid"] == {"shape": [2, 2], "dtype": "float32", "_type": "Array2D"}


def test_the_episodes_and_the_statistics(made):
    out, recorded = made
    episodes = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    starts = np.cumsum((0, *LENGTHS)).tolist()
    for i, e in enumerate(episodes):
        assert (e["episode_index"], e["length"], e["tasks"]) == (i, LENGTHS[i], ["reach", f"grasp {i % 2}"])
        assert (e["dataset_from_index"], e["dataset_to_index"]) == (starts[i], starts[i + 1])
        assert (e["data/chunk_index"], e["data/file_index"]) == (0, 0)
        assert (e["meta/episodes/chunk_index"], e["meta/episodes/file_index"]) == (0, 0)
        assert (e["robocache/id"], e["robocache/start_ns"]) == (f"{i}.parquet", START + i * 10**12)
        for name, values in (("observation.state", recorded[i]["q"]), ("gripper", recorded[i]["grip"][:, None])):
            assert e[f"stats/{name}/count"] == [LENGTHS[i]]
            check({k: e[f"stats/{name}/{k}"] for k in KEYS}, values)
        grid = recorded[i]["grid"].reshape(-1, 2)  # LeRobot has one for each place of the last axis
        check({k: e[f"stats/observation.grid/{k}"] for k in KEYS}, grid)
        assert e["stats/count/min"] == [recorded[i]["count"].min()] and e["stats/ok/max"] == [recorded[i]["ok"].any()]
        assert "stats/note/min" not in e
    found = json.loads((out / "meta/stats.json").read_text())
    check(found["observation.state"], np.concatenate([r["q"] for r in recorded]))
    check(found["index"], np.arange(24)[:, None])
    check(found["timestamp"], np.array([[k / 20] for n in LENGTHS for k in range(n)]))
    assert found["observation.state"]["count"] == [24] and type(found["index"]["max"][0]) is int


KEYS = ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")


def check(found: dict, values: np.ndarray) -> None:
    """Against numpy: of so few rows all is exact."""
    wide = values.astype(np.float64)
    wanted = {"min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0)}
    wanted |= {f"q{p:02d}": np.quantile(wide, p / 100, axis=0) for p in (1, 10, 50, 90, 99)}
    for key, right in wanted.items():
        np.testing.assert_allclose(found[key], right, rtol=1e-6, atol=1e-7, err_msg=key)


def test_version_2_1(made, mine, tmp_path):
    out, (_, recorded) = mine, made
    do(job(tmp_path / "logs", out, version="v2.1"))
    assert not (out / "meta/tasks.parquet").exists() and not list(out.rglob("file-*"))
    said = info(out)
    assert (said["codebase_version"], said["total_chunks"], said["total_videos"]) == ("v2.1", 1, 0)
    assert said["data_path"] == "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    lines = [json.loads(line) for line in (out / "meta/episodes.jsonl").read_text().splitlines()]
    assert [(e["episode_index"], e["length"]) for e in lines] == list(enumerate(LENGTHS))
    tasks = [json.loads(line) for line in (out / "meta/tasks.jsonl").read_text().splitlines()]
    assert tasks == [{"task_index": i, "task": t} for i, t in enumerate(("reach", "grasp 0", "grasp 1"))]
    stats = [json.loads(line) for line in (out / "meta/episodes_stats.jsonl").read_text().splitlines()]
    check(stats[1]["stats"]["observation.state"], recorded[1]["q"])
    assert stats[1]["stats"]["frame_index"]["max"] == [11]
    for i in range(3):
        rows = pq.read_table(out / f"data/chunk-000/episode_{i:06d}.parquet")
        assert np.array_equal(np.array(rows["observation.state"].to_pylist()), recorded[i]["q"])
    do(job(tmp_path / "logs", out))  # the other version, of the parts that are there
    assert info(out)["codebase_version"] == "v3.0" and not (out / "meta/episodes.jsonl").exists()
    assert [p.name for p in (out / "data").rglob("*.parquet")] == ["file-000.parquet"]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_our_own_reader_reads_it_back(tmp_path, version):
    recorded = [record(tmp_path / f"logs/{i}.parquet", i, n) for i, n in enumerate(LENGTHS)]
    do(job(tmp_path / "logs", tmp_path / "out", version=version))
    shutil.rmtree(tmp_path / "out/meta/robocache")  # as another program would have left it
    spec = InputSpec((str(tmp_path / "out"),), "lerobot")
    refs = list_episodes(spec)
    assert len(refs) == 3
    for i, ref in enumerate(refs):
        episode = read_episode(ref, [Source("observation.state"), Source("note")], spec)
        stream = episode.streams["observation.state"]
        assert np.array_equal(stream.values, recorded[i]["q"])
        assert stream.times.tolist() == [k * 50_000_000 for k in range(LENGTHS[i])]
        assert episode.metadata["tasks"] == ["reach", f"grasp {i % 2}"]


def test_what_comes_and_goes_costs_its_files_alone(tmp_path):
    """A file holds one episode here; those in front of a change keep their bytes and their place on the disk."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    big = {"features": {"observation.state": "q"}, "shard_mb": 1}

    def noise(name: str, seed: int) -> None:  # about 0.7 MB, in a shard of its own
        rng = np.random.default_rng(seed)
        write(logs / name, seed, {"q": rng.random((60_000, 3)).astype(np.float32), "pad": rng.random(60_000)})

    for i in range(3):
        noise(f"{i}.parquet", i)
    do(job(logs, out, data_mb=1, **big))
    before = {p: p.stat().st_ino for p in (out / "data").rglob("*.parquet")}
    assert len(before) == 3
    noise("0_late.parquet", 7)
    do(job(logs, out, data_mb=1, **big))
    after = {p: p.stat().st_ino for p in (out / "data").rglob("*.parquet")}
    assert len(after) == 4 and before.items() <= after.items()
    (logs / "1.parquet").unlink()
    run(job(logs, out, data_mb=1, **big), prune=True)
    rows = loaded(out)
    assert verify(str(out)).problems == ()
    assert np.array_equal(rows["index"].to_numpy(), np.arange(180_000))
    assert np.array_equal(rows["episode_index"].to_numpy(), np.repeat(np.arange(3), 60_000))
    first = out / "data/chunk-000/file-000.parquet"
    assert first.stat().st_ino == before[first] and not (out / "data/chunk-000/file-003.parquet").exists()
    episodes = pq.read_table(out / "meta/episodes")["robocache/id"].to_pylist()
    assert episodes == ["0.parquet", "2.parquet", "0_late.parquet"]


def test_rows_that_are_not_valid(tmp_path):
    logs = tmp_path / "logs"
    ends = record(logs / "a.parquet", 0, 20, without=range(17, 20))
    record(logs / "b.parquet", 1, 20, without=range(8, 12))
    features = {"observation.state": {"source": "q", "max_gap": "60ms"}, "gripper": "grip"}
    job_of = {
        how: job(logs, tmp_path / how, features=features, invalid=how) for how in ("trim", "split", "drop", "keep")
    }
    notes = {how: " ".join(do(j).notes) for how, j in job_of.items()}
    trimmed = loaded(tmp_path / "trim")
    assert np.array_equal(np.array(trimmed["observation.state"].to_pylist()), ends["q"][:17])
    assert "1 episodes are not in the tree, the first b.parquet: has an invalid row between" in notes["trim"]
    dropped = loaded(tmp_path / "drop")
    assert dropped["frame_index"].to_pylist() == [*range(17), *range(16)]
    assert "4 rows" in notes["drop"]
    cut = loaded(tmp_path / "split")
    assert cut["frame_index"].to_pylist() == [*range(17), *range(8), *range(8)]
    assert cut["episode_index"].to_pylist() == [0] * 17 + [1] * 8 + [2] * 8
    kept = loaded(tmp_path / "keep")
    assert info(tmp_path / "keep")["features"]["observation.state.valid"] == {
        "dtype": "bool",
        "shape": [1],
        "names": None,
    }
    valid = np.array(kept["observation.state.valid"].to_pylist())
    assert [int(n) for n in (~valid[:17]).nonzero()[0]] == [] and (~valid).sum() == 4
    count = pq.read_table(tmp_path / "keep/meta/episodes")["stats/observation.state/count"].to_pylist()
    assert count == [[17], [16]]


def test_a_task_from_the_config_and_splits(tmp_path):
    for i in range(4):
        record(tmp_path / f"logs/{i}.parquet", i, 5)
    features = {"observation.state": "q"}
    base = job(tmp_path / "logs", tmp_path / "out", features=features, task="pick the cube")
    do(replace(base, splits=SplitSpec(ids={"0.parquet": "val", "1.parquet": "train", "3.parquet": "train"})))
    out = tmp_path / "out"
    assert info(out)["splits"] == {"val": "0:1", "train": "1:3"} and info(out)["total_episodes"] == 4
    episodes = pq.read_table(out / "meta/episodes").to_pylist()
    assert [e["robocache/id"][0] for e in episodes] == ["0", "1", "3", "2"]
    assert {tuple(e["tasks"]) for e in episodes} == {("pick the cube",)}


def test_what_lerobot_has_no_word_for(tmp_path):
    record(tmp_path / "logs/0.parquet", 0, 5)

    def refused(**features) -> str:
        with pytest.raises(ConfigError) as error:
            run(job(tmp_path / "logs", tmp_path / "out", features=features))
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert "features.a/b: LeRobot's features have no slash" in refused(**{"a/b": "q"})
    assert "features.index: LeRobot has its own" in refused(index="count")
    with pytest.raises(ConfigError, match=r"task_feature: found 'wat'; did you mean 'what'\?"):
        job(tmp_path / "logs", tmp_path / "out", task_feature="wat")
    with pytest.raises(ConfigError, match="task_feature: q holds"):
        run(job(tmp_path / "logs", tmp_path / "out", features={"q": "q"}, task_feature="q"))


def test_another_format_takes_the_tree_away(tmp_path, mine):
    out = mine
    do(job(tmp_path / "logs", out, format="parquet"), overwrite=True)
    assert not (out / "meta/info.json").exists() and not list((out / "data").glob("*/*"))
    do(job(tmp_path / "logs", out), overwrite=True)
    assert info(out)["total_frames"] == 24 and not list((out / "data").glob("*.parquet"))


def test_damage_is_found_and_made_good(mine, tmp_path):
    out = mine
    (out / "meta/stats.json").write_text("{}")
    (out / "data/chunk-000/file-007.parquet").write_bytes(b"?")
    info_json = (out / "meta/info.json").read_bytes()
    (out / "meta/info.json").unlink()
    found = verify(str(out))
    assert "info.json: cannot be read" in found.problems[0] and "no LeRobot tree" in found.notes[0]
    (out / "meta/info.json").write_bytes(info_json)
    found = verify(str(out)).problems
    assert len(found) == 2 and "stats.json: is not what was written" in found[0] and "file-007" in found[1]
    do(job(tmp_path / "logs", out, robot_type="arm"))


class Crash(BaseException):
    pass


def test_a_crash_at_every_change_of_the_tree(tmp_path, monkeypatch):
    """A reader finds the tree before, the tree after, or none; a rerun ends as a run that nobody stopped."""
    logs = tmp_path / "logs"
    for i in range(3):
        record(logs / f"{i}.parquet", i, 4)

    def the_job(out: Path) -> Job:
        return job(logs, out, features={"observation.state": "q"}, task=f"of {len(list(logs.iterdir()))}")

    start, grown = tmp_path / "start", tmp_path / "grown"
    do(the_job(start))
    before = loadable(start)
    (logs / "1.parquet").unlink()
    (logs / "2.parquet").unlink()
    record(logs / "new.parquet", 9, 6)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "finalise", lambda *args: ())
        run(the_job(start), prune=True)  # its parts have grown, its tree has not
    assert loadable(start) == before
    shutil.copytree(start, grown)
    run(the_job(grown))
    after = loadable(grown)
    assert before != after
    seen, n, stopped = set(), 0, True
    while stopped:
        n += 1
        out = tmp_path / f"out_{n}"
        shutil.copytree(start, out)
        with monkeypatch.context() as patch, writing(the_job(out)) as output:
            left = iter(range(n - 1, -1, -1))
            for name in ("write", "_rename", "remove"):
                patch.setattr(store.Store, name, burning(getattr(store.Store, name), left))
            try:
                finalise(the_job(out), output, output.standing.version)
                stopped = False
            except Crash:
                pass
        state = loadable(out)
        assert state in (None, before, after)
        seen.add(state)
        with writing(the_job(out)) as output:
            finalise(the_job(out), output, output.standing.version)
        assert_same_tree(out, grown)
    assert n == 17 and seen == {None, before, after}


def burning(change, left):
    """A method that ends the process, as it were, once nothing is left of the fuse."""

    def burn(self, *args):
        if next(left) == 0:
            raise Crash
        return change(self, *args)

    return burn


def loadable(out: Path) -> str | None:
    """All that a reader of the tree sees, as text; None where it sees none."""
    if not (out / "meta/info.json").exists():
        return None
    said = info(out)
    episodes = pq.read_table(out / "meta/episodes").to_pylist()
    rows = loaded(out)
    assert said["total_frames"] == rows.num_rows == sum(e["length"] for e in episodes)
    assert said["total_episodes"] == len(episodes)
    stats = json.loads((out / "meta/stats.json").read_text())
    assert stats["index"]["count"] == [rows.num_rows]
    return json.dumps([said, episodes, rows.to_pylist(), stats], default=str)


def test_an_output_error_names_the_part(mine, tmp_path):
    out = mine
    (part,) = (out / "meta/robocache/_parts").iterdir()
    data = bytearray(part.read_bytes())
    at = pq.ParquetFile(part).metadata.row_group(1).column(4).data_page_offset
    data[at : at + 40] = bytes(40)
    part.write_bytes(data)
    with pytest.raises(OutputError, match=part.name):
        run(job(tmp_path / "logs", out, invalid="keep"))
    assert info(out)["total_frames"] == 24  # the tree before stays


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, float]:
    """A tree with a video and windows, of a dozen logs, and how many seconds it took."""
    av = pytest.importorskip("av", reason="the extra video is not installed")
    work = tmp_path_factory.mktemp("whole")
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 256, (50, 64, 64, 3), np.uint8)
        cam = [{"bytes": png(image), "path": None} for image in noise]
        write(work / f"logs/{i}.parquet", i, {"q": np.full((50, 3), i, np.float32), "cam": pa.array(cam)})
    began = time.monotonic()
    do(tree_kit.whole_job(work / "logs", work / "whole"))
    assert av and len(list((work / "whole/data").glob("*/*"))) > 3
    return work, time.monotonic() - began


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_of_ray(whole):
    """The same tree, byte for byte, as of one run in this process."""
    work, _ = whole
    cluster = ClusterSpec(mode="ray", workers=2, gpus_per_worker=0.0, address="local")
    do(replace(tree_kit.whole_job(work / "logs", work / "ray"), cluster=cluster))
    assert_same_tree(work / "ray", work / "whole", but=("meta/robocache/_versions/_000001/_config.yaml",))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_forty_random_moments(whole):
    """Half of them while the tree is made of parts that are there. A reader finds none or that of a run that nobody
    stopped, and a rerun makes that, byte for byte."""
    work, seconds = whole
    script, right, counts = Path(__file__).with_name("tree_kit.py"), loadable(work / "whole"), Counter[str]()
    rng = np.random.default_rng(3)
    for k in range(40):
        out = work / f"killed_{k}"
        if k % 2:
            shutil.copytree(work / "whole", out)
            shutil.rmtree(out / "meta/robocache/_lerobot")
            for name in ("meta/info.json", "README.md"):  # without its record the card would be another's
                (out / name).unlink()
        command = [sys.executable, str(script), str(work / "logs"), str(out)]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        if k % 2:
            process.stdout.readline()  # it makes the tree
        time.sleep(rng.uniform(0, seconds * (0.5 if k % 2 else 1)))
        process.kill()
        counts["killed" if process.wait() else "ended before"] += 1
        state = loadable(out) if out.exists() else None
        assert state in (None, right)
        counts["no tree" if state is None else "the tree"] += 1
        counts["with files that wait"] += any((out / "meta/robocache/_lerobot/_staged").glob("*"))
        run(tree_kit.whole_job(work / "logs", out))
        assert_same_tree(out, work / "whole")
        shutil.rmtree(out)
    print(dict(counts))
    assert counts["killed"] > 25


@pytest.mark.slow
def test_on_s3(s3, made, tmp_path):
    """The same tree as on a disk, and one that grows there."""
    logs = made[0].parent / "logs"
    shutil.copytree(logs, tmp_path / "logs", copy_function=shutil.copy2)
    the_job = job(tmp_path / "logs", s3.uri("out"), robot_type="arm")
    the_job = replace(the_job, output=replace(the_job.output, storage_options=s3.options))
    run(the_job)
    local = {p.relative_to(made[0]).as_posix(): p.read_bytes() for p in made[0].rglob("*") if p.is_file()}
    mine = s3.objects("out")
    trees = [{n: d for n, d in files.items() if "robocache/" not in n} for files in (mine, local)]
    assert trees[0] == trees[1] and "meta/info.json" in trees[0]
    (tmp_path / "logs/1.parquet").unlink()
    run(the_job, prune=True)
    assert json.loads(s3.objects("out")["meta/info.json"])["total_frames"] == 12
    assert verify(s3.uri("out"), s3.options).problems == ()
