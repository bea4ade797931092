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
    rule, low, divisor, still = _ruled("normalize", x, statistics, mode, convention)
    y = (x - low) / divisor
    if mode != "mean_std":
        y = torch.where(still, y, 2 * y - 1) if rule.least else 2 * y - 1
    if rule.clip:
        y = torch.where(still, torch.where(torch.isnan(x), x, 0.0), y.clamp(-1, 1))
    return alike(_masked(x, y, mask), given)


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
    rule, low, divisor, still = _ruled("unnormalize", y, statistics, mode, convention)
    x = y
    if mode != "mean_std":
        x = torch.where(still, y, (y + 1) / 2) if rule.least else (y + 1) / 2
    x = x * divisor + low
    if rule.clip:
        x = torch.where(still, torch.where(torch.isnan(y), y, low), x)
    return alike(_masked(y, x, mask), given)


def _ruled(
    op: str, x: Tensor, statistics: Mapping[str, Any], mode: str, convention: str
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
        found = torch.as_tensor(statistics[name], dtype=torch.float64, device=x.device)
        if found.shape not in ((), (1,), x.shape[-1:]):
            raise ValueError(f"{op}: {name} {list(found.shape)} must be a number or {x.shape[-1]} of them")
        return found

    first, second = (column(name) for name in STATISTICS[mode])
    spread = second if mode == "mean_std" else second - first
    divisor, still = rule.divisor(spread), spread < rule.least
    if rule.least:
        divisor = torch.where(still, 1.0, divisor)
    if rule.clip:
        still = column("min") == column("max") if {"min", "max"} <= set(statistics) else spread == 0
    return rule, first.to(x.dtype), divisor.to(x.dtype), still


def _masked(x: Tensor, y: Tensor, mask: Sequence[bool] | None) -> Tensor:
    if mask is None:
        return y
    if len(mask) != x.shape[-1]:
        raise ValueError(f"the mask has {len(mask)} values for {x.shape[-1]} columns")
    return torch.where(torch.tensor([bool(m) for m in mask], device=x.device), y, x)
