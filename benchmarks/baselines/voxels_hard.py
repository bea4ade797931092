"""Hard voxels by the two algorithms in public use, written anew as CuPy kernels, for one cloud of float32 points.

mmcv, deterministic    each point looks through all points before it for its voxel and counts them, then one thread
                       numbers the voxels in input order
spconv                 a hash table; voxels are numbered and points placed by atomicAdd, so that rows, and which points
                       a full voxel keeps, differ from run to run
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from voxel_cases import Clouds

SOURCE = r"""
typedef unsigned long long u64;
extern "C" __global__ void cells(const float* p, int n, int f, float lx, float ly, float lz, float s, int X, int Y,
                                 int Z, int* cell) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int x = (int)floorf((p[i * f] - lx) / s), y = (int)floorf((p[i * f + 1] - ly) / s),
            z = (int)floorf((p[i * f + 2] - lz) / s);
  cell[i] = x < 0 || x >= X || y < 0 || y >= Y || z < 0 || z >= Z ? -1 : (x * Y + y) * Z + z;
}
extern "C" __global__ void look_back(const int* cell, int n, int most, int* first, int* rank) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || cell[i] < 0) return;
  int before = 0;
  for (int j = 0; j < i; ++j) {
    if (cell[j] != cell[i]) continue;
    if (++before == 1) first[i] = j;
    if (before >= most) return;
  }
  if (before == 0) first[i] = i;
  rank[i] = before;
}
extern "C" __global__ void number(const int* first, const int* rank, int n, int* row, int* counts, int* total) {
  int rows = 0;
  for (int i = 0; i < n; ++i) {
    if (rank[i] < 0) continue;
    if (rank[i] == 0) {
      row[i] = rows;
      counts[rows++] = 1;
    } else {
      row[i] = row[first[i]];
      ++counts[row[i]];
    }
  }
  *total = rows;
}
extern "C" __global__ void copy(const float* p, const int* row, const int* rank, int n, int f, int most, float* out) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x, i = k / f;
  if (i < n && row[i] >= 0 && rank[i] >= 0) out[(row[i] * most + rank[i]) * f + k % f] = p[k];
}
extern "C" __global__ void insert(const int* cell, int n, unsigned slots, int* keys, int* rows, int* total, int* coors,
                                  int Y, int Z) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || cell[i] < 0) return;
  for (unsigned s = (unsigned)cell[i] * 2654435769u & (slots - 1);; s = (s + 1) & (slots - 1)) {
    const int old = atomicCAS(keys + s, -1, cell[i]);
    if (old == -1) {
      const int r = atomicAdd(total, 1);
      rows[s] = r;
      coors[3 * r] = cell[i] / (Y * Z);
      coors[3 * r + 1] = cell[i] / Z % Y;
      coors[3 * r + 2] = cell[i] % Z;
    }
    if (old == -1 || old == cell[i]) return;
  }
}
extern "C" __global__ void place(const float* p, const int* cell, int n, int f, int most, unsigned slots,
                                 const int* keys, const int* rows, int* counts, float* out, int* row) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || cell[i] < 0) return;
  unsigned s = (unsigned)cell[i] * 2654435769u & (slots - 1);
  while (keys[s] != cell[i]) s = (s + 1) & (slots - 1);
  const int r = rows[s], k = atomicAdd(counts + r, 1);
  row[i] = r;
  if (k < most) for (int c = 0; c < f; ++c) out[(r * most + k) * f + c] = p[i * f + c];
}
"""


@lru_cache
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE)


def build(clouds: Clouds, *, algorithm: str) -> Callable[[Clouds], tuple[Tensor, ...]]:
    import cupy
    import numpy as np

    batch, n, width = clouds.points.shape
    if clouds.reduce != "points" or batch != 1 or clouds.points.dtype != torch.float32:
        raise NotImplementedError("written for hard voxels of one float32 cloud")
    grid, most, shape = clouds.grid, clouds.max_points, clouds.grid.shape
    kernels = {k: _module().get_function(k) for k in ("cells", "look_back", "number", "copy", "insert", "place")}
    slots = 1 << (2 * n - 1).bit_length()

    def launch(name: str, threads: int, *arguments: Any) -> None:
        kernels[name]((-(-threads // 256),), (256,) if threads > 1 else (1,), tuple(map(_argument, arguments)))

    def _argument(x: Any) -> Any:
        if isinstance(x, Tensor):
            return np.uint64(x.data_ptr())
        return np.float32(x) if isinstance(x, float) else np.int32(x)

    def full(*size: int, value: int = -1) -> Tensor:
        return torch.full(size, value, dtype=torch.int32, device="cuda")

    def cells(points: Tensor) -> Tensor:
        cell = full(n)
        launch("cells", n, points, n, width, *grid.lower, grid.size[0], *shape, cell)
        return cell

    def mmcv(c: Clouds) -> tuple[Tensor, ...]:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            cell = cells(c.points)
            first, rank, row, counts, total = full(n), full(n), full(n), full(n, value=0), full(1, value=0)
            launch("look_back", n, cell, n, most, first, rank)
            launch("number", 1, first, rank, n, row, counts, total)
            rows = int(total)
            values = torch.zeros((rows, most, width), device="cuda")
            launch("copy", n * width, c.points, row, rank, n, width, most, values)
            return values, counts[:rows]

    def spconv(c: Clouds) -> tuple[Tensor, ...]:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            cell, keys, of_slot, total = cells(c.points), full(slots), full(slots), full(1, value=0)
            coordinates, counts, row = full(n, 3), full(n, value=0), full(n)
            launch("insert", n, cell, n, slots, keys, of_slot, total, coordinates, shape[1], shape[2])
            rows = int(total)
            values = torch.zeros((rows, most, width), device="cuda")
            launch("place", n, c.points, cell, n, width, most, slots, keys, of_slot, counts, values, row)
            return values, counts[:rows]

    return {"mmcv": mmcv, "spconv": spconv}[algorithm]
