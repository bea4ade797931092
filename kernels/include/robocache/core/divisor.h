// Division by a number that is known before a kernel starts.
#pragma once
#include <cstdint>

#include "robocache/core/macros.h"

namespace robocache {
inline namespace RC_ISA {

// n / d for n below 2^31 by multiplication (Granlund & Montgomery, PLDI 1994): a 64-bit division is some 100
// instructions on a GPU, as many as all of a row's arithmetic.
struct Divisor {
  uint32_t d, magic, shift;
  RC_INLINE static Divisor of(int64_t d) {
    uint32_t shift = 0;
    while (shift < 31 && (int64_t(1) << shift) < d) ++shift;
    const uint64_t magic = ((uint64_t(1) << 32) * ((uint64_t(1) << shift) - uint64_t(d))) / uint64_t(d) + 1;
    return {uint32_t(d), uint32_t(magic), shift};
  }
  RC_INLINE uint32_t quotient(uint32_t n) const {
#ifdef __CUDA_ARCH__
    return (__umulhi(n, magic) + n) >> shift;
#else
    return uint32_t(((uint64_t(n) * magic >> 32) + n) >> shift);
#endif
  }
};
constexpr int64_t kDivisible = int64_t(1) << 31;

}  // namespace RC_ISA
}  // namespace robocache
