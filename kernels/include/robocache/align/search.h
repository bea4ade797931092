// Runs of equal stamps, and the bins of the mean.
#pragma once
#include "robocache/align/types.h"
#include "robocache/core/numbers.h"
#include "robocache/core/ragged.h"

namespace robocache::align {
inline namespace RC_ISA {

template <class Time> RC_INLINE Time time_value(TimeValue v);
template <> RC_INLINE int64_t time_value<int64_t>(TimeValue v) { return v.i64; }
template <> RC_INLINE double time_value<double>(TimeValue v) { return v.f64; }
template <> RC_INLINE float time_value<float>(TimeValue v) { return v.f32; }

// Of a run of equal stamps only the last sample exists.
template <class Time, class I> RC_INLINE I last_of_run(const Time* t, I n, I i) {
  while (i + 1 < n && t[i + 1] == t[i]) ++i;
  return i;
}
// The sample before the run that i ends, or -1.
template <class Time, class I> RC_INLINE I before_run(const Time* t, I i) {
  I j = i;
  while (j > 0 && t[j - 1] == t[i]) --j;
  return j - 1;
}

// Bin edges of a target between its neighbours: midway, the outer ones mirrored. For int64 the edge is the ceiling of
// the real midpoint, so that `stamp >= edge` compares with the midpoint exactly.
RC_INLINE int64_t half_up(int64_t d) { return (d + 1) / 2; }
RC_INLINE double half_up(double d) { return d * 0.5; }
RC_INLINE float half_up(float d) { return d * 0.5f; }
RC_INLINE int64_t half_down(int64_t d) { return d / 2; }
RC_INLINE double half_down(double d) { return d * 0.5; }
RC_INLINE float half_down(float d) { return d * 0.5f; }

// False for a lone target, which has no bin.
template <class Time>
RC_INLINE bool bin_edges(const Time* target, int64_t count, int64_t k, Time shift, Time* low, Time* high) {
  if (count < 2) return false;
  const Time x = minus(target[k], shift);
  const Time left = k > 0 ? minus(target[k - 1], shift) : x;
  const Time right = k + 1 < count ? minus(target[k + 1], shift) : x;
  *low = k > 0 ? plus(left, half_up(minus(x, left))) : minus(x, half_down(minus(right, x)));
  *high = k + 1 < count ? plus(x, half_up(minus(right, x))) : plus(x, half_up(minus(x, left)));
  return true;
}

}  // namespace RC_ISA
}  // namespace robocache::align
