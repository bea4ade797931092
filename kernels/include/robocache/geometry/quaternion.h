// Unit quaternions, any component order.
#pragma once
#include "robocache/core/divide.h"

namespace robocache {
inline namespace RC_ISA {

// What slerp needs of trigonometry, as polynomials of even functions, so that neither roots nor quotients are left:
// angle2(z) = (2 atan(sqrt(z)))^2 / z on [0, 1], sinc(y) = sin(sqrt(y)) / sqrt(y) and its reciprocal on [0, (pi/2)^2].
// Minimax in relative error (Remez), which is below 1.1e-8 (float) and 2.6e-17 (double); angle2 in powers of z - 1/2,
// which keeps the coefficients small.
RC_INLINE float angle2(float z) {
  return polynomial(z - 0.5f, -0.0255334863f, 0.0406565187f, -0.0500927372f, 0.0828508898f, -0.141756988f, 0.240195868f,
                    -0.416203579f, 0.746850845f, -1.41880574f, 3.0305222f);
}
RC_INLINE float sinc(float y) {
  return polynomial(y, 2.60190294e-6f, -1.98074187e-4f, 8.33302514e-3f, -0.166666567f, 1.0f);
}
RC_INLINE float per_sinc(float y) {
  return polynomial(y, 6.60942641e-7f, 3.28969411e-8f, 2.61774241e-5f, 2.04133165e-4f, 2.05402388e-3f, 1.94432764e-2f,
                    0.166666803f, 1.0f);
}
RC_INLINE double angle2(double z) {
  return polynomial(z - 0.5, 0.00023255866335145462, -0.00035619741775700256, 0.0002493408375189187,
                    -0.00039724985839530785, 0.00079542046278382721, -0.0012450990513716198, 0.0019057423474243717,
                    -0.0030111427956867737, 0.004783048991521402, -0.0076107892673913424, 0.01216547493562722,
                    -0.01955404139160711, 0.031634436760743926, -0.05158220137686554, 0.084933807477438501,
                    -0.14160284326014157, 0.24000497143154171, -0.41620976633000066, 0.74685689868328304,
                    -1.4188056746018714, 3.030522174279879);
}
RC_INLINE double sinc(double y) {
  return polynomial(y, -7.9798966178968772e-18, 2.8101852763405099e-15, -7.6471263788673518e-13, 1.6059043172129437e-10,
                    -2.5052108378101718e-8, 2.7557319223936402e-6, -0.00019841269841269649, 0.008333333333333333,
                    -0.16666666666666667, 1.0);
}
RC_INLINE double per_sinc(double y) {
  return polynomial(y, 1.9127251987609365e-13, -1.64214809086117e-12, 1.3101918150308717e-11, -1.5313304663329187e-11,
                    3.207571829944318e-10, 2.0938481610257588e-9, 2.2403033090048846e-8, 2.1907054311488898e-7,
                    2.163445050511296e-6, 2.1336005573505291e-5, 0.00020998678317408039, 0.0020502645485546184,
                    0.019444444444587199, 0.16666666666666198, 1.0);
}

// Squared norms between which nothing over- or underflows, and what brings the others there.
template <class A> struct Norms;
template <> struct Norms<float> {
  static constexpr float least = 0x1p-90f, most = 0x1p126f, up = 0x1p100f, down = 0x1p-100f;
};
template <> struct Norms<double> {
  static constexpr double least = 0x1p-900, most = 0x1p1000, up = 0x1p600, down = 0x1p-600;
};
template <int N = 4, class A> RC_INLINE A norm2_of(const A* v) {
  A sum = v[0] * v[0];
  for (int c = 1; c < N; ++c) sum = fused(v[c], v[c], sum);
  return sum;
}
// Vectors of N numbers: unit output; false and zeros where one has no direction (zero, not finite).
template <int N, class A> RC_INLINE bool unit(const A* from, A* out) {
  A v[N], norm2 = norm2_of<N>(from);
  for (int c = 0; c < N; ++c) v[c] = from[c];
  if (!(norm2 >= Norms<A>::least && norm2 <= Norms<A>::most)) {
    const A by = norm2 < A(1) ? Norms<A>::up : Norms<A>::down;
    for (int c = 0; c < N; ++c) v[c] *= by;
    norm2 = norm2_of<N>(v);
  }
  const bool good = norm2 > A(0) && norm2 - norm2 == A(0);
  const A scale = reciprocal_in_range(root_in_range(norm2));  // where it is good, the norm is in between
  for (int c = 0; c < N; ++c) out[c] = good ? v[c] * scale : A(0);
  return good;
}
// Quaternions, any component order.
template <class A> RC_INLINE bool normalize(const A* q, A* out) { return unit<4>(q, out); }
// Shoemake's slerp (SIGGRAPH 1985) on the shorter arc, the angle by Kahan's 2 atan2(|b-a|, |b+a|), which is exact to
// rounding for any angle. Only squares of chord and angle appear: no root, nothing that is 0/0 where the two are equal,
// and what is left of the length is taken off by a step of Newton's method for 1/sqrt, exact as it is 1 to rounding.
template <class A> RC_INLINE bool slerp(A w, const A* q0, const A* q1, A* out) {
  A a[4], b[4];
  const bool good = normalize(q0, a) & normalize(q1, b);
  const A dot = fused(a[3], b[3], fused(a[2], b[2], fused(a[1], b[1], a[0] * b[0])));
  A apart = A(0), along = A(0);
  for (int c = 0; c < 4; ++c) {
    b[c] = dot < A(0) ? -b[c] : b[c];
    apart = fused(b[c] - a[c], b[c] - a[c], apart);
    along = fused(b[c] + a[c], b[c] + a[c], along);
  }
  // tan(angle / 2)^2: along is in [2, 4]; where apart is too small for the range, z is nothing beside 1 below
  const A z = good ? quotient_in_range(apart, along) : A(0);
  const A square = z * angle2(z), rest = A(1) - w, unit = per_sinc(square);
  const A w0 = rest * sinc(rest * rest * square) * unit;  // sin(rest * angle) / sin(angle)
  const A w1 = w * sinc(w * w * square) * unit;
  for (int c = 0; c < 4; ++c) out[c] = fused(w1, b[c], w0 * a[c]);
  const A scale = fused(A(-0.5), norm2_of(out), A(1.5));
  for (int c = 0; c < 4; ++c) out[c] = good ? out[c] * scale : A(0);
  return good;
}

}  // namespace RC_ISA
}  // namespace robocache
