// CRC-32 (ISO 3309, as zlib has it) of a stretch of bytes by many threads: each takes a piece, and the pieces are put
// together by how many bytes follow each, as zlib's crc32_combine does (Adler, "Fast CRC combination").
#pragma once
#include <cstdint>

#include "robocache/core/macros.h"

namespace robocache::messages {
inline namespace RC_ISA {

// Polynomials over GF(2) modulo the CRC's, the highest bit being x^0.
constexpr uint32_t kPolynomial = 0xedb88320, kOne = 1u << 31, kByte = 1u << 23;  // kByte: x^8

RC_INLINE uint32_t times_x(uint32_t a) { return a & 1 ? (a >> 1) ^ kPolynomial : a >> 1; }

RC_INLINE uint32_t product(uint32_t a, uint32_t b) {
  uint32_t sum = 0;
  for (; a; a <<= 1, b = times_x(b)) sum ^= a & kOne ? b : 0;
  return sum;
}

// What `nbytes` more bytes make of a CRC.
RC_INLINE uint32_t followed_by(uint32_t crc, int64_t nbytes) {
  for (uint32_t power = kByte; nbytes; nbytes >>= 1, power = product(power, power)) {
    if (nbytes & 1) crc = product(power, crc);
  }
  return crc;
}

RC_INLINE uint32_t crc_entry(uint32_t byte) {
  for (int k = 0; k < 8; ++k) byte = times_x(byte);
  return byte;
}

// Of `nbytes` bytes, table: crc_entry of each byte.
RC_INLINE uint32_t crc_of(const uint8_t* data, int64_t nbytes, const uint32_t* table) {
  uint32_t crc = ~0u;
  for (int64_t k = 0; k < nbytes; ++k) crc = table[(crc ^ data[k]) & 255] ^ (crc >> 8);
  return ~crc;
}

}  // namespace RC_ISA
}  // namespace robocache::messages
