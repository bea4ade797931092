"""What a LeRobot tree that anybody made says of its episodes and tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robocache.output.lerobot import layout
from robocache.output.store import Store
from robocache.output.version import list_versions


@dataclass(frozen=True)
class Listed:
    """An episode as the tree lists it.

    start:  the number of its first row; None where that is not told
    videos: by camera its file and where it begins in it, in seconds
    stats:  by feature
    """

    index: int
    length: int
    file: str
    start: int | None
    videos: Mapping[str, tuple[str, float]]
    stats: Mapping[str, Mapping[str, Any]]


def is_dataset(store: Store) -> bool:
    """Whether there is a tree at all."""
    return store.exists(layout.INFO)


def of_others(store: Store) -> bool:
    """Whether there is one that no run has made."""
    return not list_versions(store).newest and is_dataset(store)


def listed_episodes(store: Store, info: Mapping[str, Any]) -> Iterator[Listed]:
    """The episodes, in the order of the tables."""
    cameras = [name for name, f in info["features"].items() if f.get("dtype") == "video"]
    if str(info["codebase_version"]).startswith("v3"):
        for name in store.files("meta/episodes"):
            if name.endswith(".parquet"):
                for row in pq.ParquetFile(pa.BufferReader(store.read(name))).read().to_pylist():
                    yield _of_table(row, info, cameras)
        return
    numbers = {}
    if store.exists(layout.STATISTICS_LINES):
        numbers = {row["episode_index"]: row["stats"] for row in _lines(store, layout.STATISTICS_LINES)}
    chunk = int(info.get("chunks_size") or layout.CHUNK)
    for row in _lines(store, layout.EPISODE_LINES):
        i = int(row["episode_index"])
        keys = {"episode_index": i, "episode_chunk": i // chunk, "chunk_index": i // chunk, "file_index": i}
        # Some templates name folders that no writer has made.
        usual = {"data_path": layout.rows_name(False, 0, i), **{c: layout.video_name(False, c, 0, i) for c in cameras}}
        file = info["data_path"].format(**keys)
        named = {c: info["video_path"].format(video_key=c, **keys) for c in cameras}
        videos = {c: (at if store.exists(at) else usual[c], 0.0) for c, at in named.items()}
        yield Listed(
            i,
            int(row["length"]),
            file if store.exists(file) else usual["data_path"],
            None,
            videos,
            numbers.get(i, {}),
        )


def _of_table(row: Mapping[str, Any], info: Mapping[str, Any], cameras: Sequence[str]) -> Listed:
    stats: dict[str, dict[str, Any]] = {}
    for key, value in row.items():
        if key.startswith("stats/") and value is not None:
            feature, _, what = key.removeprefix("stats/").rpartition("/")
            stats.setdefault(feature, {})[what] = value
    videos = {}
    for c in cameras:
        at = {key: row[f"videos/{c}/{key}"] for key in ("chunk_index", "file_index")}
        videos[c] = (info["video_path"].format(video_key=c, **at), float(row[f"videos/{c}/from_timestamp"]))
    file = info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    start = row.get("dataset_from_index")
    return Listed(int(row["episode_index"]), int(row["length"]), file, start, videos, stats)


def _lines(store: Store, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read(name).splitlines() if line.strip()]


def tasks_of(store: Store, version: str) -> dict[int, str]:
    """The tasks by their numbers."""
    if not version.startswith("v3"):
        return {int(row["task_index"]): str(row["task"]) for row in _lines(store, layout.TASK_LINES)}
    table = pq.ParquetFile(pa.BufferReader(store.read(layout.TASKS))).read()
    (text,) = [name for name in table.column_names if name != "task_index"]
    return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))
