"""ROS 1 bags of version 2.0: our own columnar reader; chunks stored, in bz2 or in lz4, with or without an index."""

from robocache.formats.rosbag1.reader import Rosbag1Reader

__all__ = ["Rosbag1Reader"]
