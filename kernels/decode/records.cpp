#include "decode/records.h"

namespace robocache::decode {
namespace {

constexpr uint8_t kMessage = 0x05, kChunk = 0x06;
constexpr int64_t kRecord = 9;  // opcode, content length
// Of a message: record, channel 2, sequence 4, log time 8, publish time 8; then the payload.
constexpr int64_t kChannel = 9, kLogTime = 15, kPublishTime = 23, kPayload = 31;
constexpr int64_t kAhead = 8;  // messages: their headers lie far apart, so the memory is asked for them early

}  // namespace

bool locate(const uint8_t* buffer, int64_t length, uint16_t channel, const std::vector<Entries>& pieces, Located out) {
  int64_t before = -1, found = 0;
  for (const Entries& piece : pieces) {
    if (piece.begin < 0 || piece.begin > piece.end || piece.end > length) return false;
    const int64_t room = piece.end - piece.begin - kPayload;
    if (piece.count && room < 0) return false;
    for (int64_t i = 0; i < piece.count; ++i) {
      const uint64_t offset = load_little<uint64_t>(piece.offsets + i * piece.stride);
      if (offset > static_cast<uint64_t>(room)) return false;
      if (i + kAhead < piece.count) {
        const uint64_t next = load_little<uint64_t>(piece.offsets + (i + kAhead) * piece.stride);
        if (next <= static_cast<uint64_t>(room)) __builtin_prefetch(buffer + piece.begin + next);
      }
      const int64_t at = piece.begin + static_cast<int64_t>(offset);
      const uint8_t* record = buffer + at;
      const uint64_t size = load_little<uint64_t>(record + 1);
      const int64_t log_time = static_cast<int64_t>(load_little<uint64_t>(record + kLogTime));
      const bool good = at > before && record[0] == kMessage && load_little<uint16_t>(record + kChannel) == channel &&
                        size >= kPayload - kRecord && size <= static_cast<uint64_t>(piece.end - at - kRecord) &&
                        log_time >= 0;
      if (!good) return false;
      out.start[found] = at + kPayload;
      out.size[found] = static_cast<int64_t>(size) - (kPayload - kRecord);
      out.log_time[found] = log_time;
      out.publish_time[found] = static_cast<int64_t>(load_little<uint64_t>(record + kPublishTime));
      before = at;
      ++found;
    }
  }
  return true;
}

Scan scan(const uint8_t* buffer, int64_t start, int64_t end, const std::vector<uint16_t>& channels) {
  Scan found;
  found.offsets.resize(channels.size());
  std::vector<int32_t> place(1 << 16, -1);
  for (size_t k = 0; k < channels.size(); ++k) place[channels[k]] = static_cast<int32_t>(k);
  int64_t at = start;
  while (end - at >= kRecord) {
    const uint64_t size = load_little<uint64_t>(buffer + at + 1);
    if (size > static_cast<uint64_t>(end - at - kRecord)) break;
    const int64_t content = at + kRecord, after = content + static_cast<int64_t>(size);
    if (end - content >= 2) {  // the channel is the first field of a message
      if (buffer[at] == kMessage) {
        const int32_t k = place[load_little<uint16_t>(buffer + content)];
        if (k >= 0) found.offsets[static_cast<size_t>(k)].push_back(static_cast<uint64_t>(at));
      } else if (buffer[at] == kChunk) {
        found.chunk = content;
        at = after;
        break;
      }
    }
    at = after;
  }
  found.stop = at;
  return found;
}

}  // namespace robocache::decode
