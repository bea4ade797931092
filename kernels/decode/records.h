// MCAP records in a buffer: where the messages of a channel are. Format: https://mcap.dev/spec
#pragma once
#include <cstdint>
#include <vector>

#include "decode/bytes.h"

namespace robocache::decode {

// Offsets that an index or a scan gives of the messages of one chunk, from `begin` on; the chunk ends at `end`.
struct Entries {
  const uint8_t* offsets;  // uint64, little endian, `stride` bytes apart
  int64_t stride;
  int64_t count;
  int64_t begin;
  int64_t end;
};

// Where each message's payload is, and its times: arrays as long as all entries together.
struct Located {
  int64_t* start;
  int64_t* size;
  int64_t* log_time;
  int64_t* publish_time;
};

// False where anything is not as it should be, entries in file order among it; then `out` means nothing.
bool locate(const uint8_t* buffer, int64_t length, uint16_t channel, const std::vector<Entries>& pieces, Located out);

struct Scan {
  std::vector<std::vector<uint64_t>> offsets;  // of message records in the buffer, for each channel asked for
  int64_t chunk = -1;                          // offset of the content of the chunk it stopped behind, -1: none
  int64_t stop = 0;
};

// Step over whole records of [start, end) up to the first chunk, or the first that does not end before `end`.
Scan scan(const uint8_t* buffer, int64_t start, int64_t end, const std::vector<uint16_t>& channels);

}  // namespace robocache::decode
