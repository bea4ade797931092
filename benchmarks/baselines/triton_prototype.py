# ruff: noqa: N803, N806  (Triton names compile-time constants in capitals)
"""Linear alignment in Triton, written with care: autotuned, dense and jagged, and fused for three streams.

A program takes BLOCK_T consecutive targets and all columns. Their brackets are found once, in registers: where a steady
rate would put the stamp, widened to a window of a few samples; bisection finishes, and takes over from the whole
episode where the window missed. Two rows of values a target are then gathered tile by tile, coalesced along the
columns (16 bytes a thread where the width allows), mixed in float32 (float64 for float64), and stored once.

Jagged: a program looks up the episodes of its first and last target and searches between these for the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import triton
import triton.language as tl
from cases import Batch, Case
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
WINDOW = tl.constexpr(8)  # samples around the guess: jitter of a steady rate stays inside
LATEST = tl.constexpr(2**63 - 1)

CONFIGS = [
    triton.Config({"BLOCK_T": rows}, num_warps=warps, num_stages=stages)
    for rows, warps, stages in (
        (16, 2, 2),
        (16, 4, 2),
        (32, 1, 2),
        (32, 2, 2),
        (32, 4, 2),
        (32, 4, 4),
        (64, 2, 2),
        (64, 4, 2),
        (64, 8, 2),
        (128, 4, 2),
        (128, 8, 2),
        (256, 8, 2),
    )
]


def unsupported(case: Case, device: str) -> str:
    if device != "cuda" and not INTERPRETED:
        return "Triton needs a GPU"
    if case.modes != {"linear"}:
        return "written for linear only"
    if len(case.spec.get("streams", [case.spec])) not in (1, 3):
        return "written for one or three streams"
    return ""


# ---- kernels --------------------------------------------------------------------------------------------------------


@triton.jit
def _bracket(times, start, stop, goal):
    """The sample before each goal, at most the last but one of [start, stop), its weight, and validity."""
    first = tl.load(times + start)
    last = tl.load(times + stop - 1)
    part = (goal - first).to(tl.float32) / tl.maximum(last - first, 1).to(tl.float32)
    guess = start + (tl.minimum(tl.maximum(part, 0.0), 1.0) * (stop - 1 - start).to(tl.float32)).to(tl.int64)
    low = tl.maximum(guess - WINDOW, start)
    high = tl.minimum(guess + WINDOW, stop)
    # low: at or before the goal, or the first sample; high: after it, or the end
    low = tl.where(tl.load(times + low) <= goal, low, start)
    high = tl.where(tl.load(times + high, mask=high < stop, other=LATEST) > goal, high, stop)
    while tl.max(high - low, axis=0) > 1:
        middle = (low + high) >> 1
        right = tl.load(times + middle) <= goal
        low = tl.where(right & (high - low > 1), middle, low)
        high = tl.where(right, high, tl.maximum(middle, low + 1))
    low = tl.maximum(tl.minimum(low, stop - 2), start)
    before = tl.load(times + low)
    after = tl.load(times + low + 1)
    weight = (goal - before).to(tl.float32) / tl.maximum(after - before, 1).to(tl.float32)
    return low, tl.minimum(tl.maximum(weight, 0.0), 1.0), (goal >= before) & (goal <= after)


@triton.jit
def _mix(values, low, weight, out, row, keep, D: tl.constexpr, WIDTH: tl.constexpr, COLUMN: tl.constexpr,
         BLOCK_D: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """Columns [COLUMN, COLUMN + D) of the output rows."""
    for begin in tl.static_range(0, D, BLOCK_D):
        column = begin + tl.arange(0, BLOCK_D)
        mask = keep[:, None] & (column < D)[None, :]
        at = values + low[:, None] * D + column[None, :]
        a = tl.load(at, mask=mask).to(WIDE)
        b = tl.load(at + D, mask=mask).to(WIDE)
        y = a + weight[:, None].to(WIDE) * (b - a)
        to = out + row[:, None] * WIDTH + COLUMN + column[None, :]
        tl.store(to, y.to(out.dtype.element_ty), mask=mask, eviction_policy="evict_first")


@triton.jit
def _dense_place(T, BLOCK_T: tl.constexpr):
    """A program's episode, its targets (the last one repeated past the end), and which of them count."""
    tiles = tl.cdiv(T, BLOCK_T)
    episode = (tl.program_id(0) // tiles).to(tl.int64)
    k = tl.program_id(0) % tiles * BLOCK_T + tl.arange(0, BLOCK_T)
    return episode, episode * T + tl.minimum(k, T - 1), k < T


@triton.jit
def _dense(values, times, targets, out, valid, S, T, D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
           BLOCK_T: tl.constexpr):  # fmt: skip
    episode, row, keep = _dense_place(T, BLOCK_T)
    low, weight, inside = _bracket(times, episode * S, episode * S + S, tl.load(targets + row))
    tl.store(valid + row, inside, mask=keep)
    _mix(values, low, weight, out, row, keep, D, D, 0, BLOCK_D, WIDE)


@triton.jit
def _episode_of(offsets, batch, row):
    """Last episode that begins at or before ``row``; scalars."""
    low = 0
    high = batch
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(offsets + middle) <= row:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def _jagged(values, times, offsets, targets, target_offsets, out, valid, batch, K, D: tl.constexpr,
            BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_T: tl.constexpr):  # fmt: skip
    begin = tl.program_id(0).to(tl.int64) * BLOCK_T
    k = begin + tl.arange(0, BLOCK_T)
    row = tl.minimum(k, K - 1)
    low = tl.zeros([BLOCK_T], tl.int32) + _episode_of(target_offsets, batch, begin)
    high = tl.zeros([BLOCK_T], tl.int32) + _episode_of(target_offsets, batch, tl.minimum(begin + BLOCK_T, K) - 1) + 1
    while tl.max(high - low, axis=0) > 1:
        middle = (low + high) // 2
        right = tl.load(target_offsets + middle) <= row
        low = tl.where(right & (high - low > 1), middle, low)
        high = tl.where(right, high, tl.maximum(middle, low + 1))
    start = tl.load(offsets + low)
    stop = tl.load(offsets + low + 1)
    before, weight, inside = _bracket(times, start, stop, tl.load(targets + row))
    tl.store(valid + row, inside, mask=k < K)
    _mix(values, before, weight, out, row, k < K, D, D, 0, BLOCK_D, WIDE)


@triton.jit
def _fused_stream(values, times, S, episode, row, keep, goal, out, valid, M: tl.constexpr, D: tl.constexpr,
                  WIDTH: tl.constexpr, COLUMN: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    low, weight, inside = _bracket(times, episode * S, episode * S + S, goal)
    tl.store(valid + row * 3 + M, inside, mask=keep)
    _mix(values, low, weight, out, row, keep, D, WIDTH, COLUMN, BLOCK_D, WIDE)


@triton.jit
def _fused(x0, x1, x2, t0, t1, t2, targets, out, valid, S0, S1, S2, T, D0: tl.constexpr, D1: tl.constexpr,
           D2: tl.constexpr, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, WIDE: tl.constexpr,
           BLOCK_T: tl.constexpr):  # fmt: skip
    """Three streams: a program's rows of the output are written whole."""
    episode, row, keep = _dense_place(T, BLOCK_T)
    goal = tl.load(targets + row)
    W: tl.constexpr = D0 + D1 + D2
    _fused_stream(x0, t0, S0, episode, row, keep, goal, out, valid, 0, D0, W, 0, B0, WIDE)
    _fused_stream(x1, t1, S1, episode, row, keep, goal, out, valid, 1, D1, W, D0, B1, WIDE)
    _fused_stream(x2, t2, S2, episode, row, keep, goal, out, valid, 2, D2, W, D0 + D1, B2, WIDE)


def _fitting(configs: list[triton.Config], positional: dict[str, Any], **arguments: Any) -> list[triton.Config]:
    """Those whose two tiles of values stay in registers: at most 64 of each a thread."""
    block = max(arguments[name] for name in ("BLOCK_D", "B0", "B1", "B2") if name in arguments)
    return [c for c in configs if c.kwargs["BLOCK_T"] * block <= 64 * 32 * c.num_warps]


def _tuned(kernel: Any, key: list[str]) -> Any:
    def bench(run: Callable[[], object], quantiles: Any) -> Any:
        return triton.testing.do_bench(run, warmup=2, rep=15, quantiles=quantiles)

    prune = {"early_config_prune": _fitting}
    return triton.autotune(configs=CONFIGS, key=key, do_bench=bench, prune_configs_by=prune)(kernel)


_dense_tuned = _tuned(_dense, ["S", "T", "D"])
_jagged_tuned = _tuned(_jagged, ["batch", "K", "D"])
_fused_tuned = _tuned(_fused, ["S0", "S1", "S2", "T", "D0", "D1", "D2"])


Launch = tuple[Any, Any, Callable[[dict[str, int]], tuple[int]], dict[str, Any]]


# ---- host -----------------------------------------------------------------------------------------------------------


def _block(width: int) -> int:
    return min(triton.next_power_of_2(width), 128)


def _outputs(batch: Batch) -> tuple[Tensor, Tensor]:
    shape = batch.targets.shape
    return (
        batch.targets.new_empty((*shape, batch.width), dtype=batch.streams[0].values.dtype),
        batch.targets.new_empty((*shape, len(batch.streams)), dtype=torch.bool),
    )


def _plan(batch: Batch) -> tuple[Launch, tuple[Tensor, Tensor]]:
    """Kernel, tuned kernel, grid, arguments; and the outputs among these."""
    out, valid = _outputs(batch)
    first = batch.streams[0]
    wide = tl.float64 if first.values.dtype == torch.float64 else tl.float32
    shared = {"targets": batch.targets, "out": out, "valid": valid.view(torch.int8), "WIDE": wide}
    widths = [s.values.shape[-1] for s in batch.streams]
    if first.offsets is not None:
        total = batch.targets.numel()
        more = {"values": first.values, "times": first.times, "offsets": first.offsets, "D": widths[0]}
        more |= {"target_offsets": batch.target_offsets, "batch": len(first.offsets) - 1, "K": total}
        more |= {"BLOCK_D": _block(widths[0])}
        return (_jagged, _jagged_tuned, lambda m: (triton.cdiv(total, m["BLOCK_T"]),), shared | more), (out, valid)
    episodes, count = batch.targets.shape

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (episodes * triton.cdiv(count, meta["BLOCK_T"]),)

    if len(batch.streams) == 1:
        more = {"values": first.values, "times": first.times, "S": first.times.shape[1], "T": count}
        more |= {"D": widths[0], "BLOCK_D": _block(widths[0])}
        return (_dense, _dense_tuned, grid, shared | more), (out, valid)
    more = {"T": count}
    for m, s in enumerate(batch.streams):
        more |= {f"x{m}": s.values, f"t{m}": s.times, f"S{m}": s.times.shape[1]}
        more |= {f"D{m}": widths[m], f"B{m}": _block(widths[m])}
    return (_fused, _fused_tuned, grid, shared | more), (out, valid)


def align(batch: Batch) -> tuple[Tensor, Tensor]:
    (kernel, tuned, grid, arguments), outputs = _plan(batch)
    if INTERPRETED:  # it cannot time, so it takes one configuration
        kernel[grid({"BLOCK_T": 32})](**arguments, BLOCK_T=32)
    else:
        tuned[grid](**arguments)
    return outputs


def build(batch: Batch) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    if not INTERPRETED:
        compile_all(batch)
    return align


def compile_all(batch: Batch) -> None:
    """All configurations at once, on all cores; tuning then finds them compiled."""
    (kernel, _, _, arguments), _ = _plan(batch)
    with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        for config in _fitting(CONFIGS, {}, **arguments):
            kernel.run(grid=(1,), warmup=True, **arguments, **config.all_kwargs())
