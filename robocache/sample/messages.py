"""The ROS 2 messages of the sample logs: their definitions, and their CDR encoding for all rows at once.

A message whose strings and array lengths are constant has one fixed byte layout, so it is a numpy structured dtype:
fill its columns and the rows are the payloads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_DEFINITIONS = {
    "builtin_interfaces/Time": "int32 sec\nuint32 nanosec\n",
    "std_msgs/Header": "builtin_interfaces/Time stamp\nstring frame_id\n",
    "geometry_msgs/Vector3": "float64 x\nfloat64 y\nfloat64 z\n",
    "geometry_msgs/Point": "float64 x\nfloat64 y\nfloat64 z\n",
    "geometry_msgs/Quaternion": "float64 x 0\nfloat64 y 0\nfloat64 z 0\nfloat64 w 1\n",
    "geometry_msgs/Pose": "Point position\nQuaternion orientation\n",
    "geometry_msgs/Wrench": "Vector3 force\nVector3 torque\n",
    "geometry_msgs/PoseStamped": "std_msgs/Header header\nPose pose\n",
    "geometry_msgs/WrenchStamped": "std_msgs/Header header\nWrench wrench\n",
    "sensor_msgs/JointState": (
        "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n"
    ),
    "sensor_msgs/Imu": (
        "std_msgs/Header header\n"
        "geometry_msgs/Quaternion orientation\nfloat64[9] orientation_covariance\n"
        "geometry_msgs/Vector3 angular_velocity\nfloat64[9] angular_velocity_covariance\n"
        "geometry_msgs/Vector3 linear_acceleration\nfloat64[9] linear_acceleration_covariance\n"
    ),
}


def definition(schema: str) -> str:
    """The ros2msg text of a type named ``package/msg/Type``: its own fields, then every type it uses."""
    package, _, name = schema.split("/")
    found = [f"{package}/{name}"]
    for user in found:  # grows while it is walked
        for line in _DEFINITIONS[user].splitlines():
            used = line.split()[0].partition("[")[0]
            used = used if "/" in used else f"{user.partition('/')[0]}/{used}"
            if used in _DEFINITIONS and used not in found:
                found.append(used)
    own, *others = found
    return _DEFINITIONS[own] + "".join(f"{'=' * 80}\nMSG: {used}\n{_DEFINITIONS[used]}" for used in others)


class MessageLayout:
    """The byte layout of one message type with constant strings and lengths.

    Made from the message's fields in order, each with a value that shows its type: a numpy scalar or array (fixed
    length), a str, or a list (a sequence) of str or float. What is not filled in keeps that value.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._bytes = bytearray(b"\x00\x01\x00\x00")  # little-endian CDR; alignment counts from behind it
        self._columns: dict[str, tuple[np.dtype, int]] = {}
        for name, value in fields.items():
            if isinstance(value, list) and value and isinstance(value[0], str):
                self._append(np.uint32(len(value)))
                for text in value:
                    self._append_string(text)
            elif isinstance(value, str):
                self._append_string(value)
            elif isinstance(value, list):
                self._append(np.uint32(len(value)))
                if value:  # an empty sequence has no elements to align
                    self._append(np.array(value, np.float64), name)
            else:
                self._append(value, name)

    def _append(self, value: Any, name: str | None = None) -> None:
        array = np.asarray(value)
        self._bytes += bytes(-(len(self._bytes) - 4) % array.itemsize)
        if name is not None:
            self._columns[name] = (np.dtype((array.dtype, array.shape)), len(self._bytes))
        self._bytes += array.tobytes()

    def _append_string(self, text: str) -> None:
        data = text.encode() + b"\0"
        self._append(np.uint32(len(data)))
        self._bytes += data

    def encode(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """CDR payloads uint8 ``[n, k]``, with each of ``columns`` (``[n]`` or ``[n, length]``) filled in."""
        count = len(next(iter(columns.values())))
        payloads = np.tile(np.frombuffer(bytes(self._bytes), np.uint8), (count, 1))
        for name, values in columns.items():
            dtype, offset = self._columns[name]
            column = payloads[:, offset : offset + dtype.itemsize]
            column[:] = np.ascontiguousarray(values, dtype.base).view(np.uint8).reshape(count, -1)
        return payloads
