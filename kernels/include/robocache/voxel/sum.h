// Sums that are exact and rounded once to float64, as math.fsum gives them, whatever the order of the addends.
//
// Two floats hold the running sum without error (Knuth's TwoSum, twice: 106 bits) for nearly all data; where they
// cannot, or a number is not finite, `lossy` says so and the sum is made again in one wide integer.
#pragma once
#include "robocache/core/numbers.h"

namespace robocache {
inline namespace RC_ISA {

// a + b, and what rounding took from it.
RC_INLINE double two_sum(double a, double b, double& rest) {
  const double sum = a + b, other = sum - a;
  rest = (a - (sum - other)) + (b - other);
  return sum;
}

struct PairSum {
  double high = 0, low = 0;
  bool lossy = false;

  RC_INLINE void add(double x) {
    double rest, lost;
    high = two_sum(high, x, rest);
    low = two_sum(low, rest, lost);
    lossy |= lost != 0;  // also NaN, which follows from an infinity
  }
  RC_INLINE void add(const PairSum& other) {
    add(other.high);
    add(other.low);
    lossy |= other.lossy;
  }
  RC_INLINE double value() const { return high + low; }
};

// A number of 70 limbs of 32 bits, limb k standing for 2^(32 k - 1088): all of float64, and 2^40 additions of it.
struct WideSum {
  static constexpr int kLimbs = 70, kLowest = -1088;
  int64_t limb[kLimbs] = {};
  int positive = 0, negative = 0, nan = 0;  // infinities and NaNs among the addends

  RC_INLINE void add(double x) {
    deposit(x, [](int64_t* at, int64_t number) { *at += number; }, [](int* at) { *at = 1; });
  }
  // `to` adds to a limb, `mark` sets a flag: by the threads of a block at once, where they are atomic.
  template <class To, class Mark> RC_INLINE void deposit(double x, const To& to, const Mark& mark) {
    int64_t bits;
    __builtin_memcpy(&bits, &x, 8);
    const int exponent = int(bits >> 52) & 0x7ff;
    int64_t mantissa = bits & ((int64_t(1) << 52) - 1);
    if (exponent == 0x7ff) {
      mark(mantissa ? &nan : bits < 0 ? &negative : &positive);
      return;
    }
    mantissa |= int64_t(exponent != 0) << 52;
    const int place = (exponent ? exponent : 1) - 1075 - kLowest, shift = place % 32;
    const int64_t bottom = (mantissa & 0xffffffff) << shift, top = (mantissa >> 32) << shift;
    int64_t* at = limb + place / 32;
    const int64_t sign = bits < 0 ? -1 : 1;
    to(at, sign * (bottom & 0xffffffff));
    to(at + 1, sign * ((bottom >> 32) + (top & 0xffffffff)));
    to(at + 2, sign * (top >> 32));
  }

  RC_INLINE void carry() {
    RC_ROLLED for (int k = 0; k + 1 < kLimbs; ++k) {
      limb[k + 1] += limb[k] >> 32;
      limb[k] &= 0xffffffff;
    }
  }

  RC_INLINE double value() {
    if (nan || (positive && negative)) return __builtin_nan("");
    if (positive || negative) return positive ? __builtin_inf() : -__builtin_inf();
    carry();
    const bool minus = limb[kLimbs - 1] < 0;
    if (minus) {
      RC_ROLLED for (int k = 0; k < kLimbs; ++k) limb[k] = -limb[k];
      carry();
    }
    int highest = kLimbs - 1;
    RC_ROLLED while (highest > 2 && limb[highest] == 0) --highest;
    bool below = false;
    RC_ROLLED for (int k = 0; k < highest - 2; ++k) below |= limb[k] != 0;
    const int64_t a = limb[highest], b = limb[highest - 1], c = limb[highest - 2];
    // The leading 53 bits or fewer, and the next 43 with a last bit for all that follows: both are exact, so that
    // their sum is the one rounding.
    const double leading = double((a << 21) + (b >> 11));
    double sum = leading * 8796093022208.0 + double((((b & 0x7ff) << 32) + c) | int64_t(below));
    const int power = (highest - 2) * 32 + kLowest, half = power / 2;
    sum = sum * power_of_two(half) * power_of_two(power - half);
    return minus ? -sum : sum;
  }

  RC_INLINE static double power_of_two(int exponent) {
    const int64_t bits = int64_t(exponent + 1023) << 52;
    double x;
    __builtin_memcpy(&x, &bits, 8);
    return x;
  }
};

}  // namespace RC_ISA
}  // namespace robocache
