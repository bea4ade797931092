"""Alignment in plain torch: the oracle that the kernels are tested against, and the fallback where they are missing.

It runs on any device and follows the kernels' arithmetic step by step for ``linear``, ``nearest``, ``previous``,
``next`` and ``mean``; the other modes are computed in float64 and rounded to the accumulator type at the end, so
they are at least as accurate as the kernels. The accumulator type is float64 for float64 values, else float32.

Shapes and dtypes are checked as the kernels do; that times are sorted is :mod:`robocache.ops.align`'s to look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robocache.ops._fuse import Arguments, check
from robocache.ops.modes import MODES

#: Largest finite value of each narrow output type: values beyond it are stored as it.
_SATURATE = {
    torch.float8_e4m3fn: (-448.0, 448.0),
    torch.float8_e5m2: (-57344.0, 57344.0),
    torch.int8: (-128.0, 127.0),
}
#: Below this angle (radians) sin(a)/sin(b) and a/b agree to float64, and slerp is a plain weighted sum.
_SMALL_ANGLE = 1e-6


def fuse(arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Bring M streams to the target times and lay them side by side: what ``torch.ops.robocache.fuse`` does.

    Returns:
        ``[B, T, sum D]`` in ``out_dtype`` and bool ``[B, T, M]``; ``[K, sum D]`` and ``[K, M]`` for jagged targets.

    Cubic is the monotone PCHIP of Fritsch & Butland (SIAM J. Sci. Stat. Comput. 5, 1984) with the one-sided ends of
    SciPy's ``PchipInterpolator``; the angle between quaternions is by Kahan's ``2 atan2(|b - a|, |b + a|)``.

    ``ValueError``: where the kernels would refuse.
    """
    check(arguments)
    a = arguments
    shape, targets = a.targets.shape, a.targets.reshape(-1)
    if a.target_offsets is None:
        target_offsets = _dense_offsets(*shape, device=targets.device)
    else:
        target_offsets = _rising("target_offsets", a.target_offsets, len(targets))
    row = torch.repeat_interleave(torch.diff(target_offsets), output_size=len(targets))

    columns, valid = [], []
    for m, (value, time, offset) in enumerate(zip(a.values, a.times, a.offsets, strict=True)):
        if offset is None:
            offset = _dense_offsets(*time.shape, device=time.device)
            value = value.reshape(time.numel(), value.shape[-1])
        else:
            offset = _rising(f"offsets[{m}]", offset, len(time))
        query = _Query(targets - _scalar(a.shifts[m], targets), target_offsets, row)
        max_gap = a.max_gaps[m] if a.max_gaps[m] >= 0 else None
        column, ok = _align_stream(value, time.reshape(-1), offset, MODES[a.modes[m]], max_gap, query)
        columns.append(column)
        valid.append(ok)

    widths = [column.shape[1] for column in columns]
    scales: Sequence[Tensor | None] = [None] * len(columns)
    if a.out_scale is not None:
        scales = a.out_scale.expand(sum(widths)).split(widths)
    out = torch.cat([_store(c, a.out_dtype, s) for c, s in zip(columns, scales, strict=True)], dim=1)
    return out.reshape(*shape, sum(widths)), torch.stack(valid, dim=1).reshape(*shape, len(columns))


def _rising(name: str, offsets: Tensor, total: int) -> Tensor:
    """The offsets. ``ValueError`` where they do not rise from 0 to ``total``."""
    if offsets[0] != 0 or offsets[-1] != total or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{name} must rise from 0 to {total}, got {offsets}")
    return offsets


class _Query(NamedTuple):
    """K target times on the stream's clock, the bounds of their rows ``[B + 1]``, and the row of each ``[K]``."""

    times: Tensor
    offsets: Tensor
    row: Tensor


class _Bracket(NamedTuple):
    """Where each target falls in its row of samples; every field is ``[K]``.

    start, stop: the row is samples ``start`` to ``stop``
    lo, hi: the samples around the target; the same one twice outside the recording
    hit:    ``lo`` is at the target
    between: the target is strictly between ``lo`` and ``hi``
    """

    start: Tensor
    stop: Tensor
    lo: Tensor
    hi: Tensor
    hit: Tensor
    between: Tensor


def _align_stream(
    values: Tensor, times: Tensor, offsets: Tensor, mode: str, max_gap: float | int | None, query: _Query
) -> tuple[Tensor, Tensor]:
    """One jagged stream at the targets: ``[K, D]`` in the accumulator type, and bool ``[K]``."""
    accumulator = torch.float64 if values.dtype == torch.float64 else torch.float32
    if len(times) == 0:
        nothing = torch.full((len(query.times), values.shape[1]), math.nan, dtype=accumulator, device=values.device)
        return nothing, torch.zeros_like(query.times, dtype=torch.bool)

    values, times, offsets = _drop_repeats(values, times, offsets)
    at = _bracket(times, offsets, query)
    if mode in ("nearest", "previous", "next"):
        value, valid = _select(values.to(accumulator), times, at, mode, max_gap, query.times)
    else:
        value, valid = _interpolate(values.to(accumulator), times, at, mode, max_gap, query.times)
        if mode == "mean":
            mean, full = _bin_means(values.to(accumulator), times, at, query)
            value, valid = torch.where(full[:, None], mean, value), full | valid
    empty = at.start == at.stop
    return value.masked_fill(empty[:, None], math.nan), valid & ~empty


def _bracket(times: Tensor, offsets: Tensor, query: _Query) -> _Bracket:
    start, stop = offsets[query.row], offsets[query.row + 1]
    after = _search(times, start, stop, query.times, right=True)
    lo = torch.maximum(after - 1, start).clamp(max=len(times) - 1)  # the clamps are for empty rows only
    hi = torch.minimum(after, stop - 1).clamp(min=0)
    hit = (times[lo] == query.times) & (after > start)
    return _Bracket(start, stop, lo, hi, hit, (after > start) & (after < stop) & ~hit)


def _select(
    values: Tensor, times: Tensor, at: _Bracket, mode: str, max_gap: float | int | None, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The modes that copy one sample."""
    before, after = targets - times[at.lo], times[at.hi] - targets  # negative on the far side of the recording
    if mode == "nearest":
        later = at.between & (after < before)
        exists = torch.ones_like(at.hit)
    else:
        later = at.between & (mode == "next")
        exists = (before >= 0) if mode == "previous" else at.hit | (after >= 0)
    chosen = torch.where(later, at.hi, at.lo)
    distance = (targets - times[chosen]).abs()
    return values[chosen], exists & _within(distance, max_gap)


def _interpolate(
    values: Tensor, times: Tensor, at: _Bracket, mode: str, max_gap: float | int | None, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The modes that compute between two samples, and copy one elsewhere. ``mean`` without a bin is ``linear``."""
    x0, x1 = values[at.lo], values[at.hi]
    gap = times[at.hi] - times[at.lo]
    w = (targets - times[at.lo]).to(values.dtype) / gap.to(values.dtype)
    w = torch.where(at.between, w, 0)[:, None]
    between = at.between[:, None]
    valid = at.hit | (at.between & _within(gap, max_gap))

    if mode == "slerp":
        value, usable = _slerp(x0, x1, w, between)
        return value, valid & usable
    if mode == "pose":
        position = torch.where(between, _fma(w, x1[:, :3] - x0[:, :3], x0[:, :3]), x0[:, :3])
        rotation, usable = _slerp(x0[:, 3:], x1[:, 3:], w, between)
        return torch.cat([position, rotation], dim=1), valid & usable
    if mode == "angle":
        turned = _fma(w, _wrap(x1 - x0), x0)
        value = _wrap(torch.where(between, turned, x0))
        return torch.where(value == -_pi(value.dtype), -value, value), valid
    if mode == "cubic":
        return torch.where(between, _pchip(values, times, at, x0, x1, w), x0), valid
    if mode in ("linear", "mean"):
        return torch.where(between, _fma(w, x1 - x0, x0), x0), valid
    raise ValueError(f"unknown mode {mode!r}")


def _pchip(values: Tensor, times: Tensor, at: _Bracket, x0: Tensor, x1: Tensor, w: Tensor) -> Tensor:
    """Monotone cubic between ``lo`` and ``hi``; all lengths in units of that interval, slopes per it."""
    left, right = (at.lo - 1).clamp(min=0), (at.hi + 1).clamp(max=len(times) - 1)
    has_left, has_right = (at.lo > at.start)[:, None], (at.hi + 1 < at.stop)[:, None]
    unit = (times[at.hi] - times[at.lo]).double()
    h0 = ((times[at.lo] - times[left]).double() / unit)[:, None]
    h2 = ((times[right] - times[at.hi]).double() / unit)[:, None]
    one = torch.ones_like(h0)
    s0 = (x0.double() - values[left].double()) / h0
    s1 = x1.double() - x0.double()
    s2 = (values[right].double() - x1.double()) / h2
    m0 = torch.where(has_left, _slope(h0, one, s0, s1), torch.where(has_right, _end_slope(one, h2, s1, s2), s1))
    m1 = torch.where(has_right, _slope(one, h2, s1, s2), torch.where(has_left, _end_slope(one, h0, s1, s0), s1))
    w64 = w.double()
    value = x0.double() + w64 * (m0 + w64 * ((3 * s1 - 2 * m0 - m1) + w64 * (m0 + m1 - 2 * s1)))
    return torch.where(has_left | has_right, value.to(x0.dtype), _fma(w, x1 - x0, x0))


def _slope(h_left: Tensor, h_right: Tensor, s_left: Tensor, s_right: Tensor) -> Tensor:
    """Derivative at an inner sample: the weighted harmonic mean of both sides' slopes, 0 at an extremum."""
    w_left, w_right = 2 * h_right + h_left, h_right + 2 * h_left
    mean = (w_left + w_right) / (w_left / s_left + w_right / s_right)
    return torch.where(_opposed(s_left, s_right), 0, mean)


def _end_slope(h_near: Tensor, h_far: Tensor, s_near: Tensor, s_far: Tensor) -> Tensor:
    """Derivative at the first or last sample: the three-point estimate, limited to keep the shape."""
    slope = ((2 * h_near + h_far) * s_near - h_near * s_far) / (h_near + h_far)
    steep = _opposed(s_near, s_far) & (slope.abs() > 3 * s_near.abs())
    return torch.where(_opposed(slope, s_near), 0, torch.where(steep, 3 * s_near, slope))


def _opposed(a: Tensor, b: Tensor) -> Tensor:
    """Signs differ or one is zero. By sign and not by product, which can underflow; a NaN is not opposed."""
    return ((a <= 0) & (b >= 0)) | ((a >= 0) & (b <= 0))


def _slerp(q0: Tensor, q1: Tensor, w: Tensor, between: Tensor) -> tuple[Tensor, Tensor]:
    """Unit quaternions ``[K, 4]`` on the shorter arc, and where they exist: zero and non-finite ones have none."""
    dtype = q0.dtype
    q0, q1, w = q0.double(), q1.double(), w.double()
    norm0, norm1 = q0.norm(dim=1, keepdim=True), q1.norm(dim=1, keepdim=True)
    usable = _positive_finite(norm0) & (_positive_finite(norm1) | ~between)
    q0, q1 = q0 / norm0, q1 / norm1
    q1 = torch.where((q0 * q1).sum(dim=1, keepdim=True) < 0, -q1, q1)
    theta = 2 * torch.atan2((q1 - q0).norm(dim=1, keepdim=True), (q1 + q0).norm(dim=1, keepdim=True))
    small = theta < _SMALL_ANGLE
    w0 = torch.where(small, 1 - w, torch.sin((1 - w) * theta) / torch.sin(theta))
    w1 = torch.where(small, w, torch.sin(w * theta) / torch.sin(theta))
    q = torch.where(between, w0 * q0 + w1 * q1, q0)
    q = q / q.norm(dim=1, keepdim=True)
    return torch.where(usable, q, 0).to(dtype), usable[:, 0]


def _bin_means(values: Tensor, times: Tensor, at: _Bracket, query: _Query) -> tuple[Tensor, Tensor]:
    """Mean of the samples in each target's bin ``[K, D]``, and where there are any ``[K]``."""
    lower, upper, alone = _bin_edges(query)
    first = _search(times, at.start, at.stop, lower, right=False)
    count = (_search(times, at.start, at.stop, upper, right=False) - first).clamp(min=0)
    count = torch.where(alone, 0, count)
    total = int(count.sum())
    bin_of = torch.repeat_interleave(count, output_size=total)
    member = torch.arange(total, device=count.device) + (first - count.cumsum(0) + count)[bin_of]
    # Differences from the bin's first sample: exact for a constant signal, and small numbers are summed. One bin's
    # samples are added one after the other, in time order, so the sum does not depend on what else is in the batch.
    sums = values.new_zeros(len(count), values.shape[1])
    if total and values.shape[1]:
        excess = values[member] - values[first[bin_of]]
        sums = torch.segment_reduce(excess, "sum", lengths=count, axis=0, initial=0)
    base = values[first.clamp(max=len(times) - 1)]
    mean = _fma(sums, (1 / count.clamp(min=1).to(values.dtype))[:, None], base)
    return torch.where((count == 1)[:, None], base, mean), count > 0


def _bin_edges(query: _Query) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds ``[lower, upper)`` of each target's bin, and where a target is alone in its row and has none.

    Between neighbours the edge is midway; outside the first and the last target it is mirrored. Integer edges are
    the real edge rounded up: no stamp lies between the two.
    """
    t = query.times
    index = torch.arange(len(t), device=t.device)
    is_first, is_last = index == query.offsets[query.row], index + 1 == query.offsets[query.row + 1]
    step_back, step_on = t - t.roll(1), t.roll(-1) - t
    step_back, step_on = torch.where(is_first, step_on, step_back), torch.where(is_last, step_back, step_on)
    if t.is_floating_point():
        lower = torch.where(is_first, t - step_back * 0.5, t.roll(1) + step_back * 0.5)
        upper = t + step_on * 0.5
    else:
        lower = t - torch.div(step_back, 2, rounding_mode="floor")
        upper = t + torch.div(step_on + 1, 2, rounding_mode="floor")
    return lower, upper, is_first & is_last


def _search(times: Tensor, start: Tensor, stop: Tensor, query: Tensor, *, right: bool) -> Tensor:
    """First index of ``[start, stop)`` with a stamp > query (``right``) or >= query, else ``stop``; all ``[K]``."""
    lo, hi = start, stop
    for _ in range(len(times).bit_length()):
        middle = (lo + hi) >> 1
        stamp = times[middle.clamp(max=len(times) - 1)]
        earlier = ((stamp <= query) if right else (stamp < query)) & (middle < hi)
        lo, hi = torch.where(earlier, middle + 1, lo), torch.where(earlier, hi, middle)
    return lo


def _drop_repeats(values: Tensor, times: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows without all but the last sample of each run of equal stamps."""
    keep = torch.ones_like(times, dtype=torch.bool)
    keep[:-1] = times[1:] != times[:-1]
    ends = offsets[1:]
    keep[ends[ends > 0] - 1] = True  # a row's last sample stays, whatever the next row begins with
    if bool(keep.all()):
        return values, times, offsets
    kept = torch.cat([offsets.new_zeros(1), keep.cumsum(0)])
    return values[keep], times[keep], kept[offsets]


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
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


def _wrap(x: Tensor) -> Tensor:
    """Radians brought to ``[-pi, pi]``, where pi is the nearest value of the dtype; those inside are untouched."""
    wide = x.double()
    turns = torch.round(wide / (2 * math.pi))
    return torch.where(x.abs() <= _pi(x.dtype), x, (wide - turns * (2 * math.pi)).to(x.dtype))


def _pi(dtype: torch.dtype) -> float:
    return torch.tensor(math.pi, dtype=dtype).item()


def _positive_finite(x: Tensor) -> Tensor:
    return (x > 0) & x.isfinite()


def _within(distance: Tensor, limit: float | int | None) -> Tensor:
    return torch.ones_like(distance, dtype=torch.bool) if limit is None else distance <= _scalar(limit, distance)


def _scalar(value: float | int, like: Tensor) -> Tensor:
    """The number in the dtype of the times: a Python float beside int64 would turn both to float32."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def _dense_offsets(rows: int, length: int, *, device: torch.device) -> Tensor:
    return torch.arange(rows + 1, dtype=torch.int64, device=device) * length


def _store(value: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """Rounded half to even from the accumulator; the 8-bit types scaled first and saturated, NaN being 0 in int8."""
    if dtype in _SATURATE:
        if scale is not None:
            value = value / scale.to(value.dtype)
        value = value.clamp(*_SATURATE[dtype])
    if dtype == torch.int8:
        value = value.round().nan_to_num(nan=0.0)
    elif value.dtype == torch.float64 and dtype.itemsize < 4:
        value = _float32_to_odd(value)
    return value.to(dtype)


def _float32_to_odd(value: Tensor) -> Tensor:
    """float64 as float32 with the last bit set where inexact, so that rounding on to a narrower type is as if direct
    (Boldo & Melquiond, IEEE Trans. Computers 57, 2008)."""
    rounded = value.float()
    inexact = (rounded.double() != value) & ~value.isnan()
    toward_zero = rounded.view(torch.int32) - (rounded.double().abs() > value.abs()).int()
    return torch.where(inexact, (toward_zero | 1).view(torch.float32), rounded)
