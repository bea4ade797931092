// The CRC-32 of zlib, gzip and MCAP, by carry-less multiplication.
#pragma once
#include <cstddef>
#include <cstdint>

namespace robocache::decode {

// Whether this processor can.
bool has_crc32();

// zlib's crc32(value, data, size), at the speed of the memory.
uint32_t crc32(uint32_t value, const uint8_t* data, size_t size);

}  // namespace robocache::decode
