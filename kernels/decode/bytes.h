// Bytes of a recording: numbers of either byte order at any address, and what the decoder's parts share.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace robocache::decode {

// Files of our concern are little endian; a message says of itself which it is.
constexpr bool kHostLittle = std::endian::native == std::endian::little;

template <class T> T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline uint16_t swapped(uint16_t value) { return __builtin_bswap16(value); }
inline uint32_t swapped(uint32_t value) { return __builtin_bswap32(value); }
inline uint64_t swapped(uint64_t value) { return __builtin_bswap64(value); }

template <class T> T load_little(const uint8_t* at) { return kHostLittle ? load<T>(at) : swapped(load<T>(at)); }

template <class T> void swap_each(uint8_t* data, int64_t nbytes) {
  for (int64_t i = 0; i < nbytes; i += sizeof(T)) {
    const T value = swapped(load<T>(data + i));
    std::memcpy(data + i, &value, sizeof value);
  }
}

// The other byte order for numbers of `item` bytes each, in place.
inline void swap_items(uint8_t* data, int64_t nbytes, int64_t item) {
  if (item == 2) swap_each<uint16_t>(data, nbytes);
  if (item == 4) swap_each<uint32_t>(data, nbytes);
  if (item == 8) swap_each<uint64_t>(data, nbytes);
}

// The messages of one channel in a window: where each lies in the buffer. Whoever reads them asks `within` first.
struct Messages {
  const uint8_t* buffer;
  int64_t length;
  const int64_t* start;
  const int64_t* size;
  int64_t count;

  bool within(int64_t i) const {
    return start[i] >= 0 && size[i] >= 0 && start[i] <= length && size[i] <= length - start[i];
  }
};

}  // namespace robocache::decode
