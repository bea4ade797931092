"""What a team writes itself: rosbags reads the messages one by one, pandas.merge_asof brings them to a fixed rate, a
Parquet file a log. The rows are those of configs/demo.yaml; a row holds the last sample of each topic before it, which
is less than what the config asks for (interpolation, means of bins, the next command), and no validity or statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rosbags.highlevel import AnyReader

STEP = 20_000_000  # 50 Hz
XYZ = ("x", "y", "z")
XYZW = ("x", "y", "z", "w")


def _of(message: Any, names: Sequence[str]) -> list[float]:
    return [getattr(message, name) for name in names]


def _joints(message: Any) -> list[float]:
    return [*message.position, *message.velocity]


def _command(message: Any) -> list[float]:
    return list(message.position)


def _wrench(message: Any) -> list[float]:
    return _of(message.wrench.force, XYZ) + _of(message.wrench.torque, XYZ)


def _imu(message: Any) -> list[float]:
    return _of(message.angular_velocity, XYZ) + _of(message.linear_acceleration, XYZ) + _of(message.orientation, XYZW)


def _pose(message: Any) -> list[float]:
    return _of(message.pose.position, XYZ) + _of(message.pose.orientation, XYZW)


TOPICS = {
    "/joint_states": _joints,
    "/ft_sensor": _wrench,
    "/imu": _imu,
    "/ee_pose": _pose,
    "/command": _command,
}


def convert(path: Path, folder: Path) -> int:
    """One log; how many rows it makes."""
    stamps: dict[str, list[int]] = {topic: [] for topic in TOPICS}
    rows: dict[str, list[list[float]]] = {topic: [] for topic in TOPICS}
    with AnyReader([path]) as bag:
        for connection, _, raw in bag.messages([c for c in bag.connections if c.topic in TOPICS]):
            message = bag.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp
            stamps[connection.topic].append(stamp.sec * 1_000_000_000 + stamp.nanosec)
            rows[connection.topic].append(TOPICS[connection.topic](message))
    tables = {}
    for topic, values in rows.items():
        table = pd.DataFrame(np.array(values)).add_prefix(f"{topic}.")
        table.insert(0, "time", np.array(stamps[topic]))
        tables[topic] = table.sort_values("time", kind="stable").drop_duplicates("time", keep="last")
    # A command holds until the next one comes, so that its first stamp does not bound the rows.
    start = max(int(table["time"].iloc[0]) for topic, table in tables.items() if topic != "/command")
    stop = min(int(table["time"].iloc[-1]) for table in tables.values())
    out = pd.DataFrame({"time": np.arange(start, stop + 1, STEP)})
    for table in tables.values():
        out = pd.merge_asof(out, table, on="time", direction="backward")
    out.astype({name: np.float32 for name in out.columns if name != "time"}).to_parquet(folder / f"{path.stem}.parquet")
    return len(out)


def convert_all(paths: Sequence[Path], folder: Path, pool: ProcessPoolExecutor) -> int:
    """All logs, on the processes of the pool; how many rows they make."""
    folder.mkdir(parents=True, exist_ok=True)
    return sum(pool.map(partial(convert, folder=folder), paths))
