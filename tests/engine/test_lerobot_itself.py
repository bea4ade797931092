"""What is written, opened by those who read LeRobot's format: LeRobot, Hugging Face datasets, Ray Data.

LeRobot needs versions of its own, so that it is no part of the test environment; docs/lerobot.md says where it was run.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from engine_kit import do
from tree_kit import FPS, job, write

from robocache.video import png

pytest.importorskip("lerobot", reason="LeRobot needs versions of its own; the format is checked in other tests")
av = pytest.importorskip("av", reason="the extra video is not installed")

CAMERA = "observation.images.top"
LENGTHS = (30, 41, 25)
FEATURES = {"observation.state": "q", "force": {"source": "q", "window": 2}, CAMERA: "cam"}
KEPT: list[Any] = []
VIDEOS = pytest.mark.parametrize("video", ["none", "h264", "av1"])


def declare() -> None:
    """An operator that LeRobot's torchvision may lack, and that nobody calls."""
    import torch

    try:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
    except RuntimeError:
        pass


def opened(root: Path, **options: Any) -> Any:
    """LeRobot's class."""
    declare()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("me/it", root=root, **options)


def image(episode: int, frame: int) -> np.ndarray:
    y, x = np.mgrid[:64, :96]
    grey = 20 + 40 * episode + 2 * frame + 30 * (x > 3 * frame) + 20 * (y > 30)
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[dict[str, Path], np.ndarray]:
    """Trees by what videos they have; and the states of all rows."""
    work = tmp_path_factory.mktemp("made")
    states = []
    for i, n in enumerate(LENGTHS):
        states.append(np.random.default_rng(i).standard_normal((n, 3)).astype(np.float32))
        cam = [{"bytes": png(image(i, k)), "path": None} for k in range(n)]
        write(work / f"logs/{i}.parquet", i, {"q": states[-1], "cam": pa.array(cam)})
    trees = {video: work / video for video in ("none", "h264", "av1")}
    for video, root in trees.items():
        do(job(work / "logs", root, features=FEATURES, video=video, task="press"))
    return trees, np.concatenate(states)


def frames(root: Path, video: str) -> list[np.ndarray]:
    """Of all rows, uint8: as recorded, or as FFmpeg decodes the video."""
    if video == "none":
        return [image(i, k) for i, n in enumerate(LENGTHS) for k in range(n)]
    (path,) = root.rglob("*.mp4")
    with av.open(io.BytesIO(path.read_bytes())) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


@VIDEOS
def test_every_value_and_every_frame_in_lerobot(made, video):
    trees, states = made
    dataset, right = opened(trees[video]), frames(trees[video], video)
    places = [(i, k) for i, n in enumerate(LENGTHS) for k in range(n)]
    assert len(dataset) == len(states) == len(right) == 96 and dataset.meta.total_episodes == 3
    for row, (episode, frame) in enumerate(places):
        item = dataset[row]
        assert (int(item["episode_index"]), int(item["frame_index"]), int(item["index"])) == (episode, frame, row)
        assert float(item["timestamp"]) == np.float32(frame / FPS) and item["task"] == "press"
        assert np.array_equal(item["observation.state"].numpy(), states[row])
        assert int(item["force.count"]) == 1 and np.array_equal(item["force"].numpy(), [states[row]] * 2)
        shown = np.round(item[CAMERA].numpy().transpose(1, 2, 0) * 255).astype(int)
        assert np.abs(shown - right[row]).max() <= (0 if video == "none" else 2), row
    few = opened(trees[video], episodes=[1])
    assert len(few) == LENGTHS[1] and np.array_equal(few[0]["observation.state"].numpy(), states[LENGTHS[0]])


@VIDEOS
def test_delta_timestamps_in_lerobot(made, video):
    trees, states = made
    steps = [-2, 0, 3]
    delta = {key: [k / FPS for k in steps] for key in ("observation.state", CAMERA)}
    dataset, right = opened(trees[video], delta_timestamps=delta), frames(trees[video], video)
    starts = np.cumsum((0, *LENGTHS))
    for row in range(0, 96, 5):
        episode = int(np.searchsorted(starts, row, "right")) - 1
        taken = [min(max(row + k, starts[episode]), starts[episode + 1] - 1) for k in steps]
        item = dataset[row]
        assert np.array_equal(item["observation.state"].numpy(), states[taken])
        wanted = [not starts[episode] <= row + k < starts[episode + 1] for k in steps]
        assert item["observation.state_is_pad"].tolist() == item[f"{CAMERA}_is_pad"].tolist() == wanted
        shown = np.round(item[CAMERA].numpy().transpose(0, 2, 3, 1) * 255).astype(int)
        assert np.abs(shown - np.array([right[k] for k in taken])).max() <= (0 if video == "none" else 2)


def test_hugging_face_datasets(made):
    from datasets import load_dataset

    trees, states = made
    rows = load_dataset("parquet", data_files=str(trees["none"] / "data/*/*.parquet"), split="train")
    assert rows.num_rows == 96
    assert np.array_equal(np.array(rows["observation.state"], np.float32), states)
    assert np.array_equal(np.array(rows["force"], np.float32), np.repeat(states[:, None], 2, axis=1))
    assert all(
        np.array_equal(np.asarray(rows[k][CAMERA]), right) for k, right in enumerate(frames(trees["none"], "none"))
    )


@pytest.mark.ray
@VIDEOS
def test_ray_data(made, video):
    """Ray's reader wants LeRobot 0.5: it takes the class of the metadata from a module that 0.4 has not."""
    declare()
    pytest.importorskip("lerobot.datasets.dataset_metadata", reason="ray.data.read_lerobot needs LeRobot 0.5")
    import ray

    trees, states = made

    def worker() -> None:  # as declare() does, which a worker cannot import
        import sys

        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        sys.modules["torch"].declared_library = library

    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, runtime_env={"worker_process_setup_hook": worker})
    rows = sorted(ray.data.read_lerobot(str(trees[video])).take_all(), key=lambda row: row["index"])
    assert len(rows) == 96 and {row["task"] for row in rows} == {"press"}
    assert np.array_equal(np.array([row["observation.state"] for row in rows], np.float32), states)
    for row, right in zip(rows, frames(trees[video], video), strict=True):
        shown = np.asarray(row[CAMERA]).astype(int)
        shown = shown.transpose(1, 2, 0) if shown.shape[0] == 3 else shown
        assert np.abs(shown - right).max() <= (0 if video == "none" else 2)
