// The messages of one channel, taken apart chunk by chunk, each chunk while it still lies in the cache that it was
// unpacked into. Rows follow each other from chunk to chunk in arrays that have room for all messages of the channel.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "decode/program.h"
#include "decode/records.h"
#include "decode/walk.h"

namespace robocache::decode {

class Channel {
 public:
  // Outputs as of `run`, but with room for `capacity` rows; spans without data are not noted. times: log times, and
  // behind all of them publish times. The program's code and texts, and all arrays, stay where they are.
  Channel(uint16_t id, const Program& program, std::vector<int64_t> counts, std::vector<Slot> slots, int64_t* times,
          int64_t capacity);
  // The walk refers to the members.
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Whether the program is well formed, the outputs are large enough, and it takes nothing that lies in a chunk.
  bool good() const { return good_; }

  // Take the messages of a chunk. False where there is no room for them, or one is not where its index says or not as
  // the program has it: then no row has been added, and none can be any more.
  bool take(const uint8_t* buffer, int64_t length, const Entries& entries);

  int64_t rows() const { return rows_; }
  int64_t order() const { return order_; }
  // The distinct texts of each slot of codes, in the order of their codes. Some may be of messages not taken.
  std::vector<std::vector<std::string_view>> texts() const;

 private:
  bool take_messages(const uint8_t* buffer, int64_t count);

  const uint16_t id_;
  const Program program_;
  std::vector<int64_t> counts_;
  std::vector<Slot> slots_;
  int64_t* const times_;
  const int64_t capacity_;
  std::vector<Contents> contents_;
  std::vector<int64_t> start_, size_;  // of a chunk's messages
  Found found_;
  Messages messages_{};
  std::unique_ptr<Walk<false>> walk_;  // once the byte order is known
  int64_t rows_ = 0, order_ = kRefused;
  bool good_ = false;
};

}  // namespace robocache::decode
