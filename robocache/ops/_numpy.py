"""NumPy arrays into operators of tensors and out again."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


def tensor(op: str, name: str, x: Any) -> Tensor:
    """``x`` as a tensor of float64 or float32, without a copy. ``TypeError`` for another kind, ``ValueError`` for
    another dtype.
    """
    if isinstance(x, np.ndarray):
        if not x.flags.writeable or any(stride < 0 for stride in x.strides):
            x = x.copy()  # torch warns of read-only memory and knows no negative strides
        x = torch.from_numpy(x) if x.dtype.isnative else torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} is {type(x).__name__}; use a torch tensor or a NumPy array")
    if x.dtype not in (torch.float64, torch.float32):
        raise ValueError(f"{op}: {name} is {x.dtype}; use float64 or float32")
    return x


def alike(result: Tensor, given: Any) -> Any:
    """``result`` as an array where ``given`` was one."""
    return result.numpy() if isinstance(given, np.ndarray) else result
