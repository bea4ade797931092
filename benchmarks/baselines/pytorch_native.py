"""Alignment as one would write it in PyTorch: batched search, gather, lerp; no loop over episodes. CPU and GPU.

Dense search:           ``torch.searchsorted`` on ``[B, S]``.
Jagged search, eager:   one ``searchsorted`` over all episodes, with stamps moved so that episodes follow each other.
Jagged search, compiled: a bisection between each target's episode bounds, unrolled: Inductor makes one kernel of it,
                        where the eager form would write every step to memory.
Compiled: search and interpolation are two graphs. In one graph Inductor may repeat the search for every column.

The bracket is clamped to two samples of the episode and the weight to [0, 1], so targets outside the recording take
its edge. Left out, as the cases have none: empty episodes, episodes of one sample, equal stamps, ``max_gap``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from cases import Batch, Case
from torch import Tensor

MODES = {"linear", "previous", "next", "nearest", "angle", "slerp", "pose", "cubic", "mean"}
DENSE_MODES = {"cubic", "mean"}


def unsupported(case: Case, device: str) -> str:
    missing = sorted(case.modes - MODES | (case.modes & DENSE_MODES if "jagged" in case.spec else set()))
    return f"not written for {', '.join(missing)}" if missing else ""


def build(batch: Batch, *, compiled: bool) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    searches: list[Callable[..., Tensor]] = [
        _search_dense
        if s.offsets is None
        else partial(_bisect, steps=longest.bit_length())
        if compiled
        else _search_as_one
        for s, longest in zip(batch.streams, batch.longest, strict=True)
    ]
    modes = [s.mode for s in batch.streams]
    search, join = partial(_brackets, searches), partial(_join, modes, compiled)
    if compiled:
        torch._dynamo.reset()
        options: dict[str, Any] = {"mode": "max-autotune-no-cudagraphs", "dynamic": False, "fullgraph": True}
        search, join = torch.compile(search, **options), torch.compile(join, **options)

    def align(batch: Batch) -> tuple[Tensor, Tensor]:
        times = [s.times for s in batch.streams]
        highs = search(times, [s.offsets for s in batch.streams], batch.targets, batch.target_offsets)
        return join(times, [s.values for s in batch.streams], highs, batch.targets)

    return align


# ---- search: the flat number of the sample after each target, never the first of its episode -----------------------


def _brackets(
    searches: Sequence[Callable[..., Tensor]],
    times: Sequence[Tensor],
    offsets: Sequence[Tensor | None],
    targets: Tensor,
    target_offsets: Tensor | None,
) -> list[Tensor]:
    return [
        search(t, targets) if o is None else search(t, o, targets, target_offsets)
        for search, t, o in zip(searches, times, offsets, strict=True)
    ]


def _search_dense(times: Tensor, targets: Tensor) -> Tensor:
    batch, samples = times.shape
    after = torch.searchsorted(times, targets, right=True).clamp_(1, samples - 1)
    return after + torch.arange(0, batch * samples, samples, device=times.device)[:, None]


def _search_as_one(times: Tensor, offsets: Tensor, targets: Tensor, target_offsets: Tensor) -> Tensor:
    """Episode b's stamps and targets are moved to begin at b times the longest span of all."""
    starts, stops = offsets[:-1], offsets[1:]
    first = torch.minimum(times[starts], targets[target_offsets[:-1]])
    last = torch.maximum(times[stops - 1], targets[target_offsets[1:] - 1])
    move = torch.arange(len(first), device=times.device) * ((last - first).max() + 1) - first
    keys = times + torch.repeat_interleave(move, offsets.diff(), output_size=len(times))
    lengths = target_offsets.diff()
    goals = targets + torch.repeat_interleave(move, lengths, output_size=len(targets))
    low = torch.repeat_interleave(starts + 1, lengths, output_size=len(targets))
    high = torch.repeat_interleave(stops - 1, lengths, output_size=len(targets))
    return torch.searchsorted(keys, goals, right=True).clamp_(low, high)


def _bisect(times: Tensor, offsets: Tensor, targets: Tensor, target_offsets: Tensor, *, steps: int) -> Tensor:
    row = torch.arange(len(targets), device=targets.device)
    episode = torch.searchsorted(target_offsets, row, right=True) - 1
    low, high = offsets[episode] + 1, offsets[episode + 1] - 1
    for _ in range(steps):
        middle = (low + high) >> 1
        later = times[middle] > targets
        low, high = torch.where(later | (low >= high), low, middle + 1), torch.where(later, middle, high)
    return low


# ---- values ---------------------------------------------------------------------------------------------------------


def _join(
    modes: Sequence[str],
    compiled: bool,
    times: Sequence[Tensor],
    values: Sequence[Tensor],
    highs: Sequence[Tensor],
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Every stream's columns side by side, and its validity."""
    found = []
    for mode, t, x, high in zip(modes, times, values, highs, strict=True):
        flat = t.reshape(-1), x.reshape(-1, x.shape[-1]), high.reshape(-1), targets.reshape(-1)
        if mode == "cubic":
            found.append(_cubic(*flat, t.shape[1]))
            continue
        out, valid = _stream("linear" if mode == "mean" else mode, compiled, *flat)
        found.append((_mean(t, x, targets, out), torch.ones_like(valid)) if mode == "mean" else (out, valid))
    outs, valids = zip(*found, strict=True)
    out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    return out.view(*targets.shape, -1), torch.stack(valids, dim=-1).view(*targets.shape, -1)


def _stream(
    mode: str, compiled: bool, times: Tensor, values: Tensor, high: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    low = high - 1
    before, after = times[low], times[high]
    if mode == "previous":
        return values[torch.where(targets >= after, high, low)], targets >= before
    if mode == "next":
        return values[torch.where(targets <= before, low, high)], targets <= after
    if mode == "nearest":
        return values[torch.where(targets - before <= after - targets, low, high)], torch.ones_like(high, dtype=bool)
    wide = torch.promote_types(values.dtype, torch.float32)
    weight = ((targets - before).to(wide) / (after - before).to(wide)).clamp(0, 1)[:, None]
    valid = (targets >= before) & (targets <= after)
    a, b = values[low], values[high]
    if mode == "linear":
        return _lerp(a, b, weight, compiled), valid
    if mode == "angle":
        y = a.to(wide) + weight * _wrap(b.to(wide) - a.to(wide))
        return _wrap(y).to(values.dtype), valid
    xyz = values.shape[1] - 4  # 3 for a pose, 0 for a quaternion
    q = _slerp(a[:, xyz:].to(wide), b[:, xyz:].to(wide), weight).to(values.dtype)
    return torch.cat([_lerp(a[:, :xyz], b[:, :xyz], weight, compiled), q], dim=1) if xyz else q, valid


def _lerp(a: Tensor, b: Tensor, weight: Tensor, compiled: bool) -> Tensor:
    """Eager: one kernel, for which the weight must have the values' dtype. Compiled: in float32 for narrow values."""
    if not compiled:
        return torch.lerp(a, b, weight.to(a.dtype))
    return torch.lerp(a.to(weight.dtype), b.to(weight.dtype), weight).to(a.dtype)


def _mean(times: Tensor, values: Tensor, targets: Tensor, elsewhere: Tensor) -> Tensor:
    """Of the samples in a target's bin, whose edges lie midway to its neighbours; ``elsewhere`` where it is empty."""
    (batch, samples), step = times.shape, targets.diff(dim=1)
    inner = targets[:, :-1] + (step + 1) // 2
    first, last = targets[:, :1] - step[:, :1] // 2, targets[:, -1:] + (step[:, -1:] + 1) // 2
    begins = torch.searchsorted(times, torch.cat([first, inner, last], dim=1))
    begins += torch.arange(0, batch * samples, samples, device=times.device)[:, None]
    # One segment a bin, and one from each episode's last bin to the next one's first, which is dropped.
    means = torch.segment_reduce(values.reshape(-1, values.shape[-1]), "mean", offsets=begins.reshape(-1), axis=0)
    means = torch.cat([means, means[:1]]).view(batch, -1, values.shape[-1])[:, :-1].reshape(elsewhere.shape)
    return torch.where((begins.diff(dim=1) > 0).reshape(-1, 1), means, elsewhere)


def _cubic(times: Tensor, values: Tensor, high: Tensor, targets: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """PCHIP: the slopes at both ends of the interval, then Hermite's polynomial."""
    low = high - 1
    start = torch.div(low, samples, rounding_mode="floor") * samples
    rows = torch.maximum(low - 1, start), low, high, torch.minimum(high + 1, start + samples - 1)
    wide = torch.promote_types(values.dtype, torch.float32)
    before, at, after = times[low], targets, times[high]
    h0, h1, h2 = (
        (times[b] - times[a]).to(wide).clamp(min=1)[:, None] for a, b in ((rows[0], low), (low, high), (high, rows[3]))
    )
    x = [values[row].to(wide) for row in rows]
    s0, s1, s2 = (x[1] - x[0]) / h0, (x[2] - x[1]) / h1, (x[3] - x[2]) / h2
    lone = (rows[0] == low)[:, None], (rows[3] == high)[:, None]
    left = torch.where(lone[0], _end_slope(h1, h2, s1, s2), _inner_slope(h0, h1, s0, s1))
    right = torch.where(lone[1], _end_slope(h1, h0, s1, s0), _inner_slope(h1, h2, s1, s2))
    w = ((at - before).to(wide) / (after - before).to(wide)).clamp(0, 1)[:, None]
    bend = w * (1 - w) * h1 * ((1 - w) * (left - s1) - w * (right - s1))
    return (x[1] + w * (x[2] - x[1]) + bend).to(values.dtype), (at >= before) & (at <= after)


def _inner_slope(h0: Tensor, h1: Tensor, s0: Tensor, s1: Tensor) -> Tensor:
    a, b = h0 + 2 * h1, 2 * h0 + h1
    return torch.where(s0 * s1 > 0, (a + b) / (a / s0 + b / s1), 0)


def _end_slope(h0: Tensor, h1: Tensor, s0: Tensor, s1: Tensor) -> Tensor:
    d = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
    d = torch.where(d.sign() != s0.sign(), 0, d)
    return torch.where((s0.sign() != s1.sign()) & (d.abs() > 3 * s0.abs()), 3 * s0, d)


def _wrap(x: Tensor) -> Tensor:
    return x - 2 * math.pi * torch.round(x / (2 * math.pi))


def _slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    a, b = torch.nn.functional.normalize(a, dim=1), torch.nn.functional.normalize(b, dim=1)
    cosine = (a * b).sum(dim=1, keepdim=True)
    b = torch.where(cosine < 0, -b, b)
    angle = torch.acos(cosine.abs().clamp(max=1))
    sine = torch.sin(angle)
    small = sine < 1e-4
    sine = torch.where(small, 1, sine)
    y = torch.where(small, 1 - weight, torch.sin((1 - weight) * angle) / sine) * a
    y = y + torch.where(small, weight, torch.sin(weight * angle) / sine) * b
    return torch.nn.functional.normalize(y, dim=1)
