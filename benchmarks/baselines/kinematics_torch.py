"""Actions and rotations in plain torch, as a training script writes them; compiled where asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EPISODE, CHUNK = 500, 50


def build(case: Any, compiled: bool = False) -> Callable[[Tensor], Tensor] | None:
    if case.name not in ("chunk", "rot6d"):
        return None
    call = chunk if case.name == "chunk" else rot6d
    return torch.compile(call) if compiled else call


def chunk(q: Tensor) -> Tensor:
    """Each step's next CHUNK rows less its own; NaN behind the episode's end."""
    episodes = q.view(-1, EPISODE, q.shape[-1])
    padded = torch.nn.functional.pad(episodes, (0, 0, 0, CHUNK - 1), value=float("nan"))
    return (padded.unfold(1, CHUNK, 1).transpose(-1, -2) - episodes.unsqueeze(2)).reshape(-1, CHUNK, q.shape[-1])


def rot6d(q: Tensor) -> Tensor:
    """The first two columns of the matrix of x y z w."""
    x, y, z, w = q.unbind(-1)
    s = 2 / (q * q).sum(-1)
    return torch.stack(
        [
            1 - s * (y * y + z * z), s * (x * y + z * w), s * (x * z - y * w),
            s * (x * y - z * w), 1 - s * (x * x + z * z), s * (y * z + x * w),
        ],
        -1,
    )  # fmt: skip
