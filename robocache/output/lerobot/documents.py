"""The small files of a tree: info.json, statistics, tasks, and of v2.1 the lines of its episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.output import statistics
from robocache.output.lerobot import layout
from robocache.output.lerobot.episodes import Survey
from robocache.output.lerobot.features import INDEX
from robocache.output.lerobot.statistics import KEYS, plain, summary
from robocache.output.lerobot.units import Tree, Unit
from robocache.output.statistics import Statistics

#: Gives the bytes of a file that the tree has, or is to have.
Read = Callable[[str], bytes]


def documents(tree: Tree, units: Sequence[Unit], found: Survey, read: Read) -> dict[str, bytes]:
    """By name, info.json last."""
    made = {layout.STATS: _json(_statistics(tree, units, read))}
    if tree.spec.v3:
        made[layout.TASKS] = _tasks(tree)
    else:
        made[layout.TASK_LINES] = _lines({"task_index": i, "task": text} for text, i in tree.tasks.items())
        made |= _episode_lines(tree, units, read)
    made |= {layout.MODALITY: _json(_modality(tree)), layout.CARD: _card(tree, found)}
    return made | {layout.INFO: _json(_info(tree, found))}


def _info(tree: Tree, found: Survey) -> dict[str, Any]:
    spec, episodes = tree.spec, found.episodes
    whole = spec.fps.denominator == 1
    info: dict[str, Any] = {
        "codebase_version": spec.options.version,
        "robot_type": found.robot_type,
        "total_episodes": len(episodes),
        "total_frames": sum(e.length for e in episodes),
        "total_tasks": len(tree.tasks),
        "chunks_size": layout.CHUNK,
        "fps": int(spec.fps) if whole else float(spec.fps),
        "splits": _splits(found),
        "data_path": layout.DATA_PATH[spec.options.version],
        "video_path": layout.VIDEO_PATH[spec.options.version] if tree.videos else None,
        "features": {f.name: f.info for f in tree.features},
    }
    if spec.v3:
        return info | {"data_files_size_in_mb": spec.options.data_mb, "video_files_size_in_mb": layout.VIDEO_MB}
    return info | {"total_videos": len(tree.videos) * len(episodes), "total_chunks": -(-len(episodes) // layout.CHUNK)}


def _modality(tree: Tree) -> dict[str, Any]:
    """GR00T's: which columns of which feature are what; a group a feature."""
    found: dict[str, dict[str, Any]] = {"state": {}, "action": {}, "video": {}, "annotation": {}}
    for f in tree.features:
        short = f.name.rpartition(".")[2]
        if f.camera:
            found["video"][short] = {"original_key": f.name}
        elif f.name not in INDEX and len(f.shape) == 1 and f.dtype not in ("string", "bool"):
            kind = "action" if f.name.partition(".")[0] == "action" else "state"
            found[kind][short] = {"original_key": f.name, "start": 0, "end": f.shape[0]}
    found["annotation"]["human.task_description"] = {"original_key": "task_index"}
    return found


def _card(tree: Tree, found: Survey) -> bytes:
    """The page that Hugging Face shows, and that says where the rows are."""
    lines = [
        "---",
        "task_categories:",
        "- robotics",
        "tags:",
        "- LeRobot",
        "configs:",
        "- config_name: default",
        "  data_files: data/*/*.parquet",
        "---",
        "",
        f"A LeRobot dataset ({tree.spec.options.version}) made by RoboCache: {len(found.episodes)} episodes, "
        f"{sum(e.length for e in found.episodes)} frames at {float(tree.spec.fps):g} Hz.",
        "",
        "| feature | type | shape |",
        "| --- | --- | --- |",
        *(f"| `{f.name}` | {f.dtype} | {' x '.join(map(str, f.shape))} |" for f in tree.features),
        "",
    ]
    return "\n".join(lines).encode()


def _splits(found: Survey) -> dict[str, str]:
    """The episodes of each split are neighbours; those that belong to none are in no range."""
    if not any(e.split for e in found.episodes):
        return {"train": f"0:{len(found.episodes)}"}
    ranges, at = {}, 0
    for name, some in groupby(found.episodes, key=lambda e: e.split):
        count = sum(1 for _ in some)
        if name:
            ranges[name] = f"{at}:{at + count}"
        at += count
    return ranges


def _statistics(tree: Tree, units: Sequence[Unit], read: Read) -> dict[str, Any]:
    merged: dict[str, Statistics] = {}
    for unit in units:
        merged = statistics.merged([merged, statistics.decode(read(layout.digest_name(unit.number)))[1]])
    return {f.name: plain(f, summary(merged[f.name])) for f in tree.features if f.name in merged}


def _tasks(tree: Tree) -> bytes:
    """A table whose index, for pandas, is the text."""
    columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    told = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
            for name, kind, dtype in columns
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(told)})
    table = pa.table([pa.array(list(tree.tasks.values()), pa.int64()), pa.array(list(tree.tasks))], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _episode_lines(tree: Tree, units: Sequence[Unit], read: Read) -> dict[str, bytes]:
    """Of v2.1: the episodes, and their statistics."""
    episodes, numbers = [], []
    features = [f for f in tree.features if f.dtype != "string"]
    for unit in units:
        table = pq.ParquetFile(pa.BufferReader(read(layout.episodes_name(False, unit.number)))).read()
        for row in table.to_pylist():
            episodes.append({"episode_index": row["episode_index"], "tasks": row["tasks"], "length": row["length"]})
            stats = {
                f.name: {key: row[f"stats/{f.name}/{key}"] for key in KEYS}
                for f in features
                if f"stats/{f.name}/min" in row
            }
            numbers.append({"episode_index": row["episode_index"], "stats": stats})
    return {layout.EPISODE_LINES: _lines(episodes), layout.STATISTICS_LINES: _lines(numbers)}


def _lines(rows: Any) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=4, ensure_ascii=False, default=_number).encode()


def _number(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
