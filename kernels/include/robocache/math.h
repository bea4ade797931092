// The alignment rule, once, for host and device.
//
// Every rounding is explicit: products and sums that may be fused are written as fma(), the rest must not be fused
// (nvcc -fmad=false, gcc -ffp-contract=off), so both sides give the same bits. No fast-math and no library sin or atan
// (their bits differ between libm and CUDA): the polynomials below serve both.
#pragma once
#include <cmath>
#include <cstdint>

#include "types.h"

#ifdef __CUDACC__
#define RC_INLINE __host__ __device__ __forceinline__
#define RC_ISA device_code
#else
#define RC_INLINE inline __attribute__((always_inline))
#ifndef RC_ISA
#error "define RC_ISA: each instruction set gets its own copy of these functions"
#endif
#endif

namespace robocache {
inline namespace RC_ISA {

// ---- arithmetic -----------------------------------------------------------------------------------------------------

RC_INLINE float fused(float a, float b, float c) { return ::fmaf(a, b, c); }
RC_INLINE double fused(double a, double b, double c) { return ::fma(a, b, c); }
RC_INLINE float root(float x) { return ::sqrtf(x); }
RC_INLINE double root(double x) { return ::sqrt(x); }
RC_INLINE float magnitude(float x) { return ::fabsf(x); }
RC_INLINE double magnitude(double x) { return ::fabs(x); }

// Time arithmetic in the given dtype; int64 wraps instead of being undefined.
RC_INLINE int64_t minus(int64_t a, int64_t b) { return int64_t(uint64_t(a) - uint64_t(b)); }
RC_INLINE double minus(double a, double b) { return a - b; }
RC_INLINE float minus(float a, float b) { return a - b; }
RC_INLINE int64_t plus(int64_t a, int64_t b) { return int64_t(uint64_t(a) + uint64_t(b)); }
RC_INLINE double plus(double a, double b) { return a + b; }
RC_INLINE float plus(float a, float b) { return a + b; }

template <class Time> RC_INLINE Time time_value(TimeValue v);
template <> RC_INLINE int64_t time_value<int64_t>(TimeValue v) { return v.i64; }
template <> RC_INLINE double time_value<double>(TimeValue v) { return v.f64; }
template <> RC_INLINE float time_value<float>(TimeValue v) { return v.f32; }

// Horner's rule, highest coefficient first.
template <class A, class... Rest> RC_INLINE A polynomial(A x, A first, Rest... rest) {
  ((first = fused(first, x, A(rest))), ...);
  return first;
}

// What slerp needs of trigonometry, as polynomials of even functions, so that neither roots nor quotients are left:
// angle2(z) = (2 atan(sqrt(z)))^2 / z on [0, 1], sinc(y) = sin(sqrt(y)) / sqrt(y) and its reciprocal on [0, (pi/2)^2].
// Minimax in relative error (Remez), which is below 1.1e-8 (float) and 2.6e-17 (double); angle2 in powers of z - 1/2,
// which keeps the coefficients small.
RC_INLINE float angle2(float z) {
  return polynomial(z - 0.5f, -0.0255334863f, 0.0406565187f, -0.0500927372f, 0.0828508898f, -0.141756988f,
                    0.240195868f, -0.416203579f, 0.746850845f, -1.41880574f, 3.0305222f);
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
  return polynomial(y, -7.9798966178968772e-18, 2.8101852763405099e-15, -7.6471263788673518e-13,
                    1.6059043172129437e-10, -2.5052108378101718e-8, 2.7557319223936402e-6, -0.00019841269841269649,
                    0.008333333333333333, -0.16666666666666667, 1.0);
}
RC_INLINE double per_sinc(double y) {
  return polynomial(y, 1.9127251987609365e-13, -1.64214809086117e-12, 1.3101918150308717e-11, -1.5313304663329187e-11,
                    3.207571829944318e-10, 2.0938481610257588e-9, 2.2403033090048846e-8, 2.1907054311488898e-7,
                    2.163445050511296e-6, 2.1336005573505291e-5, 0.00020998678317408039, 0.0020502645485546184,
                    0.019444444444587199, 0.16666666666666198, 1.0);
}

// ---- brackets -------------------------------------------------------------------------------------------------------

// Last i with t[i] <= x (strict: t[i] < x), or -1. Looks around `guess`, else gallops out from it and bisects: a bad
// guess costs 2 log2(distance) probes. Never reads outside [0, n), whatever the data holds. I: int64_t, or int32_t where
// the caller's n fits.
template <bool strict, class Time, class I>
RC_INLINE I locate(const Time* t, I n, Time x, I guess) {
  const auto before = [&](I i) { return strict ? t[i] < x : t[i] <= x; };
  if (n <= 0) return -1;
  if (n >= 4) {
    // Most guesses are at most one sample off. Counting four comparisons has no branch to mispredict (CPU), and its four
    // loads do not wait for each other (GPU).
    const I g = guess < 1 ? 1 : guess > n - 3 ? n - 3 : guess;
    const int inside = int(before(g - 1)) + int(before(g)) + int(before(g + 1)) + int(before(g + 2));
    if (inside >= 1 && inside <= 3) return g - 2 + inside;
    if (inside == 0 ? g == 1 : g == n - 3) return g - 2 + inside;  // before the first sample, or after the last
  }
  const I start = guess < 0 ? 0 : guess >= n ? n - 1 : guess;
  I low = -1, high = n, step = 1;  // before(low) holds, before(high) does not
  if (before(start)) {
    low = start;
    while (step < n - low && before(low + step)) {
      low += step;
      step *= 2;
    }
    if (step < n - low) high = low + step;
  } else {
    high = start;
    while (high - step >= 0 && !before(high - step)) {
      high -= step;
      step *= 2;
    }
    if (high - step >= 0) low = high - step;
  }
  while (high - low > 1) {
    const I middle = low + (high - low) / 2;
    (before(middle) ? low : high) = middle;
  }
  return low;
}

// Of a run of equal stamps only the last sample exists.
template <class Time, class I> RC_INLINE I last_of_run(const Time* t, I n, I i) {
  while (i + 1 < n && t[i + 1] == t[i]) ++i;
  return i;
}
// The sample before the run that i ends, or -1.
template <class Time, class I> RC_INLINE I before_run(const Time* t, I i) {
  I j = i;
  while (j > 0 && t[j - 1] == t[i]) --j;
  return j - 1;
}

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

template <class A, class Time, class I>
RC_INLINE Stencil<A, I> nearest(const Time* t, I n, I i, Time x, Time max_gap) {
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

template <class A, class Time, class I>
RC_INLINE Stencil<A, I> next(const Time* t, I n, I i, Time x, Time max_gap) {
  if (n == 0) return {-1, -1, A(0), false, false};
  if (i >= 0 && t[i] == x) return {i, i, A(0), true, false};
  if (i + 1 >= n) return {i, i, A(0), false, false};
  const I pick = last_of_run(t, n, i + 1);
  return {pick, pick, A(0), max_gap < Time(0) || minus(t[pick], x) <= max_gap, false};
}

// Bin edges of a target between its neighbours: midway, the outer ones mirrored. For int64 the edge is the ceiling of
// the real midpoint, so that `stamp >= edge` compares with the midpoint exactly.
RC_INLINE int64_t half_up(int64_t d) { return (d + 1) / 2; }
RC_INLINE double half_up(double d) { return d * 0.5; }
RC_INLINE float half_up(float d) { return d * 0.5f; }
RC_INLINE int64_t half_down(int64_t d) { return d / 2; }
RC_INLINE double half_down(double d) { return d * 0.5; }
RC_INLINE float half_down(float d) { return d * 0.5f; }

// False for a lone target, which has no bin.
template <class Time> RC_INLINE bool bin_edges(const Time* target, int64_t count, int64_t k, Time shift, Time* low,
                                               Time* high) {
  if (count < 2) return false;
  const Time x = minus(target[k], shift);
  const Time left = k > 0 ? minus(target[k - 1], shift) : x;
  const Time right = k + 1 < count ? minus(target[k + 1], shift) : x;
  *low = k > 0 ? plus(left, half_up(minus(x, left))) : minus(x, half_down(minus(right, x)));
  *high = k + 1 < count ? plus(x, half_up(minus(right, x))) : plus(x, half_up(minus(x, left)));
  return true;
}

// The stencil of target time x; `guess` is where its bracket is expected. bin(&low, &high) tells the edges of its bin for
// mean, or returns false. `*at` becomes the bracket found, for the caller's next guess.
template <class A, class Time, class I, class Bin>
RC_INLINE Stencil<A, I> stencil_at(Mode mode, const Time* t, I n, Time x, Time max_gap, I guess, const Bin& bin, I* at) {
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

// ---- values ---------------------------------------------------------------------------------------------------------

template <class A> RC_INLINE A lerp(A w, A x0, A x1) { return fused(w, x1 - x0, x0); }

template <class A> RC_INLINE int sign_of(A x) { return int(x > A(0)) - int(x < A(0)); }

// Derivative at an inner knot: Fritsch & Butland's weighted harmonic mean (SIAM J. Sci. Stat. Comput. 5, 1984), as
// SciPy's PchipInterpolator; 0 where the slopes' signs differ or one is 0. One division, since it runs for every element:
// the quotient is at most 1 / w1, so that neither steep nor flat slopes leave the range of floats on the way. No branch: a
// quotient that is not wanted is 1 / 1 (0 / 0 takes a GPU's slow path).
template <class A> RC_INLINE A pchip_inner(A h_left, A h_right, A s_left, A s_right) {
  const bool opposed = (int(s_left <= A(0)) & int(s_right >= A(0))) | (int(s_left >= A(0)) & int(s_right <= A(0)));
  const A w1 = h_right + h_right + h_left, w2 = h_right + h_left + h_left;
  const A over = opposed ? A(1) : s_right, under = opposed ? A(1) : fused(w1, s_right, w2 * s_left);
  const A mean = (w1 + w2) * s_left * (over / under);
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
template <class A, class Time, class I>
RC_INLINE Knots<A, I> knots_at(const Time* t, I n, const Stencil<A, I>& s) {
  Knots<A, I> k{-1, -1, A(0), A(0), A(0), A(0)};
  const A span = A(minus(t[s.second], t[s.first]));
  k.before = before_run(t, s.first);
  if (k.before >= 0) {
    k.h_before = A(minus(t[s.first], t[k.before])) / span;
    k.per_before = A(1) / k.h_before;
  }
  if (s.second + 1 < n) {
    k.after = last_of_run(t, n, s.second + 1);
    k.h_after = A(minus(t[k.after], t[s.second])) / span;
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
template <class A, class I> RC_INLINE A pchip_between(const Knots<A, I>& k, A w, A xb, A x0, A x1, A xa) {
  const A s0 = (x0 - xb) * k.per_before, s1 = x1 - x0, s2 = (xa - x1) * k.per_after;
  return hermite(w, x0, s1, pchip_inner(k.h_before, A(1), s0, s1), pchip_inner(A(1), k.h_after, s1, s2));
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

// Angles, radians. Reduction by 2 pi in two parts (Cody & Waite) so that the remainder is exact for a few turns.
template <class A> struct Turn;
template <> struct Turn<float> {
  static constexpr float pi = 3.14159274f, high = 6.28318548f, low = -1.74845553e-7f, inverse = 0.159154943f;
};
template <> struct Turn<double> {
  static constexpr double pi = 3.141592653589793, high = 6.283185307179586, low = 2.4492935982947064e-16,
                          inverse = 0.15915494309189535;
};
RC_INLINE float round_even(float x) { return ::rintf(x); }
RC_INLINE double round_even(double x) { return ::rint(x); }
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

// Quaternions, any component order: unit output; false and zeros where one has no direction.
template <class A> RC_INLINE bool normalize(const A* q, A* out) {
  const A norm2 = fused(q[3], q[3], fused(q[2], q[2], fused(q[1], q[1], q[0] * q[0])));
  const bool good = norm2 > A(0) && norm2 - norm2 == A(0);
  const A scale = good ? A(1) / root(norm2) : A(0);
  for (int c = 0; c < 4; ++c) out[c] = good ? q[c] * scale : A(0);
  return good;
}
// Shoemake's slerp (SIGGRAPH 1985) on the shorter arc, the angle by Kahan's 2 atan2(|b-a|, |b+a|), which is exact to
// rounding for any angle. Only squares of chord and angle appear: no root, nothing that is 0/0 where the two are equal, and
// what is left of the length is taken off by a step of Newton's method for 1/sqrt, exact as it is 1 to rounding.
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
  const A z = good ? apart / along : A(0);  // tan(angle / 2)^2
  const A square = z * angle2(z), rest = A(1) - w, unit = per_sinc(square);
  const A w0 = rest * sinc(rest * rest * square) * unit;  // sin(rest * angle) / sin(angle)
  const A w1 = w * sinc(w * w * square) * unit;
  for (int c = 0; c < 4; ++c) out[c] = fused(w1, b[c], w0 * a[c]);
  const A norm2 = fused(out[3], out[3], fused(out[2], out[2], fused(out[1], out[1], out[0] * out[0])));
  const A scale = fused(A(-0.5), norm2, A(1.5));
  for (int c = 0; c < 4; ++c) out[c] = good ? out[c] * scale : A(0);
  return good;
}

// ---- storage types --------------------------------------------------------------------------------------------------

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

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

template <class V> struct Accumulator { using type = float; };
template <> struct Accumulator<double> { using type = double; };

RC_INLINE double load(const double* p) { return *p; }
RC_INLINE float load(const float* p) { return *p; }
RC_INLINE float load(const BFloat16* p) { return as_float(uint32_t(p->bits) << 16); }
RC_INLINE float load(const Half* p) {
#ifdef __CUDA_ARCH__  // exact either way; the device has an instruction for it
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(p->bits));
  return f;
#else
  // Shift exponent and mantissa into place and rescale by 2^112: exact for normals and subnormals.
  const uint32_t magnitude_bits = uint32_t(p->bits & 0x7fff) << 13;
  const float scaled = as_float(magnitude_bits) * as_float(0x77800000u);
  const uint32_t finite = as_bits(scaled), special = magnitude_bits | 0x7f800000u;
  return as_float(((p->bits & 0x7c00) == 0x7c00 ? special : finite) | (uint32_t(p->bits & 0x8000) << 16));
#endif
}

// Rounds to a binary format of E exponent and M mantissa bits, nearest even, bias 2^(E-1)-1, without saturation:
// the result may be the code after the largest finite one. The magnitude only; NaN is the caller's.
template <int E, int M> RC_INLINE uint32_t round_to_format(float magnitude_value) {
  constexpr int bias = (1 << (E - 1)) - 1;
  const uint32_t u = as_bits(magnitude_value);
  const int exponent = int(u >> 23) - 127;
  if (exponent < 1 - bias) {  // subnormal: let the float adder round at the right place
    const float magic = as_float(uint32_t(127 + 23 + 1 - bias - M) << 23);
    return as_bits(magnitude_value + magic) - as_bits(magic);
  }
  const uint32_t rebased = u - (uint32_t(127 - bias) << 23);
  return (rebased + (1u << (22 - M)) - 1 + ((rebased >> (23 - M)) & 1)) >> (23 - M);
}

RC_INLINE void store(double* p, double x) { *p = x; }
RC_INLINE void store(float* p, double x) { *p = float(x); }
RC_INLINE void store(float* p, float x) { *p = x; }
RC_INLINE void store(double* p, float x) { *p = x; }
// Nearest even on both sides, by instruction on the device; NaN has one code, that of the device's instruction.
RC_INLINE void store(BFloat16* p, float x) {
#ifdef __CUDA_ARCH__
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  p->bits = bits;
#else
  const uint32_t u = as_bits(x);
  p->bits = x != x ? uint16_t(0x7fff) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
#endif
}
RC_INLINE void store(Half* p, float x) {
#ifdef __CUDA_ARCH__
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  p->bits = bits;
#else
  const float m = magnitude(x);
  const uint32_t code = m >= 65520.0f ? 0x7c00u : round_to_format<5, 10>(m);
  p->bits = x != x ? uint16_t(0x7fff) : uint16_t(((as_bits(x) >> 16) & 0x8000) | code);
#endif
}
// A double rounds once, to odd in float first (Boldo & Melquiond 2008), then to nearest in the narrow type.
RC_INLINE float to_odd(double x) {
  const float f = float(x);
  if (double(f) == x || x != x) return f;
  const uint32_t u = as_bits(f);
  const bool away = magnitude(double(f)) > magnitude(x);
  return as_float((u - (away ? 1u : 0u)) | 1u);
}
RC_INLINE void store(BFloat16* p, double x) { store(p, to_odd(x)); }
RC_INLINE void store(Half* p, double x) { store(p, to_odd(x)); }

// 8-bit codes: saturating, round half to even, NaN kept (0 for int8).
RC_INLINE uint8_t encode8(DType dtype, float x) {
  const uint8_t sign = uint8_t((as_bits(x) >> 24) & 0x80);
  const float m = magnitude(x);
  if (dtype == DType::e4m3) return sign | uint8_t(x != x ? 0x7f : m >= 448.0f ? 0x7e : round_to_format<4, 3>(m));
  if (dtype == DType::e5m2) return sign | uint8_t(x != x ? 0x7f : m >= 57344.0f ? 0x7b : round_to_format<5, 2>(m));
  if (x != x) return 0;
  const float r = round_even(x);
  return uint8_t(int8_t(r < -128.0f ? -128.0f : r > 127.0f ? 127.0f : r));
}

}  // namespace RC_ISA
}  // namespace robocache
