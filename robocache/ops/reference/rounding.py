"""Roundings laid down: a fused multiply-add, and what is stored in each output dtype."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Largest finite value of each narrow output type: values beyond it are stored as it.
_SATURATE = {
    torch.float8_e4m3fn: (-448.0, 448.0),
    torch.float8_e5m2: (-57344.0, 57344.0),
    torch.int8: (-128.0, 127.0),
}


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c`` rounded once, in the dtype of ``c``.

    float32: the product is exact in float64; rounding the sum to float64 first changes the result about once in
    1e9. float64: the rounding errors of product (Dekker) and sum (Knuth) are added back, with the same caveat.
    """
    if c.dtype != torch.float64:
        return (a.double() * b.double() + c.double()).to(c.dtype)
    product = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    product_error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    total = product + c
    part = total - product
    total_error = (product - (total - part)) + (c - part)
    error = product_error + total_error
    return torch.where(error.isfinite(), total + error, total)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two 26-bit halves whose sum is ``x`` (Veltkamp)."""
    scaled = x * (2.0**27 + 1)
    high = scaled - (scaled - x)
    return high, x - high


def store(value: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """Rounded half to even from the accumulator; the 8-bit types scaled first and saturated, NaN being 0 in int8."""
    if dtype in _SATURATE:
        if scale is not None:
            value = value / scale.to(value.dtype)
        value = torch.where(value.isnan(), math.nan, value.clamp(*_SATURATE[dtype]))  # NaN of one sign
    if value.dtype == torch.float64 and dtype.itemsize < 4:
        value = float32_to_odd(value)
    if dtype == torch.int8:
        value = value.round().nan_to_num(nan=0.0)
    return value.to(dtype)


def float32_to_odd(value: Tensor) -> Tensor:
    """float64 as float32 with the last bit set where inexact, so that rounding on to a narrower type is as if direct
    (Boldo & Melquiond, IEEE Trans. Computers 57, 2008)."""
    rounded = value.float()
    inexact = (rounded.double() != value) & ~value.isnan()
    toward_zero = rounded.view(torch.int32) - (rounded.double().abs() > value.abs()).int()
    return torch.where(inexact, (toward_zero | 1).view(torch.float32), rounded)
