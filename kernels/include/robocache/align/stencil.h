// Which samples make one target's value, and whether it is valid: five ways to search.
#pragma once
#include "robocache/align/search.h"

namespace robocache::align {
inline namespace RC_ISA {

// The samples of one value. first == second: a copy, no arithmetic. For a bin: samples [first, second), marked by
// bin = true.
template <class A, class I> struct Stencil {
  I first, second;
  A weight;
  bool valid, bin;
};

// A search is a type with at(): the stencil of time x among the n stamps t, of which i is the last at or before x.
// edges(&low, &high) tells the bin of the target, or returns false.

struct Bracket {
  template <class A, class Time, class I, class Edges>
  RC_INLINE static Stencil<A, I> at(const Time* t, I n, I i, Time x, Time max_gap, const Edges&) {
    if (n == 0) return {-1, -1, A(0), false, false};
    const bool early = i < 0;
    I first = early ? 0 : i, second = first + 1 < n ? first + 1 : first;
    const I third = second + 1 < n ? second + 1 : second;
    const Time t0 = t[first], t1 = t[second], t2 = t[third];  // three loads that do not wait for each other
    const bool hit = !early && t0 == x;
    const I last = early || t2 == t1 ? last_of_run(t, n, early ? first : second) : second;
    if (early) return {last, last, A(0), false, false};
    if (hit || second == first) return {first, first, A(0), hit, false};
    second = last;
    const auto span = elapsed(t0, t1);
    return {first, second, A(elapsed(t0, x)) / A(span), within(span, max_gap), false};
  }
};

struct Nearest {
  template <class A, class Time, class I, class Edges>
  RC_INLINE static Stencil<A, I> at(const Time* t, I n, I i, Time x, Time max_gap, const Edges&) {
    if (n == 0) return {-1, -1, A(0), false, false};
    const bool after = i < 0 || (i + 1 < n && elapsed(x, t[i + 1]) < elapsed(t[i], x));
    const I pick = after ? last_of_run(t, n, i + 1) : i;
    return {pick, pick, A(0), within(after ? elapsed(x, t[pick]) : elapsed(t[pick], x), max_gap), false};
  }
};

struct Previous {
  template <class A, class Time, class I, class Edges>
  RC_INLINE static Stencil<A, I> at(const Time* t, I n, I i, Time x, Time max_gap, const Edges&) {
    if (n == 0) return {-1, -1, A(0), false, false};
    if (i < 0) {
      const I edge = last_of_run(t, n, I(0));
      return {edge, edge, A(0), false, false};
    }
    return {i, i, A(0), within(elapsed(t[i], x), max_gap), false};
  }
};

struct Next {
  template <class A, class Time, class I, class Edges>
  RC_INLINE static Stencil<A, I> at(const Time* t, I n, I i, Time x, Time max_gap, const Edges&) {
    if (n == 0) return {-1, -1, A(0), false, false};
    if (i >= 0 && t[i] == x) return {i, i, A(0), true, false};
    if (i + 1 >= n) return {i, i, A(0), false, false};
    const I pick = last_of_run(t, n, i + 1);
    return {pick, pick, A(0), within(elapsed(x, t[pick]), max_gap), false};
  }
};

struct Bin {
  template <class A, class Time, class I, class Edges>
  RC_INLINE static Stencil<A, I> at(const Time* t, I n, I i, Time x, Time max_gap, const Edges& edges) {
    Time low, high;
    if (edges(&low, &high)) {
      const I first = locate<true>(t, n, low, i) + 1;
      const I second = locate<true>(t, n, high, i) + 1;
      if (first + 1 == second) return {first, first, A(0), true, false};  // a mean of one is a copy
      if (first < second) return {first, second, A(0), true, true};
    }
    return Bracket::at<A>(t, n, i, x, max_gap, edges);
  }
};

// f(search) with the one that a mode uses.
template <class F> RC_INLINE auto with_search(Mode mode, const F& f) {
  switch (mode) {
    case Mode::nearest: return f(Nearest());
    case Mode::previous: return f(Previous());
    case Mode::next: return f(Next());
    case Mode::mean:
    case Mode::circular_mean: return f(Bin());
    default: return f(Bracket());
  }
}

}  // namespace RC_ISA
}  // namespace robocache::align
