"""Is an answer right? Compared with the plain-torch reference on some episodes of the very batch that is timed."""

from __future__ import annotations

import math

import torch
from cases import Batch
from torch import Tensor

from robocache.ops import MODES
from robocache.ops._fuse import Arguments
from robocache.ops.reference import align as reference

#: Largest error allowed, by output dtype; values are normal, so none is much above 5.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
#: Quaternions nearly at right angles have an ill-conditioned arc.
QUATERNION_TOLERANCE = 2e-3


def wrong(batch: Batch, out: Tensor, valid: Tensor) -> str:
    """What is wrong, or nothing."""
    episodes = len(batch.targets) if batch.target_offsets is None else len(batch.target_offsets) - 1
    for b in sorted({0, episodes // 2, episodes - 1}):
        piece, place = _episode(batch, b)
        expected, flags = _reference(piece)
        got, got_flags = out[place].reshape(expected.shape), valid[place].reshape(flags.shape)
        if got.dtype != expected.dtype:
            return f"dtype {got.dtype}, not {expected.dtype}"
        column = 0
        for s in piece.streams:
            width = s.values.shape[-1]
            difference = (got.double() - expected.double())[..., column : column + width].abs()
            if s.mode == "angle":  # pi and -pi are one
                difference = torch.minimum(difference, (2 * math.pi - difference).abs())
            if s.mode in ("slerp", "pose"):  # q and -q are one rotation
                turned = (got.double() + expected.double())[..., column + width - 4 : column + width].abs()
                turned = torch.where(_largest(turned) < _largest(difference[..., -4:]), turned, difference[..., -4:])
                difference = torch.cat([difference[..., :-4], turned], dim=-1)
            limit = max(TOLERANCE[got.dtype], QUATERNION_TOLERANCE if s.mode in ("slerp", "pose") else 0)
            worst = float(difference.max()) if difference.numel() else 0.0
            if not worst <= limit:
                return f"episode {b}, columns from {column}: off by {worst:g}, allowed {limit:g}"
            column += width
        if not torch.equal(got_flags, flags):
            return f"episode {b}: validity differs at {int((got_flags != flags).sum())} targets"
    return ""


def _largest(x: Tensor) -> Tensor:
    return x.amax(dim=-1, keepdim=True)


def _episode(batch: Batch, b: int) -> tuple[Batch, slice]:
    """One episode as a dense batch of one, and where its rows lie in the output."""
    streams = []
    for s in batch.streams:
        if s.offsets is None:
            streams.append(s._replace(values=s.values[b : b + 1], times=s.times[b : b + 1]))
            continue
        low, high = s.offsets[b : b + 2].tolist()
        streams.append(s._replace(values=s.values[low:high][None], times=s.times[low:high][None], offsets=None))
    if batch.target_offsets is None:
        return Batch(tuple(streams), batch.targets[b : b + 1], None, batch.longest), slice(b, b + 1)
    low, high = batch.target_offsets[b : b + 2].tolist()
    return Batch(tuple(streams), batch.targets[low:high][None], None, batch.longest), slice(low, high)


def _reference(batch: Batch) -> tuple[Tensor, Tensor]:
    streams = batch.streams
    arguments = Arguments(
        values=[s.values for s in streams],
        times=[s.times for s in streams],
        offsets=[None for _ in streams],
        modes=[MODES.index(s.mode) for s in streams],
        max_gaps=[-1 for _ in streams],
        shifts=[0 for _ in streams],
        periods=[math.tau if s.mode == "angle" else 0.0 for s in streams],
        targets=batch.targets,
        target_offsets=None,
        out_dtype=streams[0].values.dtype,
        out_scale=None,
    )
    return reference.fuse(arguments)
