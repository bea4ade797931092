"""LeRobot datasets that anybody made, read where they lie: the loader, the report and the view of them."""

from __future__ import annotations

import io
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import robocache
from robocache import cli
from robocache.errors import OutputError
from robocache.output.lerobot.others import open_dataset

LENGTHS, FPS = (9, 14, 6), 10
CAMERA = "observation.images.top"
STARTS = np.cumsum((0, *LENGTHS))
FRAMES = np.concatenate([np.arange(n) for n in LENGTHS])
NUMBER = np.repeat(np.arange(3), LENGTHS)
STATES = np.random.default_rng(0).standard_normal((29, 2)).astype(np.float32)
GRID = np.random.default_rng(1).random((29, 2, 3))
GRIP = np.random.default_rng(2).random(29).astype(np.float32)
TASKS = ["reach", "grasp"]


def lists(values: np.ndarray) -> pa.Array:
    """Of lengths that Arrow does not know, as many writers have them."""
    return pa.array(values.tolist(), pa.list_(pa.from_numpy_dtype(values.dtype)))


def info(version: str, **more: Any) -> dict[str, Any]:
    one = {"shape": [1], "names": None}
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["left", "right"]}},
        "grid": {"dtype": "float64", "shape": [2, 3], "names": None},
        "grip": {"dtype": "float32", **one},
        "timestamp": {"dtype": "float32", **one},
        **{name: {"dtype": "int64", **one} for name in ("frame_index", "episode_index", "index", "task_index")},
    }
    return {"codebase_version": version, "fps": FPS, "total_episodes": 3, "total_frames": 29, "total_tasks": 2,
            "chunks_size": 1000, "splits": {"train": "0:2", "val": "2:3"}, "features": features, **more}  # fmt: skip


def rows() -> pa.Table:
    return pa.table(
        {
            "observation.state": lists(STATES),
            "grid": pa.array(GRID.tolist()),
            "grip": lists(GRIP[:, None]),
            "timestamp": (FRAMES / FPS).astype(np.float32),
            "frame_index": FRAMES,
            "episode_index": NUMBER,
            "index": np.arange(29),
            "task_index": NUMBER % 2,
        }
    )


def write(root: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, root / name)
        else:
            (root / name).write_bytes(content)
    return root


def lines(rows: list[dict]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    """The same rows as v3.0, its episodes in two files, and as v2.1."""
    root, table = tmp_path_factory.mktemp("others"), rows()
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    episodes = {
        "episode_index": [0, 1, 2],
        "tasks": [["reach"], ["grasp"], ["reach"]],
        "length": list(LENGTHS),
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 1],
        "dataset_from_index": STARTS[:-1],
        "dataset_to_index": STARTS[1:],
    }
    v3 = {
        data.format(chunk_index=0, file_index=0): table.slice(0, 23),
        data.format(chunk_index=0, file_index=1): table.slice(23),
        "meta/episodes/chunk-000/file-000.parquet": pa.table(episodes),
        "meta/tasks.parquet": pa.table({"task_index": [0, 1], "task": TASKS}),
        "meta/info.json": json.dumps(info("v3.0", data_path=data)).encode(),
    }
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    v2: dict[str, Any] = {
        data.format(episode_chunk=0, episode_index=e): table.slice(STARTS[e], n) for e, n in enumerate(LENGTHS)
    }
    v2 |= {
        "meta/episodes.jsonl": lines([{"episode_index": e, "tasks": [], "length": n} for e, n in enumerate(LENGTHS)]),
        "meta/tasks.jsonl": lines([{"task_index": i, "task": text} for i, text in enumerate(TASKS)]),
        "meta/info.json": json.dumps(info("v2.1", data_path=data)).encode(),
    }
    return {"v3.0": write(root / "v3", v3), "v2.1": write(root / "v2", v2)}


def all_of(uri: str | Path, **how: Any) -> dict[str, Any]:
    dataset = robocache.Dataset(str(uri), **how)
    return dataset.__getitems__(range(len(dataset))).tensors


@pytest.mark.parametrize("cache_mb", [100, 0.0005])
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_windows_of_the_rows(trees, version, cache_mb):
    found = all_of(trees[version], delta_timestamps={"observation.state": [-0.1, 0.0, 0.2]}, cache_mb=cache_mb)
    assert set(found) == {
        "episode_index", "frame_index", "timestamp", "observation.state", "observation.state_is_pad", "grid", "grip",
        "observation.state.valid", "grid.valid", "grip.valid", "task", "task.valid",
    }  # fmt: skip
    for row in range(29):
        first, last = STARTS[NUMBER[row]], STARTS[NUMBER[row] + 1] - 1
        wanted = [row - 1, row, row + 2]
        assert np.array_equal(found["observation.state"][row], STATES[np.clip(wanted, first, last)])
        assert found["observation.state_is_pad"][row].tolist() == [not first <= k <= last for k in wanted]
    assert np.array_equal(found["grid"], GRID) and np.array_equal(found["grip"], GRIP)
    assert found["task"] == [TASKS[e % 2] for e in NUMBER] and found["grip.valid"].all()
    assert found["episode_index"].tolist() == NUMBER.tolist() and found["frame_index"].tolist() == FRAMES.tolist()


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_statistics_are_those_of_the_rows_and_splits_those_it_tells(trees, version):
    found = all_of(trees[version], normalize={"observation.state": "mean_std", "grip": "q01_q99"}, split="val")
    mine = NUMBER == 2
    wanted = (STATES[mine] - STATES.mean(0)) / (STATES.std(0) + 1e-8)
    np.testing.assert_allclose(found["observation.state"], wanted, rtol=1e-5, atol=1e-6)
    low, high = np.quantile(GRIP, [0.01, 0.99])
    np.testing.assert_allclose(found["grip"], (GRIP[mine] - low) / (high - low) * 2 - 1, atol=0.05)
    assert all_of(trees[version], episodes=["episode_000001"])["episode_index"].tolist() == [1] * 14


@pytest.fixture
def with_video(trees, tmp_path) -> tuple[Path, list[np.ndarray]]:
    """Of v3.0, all episodes in one video, one after the other; and what FFmpeg decodes of it."""
    av = pytest.importorskip("av", reason="the extra video is not installed")
    from robocache.video import Encoding, encode

    shown = [np.full((32, 48, 3), 5 * k + 20, np.uint8) for k in range(29)]
    video = encode((av.VideoFrame.from_ndarray(s) for s in shown), (32, 48), Fraction(FPS), Encoding("h264"))
    with av.open(io.BytesIO(video)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    root = tmp_path / "filmed"
    shutil.copytree(trees["v3.0"], root)
    name = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    told = json.loads((root / "meta/info.json").read_text()) | {"video_path": name}
    told["features"][CAMERA] = {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    episodes = pq.read_table(path).to_pydict() | {
        f"videos/{CAMERA}/{key}": [0] * 3 for key in ("chunk_index", "file_index")
    }
    episodes |= {f"videos/{CAMERA}/from_timestamp": (STARTS[:-1] / FPS).tolist()}
    write(root, {name.format(video_key=CAMERA, chunk_index=0, file_index=0): video,
                 "meta/episodes/chunk-000/file-000.parquet": pa.table(episodes),
                 "meta/info.json": json.dumps(told).encode()})  # fmt: skip
    return root, decoded


def test_frames_of_videos(with_video):
    root, decoded = with_video
    assert CAMERA not in all_of(root)
    dataset = robocache.Dataset(str(root), columns=["grip"], decode=[CAMERA], delta_steps={CAMERA: [0, -2]})
    order = np.random.default_rng(0).permutation(29)
    batch = dataset.__getitems__(order).tensors
    for k, row in enumerate(order):
        wanted = [decoded[row], decoded[max(row - 2, STARTS[NUMBER[row]])]]
        assert np.array_equal(batch[CAMERA][k].permute(0, 2, 3, 1), wanted)
    (root / f"videos/{CAMERA}/chunk-000/file-000.mp4").write_bytes(b"nothing")
    with pytest.raises(OutputError, match=r"file-000\.mp4"):
        robocache.Dataset(str(root), decode=[CAMERA])[0]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_the_report(trees, tmp_path, version):
    root = tmp_path / "tree"
    shutil.copytree(trees[version], root)
    assert cli.main(["report", str(root), "-o", str(tmp_path / "page.html")]) == cli.DONE
    page = (tmp_path / "page.html").read_text()
    for text in (f"LeRobot {version}", "nothing was found", "observation.state[left]", "Episode episode_000000", "29"):
        assert text in page, text
    assert "quarantine" not in page and "The run" not in page
    told = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(told | {"fps": 20}))
    assert cli.main(["report", str(root), "-o", str(tmp_path / "page.html")]) == cli.DONE
    page = (tmp_path / "page.html").read_text()
    assert "problem:</strong>" in page and "timestamp is not frame_index / 20" in page
    assert cli.main(["verify", str(root)]) == cli.FAILED


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("meta/info.json", b"{", "info.json cannot be read"),
        ("data/chunk-000/file-001.parquet", b"PAR1", "file-001.parquet cannot be read"),
        ("data/chunk-000/file-001.parquet", None, "file-001.parquet cannot be read"),
        ("data/chunk-000/file-001.parquet", rows().slice(0, 6), "does not hold the episodes"),
    ],
)
def test_damage_is_told(trees, tmp_path, name, content, found):
    root = tmp_path / "tree"
    shutil.copytree(trees["v3.0"], root)
    (root / name).unlink()
    write(root, {} if content is None else {name: content})
    with pytest.raises(OutputError, match=found):
        all_of(root)


def test_an_output_of_a_run_is_one_still(tmp_path):
    with pytest.raises(OutputError, match="is not an output of robocache run"):
        open_dataset(str(tmp_path))


def test_on_s3(s3, trees):
    """Windows, an order in blocks, and a stop, as of the same folder here."""
    s3.put(trees["v3.0"], "tree")
    how: dict[str, Any] = {"delta_steps": {"observation.state": range(-2, 1)}, "cache_mb": 0.0005}
    here = robocache.Dataset(str(trees["v3.0"]), **how)
    there = robocache.Dataset(s3.uri("tree"), storage_options=s3.options, **how)
    wanted, found = (list(d.batches(5, seed=1, threads=0)) for d in (here, there))
    assert [b["frame_index"].tolist() for b in found] == [b["frame_index"].tolist() for b in wanted]
    assert all(
        np.array_equal(a["observation.state"], b["observation.state"]) for a, b in zip(found, wanted, strict=True)
    )


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "camera", "episode"),
    [("lerobot/g1_inspire_v21", "cam_high", 29), ("more/lerobot/gr1_picknplace_v20", "ego_view", 4)],
)
def test_recorded_ones(data_dir, tmp_path, name, camera, episode):
    root, camera = data_dir / name, f"observation.images.{camera}"
    mine = robocache.Dataset(str(root), episodes=[episode], decode=[camera])
    table = pq.read_table(next(root.glob(f"data/*/episode_{episode:06d}.parquet")))
    found = mine.__getitems__([0, 7, 100]).tensors
    assert len(mine) == table.num_rows
    for key in ("observation.state", "action"):
        wanted = np.array(table[key].to_pylist())[[0, 7, 100]]
        assert np.array_equal(found[key], wanted.astype(found[key].numpy().dtype))
    av = pytest.importorskip("av")
    with av.open(str(next(root.rglob(f"*{camera}/episode_{episode:06d}.mp4")))) as container:
        frames = [f.to_ndarray(format="rgb24") for _, f in zip(range(101), container.decode(video=0), strict=False)]
    for k, row in enumerate((0, 7, 100)):
        assert np.array_equal(found[camera][k].permute(1, 2, 0), frames[row])
    assert cli.main(["report", str(root), "-o", str(tmp_path / "page.html")]) == cli.DONE
    assert "are not there" in (tmp_path / "page.html").read_text()
    assert cli.main(["verify", str(root)]) == cli.FAILED
