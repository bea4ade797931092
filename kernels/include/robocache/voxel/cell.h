// The voxel of a point: the one place where a coordinate becomes an index.
#pragma once
#include "robocache/core/numbers.h"
#include "robocache/voxel/types.h"

namespace robocache {
inline namespace RC_ISA {

// One axis of a grid, ready for the arithmetic.
struct Axis {
  double lower, upper, size, inverse, last;
};
struct Cells {
  Axis x, y, z;
  int64_t first, end, ny, nz;  // x in [first, end)
};

RC_INLINE Axis axis_of(const voxel::Grid& g, int k) {
  return {g.lower[k], g.upper[k], g.size[k], 1.0 / g.size[k], double(g.shape[k] - 1)};
}
RC_INLINE Cells cells_of(const voxel::Grid& g) {
  return {axis_of(g, 0), axis_of(g, 1), axis_of(g, 2), g.first, g.last, g.shape[1], g.shape[2]};
}

// floor((p - lower) / size) in float64, division included, at most the last index; -1 outside, and for NaN.
//
// The division is a multiplication wherever that gives the same floor: its product is within 3 roundings of the
// quotient, 2^-51 of it, so only where the product is that near to an integer must the quotient itself be asked.
// Indices are below 2^31, where the product's own spacing is 2^-22 at most: 2^-19 of room is enough.
RC_INLINE int64_t index_on(const Axis& a, double p) {
  if (!(p >= a.lower && p < a.upper)) return -1;
  const double d = p - a.lower, product = d * a.inverse;
  double index = ::floor(product);
  const double beyond = product - index;
  constexpr double kRoom = 1.0 / (1 << 19);
  if (beyond < kRoom || beyond > 1.0 - kRoom) index = ::floor(d / a.size);
  return int64_t(index < a.last ? index : a.last);
}

// The linear number, or -1.
RC_INLINE int64_t cell_of(const Cells& c, double x, double y, double z) {
  const int64_t i = index_on(c.x, x), j = index_on(c.y, y), k = index_on(c.z, z);
  if ((i | j | k) < 0 || i < c.first || i >= c.end) return -1;
  return ((i - c.first) * c.ny + j) * c.nz + k;
}

}  // namespace RC_ISA
}  // namespace robocache
