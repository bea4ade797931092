"""What a step of a feature is: it makes something else of each sample, or of each row of an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from robocache.types import Finding, StreamType, Values


@dataclass(frozen=True, slots=True)
class Compute:
    """Where steps compute: a torch device, and how many 2^20 bytes one piece of work may take."""

    device: str = "cpu"
    max_memory_mb: int = 1024


@dataclass(frozen=True, slots=True)
class Samples:
    """What a step is given and what it gives back: ``n`` samples, in the same order.

    values:   recorded samples that rows pick, each once; or numbers on the timeline, ``[n, width]``
    valid:    bool ``[n]``
    about:    what they are in this episode (:class:`robocache.types.StreamType`)
    poses:    float64 ``[n, 7]``, x y z qx qy qz qw: where each was taken, in the frame that it is to be moved into;
              None: they stay where they are
    beside:   float64 ``[n, width]``, at the same rows the feature that :attr:`Step.beside` names, NaN where not valid
    starts:   float64 ``[n, width]``, where a chain of differences begins what it begins at, else NaN: written beside
              the column, so that it can be undone
    recorded: all samples that were recorded, of which ``values`` are some, and places: int64 ``[n]``, which; None where
              the values are no recorded samples
    findings: what a step has to tell of them, without the feature's name; it is given none
    """

    values: Values
    valid: np.ndarray
    about: Mapping[str, Any] = field(default_factory=dict)
    poses: np.ndarray | None = None
    beside: np.ndarray | None = None
    starts: np.ndarray | None = None
    findings: tuple[Finding, ...] = ()
    recorded: Values | None = None
    places: np.ndarray | None = None


class Step(Protocol):
    """A frozen dataclass whose fields are the keys of its mapping in a config, defaults and all.

    key:   what a feature calls it
    picks: whether it takes samples as they were recorded, never interpolated, with what is not finite in them
    A sample's result depends on that sample alone, to the bit, on every device; unless it says so:
    """

    key: ClassVar[str]
    picks: ClassVar[bool]

    @property
    def rows(self) -> bool:
        """Whether it depends on the rows around it. Such a step is given every row of an episode, in order."""
        ...

    @property
    def beside(self) -> str:
        """Another feature that it needs, absolute, at the same rows; empty: none. Only of a step with :attr:`rows`."""
        ...

    def type(self, given: StreamType) -> StreamType:
        """What it makes of samples of a type, settled for the dataset. ``ValueError``, beginning with the key in
        question, where it can make nothing of them.
        """
        ...

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """The samples made into what :meth:`type` says; one that cannot be made is not valid. ``InputError`` where
        the recording is damaged.
        """
        ...
