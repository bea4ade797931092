// PX4's ULog: where the messages of each subscription are. Format:
// https://docs.px4.io/main/en/dev_log/ulog_file_format.html
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "decode/bytes.h"

namespace robocache::decode {

// Goes through a log window by window: first through all of it, then through some windows again for what is in them.
// Subscriptions are numbered in the order in which the file adds them.
class UlogWalk {
 public:
  // Where data was appended after a crash, in order, and last the end of the file: a message that does not end before
  // the next of them was cut off there.
  explicit UlogWalk(std::vector<int64_t> ends) : ends_(std::move(ends)) {}

  struct Step {
    int64_t stop;                  // the byte behind the last message that is whole: the next window begins there
    bool unknown;                  // a message of a type that does not exist is there
    std::vector<int64_t> numbers;  // the subscriptions that have data in the window
  };
  // Step over the messages of a window that begins at byte `base` of the file, where the one before stopped.
  Step step(const uint8_t* window, int64_t length, int64_t base);

  struct Data {
    std::vector<int64_t> start;  // of payloads in the window, behind the id
    std::vector<int64_t> size;
  };
  // The data of subscriptions in a window that was stepped over, in file order.
  std::vector<Data> find(const uint8_t* window, int64_t length, int64_t base, const std::vector<int64_t>& numbers);

  std::vector<int64_t> counts() const;                        // of messages with data, for each subscription
  const std::vector<uint8_t>& told() const { return told_; }  // see Kind::kTold: these messages as they are

 private:
  struct Subscription {
    int64_t at;          // where it is added
    uint16_t id;         // stands for it from there on
    int64_t count = 0;   // of messages with data
    int64_t seen = -1;   // the last window that has some
    int32_t asked = -1;  // which of those it is that `find` is asked for
  };
  void seek(int64_t base);
  void add();
  Subscription* of(const uint8_t* content, int64_t size);

  std::vector<int64_t> ends_;
  std::vector<Subscription> all_;
  size_t current_ = 0;                                               // so many of these have been added
  std::vector<int32_t> number_ = std::vector<int32_t>(1 << 16, -1);  // by id: the one that it stands for
  std::vector<uint8_t> told_;
};

}  // namespace robocache::decode
