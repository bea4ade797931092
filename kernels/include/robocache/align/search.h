// Times, runs of equal stamps, and the bins of the mean.
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

// From one time to a later one, exact: two int64 may lie 2^64 - 1 apart.
RC_INLINE uint64_t elapsed(int64_t from, int64_t to) { return uint64_t(to) - uint64_t(from); }
RC_INLINE double elapsed(double from, double to) { return to - from; }
RC_INLINE float elapsed(float from, float to) { return to - from; }

// A limit is a number of the times' dtype, its largest finite one where there is none: what does not fit is too wide.
RC_INLINE bool within(uint64_t duration, int64_t limit) { return duration <= uint64_t(limit); }
RC_INLINE bool within(double duration, double limit) { return duration <= limit; }
RC_INLINE bool within(float duration, float limit) { return duration <= limit; }

// A time moved by a duration; int64 stops at its ends.
constexpr int64_t kFirstTime = -0x7fffffffffffffff - 1, kLastTime = 0x7fffffffffffffff;
RC_INLINE int64_t later(int64_t x, uint64_t by) {
  return by > elapsed(x, kLastTime) ? kLastTime : int64_t(uint64_t(x) + by);
}
RC_INLINE int64_t sooner(int64_t x, uint64_t by) {
  return by > elapsed(kFirstTime, x) ? kFirstTime : int64_t(uint64_t(x) - by);
}
RC_INLINE double later(double x, double by) { return x + by; }
RC_INLINE double sooner(double x, double by) { return x - by; }
RC_INLINE float later(float x, float by) { return x + by; }
RC_INLINE float sooner(float x, float by) { return x - by; }

// A target on the clock of a stream whose stamps are `shift` late.
RC_INLINE int64_t unshifted(int64_t x, int64_t shift) {
  const int64_t moved = int64_t(uint64_t(x) - uint64_t(shift));
  return ((x ^ shift) & (x ^ moved)) < 0 ? (x < 0 ? kFirstTime : kLastTime) : moved;
}
RC_INLINE double unshifted(double x, double shift) { return x - shift; }
RC_INLINE float unshifted(float x, float shift) { return x - shift; }

// Of a run of equal stamps only the last sample exists. Both look at 2 log2(length of the run) stamps.
template <class Time, class I> RC_INLINE I last_of_run(const Time* t, I n, I i) {
  const auto same = [&](I step) { return step < n - i && t[i + step] == t[i]; };
  if (!same(1)) return i;
  I step = 1;
  for (; same(step); step *= 2) i += step;
  for (; step > 0; step /= 2) {
    if (same(step)) i += step;
  }
  return i;
}
// The sample before the run that i ends, or -1.
template <class Time, class I> RC_INLINE I before_run(const Time* t, I i) {
  const auto same = [&](I step) { return step <= i && t[i - step] == t[i]; };
  if (!same(1)) return i - 1;
  I step = 1;
  for (; same(step); step *= 2) i -= step;
  for (; step > 0; step /= 2) {
    if (same(step)) i -= step;
  }
  return i - 1;
}

// Bin edges of a target between its neighbours: midway, the outer ones mirrored. For int64 the edge is the ceiling of
// the real midpoint, so that `stamp >= edge` compares with the midpoint exactly.
RC_INLINE uint64_t half_up(uint64_t d) { return d / 2 + d % 2; }
RC_INLINE double half_up(double d) { return d * 0.5; }
RC_INLINE float half_up(float d) { return d * 0.5f; }
RC_INLINE uint64_t half_down(uint64_t d) { return d / 2; }
RC_INLINE double half_down(double d) { return d * 0.5; }
RC_INLINE float half_down(float d) { return d * 0.5f; }

// False for a lone target, which has no bin.
template <class Time>
RC_INLINE bool bin_edges(const Time* target, int64_t count, int64_t k, Time shift, Time* low, Time* high) {
  if (count < 2) return false;
  const Time x = unshifted(target[k], shift);
  const Time left = k > 0 ? unshifted(target[k - 1], shift) : x;
  const Time right = k + 1 < count ? unshifted(target[k + 1], shift) : x;
  *low = k > 0 ? later(left, half_up(elapsed(left, x))) : sooner(x, half_down(elapsed(x, right)));
  *high = later(x, half_up(k + 1 < count ? elapsed(x, right) : elapsed(left, x)));
  return true;
}

}  // namespace RC_ISA
}  // namespace robocache::align
