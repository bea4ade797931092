"""Bring streams to target times, and lay them side by side: the public face of the alignment kernels.

The rule is the same on every device and for dense and jagged batches (docs/architecture/kernel_design.md has it in
full). Times are int64 nanoseconds, float64 or float32, of one dtype a call; differences are taken exactly in that
dtype. Of samples with equal stamps only the last exists. Outside a recording the value is its edge sample.

=========== ============================================== ====================================================
mode        value at t                                     valid when
=========== ============================================== ====================================================
linear      between the two samples around t               inside the recording, bracket within ``max_gap``
                                                           (or t is a stamp)
cubic       monotone PCHIP (Fritsch & Butland 1984)        as linear
nearest     the nearer sample, the earlier on a tie        within ``max_gap``
previous    last sample at or before t                     one exists, age within ``max_gap``
next        first sample at or after t                     one exists, within ``max_gap``
mean        mean of the samples nearer to this target      the bin is not empty, else as linear
            than to its neighbours (anti-alias)
slerp       quaternion, shortest arc, unit output, any     as linear, and the quaternions have a direction
            component order (Shoemake 1985)
pose        xyz linear, then a quaternion as slerp         as slerp
angle       radians, shortest arc, in (-pi, pi]            as linear
=========== ============================================== ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robocache.ops import _fuse, _library
from robocache.ops.modes import MODES
from robocache.ops.reference import align as reference

_MODE_INDEX = {name: index for index, name in enumerate(MODES)}


class StreamSpec(NamedTuple):
    """One stream of a batch for :func:`fuse_multimodal`.

    values:  dense ``[B, S, D]`` or jagged ``[N, D]``; float64, float32, float16 or bfloat16; any strides
    times:   ``[B, S]`` (or ``[S]`` for all) or jagged ``[N]``, non-decreasing a row
    mode:    one of :data:`MODES`; slerp takes D = 4, pose D = 7
    offsets: int64 ``[B+1]`` of a jagged stream, as Arrow list offsets
    max_gap: in the times' unit; None: no limit
    offset:  added to the stream's stamps (sensor latency, clock difference), in the times' unit
    """

    values: Tensor
    times: Tensor
    mode: str = "linear"
    offsets: Tensor | None = None
    max_gap: float | None = None
    offset: float = 0


def fuse_multimodal(
    streams: Sequence[StreamSpec],
    target_times: Tensor,
    *,
    target_offsets: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: Tensor | float | None = None,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    """Align every stream to the target times and lay their columns side by side, in one pass (on a GPU
    one launch for up to 240 streams).

    streams:        any number, of any rates, widths and dtypes
    target_times:   ``[B, T]`` (or ``[T]`` for all) or, with ``target_offsets`` int64 ``[B+1]``, jagged ``[K]``
    out_dtype:      default: the streams' dtype where they share one, else float32; also float8_e4m3fn, float8_e5m2
                    and int8, which store ``round(value / out_scale)``, saturated (NaN is 0 in int8)
    out_scale:      for those: a number or float32 ``[sum D]``, above 0
    validate:       look for unsorted times, bad offsets and scales first (on a GPU this waits for the device)

    Returns ``fused [B, T, sum D]`` and ``valid`` bool ``[B, T, M]`` (jagged: ``[K, ...]``). An empty stream gives NaN
    (0 in int8) and False. Arithmetic is float64 for float64 streams, else float32.

    ``ValueError``: shapes, dtypes or devices that do not fit, an unknown mode, unsorted times (naming the row).
    """
    if not streams:
        raise ValueError("fuse_multimodal: no streams")
    targets = target_times
    if target_offsets is None and targets.dim() == 1:
        targets = targets.expand(batch_size(streams[0].values, streams[0].offsets, targets, None), -1)
    values, times, offsets, modes, max_gaps, shifts = [], [], [], [], [], []
    for m, (x, t, mode, o, max_gap, shift) in enumerate(streams):
        if mode not in _MODE_INDEX:
            raise ValueError(f"streams[{m}].mode is {mode!r}; use one of {', '.join(MODES)}")
        if max_gap is None:
            max_gap = -1
        elif not max_gap >= 0:
            raise ValueError(f"streams[{m}].max_gap is {max_gap}; use a duration of 0 or more, or None for no limit")
        if o is None and t.dim() == 1:
            t = t.expand(batch_size(x, o, targets, target_offsets), -1)
        values.append(x)
        times.append(t)
        offsets.append(o)
        modes.append(_MODE_INDEX[mode])
        max_gaps.append(max_gap)
        shifts.append(shift)
    if out_dtype is None:
        out_dtype = common_dtype(values)
    if out_scale is not None:
        out_scale = torch.as_tensor(out_scale, dtype=torch.float32, device=targets.device)
        if validate and not bool((out_scale > 0).all()):
            raise ValueError(f"out_scale must be above 0, got {out_scale}")
        if out_scale.dim() == 0:
            out_scale = out_scale.expand(sum(x.shape[-1] for x in values)).contiguous()
    if validate:
        for m, (t, o) in enumerate(zip(times, offsets, strict=True)):
            _check_sorted(t, o, f"streams[{m}].times")
        _check_sorted(targets, target_offsets, "target_times")
    arguments = _fuse.Arguments(
        values, times, offsets, modes, max_gaps, shifts, targets, target_offsets, out_dtype, out_scale
    )
    if _library.has_kernel("fuse", targets.device):
        return _fuse.fuse(arguments)
    _library.warn_fallback("fuse")
    return reference.fuse(arguments)


def resample_trajectories(
    source_data: Tensor,
    source_times: Tensor,
    target_times: Tensor,
    *,
    mode: str = "linear",
    source_offsets: Tensor | None = None,
    target_offsets: Tensor | None = None,
    max_gap: float | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: Tensor | float | None = None,
    return_valid: bool = False,
    validate: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Align one stream to target times: :func:`fuse_multimodal` of a single stream.

    source_data ``[B, S, D]`` and source_times ``[B, S]``, or jagged ``[N, D]`` and ``[N]`` with source_offsets
    ``[B+1]``; target_times ``[B, T]`` or jagged ``[K]`` with target_offsets ``[B+1]``. Returns ``[B, T, D]``
    (``[K, D]``), and with ``return_valid`` also bool ``[B, T]`` (``[K]``). Everything else is as there.
    """
    stream = StreamSpec(source_data, source_times, mode, source_offsets, max_gap)
    out, valid = fuse_multimodal(
        [stream],
        target_times,
        target_offsets=target_offsets,
        out_dtype=out_dtype,
        out_scale=out_scale,
        validate=validate,
    )
    return (out, valid.squeeze_(-1)) if return_valid else out


def common_dtype(values: Sequence[Tensor]) -> torch.dtype:
    """The values' dtype where all streams share one, else float32."""
    dtype = values[0].dtype
    return dtype if len(values) == 1 or all(x.dtype == dtype for x in values) else torch.float32


def batch_size(values: Tensor, offsets: Tensor | None, target_times: Tensor, target_offsets: Tensor | None) -> int:
    """Episodes of a batch, from whichever argument tells; values and offsets: one stream's."""
    if target_offsets is not None:
        return target_offsets.shape[0] - 1
    if target_times.dim() == 2:
        return target_times.shape[0]
    return offsets.shape[0] - 1 if offsets is not None else values.shape[0]


def _check_sorted(times: Tensor, offsets: Tensor | None, name: str) -> None:
    """``ValueError`` naming the first stamp that is earlier than the one before it, or NaN."""
    if times.dim() == 2 and times.stride(0) == 0:
        times = times[:1]  # one row, shown B times
    row, position = _first_unsorted(times, offsets)
    if row < 0:
        return
    start = 0 if offsets is None else int(offsets[row])
    series = times[row] if offsets is None else times[start:]
    raise ValueError(
        f"{name}: row {row} is not sorted: stamp {position} is {series[position].item()} "
        f"after {series[max(position - 1, 0)].item()}; sort it (the last of equal stamps wins)"
    )


def _first_unsorted(times: Tensor, offsets: Tensor | None) -> tuple[int, int]:
    """(row, position) of the first step back in time or NaN, or (-1, -1)."""
    if times.device.type == "cpu" and _library.available():
        return torch.ops.robocache.first_unsorted(times, offsets)
    bad = times != times
    bad[..., 1:] |= times[..., 1:] < times[..., :-1]
    if offsets is None:
        found = bad.nonzero()
        return (int(found[0, 0]), int(found[0, 1])) if len(found) else (-1, -1)
    total = times.shape[0]
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.numel() == 0:
        raise ValueError(f"offsets must be int64 [B+1], got {offsets.dtype} {list(offsets.shape)}")
    if bool((offsets[1:] < offsets[:-1]).any() | (offsets[0] != 0) | (offsets[-1] != total)):
        raise ValueError(f"offsets must rise from 0 to {total}, got {offsets.tolist()}")
    starts = offsets[offsets < total]
    bad[starts] = times[starts] != times[starts]  # the step from one episode to the next is none
    found = bad.nonzero()
    if not len(found):
        return -1, -1
    at = int(found[0, 0])
    row = int(torch.searchsorted(offsets, at, right=True)) - 1
    return row, at - int(offsets[row])
