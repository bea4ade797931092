"""Recordings in, episodes out: one reader a file format behind one face.

:func:`list_episodes` finds the recordings, :func:`list_streams` says what is in one, :func:`describe_episode` what the
signals are that a config asks for, :func:`read_episode` reads them. Errors are
:class:`~robocache.errors.InputError` (the file is at fault, quarantine it), ``OSError`` (the storage is) or
``MemoryError`` (both: try again), and nothing else.
"""

from robocache.formats.base import InputSpec, Reader, TableTimes
from robocache.formats.fingerprint import by_content
from robocache.formats.listing import Listing, describe_passed, list_episodes, list_input
from robocache.formats.registry import READERS, UNAVAILABLE, describe_episode, guarded, list_streams, read_episode

__all__ = [
    "READERS",
    "UNAVAILABLE",
    "InputSpec",
    "Listing",
    "Reader",
    "TableTimes",
    "by_content",
    "describe_episode",
    "describe_passed",
    "guarded",
    "list_episodes",
    "list_input",
    "list_streams",
    "read_episode",
]
