// Messages of a log, where its chunks have been unpacked: where each lies, and what is taken of those that are laid out
// as the first one is.
//
// robocache/_decode leads over the first message of a topic and says how it is laid out: which bytes of it decide how
// the rest is read (lengths, texts), and which numbers go where. A message of which these bytes are the same is laid out
// alike, whatever its numbers are. Nothing is trusted: every offset and length of a file is held against its chunk.
#pragma once
#include <cstdint>

#include "robocache/core/macros.h"

namespace robocache::messages {
inline namespace RC_ISA {

// A chunk's message index of a channel: `count` offsets from `first` on, of records within [begin, end) of the records.
struct Piece {
  int64_t first, count, begin, end, channel;
};
// Where a payload begins and ends, when it was logged and when published; nanoseconds.
struct Place {
  int64_t start, size, log_time, publish_time;
};

// An MCAP message record: opcode 1, length 8, channel 2, sequence 4, log time 8, publish time 8; then the payload.
constexpr int64_t kRecord = 9, kChannel = 9, kLogTime = 15, kPublishTime = 23, kPayload = 31;
constexpr uint8_t kMessage = 5;

// Little endian, at any address.
RC_INLINE uint64_t number(const uint8_t* at, int64_t nbytes) {
  uint64_t value = 0;
  for (int64_t k = 0; k < nbytes; ++k) value |= uint64_t(at[k]) << (8 * k);
  return value;
}

// The place of the message at entry `i` of a piece. False: there is none, or it lies before the entry before it.
RC_INLINE bool locate(const uint8_t* records, const uint64_t* offsets, const Piece& piece, int64_t i, Place& place) {
  const int64_t room = piece.end - piece.begin - kPayload;
  const uint64_t offset = offsets[piece.first + i];
  if (room < 0 || offset > uint64_t(room)) return false;
  if (i > 0 && offsets[piece.first + i - 1] >= offset) return false;
  const int64_t at = piece.begin + int64_t(offset);
  const uint8_t* record = records + at;
  const uint64_t length = number(record + 1, 8);
  place.start = at + kPayload;
  place.size = int64_t(length) - (kPayload - kRecord);
  place.log_time = int64_t(number(record + kLogTime, 8));
  place.publish_time = int64_t(number(record + kPublishTime, 8));
  return record[0] == kMessage && int64_t(number(record + kChannel, 2)) == piece.channel &&
         length >= uint64_t(kPayload - kRecord) && length <= uint64_t(piece.end - at - kRecord) && place.log_time >= 0;
}

// How messages are laid out, in int64: this head, then so many of each of the following.
struct Layout {
  int64_t nbytes, same, copies, times;  // nbytes: a message has at least so many
};
// Bytes that are as in the first message.
struct Same {
  int64_t offset, nbytes;
};
// Numbers of `item` bytes (1: as they are; else the other way round) that go to output + base + message * stride.
struct Copy {
  int64_t source, nbytes, item, base, stride;
};
// A number of `item` bytes, times `factor`, is a time (or a part of one: kAdd), int64 at output + base + message * 8.
struct Time {
  int64_t source, item, factor, flags, base;
};
constexpr int64_t kHead = 4, kSigned = 1, kAdd = 2, kSwapped = 4;

RC_INLINE const Layout& layout_of(const int64_t* words) { return *reinterpret_cast<const Layout*>(words); }
RC_INLINE const Same* same_of(const int64_t* words) { return reinterpret_cast<const Same*>(words + kHead); }
RC_INLINE const Copy* copies_of(const int64_t* words) {
  return reinterpret_cast<const Copy*>(same_of(words) + layout_of(words).same);
}
RC_INLINE const Time* times_of(const int64_t* words) {
  return reinterpret_cast<const Time*>(copies_of(words) + layout_of(words).copies);
}

RC_INLINE int64_t time_of(const uint8_t* message, const Time& time) {
  const uint8_t* at = message + time.source;
  uint64_t value = 0;
  for (int64_t k = 0; k < time.item; ++k) {
    const int64_t place = time.flags & kSwapped ? time.item - 1 - k : k;
    value |= uint64_t(at[place]) << (8 * k);
  }
  if (time.flags & kSigned && time.item < 8 && value >> (8 * time.item - 1)) value |= ~uint64_t(0) << (8 * time.item);
  return int64_t(value * uint64_t(time.factor));  // it may wrap, as any number of a damaged file
}

// What one of `lanes` threads does of a message: whether its share of the bytes is as in the first one.
RC_INLINE bool alike(const int64_t* words, const uint8_t* message, int64_t size, const uint8_t* first, int lane,
                     int lanes) {
  const Layout& layout = layout_of(words);
  if (size < layout.nbytes) return false;
  bool good = true;
  const Same* same = same_of(words);
  for (int64_t s = 0; s < layout.same; ++s) {
    for (int64_t k = lane; k < same[s].nbytes; k += lanes) {
      good &= message[same[s].offset + k] == first[same[s].offset + k];
    }
  }
  return good;
}

// And where its share of the numbers goes.
RC_INLINE void take(const int64_t* words, const uint8_t* message, int64_t row, uint8_t* out, int lane, int lanes) {
  const Layout& layout = layout_of(words);
  const Copy* copies = copies_of(words);
  for (int64_t c = 0; c < layout.copies; ++c) {
    const Copy& copy = copies[c];
    const uint8_t* source = message + copy.source;
    uint8_t* target = out + copy.base + row * copy.stride;
    for (int64_t k = lane; k < copy.nbytes; k += lanes) {
      target[k] = source[k ^ (copy.item - 1)];  // sizes of numbers are powers of two
    }
  }
  if (lane != 0) return;
  const Time* times = times_of(words);
  for (int64_t t = 0; t < layout.times; ++t) {
    int64_t* target = reinterpret_cast<int64_t*>(out + times[t].base) + row;
    const int64_t value = time_of(message, times[t]);
    *target = times[t].flags & kAdd ? int64_t(uint64_t(*target) + uint64_t(value)) : value;
  }
}

}  // namespace RC_ISA
}  // namespace robocache::messages
