// Values as they lie in memory: loading, and rounding once to what is stored.
#pragma once
#include "robocache/core/dtype.h"
#include "robocache/core/numbers.h"

namespace robocache {
inline namespace RC_ISA {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class V> struct Accumulator {
  using type = float;
};
template <> struct Accumulator<double> {
  using type = double;
};

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

// 8-bit codes: saturating, round half to even; NaN has one code (0 for int8). Devices have instructions for int8, and
// from compute capability 8.9 on for float8, that do just this.
RC_INLINE uint8_t encode8(DType dtype, float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t two;
  if (dtype == DType::e4m3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(0.0f), "f"(x));
    return uint8_t(two);
  }
  if (dtype == DType::e5m2) {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(two) : "f"(0.0f), "f"(x));
    return uint8_t(two);
  }
#endif
#ifdef __CUDA_ARCH__
  if (dtype == DType::i8) {
    int32_t code;
    asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(code) : "f"(x));
    return uint8_t(code);
  }
#endif
  if (x != x) return dtype == DType::i8 ? 0 : 0x7f;
  const uint8_t sign = uint8_t((as_bits(x) >> 24) & 0x80);
  const float m = magnitude(x);
  if (dtype == DType::e4m3) return sign | uint8_t(m >= 448.0f ? 0x7e : round_to_format<4, 3>(m));
  if (dtype == DType::e5m2) return sign | uint8_t(m >= 57344.0f ? 0x7b : round_to_format<5, 2>(m));
  const float r = round_even(x);
  return uint8_t(int8_t(r < -128.0f ? -128.0f : r > 127.0f ? 127.0f : r));
}
RC_INLINE uint8_t encode8(DType dtype, double x) { return encode8(dtype, to_odd(x)); }

}  // namespace RC_ISA
}  // namespace robocache
