"""Recordings of ROS 2 messages, written by mcap and serialised by rosbags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from robocache.formats import InputSpec, list_episodes, read_episode
from robocache.types import Source, Stream

STORE = get_typestore(Stores.ROS2_HUMBLE)
T0 = 1_700_000_000_000_000_000
JOINTS, TF = "sensor_msgs/msg/JointState", "tf2_msgs/msg/TFMessage"


def register(name: str, text: str) -> str:
    """A message type of one's own; its name."""
    STORE.register(get_types_from_msg(text, name))
    return name


def make(name: str, *values: Any, **named: Any) -> Any:
    return STORE.types[name](*values, **named)


def stamp(ns: int) -> Any:
    return make("builtin_interfaces/msg/Time", ns // 10**9, ns % 10**9)


def header(ns: int, frame: str = "base") -> Any:
    return make("std_msgs/msg/Header", stamp(ns), frame)


def joints(ns: int, names: list[str], position: list[float], velocity: tuple[float, ...] = ()) -> Any:
    return make(JOINTS, header(ns), names, np.array(position, float), np.array(velocity, float), np.array([]))


def transform(ns: int, child: str, x: float, frame: str = "map") -> Any:
    moved = make(
        "geometry_msgs/msg/Transform",
        make("geometry_msgs/msg/Vector3", x, 0.0, 0.0),
        make("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0),
    )
    return make("geometry_msgs/msg/TransformStamped", header(ns, frame), child, moved)


def record(path: Path, topics: dict[str, tuple[str, list[tuple[int, Any]]]], **options: Any) -> Path:
    """``topics``: name -> (type, [(log time, message)])."""
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start("ros2")
        sent = []
        for topic, (kind, messages) in topics.items():
            text, _ = STORE.generate_msgdef(kind, ros_version=2)
            channel = writer.register_channel(topic, "cdr", writer.register_schema(kind, "ros2msg", text.encode()))
            sent += [(ns, channel, bytes(STORE.serialize_cdr(message, kind))) for ns, message in messages]
        for ns, channel, data in sorted(sent, key=lambda item: item[0]):
            writer.add_message(channel, ns, data, ns + 1)
        writer.finish()
    return path


def streams(path: Path, *sources: str | Source, **spec: Any) -> dict[str, Stream]:
    (ref,) = list_episodes(InputSpec((str(path),), **spec))
    return dict(read_episode(ref, sources, InputSpec((str(path),), **spec)).streams)


def stream(path: Path, source: str | Source, **spec: Any) -> Stream:
    (found,) = streams(path, source, **spec).values()
    return found
