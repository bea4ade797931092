"""Sums without rounding: every addend is cut into 32-bit limbs of one wide integer, and the total is rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

_LIMB = 32
_MASK = 2**_LIMB - 1


def exact_sums(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """``values [n, C]`` summed by ``row [n]`` -> float64 ``[rows, C]``: the exact sum, rounded once to nearest even.

    As ``math.fsum`` of each column of each row, except that a sum beyond float64 is infinite; whatever the order. An
    infinity or NaN among the addends makes the sum what IEEE addition makes it.
    """
    columns = values.shape[1]
    x = values.double()
    special = torch.zeros(rows, columns, dtype=torch.float64, device=x.device)
    special.index_add_(0, row, torch.where(x.isfinite(), 0.0, x))  # inf - inf is NaN in any order
    x = torch.where(x.isfinite(), x, 0.0)
    if x.numel() == 0 or not bool((x != 0).any()):
        return special
    mantissa, exponent = torch.frexp(x)
    integer, exponent = (mantissa.abs() * 2.0**53).long(), exponent.long() - 53
    low = int(exponent[x != 0].min())
    exponent = torch.where(x != 0, exponent - low, 0)
    limb, shift = exponent // _LIMB, exponent % _LIMB
    limbs = int(limb.max()) + 5  # three of an addend and two of carries
    total = torch.zeros(rows * columns * limbs, dtype=torch.int64, device=x.device)
    first = (row[:, None] * columns + torch.arange(columns, device=x.device)) * limbs + limb
    sign = torch.where(x < 0, -1, 1)
    bottom, top = (integer & _MASK) << shift, (integer >> _LIMB) << shift
    for k, part in enumerate((bottom & _MASK, (bottom >> _LIMB) + (top & _MASK), top >> _LIMB)):
        total.index_add_(0, (first + k).reshape(-1), (sign * part).reshape(-1))
    return special + _rounded(total.view(rows * columns, limbs), low).view(rows, columns)


def _carried(limbs: Tensor) -> Tensor:
    """The same numbers with every limb but the highest in [0, 2^32)."""
    for k in range(limbs.shape[1] - 1):
        limbs[:, k + 1] += limbs[:, k] >> _LIMB
        limbs[:, k] &= _MASK
    return limbs


def _rounded(limbs: Tensor, low: int) -> Tensor:
    """``sum of limbs[:, k] 2^(32 k + low)`` as float64."""
    limbs = _carried(limbs)
    negative = limbs[:, -1] < 0
    limbs = _carried(torch.where(negative[:, None], -limbs, limbs))
    limbs = torch.nn.functional.pad(limbs, (2, 0))
    used = limbs != 0
    highest = limbs.shape[1] - 1 - used.flip(1).int().argmax(1)
    highest = highest.clamp(min=2)[:, None]
    a, b, c = (limbs.gather(1, highest - k).squeeze(1) for k in range(3))
    below = used.cumsum(1).gather(1, highest).squeeze(1) > (a != 0).int() + (b != 0).int() + (c != 0).int()
    # The leading 53 bits or fewer, the next 43 with a last bit for whatever follows: both exact, their sum rounds once.
    leading = (a << 21) + (b >> 11)
    rest = ((b & 0x7FF) << _LIMB) + c
    value = leading.double() * 2.0**43 + (rest | below.long()).double()
    power = (highest.squeeze(1) - 4) * _LIMB + low
    half = power // 2
    value = value * _power(half) * _power(power - half)
    return torch.where(negative, -value, value)


def _power(exponent: Tensor) -> Tensor:
    """2^exponent, for exponents of normal numbers."""
    return ((exponent + 1023) << 52).view(torch.float64)
