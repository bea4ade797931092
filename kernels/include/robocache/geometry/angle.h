// Angles, in any unit: numbers on a circle.
#pragma once
#include "robocache/core/numbers.h"

namespace robocache {
inline namespace RC_ISA {

// A full turn. Reduction by its two parts (Cody & Waite) leaves a remainder that is exact for a few turns.
template <class A> struct Turn {
  A high, low, inverse;

  RC_INLINE static Turn of(double period) {
    const A high = A(period);
    // The double next to 2 pi stands for 2 pi itself.
    const double rest = sizeof(A) == 8 && period == 6.283185307179586 ? 2.4492935982947064e-16 : period - double(high);
    return {high, A(rest), A(1) / high};
  }
  // What of() made and a caller kept as doubles: the quotient costs the kernels registers.
  RC_INLINE static Turn from(const double (&kept)[3]) { return {A(kept[0]), A(kept[1]), A(kept[2])}; }

  RC_INLINE A half() const { return high * A(0.5); }
  RC_INLINE A count(A x) const { return round_even(x * inverse); }
  RC_INLINE A less(A turns, A x) const { return fused(-turns, low, fused(-turns, high, x)); }
  RC_INLINE A remainder(A x) const { return less(count(x), x); }  // in about [-half, half]
  // In (-half, half]; a NaN is not_a_number().
  RC_INLINE A wrap(A x) const {
    if (magnitude(x) <= half()) return x == -half() ? half() : x;
    A r = remainder(x);
    if (r > half()) r = fused(A(-1), low, r - high);
    if (r <= -half()) r = r == -half() ? half() : r + high + low;
    return r == r ? r : not_a_number<A>();
  }
};

}  // namespace RC_ISA
}  // namespace robocache
