"""What a config may say of the tree. None of it decides what is in a part, so that all of it may change later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from robocache.video import Encoding


@dataclass(frozen=True, slots=True)
class LeRobotOptions:
    """``output.lerobot``.

    version:       of LeRobot's format
    robot_type:    None: what the first recording that tells it says
    task:          what the robot was to do, where nothing else says so
    task_feature:  the feature of text that says so, row by row; it is no column then
    task_metadata: the key of a recording's metadata that says so, a text or a list whose first is taken
    invalid:       rows in which a feature that is not optional is not valid: trim leaves them out at both ends of an
                   episode, and the whole episode where there is one in between; split makes an episode of each run of
                   rows between them; drop leaves them all out; keep leaves none out, and each feature has its
                   ``valid`` column
    video:         none leaves images images; else what the frames of a camera are encoded as, and those of a recorded
                   video that cannot be taken as it is
    data_mb:       about how many MB (1e6 bytes) of rows make one file
    """

    version: Literal["v3.0", "v2.1"] = "v3.0"
    robot_type: str | None = None
    task: str = ""
    task_feature: str | None = None
    task_metadata: str = "tasks"
    invalid: Literal["trim", "split", "drop", "keep"] = "trim"
    video: Literal["none", "av1", "h264"] = "none"
    data_mb: int = 100


@dataclass(frozen=True)
class TreeSpec:
    """All that decides the tree beside the version that it is made of.

    fps:      rows a second
    required: columns of the features that must be valid
    codec:    zstd or none
    splits:   their names, in order
    storage_options: of the recordings, whose videos the tree is made of; they decide nothing in it
    """

    options: LeRobotOptions
    fps: Fraction
    required: tuple[str, ...]
    codec: str
    splits: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def v3(self) -> bool:
        return self.options.version == "v3.0"

    @property
    def encoding(self) -> Encoding | None:
        """What frames are encoded as; None: they are not."""
        return None if self.options.video == "none" else Encoding(self.options.video)
