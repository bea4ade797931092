"""Normalisation of actions and states as known consumers have it, and its inverse.

Each convention has the modes that its code has; ``y`` lies about [-1, 1] (bounds) or has mean 0 and deviation 1.

================ =================== ===================================================== ==========================
convention       mode                y                                                     where the range is nothing
================ =================== ===================================================== ==========================
lerobot          mean_std            (x - mean) / (std + 1e-8)
lerobot          min_max, q01_q99,   2 (x - low) / (high - low) - 1                        divided by 1e-8
                 q10_q90
openpi           mean_std            (x - mean) / (std + 1e-6)
openpi           q01_q99             2 (x - low) / (high - low + 1e-6) - 1
openvla          mean_std            (x - mean) / (std + 1e-8)
openvla          min_max, q01_q99    clip(2 (x - low) / (high - low + 1e-8) - 1, -1, 1)    0 where min = max
diffusion_policy min_max             2 (x - low) / (high - low) - 1                        x - low, below 1e-4
diffusion_policy mean_std            (x - mean) / std                                      x - mean, below 1e-4
umi              min_max             2 (x - low) / (high - low) - 1                        x - low, below 1e-7
act              mean_std            (x - mean) / max(std, 1e-2)
================ =================== ===================================================== ==========================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robocache.ops._numpy import alike, tensor

#: mode -> the statistics that it takes, low (or mean) first.
STATISTICS = {
    "mean_std": ("mean", "std"),
    "min_max": ("min", "max"),
    "q01_q99": ("q01", "q99"),
    "q10_q90": ("q10", "q90"),
}


@dataclass(frozen=True)
class _Rule:
    """``divisor(d)``: what ``x - low`` is divided by, where ``d`` is the range or the deviation.
    least: below it ``x - low`` stays as it is; clip: to [-1, 1], and 0 where min = max
    """

    divisor: Callable[[Tensor], Tensor]
    least: float = 0.0
    clip: bool = False


def _plus(epsilon: float) -> Callable[[Tensor], Tensor]:
    return lambda d: d + epsilon


def _or(epsilon: float) -> Callable[[Tensor], Tensor]:
    return lambda d: torch.where(d == 0, epsilon, d)


def _plain(d: Tensor) -> Tensor:
    return d


_LEROBOT = _Rule(_or(1e-8))
_OPENVLA = _Rule(_plus(1e-8), clip=True)
RULES: Mapping[str, Mapping[str, _Rule]] = {
    "lerobot": {"mean_std": _Rule(_plus(1e-8)), "min_max": _LEROBOT, "q01_q99": _LEROBOT, "q10_q90": _LEROBOT},
    "openpi": {"mean_std": _Rule(_plus(1e-6)), "q01_q99": _Rule(_plus(1e-6))},
    "openvla": {"mean_std": _Rule(_plus(1e-8)), "min_max": _OPENVLA, "q01_q99": _OPENVLA},
    "diffusion_policy": {"min_max": _Rule(_plain, least=1e-4), "mean_std": _Rule(_plain, least=1e-4)},
    "umi": {"min_max": _Rule(_plain, least=1e-7)},
    "act": {"mean_std": _Rule(lambda d: d.clamp(min=1e-2))},
}


def normalize(
    x: Any,
    statistics: Mapping[str, Any],
    mode: str,
    convention: str = "lerobot",
    *,
    mask: Sequence[bool] | None = None,
) -> Any:
    """``x [..., D]`` normalised, of the same dtype; see the table above.

    statistics: of the values as they are here (converted ones of converted actions), a number or D of them each:
                those that the mode takes, and for openvla's 0 ``min`` and ``max`` too (else its low and high tell)
    mask:       a truth value a column: False is left as it is (OpenVLA does so with the gripper)

    ``ValueError``: no such mode or convention, a statistic that is missing or of another length.
    """
    given, x = x, tensor("normalize", "x", x)
    made = Normalization("normalize", x.shape[-1], statistics, mode, convention, mask=mask, device=x.device)
    return alike(made(x), given)


def unnormalize(
    y: Any,
    statistics: Mapping[str, Any],
    mode: str,
    convention: str = "lerobot",
    *,
    mask: Sequence[bool] | None = None,
) -> Any:
    """The inverse of :func:`normalize`, to rounding; what was clipped comes back as the bound, what was made 0 because
    it never moves as the value that it always has.
    """
    given, y = y, tensor("unnormalize", "y", y)
    made = Normalization("unnormalize", y.shape[-1], statistics, mode, convention, mask=mask, device=y.device)
    return alike(made.inverse(y), given)


class Normalization:
    """:func:`normalize` and its inverse of columns of ``width`` numbers, prepared once for many batches.

    It takes floats ``[..., width]``, tensors on ``device`` or arrays of NumPy, and gives the like; arrays are computed
    by NumPy, in the thread that asks. op: who asks, for errors. Arguments and errors else as of :func:`normalize`.
    """

    def __init__(
        self,
        op: str,
        width: int,
        statistics: Mapping[str, Any],
        mode: str,
        convention: str = "lerobot",
        *,
        mask: Sequence[bool] | None = None,
        device: torch.device | str = "cpu",
    ):
        self._mode = mode
        self._rule, low, divisor, still = _ruled(op, width, statistics, mode, convention, device)
        if mask is not None and len(mask) != width:
            raise ValueError(f"the mask has {len(mask)} values for {width} columns")
        kept = None if mask is None else torch.tensor([bool(m) for m in mask], device=device)
        self._tensors = (low, divisor, still, kept)

    def __call__(self, x: Any) -> Any:
        """``x`` normalised, of the same dtype."""
        xp, low, divisor, still, kept = self._for(x)
        y = (x - low) / divisor
        if self._mode != "mean_std":
            y = xp.where(still, y, 2 * y - 1) if self._rule.least else 2 * y - 1
        if self._rule.clip:
            y = xp.where(still, xp.where(xp.isnan(x), x, 0.0), xp.clip(y, -1, 1))
        return y if kept is None else xp.where(kept, y, x)

    def inverse(self, y: Any) -> Any:
        """``y`` as it was before, of the same dtype."""
        xp, low, divisor, still, kept = self._for(y)
        x = y
        if self._mode != "mean_std":
            x = xp.where(still, y, (y + 1) / 2) if self._rule.least else (y + 1) / 2
        x = x * divisor + low
        if self._rule.clip:
            x = xp.where(still, xp.where(xp.isnan(y), y, low), x)
        return x if kept is None else xp.where(kept, x, y)

    def _for(self, values: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Whose functions to use, and what they take."""
        low, divisor, still, kept = self._tensors
        if isinstance(values, Tensor):
            return torch, low.to(values.dtype), divisor.to(values.dtype), still, kept
        first, second = (t.cpu().numpy().astype(values.dtype) for t in (low, divisor))
        return np, first, second, still.cpu().numpy(), None if kept is None else kept.cpu().numpy()


def _ruled(
    op: str, width: int, statistics: Mapping[str, Any], mode: str, convention: str, device: torch.device | str
) -> tuple[_Rule, Tensor, Tensor, Tensor]:
    """The rule; low or mean; the divisor; bool: columns that do not move, where the rule makes something of that."""
    if convention not in RULES:
        raise ValueError(f"{op}: convention is {convention!r}; use one of {', '.join(RULES)}")
    if mode not in RULES[convention]:
        raise ValueError(f"{op}: mode is {mode!r}; {convention} has {', '.join(RULES[convention])}")
    rule = RULES[convention][mode]

    def column(name: str) -> Tensor:
        if name not in statistics:
            raise ValueError(f"{op}: {mode} takes the statistics {' and '.join(STATISTICS[mode])}; {name} is missing")
        found = torch.as_tensor(statistics[name], dtype=torch.float64, device=device)
        if found.shape not in ((), (1,), (width,)):
            raise ValueError(f"{op}: {name} {list(found.shape)} must be a number or {width} of them")
        return found

    first, second = (column(name) for name in STATISTICS[mode])
    spread = second if mode == "mean_std" else second - first
    divisor, still = rule.divisor(spread), spread < rule.least
    if rule.least:
        divisor = torch.where(still, 1.0, divisor)
    if rule.clip:
        still = column("min") == column("max") if {"min", "max"} <= set(statistics) else spread == 0
    return rule, first, divisor, still
