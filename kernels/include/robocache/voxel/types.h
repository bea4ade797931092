// A call of the voxel operators as plain pointers and sizes.
#pragma once
#include <cstdint>

#include "robocache/core/dtype.h"

namespace robocache::voxel {

// As robocache/ops/modes.py numbers them.
enum class Reduction : int32_t { occupancy, count, sum, mean, min, max, points };

// Rows of numbers, one a point, row i of cloud b at data + b * batch_stride + i * row_stride elements.
struct Rows {
  const void* data;
  int64_t batch_stride;  // 0 in a jagged batch
  int64_t row_stride;
  int64_t width;
  DType dtype;
};

// N points of B clouds: cloud b's are [offsets[b], offsets[b + 1]), or b * length on, `length` of them, where offsets
// is null.
struct Points {
  Rows rows;
  const int64_t* offsets;
  int64_t length, batch, count;
};

// A box cut into voxels. Only those with an x index in [first, last) exist for this call; linear numbers count from
// the first of them.
struct Grid {
  double lower[3], upper[3], size[3];
  int64_t shape[3];
  int64_t first, last;
  int64_t cells() const { return (last - first) * shape[1] * shape[2]; }
};

}  // namespace robocache::voxel
