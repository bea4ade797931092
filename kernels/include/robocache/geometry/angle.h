// Angles in radians, on the circle.
#pragma once
#include "robocache/core/numbers.h"

namespace robocache {
inline namespace RC_ISA {

// Angles, radians. Reduction by 2 pi in two parts (Cody & Waite) so that the remainder is exact for a few turns.
template <class A> struct Turn;
template <> struct Turn<float> {
  static constexpr float pi = 3.14159274f, high = 6.28318548f, low = -1.74845553e-7f, inverse = 0.159154943f;
};
template <> struct Turn<double> {
  static constexpr double pi = 3.141592653589793, high = 6.283185307179586, low = 2.4492935982947064e-16,
                          inverse = 0.15915494309189535;
};
template <class A> RC_INLINE A remainder_turn(A x) {  // in about [-pi, pi]
  const A k = round_even(x * Turn<A>::inverse);
  return fused(-k, Turn<A>::low, fused(-k, Turn<A>::high, x));
}
template <class A> RC_INLINE A wrap(A x) {  // in (-pi, pi], pi being the accumulator's nearest value of it
  if (magnitude(x) <= Turn<A>::pi) return x == -Turn<A>::pi ? Turn<A>::pi : x;
  A r = remainder_turn(x);
  if (r > Turn<A>::pi) r = fused(A(-1), Turn<A>::low, r - Turn<A>::high);
  if (r <= -Turn<A>::pi) r = r == -Turn<A>::pi ? Turn<A>::pi : r + Turn<A>::high + Turn<A>::low;
  return r;
}
template <class A> RC_INLINE A lerp_angle(A w, A x0, A x1) { return wrap(fused(w, remainder_turn(x1 - x0), x0)); }

}  // namespace RC_ISA
}  // namespace robocache
