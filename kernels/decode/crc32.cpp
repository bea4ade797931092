// The CRC is the remainder of the data, read as a polynomial over GF(2), after division by P. A register of 16 bytes
// that stands D bits before another may be folded into it: multiplied by x^D mod P it has the same remainder. Four
// registers hide the multiplier's latency; what is left at the end goes through a table byte by byte.
#include "decode/crc32.h"

#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace robocache::decode {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320;  // P without x^32, lowest bit the highest power, as all numbers here

constexpr uint32_t times_x(uint32_t value) { return (value >> 1) ^ (value & 1 ? kPolynomial : 0); }

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = times_x(value);
    table[byte] = value;
  }
  return table;
}();

// On a state that is already inverted.
uint32_t bytewise(uint32_t state, const uint8_t* data, size_t size) {
  for (size_t i = 0; i < size; ++i) state = kTable[(state ^ data[i]) & 0xFF] ^ (state >> 8);
  return state;
}

#if defined(__x86_64__)

// x^power mod P as a factor: a product of two mirrored numbers comes out one bit too low, so it is one bit up.
constexpr int64_t power_of_x(int power) {
  uint32_t value = 0x80000000;
  for (int i = 0; i < power; ++i) value = times_x(value);
  return static_cast<int64_t>(static_cast<uint64_t>(value) << 1);
}

__attribute__((target("pclmul,sse4.1"))) inline __m128i folded(__m128i value, __m128i factors, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(value, factors, 0x00), high = _mm_clmulepi64_si128(value, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

inline __m128i register_at(const uint8_t* data) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
}

// At least 64 bytes of data. The low half of a register is 64 bits further from the end than the high half, and a
// mirrored product of 64 and 32 bits is worth 32 bits less than its place.
__attribute__((target("pclmul,sse4.1"))) uint32_t by_folding(uint32_t state, const uint8_t* data, size_t size) {
  constexpr int kWide = 512, kNarrow = 128;
  const __m128i wide = _mm_set_epi64x(power_of_x(kWide - 32), power_of_x(kWide + 32));
  const __m128i narrow = _mm_set_epi64x(power_of_x(kNarrow - 32), power_of_x(kNarrow + 32));
  __m128i r0 = _mm_xor_si128(register_at(data), _mm_cvtsi32_si128(static_cast<int>(state)));
  __m128i r1 = register_at(data + 16), r2 = register_at(data + 32), r3 = register_at(data + 48);
  for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
    r0 = folded(r0, wide, register_at(data));
    r1 = folded(r1, wide, register_at(data + 16));
    r2 = folded(r2, wide, register_at(data + 32));
    r3 = folded(r3, wide, register_at(data + 48));
  }
  __m128i all = folded(folded(folded(r0, narrow, r1), narrow, r2), narrow, r3);
  for (; size >= 16; data += 16, size -= 16) all = folded(all, narrow, register_at(data));
  alignas(16) uint8_t rest[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(rest), all);
  return bytewise(bytewise(0, rest, sizeof rest), data, size);
}

#endif

}  // namespace

bool has_crc32() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#else
  return false;
#endif
}

uint32_t crc32(uint32_t value, const uint8_t* data, size_t size) {
#if defined(__x86_64__)
  if (size >= 64) return ~by_folding(~value, data, size);
#endif
  return ~bytewise(~value, data, size);
}

}  // namespace robocache::decode
