// Actions as seen from a base, and back: a row of numbers among which there may be poses.
#pragma once
#include "robocache/core/ragged.h"
#include "robocache/geometry/rotation.h"

namespace robocache::action {

// 32 rows of float64 with so many columns fit into a block's shared memory; a window of so many steps into 32 bits.
constexpr int kMostColumns = 768, kMostPoses = 64, kMostSteps = 1 << 20;

// Which columns are what; small enough to be a kernel's argument.
struct Columns {
  int32_t width, poses;
  int16_t pose[kMostPoses];           // the first column of each, x y z qx qy qz qw
  uint32_t single[kMostColumns / 32];  // a bit a column: a number that is relative by itself
  uint32_t posed[kMostColumns / 32];   // a bit a column: part of a pose. The rest stays as it is.
};

// What a call makes of `rows` actions: for row n those of rows n + first + [0, count), as seen from a base row. `offsets`
// [episodes + 1] say where episodes begin; those of other episodes give NaN.
struct Windows {
  int64_t rows;
  int32_t first, count;
  const int64_t* offsets;
  int64_t episodes;
  bool from_state;  // the base is row n of `base`; else row n of the actions
  bool compose;     // the inverse: from relative to absolute
};

inline namespace RC_ISA {

RC_INLINE bool has(const uint32_t* bits, int column) { return bits[column / 32] >> (column % 32) & 1u; }

// The row that output (n, k) is made of, or -1 where its episode has none.
RC_INLINE int64_t row_of(const Windows& w, int64_t n, int64_t k, int64_t end) {
  const int64_t row = n + w.first + k;
  return row < end ? row : -1;
}
// The end of row n's episode; the episodes of one length are found by one guess.
RC_INLINE int64_t end_of(const Windows& w, int64_t n) {
  if (w.episodes < 1) return w.rows;
  const int64_t guess = int64_t(float(n) * (float(w.episodes) / float(w.rows)));
  const int64_t episode = locate<false>(w.offsets, w.episodes, n, guess);
  const int64_t end = w.offsets[episode + 1];
  return end < w.rows ? end : w.rows;  // whatever the offsets hold, no row is read that is not there
}

template <class A> RC_INLINE A one(A x, A base, bool relative, bool compose) {
  return !relative ? x : compose ? base + x : x - base;
}

}  // namespace RC_ISA
}  // namespace robocache::action
