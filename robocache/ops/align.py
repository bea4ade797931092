"""Bring streams to target times, and lay them side by side: the public face of the alignment kernels.

The rule is the same on every device and for dense and jagged batches (docs/architecture/kernel_design.md has it in
full). Times are int64 nanoseconds, float64 or float32, of one dtype a call; differences are taken exactly in that
dtype. Of samples with equal stamps only the last exists. Outside a recording the value is its edge sample. A difference
that the dtype cannot hold is too wide for any ``max_gap``, and for none.

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
            than to its neighbours (anti-alias); with a
            ``period`` of an angle, its jumps undone
slerp       quaternion, shortest arc, unit output, any     as linear, and the quaternions have a direction
            component order (Shoemake 1985)
pose        xyz linear, then a quaternion as slerp         as slerp
angle       shortest arc, in (-period/2, period/2]         as linear
=========== ============================================== ====================================================

Gradients by the values pass through linear, nearest, previous, next and mean (without a period); the other modes, 8-bit
outputs, and times that require one raise ``RuntimeError``.
"""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from robocache.ops import _fuse, _library
from robocache.ops.modes import MODES, PERIODIC
from robocache.ops.reference import align as reference

Array: TypeAlias = Tensor | np.ndarray

_MODE_INDEX = {name: index for index, name in enumerate(MODES)}
_TURN = 2 * math.pi
_HERE = nullcontext()  # the current stream


class StreamSpec(NamedTuple):
    """One stream of a batch for :func:`fuse_multimodal`. Arrays are torch tensors or NumPy arrays (not copied).

    values:  dense ``[B, S, D]`` or jagged ``[N, D]``; float64, float32, float16, bfloat16, or the 8-bit types that
             ``out_dtype`` may be, which are widened first (to float16, that holds each of their numbers, or with a
             ``scale`` to float32); any strides
    times:   ``[B, S]`` (or ``[S]`` for all) or jagged ``[N]``, non-decreasing a row
    mode:    one of :data:`~robocache.ops.MODES`; slerp takes D = 4, pose D = 7
    offsets: int64 ``[B+1]`` of a jagged stream, as Arrow list offsets
    max_gap: in the times' unit (a whole number for int64 times); None: no limit
    offset:  added to the stream's stamps (sensor latency, clock difference), in the times' unit
    period:  a full turn in the values' unit, such as 360. angle: default 2 pi; mean: default none, an ordinary mean
    scale:   a number or float32 ``[D]`` that 8-bit values are multiplied by, as ``out_scale`` of who wrote them
    """

    values: Array
    times: Array
    mode: str = "linear"
    offsets: Array | None = None
    max_gap: float | None = None
    offset: float = 0
    period: float | None = None
    scale: Array | float | None = None


def fuse_multimodal(
    streams: Sequence[StreamSpec],
    target_times: Array,
    *,
    target_offsets: Array | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: Array | float | None = None,
    validate: bool = True,
    stream: torch.cuda.Stream | None = None,
) -> tuple[Tensor, Tensor]:
    """Align every stream to the target times and lay their columns side by side, in one pass (on a GPU
    one launch for up to 208 streams).

    streams:        any number, of any rates, widths and dtypes
    target_times:   ``[B, T]`` (or ``[T]`` for all) or, with ``target_offsets`` int64 ``[B+1]``, jagged ``[K]``
    out_dtype:      default: the streams' dtype where they share one, else float32; also float8_e4m3fn, float8_e5m2
                    and int8, which store ``round(value / out_scale)``, saturated (NaN is 0 in int8)
    out_scale:      for those: a number or float32 ``[sum D]``, above 0 and finite
    validate:       look for unsorted times, times that float32 cannot tell apart, bad offsets and scales first. On a
                    GPU this waits for the device. What ``torch.compile`` makes of a call does not look.
    stream:         the CUDA stream that does it; default: the current one. What was queued on another one before is
                    not waited for, and whoever reads the results elsewhere waits for it.

    Returns ``fused [B, T, sum D]`` and ``valid`` bool ``[B, T, M]`` (jagged: ``[K, ...]``). An empty stream gives NaN
    (0 in int8) and False. Arithmetic is float64 for float64 streams, else float32.

    ``ValueError``: shapes, dtypes or devices that do not fit, an unknown mode, a number without meaning in the times'
    dtype, unsorted times (naming the row). ``TypeError``: something that is no array, or no number.
    """
    with _HERE if stream is None else _on(stream, (target_times, target_offsets, out_scale, *chain(*streams))):
        arguments = to_arguments(streams, target_times, target_offsets, out_dtype, out_scale)
        if validate:
            look(arguments)
        return run(arguments)


def resample_trajectories(
    source_data: Array,
    source_times: Array,
    target_times: Array,
    *,
    mode: str = "linear",
    source_offsets: Array | None = None,
    source_scale: Array | float | None = None,
    target_offsets: Array | None = None,
    max_gap: float | None = None,
    period: float | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: Array | float | None = None,
    return_valid: bool = False,
    validate: bool = True,
    stream: torch.cuda.Stream | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Align one stream to target times: :func:`fuse_multimodal` of a single stream.

    source_data ``[B, S, D]`` and source_times ``[B, S]``, or jagged ``[N, D]`` and ``[N]`` with source_offsets
    ``[B+1]``; target_times ``[B, T]`` or jagged ``[K]`` with target_offsets ``[B+1]``. Returns ``[B, T, D]``
    (``[K, D]``), and with ``return_valid`` also bool ``[B, T]`` (``[K]``). Everything else is as there.
    """
    spec = StreamSpec(source_data, source_times, mode, source_offsets, max_gap, 0, period, source_scale)
    with _HERE if stream is None else _on(stream, (*spec, target_times, target_offsets, out_scale)):
        arguments = to_arguments((spec,), target_times, target_offsets, out_dtype, out_scale)
        if validate:
            look(arguments)
        if _library.has_kernel("fuse", arguments.targets.device):
            out, valid = _fuse.resample(arguments)
        else:
            out, valid = run(arguments)
            valid = valid.squeeze(-1)
    return (out, valid) if return_valid else out


def limit_l2_fetch(size: int = 32, device: torch.device | int | None = None) -> int:
    """How many bytes the L2 cache of a CUDA device fetches from its memory at least, for everything that this process
    does there until it is set again: 32, 64 (what CUDA begins with) or 128. Returns what it was. A hint to the card.

    32 suits streams of which few rows are wanted: bf16 of 400 and 1,000 Hz to 100 Hz takes 0.79 of the time, rows of 7
    columns one in ten 0.81. It costs up to 2 % where all rows are read, and more in a few mixtures of modes, so it is
    the caller's choice (docs/architecture/hopper.md has the table). ``RuntimeError`` without a CUDA build or device.
    """
    limit = getattr(sys.modules.get("robocache._C"), "limit_l2_fetch", None)
    if limit is None:
        raise RuntimeError(f"no CUDA kernels: {_library.reason() or 'the extension was built without CUDA'}")
    if size not in (32, 64, 128):
        raise ValueError(f"size is {size}; use 32, 64 or 128 bytes")
    index = torch.cuda.current_device() if device is None else torch.device(device).index or 0
    return limit(size, index)


def to_arguments(
    streams: Sequence[StreamSpec],
    target_times: Array,
    target_offsets: Array | None,
    out_dtype: torch.dtype | None,
    out_scale: Array | float | None,
) -> _fuse.Arguments:
    """The operator's arguments. ``TypeError``, and ``ValueError`` for a number or a mode; shapes are not looked at."""
    if not streams:
        raise ValueError("no streams")
    targets = _tensor(target_times, "target_times")
    target_offsets = None if target_offsets is None else _tensor(target_offsets, "target_offsets")
    if targets.dtype not in _fuse.TIME_DTYPES:
        raise ValueError(f"target times are {targets.dtype}; use int64 nanoseconds (or float64, float32)")
    values, times, offsets, modes, max_gaps, shifts, periods = [], [], [], [], [], [], []
    for m, (x, t, mode, o, max_gap, shift, period, scale) in enumerate(streams):
        if mode not in _MODE_INDEX:
            raise ValueError(f"streams[{m}].mode is {mode!r}; use one of {', '.join(MODES)}")
        # What is usual is looked at first: names are put together, and numbers converted, only where it is not.
        if not isinstance(x, Tensor):
            x = _tensor(x, f"streams[{m}].values")
        if not isinstance(t, Tensor):
            t = _tensor(t, f"streams[{m}].times")
        if o is not None and not isinstance(o, Tensor):
            o = _tensor(o, f"streams[{m}].offsets")
        if x.dim() < 2:
            raise ValueError(f"streams[{m}].values are {list(x.shape)}; use [B, S, D], or with offsets [N, D]")
        if scale is not None or x.dtype in _fuse.SCALED_DTYPES:
            x = _widened(x, scale, f"streams[{m}]")
        if target_offsets is None and targets.dim() == 1:
            targets = targets.expand(x.shape[0] if o is None else o.shape[0] - 1, -1)
        if o is None and t.dim() == 1:
            t = t.expand(targets.shape[0] if target_offsets is None else target_offsets.shape[0] - 1, -1)
        values.append(x)
        times.append(t)
        offsets.append(o)
        modes.append(_MODE_INDEX[mode])
        max_gaps.append(-1 if max_gap is None else _duration(max_gap, targets.dtype, f"streams[{m}].max_gap"))
        shifts.append(
            shift if shift == 0 and type(shift) is int else _time(shift, targets.dtype, f"streams[{m}].offset")
        )
        usual = period is None and mode != "angle"
        periods.append(0.0 if usual else _period(period, mode, f"streams[{m}].period"))
    out_dtype = out_dtype or common_dtype(values)
    if out_scale is not None:
        out_scale = _scale(out_scale, sum(x.shape[-1] for x in values), targets.device, "out_scale")
    return _fuse.Arguments(
        values, times, offsets, modes, max_gaps, shifts, periods, targets, target_offsets, out_dtype, out_scale
    )


def run(arguments: _fuse.Arguments) -> tuple[Tensor, Tensor]:
    """By a kernel, or where there is none, which is said once, by the reference."""
    if _library.has_kernel("fuse", arguments.targets.device):
        return _fuse.fuse(arguments)
    if arguments.targets.is_meta:
        return _fuse.empty_results(arguments)
    _library.warn_fallback("fuse")
    return reference.fuse(arguments)


def look(a: _fuse.Arguments) -> None:
    """``ValueError`` naming what does not fit, and what is wrong in the data of times, offsets and scales. Where there
    is no data to look at (a compiler, meta tensors) it does nothing."""
    if torch.compiler.is_compiling() or a.targets.is_meta:
        return
    _fuse.check(a)
    for m, (t, o) in enumerate(zip(a.times, a.offsets, strict=True)):
        _look_at_times(t, o, f"streams[{m}].times")
    _look_at_times(a.targets, a.target_offsets, "target_times")
    if a.out_scale is not None and not bool((a.out_scale > 0).logical_and(a.out_scale.isfinite()).all()):
        raise ValueError(f"out_scale must be above 0 and finite, got {a.out_scale}")


def common_dtype(values: Sequence[Tensor]) -> torch.dtype:
    """The values' dtype where all streams share one, else float32."""
    dtype = values[0].dtype
    return dtype if len(values) == 1 or all(x.dtype == dtype for x in values) else torch.float32


@contextmanager
def _on(stream: torch.cuda.Stream, inputs: Iterable[object]) -> Iterator[None]:
    """Work goes to the stream. Inputs may be freed meanwhile: their memory is not used again before it is done."""
    tensors = [x for x in inputs if isinstance(x, Tensor) and x.dim() > 0]
    for x in tensors:
        if x.device != stream.device:
            raise ValueError(f"an input is on {x.device}, the stream on {stream.device}")
        x.record_stream(stream)
    with torch.cuda.stream(stream):
        yield


# ---- arguments of other kinds ---------------------------------------------------------------------------------------


def _tensor(x: Array, name: str) -> Tensor:
    """The tensor, or the array's memory as one."""
    if isinstance(x, Tensor):
        return x
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} is {type(x).__module__}.{type(x).__name__}; use a torch tensor or a NumPy array")
    if x.dtype.kind == "M":
        if np.datetime_data(x.dtype) != ("ns", 1):
            raise TypeError(f"{name} is {x.dtype}; use datetime64[ns] or int64 nanoseconds")
        x = x.view(np.int64)
    if not x.dtype.isnative or any(s < 0 for s in x.strides):
        x = np.ascontiguousarray(x, x.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # nothing is written to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(x)


def _time(value: float, dtype: torch.dtype, name: str) -> int | float:
    """A number as the times' dtype has it. ``ValueError`` where that would change its meaning."""
    number: float
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        if isinstance(value, str):
            raise TypeError(f"{name} is {value!r}; use a number") from None
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name} is {value}; it must be finite") from None
    if dtype != torch.int64:
        return float(number)
    if number != int(number):
        raise ValueError(
            f"{name} is {value}, and the times are int64: it is a whole number of their unit; "
            f"{value} seconds are {round(number * 1e9)} nanoseconds"
        )
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} is {value}, more than int64 times can hold")
    return int(number)


def _duration(value: float, dtype: torch.dtype, name: str) -> int | float:
    number = _time(value, dtype, name)
    if number < 0:
        raise ValueError(f"{name} is {value}; use a duration of 0 or more, or None for no limit")
    return number


def _period(value: float | None, mode: str, name: str) -> float:
    """As the operator has it: 0 where there is none."""
    if value is None:
        return _TURN if mode == "angle" else 0.0
    if mode not in PERIODIC:
        raise ValueError(f"{name} is {value}, and mode {mode} goes round nothing; use it with {' or '.join(PERIODIC)}")
    if not 1e-30 <= value <= 1e30:
        raise ValueError(f"{name} is {value}; use a full turn in the unit of the values, such as 360")
    return float(value)


def _widened(x: Tensor, scale: Array | float | None, name: str) -> Tensor:
    """8-bit values in a type that the kernels read: float16 has all numbers of int8 and of both float8."""
    if x.dtype not in _fuse.SCALED_DTYPES:
        raise ValueError(f"{name}.scale is for 8-bit values, not for {x.dtype}")
    if scale is None:
        return x.to(torch.float16)
    factors = _scale(scale, x.shape[-1], x.device, f"{name}.scale")
    if factors.shape != x.shape[-1:]:
        raise ValueError(f"{name}.scale is {list(factors.shape)}; use a number, or [{x.shape[-1]}]")
    return x.to(torch.float32) * factors


def _scale(value: Array | float, width: int, device: torch.device, name: str) -> Tensor:
    """float32 ``[width]`` on the device, without waiting for it. ``ValueError`` for a number that is no scale."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim > 0:
        return _tensor(value, name).to(device, torch.float32)
    if not (isinstance(value, Tensor) and (value.is_cuda or torch.compiler.is_compiling())):
        value = float(value)
        if not torch.finfo(torch.float32).smallest_normal <= value <= torch.finfo(torch.float32).max:
            raise ValueError(f"{name} must be above 0 and finite in float32, got {value}")
        return torch.full((width,), value, dtype=torch.float32, device=device)
    return value.to(device, torch.float32).expand(width)


# ---- looking at the data --------------------------------------------------------------------------------------------


def _look_at_times(times: Tensor, offsets: Tensor | None, name: str) -> None:
    if times.dim() == 2 and times.stride(0) == 0:
        times = times[:1]  # one row, shown B times
    _check_sorted(times, offsets, name)
    if times.dtype == torch.float32:
        _check_resolution(times, offsets, name)


def _check_sorted(times: Tensor, offsets: Tensor | None, name: str) -> None:
    """``ValueError`` naming the first stamp that is earlier than the one before it, or NaN."""
    row, position = _first_unsorted(times, offsets)
    if row < 0:
        return
    start = 0 if offsets is None else int(offsets[row])
    series = times[row] if offsets is None else times[start:]
    raise ValueError(
        f"{name}: row {row} is not sorted: stamp {position} is {series[position].item()} "
        f"after {series[max(position - 1, 0)].item()}; sort it (the last of equal stamps wins)"
    )


def _check_resolution(times: Tensor, offsets: Tensor | None, name: str) -> None:
    """``ValueError`` where float32 has made one number of neighbouring times: where some are equal and its steps are as
    wide as the times' own, or, all being equal, wider than the unit that they are counted in."""
    if offsets is None:
        length = times.shape[1]
        bounds = torch.arange(times.shape[0] + 1, device=times.device) * length
        times = times.reshape(-1)
    else:
        bounds = offsets
    equal = times[1:] == times[:-1]
    equal[bounds[1:-1][(bounds[1:-1] > 0) & (bounds[1:-1] < len(times))] - 1] = False  # of two rows
    if not bool(equal.any()):
        return
    count = bounds.diff()
    rows = (count > 1).nonzero()[:, 0]
    first, last = times[bounds[rows]], times[bounds[rows + 1] - 1]
    largest = torch.maximum(first.abs(), last.abs())
    resolution = torch.nextafter(largest, largest.new_tensor(math.inf)) - largest
    step = (last.double() - first.double()) / (count[rows] - 1)
    before = torch.cat([equal.new_zeros(1, dtype=torch.int64), equal.cumsum(0)])
    repeats = before[bounds[rows + 1] - 1] - before[bounds[rows]]
    lost = (repeats > 0) & torch.where(last > first, resolution >= step, resolution > 1)
    if not bool(lost.any()):
        return
    k = int(lost.nonzero()[0, 0])
    raise ValueError(
        f"{name}: row {int(rows[k])} has {int(repeats[k])} times equal to the one before it, of {int(count[rows[k]])}, "
        f"and float32 counts in steps of {resolution[k].item():g} at {largest[k].item():g}; "
        "use int64 nanoseconds (or float64)"
    )


def _first_unsorted(times: Tensor, offsets: Tensor | None) -> tuple[int, int]:
    """(row, position) of the first step back in time or NaN, or (-1, -1)."""
    if _library.has_kernel("first_unsorted", times.device):
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
    row = int(torch.searchsorted(offsets.contiguous(), at, right=True)) - 1
    return row, at - int(offsets[row])
