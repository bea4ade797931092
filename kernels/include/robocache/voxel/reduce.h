// One number of one voxel, from the features of its points.
#pragma once
#include "robocache/core/storage.h"
#include "robocache/voxel/sum.h"
#include "robocache/voxel/types.h"

namespace robocache {
inline namespace RC_ISA {

// Rounded once; a NaN has one code on every device.
RC_INLINE void put(double* p, double x) {
  const uint64_t bits = 0x7ff8000000000000;
  if (x != x) __builtin_memcpy(p, &bits, 8);
  else *p = x;
}
RC_INLINE void put(float* p, double x) { *p = x != x ? as_float(0x7fc00000u) : float(x); }
template <class V> RC_INLINE void put(V* p, double x) { store(p, x); }

// Whether a comes before b: -0 before +0.
template <class A> RC_INLINE bool comes_before(A a, A b) {
  return a < b || (a == b && A(1) / a < A(1) / b && a == A(0));
}

// sum() over the addends, whatever their order; `each(f)` calls f with every one.
template <class Each> RC_INLINE double exact_sum(const PairSum& pair, const Each& each) {
  if (!pair.lossy) return pair.value();
  WideSum wide;
  each([&](double x) { wide.add(x); });
  return wide.value();
}

// The least or largest so far; NaN stays.
template <class A> struct Extreme {
  A best;
  bool largest;
  RC_INLINE void add(A x) {
    if (best != best) return;
    if (x != x || (largest ? comes_before(best, x) : comes_before(x, best))) best = x;
  }
};

// sum, mean, min or max of n values, at(i) the address of one.
template <class V, class At> RC_INLINE double reduced(voxel::Reduction reduce, int64_t n, const At& at) {
  using voxel::Reduction;
  if (reduce == Reduction::min || reduce == Reduction::max) {
    using A = typename Accumulator<V>::type;
    Extreme<A> extreme{load(at(0)), reduce == Reduction::max};
    for (int64_t i = 1; i < n; ++i) extreme.add(load(at(i)));
    return extreme.best;
  }
  PairSum pair;
  for (int64_t i = 0; i < n; ++i) pair.add(load(at(i)));
  const double sum = exact_sum(pair, [&](const auto& add) {
    for (int64_t i = 0; i < n; ++i) add(load(at(i)));
  });
  return reduce == Reduction::mean ? sum / double(n) : sum;
}

}  // namespace RC_ISA
}  // namespace robocache
