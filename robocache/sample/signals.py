"""What the simulated arm really does: smooth analytic functions of time, so any alignment can be checked exactly.

Every signal is a sum of a few sines drawn from ``(seed, episode)``, or follows exactly from such sums:

========================== ======= =================================================================================
source                     columns value
========================== ======= =================================================================================
/joint_states.position     7       rad, sums of sines up to 1 Hz
/joint_states.velocity     7       rad/s, the exact derivative of position
/joint_states.effort       7       N m, sums of sines up to 2 Hz
/command.position          7       rad, the joint position COMMAND_LEAD_S later (the arm lags its commands)
/ft_sensor.wrench          6       force xyz (N), torque xyz (N m), sums of sines up to 3 Hz; see :func:`vibration`
/ee_pose.pose              7       position xyz (m), orientation quaternion xyzw, of the end effector in the base frame
/imu.orientation           4       the same orientation: the IMU sits on the end effector
/imu.angular_velocity      3       rad/s in the sensor frame, exactly consistent with the orientation
/imu.linear_acceleration   3       m/s^2 in the sensor frame: motion plus the reaction to gravity (specific force)
========================== ======= =================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from robocache.errors import InputError

EPOCH_NS = 1_700_000_000_123_456_789
EPISODE_SPACING_NS = 3_600_000_000_000
COMMAND_LEAD_S = 0.1
GRAVITY = 9.80665
VIBRATION_HZ = 180.0
VIBRATION_AMPLITUDE = np.array([0.6, 0.6, 0.9, 0.03, 0.03, 0.02])
TERMS = 3  # sines per column


@dataclass(frozen=True, slots=True)
class Waves:
    """``D`` columns, each ``offset + sum_k amplitude sin(omega t + phase)``.

    offset: ``[D]``; amplitude, omega (rad/s), phase: ``[D, K]``
    """

    offset: np.ndarray
    amplitude: np.ndarray
    omega: np.ndarray
    phase: np.ndarray

    @classmethod
    def draw(
        cls, rng: np.random.Generator, columns: int, *, amplitude: float, hz: tuple[float, float], offset: float = 0.0
    ) -> Waves:
        """Random waves; ``amplitude`` bounds a column's swing, ``offset`` the distance of its centre from 0."""
        share = rng.dirichlet(np.full(TERMS, 3.0), columns)
        return cls(
            offset=rng.uniform(-offset, offset, columns),
            amplitude=amplitude * share,
            omega=2 * math.pi * rng.uniform(*hz, (columns, TERMS)),
            phase=rng.uniform(0, 2 * math.pi, (columns, TERMS)),
        )

    def at(self, t: np.ndarray, order: int = 0) -> np.ndarray:
        """The ``order``-th time derivative at ``t`` (s, float64 ``[n]``): float64 ``[n, D]``."""
        out = np.zeros((len(t), len(self.offset)))
        if order == 0:
            out += self.offset
        for amplitude, omega, phase in zip(self.amplitude.T, self.omega.T, self.phase.T, strict=True):
            wave = t[:, None] * omega
            wave += phase + order * (math.pi / 2)  # each derivative leads by a quarter turn
            np.sin(wave, out=wave)
            wave *= amplitude * omega**order
            out += wave
        return out


@dataclass(frozen=True, slots=True)
class Arm:
    """The motion of one episode. ``rpy``: roll, pitch, yaw about fixed x, y, z (radians)."""

    joints: Waves
    effort: Waves
    wrench: Waves
    position: Waves
    rpy: Waves
    vibration_phase: np.ndarray

    def orientation(self, t: np.ndarray) -> np.ndarray:
        """Unit quaternion xyzw ``[n, 4]`` of ``Rz(yaw) Ry(pitch) Rx(roll)``; smooth, so it never jumps in sign."""
        half = self.rpy.at(t) / 2
        (cr, cp, cy), (sr, sp, sy) = np.cos(half).T, np.sin(half).T
        return np.stack(
            [
                sr * cp * cy - cr * sp * sy,
                cr * sp * cy + sr * cp * sy,
                cr * cp * sy - sr * sp * cy,
                cr * cp * cy + sr * sp * sy,
            ],
            axis=1,
        )

    def angular_velocity(self, t: np.ndarray) -> np.ndarray:
        """Body rates ``[n, 3]`` of the rotation above (the standard Euler rate kinematics)."""
        roll, pitch, _ = self.rpy.at(t).T
        d_roll, d_pitch, d_yaw = self.rpy.at(t, 1).T
        turn = d_yaw * np.cos(pitch)
        return np.stack(
            [
                d_roll - d_yaw * np.sin(pitch),
                d_pitch * np.cos(roll) + turn * np.sin(roll),
                turn * np.cos(roll) - d_pitch * np.sin(roll),
            ],
            axis=1,
        )

    def linear_acceleration(self, t: np.ndarray) -> np.ndarray:
        """What an accelerometer there reads ``[n, 3]``: ``R^T (a + g z)``."""
        force = self.position.at(t, 2)
        force[:, 2] += GRAVITY
        quaternion = self.orientation(t)
        axis, w = -quaternion[:, :3], quaternion[:, 3:]  # conjugate: from the base into the sensor frame
        twist = 2 * np.cross(axis, force)
        return force + w * twist + np.cross(axis, twist)


@lru_cache(maxsize=64)
def motion(seed: int, episode: int) -> Arm:
    """The motion that ``seed`` and ``episode`` stand for."""
    rng = np.random.default_rng([seed, episode])
    return Arm(
        joints=Waves.draw(rng, 7, amplitude=0.8, hz=(0.1, 1.0), offset=1.0),
        effort=Waves.draw(rng, 7, amplitude=20.0, hz=(0.1, 2.0), offset=5.0),
        wrench=Waves.draw(rng, 6, amplitude=10.0, hz=(0.2, 3.0), offset=4.0),
        position=Waves.draw(rng, 3, amplitude=0.25, hz=(0.1, 0.8), offset=0.4),
        rpy=Waves.draw(rng, 3, amplitude=1.2, hz=(0.1, 0.7), offset=0.5),
        vibration_phase=rng.uniform(0, 2 * math.pi, 6),
    )


SIGNALS: dict[str, Callable[[Arm, np.ndarray], np.ndarray]] = {
    "/joint_states.position": lambda arm, t: arm.joints.at(t),
    "/joint_states.velocity": lambda arm, t: arm.joints.at(t, 1),
    "/joint_states.effort": lambda arm, t: arm.effort.at(t),
    "/command.position": lambda arm, t: arm.joints.at(t + COMMAND_LEAD_S),
    "/ft_sensor.wrench": lambda arm, t: arm.wrench.at(t),
    "/ee_pose.pose": lambda arm, t: np.concatenate([arm.position.at(t), arm.orientation(t)], axis=1),
    "/imu.orientation": lambda arm, t: arm.orientation(t),
    "/imu.angular_velocity": lambda arm, t: arm.angular_velocity(t),
    "/imu.linear_acceleration": lambda arm, t: arm.linear_acceleration(t),
}


def start_ns(episode: int) -> int:
    """When an episode begins: Unix nanoseconds, one episode an hour."""
    return EPOCH_NS + episode * EPISODE_SPACING_NS


def truth(source: str, times_ns: np.ndarray, *, episode: int, seed: int = 0) -> np.ndarray:
    """The exact value of a signal, float64 ``[n, D]``, at int64 Unix nanoseconds ``[n]`` (any times, not just stamps).

    Logs hold this plus sensor noise (see ``robocache.sample.logs``); ``/ft_sensor.wrench`` also carries
    :func:`vibration`, which a good downsampling removes. Sources and columns: see the module.
    ``InputError`` for a source that the samples do not have.
    """
    if source not in SIGNALS:
        raise InputError(f"sample truth: no source {source!r}; there are {', '.join(SIGNALS)}")
    return SIGNALS[source](motion(seed, episode), _seconds(times_ns, episode))


def vibration(times_ns: np.ndarray, *, episode: int, seed: int = 0) -> np.ndarray:
    """What the logged wrench has on top of its truth: a 180 Hz sine a column, float64 ``[n, 6]``."""
    phase = motion(seed, episode).vibration_phase
    wave = np.sin(_seconds(times_ns, episode)[:, None] * (2 * math.pi * VIBRATION_HZ) + phase)
    return VIBRATION_AMPLITUDE * wave


def _seconds(times_ns: np.ndarray, episode: int) -> np.ndarray:
    """Seconds from the episode's start; subtracted as integers, where nothing is lost."""
    return (np.asarray(times_ns, np.int64) - start_ns(episode)) / 1e9
