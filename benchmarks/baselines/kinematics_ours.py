"""What of RoboCache is plain torch, compiled by torch, as its documentation recommends for rotations and actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robocache import convert_rotation


def build(case: Any) -> Callable[[Tensor], Tensor] | None:
    if case.name != "rot6d":
        return None
    return torch.compile(lambda q: convert_rotation(q, "quaternion_xyzw", "rot6d"))
