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
from robocache.ops.reference.rounding import fma, store

#: Below this angle (radians) sin(a)/sin(b) and a/b agree to float64, and slerp is a plain weighted sum.
_SMALL_ANGLE = 1e-6
#: Samples of a bin that are summed in their accumulator's dtype, as the kernels do.
_SUMMED = 256


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
        query = _Query(unshifted(targets, a.shifts[m]), target_offsets, row)
        max_gap = a.max_gaps[m] if a.max_gaps[m] >= 0 else _most(targets.dtype)
        mode = MODES[a.modes[m]]
        column, ok = _align_stream(value, time.reshape(-1), offset, mode, max_gap, a.periods[m], query)
        columns.append(column)
        valid.append(ok)

    widths = [column.shape[1] for column in columns]
    scales: Sequence[Tensor | None] = [None] * len(columns)
    if a.out_scale is not None:
        scales = a.out_scale.expand(sum(widths)).split(widths)
    out = torch.cat([store(c, a.out_dtype, s) for c, s in zip(columns, scales, strict=True)], dim=1)
    return out.reshape(*shape, sum(widths)), torch.stack(valid, dim=1).reshape(*shape, len(columns))


def _rising(name: str, offsets: Tensor, total: int) -> Tensor:
    """The offsets. ``ValueError`` where they do not rise from 0 to ``total``."""
    if offsets[0] != 0 or offsets[-1] != total or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{name} must rise from 0 to {total}, got {offsets}")
    return offsets


def stream_gradient(
    grad: Tensor,
    values: Tensor,
    times: Tensor,
    offsets: Tensor | None,
    mode: str,
    shift: float,
    targets: Tensor,
    target_offsets: Tensor | None,
) -> Tensor:
    """What the gradient ``[..., D]`` by one stream's columns is by its values, of their shape and dtype.

    ``mode``: one of :data:`~robocache.ops.modes.DIFFERENTIABLE`. Sums are taken in a fixed order, in float64 for
    float64 values, else in float32.
    """
    shape, width = values.shape, values.shape[-1]
    accumulator = torch.float64 if values.dtype == torch.float64 else torch.float32
    if target_offsets is None:
        target_offsets = _dense_offsets(*targets.shape, device=targets.device)
    if offsets is None:
        offsets = _dense_offsets(*times.shape, device=times.device)
    times, targets, grad = times.reshape(-1), targets.reshape(-1), grad.reshape(-1, width).to(accumulator)
    result = grad.new_zeros(len(times), width)
    if len(times) == 0 or len(targets) == 0:
        return result.reshape(shape).to(values.dtype)
    row = torch.repeat_interleave(torch.diff(target_offsets), output_size=len(targets))
    query = _Query(unshifted(targets, shift), target_offsets, row)
    kept, offsets = _without_repeats(times, offsets)
    times = times[kept]
    at = _bracket(times, offsets, query)
    exists = at.start < at.stop

    def by_sample(samples: Tensor, amounts: Tensor, where: Tensor) -> Tensor:
        """``[len(times), D]``: the sums of what each sample gets, in the order of the targets."""
        samples, order = samples[where].sort(stable=True)
        return _segment_sums(amounts[where][order], torch.bincount(samples, minlength=len(times)))

    if mode in ("nearest", "previous", "next"):
        chosen, _ = _select(times, at, mode, _most(times.dtype), query.times)
        sums = by_sample(chosen, grad, exists)
    else:
        w, between = _weights(times, at, query.times, accumulator)[:, None], at.between[:, None]
        shares = torch.zeros_like(exists)
        if mode == "mean":
            first, count = _bins(times, at, query)
            shares = count > 0
        alone = exists & ~shares
        sums = by_sample(at.lo, torch.where(between, grad - w * grad, grad), alone)
        sums = sums + by_sample(at.hi, w * grad, alone & at.between)
        if mode == "mean":
            member, bin_of = _members(first, count)
            share = (grad / count.clamp(min=1).to(accumulator)[:, None])[bin_of]
            sums = sums + by_sample(member, share, torch.ones_like(member, dtype=torch.bool))
    result[kept] = sums
    return result.reshape(shape).to(values.dtype)


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
    values: Tensor, times: Tensor, offsets: Tensor, mode: str, max_gap: float, period: float, query: _Query
) -> tuple[Tensor, Tensor]:
    """One jagged stream at the targets: ``[K, D]`` in the accumulator type, and bool ``[K]``."""
    accumulator = torch.float64 if values.dtype == torch.float64 else torch.float32
    if len(times) == 0:
        nothing = torch.full((len(query.times), values.shape[1]), math.nan, dtype=accumulator, device=values.device)
        return nothing, torch.zeros_like(query.times, dtype=torch.bool)

    kept, offsets = _without_repeats(times, offsets)
    values, times = values[kept].to(accumulator), times[kept]
    at = _bracket(times, offsets, query)
    if mode in ("nearest", "previous", "next"):
        chosen, valid = _select(times, at, mode, max_gap, query.times)
        value = values[chosen]
    else:
        between = "angle" if mode == "mean" and period else mode
        value, valid = _interpolate(values, times, at, between, max_gap, period, query.times)
        if mode == "mean":
            mean, full = _bin_means(values, times, at, query, period)
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


def _select(times: Tensor, at: _Bracket, mode: str, max_gap: float, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The modes that copy one sample: which, and whether it is valid."""
    before, after = times[at.lo] <= targets, times[at.hi] >= targets
    if mode == "nearest":
        later = at.between & _shorter(times[at.hi] - targets, targets - times[at.lo])
        exists = torch.ones_like(at.hit)
    else:
        later = at.between & (mode == "next")
        exists = before if mode == "previous" else after
    chosen = torch.where(later, at.hi, at.lo)
    stamp = times[chosen]
    return chosen, exists & _within(torch.where(stamp <= targets, targets - stamp, stamp - targets), max_gap)


def _interpolate(
    values: Tensor, times: Tensor, at: _Bracket, mode: str, max_gap: float, period: float, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The modes that compute between two samples, and copy one elsewhere. ``mean`` without a bin is ``linear``."""
    x0, x1 = values[at.lo], values[at.hi]
    w, between = _weights(times, at, targets, values.dtype)[:, None], at.between[:, None]
    valid = at.hit | (at.between & _within(times[at.hi] - times[at.lo], max_gap))

    if mode == "slerp":
        value, usable = _slerp(x0, x1, w, between)
        return value, valid & usable
    if mode == "pose":
        position = torch.where(between, fma(w, x1[:, :3] - x0[:, :3], x0[:, :3]), x0[:, :3])
        rotation, usable = _slerp(x0[:, 3:], x1[:, 3:], w, between)
        return torch.cat([position, rotation], dim=1), valid & usable
    if mode == "angle":
        turned = fma(w, _remainder(x1 - x0, period), x0)
        return _wrap(torch.where(between, turned, x0), period), valid
    if mode == "cubic":
        return torch.where(between, _pchip(values, times, at, x0, x1, w), x0), valid
    if mode in ("linear", "mean"):
        return torch.where(between, fma(w, x1 - x0, x0), x0), valid
    raise ValueError(f"unknown mode {mode!r}")


def _pchip(values: Tensor, times: Tensor, at: _Bracket, x0: Tensor, x1: Tensor, w: Tensor) -> Tensor:
    """Monotone cubic between ``lo`` and ``hi``; all lengths in units of that interval, slopes per it."""
    left, right = (at.lo - 1).clamp(min=0), (at.hi + 1).clamp(max=len(times) - 1)
    has_left, has_right = (at.lo > at.start)[:, None], (at.hi + 1 < at.stop)[:, None]
    unit = _length(times[at.hi] - times[at.lo], torch.float64)
    h0 = (_length(times[at.lo] - times[left], torch.float64) / unit)[:, None]
    h2 = (_length(times[right] - times[at.hi], torch.float64) / unit)[:, None]
    one = torch.ones_like(h0)
    s0 = (x0.double() - values[left].double()) / h0
    s1 = x1.double() - x0.double()
    s2 = (values[right].double() - x1.double()) / h2
    m0 = torch.where(has_left, _slope(h0, one, s0, s1), torch.where(has_right, _end_slope(one, h2, s1, s2), s1))
    m1 = torch.where(has_right, _slope(one, h2, s1, s2), torch.where(has_left, _end_slope(one, h0, s1, s0), s1))
    w64 = w.double()
    value = x0.double() + w64 * (m0 + w64 * ((3 * s1 - 2 * m0 - m1) + w64 * (m0 + m1 - 2 * s1)))
    return torch.where(has_left | has_right, value.to(x0.dtype), fma(w, x1 - x0, x0))


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
    q0, q1, w = _scaled(q0.double()), _scaled(q1.double()), w.double()
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


def _bin_means(values: Tensor, times: Tensor, at: _Bracket, query: _Query, period: float) -> tuple[Tensor, Tensor]:
    """Mean of the samples in each target's bin ``[K, D]``, and where there are any ``[K]``."""
    first, count = _bins(times, at, query)
    member, bin_of = _members(first, count)
    # Differences from the bin's first sample: exact for a constant signal, and small numbers are summed. One bin's
    # samples are added one after the other, in time order, so the sum does not depend on what else is in the batch.
    base = values[first.clamp(max=len(times) - 1)]
    excess = values[member] - base[bin_of]
    if period and len(member):
        starts = count.cumsum(0) - count  # of each bin among the members
        begins = torch.zeros_like(bin_of, dtype=torch.bool).index_fill_(0, starts[count > 0], True)
        step = torch.where(begins[:, None], 0, values[member] - values[member].roll(1, 0))
        turns = (step.double() / period).round().cumsum(0)
        turns = turns - turns[starts.clamp(max=len(member) - 1)][bin_of]
        excess = (excess.double() - turns * period).to(excess.dtype)
    per_count = (1 / count.clamp(min=1).to(values.dtype))[:, None]
    mean = fma(_bin_sums(excess, count), per_count, base)
    if period:
        return _wrap(torch.where((count == 1)[:, None], base, mean), period), count > 0
    plain = _bin_sums(values[member], count) * per_count  # of bins with an infinity
    mean = torch.where(mean.isnan(), plain, mean)
    return torch.where((count == 1)[:, None], base, mean), count > 0


def _bins(times: Tensor, at: _Bracket, query: _Query) -> tuple[Tensor, Tensor]:
    """The first sample in each target's bin, and how many there are; both ``[K]``."""
    lower, upper, alone = _bin_edges(query)
    first = _search(times, at.start, at.stop, lower, right=False)
    count = (_search(times, at.start, at.stop, upper, right=False) - first).clamp(min=0)
    return first, torch.where(alone, 0, count)


def _members(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The samples of all bins, one bin after the other, and the bin of each."""
    total = int(count.sum())
    bin_of = torch.repeat_interleave(count, output_size=total)
    return torch.arange(total, device=count.device) + (first - count.cumsum(0) + count)[bin_of], bin_of


def _bin_sums(samples: Tensor, count: Tensor) -> Tensor:
    """Sums ``[K, D]`` of consecutive samples, ``count`` of them each: of up to _SUMMED in their own dtype, and of these
    in float64."""
    stretches = -(-count // _SUMMED)
    of_stretch = torch.repeat_interleave(stretches)
    place = torch.arange(len(of_stretch), device=count.device) - (stretches.cumsum(0) - stretches)[of_stretch]
    lengths = (count[of_stretch] - place * _SUMMED).clamp(max=_SUMMED)
    return _segment_sums(_segment_sums(samples, lengths).double(), stretches).to(samples.dtype)


def _segment_sums(samples: Tensor, lengths: Tensor) -> Tensor:
    if not len(lengths) or not samples.numel():
        return samples.new_zeros(len(lengths), samples.shape[1])
    return torch.segment_reduce(samples, "sum", lengths=lengths, axis=0, initial=0)


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
    else:  # a step of 2^63 and more is a negative number, whose half by bits is the half all the same
        half_back, half_on = _half(step_back), _half(step_on) + (step_on & 1)
        lower = torch.where(is_first, unshifted(t, half_back), t - half_back)
        upper = torch.where(is_last, unshifted(t, -half_on), t + half_on)
    return lower, upper, is_first & is_last


def _half(step: Tensor) -> Tensor:
    """Half of an unsigned int64, rounded down."""
    return (step >> 1) & (2**63 - 1)


def _search(times: Tensor, start: Tensor, stop: Tensor, query: Tensor, *, right: bool) -> Tensor:
    """First index of ``[start, stop)`` with a stamp > query (``right``) or >= query, else ``stop``; all ``[K]``."""
    lo, hi = start, stop
    for _ in range(len(times).bit_length()):
        middle = (lo + hi) >> 1
        stamp = times[middle.clamp(max=len(times) - 1)]
        earlier = ((stamp <= query) if right else (stamp < query)) & (middle < hi)
        lo, hi = torch.where(earlier, middle + 1, lo), torch.where(earlier, hi, middle)
    return lo


def _without_repeats(times: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the samples without all but the last of each run of equal stamps, and the offsets of those."""
    keep = torch.ones_like(times, dtype=torch.bool)
    keep[:-1] = times[1:] != times[:-1]
    ends = offsets[1:]
    keep[ends[ends > 0] - 1] = True  # a row's last sample stays, whatever the next row begins with
    return keep.nonzero()[:, 0], torch.cat([offsets.new_zeros(1), keep.cumsum(0)])[offsets]


def _wrap(x: Tensor, period: float) -> Tensor:
    """Angles brought to ``(-period/2, period/2]``, half a period in the dtype; those inside are untouched."""
    half = torch.tensor(period / 2, dtype=x.dtype).item()
    inside = torch.where(x.abs() <= half, x, _remainder(x, period))
    return torch.where(inside == -half, half, inside)


def _remainder(x: Tensor, period: float) -> Tensor:
    """Without its whole turns: in ``[-period/2, period/2]``."""
    wide = x.double()
    return (wide - torch.round(wide / period) * period).to(x.dtype)


def _scaled(q: Tensor) -> Tensor:
    """Quaternions brought near to 1 by a power of two, so that squares neither over- nor underflow."""
    largest = q.abs().amax(dim=1, keepdim=True)
    exponent = torch.frexp(torch.where(_positive_finite(largest), largest, 1)).exponent
    return torch.ldexp(torch.ldexp(q, -(exponent // 2)), -(exponent - exponent // 2))


def _positive_finite(x: Tensor) -> Tensor:
    return (x > 0) & x.isfinite()


def _within(duration: Tensor, limit: float) -> Tensor:
    """One that does not fit into the times' dtype (negative, infinite) is too wide for any limit."""
    return (duration >= 0) & (duration <= torch.tensor(limit, dtype=duration.dtype, device=duration.device))


def _most(dtype: torch.dtype) -> float:
    """The limit where there is none: the largest number of the times' dtype."""
    return torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max


def _shorter(a: Tensor, b: Tensor) -> Tensor:
    """``a < b`` of durations, which as int64 are unsigned."""
    return a < b if a.is_floating_point() else (a ^ -(2**63)) < (b ^ -(2**63))


def _length(duration: Tensor, dtype: torch.dtype) -> Tensor:
    """A duration rounded once; int64: unsigned. Beyond 2^63 the last bit is kept by the one before it."""
    if duration.is_floating_point():
        return duration.to(dtype)
    halved = (_half(duration) | (duration & 1)).to(dtype) * 2
    return torch.where(duration < 0, halved, duration.to(dtype))


def _weights(times: Tensor, at: _Bracket, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Where each target lies between its two samples ``[K]``; 0 where it is not between two."""
    w = _length(targets - times[at.lo], dtype) / _length(times[at.hi] - times[at.lo], dtype)
    return torch.where(at.between, w, 0)


def unshifted(times: Tensor, shift: Tensor | float) -> Tensor:
    """Times on the clock of a stream whose stamps are ``shift`` late, in their own dtype; int64 stops at its ends."""
    if not isinstance(shift, Tensor):  # a Python float beside int64 would turn both to float32
        shift = torch.tensor(shift, dtype=times.dtype, device=times.device)
    moved = times - shift
    if times.is_floating_point():
        return moved
    ends = torch.where(times < 0, -(2**63), 2**63 - 1)
    return torch.where(((times ^ shift) & (times ^ moved)) < 0, ends, moved)


def _dense_offsets(rows: int, length: int, *, device: torch.device) -> Tensor:
    return torch.arange(rows + 1, dtype=torch.int64, device=device) * length
