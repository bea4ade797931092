// Which samples make one target's value, and whether it is valid.
#pragma once
#include "robocache/align/search.h"

namespace robocache::align {
inline namespace RC_ISA {

// Which samples make one target's value. first == second: a copy, no arithmetic. For mean: samples [first, second),
// marked by mean = true.
template <class A, class I> struct Stencil {
  I first, second;
  A weight;
  bool valid, mean;
};

template <class A, class Time, class I>
RC_INLINE Stencil<A, I> interpolating(const Time* t, I n, I i, Time x, Time max_gap) {
  if (n == 0) return {-1, -1, A(0), false, false};
  const bool early = i < 0;
  I first = early ? 0 : i, second = first + 1 < n ? first + 1 : first;
  const I third = second + 1 < n ? second + 1 : second;
  const Time t0 = t[first], t1 = t[second], t2 = t[third];  // three loads that do not wait for each other
  const bool hit = !early && t0 == x;
  if (early) first = last_of_run(t, n, first);
  if (early || hit || second == first) return {first, first, A(0), hit, false};
  if (third > second && t2 == t1) second = last_of_run(t, n, third);
  const Time span = minus(t1, t0);
  return {first, second, A(minus(x, t0)) / A(span), max_gap < Time(0) || span <= max_gap, false};
}

template <class A, class Time, class I> RC_INLINE Stencil<A, I> nearest(const Time* t, I n, I i, Time x, Time max_gap) {
  if (n == 0) return {-1, -1, A(0), false, false};
  I pick = i;
  if (i < 0) {
    pick = last_of_run(t, n, I(0));
  } else if (i + 1 < n && minus(t[i + 1], x) < minus(x, t[i])) {
    pick = last_of_run(t, n, i + 1);
  }
  const Time distance = t[pick] < x ? minus(x, t[pick]) : minus(t[pick], x);
  return {pick, pick, A(0), max_gap < Time(0) || distance <= max_gap, false};
}

template <class A, class Time, class I>
RC_INLINE Stencil<A, I> previous(const Time* t, I n, I i, Time x, Time max_gap) {
  if (n == 0) return {-1, -1, A(0), false, false};
  if (i < 0) {
    const I edge = last_of_run(t, n, I(0));
    return {edge, edge, A(0), false, false};
  }
  return {i, i, A(0), max_gap < Time(0) || minus(x, t[i]) <= max_gap, false};
}

template <class A, class Time, class I> RC_INLINE Stencil<A, I> next(const Time* t, I n, I i, Time x, Time max_gap) {
  if (n == 0) return {-1, -1, A(0), false, false};
  if (i >= 0 && t[i] == x) return {i, i, A(0), true, false};
  if (i + 1 >= n) return {i, i, A(0), false, false};
  const I pick = last_of_run(t, n, i + 1);
  return {pick, pick, A(0), max_gap < Time(0) || minus(t[pick], x) <= max_gap, false};
}

// The stencil of target time x; `guess` is where its bracket is expected. bin(&low, &high) tells the edges of its bin
// for mean, or returns false. `*at` becomes the bracket found, for the caller's next guess.
template <class A, class Time, class I, class Bin>
RC_INLINE Stencil<A, I> stencil_at(Mode mode, const Time* t, I n, Time x, Time max_gap, I guess, const Bin& bin,
                                   I* at) {
  const I i = locate<false>(t, n, x, guess);
  *at = i;
  switch (mode) {
    case Mode::nearest: return nearest<A>(t, n, i, x, max_gap);
    case Mode::previous: return previous<A>(t, n, i, x, max_gap);
    case Mode::next: return next<A>(t, n, i, x, max_gap);
    case Mode::mean: {
      Time low, high;
      if (bin(&low, &high)) {
        const I first = locate<true>(t, n, low, i) + 1;
        const I second = locate<true>(t, n, high, i) + 1;
        if (first + 1 == second) return {first, first, A(0), true, false};  // a mean of one is a copy
        if (first < second) return {first, second, A(0), true, true};
      }
      return interpolating<A>(t, n, i, x, max_gap);
    }
    default: return interpolating<A>(t, n, i, x, max_gap);
  }
}

}  // namespace RC_ISA
}  // namespace robocache::align
