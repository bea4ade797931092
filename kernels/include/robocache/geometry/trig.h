// Sine and cosine with every rounding laid down, the same bits on host and device.
#pragma once
#include "robocache/geometry/quaternion.h"

namespace robocache {
inline namespace RC_ISA {

// pi / 2 in three parts (Cody & Waite): with fma the remainder is right to rounding for some 2^20 turns.
template <class A> struct Quarter;
template <> struct Quarter<float> {
  static constexpr float first = 1.57079637f, second = -4.37113883e-8f, third = -1.71512489e-15f, inverse = 0.636619747f;
};
template <> struct Quarter<double> {
  static constexpr double first = 1.5707963267948966, second = 6.123233995736766e-17, third = -1.4973849048591833e-33,
                          inverse = 0.6366197723675814;
};

// Of a finite angle; NaN of any other.
template <class A> RC_INLINE void sine_cosine(A angle, A& sine, A& cosine) {
  const A k = round_even(angle * Quarter<A>::inverse);
  A r = fused(-k, Quarter<A>::first, angle);
  r = fused(-k, Quarter<A>::second, r);
  r = fused(-k, Quarter<A>::third, r);
  const A half = A(0.5) * r, s = r * sinc(r * r), h = half * sinc(half * half);
  const A c = fused(A(-2) * h, h, A(1));
  // The quarter, 0 to 3, without an integer that could overflow.
  const A quarter = k - A(4) * round_even(A(0.25) * k - A(0.375));
  const bool odd = quarter == A(1) || quarter == A(3);
  const A a = odd ? c : s, b = odd ? s : c;
  sine = quarter >= A(2) ? -a : a;
  cosine = quarter == A(1) || quarter == A(2) ? -b : b;
}

}  // namespace RC_ISA
}  // namespace robocache
