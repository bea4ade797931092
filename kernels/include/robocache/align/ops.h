// What is made of the samples of a stencil: a formula is a type with
//
//   kShape   what it needs: see Shape
//   reach()  the samples that one value depends on
//   and the value: of elements (copy, between), of four samples (pchip.h), or of a quaternion (row).
//
// A mode is a search (stencil.h) and a formula; with_search and with_formula are the only ones to ask for its name.
#pragma once
#include "robocache/align/pchip.h"
#include "robocache/align/stencil.h"
#include "robocache/core/storage.h"
#include "robocache/geometry/angle.h"
#include "robocache/geometry/quaternion.h"

namespace robocache::align {
inline namespace RC_ISA {

// What one value is made of.
enum class Shape {
  one,         // an element of one sample
  two,         // elements of the two samples of the stencil
  four,        // and of one sample more on either side
  bin,         // elements of all samples in a bin, or as `two`
  quaternion,  // rows of the two samples
};

// Samples [first, stop) that a value depends on.
template <class I> struct Reach {
  I first, stop;
};
struct OfStencil {
  template <class A, class Time, class I> RC_INLINE static Reach<I> reach(const Time*, I, const Stencil<A, I>& s) {
    return {s.first, s.bin ? s.second : s.second + 1};
  }
};

struct Copy : OfStencil {
  static constexpr Shape kShape = Shape::one;
  template <class A> RC_INLINE static A copy(A x) { return x; }
  template <class A> RC_INLINE static A between(A, A x0, A) { return x0; }
};

struct Linear : OfStencil {
  static constexpr Shape kShape = Shape::two;
  template <class A> RC_INLINE static A copy(A x) { return x; }
  template <class A> RC_INLINE static A between(A w, A x0, A x1) { return lerp(w, x0, x1); }
};

// On the shorter arc.
template <class A> struct Angle : OfStencil {
  static constexpr Shape kShape = Shape::two;
  Turn<A> turn;
  RC_INLINE A copy(A x) const { return turn.wrap(x); }
  RC_INLINE A between(A w, A x0, A x1) const { return turn.wrap(fused(w, turn.remainder(x1 - x0), x0)); }
};

struct Cubic {
  static constexpr Shape kShape = Shape::four;
  template <class A, class Time, class I> RC_INLINE static Reach<I> reach(const Time* t, I n, const Stencil<A, I>& s) {
    I first = s.first, stop = s.second + 1;
    if (s.first != s.second) {
      const I before = before_run(t, s.first);
      first = before < 0 ? first : before;
      stop = stop < n ? last_of_run(t, n, stop) + 1 : stop;
    }
    return {first, stop};
  }
};

// Over a bin, in sample order, of differences from its first sample: exact for a constant signal. This many are summed
// in the accumulator's type, these sums in double: as quick as one running sum, and two million float32 are no problem.
constexpr int kSummed = 256;
struct Mean : Linear {
  static constexpr Shape kShape = Shape::bin;
  template <class A> struct Difference {
    A origin;
    RC_INLINE Difference(const Mean&, A, A start) : origin(start) {}
    RC_INLINE A of(A x) { return x - origin; }
  };
};

// The mean of an angle without its jumps: each sample is taken as the nearest to the one before it.
template <class A> struct CircularMean : Angle<A> {
  static constexpr Shape kShape = Shape::bin;
  template <class> struct Difference {
    const Turn<A>& turn;
    A origin, before, turns;
    RC_INLINE Difference(const CircularMean& op, A first, A start)
        : turn(op.turn), origin(start), before(first), turns(A(0)) {}
    RC_INLINE A of(A x) {
      turns += turn.count(x - before);
      before = x;
      return turn.less(turns, x - origin);
    }
  };
};

// One column's mean of n samples, whatever they are: of a run of equal stamps only the last exists, there may be more
// than kSummed, and where the differences give NaN the samples themselves are summed, so that a mean with an infinity
// is one.
template <class A, class Op, class V, class S, class Time, class I>
RC_INLINE A careful_mean(const Op& op, const V* x, S stride, const Time* t, I n) {
  const I start = last_of_run(t, n, I(0));
  const A first = load(x + start * stride);
  A origin = first;
  for (;;) {
    typename Op::template Difference<A> difference(op, first, origin);
    A sum = difference.of(first);
    double total = 0;
    I count = 1;
    for (I j = start + 1; j < n; ++j) {
      if (j + 1 < n && t[j + 1] == t[j]) continue;
      if (count % kSummed == 0) {
        total += double(sum);
        sum = A(0);
      }
      sum += difference.of(A(load(x + j * stride)));
      ++count;
    }
    const A mean = fused(A(total + double(sum)), A(1) / A(count), origin);
    if (mean == mean || origin == A(0)) return op.copy(mean);
    origin = A(0);
  }
}

// `kPosition` linear columns, and a quaternion behind them.
template <int kPosition> struct Quaternion : OfStencil {
  static constexpr Shape kShape = Shape::quaternion;
  // The row y; false where a quaternion has no direction.
  template <class A, class V> RC_INLINE static bool row(bool copy, A w, const V* a, const V* b, A* y) {
    RC_UNROLL
    for (int c = 0; c < kPosition; ++c) y[c] = copy ? A(load(a + c)) : lerp(w, A(load(a + c)), A(load(b + c)));
    A q0[4], q1[4], q[4];
    RC_UNROLL
    for (int c = 0; c < 4; ++c) {
      q0[c] = load(a + kPosition + c);
      q1[c] = load(b + kPosition + c);
    }
    const bool good = copy ? normalize(q0, q) : slerp(w, q0, q1, q);
    RC_UNROLL
    for (int c = 0; c < 4; ++c) y[kPosition + c] = q[c];
    return good;
  }
};
using Slerp = Quaternion<0>;
using Pose = Quaternion<3>;

// f(formula) with the one that a mode uses; A: the accumulator's type; turn: Stream's.
template <class A, class F> RC_INLINE auto with_formula(Mode mode, const double (&turn)[3], const F& f) {
  switch (mode) {
    case Mode::nearest:
    case Mode::previous:
    case Mode::next: return f(Copy());
    case Mode::cubic: return f(Cubic());
    case Mode::mean: return f(Mean());
    case Mode::slerp: return f(Slerp());
    case Mode::pose: return f(Pose());
    case Mode::angle: return f(Angle<A>{{}, Turn<A>::from(turn)});
    case Mode::circular_mean: return f(CircularMean<A>{{{}, Turn<A>::from(turn)}});
    default: return f(Linear());
  }
}

}  // namespace RC_ISA
}  // namespace robocache::align
