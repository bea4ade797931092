"""The operator ``robocache::fuse`` as Python sees it: its arguments, what they must be, and its short way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robocache.ops import _library
from robocache.ops.modes import MODES, PERIODIC, WIDTHS

TIME_DTYPES = (torch.int64, torch.float64, torch.float32)
VALUE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: Output dtypes that a scale belongs to.
SCALED_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)


class Arguments(NamedTuple):
    """What the operator takes, and what :func:`robocache.ops.reference.align.fuse` does; M streams.

    values:         M tensors, ``[B, S, D]`` or jagged ``[N, D]``; float64, float32, float16 or bfloat16
    times:          M tensors, ``[B, S]`` or ``[N]``, sorted within each row; int64, float64 or float32, one dtype
    offsets:        M times int64 ``[B + 1]`` where a stream is jagged, None where it is dense
    modes:          M positions in :data:`~robocache.ops.modes.MODES`
    max_gaps:       M limits in the unit of the times; below 0: none
    shifts:         M numbers, added to the stamps (taken off the targets, in the dtype of the times)
    periods:        M numbers: a full turn of angle, or of a mean that is to be circular; 0 else
    targets:        ``[B, T]``, or ``[K]`` with ``target_offsets``
    target_offsets: int64 ``[B + 1]`` or None
    out_dtype:      float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2 or int8
    out_scale:      float32 ``[sum D]``: the 8-bit types store ``value / out_scale``; None: 1
    """

    values: Sequence[Tensor]
    times: Sequence[Tensor]
    offsets: Sequence[Tensor | None]
    modes: Sequence[int]
    max_gaps: Sequence[float]
    shifts: Sequence[float]
    periods: Sequence[float]
    targets: Tensor
    target_offsets: Tensor | None
    out_dtype: torch.dtype
    out_scale: Tensor | None


def fuse(arguments: Arguments) -> tuple[Tensor, Tensor]:
    """``torch.ops.robocache.fuse``, by the short way where no compiler wants to see it."""
    if torch.compiler.is_compiling():
        return torch.ops.robocache.fuse(*arguments)
    return sys.modules["robocache._C"].fuse(*arguments)


def resample(a: Arguments) -> tuple[Tensor, Tensor]:
    """As :func:`fuse`, for one stream; ``valid`` comes without the dimension of the streams."""
    if torch.compiler.is_compiling():
        out, valid = fuse(a)
        return out, valid.squeeze(-1)
    return sys.modules["robocache._C"].resample(
        a.values[0],
        a.times[0],
        a.offsets[0],
        a.modes[0],
        a.max_gaps[0],
        a.shifts[0],
        a.periods[0],
        a.targets,
        a.target_offsets,
        a.out_dtype,
        a.out_scale,
    )


def check(a: Arguments) -> None:
    """``ValueError`` where shapes, dtypes or devices do not fit; looks at no data."""
    if a.targets.dtype not in TIME_DTYPES:
        raise ValueError(f"target times are {a.targets.dtype}; use int64 nanoseconds (or float64, float32)")
    batch = _rows_of("target times", a.targets, a.target_offsets)
    for m, (x, t, o, mode, period) in enumerate(zip(a.values, a.times, a.offsets, a.modes, a.periods, strict=True)):
        name = f"values[{m}] {x.dtype} {list(x.shape)}, times[{m}] {t.dtype} {list(t.shape)}"
        if x.dtype not in VALUE_DTYPES:
            raise ValueError(f"{name}: use float64, float32, float16 or bfloat16 values")
        if t.dtype != a.targets.dtype:
            raise ValueError(f"{name}: the target times are {a.targets.dtype}; use one dtype")
        if x.device != a.targets.device or t.device != a.targets.device:
            raise ValueError(f"{name}: on {x.device} and {t.device}, the targets on {a.targets.device}")
        if x.dim() != t.dim() + 1 or x.shape[:-1] != t.shape:
            raise ValueError(f"{name}: must be [B, S, D] and [B, S], or with offsets [N, D] and [N]")
        if (rows := _rows_of(name, t, o)) != batch:
            raise ValueError(f"{name}: {rows} episodes, the targets {batch}")
        width = WIDTHS.get(MODES[mode])
        if width is not None and x.shape[-1] != width:
            raise ValueError(f"{name}: mode {MODES[mode]} takes {width} columns")
        if (period == 0 and MODES[mode] == "angle") or (period != 0 and MODES[mode] not in PERIODIC):
            raise ValueError(f"{name}: period {period} with mode {MODES[mode]}; angle needs one, mean may have one")
    if a.out_dtype not in VALUE_DTYPES and a.out_dtype not in SCALED_DTYPES:
        raise ValueError(
            f"out_dtype {a.out_dtype}; use float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2 or int8"
        )
    if a.out_scale is not None and a.out_dtype not in SCALED_DTYPES:
        raise ValueError(f"out_scale needs an 8-bit out_dtype, got {a.out_dtype}")


def _rows_of(name: str, times: Tensor, offsets: Tensor | None) -> int:
    """How many rows the times have, dense or jagged."""
    if times.dim() != (2 if offsets is None else 1):
        raise ValueError(f"{name}: times {list(times.shape)} must be [B, S], or [N] with offsets")
    if offsets is None:
        return times.shape[0]
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.shape[0] == 0 or offsets.device != times.device:
        raise ValueError(f"{name}: offsets {offsets.dtype} {list(offsets.shape)} must be int64 [B+1] on {times.device}")
    return offsets.shape[0] - 1


def empty_results(a: Arguments) -> tuple[Tensor, Tensor]:
    """What the operator returns, without its data. ``ValueError`` as :func:`check`."""
    check(a)
    width = sum(x.shape[-1] for x in a.values)
    return (
        a.targets.new_empty((*a.targets.shape, width), dtype=a.out_dtype),
        a.targets.new_empty((*a.targets.shape, len(a.values)), dtype=torch.bool),
    )


def _backward(
    grad: Tensor,
    values: Sequence[Tensor],
    wanted: Sequence[int],
    times: Sequence[Tensor],
    offsets: Sequence[Tensor | None],
    modes: Sequence[int],
    shifts: Sequence[float],
    targets: Tensor,
    target_offsets: Tensor | None,
) -> list[Tensor]:
    """Gradients by the values of the streams that are ``wanted``."""
    from robocache.ops.reference.align import stream_gradient

    columns = grad.split([x.shape[-1] for x in values], dim=-1)
    return [
        stream_gradient(
            columns[m], values[m], times[m], offsets[m], MODES[modes[m]], shifts[m], targets, target_offsets
        )
        for m in wanted
    ]


_library.check_schema("fuse", Arguments._fields, "fuse", "resample")
if _library.available():
    torch.library.register_fake("robocache::fuse", lambda *flat: empty_results(Arguments(*flat)))
    # Checked at run time; while shapes are worked out there is nothing to look at.
    torch.library.register_fake("robocache::first_unsorted", lambda times, offsets: (-1, -1))
    torch.library.impl("robocache::fuse_backward", "CompositeExplicitAutograd", _backward)
    torch.library.register_fake(
        "robocache::fuse_backward",
        lambda grad, values, wanted, *rest: [torch.empty_like(values[m]) for m in wanted],
    )
