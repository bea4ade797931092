"""Linear alignment as a CuPy RawKernel: a warp a target. Every lane bisects for the bracket (the same loads, so they
are broadcast) and the lanes share the columns. One launch a stream. No headers, so NVRTC alone compiles it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from cases import Batch, Case
from torch import Tensor

from robocache.ops import StreamSpec

THREADS = 256  # 8 targets a block

SOURCE = r"""
typedef long long i64;
#if BF16
typedef unsigned short value;
__device__ float load(value x) { return __uint_as_float((unsigned)x << 16); }
__device__ value narrow(float x) {  // half to even; the inputs hold no NaN
  const unsigned u = __float_as_uint(x);
  return (value)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
#else
typedef float value;
__device__ float load(value x) { return x; }
__device__ value narrow(float x) { return x; }
#endif

// First index in [low, high) whose entry is above x, else high.
__device__ i64 above(const i64* t, i64 low, i64 high, i64 x) {
  while (low < high) {
    const i64 middle = (low + high) / 2;
    if (t[middle] > x) high = middle; else low = middle + 1;
  }
  return low;
}

// offsets and target_offsets are null in a dense batch of [batch, samples] and [batch, count].
extern "C" __global__ void align(const value* values, const i64* times, const i64* offsets, const i64* targets,
                                 const i64* target_offsets, value* out, unsigned char* valid, i64 rows, i64 batch,
                                 i64 samples, i64 count, int dim, int width, int column, int streams, int index) {
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const i64 episode = target_offsets ? above(target_offsets, 0, batch + 1, row) - 1 : row / count;
  const i64 start = offsets ? offsets[episode] : episode * samples;
  const i64 stop = offsets ? offsets[episode + 1] : start + samples;
  const i64 goal = targets[row];
  const i64 high = above(times, start + 1, stop - 1, goal), low = high - 1;
  const i64 before = times[low], after = times[high];
  const float w = fminf(fmaxf((float)(goal - before) / (float)(after - before), 0.0f), 1.0f);
  const int lane = threadIdx.x % 32;
  if (lane == 0) valid[row * streams + index] = goal >= before && goal <= after;
  for (int c = lane; c < dim; c += 32) {
    const float a = load(values[low * dim + c]), b = load(values[high * dim + c]);
    out[row * width + column + c] = narrow(a + w * (b - a));
  }
}
"""


def unsupported(case: Case, device: str) -> str:
    if device != "cuda":
        return "CuPy needs a GPU"
    import cupy  # noqa: F401  (says so where it is missing)

    if case.modes != {"linear"} or case.dtype not in ("bf16", "f32"):
        return "written for linear in bf16 and f32"
    return ""


@lru_cache
def _kernel(bf16: bool) -> Any:
    import cupy

    return cupy.RawKernel(SOURCE, "align", options=(f"-DBF16={int(bf16)}",))


def build(batch: Batch) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    import cupy

    kernel = _kernel(batch.streams[0].values.dtype == torch.bfloat16)
    rows, width, streams = batch.targets.numel(), batch.width, len(batch.streams)
    grid = (-(-rows // (THREADS // 32)),)

    def align(batch: Batch) -> tuple[Tensor, Tensor]:
        out = batch.targets.new_empty((*batch.targets.shape, width), dtype=batch.streams[0].values.dtype)
        valid = batch.targets.new_empty((*batch.targets.shape, streams), dtype=torch.bool)
        column = 0
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            for index, s in enumerate(batch.streams):
                kernel(grid, (THREADS,), _arguments(batch, s, out, valid, column, index))
                column += s.values.shape[-1]
        return out, valid

    return align


def _arguments(batch: Batch, s: StreamSpec, out: Tensor, valid: Tensor, column: int, index: int) -> tuple[Any, ...]:
    import numpy as np

    def pointer(x: Tensor | None) -> Any:
        return np.uint64(0 if x is None else x.data_ptr())

    dense = s.offsets is None
    episodes = len(batch.targets) if dense else len(s.offsets) - 1
    samples, count = (s.times.shape[1], batch.targets.shape[1]) if dense else (0, 1)
    numbers = (batch.targets.numel(), episodes, samples, count)
    dims = (s.values.shape[-1], batch.width, column, len(batch.streams), index)
    return (
        *map(pointer, (s.values, s.times, s.offsets, batch.targets, batch.target_offsets, out, valid)),
        *map(np.int64, numbers),
        *map(np.int32, dims),
    )
