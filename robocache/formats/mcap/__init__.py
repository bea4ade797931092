"""MCAP recordings: our own columnar reader for chunked and unchunked files, ROS 2 CDR and JSON messages."""

from robocache.formats.mcap.reader import McapReader

__all__ = ["McapReader"]
