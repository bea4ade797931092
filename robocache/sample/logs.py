"""Write sample logs: the arm's signals as its recorder would have kept them, faults included.

Every stream has its own rate, start and clock jitter, and arrives some milliseconds behind its stamp. On top of that:

* gaps: in every episode two streams drop out one to three times, for 100 to 400 ms
* duplicates: /joint_states and /ee_pose repeat 0.5 % of their stamps; the first of a pair is a reading not yet filled
  in (zeros), the last one counts
* out of order: in episode 2, 2 % of /imu is delivered 10 to 40 ms late, behind its successors
* damage: one file more than there are good episodes ends in the middle, as after a power cut
* sensor noise, gaussian, times ``noise``: see ``TOPICS``; commands carry none
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robocache.errors import InputError
from robocache.sample.mcap_writer import Compression, TopicLog, write_mcap
from robocache.sample.messages import MessageLayout, definition
from robocache.sample.signals import start_ns, truth, vibration

JITTER = 0.08  # standard deviation of a stamp, in periods
START_SPREAD_NS = 50_000_000
GAP_NS = (100_000_000, 400_000_000)
GAP_TOPICS, MAX_GAPS = 2, 3
DUPLICATE_SHARE = 0.005
UNSORTED_EPISODE, UNSORTED_TOPIC, LATE_SHARE, LATE_NS = 2, "/imu", 0.02, (10_000_000, 40_000_000)
DAMAGED_SHARE = 0.55  # how much of the damaged file is left
JOINTS = [f"joint_{number}" for number in range(1, 8)]
QUATERNIONS = ("/imu.orientation", "/ee_pose.pose")  # their last four columns


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the recording.

    latency_ms: shortest and mean delay from stamp to log time
    noise:      standard deviation for each field that carries a signal, in the signal's unit
    duplicates: whether its driver repeats stamps
    """

    schema: str
    rate_hz: int
    latency_ms: tuple[float, float]
    layout: MessageLayout
    noise: Mapping[str, float | np.ndarray]
    duplicates: bool = False


def _message(frame: str, fields: Mapping[str, object]) -> MessageLayout:
    return MessageLayout({"sec": np.int32(0), "nanosec": np.uint32(0), "frame_id": frame, **fields})


def _variance(noise: float) -> np.ndarray:
    """A ROS covariance field ``[9]``."""
    return (noise**2 * np.eye(3)).reshape(9)


TOPICS: dict[str, Topic] = {
    "/joint_states": Topic(
        schema="sensor_msgs/msg/JointState",
        rate_hz=200,
        latency_ms=(0.4, 1.2),
        layout=_message("", {"name": JOINTS, "position": [0.0] * 7, "velocity": [0.0] * 7, "effort": [0.0] * 7}),
        noise={"position": 1e-4, "velocity": 2e-3, "effort": 0.05},
        duplicates=True,
    ),
    "/ft_sensor": Topic(
        schema="geometry_msgs/msg/WrenchStamped",
        rate_hz=1000,
        latency_ms=(0.2, 0.5),
        layout=_message("ft_sensor_link", {"wrench": np.zeros(6)}),
        noise={"wrench": np.array([0.08, 0.08, 0.12, 0.004, 0.004, 0.003])},
    ),
    "/imu": Topic(
        schema="sensor_msgs/msg/Imu",
        rate_hz=400,
        latency_ms=(0.8, 2.0),
        layout=_message(
            "imu_link",
            {
                "orientation": np.zeros(4),
                "orientation_covariance": _variance(1e-3),
                "angular_velocity": np.zeros(3),
                "angular_velocity_covariance": _variance(3e-3),
                "linear_acceleration": np.zeros(3),
                "linear_acceleration_covariance": _variance(0.03),
            },
        ),
        noise={"orientation": 5e-4, "angular_velocity": 3e-3, "linear_acceleration": 0.03},
    ),
    "/ee_pose": Topic(
        schema="geometry_msgs/msg/PoseStamped",
        rate_hz=100,
        latency_ms=(4.0, 8.0),
        layout=_message("base_link", {"pose": np.zeros(7)}),
        noise={"pose": np.array([2e-4] * 3 + [5e-4] * 4)},
        duplicates=True,
    ),
    "/command": Topic(
        schema="sensor_msgs/msg/JointState",
        rate_hz=50,
        latency_ms=(0.2, 0.4),
        layout=_message("", {"name": JOINTS, "position": [0.0] * 7, "velocity": [], "effort": []}),
        noise={"position": 0.0},
    ),
}


def write_samples(
    folder: str | os.PathLike[str],
    *,
    episodes: int = 8,
    seconds: float = 20.0,
    seed: int = 0,
    damaged: bool = True,
    compression: Compression = "zstd",
    noise: float = 1.0,
) -> list[Path]:
    """Write ``episode_000.mcap`` ... into ``folder``, replacing files of those names; returns their paths.

    With ``damaged``, one more file follows the good ones and ends in the middle. ``noise`` scales the sensor noise
    (0: logged values are :func:`truth` exactly, the wrench with its vibration). The same arguments give the same
    bytes. A second holds about 0.35 MB of messages, half of that on disk with zstd; one episode at a time is made in
    memory, in about five times its size.
    ``InputError`` unless episodes >= 1, seconds >= 1, seed >= 0 and noise >= 0; ``OSError`` passes through.
    """
    limits = {"episodes": (episodes, 1), "seconds": (seconds, 1), "seed": (seed, 0), "noise": (noise, 0)}
    for name, (value, least) in limits.items():
        if not least <= value < float("inf"):
            raise InputError(f"sample {name}: got {value}, must be at least {least}")
    if compression not in ("zstd", "lz4", "none"):
        raise InputError(f"sample compression: got {compression!r}, must be zstd, lz4 or none")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"episode_{episode:03d}.mcap" for episode in range(episodes + damaged)]
    for episode, path in enumerate(paths):
        write_mcap(path, _episode(episode, seconds, seed, noise), compression=compression)
    if damaged:
        os.truncate(paths[-1], int(paths[-1].stat().st_size * DAMAGED_SHARE))
    return paths


def _episode(episode: int, seconds: float, seed: int, noise: float) -> list[TopicLog]:
    # The motion draws from [seed, episode], which numpy takes for [seed, episode, 0]; topics count from 1.
    plan = np.random.default_rng([seed, episode, len(TOPICS) + 1])
    gappy = plan.choice(list(TOPICS), GAP_TOPICS, replace=False)
    logs = []
    for number, (name, topic) in enumerate(TOPICS.items(), 1):
        rng = np.random.default_rng([seed, episode, number])
        stamps = _stamps(rng, topic.rate_hz, episode, seconds)
        if name in gappy:
            stamps = _drop_gaps(rng, stamps)
        repeats = np.ones(len(stamps), np.int64)
        if topic.duplicates:
            repeats += rng.random(len(stamps)) < DUPLICATE_SHARE
        stamps = np.repeat(stamps, repeats)
        unfilled = np.flatnonzero(stamps[:-1] == stamps[1:])

        columns = {"sec": stamps // 1_000_000_000, "nanosec": stamps % 1_000_000_000}
        for field, deviation in topic.noise.items():
            values = _measure(f"{name}.{field}", stamps, episode, seed, rng, noise * deviation)
            values[unfilled] = 0
            columns[field] = values
        log_times = _log_times(rng, stamps, topic.latency_ms)
        if name == UNSORTED_TOPIC and episode == UNSORTED_EPISODE:
            late = rng.random(len(stamps)) < LATE_SHARE
            log_times += late * rng.integers(*LATE_NS, len(stamps))
        payloads = topic.layout.encode(columns)
        logs.append(TopicLog(name, topic.schema, definition(topic.schema), payloads, log_times, stamps))
    return logs


def _stamps(rng: np.random.Generator, rate_hz: int, episode: int, seconds: float) -> np.ndarray:
    """Header stamps int64 ``[n]``, strictly increasing: the jitter stays below half a period."""
    start = start_ns(episode) + int(rng.integers(START_SPREAD_NS))
    ticks = np.arange(round(seconds * rate_hz)) * 1_000_000_000 // rate_hz
    jitter = np.clip(rng.normal(0, JITTER, len(ticks)), -0.45, 0.45) * (1e9 / rate_hz)
    return start + ticks + np.rint(jitter).astype(np.int64)


def _drop_gaps(rng: np.random.Generator, stamps: np.ndarray) -> np.ndarray:
    """Without the messages of one to three dropouts, spread over the recording and away from its ends."""
    count = int(rng.integers(1, MAX_GAPS + 1))
    share = (np.arange(count) + rng.uniform(0.2, 0.6, count)) / count
    starts = stamps[0] + (share * (stamps[-1] - stamps[0])).astype(np.int64)
    widths = rng.integers(*GAP_NS, count)
    lost = (stamps[:, None] > starts) & (stamps[:, None] < starts + widths)
    return stamps[~lost.any(axis=1)]


def _measure(
    source: str, stamps: np.ndarray, episode: int, seed: int, rng: np.random.Generator, deviation: float | np.ndarray
) -> np.ndarray:
    """What the sensor reports, float64 ``[n, D]``."""
    values = truth(source, stamps, episode=episode, seed=seed)
    if source == "/ft_sensor.wrench":
        values += vibration(stamps, episode=episode, seed=seed)
    if np.any(deviation):
        values += rng.standard_normal(values.shape) * deviation
    if source in QUATERNIONS:
        values[:, -4:] /= np.linalg.norm(values[:, -4:], axis=1, keepdims=True)
    return values


def _log_times(rng: np.random.Generator, stamps: np.ndarray, latency_ms: tuple[float, float]) -> np.ndarray:
    """Arrival times: behind the stamp by a delay with a long tail, and first in, first out."""
    least, mean = latency_ms
    delay = least * 1e6 + rng.exponential((mean - least) * 1e6, len(stamps))
    return np.maximum.accumulate(stamps + delay.astype(np.int64))
