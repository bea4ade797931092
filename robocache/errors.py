"""Every error RoboCache raises on purpose.

The class decides what the engine does with it, so there is one class a reaction and no more:
a bad config or output stops the run, a bad input is quarantined, anything else that is an
``OSError`` is retried.
"""

from __future__ import annotations

from collections.abc import Sequence


class RoboCacheError(Exception):
    """Base of all errors raised on purpose; the CLI prints it without a traceback."""


class ConfigError(RoboCacheError):
    """The configuration cannot be run. Holds every problem found, not the first one."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple:  # the default would rebuild from the joined text and lose the list
        return (type(self), (self.problems,))


class InputError(RoboCacheError):
    """An input file or episode that will fail the same way each time: it is quarantined, never retried.

    The message names the file, the place in it, what was found and what would be right.
    """


class MissingError(InputError):
    """A sound recording lacks what the config names in it: a column, a field, its time.

    It is quarantined like any other; where all of them lack it, the config is wrong.
    """


class UnexpectedError(InputError):
    """A mistake of this program that an episode brought to light: it is quarantined, and tried again by a later run."""


class TooLargeError(InputError):
    """An episode whose rows do not fit in the memory that the config allows: it is quarantined before they are made,
    and tried again by a later run, which may allow more.
    """


class OutputError(RoboCacheError):
    """The output cannot be written or belongs to something else: the run stops, nothing is lost."""


class DeviceLostError(RoboCacheError):
    """The process's CUDA context is dead, and with it every later call: only another process can go on."""


class WorkersError(RoboCacheError):
    """The cluster's workers cannot do the rest of the run; what was committed is kept, run again to go on."""
