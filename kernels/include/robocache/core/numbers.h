// Arithmetic with every rounding laid down, and numbers as bits.
#pragma once
#include <cmath>
#include <cstdint>

#include "robocache/core/macros.h"

namespace robocache {
inline namespace RC_ISA {

RC_INLINE float fused(float a, float b, float c) { return ::fmaf(a, b, c); }
RC_INLINE double fused(double a, double b, double c) { return ::fma(a, b, c); }
RC_INLINE float root(float x) { return ::sqrtf(x); }
RC_INLINE double root(double x) { return ::sqrt(x); }
RC_INLINE float magnitude(float x) { return ::fabsf(x); }
RC_INLINE double magnitude(double x) { return ::fabs(x); }

// NaN, the same bits everywhere: NAN has others in device code, and what arithmetic gives differs between machines.
template <class A> RC_INLINE A not_a_number();
template <> RC_INLINE float not_a_number<float>() {
  const uint32_t bits = 0x7fc00000u;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
template <> RC_INLINE double not_a_number<double>() { return not_a_number<float>(); }

RC_INLINE float round_even(float x) { return ::rintf(x); }
RC_INLINE double round_even(double x) { return ::rint(x); }

template <class A> RC_INLINE int sign_of(A x) { return int(x > A(0)) - int(x < A(0)); }

template <class A> RC_INLINE A lerp(A w, A x0, A x1) { return fused(w, x1 - x0, x0); }

// Horner's rule, highest coefficient first.
template <class A, class... Rest> RC_INLINE A polynomial(A x, A first, Rest... rest) {
  ((first = fused(first, x, A(rest))), ...);
  return first;
}

RC_INLINE float as_float(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
RC_INLINE uint32_t as_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}

}  // namespace RC_ISA
}  // namespace robocache
