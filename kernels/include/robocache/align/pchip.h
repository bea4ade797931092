// Monotone cubic interpolation (PCHIP).
#pragma once
#include "robocache/align/stencil.h"
#include "robocache/core/divide.h"

namespace robocache::align {
inline namespace RC_ISA {

// Derivative at an inner knot: Fritsch & Butland's weighted harmonic mean (SIAM J. Sci. Stat. Comput. 5, 1984), as
// SciPy's PchipInterpolator; 0 where the slopes' signs differ or one is 0. One division, since it runs for every
// element: the quotient is at most 1 / w1, so that neither steep nor flat slopes leave the range of floats on the way.
// No branch: a quotient that is not wanted is 1 / 1 (0 / 0 takes a GPU's slow path). The divisor is the larger one, as
// w1 is above 1.
template <class A, class Quotient = Divide>
RC_INLINE A pchip_inner(A h_left, A h_right, A s_left, A s_right, const Quotient& quotient = {}) {
  const bool opposed = (int(s_left <= A(0)) & int(s_right >= A(0))) | (int(s_left >= A(0)) & int(s_right <= A(0)));
  const A w1 = h_right + h_right + h_left, w2 = h_right + h_left + h_left;
  const A over = opposed ? A(1) : s_right, under = opposed ? A(1) : fused(w1, s_right, w2 * s_left);
  const A mean = (w1 + w2) * s_left * quotient(over, under);
  return opposed ? A(0) : mean;  // NaN is opposed to nothing
}
// Derivative at an end: one-sided three-point estimate, limited to keep the shape. h0, s0: the end's own interval.
template <class A> RC_INLINE A pchip_end(A h0, A h1, A s0, A s1) {
  const A d = ((h0 + h0 + h1) * s0 - h0 * s1) / (h0 + h1);
  if (sign_of(d) != sign_of(s0)) return d != d ? d : A(0);
  if (sign_of(s0) != sign_of(s1) && magnitude(d) > A(3) * magnitude(s0)) return A(3) * s0;
  return d;
}

// The four-sample stencil of monotone cubic interpolation in [first, second], its interval taken as the unit of time.
// before / after: -1 where there is no such sample. per_before, per_after: 1 / h, once a row.
template <class A, class I> struct Knots {
  I before, after;
  A h_before, h_after, per_before, per_after;
};
template <class A, class Time, class I> RC_INLINE Knots<A, I> knots_at(const Time* t, I n, const Stencil<A, I>& s) {
  Knots<A, I> k{-1, -1, A(0), A(0), A(0), A(0)};
  const A span = A(elapsed(t[s.first], t[s.second]));
  k.before = before_run(t, s.first);
  if (k.before >= 0) {
    k.h_before = A(elapsed(t[k.before], t[s.first])) / span;
    k.per_before = A(1) / k.h_before;
  }
  if (s.second + 1 < n) {
    k.after = last_of_run(t, n, s.second + 1);
    k.h_after = A(elapsed(t[s.second], t[k.after])) / span;
    k.per_after = A(1) / k.h_after;
  }
  return k;
}
// The straight line, and what the end slopes m0 and m1 bend it by.
template <class A> RC_INLINE A hermite(A w, A x0, A s1, A m0, A m1) {
  const A rest = A(1) - w, near = w * rest * rest, far = -(w * w * rest);
  return fused(far, m1 - s1, fused(near, m0 - s1, fused(w, s1, x0)));
}
// Where there is a sample on both sides.
template <class A, class I, class Quotient = Divide>
RC_INLINE A pchip_between(const Knots<A, I>& k, A w, A xb, A x0, A x1, A xa, const Quotient& quotient = {}) {
  const A s0 = (x0 - xb) * k.per_before, s1 = x1 - x0, s2 = (xa - x1) * k.per_after;
  return hermite(w, x0, s1, pchip_inner(k.h_before, A(1), s0, s1, quotient),
                 pchip_inner(A(1), k.h_after, s1, s2, quotient));
}
template <class A, class I> RC_INLINE A pchip(const Knots<A, I>& k, A w, A xb, A x0, A x1, A xa) {
  if (k.before >= 0 && k.after >= 0) return pchip_between(k, w, xb, x0, x1, xa);
  const A s1 = x1 - x0;
  if (k.before < 0 && k.after < 0) return fused(w, s1, x0);
  const A s0 = (x0 - xb) * k.per_before, s2 = (xa - x1) * k.per_after;  // one of them unused
  const A m0 = k.before >= 0 ? pchip_inner(k.h_before, A(1), s0, s1) : pchip_end(A(1), k.h_after, s1, s2);
  const A m1 = k.after >= 0 ? pchip_inner(A(1), k.h_after, s1, s2) : pchip_end(A(1), k.h_before, s1, s0);
  return hermite(w, x0, s1, m0, m1);
}

}  // namespace RC_ISA
}  // namespace robocache::align
