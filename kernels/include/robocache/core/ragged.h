// Looking for a place in what is sorted: stamps of an episode, offsets of a jagged batch.
#pragma once
#include <cstdint>

#include "robocache/core/macros.h"

namespace robocache {
inline namespace RC_ISA {

// Last i with t[i] <= x (strict: t[i] < x), or -1. Looks around `guess`, else gallops out from it and bisects: a bad
// guess costs 2 log2(distance) probes. Never reads outside [0, n), whatever the data holds. I: int64_t, or int32_t
// where the caller's n fits.
template <bool strict, class Time, class I> RC_INLINE I locate(const Time* t, I n, Time x, I guess) {
  const auto before = [&](I i) { return strict ? t[i] < x : t[i] <= x; };
  if (n <= 0) return -1;
  if (n >= 4) {
    // Most guesses are at most one sample off. Counting four comparisons has no branch to mispredict (CPU), and its
    // four loads do not wait for each other (GPU).
    const I g = guess < 1 ? 1 : guess > n - 3 ? n - 3 : guess;
    const int inside = int(before(g - 1)) + int(before(g)) + int(before(g + 1)) + int(before(g + 2));
    if (inside >= 1 && inside <= 3) return g - 2 + inside;
    if (inside == 0 ? g == 1 : g == n - 3) return g - 2 + inside;  // before the first sample, or after the last
  }
  const I start = guess < 0 ? 0 : guess >= n ? n - 1 : guess;
  I low = -1, high = n, step = 1;  // before(low) holds, before(high) does not
  if (before(start)) {
    low = start;
    while (step < n - low && before(low + step)) {
      low += step;
      step *= 2;
    }
    if (step < n - low) high = low + step;
  } else {
    high = start;
    while (high - step >= 0 && !before(high - step)) {
      high -= step;
      step *= 2;
    }
    if (high - step >= 0) low = high - step;
  }
  while (high - low > 1) {
    const I middle = low + (high - low) / 2;
    (before(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace RC_ISA
}  // namespace robocache
