// Quotients and roots without the branch that covers the ends of the range, for where the caller knows the range.
//
// A GPU has no instruction for either. What its compiler makes of a / b is nine instructions for ordinary operands, and
// a test and a branch to some fifty for the others: four more, and a wall between an element and the next, whose
// arithmetic could run meanwhile. These are the compiler's own nine (and five for a root), so they give the same bits
// as a / b and sqrt, which are correctly rounded. On a CPU both are one instruction.
#pragma once
#include "robocache/core/numbers.h"

namespace robocache {
inline namespace RC_ISA {

#ifdef __CUDA_ARCH__
RC_INLINE float approximate_reciprocal(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
#endif

// 1 / x; |x| in [2^-120, 2^120].
RC_INLINE double reciprocal_in_range(double x) { return 1.0 / x; }
RC_INLINE float reciprocal_in_range(float x) {
#ifdef __CUDA_ARCH__
  const float r = approximate_reciprocal(x);
  return fused(r, -fused(x, r, -1.0f), r);
#else
  return 1.0f / x;
#endif
}

// The root of x in [2^-100, 2^126].
RC_INLINE double root_in_range(double x) { return root(x); }
RC_INLINE float root_in_range(float x) {
#ifdef __CUDA_ARCH__
  float per_root;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(per_root) : "f"(x));
  const float s = x * per_root, half = per_root * 0.5f;
  return fused(fused(-s, s, x), half, s);
#else
  return root(x);
#endif
}

// a / b; |a| in [2^-60, 2^60] or 0, |b| in [2^-60, 2^60].
RC_INLINE double quotient_in_range(double a, double b) { return a / b; }
RC_INLINE float quotient_in_range(float a, float b) {
#ifdef __CUDA_ARCH__
  float r = approximate_reciprocal(b);
  r = fused(r, fused(-b, r, 1.0f), r);
  float q = a * r;
  q = fused(r, fused(-b, q, a), q);
  return fused(r, fused(-b, q, a), q);
#else
  return a / b;
#endif
}

// How a formula that divides for every element does it: always right, or right as long as `inside` stays true.
struct Divide {
  template <class A> RC_INLINE A operator()(A a, A b) const { return a / b; }
};
struct DivideInRange {
  bool& inside;
  // For |a| <= |b| alone: two comparisons instead of four.
  template <class A> RC_INLINE A operator()(A a, A b) const {
    inside = int(inside) & int(magnitude(a) > A(0x1p-60f)) & int(magnitude(b) < A(0x1p60f));
    return quotient_in_range(a, b);
  }
};

}  // namespace RC_ISA
}  // namespace robocache
